"""Optical flow with OpenCV and NumPy, on one thread or as many as OpenCV is given."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

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


class _Room:
    """Memory for one level of the pyramid, used again by the next flow.

    To ask the system for memory costs as much as to fill it, and more where several processes do.
    """

    def __init__(self, height: int, width: int) -> None:
        def planes(*counts: int) -> Planes:
            return np.empty((*counts, height, width), np.float32)

        self.first, self.second = planes(2)
        self.columns = np.arange(width, dtype=np.float32)
        self.rows = np.arange(height, dtype=np.float32)[:, None]
        self.padded: Plane = np.empty((height + 3, width + 3), np.float32)
        self.index = np.empty((2, height, width), np.intp)
        self.read, self.line, self.warped, self.seen = planes(4)
        self.system = planes(3)
        self.constant, self.now, self.earlier = planes(3, 2)
        # What one of the three steps needs alone: warp, linearise and relax in turn. The less memory, the more of it
        # stays in the cache.
        shared = planes(18)
        pairs = shared.reshape(9, 2, height, width)
        self.place, self.inside, self.corner, self.rest, self.product = pairs[:5]
        self.weights = pairs[5:]
        self.middle, self.ix, self.iy, self.it, self.x, self.y, self.spare, self.inverse = shared[:8]
        self.tensor, self.right = shared[8:13], shared[13:15]
        self.mean, self.following = pairs[:2]


_kept = threading.local()
MOST_ROOMS = 16
"""Sizes of levels that a thread remembers memory for: two kinds of crops have no more."""


def _room(height: int, width: int) -> _Room:
    rooms: dict[tuple[int, int], _Room] = _kept.__dict__.setdefault("rooms", {})
    if (height, width) not in rooms:
        while len(rooms) >= MOST_ROOMS:
            del rooms[next(iter(rooms))]
        rooms[height, width] = _Room(height, width)
    return rooms[height, width]


def clg(before: Grey, after: Grey, method: CLG) -> Field:
    """Combined local-global flow from coarse to fine; see :func:`edge.flow.flow` for the contract.

    ``edge/flow/kernels/flow.cu`` computes the same, kernel by function; what changes here changes there.
    """
    height, width = before.shape
    rooms = [_room(*size) for size in sizes(height, width, method)]
    for picture, made in ((before, rooms[0].first), (after, rooms[0].second)):
        np.copyto(made, picture)
        _smooth(made, method.sigma, made)
    for fine, coarse in pairwise(rooms):
        for picture, made in ((fine.first, coarse.first), (fine.second, coarse.second)):
            cv2.pyrDown(picture, dst=made, dstsize=made.shape[::-1], borderType=cv2.BORDER_REPLICATE)
    motion = rooms[-1].now
    motion.fill(0)
    for room in reversed(rooms):
        if room is not rooms[-1]:
            motion = _grow(motion, room.now)
        for _ in range(method.warps):
            _linearise(motion, method, room)
            motion = _relax(motion, method, room)
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


@cache
def gaussian(sigma: float) -> Plane:
    """Weights of a Gaussian window that ends at three standard deviations, (2 * radius + 1, 1), their sum 1."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1)[:, None] ** 2) / (2 * sigma * sigma))
    made = np.asarray(weights / weights.sum(), np.float32)
    made.flags.writeable = False  # it is handed out again
    return made


def _smooth(plane: Plane, sigma: float, made: Plane) -> None:
    if sigma > 0:
        window = gaussian(sigma)
        cv2.sepFilter2D(plane, -1, window, window, dst=made, borderType=cv2.BORDER_REPLICATE)
    elif made is not plane:
        np.copyto(made, plane)


def _grow(motion: Planes, made: Planes) -> Planes:
    """A motion for the next finer level: bilinear between the pixels, which lie on every second one of it."""
    height, width = made.shape[1:]
    right, bottom = 2 * motion.shape[2] - 2, 2 * motion.shape[1] - 2
    np.multiply(motion, np.float32(2), out=made[:, ::2, ::2])
    np.add(motion[..., :-1], motion[..., 1:], out=made[:, ::2, 1:right:2])
    if width % 2 == 0:
        made[:, ::2, -1] = made[:, ::2, -2]
    between = made[:, 1:bottom:2]
    np.add(made[:, :bottom:2], made[:, 2 : bottom + 1 : 2], out=between)
    between *= np.float32(0.5)
    if height % 2 == 0:
        made[:, -1] = made[:, -2]
    return made


def _warp(motion: Planes, room: _Room) -> None:
    """The second picture read where the motion points (``warped``), and how far that can be believed (``seen``).

    Keys' cubic convolution with a = -0.5: OpenCV's, with -0.75, reads up to 0.05 pixels beside the place, and at 32
    places a pixel only. ``seen`` is 1 where the place lies in the picture, and falls to 0 a pixel outside of it: what
    moved out of the picture has no counterpart, and a step at its border would make the flow depend on rounding.
    """
    height, width = room.second.shape
    place, inside, corner, seen = room.place, room.inside, room.corner, room.seen
    cv2.copyMakeBorder(room.second, 1, 2, 1, 2, cv2.BORDER_REPLICATE, dst=room.padded)
    np.add(motion[0], room.columns, out=place[0])
    np.add(motion[1], room.rows, out=place[1])
    np.clip(place[0], 0, width - 1, out=inside[0])
    np.clip(place[1], 0, height - 1, out=inside[1])
    place -= inside
    np.abs(place, out=place)
    np.add(place[0], place[1], out=seen)
    np.subtract(1, seen, out=seen)
    np.maximum(seen, 0, out=seen)
    np.floor(inside, out=corner)
    np.copyto(room.index, corner, casting="unsafe")
    columns, at = room.index
    at *= width + 3
    at += columns
    inside -= corner
    _cubic(inside, room)
    flat, line, warped = room.padded.ravel(), room.line, room.warped
    warped.fill(0)
    for row, (_, weight_down) in enumerate(room.weights):
        line.fill(0)
        for column, (weight_across, _) in enumerate(room.weights):
            # "clip" only spares NumPy a copy: every index is in the picture.
            flat[row * (width + 3) + column :].take(at, out=room.read, mode="clip")
            cv2.accumulateProduct(weight_across, room.read, line)
        cv2.accumulateProduct(weight_down, line, warped)


