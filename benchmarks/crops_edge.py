"""Ours on pictures that do not follow one another, by its public interface: a folder of them. See ``crops.py``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

import edge


def apart(mode: str, pictures: Sequence[Any]) -> Iterator[list[tuple[str | None, tuple[float, float, float, float]]]]:
    """The faces of each picture; the mode is the landmarks' number."""
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            cv2.imwrite(str(Path(folder) / f"{number:06}.png"), picture)
        landmarks: Any = mode
        with edge.Recognizer(folder, landmarks=landmarks) as recognizer:
            for result in recognizer:
                yield [
                    (face.label, (face.box.x, face.box.y, face.box.width, face.box.height))
                    for face in result.faces
                    if face.visible
                ]
