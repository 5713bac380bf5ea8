"""The demo's camera: a real face (NASA's public-domain portrait of Eileen Collins) that pans, zooms and changes light.

Everything is a smooth function of time, so every run gives the same pictures. For the third quarter of each ten
seconds the camera looks past her, and there is no face in view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from edge.source import Source, read_picture
from edge.types import Frame, Image

PORTRAIT = Path(__file__).parent / "demo" / "portrait.jpg"
FACE = (224.0, 118.0)
"""Centre of the face in the portrait, pixels."""
PERIOD_S = 10.0


class SyntheticSource(Source):
    """A synthetic camera in front of the portrait.

    Args:
        width: of the frames, pixels.
        height: of the frames, pixels.
        fps: frames a second of media time.
        frames: how many; then the source ends.
    """

    OPTIONS: ClassVar[dict[str, float]] = {"width": 640.0, "height": 360.0, "fps": 30.0, "frames": 300.0}

    def __init__(self, width: float = 640, height: float = 360, fps: float = 30, frames: float = 300) -> None:
        super().__init__("synthetic://", fps)
        self._size = max(64, int(width)), max(64, int(height))
        self._frames = int(frames)
        self._portrait = read_picture(PORTRAIT)

    def __iter__(self) -> Iterator[Frame]:
        """``frames`` frames."""
        for index in range(self._frames):
            yield self._media_frame(index, self.picture(index / self.fps))
        self._ended()

    @staticmethod
    def face_in_view(seconds: float) -> bool:
        """Whether the camera looks at the face at this time (ground truth for tests; swings in and out count as no)."""
        return not 0.42 < (seconds / PERIOD_S) % 1 < 0.83

    def picture(self, seconds: float) -> Image:
        """The camera's view at a time."""
        width, height = self._size
        phase = seconds / PERIOD_S % 1
        turn = 2 * math.pi * seconds
        # Away between 0.5 and 0.75 of the period, with a short swing on either side.
        away = _ease((phase - 0.42) / 0.08) - _ease((phase - 0.75) / 0.08)
        zoom = height / 360 * (1.15 + 0.35 * math.sin(turn / 7))
        roll = 8 * math.sin(turn / 5)
        across = 0.5 + 0.16 * math.sin(turn / 4) + 1.6 * away
        down = 0.5 + 0.08 * math.sin(turn / 3)
        matrix = np.asarray(cv2.getRotationMatrix2D(FACE, roll, zoom), np.float64)
        matrix[:, 2] += (across * width - FACE[0], down * height - FACE[1])
        view = cv2.warpAffine(
            self._portrait,
            matrix,
            self._size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(92, 86, 80),
        )
        light = 1.0 + 0.3 * math.sin(turn / 6)
        return np.asarray(cv2.convertScaleAbs(view, alpha=light), np.uint8)


def _ease(x: float) -> float:
    x = min(1.0, max(0.0, x))
    return x * x * (3 - 2 * x)
