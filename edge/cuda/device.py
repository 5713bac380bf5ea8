"""The GPU itself: one context, one stream, memory that is allocated once, and the way out when something fails."""

from __future__ import annotations

import importlib
import importlib.util
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.cuda.driver import OUT_OF_MEMORY, SUCCESS, Driver, DriverError
from edge.cuda.errors import DeviceLostError, DeviceMemoryError
from edge.cuda.kernels import Kernels, cache_folder, compiled
from edge.errors import BackendError, ClosedError

OLDEST_DRIVER = (12, 2)
"""JetPack 6.0's. Capture, graphs and what TensorRT 10.3 wants are all there."""

WAY_OUT = "--backend onnxruntime"

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

    def __init__(self, device: Device, first: Any, last: Any) -> None:
        self._device, self._first, self._last = device, first, last

    def start(self) -> None:
        """Mark the beginning in the stream."""
        with self._device.doing("timing"):
            self._first.record(self._device.queue)

    def stop(self) -> None:
        """Mark the end in the stream."""
        with self._device.doing("timing"):
            self._last.record(self._device.queue)

    @property
    def ms(self) -> float:
        """Milliseconds between both; waits for the end."""
        with self._device.doing("timing"):
            self._last.synchronize()
            return float(self._last.time_since(self._first))

    def release(self) -> None:
        """Let go of the marks; called by the device."""
        self._first = self._last = None


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
        cache: where compiled kernels are kept; see :func:`edge.cuda.kernels.cache_folder` for the default.

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
        self.drv, self.driver = _opened()
        self.driver_version = self.driver.version()
        self._cache = cache or cache_folder()
        self.lost: str | None = None
        self.name = "the GPU"
        try:
            count = self.drv.Device.count()
            if not 0 <= ordinal < count:
                raise BackendError(f"GPU {ordinal} was asked for; this machine has {count}, counted from 0; {WAY_OUT}")
            gpu = self.drv.Device(ordinal)
            self.name, self.capability, self.memory = gpu.name(), gpu.compute_capability(), gpu.total_memory()
            self._held = _Held(self.drv, self.driver, gpu.retain_primary_context())
        except self.drv.Error as error:
            raise self.translated(error, "opening it") from error
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
        """``with device.active():`` makes the GPU current for this thread: for other libraries, and for many calls at once.

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
        """Kernels of some ``.cu`` files, compiled for this GPU the first time and kept.

        Raises:
            BackendError: no compiler, or it refuses a source.
        """
        arch = f"sm_{self.capability[0]}{self.capability[1]}"
        codes = [compiled(source, arch, self._cache, self.driver_version) for source in sources]
        with self.doing("loading kernels"):
            kernels = Kernels(self, [self.drv.module_from_buffer(code) for code in codes])
            self._held.kernels.append(kernels)
        return kernels

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
            timer = Timer(self, self.drv.Event(), self.drv.Event())
            self._held.timers.append(timer)
        return timer

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
            raise self.translated(error, "making it current") from error

    def leave(self) -> None:
        """Undo :meth:`enter`."""
        self._held.pop()

    def translated(self, error: Exception, what: str) -> BackendError:
        """The error to raise for one of the driver's."""
        words = str(error)
        if isinstance(error, self.drv.MemoryError) or getattr(error, "result", SUCCESS) == OUT_OF_MEMORY:
            return DeviceMemoryError(
                f"{self.name}: out of GPU memory while {what} ({self._room()}); "
                f"close other programs that use it, take a smaller bundle or --precision, or type: {WAY_OUT}"
            )
        if self.driver.fatal(words) or (hasattr(self, "_held") and self.driver.state() != SUCCESS):
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


