"""Whether a face can be read at all: its size, light, sharpness and how far it is turned away.

All is measured on the face itself, upright and brought to one size, so it does not depend on the frame around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge.types import Points

NOSE = {68: 33, 5: 4}
"""By number of landmarks, the one under the nose."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still good enough.

    All but the last were measured with the default bundle on 900 of FER2013's PublicTest pictures, made worse in steps:
    each limit is about where accuracy has fallen from 62% to three quarters of that.
    """

    eyes_apart: float = 9.0
    """Pixels between the eyes, at least. 60% right at 12, 51% at 9, 41% at 7."""
    dark: float = 16.0
    """Mean grey level, at least, with a sensor's noise of 2. 58% right at 30, 53% at 20, 45% at 12."""
    bright: float = 220.0
    """Mean grey level, at most: what is white has lost its lines. 60% right at 194, 55% at 216."""
    contrast: float = 8.0
    """Standard deviation of grey levels, at least, with noise of 2. 56% right at 12, 46% at 8, 31% at 5."""
    sharpness: float = 0.010
    """See :class:`Quality`, at least. Blur of 6% of the distance between the eyes: 0.021, 56% right; of 8%: 0.007, 39%.
    Motion over a quarter of it: 0.031, 55%; over almost half: 0.009, 38%."""
    turn: float = 0.35
    """See :class:`Quality`, at most; a head turned by about 40 degrees, where the frontal detector loses it too."""


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
    """Variance of the second derivative over that of the picture, 48 pixels wide, in the direction in which it is less:
    the Laplacian's variance (Pech-Pacheco et al. 2000), made free of light and awake to motion."""
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


def measure(picture: Grey, points: Points, eyes: Points) -> Quality:
    """Measure one face.

    Args:
        picture: see :func:`edge.faces.upright.upright`.
        points: float32 (68, 2) or (5, 2), its landmarks in the frame.
        eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`; they don't coincide.
    """
    (mean,), (contrast,) = (v.ravel() for v in cv2.meanStdDev(picture))
    edges = min(
        float(cv2.meanStdDev(cv2.Sobel(picture, cv2.CV_32F, *order, ksize=1))[1].item()) for order in ((2, 0), (0, 2))
    )
    left, right = (complex(x, y) for x, y in eyes.tolist())
    nose = complex(*points[NOSE[len(points)]].tolist())
    # The real part of this quotient is how far along the line through the eyes the nose lies, over their distance.
    off = ((nose - (left + right) / 2) / (right - left)).real
    return Quality(abs(right - left), float(mean), float(contrast), (edges / max(float(contrast), 1e-6)) ** 2, abs(off))
