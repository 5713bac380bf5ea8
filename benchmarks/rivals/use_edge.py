"""Ours: the Recognizer that ships, with 68 or 5 landmarks, as ``edge.Recognizer(video)`` and as ``process(image)``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import edge

PACKAGES = "edge-emotion", "onnxruntime", "opencv-python-headless", "dlib-bin", "numpy"

FRAME_NS = 40_000_000
"""What ``process`` is told lies between two frames, as a video of 25 frames a second would."""


def _faces(result: Any) -> list[tuple[str | None, tuple[float, float, float, float]]]:
    return [
        (face.label, (face.box.x, face.box.y, face.box.width, face.box.height)) for face in result.faces if face.visible
    ]


class Peer:
    """See ``run.py``; the mode is the landmarks' number."""

    def __init__(self, mode: str) -> None:
        self._mode: Any = mode
        self._one_by_one: edge.Recognizer | None = None
        self._next = 0

    def watch(self, video: str) -> Iterator[list[tuple[str | None, tuple[float, float, float, float]]]]:
        """Every frame of a file, by the overlapped loop."""
        with edge.Recognizer(video, landmarks=self._mode) as recognizer:
            for result in recognizer:
                yield _faces(result)

    def look(self, image: Any) -> list[tuple[str | None, tuple[float, float, float, float]]]:
        """One frame, start to end, on this thread."""
        if self._one_by_one is None:
            self._one_by_one = edge.Recognizer(landmarks=self._mode)
        self._next += FRAME_NS
        return _faces(self._one_by_one.process(image, captured_ns=self._next))
