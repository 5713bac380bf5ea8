"""Who is who from frame to frame.

Faces found are matched to known ones by where they should be by now, by size and, where it is known, by looks: the
whole frame at once, at the least total cost (Kuhn 1955).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge.types import Box

FORGET_NS = 1_000_000_000
"""A face unseen for longer than this is forgotten; should it come back, it gets a new id."""

REACH = 0.8
"""A face may be off its expected place by this share of its own width, and half as much again per missed tenth of a
second, and stay itself."""

COASTS_NS = 800_000_000
"""An unseen face is expected to go on as it went for this long, then to stand still."""

STEADY_NS = 400_000_000
"""A face's velocity is an average over about this time."""

STRANGER = 0.3
"""Faces whose looks are less alike than this (correlation) are not one. Two people's often are more alike, so where a
face is counts too."""

LEARNING = 0.2
"""Weight of a face's newest looks in those that it is known again by."""

Look = npt.NDArray[np.float32]
"""See :mod:`edge.faces.follow`."""


@dataclass(slots=True)
class Track:
    """One face over time."""

    id: int
    box: Box
    seen_ns: int
    """Capture time of the last frame in which it was found."""
    born_ns: int = 0
    """Capture time of the first."""
    velocity: tuple[float, float] = (0.0, 0.0)
    """Of the centre, pixels a nanosecond."""
    look: Look | None = None
    """What it is known again by: an average."""

    def expected(self, now_ns: int) -> Box:
        """Where it should be."""
        coasted = min(now_ns - self.seen_ns, COASTS_NS)
        x, y = self.box.x + self.velocity[0] * coasted, self.box.y + self.velocity[1] * coasted
        return Box(x, y, self.box.width, self.box.height)

    def see(self, box: Box, now_ns: int, look: Look | None) -> None:
        """It was found."""
        passed = now_ns - self.seen_ns
        if passed > 0:
            (x, y), (u, v) = self.box.centre, box.centre
            weight = 1 - math.exp(-passed / STEADY_NS)
            self.velocity = (
                self.velocity[0] + weight * ((u - x) / passed - self.velocity[0]),
                self.velocity[1] + weight * ((v - y) / passed - self.velocity[1]),
            )
        self.box, self.seen_ns = box, now_ns
        if self.look is None:
            self.look = look
        elif look is not None:
            mixed = (1 - LEARNING) * self.look + LEARNING * look
            self.look = np.asarray(mixed / max(1e-6, float(np.linalg.norm(mixed))), np.float32)

    def may_be(self, box: Box, now_ns: int) -> bool:
        """Whether a face there can be this one, going by where it is and how large."""
        return _distance(self, box, now_ns) is not None


@dataclass(slots=True)
class Tracker:
    """Keeps ids. Call :meth:`update` once a frame, in order of capture."""

    tracks: list[Track] = field(default_factory=list)
    _next: int = 1

    def update(
        self,
        boxes: Sequence[Box],
        now_ns: int,
        *,
        claims: Sequence[int | None] = (),
        looks: Sequence[Look | None] = (),
    ) -> list[Track]:
        """Match boxes to tracks.

        Args:
            boxes: the faces found in this frame.
            now_ns: its capture time.
            claims: for each box the id it is known to have, or None; empty is None for all.
            looks: for each box its looks, or None where nothing is to be learnt from them; empty is None for all.

        Returns:
            One track a box, in the boxes' order; unmatched boxes begin new tracks.
        """
        claims = claims or [None] * len(boxes)
        looks = looks or [None] * len(boxes)
        self.tracks = [track for track in self.tracks if now_ns - track.seen_ns <= FORGET_NS]
        by_id = {track.id: track for track in self.tracks}
        matched = {j: by_id[claim] for j, claim in enumerate(claims) if claim in by_id}
        taken = {track.id for track in matched.values()}
        free = [track for track in self.tracks if track.id not in taken]
        open_ = [j for j in range(len(boxes)) if j not in matched]
        costs = [[_cost(track, boxes[j], looks[j], now_ns) for j in open_] for track in free]
        for i, j in assign(costs):
            matched[open_[j]] = free[i]
        for j, box in enumerate(boxes):
            if j in matched:
                matched[j].see(box, now_ns, looks[j])
                continue
            matched[j] = Track(self._next, box, now_ns, now_ns, look=looks[j])
            self.tracks.append(matched[j])
            self._next += 1
        return [matched[j] for j in range(len(boxes))]


def _cost(track: Track, box: Box, look: Look | None, now_ns: int) -> float | None:
    """How unlike two faces are, lower is better; None when they can't be the same."""
    distance = _distance(track, box, now_ns)
    if distance is None:
        return None
    alike = 0.0
    if track.look is not None and look is not None:
        alike = float(track.look @ look)
        if alike < STRANGER:
            return None
    return distance - track.expected(now_ns).iou(box) + abs(math.log2(track.box.width / box.width)) - 2 * alike


def _distance(track: Track, box: Box, now_ns: int) -> float | None:
    """From where a face should be, in widths; None when it can't be the same face."""
    if not 0.5 <= track.box.width / box.width <= 2.0:
        return None
    expected = track.expected(now_ns)
    (x, y), (u, v) = expected.centre, box.centre
    distance = math.hypot(x - u, y - v) / max(expected.width, box.width)
    return distance if distance <= REACH * (1 + (now_ns - track.seen_ns) / 2e8) else None


def assign(costs: Sequence[Sequence[float | None]]) -> list[tuple[int, int]]:
    """Pairs (row, column), each used once: as many as may be, and of those the cheapest.

    Kuhn 1955, by the shortest augmenting paths of Jonker and Volgenant 1987.

    Args:
        costs: rows of equal length; None where a pair is impossible.
    """
    rows, columns = len(costs), len(costs[0]) if costs else 0
    if rows == 0 or columns == 0:
        return []
    finite = [abs(one) for row in costs for one in row if one is not None]
    never = 1 + 2 * (sum(finite) + 1)  # dearer than any choice of possible pairs
    side = max(rows, columns)
    table = np.full((side, side), never)
    for i, row in enumerate(costs):
        table[i, :columns] = [never if one is None else one for one in row]
    # Row and column 0 of the working arrays stand for "nothing yet".
    up, down = np.zeros(side + 1), np.zeros(side + 1)
    owner = np.zeros(side + 1, int)  # by column
    for row_number in range(1, side + 1):
        owner[0], column = row_number, 0
        least, used = np.full(side + 1, np.inf), np.zeros(side + 1, bool)
        back = np.zeros(side + 1, int)
        while owner[column]:
            used[column] = True
            reduced = table[owner[column] - 1] - up[owner[column]] - down[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better], back[1:][better] = reduced[better], column
            nearest = int(np.argmin(np.where(used, np.inf, least)))
            step = least[nearest]
            up[owner[used]] += step
            down[used] -= step
            least[~used] -= step
            column = nearest
        while column:
            owner[column] = owner[back[column]]
            column = int(back[column])
    pairs = ((int(owner[j]) - 1, j - 1) for j in range(1, side + 1))
    return sorted((i, j) for i, j in pairs if i < rows and j < columns and costs[i][j] is not None)
