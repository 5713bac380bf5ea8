"""A face from one frame to the next, between two looks of the detector.

Optical flow moves its landmarks, and its small upright picture says whether what is there now is still that face.

Flow: pyramidal Lucas-Kanade (Bouguet 2001) on the points that an expression hardly moves, and the similarity that
fits most of them. About 0.15 ms a face, where the detector and the landmarks take one to two.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

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

INNER = slice(2, 46)
"""Rows and columns of the upright picture that a face is known by: less of what is around it."""

SIDE = 22
"""Side to which they are halved, pixels."""

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
    shrink = 1
    while max(right - left, bottom - top) > WIDEST * shrink:
        shrink *= 2
    # Whole multiples of it, since OpenCV halves those in a tenth of the time that it takes for others.
    right, bottom = right - (right - left) % shrink, bottom - (bottom - top) % shrink
    one, other = before[top:bottom, left:right], now[top:bottom, left:right]
    if shrink > 1:
        size = one.shape[1] // shrink, one.shape[0] // shrink
        one, other = (np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in (one, other))
    # Pixel centres: coordinate 0 is the middle of the first pixel, whatever the size.
    corner = complex(left, top) + complex(0.5, 0.5) * (shrink - 1)
    start = (points[RIGID[len(points)]] - np.array((corner.real, corner.imag), np.float32)) * np.float32(1 / shrink)
    end, found, _ = cv2.calcOpticalFlowPyrLK(one, other, start, np.empty_like(start), winSize=(13, 13), maxLevel=3)
    count = cv2.countNonZero(found)
    if count < NEEDED:
        return None
    if count < len(start):
        kept = found[:, 0].astype(bool)
        start, end = start[kept], end[kept]
    apart = float(np.ptp(points[:, 0])) or 1.0
    matrix, agree = cv2.estimateAffinePartial2D(
        start, end, method=cv2.RANSAC, ransacReprojThreshold=max(1.0, AGREE * apart) / shrink, maxIters=100
    )
    if matrix is None or cv2.countNonZero(agree) < NEEDED:
        return None
    (factor, _, across), (turn, _, down) = matrix.tolist()
    by = complex(factor, turn)
    if not 0.7 < abs(by) < 1.4:
        return None
    # The same in the frame's coordinates: x goes to by * (x - corner) + shrink * shift + corner.
    shift = shrink * complex(across, down) + corner - by * corner
    return np.array(((factor, -turn, shift.real), (turn, factor, shift.imag)))


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


def look(picture: Grey) -> Look:
    """What a face is known by, free of light and contrast.

    Args:
        picture: see :func:`edge.faces.upright.upright`.
    """
    inner = cv2.resize(picture[INNER, INNER], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    pixels = inner.astype(np.float32).ravel()
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
