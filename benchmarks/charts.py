"""Charts as SVG, by matplotlib: the report's pictures, which open without internet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.errors import BenchError

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


def curves(panels: Sequence[Panel], columns: int = 2, height: float = 2.9) -> str:
    """Curves with their intervals, several to a picture.

    Args:
        panels: one or more.
        columns: side by side.
        height: of one, inches.

    Returns:
        SVG.

    Raises:
        BenchError: matplotlib isn't installed.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(5.4 * columns, height * rows)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        for colour, (name, line) in zip(_colours(len(panel.lines)), panel.lines.items(), strict=True):
            axes.plot(line.x, line.y, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
        if panel.level is not None:
            axes.axhline(panel.level, color="#888888", linestyle="--", linewidth=1)
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
        _plain(axes)
        if len(panel.lines) > 1:
            axes.legend(frameon=False, fontsize=7.5)
    return _svg(figure)


@dataclass(frozen=True, slots=True)
class Point:
    """A place with its intervals."""

    name: str
    x: float
    y: float
    x_from_to: tuple[float, float] | None = None
    y_from_to: tuple[float, float] | None = None


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front: those than which no other is both less in ``x`` and more in ``y``, by ``x``."""
    best, found = float("-inf"), list[Point]()
    for one in sorted(points, key=lambda point: (point.x, -point.y)):
        if one.y > best:
            found.append(one)
            best = one.y
    return found


def scatter(title: str, points: Sequence[Point], across: str, up: str) -> str:
    """Points with their intervals and names, and the Pareto front through the best of them.

    Args:
        title: above.
        points: less ``x`` and more ``y`` is better; ``y`` is a share 0..1.
        across: what ``x`` is.
        up: what ``y`` is.

    Returns:
        SVG.
    """
    figure = _figure(7.6, 3.8)
    axes = figure.add_subplot()
    on_front = front(points)
    axes.plot([one.x for one in on_front], [one.y for one in on_front], color="#999999", linestyle="--", zorder=1)
    for number, (colour, one) in enumerate(zip(_colours(len(points)), points, strict=True)):
        spread = [
            None if span is None else [[max(0.0, at - span[0])], [max(0.0, span[1] - at)]]
            for at, span in ((one.x, one.x_from_to), (one.y, one.y_from_to))
        ]
        axes.errorbar(one.x, one.y, xerr=spread[0], yerr=spread[1], fmt="o", color=colour, capsize=3, zorder=2)
        # By turns above and below, since precisions of one bundle lie side by side.
        axes.annotate(one.name, (one.x, one.y), (7, 8 if number % 2 else -14), textcoords="offset points", fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_xlim(left=0, right=1.25 * max(max(one.x, (one.x_from_to or (0, 0))[1]) for one in points))
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    _plain(axes)
    return _svg(figure)


def waterfall(rows: Mapping[str, Mapping[str, float]], across: str) -> str:
    """Steps that begin where the one before ended, a panel for each row.

    Args:
        rows: by title: milliseconds by stage, in order.
        across: what they are.

    Returns:
        SVG.
    """
    longest = max(sum(stages.values()) for stages in rows.values())
    count = max(len(stages) for stages in rows.values())
    figure = _figure(7.6, (0.3 * count + 0.75) * len(rows))
    for number, (title, stages) in enumerate(rows.items()):
        axes = figure.add_subplot(len(rows), 1, number + 1)
        left = 0.0
        for place, (colour, ms) in enumerate(zip(_colours(len(stages)), stages.values(), strict=True)):
            axes.barh(place, ms, left=left, color=colour, height=0.65)
            axes.text(left + ms + longest * 0.01, place, f"{ms:.2f}", va="center", fontsize=8)
            left += ms
        axes.set_yticks(range(len(stages)), list(stages))
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.12)
        axes.set_title(f"{title}: {left:.2f} ms", fontsize=10, loc="left")
        if number == len(rows) - 1:
            axes.set_xlabel(across)
        _plain(axes)
    return _svg(figure)


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)


def _figure(width: float, height: float) -> Figure:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BenchError('charts need matplotlib; type: pip install "edge-emotion[bench]"') from error
    # Letters stay letters, in the page's own font; the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edge", "font.family": "sans-serif"})
    return Figure((width, height), layout="constrained")


def _svg(figure: Any) -> str:
    """The figure as an ``<svg>`` element, to stand in a page or in a file."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    # The prologue names a DTD on another machine; a page and a browser need neither.
    return re.sub(r"<metadata>.*?</metadata>\s*", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
