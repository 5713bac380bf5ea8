"""What an export raises."""

from __future__ import annotations

from edge.errors import EdgeError


class ExportError(EdgeError):
    """A network that can't become a graph, or a graph that isn't the network."""
