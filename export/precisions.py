"""From a network's parts in FP32 to the same parts in FP16 and INT8, fitted to real faces.

What a graph reads on the robot is what it is fitted with: images for an encoder, rings of real features for a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from tqdm import tqdm

from edge.bundle import ANSWER, FEATURE, HEAD, WINDOW, Stream
from edge.smooth import softmax
from edge.types import Tensor
from export.calibration import calibrate
from export.equalise import equalise
from export.errors import ExportError
from export.fp16 import exceptions, to_fp16
from export.int8 import quantisable
from export.int8_cpu import for_cpu
from export.search import search

AGREEMENT = 0.99
"""Share of the windows kept for it on which INT8 must name the label that FP32 names; else layers stay high."""

METHODS_TRIED = ("percentile-99.999", "percentile-99.99", "entropy")
"""The steadiest first: over several draws of faces it agreed with FP32 best where nobody had looked before."""

Windows = Sequence[Mapping[str, Tensor]]
"""Inputs of the graph ``window``, by name."""


@dataclass(frozen=True)
class Made:
    """One graph in one precision."""

    model: onnx.ModelProto
    cpu: onnx.ModelProto | None = None
    """The form for a CPU's kernels, where it is another."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What was decided, and on what figures."""


class Streamed:
    """The running graphs of a network in FP32, and what they read and answer on some windows.

    Args:
        models: the running graphs by name: ``window`` alone, or the encoders and ``head``.
        streams: of the bundle.
        windows: real inputs; features are computed once and kept.
    """

    def __init__(self, models: Mapping[str, onnx.ModelProto], streams: Sequence[Stream], windows: Windows) -> None:
        self.models, self.streams, self.windows = models, streams, windows
        self._rings = {stream.ring: self.features(stream, models[stream.encoder]) for stream in streams}
        self._answers = self.answers({})

    def samples(self, graph: str) -> Iterator[dict[str, Tensor]]:
        """Inputs of a graph, window after window."""
        if graph == WINDOW:
            yield from (dict(window) for window in self.windows)
        elif graph == HEAD:
            for i in range(len(self.windows)):
                yield {ring: rows[i] for ring, rows in self._rings.items()}
        else:
            (stream,) = (one for one in self.streams if one.encoder == graph)
            session = load(self.models[graph])
            for window in self.windows:
                yield from _reads(session, window[stream.input], stream)

    def features(self, stream: Stream, encoder: onnx.ModelProto) -> list[Tensor]:
        """The full ring (1, steps, ...) of each window."""
        session = load(encoder)
        rings = []
        for window in tqdm(self.windows, desc=stream.encoder, unit="window", leave=False, disable=None):
            found = [session.run([FEATURE], one)[0] for one in _reads(session, window[stream.input], stream)]
            rings.append(np.stack(found, axis=1))
        return rings

    def answers(self, changed: Mapping[str, onnx.ModelProto]) -> npt.NDArray[np.float64]:
        """Probabilities (N, K) of the windows, some graphs exchanged for others."""
        models = {**self.models, **changed}
        if not self.streams:
            session = load(models[WINDOW])
            logits = [session.run([ANSWER], dict(window))[0] for window in self.windows]
        else:
            rings = dict(self._rings)
            for stream in self.streams:
                if stream.encoder in changed:
                    rings[stream.ring] = self.features(stream, changed[stream.encoder])
            session = load(models[HEAD])
            logits = [
                session.run([ANSWER], {ring: rows[i] for ring, rows in rings.items()})[0]
                for i in range(len(self.windows))
            ]
        return softmax(np.concatenate(logits))

    def agreement(self, changed: Mapping[str, onnx.ModelProto]) -> float:
        """Share of the windows on which the label stays FP32's, less a hair of the mean change in probability.

        The hair orders what agrees alike: it never outweighs one window.
        """
        found = self.answers(changed)
        same = float((found.argmax(1) == self._answers.argmax(1)).mean())
        return same - float(np.abs(found - self._answers).mean()) * 0.5 / len(self.windows)


def halves(graph: str, network: Streamed) -> Made:
    """A graph in FP16."""
    model = network.models[graph]
    kept = exceptions(model, network.samples(graph))
    return Made(to_fp16(model, keep=kept), record={"kept in fp32": list(kept)})


def eighths(graph: str, fitting: Streamed, judging: Streamed, say: Callable[[str], None]) -> Made:
    """A graph in INT8, in the form for TensorRT and in the one for a CPU.

    Args:
        graph: which.
        fitting: on the windows that ranges are taken from.
        judging: on other windows, which choose the method and the layers that stay high.
        say: is told what happens.
    """
    model = fitting.models[graph]
    if not quantisable(model):
        made = halves(graph, fitting)
        return Made(made.model, model, {"quantised": [], "why": "no layer that INT8 fits", **made.record})
    even = equalise(model, fitting.samples(graph))
    ranges = calibrate(even, fitting.samples(graph), methods=METHODS_TRIED)
    # The floor is an agreement less the hair, see Streamed.agreement.
    floor = AGREEMENT - 0.5 / len(judging.windows)
    sums = ranges[METHODS_TRIED[0]]
    found = search(even, ranges, lambda made: judging.agreement({graph: for_cpu(made, sums)}), floor=floor)
    say(f"{graph}: int8 by {found.method}, {len(found.kept)} layers kept high")
    kept = exceptions(even, fitting.samples(graph))
    halved = to_fp16(
        found.model, keep=[name for name in kept if name in {node.name for node in found.model.graph.node}]
    )
    record = {
        "method": found.method,
        "quantised": [name for name in quantisable(even) if name not in found.kept],
        "kept high": list(found.kept),
        "tried": [{"step": one["step"], "method": one["method"], "score": one["score"]} for one in found.record],
    }
    return Made(halved, for_cpu(found.model, sums), record)


def load(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session on all cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that share no public base
        raise ExportError(f"onnxruntime can't load the graph: {str(error).splitlines()[0]}") from error


def _reads(session: onnxruntime.InferenceSession, clip: Tensor, stream: Stream) -> Iterator[dict[str, Tensor]]:
    """What an encoder reads as a window goes by, from the first image on that completes a feature.

    With states that is one image and what the encoder itself, in ``session``, answered before.
    """
    if stream.state:
        states = {one.name: np.zeros(one.shape, np.float32) for one in session.get_inputs() if one.name != stream.input}
        for at in range(clip.shape[1]):
            inputs = {stream.input: np.ascontiguousarray(clip[:, at]), **states}
            if at + 1 >= stream.receptive:
                yield inputs
            if at + 1 < clip.shape[1]:
                answers = session.run([after for _, after in stream.state], inputs)
                states = {before: answer for (before, _), answer in zip(stream.state, answers, strict=True)}
        return
    for last in range(stream.receptive, clip.shape[1] + 1):
        images = clip[:, last - stream.receptive : last]
        yield {stream.input: np.ascontiguousarray(images[:, 0] if stream.receptive == 1 else images)}
