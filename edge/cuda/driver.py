"""The few functions of the CUDA driver that PyCUDA does not offer, called in the library that PyCUDA has loaded.

PyCUDA (2026.1) knows neither stream capture nor graphs, and its exceptions carry the driver's words, not its numbers.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ulonglong, c_void_p

LIBRARY = "libcuda.so.1"

SUCCESS = 0
OUT_OF_MEMORY = 2
THREAD_LOCAL = 1
"""Capture mode: what other threads do to the GPU meanwhile is not our concern."""

FATAL = (4, 46, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999)
"""Results after which a context answers nothing else (CUresult in cuda.h): deinitialised, unavailable, ECC, illegal
address, timeout, destroyed context, assert, hardware stack, illegal instruction, misaligned address, address space,
program counter, launch failure, unknown."""


class DriverError(Exception):
    """A call that went past PyCUDA failed; ``result`` is the CUresult."""

    def __init__(self, words: str, result: int) -> None:
        super().__init__(words)
        self.result = result


class Driver:
    """The library's functions, by what we call them for.

    Raises:
        OSError: there is no driver.
        AttributeError: it is too old to have one of them.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(LIBRARY)
        self._begin = _function(library, "cuStreamBeginCapture_v2", c_void_p, c_int)
        self._end = _function(library, "cuStreamEndCapture", c_void_p, POINTER(c_void_p))
        self._instantiate = _function(library, "cuGraphInstantiateWithFlags", POINTER(c_void_p), c_void_p, c_ulonglong)
        self._upload = _function(library, "cuGraphUpload", c_void_p, c_void_p)
        self._launch = _function(library, "cuGraphLaunch", c_void_p, c_void_p)
        self._destroy_graph = _function(library, "cuGraphDestroy", c_void_p)
        self._destroy_executable = _function(library, "cuGraphExecDestroy", c_void_p)
        self._words = _function(library, "cuGetErrorString", c_int, POINTER(c_char_p))
        self._memory = _function(library, "cuMemGetInfo_v2", POINTER(c_size_t), POINTER(c_size_t))
        self._current = _function(library, "cuCtxGetCurrent", POINTER(c_void_p))
        self._pop = _function(library, "cuCtxPopCurrent_v2", POINTER(c_void_p))
        self._device = _function(library, "cuDeviceGet", POINTER(c_int), c_int)
        self._retain = _function(library, "cuDevicePrimaryCtxRetain", POINTER(c_void_p), c_int)
        self._release = _function(library, "cuDevicePrimaryCtxRelease_v2", c_int)
        self._version = _function(library, "cuDriverGetVersion", POINTER(c_int))

    def version(self) -> tuple[int, int]:
        """The newest CUDA that the driver runs, as (12, 6)."""
        number = c_int(0)
        self._version(byref(number))
        return number.value // 1000, number.value % 1000 // 10

    def words(self, result: int) -> str:
        """What the driver says of a result."""
        text = c_char_p()
        return text.value.decode() if self._words(result, byref(text)) == SUCCESS and text.value else f"error {result}"

    def state(self) -> int:
        """What the current context answers to a harmless question: 0, or the error that killed it."""
        free, total = c_size_t(), c_size_t()
        return self._memory(byref(free), byref(total))

    def fatal(self, words: str) -> bool:
        """Whether an error that PyCUDA put into words is one that nothing recovers from."""
        return any(words.endswith(self.words(result)) for result in FATAL)

    def retain(self, ordinal: int) -> int:
        """Hold a GPU's primary context, beside PyCUDA; returns the handle for :meth:`release`.

        Raises:
            DriverError: it can't be.
        """
        device, context = c_int(), c_void_p()
        if result := self._device(byref(device), ordinal) or self._retain(byref(context), device):
            raise DriverError(f"cuDevicePrimaryCtxRetain failed: {self.words(result)}", result)
        return device.value

    def release(self, device: int) -> None:
        """Let go of it: with the last holder goes the context, and what was allocated in it."""
        self._release(device)

    def forget(self, context: int) -> None:
        """Make a context not current for this thread, if it is."""
        found = c_void_p()
        if self._current(byref(found)) == SUCCESS and found.value == context:
            self._pop(byref(found))

    def begin_capture(self, stream: int) -> int:
        """From here on the stream notes what it is given instead of doing it. Returns a CUresult, as all below."""
        return self._begin(stream, THREAD_LOCAL)

    def end_capture(self, stream: int) -> tuple[int, int]:
        """The result, and the handle of the graph of what was noted (0 for none)."""
        graph = c_void_p()
        return self._end(stream, byref(graph)), graph.value or 0

    def instantiate(self, graph: int, stream: int) -> tuple[int, int]:
        """The result, and the handle of the graph made ready for a stream (0 for none). The graph itself is used up."""
        ready = c_void_p()
        result = self._instantiate(byref(ready), graph, 0)
        self._destroy_graph(graph)
        if result == SUCCESS and (result := self._upload(ready, stream)) != SUCCESS:
            self._destroy_executable(ready)
            ready = c_void_p()
        return result, ready.value or 0

    def launch(self, executable: int, stream: int) -> int:
        """Queue all that a graph does."""
        return self._launch(executable, stream)

    def destroy(self, executable: int) -> int:
        """Give a graph's memory back."""
        return self._destroy_executable(executable)

    def discard(self, graph: int) -> int:
        """Give back a graph that was never made ready."""
        return self._destroy_graph(graph)


class _Call:
    """A C function that answers a CUresult."""

    def __init__(self, function: ctypes._NamedFuncPointer, arguments: tuple[object, ...]) -> None:
        self._function = function
        function.restype = c_int
        function.argtypes = arguments  # type: ignore[assignment]

    def __call__(self, *arguments: object) -> int:
        return int(self._function(*arguments))


def _function(library: ctypes.CDLL, name: str, *arguments: object) -> _Call:
    return _Call(getattr(library, name), arguments)
