"""Who is who from frame to frame: detections are matched to known faces by overlap, then by nearness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge.types import Box

FORGET_NS = 1_000_000_000
"""A face unseen for longer than this is forgotten; should it come back, it gets a new id."""

REACH = 0.8
"""A face may move this share of its own width and half as much again per missed tenth of a second, and stay itself."""


@dataclass(slots=True)
class Track:
    """One face over time."""

    id: int
    box: Box
    seen_ns: int
    """Capture time of the last frame in which it was found."""


@dataclass(slots=True)
class Tracker:
    """Keeps ids. Call :meth:`update` once a frame, in order of capture."""

    tracks: list[Track] = field(default_factory=list)
    _next: int = 1

    def update(self, boxes: Sequence[Box], now_ns: int) -> list[Track]:
        """Match boxes to tracks.

        Args:
            boxes: the faces found in this frame.
            now_ns: its capture time.

        Returns:
            One track a box, in the boxes' order; unmatched boxes begin new tracks.
        """
        self.tracks = [track for track in self.tracks if now_ns - track.seen_ns <= FORGET_NS]
        costs = sorted(
            (cost, i, j)
            for i, track in enumerate(self.tracks)
            for j, box in enumerate(boxes)
            if (cost := _cost(track, box, now_ns)) is not None
        )
        matched: dict[int, Track] = {}
        taken: set[int] = set()
        for _, i, j in costs:
            if i not in taken and j not in matched:
                matched[j] = self.tracks[i]
                taken.add(i)
        for j, box in enumerate(boxes):
            if j not in matched:
                matched[j] = Track(self._next, box, now_ns)
                self.tracks.append(matched[j])
                self._next += 1
            matched[j].box, matched[j].seen_ns = box, now_ns
        return [matched[j] for j in range(len(boxes))]


def _cost(track: Track, box: Box, now_ns: int) -> float | None:
    """How unlike two boxes are, lower is better; None when they can't be the same face."""
    size = max(track.box.width, box.width)
    if not 0.5 <= track.box.width / box.width <= 2.0:
        return None
    (x, y), (u, v) = track.box.centre, box.centre
    distance = math.hypot(x - u, y - v) / size
    if distance > REACH * (1 + (now_ns - track.seen_ns) / 2e8):
        return None
    return distance - track.box.iou(box)
