"""What happened, in a short table at the end."""

from __future__ import annotations

import time
from collections import Counter, deque

import numpy as np

from edge.outputs.contract import Output
from edge.types import Frame, Result

KEPT = 10_000
"""Frames whose times the percentiles are of, the latest: a camera that runs for days must not fill the memory."""


class Summary(Output):
    """Counts frames, faces and labels and keeps the stages' times."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._ended = 0.0
        self._ids = 0
        self._frames = self._with_face = 0
        self._labels: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}

    def write(self, frame: Frame, result: Result) -> None:
        """Take in one frame's result."""
        self._ended = time.perf_counter()
        if self._begun is None:
            # The first frame's own time counts, the start of the program does not.
            self._begun = self._ended - result.timings_ms.get("total", 0.0) / 1e3
        self._frames += 1
        self._with_face += any(face.visible for face in result.faces)
        for face in result.faces:
            # Ids count up and are never used again.
            self._ids = max(self._ids, face.id)
            if face.visible and face.label is not None:
                self._labels[face.label] += 1
        for stage, spent in result.timings_ms.items():
            self._times.setdefault(stage, deque(maxlen=KEPT)).append(spent)

    def finish(self, whole: bool) -> str | None:
        """The table."""
        if not self._frames or self._begun is None:
            return None
        seconds = max(1e-9, self._ended - self._begun)
        labels = ", ".join(f"{label} {count}" for label, count in self._labels.most_common()) or "none"
        lines = [
            f"frames  {self._frames}, a face in {self._with_face} ({self._with_face / self._frames:.0%})",
            f"faces   {self._ids}",
            f"labels  {labels}",
            f"speed   {self._frames / seconds:.1f} frames/s, outputs included",
            "",
            f"{'stage':<10} {'p50 ms':>8} {'p95 ms':>8}",
        ]
        for stage, spent in self._times.items():
            median, high = np.percentile(list(spent), [50, 95])
            lines.append(f"{stage:<10} {median:8.2f} {high:8.2f}")
        return "\n".join(lines)
