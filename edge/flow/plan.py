"""What a GPU has to do, as data: buffers and launches in order. No GPU is needed to read this.

Whoever runs a plan (PyCUDA on a robot, the host in tests) allocates its buffers, binds the ones it owns already, and
launches the kernels one after the other on one stream; each launch sees what the ones before it wrote.
``docs/flow.md`` has the kernels' arithmetic and their cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.errors import OptionError
from edge.faces.align import MAX_SUPERSAMPLING, similarity
from edge.flow.contract import CLG, SMALLEST, Method
from edge.flow.cpu import omegas, sizes
from edge.manifest import InputSpec, Normalisation
from edge.types import Points

KERNELS = Path(__file__).parent / "kernels"
"""The folder of the sources. Each ``.cu`` compiles by itself: no headers, no libraries, C++11."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of device memory, aligned as ``cuMemAlloc`` aligns (256 bytes)."""

    name: str
    dtype: str
    """NumPy's name of its elements: ``uint8``, ``uint32``, ``float16`` or ``float32``."""
    shape: tuple[int, ...]
    """C order, no gaps."""
    role: str
    """``input``: filled before the first launch. ``output``: read after the last. ``scratch``: neither; its contents
    before the first launch do not matter, and plans that never run at the same time may share it."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """An argument: where a buffer starts, or an element of it."""

    buffer: str
    offset: int = 0
    """Elements, not bytes."""


@dataclass(frozen=True, slots=True)
class Number:
    """An argument: a number that is the same in every run."""

    value: int | float
    dtype: str
    """``int32`` or ``float32``."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An argument: a number that is given anew with every run, by name."""

    name: str
    dtype: str
    """``int32`` or ``float32``."""


Argument = Pointer | Number | Slot


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch. Its arguments are 8 bytes (pointer) or 4 bytes (number) each, in this order."""

    source: str
    """File in ``KERNELS``."""
    kernel: str
    """The ``extern "C"`` name in it."""
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    """Dynamic shared memory, bytes; at most 48 KiB, so that no attribute has to be set."""
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Buffers and launches of one job."""

    buffers: tuple[Buffer, ...]
    launches: tuple[Launch, ...]

    def buffer(self, name: str) -> Buffer:
        """A buffer by its name; KeyError where there is none."""
        for one in self.buffers:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def slots(self) -> tuple[str, ...]:
        """What every run must be given, each name once."""
        arguments = (one for launch in self.launches for one in launch.arguments)
        return tuple(dict.fromkeys(one.name for one in arguments if isinstance(one, Slot)))


TILE = (32, 16)
"""Width and height of what a block of ``smooth`` or ``linearise`` makes."""
BLOCK = (32, 8, 1)
SQUARE = 48
"""Side of the square that a block of ``relax`` works on."""
SQUARE_ROWS = 12
"""Rows of it that its threads make at a time."""
HALO = 8
"""Steps that ``relax`` takes in one launch where a level is larger than a square: a step costs a pixel on each side."""
NONE, SAME, COARSER = range(3)
"""Where ``linearise`` finds the motion so far."""
WIDEST_WINDOW = 17
"""Weights of the widest Gaussian."""
INTO = {None: 0, "float32": 1, "float16": 2}
"""What ``draw``, ``cut`` and ``normalise`` write to a tensor."""
LINEAR_THREADS = 256
MOST_BLOCKS = 64
"""Of ``normalise``: every block adds up all partial sums, so there are not more than keep the GPU busy."""


@dataclass(frozen=True, slots=True)
class Image:
    """How a picture enters the engine."""

    dtype: str
    """``float32`` or ``float16``."""
    normalisation: Normalisation


