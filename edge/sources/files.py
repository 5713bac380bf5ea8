"""Pictures, folders of pictures and videos: nothing is lost, and time is media time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge.errors import FrameError, SourceError
from edge.source import DEFAULT_FPS, Source, check_frame, read_picture, readable
from edge.types import Frame, Image

MOST_DAMAGED = 1000
"""So many frames in a row that can't be decoded are the end of a video, whatever its header promises."""


class PictureSource(Source):
    """One picture file."""

    follows = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), DEFAULT_FPS)
        self._image = read_picture(path)

    def __iter__(self) -> Iterator[Frame]:
        """One frame."""
        yield self._media_frame(0, self._image)
        self._ended()


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
        try:
            for index, path in enumerate(self._paths):
                try:
                    image = check_frame(read_picture(path))
                except FrameError as error:
                    raise SourceError(f"{path}: {error}") from error
                yield self._media_frame(index, image)
        finally:
            self._ended()


class VideoSource(Source):
    """A video file, every frame of it. One that can't be decoded is skipped and counted where the decoder goes on.

    Where the size changes in the middle, OpenCV brings every frame to the size of the first.
    """

    def __init__(self, path: Path) -> None:
        # Made absolute, since FFmpeg takes what stands before a colon for a protocol.
        self._capture = cv2.VideoCapture(readable(path.absolute()))
        # OpenCV does not survive a release on one thread while another reads.
        self._one_at_a_time = threading.Lock()
        self._closed = False
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
        try:
            yield self._media_frame(0, self._first)
            index, failed = 1, 0
            while not self._closed:
                image = self._read()
                if image is not None:
                    # What failed in between was in the middle: it keeps its place in time.
                    self._health = replace(self._health, corrupt=self._health.corrupt + failed)
                    index, failed = index + failed, 0
                    yield self._media_frame(index, image)
                    index += 1
                    continue
                # The decoder says the same of a bad frame and of the end, so it is asked on while frames are owed.
                failed += 1
                if failed > MOST_DAMAGED or index + failed > self._promised:
                    break
            # Containers without an index only estimate their length, so a few frames less are no proof of damage.
            if not self._closed and self._promised - index > max(3, 0.03 * self._promised):
                raise SourceError(
                    f"{self.name}: ends after {index} of {self._promised} frames, the file is truncated or damaged; "
                    "copy it again"
                )
        finally:
            self._ended()

    def _read(self) -> Image | None:
        with self._one_at_a_time:
            read, image = (False, None) if self._closed else self._capture.read()
        return np.asarray(image, np.uint8) if read and image is not None else None

    def close(self) -> None:
        """Release the file."""
        self._closed = True
        with self._one_at_a_time:
            self._capture.release()
