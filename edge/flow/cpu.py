"""Optical flow with OpenCV and NumPy, on one thread or as many as OpenCV is given."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from edge.flow.contract import CLG, DIS, Field, Grey

Plane = npt.NDArray[np.float32]
"""float32 (H, W)."""
Planes = npt.NDArray[np.float32]
"""float32 (N, H, W), C-contiguous: OpenCV and NumPy are several times faster on planes than on interleaved numbers."""

_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
_SLOPE = np.array([[1, -8, 0, 8, -1]], np.float32) / 12
"""Central differences of fourth order, grey levels a pixel."""


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
    """Combined local-global flow from coarse to fine; see :func:`edge.flow.flow` for the contract.

    ``edge/flow/kernels/flow.cu`` computes the same, kernel by function; what changes here changes there.
    """
    first, second = (_smooth(one.astype(np.float32), method.sigma) for one in (before, after))
    levels = [(first, second)]
    height, width = before.shape
    for _ in sizes(height, width, method)[1:]:
        first, second = (
            np.asarray(cv2.pyrDown(one, borderType=cv2.BORDER_REPLICATE), np.float32) for one in levels[-1]
        )
        levels.append((first, second))
    motion = np.zeros((2, *levels[-1][0].shape), np.float32)
    for first, second in reversed(levels):
        if motion.shape[1:] != first.shape:
            motion = _grow(motion, *first.shape)
        for _ in range(method.warps):
            motion = _relax(*_linearise(first, second, motion, method), motion, method)
    return np.ascontiguousarray(motion.transpose(1, 2, 0))


def sizes(height: int, width: int, method: CLG) -> list[tuple[int, int]]:
    """Height and width of every level of the pyramid, the finest first; sides halve each time, rounded up."""
    levels = [(height, width)]
    while min(levels[-1]) + 1 >= 2 * method.coarsest:
        height, width = (height + 1) // 2, (width + 1) // 2
        levels.append((height, width))
    return levels


def omegas(method: CLG) -> Iterator[float]:
    """The weights of Chebyshev's semi-iteration, one for each relaxation step (Golub and Varga 1961)."""
    squared, omega = method.spectral_radius**2, 1.0
    for step in range(method.iterations):
        if step:
            omega = 1 / (1 - squared * omega / (2 if step == 1 else 4))
        yield omega


