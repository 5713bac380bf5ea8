"""Optical flow with OpenCV and NumPy, on one thread or as many as OpenCV is given."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge.flow.contract import CLG, DIS, Field, Grey

Plane = npt.NDArray[np.float32]

COARSEST = 12
"""The pyramid ends before a side would fall under this many pixels."""

SPECTRAL_RADIUS = 0.995
"""Assumed of the Jacobi iteration: where the picture is flat, information only diffuses. The true value is below 1 for
every picture; one assumed too low slows convergence, and never prevents it."""

_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4


def dis(before: Grey, after: Grey, method: DIS) -> Field:
    """Dense inverse search; see :func:`edge.flow.flow` for the contract."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    # Patches are followed at several scales only if the smallest picture still holds some of them.
    deepest = max(0, int(np.log2(min(before.shape) / (2 * method.patch_size))))
    search.setFinestScale(min(method.finest_scale, deepest))
    search.setPatchSize(method.patch_size)
    search.setPatchStride(method.patch_stride)
    search.setGradientDescentIterations(method.descent_iterations)
    search.setVariationalRefinementIterations(method.refinement_iterations)
    return np.asarray(search.calc(before, after, np.zeros((*before.shape, 2), np.float32)), np.float32)


def clg(before: Grey, after: Grey, method: CLG) -> Field:
    """Combined local-global flow from coarse to fine; see :func:`edge.flow.flow` for the contract."""
    levels = [(before.astype(np.float32), after.astype(np.float32))]
    while min(levels[-1][0].shape) * method.shrink >= COARSEST:
        height, width = (round(side * method.shrink) for side in levels[-1][0].shape)
        first, second = (
            np.asarray(cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA), np.float32) for one in levels[-1]
        )
        levels.append((first, second))
    motion = np.zeros((*levels[-1][0].shape, 2), np.float32)
    for one, two in reversed(levels):
        if motion.shape[:2] != one.shape:
            growth = np.array([one.shape[1] / motion.shape[1], one.shape[0] / motion.shape[0]], np.float32)
            finer = cv2.resize(motion, (one.shape[1], one.shape[0]), interpolation=cv2.INTER_LINEAR)
            motion = np.asarray(finer, np.float32) * growth
        first, second = _smooth(one, method.sigma), _smooth(two, method.sigma)
        for _ in range(method.warps):
            motion = _improve(first, second, motion, method)
    return motion


def _improve(first: Plane, second: Plane, motion: Field, method: CLG) -> Field:
    """One linearisation about a motion, solved for the whole motion.

    The energy is  sum  w' J w + alpha |grad u|^2 + alpha |grad v|^2  with w = (u - u0, v - v0, 1), u0 and v0 the motion
    so far, and J the motion tensor: the outer product of (Ix, Iy, It), smoothed over rho. Its Euler-Lagrange equations
    at a pixel, with the Laplacian as four times (mean of the four neighbours - itself), are two equations in u and v.
    """
    height, width = first.shape
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = across + motion[..., 0], down + motion[..., 1]
    warped = np.asarray(cv2.remap(second, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)
    # Derivatives of the mean of both pictures are twice as accurate as those of either.
    middle: Plane = (first + warped) * np.float32(0.5)
    ix, iy, it = _derivative(middle, 1, 0), _derivative(middle, 0, 1), warped - first
    # What moved out of the picture has no counterpart: there the neighbours alone decide.
    seen = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).astype(np.float32)
    tensor = np.stack([ix * ix, ix * iy, iy * iy, ix * it, iy * it], axis=-1) * seen[..., None]
    j11, j12, j22, j13, j23 = np.moveaxis(_smooth(tensor, method.rho), -1, 0)
    alpha = np.float32(4 * method.alpha)
    # (J + alpha) (u, v) = alpha * mean of the neighbours + J (u0, v0) - (J13, J23): invert the left side once.
    determinant = (j11 + alpha) * (j22 + alpha) - j12 * j12
    a, b, c = (j22 + alpha) / determinant, -j12 / determinant, (j11 + alpha) / determinant
    u0, v0 = motion[..., 0], motion[..., 1]
    p, q = j11 * u0 + j12 * v0 - j13, j12 * u0 + j22 * v0 - j23
    constant = np.stack([a * p + b * q, b * p + c * q], axis=-1)
    a, b, c = a * alpha, b * alpha, c * alpha
    # Jacobi steps, accelerated by Chebyshev's semi-iteration (Golub and Varga 1961): as fast as over-relaxed
    # Gauss-Seidel, and every pixel of a step is independent of the others.
    earlier, now, omega = motion, motion, 1.0
    for step in range(method.iterations):
        mean = np.asarray(cv2.filter2D(now, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE), np.float32)
        following = constant.copy()
        following[..., 0] += a * mean[..., 0] + b * mean[..., 1]
        following[..., 1] += b * mean[..., 0] + c * mean[..., 1]
        if step:
            omega = 1 / (1 - SPECTRAL_RADIUS**2 * (omega / 4 if step > 1 else 0.5))
            following = np.float32(omega) * (following - earlier) + earlier
        earlier, now = now, following
    return np.asarray(now, np.float32)


def _smooth(plane: Plane, sigma: float) -> Plane:
    if sigma <= 0:
        return plane
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def _derivative(plane: Plane, x: int, y: int) -> Plane:
    """Central differences of fourth order, grey levels a pixel."""
    kernel = np.array([[1, -8, 0, 8, -1]], np.float32) / 12
    if y:
        kernel = kernel.T
    return np.asarray(cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)
