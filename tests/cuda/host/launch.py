"""Runs a plan with kernels that were compiled for the host."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.flow.plan import Launch, Number, Plan, Pointer, Slot


class Library:
    """A library made by ``build``."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.host_error.restype = ctypes.c_char_p

    def backwards(self, yes: bool) -> None:
        """Whether the threads between two barriers run from the last to the first."""
        self._library.host_backwards(int(yes))

    def launch(self, launch: Launch, buffers: Mapping[str, np.ndarray], slots: Mapping[str, int | float]) -> None:
        """One launch, as ``cuLaunchKernel`` would be called."""
        values: list[ctypes.c_void_p | ctypes.c_int32 | ctypes.c_float] = []
        for one in launch.arguments:
            if isinstance(one, Pointer):
                array = buffers[one.buffer]
                values.append(ctypes.c_void_p(array.ctypes.data + one.offset * array.itemsize))
                continue
            assert isinstance(one, Number | Slot)
            value = one.value if isinstance(one, Number) else slots[one.name]
            values.append(ctypes.c_int32(int(value)) if one.dtype == "int32" else ctypes.c_float(value))
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(one) for one in values))
        function = getattr(self._library, f"launch_{launch.kernel}")
        if function(*launch.grid, *launch.block, launch.shared, parameters):
            raise RuntimeError(f"{launch.kernel}: {self._library.host_error().decode()}")

    def run(
        self, plan: Plan, given: Mapping[str, np.ndarray], slots: Mapping[str, int | float] | None = None
    ) -> dict[str, np.ndarray]:
        """All launches of a plan; every buffer afterwards, by its name.

        What is not given is filled with a pattern that no kernel may depend on; behind each buffer lies a guard.
        """
        buffers, whole = {}, {}
        for one in plan.buffers:
            count = int(np.prod(one.shape))
            memory = np.full((count + GUARD) * np.dtype(one.dtype).itemsize, 0xFF, np.uint8).view(one.dtype)
            whole[one.name], buffers[one.name] = memory, memory[:count]
            if one.role == "input":
                array = given[one.name]
                assert array.shape == one.shape
                assert array.dtype == one.dtype
                buffers[one.name][:] = array.ravel()
        for launch in plan.launches:
            self.launch(launch, buffers, slots or {})
        for one in plan.buffers:
            guard = whole[one.name][-GUARD:].view(np.uint8)
            assert (guard == 0xFF).all(), f"written behind the end of {one.name}"
            if one.role == "input":
                assert np.array_equal(buffers[one.name], given[one.name].ravel()), f"{one.name} was changed"
        return {one.name: buffers[one.name].reshape(one.shape) for one in plan.buffers}


GUARD = 1024
"""Elements behind each buffer that nothing may write to."""
