"""What a benchmark raises."""

from __future__ import annotations

from edge.errors import EdgeError


class BenchError(EdgeError):
    """Something that can't be measured, or figures that can't be compared."""
