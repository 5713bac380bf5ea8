"""What a source of frames is, and what a frame must be."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from edge.errors import FrameError, SourceError
from edge.types import Frame, Image

SMALLEST = 16
"""A frame with a shorter side, in pixels, can't hold a face."""

DEFAULT_FPS = 25.0
"""Assumed where a source has no frame rate of its own."""


def check_frame(image: object) -> Image:
    """The picture itself, if it is one.

    Raises:
        FrameError: not a BGR uint8 array of shape (H, W, 3), or smaller than 16x16.
    """
    expected = "expected a BGR picture: a uint8 array of shape (H, W, 3)"
    if not isinstance(image, np.ndarray):
        raise FrameError(f"frame is a {type(image).__name__}; {expected}")
    if image.size == 0:
        raise FrameError(f"frame is empty, shape {image.shape}; {expected}")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise FrameError(f"frame is grey, shape {image.shape}; {expected}: cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)")
    if image.ndim == 3 and image.shape[2] == 4:
        raise FrameError(f"frame has 4 channels; {expected}: cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)")
    if image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f"frame has shape {image.shape}; {expected}")
    if image.dtype != np.uint8:
        raise FrameError(f"frame has dtype {image.dtype}; {expected}: values 0..255, {_as_bytes(image)}")
    if min(image.shape[:2]) < SMALLEST:
        raise FrameError(f"frame is {image.shape[1]}x{image.shape[0]} pixels; expected {SMALLEST}x{SMALLEST} or larger")
    return image


def _as_bytes(image: Image) -> str:
    """What to type so that a picture of another dtype keeps its greys: a plain ``astype`` would make 0..1 black."""
    if image.dtype == np.uint16:
        return "(frame >> 8).astype('uint8')"
    if image.dtype.kind == "f" and image.max() <= 1:
        return "(255 * frame).astype('uint8')"
    return "frame.astype('uint8')"


class SourceState(str, Enum):
    """What a source is doing."""

    CONNECTING = "connecting"
    """Opened or being opened; no frame has come yet."""
    STREAMING = "streaming"
    """Frames come."""
    WAITING = "waiting"
    """A camera is lost, or its picture stands still; it is tried again and again."""
    ENDED = "ended"
    """No frame will come any more."""


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """What happened to a source so far. Each count starts at 0 and never falls."""

    state: SourceState = SourceState.CONNECTING
    frames: int = 0
    """Frames handed on."""
    reconnects: int = 0
    """Times that a lost camera gave pictures again."""
    corrupt: int = 0
    """Pictures that could not be decoded, or were none; they are skipped, and leave a gap in ``Frame.index``."""
    frozen: int = 0
    """Times that a camera was given up because its picture stood still."""
    dropped: int = 0
    """Pictures that nobody fetched before a newer one came; they leave a gap in ``Frame.index``."""
    last_error: str = ""
    """Why a camera was lost the last time, in one line; empty if it never was."""

    @property
    def trouble(self) -> str | None:
        """What is wrong at this moment, in one line; None where nothing is."""
        if self.state is not SourceState.WAITING:
            return None
        return f"the camera is awaited: {self.last_error or 'its picture stands still'}"


class Source(ABC):
    """Frames in order. Use it on one thread.

    :meth:`close` may be called from any thread, and twice: a reader that waits for a frame is let go within a second,
    its iteration ends, and what is left of a device's own thread ends within that device's time limit.
    """

    live: ClassVar[bool] = False
    """Whether the world goes on while nobody reads. If so, the newest frame counts and older ones may be dropped, and
    ``captured_ns`` is the monotonic clock, taken at capture; else nothing is lost and ``captured_ns`` is media time."""
    follows: ClassVar[bool] = True
    """Whether each frame surely continues the one before, so that a face is sought where it was."""

    def __init__(self, name: str, fps: float) -> None:
        self.name = name
        """As messages call it."""
        self.fps = fps
        """Nominal frames a second."""
        self._health = SourceHealth()

    @property
    def health(self) -> SourceHealth:
        """The counts as they are now; may be asked from any thread."""
        return self._health

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end.

        Raises:
            SourceError: a frame can't be read that should be there.
        """

    def close(self) -> None:  # noqa: B027 - most sources hold nothing that needs it
        """Release the device or file."""

    def _media_frame(self, index: int, image: Image) -> Frame:
        self._handed_on()
        return Frame(index, round(index * 1e9 / self.fps), image, time.monotonic_ns())

    def _handed_on(self) -> None:
        self._health = replace(self._health, state=SourceState.STREAMING, frames=self._health.frames + 1)

    def _ended(self) -> None:
        self._health = replace(self._health, state=SourceState.ENDED)


def read_picture(path: Path) -> Image:
    """Read one whole picture file.

    Raises:
        SourceError: missing, empty, truncated, or not a picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror})") from error
    if not data:
        raise SourceError(f"{path}: is empty; expected a picture")
    if not complete(data):
        raise SourceError(f"{path}: the picture is truncated; copy it again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"{path}: not a picture that can be read; expected .jpg, .png or the like")
    return np.asarray(image, np.uint8)


def readable(path: Path) -> str:
    """A path as OpenCV takes it.

    Raises:
        SourceError: a name that is not UTF-8, which OpenCV does not survive.
    """
    try:
        path.name.encode()
        str(path).encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{str(path)!a}: the name is not UTF-8; rename it") from error
    return str(path)


def complete(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end: decoders fill the missing rest of one with grey, which is made-up data."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") > 0
    return True


def _jpeg_ends(data: bytes) -> bool:
    """Whether the first image of a JPEG comes to its end; what follows, as a phone's film, is not looked at."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:
            # In the compressed part a marker is FF and neither a stuffed 00 nor a restart.
            while True:
                place = data.find(b"\xff", place)
                if place < 0 or place + 1 >= len(data):
                    return False
                if data[place + 1] != 0x00 and not 0xD0 <= data[place + 1] <= 0xD7:
                    break
                place += 2
    return place + 2 <= len(data) and data[place : place + 2] == b"\xff\xd9"
