"""TensorRT's builder and runtime, which are not to be had, replaced in the real bindings: ONNX Runtime does the work.

Everything else stays real: the module, its version, its enums, logger and progress monitor, from which our own classes
derive. A plan made here is a small header and the ONNX file. Tensor addresses are addresses: what runs reads its inputs
there and writes its outputs there. :class:`HostDevice` gives such addresses where there is no test driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import math
import time
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import tensorrt as trt

HEADER = 256
DTYPES = {"tensor(float)": trt.DataType.FLOAT, "tensor(float16)": trt.DataType.HALF}


class Faults:
    """What goes wrong, by sha256 of the ONNX file; ``None`` is any."""

    rejects: ClassVar[dict[str | None, str]] = {}
    """The parser's words."""
    unbuildable: ClassVar[dict[str | None, str]] = {}
    """The builder's words."""
    wrong: ClassVar[dict[str | None, float]] = {}
    """Added to every output."""
    fails: ClassVar[dict[str | None, str]] = {}
    """Words with which a run fails."""
    no_context: ClassVar[dict[str | None, str]] = {}
    steps = 1
    """Of a build, each with a call of the progress monitor."""
    step_s = 0.0
    on_step: Any = None
    """Called at each step."""


def _fault(table: dict[str | None, Any], model: bytes) -> Any:
    return table.get(hashlib.sha256(model).hexdigest(), table.get(None))


class Network:
    model = b""


class Config:
    def __init__(self) -> None:
        self.progress_monitor: Any = None
        self.limits: dict[Any, int] = {}
        self.cleared: list[Any] = []
        self.cache: Any = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data and not cache.data.startswith(trt.__version__.encode()):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data or trt.__version__.encode() + b" timings"


class Builder:
    made: ClassVar[list[Config]] = []

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags & 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return Network()

    def create_builder_config(self) -> Config:
        Builder.made.append(Config())
        return Builder.made[-1]

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, Faults.steps)
        for step in range(Faults.steps):
            if Faults.on_step is not None:
                Faults.on_step()
            time.sleep(Faults.step_s)
            if not monitor.step_complete("Building Engine", step):
                return None
        monitor.phase_finish("Building Engine")
        if (words := _fault(Faults.unbuildable, network.model)) is not None:
            self.logger.log(trt.ILogger.Severity.ERROR, words)
            return None
        header = json.dumps({"tensorrt": trt.__version__}).encode()
        return header.ljust(HEADER) + network.model


class ParserError:
    def __init__(self, words: str) -> None:
        self.words = words

    def desc(self) -> str:
        return self.words

    def node(self) -> int:
        return 3

    def node_name(self) -> str:
        return "conv2d_1"

    def node_operator(self) -> str:
        return "Conv"


class OnnxParser:
    def __init__(self, network: Network, logger: Any) -> None:
        self.network, self.errors = network, list[ParserError]()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        words = _fault(Faults.rejects, model)
        if words is None:
            try:
                _session(model)
            except Exception as error:
                words = str(error)
        if words is not None:
            self.errors.append(ParserError(words))
            return False
        self.network.model = model
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return self.errors[index]


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if json.loads(serialized_engine[:HEADER])["tensorrt"] != trt.__version__:
            self.logger.log(trt.ILogger.Severity.ERROR, "The engine plan file is not compatible with this version")
            return None
        return Engine(bytes(serialized_engine[HEADER:]), self.logger)


