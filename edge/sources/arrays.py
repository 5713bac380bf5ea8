"""Frames from the caller's own code: any iterable of pictures."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edge.errors import SourceError
from edge.source import DEFAULT_FPS, Source, check_frame
from edge.types import Frame, Image


class ArraySource(Source):
    """Any iterable of BGR uint8 arrays (H, W, 3), or of pairs of such an array and ``captured_ns``; it may be endless.

    Without times the pictures are taken to follow one another at 25 a second. With them, nanoseconds on any clock that
    never goes back, those count. What the iterable raises reaches the consumer unchanged. :meth:`close` ends the
    iteration before the next picture; a generator that waits is not woken by it.

    Raises:
        SourceError: a list or tuple that begins with something else than a picture.
    """

    def __init__(self, pictures: Iterable[object]) -> None:
        super().__init__(f"iterable of arrays ({type(pictures).__name__})", DEFAULT_FPS)
        self._pictures = pictures
        self._closed = False
        if isinstance(pictures, Sequence) and len(pictures) and not _is_picture(pictures[0]):
            raise SourceError(
                f"{str(pictures)[:80]!a} is no source; expected a path, a URI such as file://, a camera's number, "
                "or pictures: BGR uint8 arrays"
            )

    def __iter__(self) -> Iterator[Frame]:
        """One frame a picture.

        Raises:
            FrameError: something that is no picture.
            SourceError: a time that is none, or goes back.
        """
        last: int | None = None
        try:
            for index, item in enumerate(self._pictures):
                if self._closed:
                    return
                if not isinstance(item, tuple):
                    yield self._media_frame(index, check_frame(item))
                    continue
                picture, last = self._timed(item, last)
                self._handed_on()
                yield Frame(index, last, picture, time.monotonic_ns())
        finally:
            self._ended()

    def close(self) -> None:
        """No more pictures."""
        self._closed = True

    @staticmethod
    def _timed(item: tuple[object, ...], last: int | None) -> tuple[Image, int]:
        if len(item) != 2:
            raise SourceError(f"a tuple of {len(item)} is no frame; expected a picture, or (picture, captured_ns)")
        picture = check_frame(item[0])
        try:
            captured_ns = operator.index(item[1])  # type: ignore[arg-type]
        except TypeError as error:
            raise SourceError(f"captured_ns is {item[1]!r}; expected whole nanoseconds, an int") from error
        if last is not None and captured_ns < last:
            raise SourceError(f"captured_ns {captured_ns} is before the last frame's {last}; it may not go back")
        return picture, captured_ns


def _is_picture(item: object) -> bool:
    return isinstance(item[0] if isinstance(item, tuple) and item else item, np.ndarray)
