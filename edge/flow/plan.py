"""What a GPU has to do, as data: buffers and launches in order. No GPU is needed to read this.

Whoever runs a plan (PyCUDA on a robot, the host in tests) allocates its buffers, binds the ones it owns already, and
launches the kernels one after the other on one stream; each launch sees what the ones before it wrote.
``docs/flow.md`` has the kernels' arithmetic and their cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"
"""The folder of the sources. Each ``.cu`` compiles by itself: no headers, no libraries, C++11."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of device memory, aligned as ``cuMemAlloc`` aligns (256 bytes)."""

    name: str
    dtype: str
    """NumPy's name of its elements: ``uint8``, ``float16``, ``float32``, ``uint64``."""
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
