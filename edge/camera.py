"""Where frames come from. A source is named by a URI, a plain path or a camera's number.

file:///path/clip.mp4    a video, or one picture        (plain path: clip.mp4)
dir:///path/frames?fps=25  a folder of pictures, by name  (plain path of a folder)
v4l2:///dev/video0       a camera                       (plain number: 0)
synthetic://             the demo: a real portrait moved in front of a synthetic camera
"""

from __future__ import annotations

import numbers
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import cv2
import numpy as np

from edge.errors import FrameError, SourceError
from edge.source import DEFAULT_FPS, Source, check_frame, read_picture, readable
from edge.types import Frame, Image

SCHEMES = ("file", "dir", "v4l2", "synthetic")

MOTION_JPEG = (".mjpeg", ".mjpg")
"""Files of many JPEGs, which begin like a picture."""


class PictureSource(Source):
    """One picture file."""

    follows = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), DEFAULT_FPS)
        self._image = read_picture(path)

    def __iter__(self) -> Iterator[Frame]:
        """One frame."""
        yield self._media_frame(0, self._image)


class FolderSource(Source):
    """A folder of pictures, in the order of their names."""

    follows = False

    def __init__(self, path: Path, fps: float = DEFAULT_FPS) -> None:
        super().__init__(str(path), fps)
        if not path.is_dir():
            raise SourceError(f"{path}: no such folder; give a folder of pictures, or a file with file://")
        self._paths = sorted(file for file in path.iterdir() if file.is_file() and cv2.haveImageReader(readable(file)))
        if not self._paths:
            raise SourceError(f"{path}: no picture in this folder; expected files such as .jpg or .png")

    def __iter__(self) -> Iterator[Frame]:
        """One frame a picture."""
        for index, path in enumerate(self._paths):
            try:
                image = check_frame(read_picture(path))
            except FrameError as error:
                raise SourceError(f"{path}: {error}") from error
            yield self._media_frame(index, image)


class VideoSource(Source):
    """A video file, every frame of it."""

    def __init__(self, path: Path) -> None:
        # Made absolute, since FFmpeg takes what stands before a colon for a protocol.
        self._capture = cv2.VideoCapture(readable(path.absolute()))
        fps = self._capture.get(cv2.CAP_PROP_FPS) if self._capture.isOpened() else 0.0
        super().__init__(str(path), fps if 0 < fps < 1000 else DEFAULT_FPS)
        self._promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self._capture.isOpened() else 0
        read, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not read or first is None:
            self._capture.release()
            raise SourceError(
                f"{path}: not a video or picture that can be read; expected a whole file such as .mp4 or .jpg"
            )
        self._first: Image = np.asarray(first, np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        """Every frame; raises at the end if the file holds fewer than it promised."""
        yield self._media_frame(0, self._first)
        index = 1
        while True:
            read, image = self._capture.read()
            if not read:
                break
            yield self._media_frame(index, np.asarray(image, np.uint8))
            index += 1
        # Containers without an index only estimate their length, so a few frames less are no proof of damage.
        if self._promised - index > max(3, 0.03 * self._promised):
            raise SourceError(
                f"{self.name}: ends after {index} of {self._promised} frames, the file is truncated; copy it again"
            )

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


class CameraSource(Source):
    """A Video4Linux camera."""

    live = True

    def __init__(self, device: str) -> None:
        if not os.path.exists(device):
            there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"{device}: no such camera; cameras here: {there}")
        self._capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(f"{device}: can't be opened as a camera; is it in use, or may this user not read it?")
        super().__init__(device, self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS)

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they are captured; ``captured_ns`` is the monotonic clock."""
        index = 0
        while True:
            read, image = self._capture.read()
            now = time.monotonic_ns()
            if not read:
                raise SourceError(f"{self.name}: the camera stopped after {index} frames; is it still plugged in?")
            yield Frame(index, now, np.asarray(image, np.uint8), now)
            index += 1

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


def open_source(source: str | int | os.PathLike[str]) -> Source:
    """Open a source by URI, path or camera number.

    Raises:
        SourceError: it isn't there, can't be read, or the URI is not understood.
    """
    if isinstance(source, numbers.Integral) or (isinstance(source, str) and source.isdecimal()):
        return CameraSource(f"/dev/video{int(source)}")
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise SourceError(f"{source!r} is no source; expected a path, a URI such as file://, or a camera's number")
    text = os.fspath(source)
    try:
        return _open_text(text)
    except OSError as error:
        raise SourceError(f"{text[:200]}: can't be opened ({error.strerror}); choose another source") from error


def _open_text(text: str) -> Source:
    if "://" not in text:
        return _open_path(Path(text))
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise SourceError(
            f"{text}: unknown kind of source {scheme!r}; expected {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    # A file's name may hold '?', '#' or '%': only synthetic:// and dir:// take options.
    if scheme == "file":
        path = Path(rest)
        return _open_path(path if path.exists() else Path(unquote(rest)))
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme == "synthetic":
        if place:
            raise SourceError(f"{text}: synthetic:// takes options alone, as synthetic://?frames=100")
        from edge.synthetic import SyntheticSource

        return SyntheticSource(**_numbers(text, options, SyntheticSource.OPTIONS))
    if scheme == "dir":
        return FolderSource(Path(unquote(place)), **_numbers(text, options, {"fps": DEFAULT_FPS}))
    return CameraSource(unquote(place))


def _open_path(path: Path) -> Source:
    if path.is_dir():
        return FolderSource(path)
    if path.is_char_device():
        return CameraSource(str(path))
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give a video, a picture, a folder of pictures or a camera")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty; expected a video or a picture")
    name = readable(path)
    moving = path.suffix.lower() in MOTION_JPEG
    if cv2.haveImageReader(name) and not moving and cv2.imcount(name) <= 1:
        return PictureSource(path)
    return VideoSource(path)


def _numbers(uri: str, given: dict[str, str], known: dict[str, float]) -> dict[str, float]:
    """Options of a URI as positive numbers."""
    values: dict[str, float] = {}
    for name, text in given.items():
        if name not in known:
            raise SourceError(f"{uri}: unknown option {name!r}; expected {', '.join(known)}")
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = -1.0
        if not 0 < values[name] < 1e6:
            raise SourceError(f"{uri}: {name}={text!r} is not a positive number")
    return values
