"""Alignment by the eyes: from a frame and two eye centres to an upright crop of fixed size.

The crop is a similarity transform (rotation, one scale, shift), so a face keeps its proportions.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import Alignment
from edge.types import Image, Points

MAX_SUPERSAMPLING = 6
"""Samples per output pixel and axis: a face of up to 6 times the crop's size is averaged without gaps."""


def similarity(eyes: Points, alignment: Alignment, width: int, height: int) -> npt.NDArray[np.float64]:
    """The (2, 3) matrix that takes frame pixels to crop pixels.

    Args:
        eyes: float (2, 2): centres of the eye on the left and on the right of the picture, x then y in pixels.
        alignment: where they shall be.
        width: of the crop, pixels.
        height: of the crop, pixels.

    Raises:
        ValueError: the two eyes coincide.
    """
    # In the complex plane a similarity is one multiplication, and Python's own numbers are faster than small arrays.
    # A fraction f of a side of n pixels is the coordinate f * n - 0.5, since coordinate 0 is a pixel's centre.
    to_left, to_right = (
        complex(x * width - 0.5, y * height - 0.5) for x, y in (alignment.left_eye, alignment.right_eye)
    )
    left, right = (complex(x, y) for x, y in eyes.tolist())
    if abs(right - left) < 1e-6:
        raise ValueError("the two eyes coincide")
    factor = (to_right - to_left) / (right - left)
    shift = (to_left + to_right) / 2 - factor * (left + right) / 2
    return np.array([(factor.real, -factor.imag, shift.real), (factor.imag, factor.real, shift.imag)])


def align(image: Image, eyes: Points, alignment: Alignment, width: int, height: int, interpolation: str) -> Image:
    """Cut an aligned crop.

    Args:
        image: uint8 (H, W, 3) or (H, W).
        eyes: see :func:`similarity`.
        alignment: where the eyes go.
        width: of the crop, pixels.
        height: of the crop, pixels.
        interpolation: ``area`` or ``linear`` (see :class:`edge.bundle.InputSpec`).

    Returns:
        uint8 (height, width, 3) or (height, width); what lies outside the frame repeats its border.
    """
    matrix = similarity(eyes, alignment, width, height)
    finer = 1
    if interpolation == "area":
        shrink = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
        finer = min(MAX_SUPERSAMPLING, max(1, math.ceil(shrink)))
    if finer > 1:
        matrix = matrix * finer
        matrix[:, 2] += (finer - 1) / 2  # pixel centres of the finer grid
    crop = cv2.warpAffine(
        image, matrix, (width * finer, height * finer), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if finer > 1:
        crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)
