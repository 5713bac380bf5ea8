"""A face from one frame to the next, between two looks of the detector.

Optical flow moves its landmarks, and a small upright picture of it says whether what is there now is still that face.

Flow: pyramidal Lucas-Kanade (Bouguet 2001) on the points that an expression hardly moves, and the similarity that
fits most of them. About 0.15 ms a face, where the detector and the landmarks take one to two.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import Alignment
from edge.faces.align import align
from edge.types import Box, Points

RIGID = {68: np.array((36, 39, 42, 45, 27, 28, 29, 30, 31, 33, 35)), 5: np.arange(5)}
"""By number of landmarks, those that move with the head: the eyes' corners and the nose."""

NEEDED = 4
"""Points that must agree on a motion."""

AGREE = 0.05
"""... to within this share of the distance between the eyes."""

AROUND = 0.6
"""The flow is sought in a region that reaches this share of the box beyond it."""

WIDEST = 160
"""A region wider than this, in pixels, is halved until it is not: the flow of a large face need not cost more."""

SIDE = 24
"""Side of the small picture, pixels."""

FRAMED = Alignment((0.28, 0.34), (0.72, 0.34))
"""Where the eyes are in it: it holds the brows and the mouth, hardly any background."""

Grey = npt.NDArray[np.uint8]
Look = npt.NDArray[np.float32]
"""A small picture of a face: float32 (SIDE * SIDE,), mean 0, length 1."""

Motion = npt.NDArray[np.float64]
"""A similarity, (2, 3): where a point of the frame before is now."""


def motion(before: Grey, now: Grey, points: Points, box: Box) -> Motion | None:
    """How a face moved.

    Args:
        before: uint8 (H, W), the frame before.
        now: the same size.
        points: float32 (68, 2) or (5, 2), landmarks in the frame before.
        box: the face in the frame before.

    Returns:
        float64 (2, 3), or None where too few points agree.
    """
    side = max(box.width, box.height) * (1 + 2 * AROUND)
    (x, y), (height, width) = box.centre, before.shape
    left, top = max(0, int(x - side / 2)), max(0, int(y - side / 2))
    right, bottom = min(width, int(x + side / 2) + 1), min(height, int(y + side / 2) + 1)
    if right - left < 16 or bottom - top < 16:
        return None
    one, other = before[top:bottom, left:right], now[top:bottom, left:right]
    shrink = 1
    while max(one.shape) > WIDEST * shrink:
        shrink *= 2
    if shrink > 1:
        size = max(1, one.shape[1] // shrink), max(1, one.shape[0] // shrink)
        one, other = (np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in (one, other))
    scale = np.array([one.shape[1] / (right - left), one.shape[0] / (bottom - top)])
    corner = np.array([left, top])
    # Pixel centres: coordinate 0 is the middle of the first pixel, whatever the size.
    start = ((points[RIGID[len(points)]] - corner + 0.5) * scale - 0.5).astype(np.float32)
    end, found, _ = cv2.calcOpticalFlowPyrLK(one, other, start, np.empty_like(start), winSize=(13, 13), maxLevel=3)
    kept = found[:, 0].astype(bool)
    if kept.sum() < NEEDED:
        return None
    source = (start[kept] + 0.5) / scale - 0.5 + corner
    target = (end[kept] + 0.5) / scale - 0.5 + corner
    between = float(np.ptp(points[:, 0])) or 1.0
    matrix, agree = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=max(1.0, AGREE * between), maxIters=100
    )
    if matrix is None or agree.sum() < NEEDED:
        return None
    factor = math.hypot(matrix[0, 0], matrix[1, 0])
    return np.asarray(matrix, np.float64) if 0.7 < factor < 1.4 else None


def move_points(points: Points, by: Motion) -> Points:
    """Points where a motion takes them."""
    return np.asarray(points @ by[:, :2].T + by[:, 2], np.float32)


def move_box(box: Box, by: Motion) -> Box:
    """A box where a motion takes it; it stays upright."""
    x, y = by[:, :2] @ np.array(box.centre) + by[:, 2]
    factor = math.hypot(by[0, 0], by[1, 0])
    width, height = box.width * factor, box.height * factor
    return Box(float(x) - width / 2, float(y) - height / 2, width, height)


def between(one: Box, other: Box, share: float) -> Box:
    """The box that lies this share, 0..1, of the way to the other."""
    return Box(
        one.x + share * (other.x - one.x),
        one.y + share * (other.y - one.y),
        one.width + share * (other.width - one.width),
        one.height + share * (other.height - one.height),
    )


def look(grey: Grey, eyes: Points) -> Look:
    """A face's small picture, free of light and contrast.

    Args:
        grey: uint8 (H, W).
        eyes: float32 (2, 2), see :func:`edge.preprocess.face_crop`; they don't coincide.
    """
    pixels = align(grey, eyes, FRAMED, SIDE, SIDE, "area").astype(np.float32).ravel()
    pixels -= pixels.mean()
    length = float(np.sqrt(pixels @ pixels))
    return np.asarray(pixels / max(length, 1e-6), np.float32)


def likeness(one: Look, other: Look) -> float:
    """Normalised correlation of two small pictures, -1..1.

    Of one face from frame to frame it is above 0.9. Of 23 different faces, half of the pairs lie under 0.41 and
    one in a hundred over 0.79.
    """
    return float(one @ other)


def plausible(eyes: Points, box: Box) -> bool:
    """Whether eyes can be those of the face in a box: apart as eyes are, in its upper half, nearly level."""
    across, down = (float(v) for v in eyes[1] - eyes[0])
    x, y = (float(v) for v in (eyes[0] + eyes[1]) / 2)
    distance = math.hypot(across, down)
    return (
        0.2 * box.width < distance < 0.75 * box.width
        and abs(down) < across
        and 0.1 * box.width < x - box.x < 0.9 * box.width
        and -0.05 * box.height < y - box.y < 0.65 * box.height
    )
