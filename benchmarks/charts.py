"""The report's charts: those of :mod:`export.charts`, and its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from export.charts import COLOURS, Line, Panel, canvas, colours, curves, matrix, plain, svg

__all__ = ["COLOURS", "Line", "Panel", "Point", "curves", "front", "matrix", "scatter", "waterfall"]


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
    figure = canvas(7.6, 3.8)
    axes = figure.add_subplot()
    on_front = front(points)
    axes.plot([one.x for one in on_front], [one.y for one in on_front], color="#999999", linestyle="--", zorder=1)
    for number, (colour, one) in enumerate(zip(colours(len(points)), points, strict=True)):
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
    plain(axes)
    return svg(figure)


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
    figure = canvas(7.6, (0.3 * count + 0.75) * len(rows))
    for number, (title, stages) in enumerate(rows.items()):
        axes = figure.add_subplot(len(rows), 1, number + 1)
        left = 0.0
        for place, (colour, ms) in enumerate(zip(colours(len(stages)), stages.values(), strict=True)):
            axes.barh(place, ms, left=left, color=colour, height=0.65)
            axes.text(left + ms + longest * 0.01, place, f"{ms:.2f}", va="center", fontsize=8)
            left += ms
        axes.set_yticks(range(len(stages)), list(stages))
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.12)
        axes.set_title(f"{title}: {left:.2f} ms", fontsize=10, loc="left")
        if number == len(rows) - 1:
            axes.set_xlabel(across)
        plain(axes)
    return svg(figure)