def plan(height: int, width: int, method: Method, image: Image | None = None) -> Plan:
    """The flow between two grey pictures, the same as :func:`edge.flow.flow` within 0.001 pixels.

    Args:
        height: of the pictures, pixels.
        width: of the pictures, pixels.
        method: ``clg`` with its parameters; ``dis`` is OpenCV's, and has no kernels.
        image: draw the flow image too (:func:`edge.flow.flow_image`), normalised, as the engine wants it.

    Returns:
        Inputs ``before`` and ``after``, uint8 (height, width); outputs ``motion``, float32 (2, height, width), x then
        y, and with an image ``tensor``, (3, height, width).

    Raises:
        OptionError: no kernels for that method, size or dtype.
    """
    if not isinstance(method, CLG):
        raise OptionError(f"flow {method.name!r} has no kernels; expected 'clg'; run it on the CPU: edge.flow.flow")
    if min(height, width) < SMALLEST:
        raise OptionError(f"a flow of {width}x{height} pixels; expected {SMALLEST}x{SMALLEST} or larger; enlarge it")
    levels = sizes(height, width, method)
    buffers = [
        Buffer("before", "uint8", (height, width), "input"),
        Buffer("after", "uint8", (height, width), "input"),
        Buffer("motion", "float32", (2, height, width), "output"),
    ]
    for at, (high, wide) in enumerate(levels):
        buffers += [Buffer(f"{name}{at}", "float32", (high, wide), "scratch") for name in ("first", "second")]
        buffers += [Buffer(f"motion{at}", "float32", (2, high, wide), "scratch")] if at else []
    buffers.append(Buffer("system", "float32", (5, height, width), "scratch"))
    buffers += [Buffer(name, "float32", (2, height, width), "scratch") for name in FIELDS]
    launches = _pyramid(levels, method)
    for at in reversed(range(len(levels))):
        launches += _level(levels, at, method)
    if image is not None:
        more, drawn = _drawing(height, width, image)
        buffers += more
        launches += drawn
    used = {one.buffer for launch in launches for one in launch.arguments if isinstance(one, Pointer)}
    return Plan(tuple(one for one in buffers if one.name in used), tuple(launches))


FIELDS = ("start", "now0", "earlier0", "now1", "earlier1")
"""Fields of one level at a time."""


def crop_plan(frame_height: int, frame_width: int, spec: InputSpec, dtype: str | None) -> Plan:
    """A face out of a frame: :func:`edge.preprocess.face_crop` and :func:`edge.preprocess.to_tensor`.

    Args:
        frame_height: of the frames, pixels.
        frame_width: of the frames, pixels.
        spec: the bundle's input; for the grey crops of a ``flow``, what :func:`edge.preprocess.crop_specs` made of it.
        dtype: of the engine's input, ``float32`` or ``float16``; None where the crop alone is wanted.

    Returns:
        Input ``frame``, uint8 (frame_height, frame_width, 3), BGR; outputs ``crop``, uint8 (C, height, width), and with
        a dtype ``tensor``, (C, height, width). Each run must be given :func:`crop_slots`.

    Raises:
        OptionError: no such dtype.
    """
    _known(dtype)
    height, width, fixed = spec.height, spec.width, spec.normalisation.kind == "fixed"
    channels, grid = 1 if spec.colour == "grey" else 3, _grid(width, height, BLOCK[0], BLOCK[1])
    buffers = [
        Buffer("frame", "uint8", (frame_height, frame_width, 3), "input"),
        Buffer("crop", "uint8", (channels, height, width), "output"),
        Buffer("partial", "uint32", (grid[0] * grid[1], 2), "scratch"),
    ]
    if dtype is not None:
        buffers.append(Buffer("tensor", dtype, (channels, height, width), "output"))
    at_once = dtype if fixed else None
    cut = Launch(
        "tensor.cu",
        "cut",
        grid,
        BLOCK,
        _sums(BLOCK),
        (
            Pointer("frame"),
            *_ints(frame_width, frame_height),
            *(Slot(name, "float32") for name in ("xx", "xy", "x0", "yx", "yy", "y0")),
            Slot("finer", "int32"),
            *_ints(("grey", "bgr", "rgb").index(spec.colour), width, height),
            Pointer("crop"),
            Pointer("partial"),
            *_ints(INTO[at_once]),
            *_fixed(spec.normalisation if at_once else None),
            Pointer("tensor" if at_once else "crop"),
        ),
    )
    launches = [cut]
    if dtype is not None and not fixed:
        launches.append(_normalise("crop", channels * height * width, grid, spec.normalisation, dtype))
    return Plan(tuple(buffers), tuple(launches))