class _Held:
    """What must be given back to the driver; apart from the device, so that it can be when that is dropped.

    PyCUDA frees a thing only where its context is current or on the thread that made the context, and ends the process
    when a thread ends with a context still current. So a context is current only while something is done.
    """

    def __init__(self, drv: Any, driver: Driver, context: Any) -> None:
        self.drv, self.driver, self.context = drv, driver, context
        self.stream: Any = None
        self.memory: list[Any] = []
        self.pinned: list[npt.NDArray[Any]] = []
        self.kernels: list[Kernels] = []
        self.graphs: list[int] = []
        self.timers: list[Timer] = []
        self.closed = self.lost = False
        self._depth = threading.local()

    def push(self) -> None:
        """Make the context current for this thread, if it isn't."""
        depth = getattr(self._depth, "value", 0)
        if not depth:
            self.context.push()
        self._depth.value = depth + 1

    def pop(self) -> None:
        """Undo the last :meth:`push` of this thread."""
        self._depth.value -= 1
        if not self._depth.value and not self.closed:
            try:
                self.context.pop()
            except self.drv.Error:
                # A driver that can't even do this is lost; a context left in PyCUDA's stack would end the process.
                self.lost = True
                self.context.detach()

    def release(self) -> None:
        """Give everything back, whatever has happened."""
        if self.closed:
            return
        self.closed = True
        inside = getattr(self._depth, "value", 0) > 0
        try:
            if not inside:
                self.context.push()
        except self.drv.Error:
            self.lost = True
        else:
            if not self.lost and self.stream is not None:
                with suppress(self.drv.Error):
                    self.stream.synchronize()
        kept = [weakref.ref(array) for array in self.pinned]
        self.pinned.clear()
        # Whoever still has a page-locked array keeps the context, and the array stays valid.
        alone = all(array() is None for array in kept)
        if self.lost and alone:
            # PyCUDA then takes all that hangs on the context for gone, and says nothing about each piece.
            self._detach()
        for graph in self.graphs:
            self.driver.destroy(graph)
        for kernels in self.kernels:
            kernels.release()
        for timer in self.timers:
            timer.release()
        for allocation in self.memory:
            with suppress(self.drv.Error):
                allocation.free()
        for things in (self.graphs, self.kernels, self.timers, self.memory):
            things.clear()
        self.stream = None
        if not alone:
            with suppress(self.drv.Error):
                self.context.pop()
        elif not self.lost:
            self._detach()
        self.context = None

    def _detach(self) -> None:
        """Let go of the context; PyCUDA leaves it current for this thread, dead as it is then."""
        handle = self.context.handle
        with suppress(self.drv.Error):
            self.context.detach()
        self.driver.forget(int(handle))


def _opened() -> tuple[Any, Driver]:
    """PyCUDA and the driver, both ready.

    Raises:
        BackendError: one of them is missing or too old, or there is no GPU.
    """
    if importlib.util.find_spec("pycuda") is None:
        raise BackendError(
            "the GPU is reached through PyCUDA, which is not installed; type: PATH=$PATH:/usr/local/cuda/bin "
            f"pip install 'edge-emotion[jetson]', or: {WAY_OUT}"
        )
    try:
        driver = Driver()
    except OSError as error:
        raise BackendError(
            f"no CUDA driver ({error}); expected JetPack 6 or newer, or in a container --runtime nvidia; type: {WAY_OUT}"
        ) from error
    except AttributeError as error:
        raise BackendError(f"this CUDA driver is too old ({error}); {_EXPECTED}") from error
    found = driver.version()
    if found < OLDEST_DRIVER:
        raise BackendError(f"this CUDA driver is too old: it runs CUDA {_dotted(found)}; {_EXPECTED}")
    try:
        drv: Any = importlib.import_module("pycuda.driver")
        drv.init()
    except ImportError as error:
        raise BackendError(
            f"PyCUDA can't be loaded with this driver, which runs CUDA {_dotted(found)} ({error}); "
            f"type: {_REINSTALL}, or: {WAY_OUT}"
        ) from error
    except Exception as error:  # pycuda.driver.Error, whose module is what could not be made ready
        raise BackendError(
            f"no GPU answers ({error}); expected one that nvidia-smi lists (in a container: --runtime nvidia); "
            f"type: {WAY_OUT}"
        ) from error
    built = tuple(drv.get_version())
    if built[0] > found[0]:
        raise BackendError(
            f"PyCUDA was built for CUDA {_dotted(built)}; this driver runs CUDA {_dotted(found)}; "
            f"type: {_REINSTALL}, or: {WAY_OUT}"
        )
    return drv, driver


_EXPECTED = f"expected CUDA {OLDEST_DRIVER[0]}.{OLDEST_DRIVER[1]} (JetPack 6) or newer; update it, or type: {WAY_OUT}"
_REINSTALL = "PATH=$PATH:/usr/local/cuda/bin pip install --force-reinstall --no-cache-dir --no-deps pycuda"


def _dotted(version: Sequence[int]) -> str:
    return f"{version[0]}.{version[1]}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _fits(nbytes: int, array: npt.NDArray[Any]) -> None:
    if array.nbytes != nbytes or not array.flags.c_contiguous:
        raise ValueError(
            f"a copy of {nbytes} bytes from or to {array.dtype} {array.shape}; expected as many, C-contiguous"
        )
