"""A face's small upright picture, cut once a frame: its quality is measured on it, and it is known again by it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.bundle import Alignment
from edge.faces.align import align
from edge.types import Points

SIDE = 48
"""Side of the picture, pixels."""

FRAMED = Alignment((0.3, 0.36), (0.7, 0.36))
"""Where the eyes are in it: it holds the brows and the mouth, hardly any background."""

Grey = npt.NDArray[np.uint8]


def upright(grey: Grey, eyes: Points) -> Grey:
    """The picture of one face.

    Args:
        grey: uint8 (H, W), the frame.
        eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`; they don't coincide.

    Returns:
        uint8 (SIDE, SIDE).
    """
    return align(grey, eyes, FRAMED, SIDE, SIDE, "area")