def crop_slots(eyes: Points, spec: InputSpec) -> dict[str, int | float]:
    """What a run of a :func:`crop_plan` must be given: where the face is, and how finely it is sampled.

    Args:
        eyes: float32 (2, 2), see :func:`edge.faces.align.similarity`.
        spec: the input that the plan was made for.

    Raises:
        ValueError: the two eyes coincide.
    """
    matrix = similarity(eyes, spec.alignment, spec.width, spec.height)
    finer = 1
    if spec.interpolation == "area":
        shrink = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
        finer = min(MAX_SUPERSAMPLING, max(1, math.ceil(shrink)))
    # The finer grid's pixel k lies at (k - (finer - 1) / 2) / finer of the crop.
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    back[:, 2] -= back[:, :2].sum(axis=1) * (finer - 1) / 2 / finer
    back[:, :2] /= finer
    numbers = dict(zip(("xx", "xy", "x0", "yx", "yy", "y0"), map(float, back.ravel()), strict=True))
    return {**numbers, "finer": finer}


def _pyramid(levels: list[tuple[int, int]], method: CLG) -> list[Launch]:
    """Both pictures as floats, smoothed, at every level."""
    (height, width), radius = levels[0], math.ceil(3 * method.sigma)
    wide, high = TILE[0] + 2 * radius, TILE[1] + 2 * radius
    shared = 4 * (WIDEST_WINDOW + wide * high + TILE[0] * high)
    arguments: tuple[Argument, ...] = (
        Pointer("before"),
        Pointer("after"),
        *_ints(width, height, radius),
        Number(float(method.sigma), "float32"),
        Pointer("first0"),
        Pointer("second0"),
    )
    launches = [Launch("flow.cu", "smooth", (*_grid(width, height, *TILE)[:2], 2), BLOCK, shared, arguments)]
    for at, (high, wide) in enumerate(levels[1:], start=1):
        from_high, from_wide = levels[at - 1]
        launches.append(
            Launch(
                "flow.cu",
                "halve",
                (*_grid(wide, high, BLOCK[0], BLOCK[1])[:2], 2),
                BLOCK,
                0,
                (
                    Pointer(f"first{at - 1}"),
                    Pointer(f"second{at - 1}"),
                    *_ints(from_wide, from_high),
                    Pointer(f"first{at}"),
                    Pointer(f"second{at}"),
                ),
            )
        )
    return launches


def _level(levels: list[tuple[int, int]], at: int, method: CLG) -> list[Launch]:
    """All warps of one level. It starts from the motion of the coarser one, and leaves its own."""
    (height, width), radius = levels[at], math.ceil(3 * method.rho)
    wide, high = TILE[0] + 2 * radius, TILE[1] + 2 * radius
    tensors = max((wide + 4) * (high + 4), 5 * (TILE[0] + 1) * high)
    shared = 4 * (WIDEST_WINDOW + 3 * (wide + 1) * high + tensors)
    launches, weights = [], [1.0, *omegas(method)]
    halo, per_launch = (0, method.iterations) if max(height, width) <= SQUARE else (HALO, HALO)
    for warp in range(method.warps):
        source, start = _own(at), SAME
        if warp == 0:
            source, start = (_own(at + 1), COARSER) if at + 1 < len(levels) else (source, NONE)
        from_high, from_wide = levels[at + 1] if start == COARSER else levels[at]
        launches.append(
            Launch(
                "flow.cu",
                "linearise",
                _grid(width, height, *TILE),
                BLOCK,
                shared,
                (
                    Pointer(f"first{at}"),
                    Pointer(f"second{at}"),
                    *_ints(width, height),
                    Pointer(source),
                    *_ints(from_wide, from_high, start, radius),
                    Number(float(method.rho), "float32"),
                    Number(4 * float(method.alpha), "float32"),
                    Pointer("system"),
                    Pointer("start"),
                ),
            )
        )
        now = earlier = "start"
        for turn, begin in enumerate(range(0, method.iterations, per_launch)):
            steps = min(per_launch, method.iterations - begin)
            last = begin + steps == method.iterations
            out_now, out_earlier = (_own(at) if last else f"now{turn % 2}"), f"earlier{turn % 2}"
            launches.append(
                Launch(
                    "flow.cu",
                    "relax",
                    _grid(width, height, SQUARE - 2 * halo, SQUARE - 2 * halo),
                    (SQUARE, SQUARE_ROWS, 1),
                    4 * 4 * SQUARE * SQUARE,
                    (
                        Pointer("system"),
                        *_ints(width, height, halo, begin, steps),
                        Number(weights[begin], "float32"),
                        Number(method.spectral_radius**2, "float32"),
                        *map(Pointer, (now, earlier)),
                        *_ints(int(not last)),
                        *map(Pointer, (out_now, out_earlier)),
                    ),
                )
            )
            now, earlier = out_now, out_earlier
    return launches


