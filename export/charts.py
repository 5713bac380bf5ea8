"""Charts as SVG, by matplotlib: pictures of cards and reports, which open without internet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from export.errors import ExportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8e5ea2", "#c77d1e", "#4d4d4d", "#2a9d8f", "#a8324e", "#7a8b00", "#5b5bd6")


@dataclass(frozen=True, slots=True)
class Line:
    """Points of a curve."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Where given, as many as ``y``: the interval is shaded."""
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Mapping[str, Line]
    across: str
    up: str
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = True
    percent: bool = False
    """Whether ``y`` is a share 0..1."""
    level: float | None = None
    """A dashed line at this height."""
    diagonal: bool = False
    """A dashed line where ``y`` is ``x``."""
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Points that are named."""


def require() -> None:
    """That charts can be drawn.

    Raises:
        ExportError: matplotlib isn't installed.
    """
    canvas(1, 1)


def curves(panels: Sequence[Panel], columns: int = 2, height: float = 2.9) -> str:
    """Curves with their intervals, several to a picture.

    Args:
        panels: one or more.
        columns: side by side.
        height: of one, inches.

    Returns:
        SVG.

    Raises:
        ExportError: matplotlib isn't installed.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = canvas(5.4 * columns, height * rows)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        for colour, (name, line) in zip(colours(len(panel.lines)), panel.lines.items(), strict=True):
            axes.plot(line.x, line.y, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
        if panel.level is not None:
            axes.axhline(panel.level, color="#888888", linestyle="--", linewidth=1)
        if panel.diagonal:
            axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        for name, (x, y) in panel.marks.items():
            axes.plot([x], [y], color="#222222", marker="D", markersize=5, linestyle="none")
            axes.annotate(name, (x, y), xytext=(0, 9), textcoords="offset points", fontsize=8, ha="center")
        if panel.log_x:
            axes.set_xscale("log", base=2)
            ticks = sorted({x for line in panel.lines.values() for x in line.x})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        if panel.log_y:
            axes.set_yscale("log")
        elif panel.from_zero:
            axes.set_ylim(bottom=0)
        if panel.percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title(panel.title, fontsize=10, loc="left")
        axes.set_xlabel(panel.across)
        axes.set_ylabel(panel.up)
        plain(axes)
        if len(panel.lines) > 1:
            axes.legend(frameon=False, fontsize=7.5)
    return svg(figure)


def matrix(rows: Sequence[Sequence[float]], names: Sequence[str], down: str, across: str) -> str:
    """Shares 0..1 as shaded squares, each with its number.

    Args:
        rows: (K, K).
        names: K of them, for rows and columns.
        down: what the rows are.
        across: what the columns are.

    Returns:
        SVG.

    Raises:
        ExportError: matplotlib isn't installed.
    """
    figure = canvas(5.4, 4.4)
    axes = figure.add_subplot()
    # Squares as shapes: a picture inside the SVG would be larger.
    axes.pcolormesh(list(rows), cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for row, shares in enumerate(rows):
        for column, share in enumerate(shares):
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{share:.0%}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 0.55 else "#222222",
            )
    places = [number + 0.5 for number in range(len(names))]
    axes.set_xticks(places, list(names), rotation=30, fontsize=8)
    axes.set_yticks(places, list(names), fontsize=8)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel(across, fontsize=8.5)
    axes.set_ylabel(down, fontsize=8.5)
    return svg(figure)


def colours(count: int) -> list[str]:
    """As many as wanted, over and over."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def plain(axes: Axes) -> None:
    """Axes as all charts have them."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)


def canvas(width: float, height: float) -> Figure:
    """An empty figure; inches.

    Raises:
        ExportError: matplotlib isn't installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError('charts need matplotlib; type: pip install "edge-emotion[bench]"') from error
    # Letters stay letters, in the page's own font; the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edge", "font.family": "sans-serif"})
    # One name, then the page's own: matplotlib would write a dozen at every word.
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans"]
    return Figure((width, height), layout="constrained")


def svg(figure: Any) -> str:
    """The figure as an ``<svg>`` element, to stand in a page or in a file."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    # The prologue names a DTD on another machine; a page and a browser need neither.
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # Hundredths of a point are fine enough, and half the size.
    drawn = re.sub(r'(?<= )(d|x|y|transform)="[^"]*"', lambda found: _shorter(found[0]), drawn)
    return re.sub(r"\n +", "\n", drawn)


def _shorter(attribute: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s*\n", " ", attribute)).replace(' "', '"')