def _cubic(share: Planes, room: _Room) -> None:
    """Weights of the four pixels around a place that lies ``share`` of the way from the second to the third."""
    before, near, far, after = room.weights
    rest, product = room.rest, room.product
    np.subtract(1, share, out=rest)
    np.multiply(share, rest, out=product)
    product *= np.float32(-0.5)
    np.multiply(product, rest, out=before)
    np.multiply(product, share, out=after)
    # (1.5 share - 2.5) share^2 + 1
    np.multiply(share, np.float32(1.5), out=near)
    near -= np.float32(2.5)
    near *= share
    near *= share
    near += 1
    np.subtract(1, before, out=far)
    far -= near
    far -= after


def _linearise(motion: Planes, method: CLG, room: _Room) -> None:
    """The equations about a motion, solved for each pixel's whole motion given its neighbours'.

    The energy is  sum  w' J w + alpha |grad u|^2 + alpha |grad v|^2  with w = (u - u0, v - v0, 1), u0 and v0 the motion
    so far, and J the motion tensor: the outer product of (Ix, Iy, It), smoothed over rho. Its Euler-Lagrange equations
    at a pixel, with the Laplacian as four times (mean of the four neighbours - itself), are two equations in u and v.

    Leaves (a, b, c) in ``system`` and (p, q) in ``constant``: u = a * mean(u) + b * mean(v) + p, and
    v = b * mean(u) + c * mean(v) + q.
    """
    _warp(motion, room)
    ix, iy, it, x, y, spare = room.ix, room.iy, room.it, room.x, room.y, room.spare
    # Derivatives of the mean of both pictures are twice as accurate as those of either.
    cv2.addWeighted(room.first, 0.5, room.warped, 0.5, 0, dst=room.middle)
    cv2.filter2D(room.middle, -1, _SLOPE, dst=ix, borderType=cv2.BORDER_REPLICATE)
    cv2.filter2D(room.middle, -1, _SLOPE.T, dst=iy, borderType=cv2.BORDER_REPLICATE)
    np.subtract(room.warped, room.first, out=it)
    np.multiply(room.seen, ix, out=x)
    np.multiply(room.seen, iy, out=y)
    for made, one, other in zip(room.tensor, (x, x, y, x, y), (ix, iy, iy, it, it), strict=True):
        np.multiply(one, other, out=spare)
        _smooth(spare, method.rho, made)
    j11, j12, j22 = room.tensor[:3]
    # (J + w) (u, v) = w * mean of the neighbours + J (u0, v0) - (J13, J23) with w = 4 alpha: invert the left side once.
    # J (u0, v0) is written as (J + w) (u0, v0) - w (u0, v0), lest large numbers cancel where edges run one way only.
    weight = np.float32(4 * method.alpha)
    j11 += weight
    j22 += weight
    inverse, (a, b, c), constant, right = room.inverse, room.system, room.constant, room.right
    np.multiply(j11, j22, out=inverse)
    np.multiply(j12, j12, out=spare)
    inverse -= spare
    np.divide(1, inverse, out=inverse)
    np.multiply(j22, inverse, out=a)
    np.multiply(j12, inverse, out=b)
    np.negative(b, out=b)
    np.multiply(j11, inverse, out=c)
    np.multiply(motion, weight, out=right)
    right += room.tensor[3:]
    for made, one, other in ((constant[0], a, b), (constant[1], b, c)):
        np.multiply(one, right[0], out=made)
        cv2.accumulateProduct(other, right[1], made)
    np.subtract(motion, constant, out=constant)
    room.system *= weight


def _relax(motion: Planes, method: CLG, room: _Room) -> Planes:
    """Jacobi steps, accelerated by Chebyshev's semi-iteration (Golub and Varga 1961).

    As fast as over-relaxed Gauss-Seidel, and every pixel of a step is independent of the others.
    """
    a, b, c = room.system
    now: Planes = room.now
    earlier, mean, following = room.earlier, room.mean, room.following
    np.copyto(now, motion)
    np.copyto(earlier, motion)
    rows = (-1, now.shape[2])
    (mean_u, mean_v), (following_u, following_v), wanted = mean, following, following.reshape(rows)
    for omega in omegas(method):
        cv2.filter2D(now[0], -1, _NEIGHBOURS, dst=mean_u, borderType=cv2.BORDER_REPLICATE)
        cv2.filter2D(now[1], -1, _NEIGHBOURS, dst=mean_v, borderType=cv2.BORDER_REPLICATE)
        np.copyto(following, room.constant)
        cv2.accumulateProduct(a, mean_u, following_u)
        cv2.accumulateProduct(b, mean_v, following_u)
        cv2.accumulateProduct(b, mean_u, following_v)
        cv2.accumulateProduct(c, mean_v, following_v)
        flat = earlier.reshape(rows)
        cv2.addWeighted(wanted, omega, flat, 1 - omega, 0, dst=flat)
        now, earlier = earlier, now
    return now