def _own(at: int) -> str:
    """The buffer of a level's motion; the finest's is what is wanted."""
    return f"motion{at}" if at else "motion"


def _drawing(height: int, width: int, image: Image) -> tuple[list[Buffer], list[Launch]]:
    """The flow image, from the motion to the engine's input."""
    _known(image.dtype)
    grid, fixed = _grid(width, height, BLOCK[0], BLOCK[1]), image.normalisation.kind == "fixed"
    buffers = [Buffer("tensor", image.dtype, (3, height, width), "output")]
    if not fixed:
        buffers += [
            Buffer("levels", "uint8", (3, height, width), "scratch"),
            Buffer("partial", "uint32", (grid[0] * grid[1], 2), "scratch"),
        ]
    arguments: tuple[Argument, ...] = (
        Pointer("motion"),
        *_ints(width, height, INTO[image.dtype if fixed else None]),
        *_fixed(image.normalisation if fixed else None),
        Pointer("tensor"),
        Pointer("tensor" if fixed else "levels"),
        Pointer("tensor" if fixed else "partial"),
    )
    launches = [Launch("tensor.cu", "draw", grid, BLOCK, 0 if fixed else _sums(BLOCK), arguments)]
    if not fixed:
        launches.append(_normalise("levels", 3 * height * width, grid, image.normalisation, image.dtype))
    return buffers, launches


def _normalise(levels: str, count: int, grid: tuple[int, int, int], how: Normalisation, dtype: str) -> Launch:
    blocks = min(math.ceil(count / LINEAR_THREADS), MOST_BLOCKS)
    arguments: tuple[Argument, ...] = (
        Pointer(levels),
        *_ints(count),
        Pointer("partial"),
        *_ints(grid[0] * grid[1]),
        Number(float(how.min_std), "float32"),
        *_ints(INTO[dtype]),
        Pointer("tensor"),
    )
    return Launch("tensor.cu", "normalise", (blocks, 1, 1), (LINEAR_THREADS, 1, 1), 2 * 8 * LINEAR_THREADS, arguments)


def _known(dtype: str | None) -> None:
    if dtype not in INTO:
        raise OptionError(f"a tensor of {dtype!r}; expected float32 or float16; cast it after the kernel")


def _grid(width: int, height: int, tile_width: int, tile_height: int) -> tuple[int, int, int]:
    return math.ceil(width / tile_width), math.ceil(height / tile_height), 1


def _sums(block: tuple[int, int, int]) -> int:
    """Shared memory of a block that adds up two whole numbers a thread, bytes."""
    return 2 * 4 * block[0] * block[1]


def _ints(*values: int) -> tuple[Number, ...]:
    return tuple(Number(value, "int32") for value in values)


def _fixed(how: Normalisation | None) -> tuple[Number, ...]:
    """Three means and three deviations; those of a single channel leave two that nobody reads."""
    mean, std = (how.mean, how.std) if how else ((), ())
    values = [*mean, *[0.0] * (3 - len(mean)), *std, *[1.0] * (3 - len(std))]
    return tuple(Number(float(value), "float32") for value in values)