def gaussian(sigma: float) -> Plane:
    """Weights of a Gaussian window that ends at three standard deviations, (2 * radius + 1, 1), their sum 1."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1)[:, None] ** 2) / (2 * sigma * sigma))
    return np.asarray(weights / weights.sum(), np.float32)


def _smooth(plane: Plane, sigma: float) -> Plane:
    if sigma <= 0:
        return plane
    window = gaussian(sigma)
    return np.asarray(cv2.sepFilter2D(plane, -1, window, window, borderType=cv2.BORDER_REPLICATE), np.float32)


def _grow(motion: Planes, height: int, width: int) -> Planes:
    """A motion for the next finer level: bilinear between the pixels, which lie on every second one of it."""
    motion = np.pad(motion * np.float32(2), ((0, 0), (0, 1), (0, 1)), "edge")
    wide = np.empty((2, motion.shape[1], 2 * motion.shape[2] - 2), np.float32)
    wide[..., ::2] = motion[..., :-1]
    wide[..., 1::2] = np.float32(0.5) * (motion[..., :-1] + motion[..., 1:])
    high = np.empty((2, 2 * motion.shape[1] - 2, wide.shape[2]), np.float32)
    high[:, ::2] = wide[:, :-1]
    high[:, 1::2] = np.float32(0.5) * (wide[:, :-1] + wide[:, 1:])
    return np.ascontiguousarray(high[:, :height, :width])


def _warp(picture: Plane, motion: Planes) -> tuple[Plane, Plane]:
    """A picture read where the motion points, and how far that can be believed.

    Keys' cubic convolution with a = -0.5: OpenCV's, with -0.75, reads up to 0.05 pixels beside the place, and at 32
    places a pixel only.

    Returns:
        The grey levels, and 1 where they lie in the picture, falling to 0 a pixel outside of it: what moved out of the
        picture has no counterpart, and a step at its border would make the flow depend on rounding.
    """
    height, width = picture.shape
    padded = np.asarray(cv2.copyMakeBorder(picture, 1, 2, 1, 2, cv2.BORDER_REPLICATE), np.float32)
    x = motion[0] + np.arange(width, dtype=np.float32)
    y = motion[1] + np.arange(height, dtype=np.float32)[:, None]
    inside_x, inside_y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    seen = np.maximum(1 - (np.abs(x - inside_x) + np.abs(y - inside_y)), np.float32(0))
    left, top = np.floor(inside_x), np.floor(inside_y)
    across, down = _cubic(inside_x - left), _cubic(inside_y - top)
    corner = top.astype(np.intp)
    corner *= width + 3
    corner += left.astype(np.intp)
    flat, read = padded.ravel(), np.empty_like(picture)
    warped = np.zeros_like(picture)
    for row, weight_down in enumerate(down):
        line = np.zeros_like(picture)
        for column, weight_across in enumerate(across):
            # "clip" only spares NumPy a copy: every index is in the picture.
            np.take(flat[row * (width + 3) + column :], corner, out=read, mode="clip")
            cv2.accumulateProduct(weight_across, read, line)
        cv2.accumulateProduct(weight_down, line, warped)
    return warped, seen


def _cubic(share: Plane) -> tuple[Plane, Plane, Plane, Plane]:
    """Weights of the four pixels around a place that lies ``share`` of the way from the second to the third."""
    half = np.float32(0.5)
    rest = 1 - share
    product = share * rest
    before = -half * product * rest
    after = -half * product * share
    near = (np.float32(1.5) * share - np.float32(2.5)) * share * share + 1
    return before, near, 1 - before - near - after, after


def _linearise(first: Plane, second: Plane, motion: Planes, method: CLG) -> tuple[Planes, Planes]:
    """The equations about a motion, solved for each pixel's whole motion given its neighbours'.

    The energy is  sum  w' J w + alpha |grad u|^2 + alpha |grad v|^2  with w = (u - u0, v - v0, 1), u0 and v0 the motion
    so far, and J the motion tensor: the outer product of (Ix, Iy, It), smoothed over rho. Its Euler-Lagrange equations
    at a pixel, with the Laplacian as four times (mean of the four neighbours - itself), are two equations in u and v.

    Returns:
        (a, b, c) and (p, q): u = a * mean(u) + b * mean(v) + p, v = b * mean(u) + c * mean(v) + q.
    """
    warped, seen = _warp(second, motion)
    # Derivatives of the mean of both pictures are twice as accurate as those of either.
    middle = cv2.addWeighted(first, 0.5, warped, 0.5, 0)
    ix = np.asarray(cv2.filter2D(middle, -1, _SLOPE, borderType=cv2.BORDER_REPLICATE), np.float32)
    iy = np.asarray(cv2.filter2D(middle, -1, _SLOPE.T, borderType=cv2.BORDER_REPLICATE), np.float32)
    it = warped - first
    x, y = seen * ix, seen * iy
    j11, j12, j22, j13, j23 = (_smooth(one, method.rho) for one in (x * ix, x * iy, y * iy, x * it, y * it))
    u0, v0 = motion
    right_x, right_y = j11 * u0 + j12 * v0 - j13, j12 * u0 + j22 * v0 - j23
    # (J + 4 alpha) (u, v) = 4 alpha * mean of the neighbours + J (u0, v0) - (J13, J23): invert the left side once.
    weight = np.float32(4 * method.alpha)
    j11, j22 = j11 + weight, j22 + weight
    inverse = 1 / (j11 * j22 - j12 * j12)
    a, b, c = j22 * inverse, -j12 * inverse, j11 * inverse
    constant = np.stack([a * right_x + b * right_y, b * right_x + c * right_y])
    return np.stack([a, b, c]) * weight, constant


def _relax(system: Planes, constant: Planes, motion: Planes, method: CLG) -> Planes:
    """Jacobi steps, accelerated by Chebyshev's semi-iteration (Golub and Varga 1961).

    As fast as over-relaxed Gauss-Seidel, and every pixel of a step is independent of the others.
    """
    a, b, c = system
    rows = (2 * motion.shape[1], motion.shape[2])
    now: Planes = motion.copy()
    earlier, mean, following = motion.copy(), np.empty_like(motion), np.empty_like(motion)
    for omega in omegas(method):
        for at in range(2):
            cv2.filter2D(now[at], -1, _NEIGHBOURS, dst=mean[at], borderType=cv2.BORDER_REPLICATE)
        np.copyto(following, constant)
        cv2.accumulateProduct(a, mean[0], following[0])
        cv2.accumulateProduct(b, mean[1], following[0])
        cv2.accumulateProduct(b, mean[0], following[1])
        cv2.accumulateProduct(c, mean[1], following[1])
        flat = earlier.reshape(rows)
        cv2.addWeighted(following.reshape(rows), omega, flat, 1 - omega, 0, dst=flat)
        now, earlier = earlier, now
    return now
