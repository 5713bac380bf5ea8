"""The newest frame as a JPEG, made only when somebody asks for it."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import cv2

from edge.types import Image

LONGEST_SIDE = 1280
"""A larger frame is shown smaller: a phone shows no more, and the robot has better things to do than to encode it."""

QUALITY = 80
"""Of the JPEG, 0..100."""

APART_S = 1 / 25
"""Between two encodings, seconds, however many ask: eyes see no more, and the loop keeps the processor."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame, encoded."""

    frame: int
    """The frame's index in its source."""
    width: int
    """Of the frame itself, pixels; the JPEG may be smaller. Boxes are in these pixels."""
    height: int
    data: bytes
    """JPEG."""


class Pictures:
    """Holds one frame, the newest, and one JPEG, the one asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: tuple[int, Image] | None = None
        self._made: Picture | None = None
        self._made_at = 0.0
        self._one_at_a_time = asyncio.Lock()
        self.encoded = 0
        """How many JPEGs were made."""

    def put(self, frame: int, image: Image) -> None:
        """The loop's thread: the newest frame. It is not copied; a frame's pixels are never written to."""
        with self._lock:
            self._newest = frame, image

    def is_new(self, after: int | None) -> bool:
        """Whether there is a frame other than ``after``."""
        with self._lock:
            return self._newest is not None and self._newest[0] != after

    async def newest(self) -> Picture | None:
        """The server's thread: the newest frame, encoded once for all who ask; None before the first."""
        async with self._one_at_a_time:
            await asyncio.sleep(self._made_at + APART_S - time.monotonic())
            with self._lock:
                newest = self._newest
            if newest is None:
                return None
            if self._made is None or self._made.frame != newest[0]:
                self._made_at = time.monotonic()
                # OpenCV lets go of the interpreter's lock meanwhile: the loop goes on.
                self._made = await asyncio.to_thread(encode, *newest)
                self.encoded += 1
            return self._made


def encode(frame: int, image: Image) -> Picture:
    """A frame as a JPEG of at most :data:`LONGEST_SIDE` pixels a side.

    Args:
        frame: its index.
        image: BGR uint8 (H, W, 3).
    """
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(width, height)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        shown = image
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return Picture(frame, width, height, data.tobytes())
