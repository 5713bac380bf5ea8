"""The GPU itself: one context, one stream, memory that is allocated once, and the way out when something fails."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.cache import cache_folder
from edge.cuda.driver import OUT_OF_MEMORY, SUCCESS, DriverError
from edge.cuda.errors import DeviceLostError, DeviceMemoryError
from edge.cuda.held import Held
from edge.cuda.kernels import Kernels, Loaded, compiled
from edge.cuda.opening import WAY_OUT, opened
from edge.errors import BackendError, ClosedError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING."""


class Buffer:
    """Memory on the GPU, whose contents are undefined until something is written. Made by :meth:`Device.buffer`.

    Attributes:
        pointer: its address there; for TensorRT's ``set_tensor_address`` and for kernels.
        nbytes: its size.
        shape, dtype: of the array that it holds, C-contiguous.
    """

    __slots__ = ("_owner", "dtype", "nbytes", "pointer", "shape")

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: npt.DTypeLike, owner: object) -> None:
        self.pointer, self.shape, self.dtype = pointer, shape, np.dtype(dtype)
        self.nbytes = math.prod(shape) * self.dtype.itemsize
        self._owner = owner

    def part(self, start: int, shape: Sequence[int]) -> Buffer:
        """A smaller array inside this one's memory.

        Args:
            start: at which element it begins.
            shape: its shape.

        Raises:
            ValueError: it does not lie within.
        """
        if start < 0 or (start + math.prod(shape)) * self.dtype.itemsize > self.nbytes:
            raise ValueError(f"part {tuple(shape)} from element {start} does not lie within {self.shape}")
        return Buffer(self.pointer + start * self.dtype.itemsize, tuple(shape), self.dtype, self._owner)

    def __repr__(self) -> str:
        return f"Buffer({self.shape}, {self.dtype.name})"


class Timer:
    """How long the GPU takes from one point of the stream to another. Made by :meth:`Device.timer`."""

    def __init__(self, device: Device, events: list[Any]) -> None:
        # The list is the device's, which empties it when it is closed.
        self._device, self._events = device, events

    def start(self) -> None:
        """Mark the beginning in the stream."""
        with self._device.doing("timing"):
            self._events[0].record(self._device.queue)

    def stop(self) -> None:
        """Mark the end in the stream."""
        with self._device.doing("timing"):
            self._events[1].record(self._device.queue)

    @property
    def ms(self) -> float:
        """Milliseconds between both; waits for the end."""
        with self._device.doing("timing"):
            first, last = self._events
            last.synchronize()
            return float(last.time_since(first))


class Graph:
    """Work on the stream, replayed in one call where it could be captured. Made by :meth:`Device.capture`.

    Attributes:
        refusal: why it could not be captured; None where it was. Calling the graph then does the work anew each time.
    """

    def __init__(self, device: Device, work: Callable[[], None], executable: int, refusal: str | None) -> None:
        self._device, self._work = device, work
        self.executable, self.refusal = executable, refusal

    def __call__(self) -> None:
        """Queue the work once more, with the same addresses."""
        if not self.executable:
            self._work()
            return
        device = self._device
        with device.doing("replaying a graph"):
            device.check(device.driver.launch(self.executable, device.stream), "cuGraphLaunch")


