"""The report's charts: those of :mod:`export.charts`."""

from __future__ import annotations

from export.charts import COLOURS, Line, Panel, curves, matrix

__all__ = ["COLOURS", "Line", "Panel", "curves", "matrix"]
