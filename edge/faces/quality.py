"""Whether a face can be read at all: its size, light, sharpness and how far it is turned away.

All is measured on the face itself, upright and brought to one size, so it does not depend on the frame around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import Alignment
from edge.faces.align import align
from edge.types import Points

SIDE = 48
"""Side, in pixels, of the picture that is measured."""

FRAMED = Alignment((0.3, 0.36), (0.7, 0.36))

NOSE = {68: 33, 5: 4}
"""By number of landmarks, the one under the nose."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still good enough."""

    eyes_apart: float = 14.0
    """Pixels between the eyes, at least."""
    dark: float = 32.0
    """Mean grey level, at least."""
    bright: float = 225.0
    """Mean grey level, at most."""
    contrast: float = 9.0
    """Standard deviation of grey levels, at least."""
    sharpness: float = 0.010
    """See :class:`Quality`, at least."""
    turn: float = 0.33
    """See :class:`Quality`, at most."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured."""

    eyes_apart: float
    """Pixels of the frame."""
    mean: float
    """Grey levels, 0..255."""
    contrast: float
    """Standard deviation of grey levels."""
    sharpness: float
    """Variance of the Laplacian (Pech-Pacheco et al. 2000) over that of the picture, 48 pixels wide: free of light."""
    turn: float
    """How far the nose is from the middle between the eyes, along the line through them, over their distance: 0 seen
    from the front, 0.5 when it lies under an eye."""

    def problems(self, limits: Limits) -> tuple[str, ...]:
        """What is wrong, of ``small``, ``dark``, ``bright``, ``flat``, ``blurred`` and ``turned``; empty is good."""
        wrong = {
            "small": self.eyes_apart < limits.eyes_apart,
            "dark": self.mean < limits.dark,
            "bright": self.mean > limits.bright,
            "flat": self.contrast < limits.contrast,
            "blurred": self.sharpness < limits.sharpness,
            "turned": self.turn > limits.turn,
        }
        return tuple(name for name, so in wrong.items() if so)


def measure(grey: Grey, points: Points, eyes: Points) -> Quality:
    """Measure one face.

    Args:
        grey: uint8 (H, W), the frame.
        points: float32 (68, 2) or (5, 2), its landmarks.
        eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`; they don't coincide.
    """
    crop = align(grey, eyes, FRAMED, SIDE, SIDE, "area")
    (mean,), (contrast,) = (v.ravel() for v in cv2.meanStdDev(crop))
    (_,), (edges,) = (v.ravel() for v in cv2.meanStdDev(cv2.Laplacian(crop, cv2.CV_32F)))
    along = (eyes[1] - eyes[0]).astype(np.float64)
    distance = float(np.hypot(*along))
    off = (points[NOSE[len(points)]] - eyes.mean(axis=0)).astype(np.float64) @ along / distance**2
    return Quality(distance, float(mean), float(contrast), float(edges / max(contrast, 1e-6)) ** 2, abs(float(off)))
