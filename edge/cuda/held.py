"""What must be given back to the driver when a device is closed, dropped or lost."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from typing import Any

import numpy.typing as npt

from edge.cuda.driver import Driver
from edge.cuda.kernels import Loaded


class Held:
    """What must be given back to the driver; apart from the device, so that it can be when that is dropped.

    PyCUDA aborts the process when a thread ends with a context still current, and when something is freed whose context
    can't be made current. It gives a primary context back in the wrong way when that is dropped without ``detach``. So
    here a context is current only while something is done; nothing is freed but by :meth:`release`, which detaches the
    context; and after that PyCUDA leaves everything alone that hangs on it.

    Args:
        drv: ``pycuda.driver``.
        driver: the rest of it.
        gpu: PyCUDA's device.
        ordinal: the same, as a number.

    Raises:
        pycuda.driver.Error, DriverError: no context can be had.
    """

    def __init__(self, drv: Any, driver: Driver, gpu: Any, ordinal: int) -> None:
        self.drv, self.driver = drv, driver
        self._device = driver.retain(ordinal)
        try:
            self.context = gpu.retain_primary_context()
        except BaseException:
            driver.release(self._device)
            raise
        self.stream: Any = None
        self.memory: list[Any] = []
        self.pinned: list[npt.NDArray[Any]] = []
        self.loaded: list[Loaded] = []
        self.graphs: list[int] = []
        self.events: list[list[Any]] = []
        self.closed = self.lost = False
        self._depth = threading.local()

    def push(self) -> None:
        """Make the context current for this thread, if it isn't.

        Raises:
            pycuda.driver.Error: it can't be.
        """
        depth = getattr(self._depth, "value", 0)
        if not depth:
            self.context.push()
        self._depth.value = depth + 1

    def pop(self) -> None:
        """Undo the last :meth:`push` of this thread.

        Raises:
            pycuda.driver.Error: it can't be undone; the context is gone for good then.
        """
        self._depth.value -= 1
        if not self._depth.value and not self.closed:
            try:
                self.context.pop()
            except self.drv.Error:
                self.lost = True
                self._detach()
                raise

    def release(self) -> None:
        """Give everything back, whatever has happened. May be called twice, and by any thread."""
        if self.closed:
            return
        self.closed = True
        try:
            if not getattr(self._depth, "value", 0) and not self.lost:
                self.context.push()
            if not self.lost and self.stream is not None:
                self.stream.synchronize()
        except self.drv.Error:
            self.lost = True
        # Whoever still has a page-locked array keeps what it lies in.
        users = _Users(self.driver, self._device, self.pinned)
        if self.lost:
            # Each piece that is freed would fail, loudly; they are gone with their context.
            self._detach()
        for graph in self.graphs:
            self.driver.destroy(graph)
        for loaded in self.loaded:
            loaded.release()
        for events in self.events:
            events.clear()
        for allocation in self.memory:
            with suppress(self.drv.Error):
                allocation.free()
        for things in (self.graphs, self.loaded, self.events, self.memory, self.pinned):
            things.clear()
        self.stream = None
        if not self.lost:
            self._detach()
        users.left()

    def _detach(self) -> None:
        """Let go of the context; PyCUDA leaves it current for this thread, dead as it is then."""
        handle = int(self.context.handle)
        with suppress(self.drv.Error):
            self.context.detach()
        self.driver.forget(handle)


class _Users:
    """Those who have page-locked arrays: with the last of them goes the context that the arrays lie in."""

    def __init__(self, driver: Driver, device: int, arrays: list[npt.NDArray[Any]]) -> None:
        self._driver, self._device = driver, device
        self._number = len(arrays) + 1
        for array in arrays:
            # At the end of the process the arrays must last until it is over.
            weakref.finalize(array, self.left).atexit = False

    def left(self) -> None:
        """One user less."""
        self._number -= 1
        if not self._number:
            self._driver.release(self._device)
