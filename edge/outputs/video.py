"""The annotated video."""

from __future__ import annotations

import cv2
import numpy as np

from edge.errors import OptionError, OutputError
from edge.outputs.contract import Output, PartialFile
from edge.outputs.overlay import draw
from edge.types import Frame, Image, Result


class AnnotatedVideo(Output):
    """Writes an MP4 (MPEG-4 part 2, which OpenCV's wheels can encode).

    Args:
        target: file name ending in ``.mp4``.
        fps: frames a second of the source.

    Raises:
        OptionError: another ending, or the file can't be written.
    """

    def __init__(self, target: str, fps: float) -> None:
        if not target.lower().endswith(".mp4"):
            raise OptionError(f"--video {target}: expected a name that ends in .mp4")
        self.file = PartialFile(target)
        if self.file.direct:
            raise OptionError(f"--video {target}: a video needs a file to go back and forth in, not a device or pipe")
        # What MPEG-4 part 2 can say of time; a faster source plays slower.
        self._fps = min(max(fps, 1.0), 1000.0)
        self._frames = 0
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: Frame, result: Result) -> None:
        """One frame; pictures of another size than the first are fitted into its size."""
        picture = draw(frame.image, result)
        if self._writer is None:
            # The encoder wants even sides.
            self._size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.file.partial), fourcc, self._fps, self._size)
            if not self._writer.isOpened():
                raise OptionError(f"{self.file.path}: OpenCV can't write MP4 here; leave --video out")
        self._writer.write(_fit(picture, self._size))
        self._frames += 1

    def finish(self, whole: bool) -> str | None:
        """See :class:`Output`."""
        if self._writer is not None:
            self._writer.release()
            # The encoder says nothing of a full disk: what was written is read back.
            written = cv2.VideoCapture(str(self.file.partial))
            found = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
            written.release()
            if found < self._frames:
                raise OutputError(
                    f"{self.file.partial}: holds {found} of {self._frames} frames; make room and run it again"
                )
        return self.file.finish(whole)


def _fit(picture: Image, size: tuple[int, int]) -> Image:
    width, height = size
    if picture.shape[1] - width in (0, 1) and picture.shape[0] - height in (0, 1):
        return np.ascontiguousarray(picture[:height, :width])
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return canvas