class Engine:
    device_memory_size_v2 = 4096

    def __init__(self, model: bytes, logger: Any) -> None:
        self.model, self.logger = model, logger
        self.session = _session(model)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {one.name: (trt.TensorIOMode.INPUT, one) for one in inputs}
        self.tensors |= {one.name: (trt.TensorIOMode.OUTPUT, one) for one in outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> Any:
        return trt.Dims(self.tensors[name][1].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return DTYPES[self.tensors[name][1].type]

    def create_execution_context(self) -> Context | None:
        if (words := _fault(Faults.no_context, self.model)) is not None:
            self.logger.log(trt.ILogger.Severity.ERROR, words)
            return None
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, dict[str, int]()
        self.problem: BaseException | None = None
        # Kept for as long as the context: a captured graph calls it again.
        self.queued = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: self._guarded())

    def set_tensor_address(self, name: str, memory: int) -> bool:
        # NvInferRuntime.h: addresses of inputs and outputs are aligned.
        if name not in self.engine.tensors or memory % 256:
            return False
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int)
        engine, model = self.engine, self.engine.model
        if set(self.addresses) != set(engine.tensors):
            return False
        if (words := _fault(Faults.fails, model)) is not None:
            engine.logger.log(trt.ILogger.Severity.ERROR, words)
            return False
        if stream_handle == HostDevice.stream:
            self._compute()
            return True
        # On the stream, like everything else: it runs when its turn comes, and is noted where the stream is captured.
        if self.problem is not None:
            raise self.problem
        return DRIVER().cuLaunchHostFunc(ctypes.c_void_p(stream_handle), self.queued, None) == 0

    def _guarded(self) -> None:
        try:
            self._compute()
        except BaseException as error:  # nothing may be raised through the driver
            self.problem = error

    def _compute(self) -> None:
        engine, model = self.engine, self.engine.model
        given = {one.name: self._at(one).copy() for one in engine.session.get_inputs()}
        outputs = engine.session.get_outputs()
        for one, value in zip(outputs, engine.session.run([one.name for one in outputs], given), strict=True):
            self._at(one)[...] = value + np.float32(_fault(Faults.wrong, model) or 0.0) * np.arange(value.size).reshape(
                value.shape
            )

    def _at(self, one: Any) -> np.ndarray:
        dtype = np.dtype(np.float16 if one.type == "tensor(float16)" else np.float32)
        size = math.prod(one.shape) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[one.name])
        return np.frombuffer(memory, dtype).reshape(one.shape)


@functools.cache
def DRIVER() -> ctypes.CDLL:  # noqa: N802
    return ctypes.CDLL("libcuda.so.1")


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The graph as it is written, as a strongly typed TensorRT takes it.
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class HostDevice:
    """:class:`edge.cuda.Device` in the host's memory: what is queued is done at once."""

    name, capability, memory, stream = "Stand-in", (8, 7), 8 << 30, 7
    opened: ClassVar[list[HostDevice]] = []
    lost: str | None = None
    """Set to make every later use fail."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []
        self.closed = False
        self.allocated = 0
        HostDevice.opened.append(self)

    def doing(self, what: str) -> Any:
        from edge.cuda import DeviceLostError
        from edge.errors import ClosedError

        if self.lost is not None:
            raise DeviceLostError(f"{self.name} was lost while {what} ({self.lost}); go on with --backend onnxruntime")
        if self.closed:
            raise ClosedError(f"{self.name} was closed; open another Device")
        return contextlib.nullcontext()

    def buffer(self, shape: Any, dtype: Any) -> Any:
        from edge.cuda import Buffer

        with self.doing("allocating"):
            size = math.prod(shape) * np.dtype(dtype).itemsize
            memory = np.full(size + 256, 0xFF, np.uint8)  # NaN until something is written
            self.kept.append(memory)
            self.allocated += 1
            pointer = memory.ctypes.data
            return Buffer(pointer + -pointer % 256, tuple(shape), dtype, memory)

    def kernels(self, paths: Any) -> Any:
        from edge.errors import BackendError

        raise BackendError("a stand-in runs no kernels")

    def pinned(self, shape: Any, dtype: Any) -> np.ndarray:
        return np.zeros(tuple(shape), dtype)

    def upload(self, target: Any, source: np.ndarray) -> None:
        with self.doing("copying to it"):
            assert source.nbytes == target.nbytes
            assert source.flags.c_contiguous
            ctypes.memmove(target.pointer, source.ctypes.data, target.nbytes)

    def download(self, target: np.ndarray, source: Any) -> None:
        with self.doing("copying from it"):
            assert source.nbytes == target.nbytes
            assert target.flags.c_contiguous
            ctypes.memmove(target.ctypes.data, source.pointer, source.nbytes)

    def copy(self, target: Any, source: Any) -> None:
        with self.doing("copying within it"):
            assert source.nbytes == target.nbytes
            ctypes.memmove(target.pointer, source.pointer, source.nbytes)

    def clear(self, target: Any) -> None:
        ctypes.memset(target.pointer, 0, target.nbytes)

    def capture(self, work: Any) -> Any:
        work()

        class Replay:
            refusal = None

            def __call__(self) -> None:
                work()

        return Replay()

    def timer(self) -> Any:
        class Timer:
            ms = 0.0

            def start(self) -> None:
                self.begun = time.perf_counter()

            def stop(self) -> None:
                self.ms = 1e3 * (time.perf_counter() - self.begun)

        return Timer()

    def free_memory(self) -> int:
        return 4 << 30

    def synchronize(self) -> None:
        with self.doing("waiting for it"):
            pass

    def close(self) -> None:
        self.closed = True


def install() -> None:
    """Put the stand-ins where our code looks."""
    for one in (Builder, OnnxParser, Runtime):
        setattr(trt, one.__name__, one)
