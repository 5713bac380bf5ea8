"""What every loader raises."""

from __future__ import annotations

from edge.errors import EdgeError


class CorpusError(EdgeError):
    """A corpus that is missing, incomplete or not what it says it is."""