class Device:
    """One GPU, opened. Any thread may use it, one at a time; a device that nobody closed closes when it is dropped.

    Args:
        ordinal: which of the machine's GPUs.
        cache: where compiled kernels are kept; see :func:`edge.cache.cache_folder` for the default.

    Attributes:
        name: as the driver calls it.
        capability: (8, 7) for Orin, (11, 0) for Thor.
        driver_version: the newest CUDA that the driver runs, as (12, 6).
        memory: bytes in all; on a Jetson the processor's own memory is the same.
        stream: the handle of the one stream on which everything happens, in order; for ``execute_async_v3``.
        lost: why the GPU can't be used any more, or None.

    Raises:
        BackendError: no PyCUDA, no driver, too old a driver, or no such GPU; the message says which, and what to type.
        DeviceMemoryError: not even a context fits.
    """

    def __init__(self, ordinal: int = 0, *, cache: Path | None = None) -> None:
        self.drv, self.driver = opened()
        self.driver_version = self.driver.version()
        self._cache = cache or cache_folder()
        self._loaded: dict[tuple[Path, ...], Loaded] = {}
        self.lost: str | None = None
        self.name = "the GPU"
        try:
            count = self.drv.Device.count()
            if not 0 <= ordinal < count:
                raise BackendError(f"GPU {ordinal} was asked for; this machine has {count}, counted from 0; {WAY_OUT}")
            gpu = self.drv.Device(ordinal)
            self.name, self.capability, self.memory = gpu.name(), gpu.compute_capability(), gpu.total_memory()
            self._held = Held(self.drv, self.driver, gpu, ordinal)
        except (self.drv.Error, DriverError) as error:
            raise self.translated(error, "opening it", alive=True) from error
        self._finalizer = weakref.finalize(self, self._held.release)
        try:
            with self.doing("making a stream"):
                # Not ordered with the default stream, on which other libraries may wait for each other.
                self._held.stream = self.drv.Stream(NON_BLOCKING)
        except BaseException:
            self.close()
            raise
        self.stream = int(self._held.stream.handle)

    @property
    def queue(self) -> Any:
        """The stream, as PyCUDA's object."""
        return self._held.stream

    def active(self) -> Doing:
        """``with device.active():`` makes the GPU current for this thread: for other libraries, for many calls.

        May be nested. What PyCUDA raises within comes out as a ``BackendError``.
        """
        return Doing(self, "working")

    def doing(self, what: str) -> Doing:
        """:meth:`active`, with words for what is done, for the message of an error."""
        return Doing(self, what)

    def buffer(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Buffer:
        """Memory on the GPU until the device is closed; undefined contents.

        Raises:
            DeviceMemoryError: no room.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self.doing(f"allocating {_mebibytes(size)}"):
            # A size of nothing is refused by the driver.
            owner = self.drv.mem_alloc(max(size, 1))
            self._held.memory.append(owner)
        return Buffer(int(owner), tuple(shape), dtype, owner)

    def pinned(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked host memory, zeros: copies between it and the GPU go on while Python does something else.

        It stays valid for as long as it is kept, also after :meth:`close`.

        Raises:
            DeviceMemoryError: no room.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self.doing(f"page-locking {_mebibytes(size)}"):
            array: npt.NDArray[Any] = self.drv.pagelocked_zeros(tuple(shape), np.dtype(dtype))
            self._held.pinned.append(array)
        return array

    def upload(self, target: Buffer, source: npt.NDArray[Any]) -> None:
        """Queue a copy to the GPU. A pinned ``source`` may be written to again after :meth:`synchronize` only.

        Raises:
            ValueError: their sizes differ, or ``source`` isn't C-contiguous.
        """
        _fits(target.nbytes, source)
        with self.doing("copying to it"):
            self.drv.memcpy_htod_async(target.pointer, source, self._held.stream)

    def download(self, target: npt.NDArray[Any], source: Buffer) -> None:
        """Queue a copy from the GPU. ``target`` holds it after :meth:`synchronize` only.

        Raises:
            ValueError: their sizes differ, or ``target`` isn't C-contiguous.
        """
        _fits(source.nbytes, target)
        with self.doing("copying from it"):
            self.drv.memcpy_dtoh_async(target, source.pointer, self._held.stream)

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Queue a copy within the GPU, between places that don't overlap.

        Raises:
            ValueError: their sizes differ.
        """
        if target.nbytes != source.nbytes:
            raise ValueError(f"a copy of {source!r} to {target!r}: their sizes differ")
        with self.doing("copying within it"):
            self.drv.memcpy_dtod_async(target.pointer, source.pointer, source.nbytes, self._held.stream)

    def clear(self, target: Buffer) -> None:
        """Queue the filling of a buffer with zeros."""
        with self.doing("filling its memory"):
            self.drv.memset_d8_async(target.pointer, 0, target.nbytes, self._held.stream)

    def kernels(self, sources: Sequence[Path]) -> Kernels:
        """Kernels of some ``.cu`` files, compiled for this GPU the first time and kept; loaded once for a device.

        Raises:
            BackendError: no compiler, or it refuses a source.
        """
        key = tuple(sources)
        if key not in self._loaded:
            arch = f"sm_{self.capability[0]}{self.capability[1]}"
            codes = [compiled(source, arch, self._cache, self.driver_version) for source in sources]
            with self.doing("loading kernels"):
                self._loaded[key] = Loaded([self.drv.module_from_buffer(code) for code in codes])
                self._held.loaded.append(self._loaded[key])
        return Kernels(self, self._loaded[key])

    def capture(self, work: Callable[[], None]) -> Graph:
        """Do some work on the stream once, then note it as a graph that replays in one call.

        Args:
            work: queues copies and launches on the stream, whose addresses stay; neither allocates nor waits. Called
                twice here: once for real, since libraries set themselves up in their first run, and once noted.

        Returns:
            A graph; where something in ``work`` can't be captured, one that calls ``work`` each time and says why.

        Raises:
            What ``work`` raises when it runs for real.
            DeviceLostError: the GPU is gone.
        """
        work()
        self.synchronize()
        refusal: str | None = None
        executable = 0
        with self.doing("capturing a graph"):
            if (result := self.driver.begin_capture(self.stream)) != SUCCESS:
                return Graph(self, work, 0, self.driver.words(result))
            try:
                work()
            except DeviceLostError:
                self.driver.end_capture(self.stream)
                raise
            except Exception as error:  # it has just worked: whatever it was, capture is the reason
                refusal = str(error)
            result, graph = self.driver.end_capture(self.stream)
            if refusal is None and result == SUCCESS and graph:
                result, executable = self.driver.instantiate(graph, self.stream)
            elif graph:
                self.driver.discard(graph)
            if not executable:
                refusal = refusal or self.driver.words(result)
            else:
                self._held.graphs.append(executable)
        return Graph(self, work, executable, refusal)

    def timer(self) -> Timer:
        """Two marks for the stream."""
        with self.doing("making a timer"):
            events = [self.drv.Event(), self.drv.Event()]
            self._held.events.append(events)
        return Timer(self, events)

    def free_memory(self) -> int:
        """Bytes that are free on the GPU now."""
        with self.doing("asking for its memory"):
            return int(self.drv.mem_get_info()[0])

    def synchronize(self) -> None:
        """Wait until everything that was queued is done; errors of what ran come out here."""
        with self.doing("waiting for it"):
            self._held.stream.synchronize()

    def close(self) -> None:
        """Give everything back, also after an error; buffers are void then. May be called twice."""
        self._finalizer()

    def check(self, result: int, routine: str) -> None:
        """Raise what a call of the driver that went past PyCUDA answered."""
        if result != SUCCESS:
            raise DriverError(f"{routine} failed: {self.driver.words(result)}", result)

    def enter(self) -> None:
        """Make the GPU current for this thread. :meth:`active` is the way to call it."""
        if self._held.closed:
            raise ClosedError(f"{self.name} was closed; open another Device")
        if self.lost is not None:
            raise DeviceLostError(self.lost)
        try:
            self._held.push()
        except self.drv.Error as error:
            raise self.translated(error, "making it current", alive=True) from error

    def leave(self) -> None:
        """Undo :meth:`enter`."""
        try:
            self._held.pop()
        except self.drv.Error as error:
            raise self.translated(error, "putting it aside") from error

    def translated(self, error: Exception, what: str, *, alive: bool = False) -> BackendError:
        """The error to raise for one of the driver's.

        Args:
            error: PyCUDA's, or a ``DriverError``.
            what: was being done.
            alive: take the GPU for alive unless the error itself says that it isn't; else the GPU is asked.
        """
        words = str(error)
        if isinstance(error, self.drv.MemoryError) or getattr(error, "result", SUCCESS) == OUT_OF_MEMORY:
            return DeviceMemoryError(
                f"{self.name}: out of GPU memory while {what} ({self._room()}); "
                f"close other programs that use it, take a smaller bundle or --precision, or type: {WAY_OUT}"
            )
        if self.driver.fatal(words) or not (alive or self.driver.state() == SUCCESS):
            self.lost = (
                f"{self.name} was lost while {what} ({words}); go on with {WAY_OUT}; "
                "only a new process can use it again; sudo dmesg may tell why"
            )
            if hasattr(self, "_held"):
                self._held.lost = True
            return DeviceLostError(self.lost)
        return BackendError(
            f"{self.name}: {what} failed ({words}); expected a driver and GPU that do it; type: {WAY_OUT}"
        )

    def _room(self) -> str:
        """How much memory there is, in words."""
        try:
            free, total = self.drv.mem_get_info()
        except self.drv.Error:
            return f"it has {_mebibytes(self.memory)}"
        return f"{_mebibytes(free)} of {_mebibytes(total)} are free"


class Doing:
    """The time in which a GPU is current for a thread. Made by :meth:`Device.active`."""

    __slots__ = ("_device", "_what")

    def __init__(self, device: Device, what: str) -> None:
        self._device, self._what = device, what

    def __enter__(self) -> None:
        self._device.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        device = self._device
        try:
            if isinstance(error, (device.drv.Error, DriverError)):
                raise device.translated(error, self._what) from error
        finally:
            device.leave()


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _fits(nbytes: int, array: npt.NDArray[Any]) -> None:
    if array.nbytes != nbytes or not array.flags.c_contiguous:
        raise ValueError(
            f"a copy of {nbytes} bytes from or to {array.dtype} {array.shape}; expected as many, C-contiguous"
        )
