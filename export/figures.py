"""What a bundle's precisions cost and lose, measured through ``edge``'s own engine: parity, agreement, time, size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.bundle import WINDOW, Bundle
from edge.device import describe
from edge.engine import Engine, open_engine
from edge.smooth import softmax
from edge.types import Tensor
from edge.window import Windows

COMPARED = {True: 6, False: 256}
"""Windows that are compared, for a network that sees several images and for one that sees one."""

REPEATS = 25
PATIENCE_S = 20.0
"""Time that all these runs may take together."""


@dataclass(frozen=True)
class Figures:
    """By precision; times are the medians of interleaved runs on one thread."""

    parity: Mapping[str, float]
    """Largest difference in calibrated probability from the network itself, over the windows compared."""
    agreement: Mapping[str, float]
    """Share of the windows on which the label is the network's, 0..1."""
    frame_ms: Mapping[str, float]
    """Time of what runs for a new frame of one face: encoders and head, or the whole network of a face."""
    window_ms: float
    """Time of the whole window at once, in the first precision."""
    megabytes: Mapping[str, float]
    """Files that a robot needs, 10^6 bytes."""
    windows: int
    machine: str

    def document(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            precision: {
                "parity": self.parity[precision],
                "agreement": self.agreement[precision],
                "frame_ms": round(self.frame_ms[precision], 3),
                "share_of_fp32_time": round(self.frame_ms[precision] / self.frame_ms[first], 3),
                "window_ms": round(self.window_ms, 3),
                "megabytes": round(self.megabytes[precision], 2),
                "windows": self.windows,
                "machine": self.machine,
            }
            for first in [next(iter(self.parity))]
            for precision in self.parity
        }


def figures(
    bundle: Bundle, network: Callable[[Mapping[str, Tensor]], Tensor], windows: Sequence[Mapping[str, Tensor]]
) -> Figures:
    """Measure a bundle on ONNX Runtime's CPU provider.

    Args:
        bundle: opened.
        network: the trained network: a window's inputs by name -> logits (1, K).
        windows: inputs of the graph ``window``.
    """
    streamed = bool(bundle.manifest.streams)
    windows = list(windows)[: COMPARED[streamed]]
    temperature = bundle.manifest.temperature
    wanted = softmax(np.concatenate([network(window) for window in windows]) / temperature)
    engines = {name: open_engine(bundle, "onnxruntime", name) for name in bundle.manifest.precisions}
    parity, agreement = {}, {}
    for precision, engine in engines.items():
        found = _answers(engine, windows) / temperature
        parity[precision] = float(np.abs(softmax(found) - wanted).max())
        agreement[precision] = float((found.argmax(1) == wanted.argmax(1)).mean())
    graph_ms, window_ms = _times(engines, windows[0])
    return Figures(
        parity=parity,
        agreement=agreement,
        frame_ms={name: sum(times.values()) for name, times in graph_ms.items()},
        window_ms=window_ms,
        megabytes={name: size(bundle, name) / 1e6 for name in engines},
        windows=len(windows),
        machine=describe().processor,
    )


def size(bundle: Bundle, precision: str) -> int:
    """Bytes of the files that a robot with ONNX Runtime reads for a precision."""
    graphs = bundle.manifest.graphs
    used = {{**graphs[name].files, **graphs[name].cpu}[precision] for name in bundle.manifest.running}
    if f"weights.{precision}.bin" in bundle.manifest.files:
        used.add(f"weights.{precision}.bin")
    return sum((bundle.where / name).stat().st_size for name in used)


def table(bundle: Bundle) -> str:
    """The precisions' figures as Markdown."""
    rows = ["| precision | parity | agreement | accuracy | ms a frame | of fp32's time | MB |", "| --- " * 7 + "|"]
    for precision, one in bundle.manifest.metrics.get("precisions", {}).items():
        accuracy = f"{one['accuracy']:.2%}" if "accuracy" in one else "-"
        same = one.get("test_agreement", one["agreement"])
        rows.append(
            f"| {precision} | {one['parity']:.1e} | {same:.1%} | {accuracy} | {one['frame_ms']:.2f} "
            f"| {one['share_of_fp32_time']:.2f} | {one['megabytes']:.1f} |"
        )
    return "\n".join(rows)


def _answers(engine: Engine, windows: Sequence[Mapping[str, Tensor]]) -> npt.NDArray[np.float32]:
    """Logits (N, K), got as on the robot."""
    running = Windows(engine)
    logits = [running.stream(window) for window in windows]
    return np.stack([one for one in logits if one is not None])


def _times(engines: Mapping[str, Engine], window: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, float]], float]:
    """Milliseconds by precision and running graph, and those of the whole window in the first precision.

    All of them take turns, so that a busy moment hits every one.
    """
    first = next(iter(engines.values()))
    manifest = first.manifest
    whole: list[float] = []
    times: dict[str, dict[str, list[float]]] = {name: {graph: [] for graph in manifest.running} for name in engines}
    generator = np.random.default_rng(0)
    inputs = {
        # Numbers do not change the work.
        graph: {one.name: generator.random(one.shape, np.float32) for one in manifest.graphs[graph].inputs}
        for graph in manifest.running
        if graph != WINDOW
    } | {WINDOW: dict(window)}
    begun = time.perf_counter()
    for number in range(REPEATS + 1):
        for name, engine in engines.items():
            for graph, spent in times[name].items():
                spent.append(_run(engine, inputs[graph], graph))
        if manifest.streams:
            whole.append(_run(first, inputs[WINDOW], WINDOW))
        if number >= 3 and time.perf_counter() - begun > PATIENCE_S:
            break
    medians = {
        name: {graph: statistics.median(spent[1:]) * 1e3 for graph, spent in graphs.items()}
        for name, graphs in times.items()
    }
    return medians, statistics.median(whole[1:]) * 1e3 if whole else sum(medians[first.precision].values())


def _run(engine: Engine, inputs: Mapping[str, Tensor], graph: str) -> float:
    start = time.perf_counter()
    engine.run(inputs, graph)
    return time.perf_counter() - start
