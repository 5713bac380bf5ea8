"""``facial-emotion-recognition``, by ``EmotionRecognition("cpu").recognise_emotion(image)``; its one mode is ``mtcnn``.

Two things it needs help with. Its weights were stored on a GPU and are loaded as if one were here: ``torch.load`` is
told to bring them to the CPU while the network is made. And it gives no labels, but a picture with them drawn in: what
its own two steps found on the way there is noted as it passes, which costs it nothing measurable.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from facial_emotion_recognition import EmotionRecognition

PACKAGES = "facial-emotion-recognition", "facenet-pytorch", "torch", "opencv-python"


class Peer:
    """See ``run.py``."""

    def __init__(self, mode: str) -> None:
        if mode != "mtcnn":
            raise SystemExit(f"mode {mode!r} is unknown; expected mtcnn")
        load = torch.load
        torch.load = functools.partial(load, map_location="cpu")
        try:
            self._recogniser = EmotionRecognition(device="cpu")
        finally:
            torch.load = load
        self._labels: list[str] = []
        self._boxes: list[tuple[float, float, float, float]] = []
        predict, detect = self._recogniser._predict, self._recogniser.mtcnn.detect

        def noted_label(image: Any) -> str:
            self._labels.append(predict(image))
            return self._labels[-1]

        def noted_boxes(image: Any) -> Any:
            found = detect(image)
            if found[0] is not None:
                self._boxes = [(float(a), float(b), float(c - a), float(d - b)) for a, b, c, d in found[0]]
            return found

        self._recogniser._predict, self._recogniser.mtcnn.detect = noted_label, noted_boxes

    def look(self, image: Any) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The faces in one frame."""
        self._labels, self._boxes = [], []
        self._recogniser.recognise_emotion(image)
        return list(zip(self._labels, self._boxes, strict=True))
