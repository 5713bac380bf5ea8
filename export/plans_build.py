"""One graph to one TensorRT plan: the same code for TensorRT 10.3 (JetPack 6), 10.13 and 10.16 (JetPack 7) and 11.

Networks are strongly typed: TensorRT builds exactly what the graph says, and the precision is in the graph. Nothing
here names what some of these versions lack; ``tests/tensorrt`` checks every name and call against each one's bindings.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.engine.library import first_line, library, log_of, refusal
from edge.engine.plans import Place

if TYPE_CHECKING:
    import tensorrt as trt

SHARE = 0.5
"""Of the free memory: what TensorRT may take to try tactics in; on a Jetson everything else lives in the same."""

LEAST_WORKSPACE, MOST_WORKSPACE = 64 << 20, 4 << 30

TELL_EVERY_S = 5.0
"""A build takes minutes; whoever waits hears of it this often."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gives."""

    plan: memoryview
    timing: memoryview | None
    """What TensorRT measured, for the next build; None where it gives nothing."""
    seconds: float


def workspace(free: int) -> int:
    """Bytes that TensorRT may work in, by how many are free on the GPU."""
    return max(LEAST_WORKSPACE, min(MOST_WORKSPACE, int(SHARE * free)))


def build(
    model: bytes,
    what: str,
    precision: str,
    place: Place,
    *,
    limit: int,
    timing: bytes = b"",
    tell: Callable[[str], None] = lambda line: None,
) -> Built:
    """Build a plan. The GPU is current for this thread.

    Args:
        model: an ONNX file that names no other (:func:`export.plans_inline.inlined`).
        what: the graph, in words for messages.
        precision: that is in the graph.
        place: where it is built.
        limit: bytes of workspace (:func:`workspace`).
        timing: what an earlier build measured here; another TensorRT's is ignored by TensorRT itself.
        tell: is told what goes on, a line at a time.

    Raises:
        BackendError: TensorRT does not start, rejects the graph, or finds no way to build it: its own words, and what
            to type.
        KeyboardInterrupt: it was interrupted; the build ends at its next step.
    """
    trt = library()
    log = log_of()
    begun = time.monotonic()
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what its constructor answers where the library gives it nothing
        raise refusal(f"{what}: TensorRT does not start", log.words(), place) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        raise refusal(f"{what}: TensorRT {place.tensorrt} rejects the graph", _complaints(parser, log), place)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if precision == "fp32":
        # It would round what convolutions read to ten bits. Whoever asks for FP32 asks for its answers.
        config.clear_flag(trt.BuilderFlag.TF32)
    known = config.create_timing_cache(timing)
    if known is None or not config.set_timing_cache(known, False):
        known = config.create_timing_cache(b"")
        config.set_timing_cache(known, False)
    progress = _progress(what, tell, begun)
    config.progress_monitor = progress
    log.clear()
    with _interruptible(progress):
        plan = builder.build_serialized_network(network, config)
    if progress.stopped:
        raise KeyboardInterrupt
    if plan is None:
        free = f" with {limit >> 20} MiB to work in"
        raise refusal(f"{what}: TensorRT {place.tensorrt} can't build it{free}", log.words(), place)
    measured = config.get_timing_cache()
    data = None if measured is None else measured.serialize()
    return Built(memoryview(plan), None if data is None else memoryview(data), time.monotonic() - begun)


def _complaints(parser: trt.OnnxParser, log: Any) -> str:
    """What the parser says of a graph that it rejects, in its own words."""
    said = []
    for at in range(min(parser.num_errors, 3)):
        error = parser.get_error(at)
        node = error.node_name() or f"number {error.node()}"
        said.append(f"node {node} ({error.node_operator()}): {first_line(error.desc())}")
    return "; ".join(said) or str(log.words())


def _progress(what: str, tell: Callable[[str], None], begun: float) -> Any:
    """An ``IProgressMonitor`` that tells how far a build is, and ends it once ``stopped`` is set."""
    trt = library()

    class Progress(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # the class is known at run time alone
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped = False
            self._lock = threading.Lock()
            self._phases: dict[str, tuple[int, int]] = {}
            self._told = begun

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = 0, num_steps
            self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    self._phases[phase_name] = step + 1, self._phases[phase_name][1]
            self._tell()
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def _tell(self) -> None:
            with self._lock:
                now = time.monotonic()
                if now - self._told < TELL_EVERY_S:
                    return
                self._told = now
                phases = ", ".join(f"{name} {done}/{steps}" for name, (done, steps) in self._phases.items())
            # An exception in here would go through TensorRT's own code, and end the process.
            with contextlib.suppress(Exception):
                tell(f"{what}: {now - begun:.0f} s, {phases}")

    return Progress()


@contextlib.contextmanager
def _interruptible(progress: Any) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a build at its next step: an exception inside a callback would end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, stack: object) -> None:
        progress.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
