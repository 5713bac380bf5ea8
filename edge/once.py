"""One picture, one call."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from edge.bundle import Bundle
from edge.errors import FrameError, OptionError, SourceError
from edge.faces.landmarks import DEFAULT_MODEL
from edge.recognizer import Recognizer
from edge.source import DEFAULT_FPS, Source, check_frame, read_picture
from edge.types import Frame, Image, Result


class _OnePicture(Source):
    """A picture from the caller's own code."""

    follows = False

    def __init__(self, name: str, image: Image) -> None:
        super().__init__(name, DEFAULT_FPS)
        self._image = image

    def __iter__(self) -> Iterator[Frame]:
        """One frame, captured now for want of a time of its own."""
        self._handed_on()
        yield Frame(0, 0, self._image, time.monotonic_ns())
        self._ended()


def recognize(
    picture: str | os.PathLike[str] | np.ndarray,
    *,
    bundle: str | os.PathLike[str] | None = None,
    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto",
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto",
    landmarks: Literal["5", "68"] = DEFAULT_MODEL,
    min_face: int | None = None,
) -> Result:
    """The faces in one picture. Everything is opened anew for it: for many, give a folder to :class:`edge.Recognizer`.

    Args:
        picture: path of a picture file, or BGR uint8 (H, W, 3), at least 16x16.
        bundle: name or path; None is the default one. It must read single faces.
        backend: ``auto``, ``onnxruntime`` or ``tensorrt``.
        precision: ``auto``, ``fp32``, ``fp16`` or ``int8``.
        landmarks: ``5`` or ``68`` (see :mod:`edge.faces.landmarks`).
        min_face: side of the smallest face to find, pixels; None is 40.

    Returns:
        Faces best first, with ids 1, 2, ...; nothing is averaged over time, so no state is ``warming_up``.

    Raises:
        OptionError: the bundle reads windows of frames, for which one picture is not enough.
        SourceError: the file is missing, truncated or no picture.
        FrameError: not such an array.
        EdgeError: a bundle, backend or option that can't be used.

    Example:
        >>> from edge.synthetic import PORTRAIT
        >>> [(face.label, face.state.value) for face in edge.recognize(PORTRAIT).faces]
        [('happy', 'ok')]
        >>> edge.recognize(np.zeros((64, 64, 3), np.uint8)).faces
        ()
    """
    name, image = _picture(picture)
    window = Bundle.open(bundle).manifest.window
    if window is not None:
        raise OptionError(
            f"bundle {str(bundle)[:200]} reads windows of {window.length} frames, and one picture is not enough; "
            "give a bundle of single faces, or a video to edge.Recognizer(source, bundle=...)"
        )
    with Recognizer(
        _OnePicture(name, image),
        bundle=bundle,
        backend=backend,
        precision=precision,
        landmarks=landmarks,
        min_face=min_face,
    ) as recognizer:
        return next(iter(recognizer))


def _picture(picture: object) -> tuple[str, Image]:
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        try:
            return str(path), check_frame(read_picture(path))
        except FrameError as error:
            raise FrameError(f"{path}: {error}") from error
        except ValueError as error:  # a name with a zero byte in it
            raise SourceError(f"{str(path)!a}: not a file name; give a picture file") from error
    return "picture", check_frame(picture)
