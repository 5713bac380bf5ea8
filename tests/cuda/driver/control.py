"""The handles of the tests' driver, in a process that has loaded it."""

from __future__ import annotations

import ctypes

_library = ctypes.CDLL("libcuda.so.1")
_library.edge_driver_count.restype = ctypes.c_long
_library.edge_driver_count.argtypes = [ctypes.c_char_p]
_library.edge_driver_fail.restype = None
_library.edge_driver_fail.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int]

KINDS = ("memory", "pinned", "streams", "events", "modules", "graphs", "holders", "current", "overruns")


def count(name: str) -> int:
    """How many of a kind there are, or how often a function was called."""
    return int(_library.edge_driver_count(name.encode()))


def left() -> dict[str, int]:
    """What nobody has given back."""
    return {kind: number for kind in KINDS if (number := count(kind))}


def fail(name: str, code: int, after: int = 0, always: bool = False) -> None:
    """A function, ``run:KERNEL`` or ``copy`` fails with a code; 0 heals it."""
    _library.edge_driver_fail(name.encode(), code, after, int(always))


def reset() -> None:
    """Forget faults and what is left."""
    _library.edge_driver_reset()


def forgive() -> None:
    """Forget what was written too far."""
    _library.edge_driver_forgive()
