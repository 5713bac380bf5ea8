"""``fer`` (github.com/JustinShenk/fer), by ``FER(mtcnn=...).detect_emotions(image)``; modes ``haar`` and ``mtcnn``.

Everything else is left as it comes: the quantised network by TensorFlow Lite, its default since 25.10, is its fastest.
"""

from __future__ import annotations

from typing import Any

from fer.fer import FER

PACKAGES = "fer", "tensorflow", "facenet-pytorch", "torch", "opencv-contrib-python"


class Peer:
    """See ``run.py``."""

    def __init__(self, mode: str) -> None:
        self._fer = FER(mtcnn={"haar": False, "mtcnn": True}[mode])

    def look(self, image: Any) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The faces in one frame."""
        found = []
        for face in self._fer.detect_emotions(image):
            x, y, width, height = map(float, face["box"])
            found.append((max(face["emotions"], key=face["emotions"].get), (x, y, width, height)))
        return found
