"""How large a graph's activations get, so that eight bits can be spread over them.

Every sample runs through the fp32 graph once; each tensor's magnitudes go into a histogram whose range doubles when a
larger value comes. Memory does not grow with the number of samples, and one pass serves every method.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import ExportError

Ranges = Mapping[str, float]
"""The magnitude that becomes 127, by the tensor's name, in its own unit; larger ones saturate. 0: all were 0."""

METHODS = ("entropy", "percentile-99.999", "percentile-99.99", "percentile-99.9", "max")
"""``percentile-P`` takes any P over 0 and up to 100."""

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""The operations whose inputs are worth eight bits."""

BINS = 2048
LEVELS = 128
"""Magnitudes that eight symmetric bits tell apart: 0..127."""


class Histogram:
    """Magnitudes of one tensor, counted in ``BINS`` equal bins from 0 to ``top``."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.top = 0.0
        self.largest = 0.0
        """The largest magnitude itself, not its bin's border."""

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Count an array of any shape. Raises ExportError where it holds NaN or infinity."""
        magnitudes = np.abs(values.ravel())
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ExportError("calibration met NaN or infinity; expected finite activations; check the samples")
        self.largest = max(self.largest, largest)
        if self.top == 0.0 and largest > 0.0:
            # All that was counted so far is zeros, and zeros lie in the first bin of any range.
            self.top = largest
        while largest > self.top:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2
        if self.top == 0.0:
            self.counts[0] += magnitudes.size
            return
        places = np.minimum((magnitudes * (BINS / self.top)).astype(np.int64), BINS - 1)
        self.counts += np.bincount(places, minlength=BINS)

    def amax(self, method: str) -> float:
        """The magnitude that becomes 127 by a method of ``METHODS``; 0 where every value was 0.

        Raises:
            ExportError: an unknown method.
        """
        if method == "max" or self.top == 0.0:
            amax = self.largest
        elif method == "entropy":
            amax = _entropy(self.counts) * self.top / BINS
        else:
            amax = self._percentile(method)
        return min(amax, self.largest)

    def _percentile(self, method: str) -> float:
        share = percentage(method) / 100
        reached = np.cumsum(self.counts) >= share * self.counts.sum()
        return float(np.argmax(reached) + 1) * self.top / BINS


def percentage(method: str) -> float:
    """P of ``percentile-P``. Raises ExportError where the method is none of ``METHODS``' forms."""
    name, _, text = method.partition("-")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if name != "percentile" or not 0 < value <= 100:
        raise ExportError(f"calibration method {method!r} is unknown; expected one of {', '.join(METHODS)}")
    return value


def calibrate(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, npt.NDArray[np.floating]]],
    *,
    methods: Sequence[str] = METHODS,
    tensors: Collection[str] | None = None,
) -> dict[str, Ranges]:
    """Ranges by method, from one pass over the samples.

    Args:
        model: the fp32 graph.
        samples: an array by input name, float32, of the graph's shapes; read once, one at a time.
        methods: ``max`` is the largest magnitude met; ``percentile-P`` the one that P per cent do not exceed;
            ``entropy`` the one that loses least information (Kullback-Leibler divergence between the distribution and
            its 128 levels, as in NVIDIA's "8-bit Inference with TensorRT", 2017).
        tensors: whose ranges; None is all that :func:`wanted` names.

    Raises:
        ExportError: no samples, an unknown method, or NaN or infinity on the way.
    """
    for method in methods:
        if method not in ("max", "entropy"):
            percentage(method)
    names = wanted(model) if tensors is None else tuple(tensors)
    histograms = {name: Histogram() for name in names}
    for values in observe(model, samples, names):
        for name, value in values.items():
            histograms[name].add(value)
    return {method: {name: histogram.amax(method) for name, histogram in histograms.items()} for method in methods}


def wanted(model: onnx.ModelProto) -> tuple[str, ...]:
    """The activations whose ranges INT8 can want: what weighted operations read, and what residual sums add."""
    constant = {one.name for one in model.graph.initializer}
    names: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            # The second input of a MatMul may be an activation too; a bias never is one.
            names.update(dict.fromkeys(name for name in node.input[:2] if name not in constant))
        elif node.op_type == "Add" and not any(name in constant for name in node.input):
            names.update(dict.fromkeys(node.input))
    return tuple(names)


def observe(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, npt.NDArray[np.floating]]],
    tensors: Collection[str],
) -> Iterator[dict[str, npt.NDArray[np.floating]]]:
    """Run the graph on one sample after the other; yields the values of the named tensors, inputs among them.

    Raises:
        ExportError: no samples.
    """
    import onnxruntime

    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    inputs = {one.name for one in model.graph.input}
    names = [name for name in tensors if name not in inputs]
    del wrapped.graph.output[:]
    wrapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # The graph as it stands: a fused operation has no intermediate value to show.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = None
    if names:
        session = onnxruntime.InferenceSession(wrapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    del wrapped
    count = 0
    for sample in samples:
        count += 1
        values = {name: np.asarray(sample[name]) for name in tensors if name in inputs}
        if session is not None:
            values.update(zip(names, session.run(names, dict(sample)), strict=True))
        yield values
    if count == 0:
        raise ExportError("no samples were given; expected some hundreds of the network's own inputs")


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """How many bins to keep so that the kept distribution and its quantised form diverge least."""
    weights = counts.astype(np.float64)
    # What a ReLU switched off costs nothing at any scale; its spike would drown the rest.
    weights[0] = weights[1]
    filled = np.flatnonzero(weights)
    if len(filled) == 0:
        return float(BINS)
    last = int(filled[-1]) + 1
    best, kept = np.inf, last
    for size in range(LEVELS, last + 1, 8):
        reference = weights[:size].copy()
        reference[-1] += weights[size:].sum()
        level = (np.arange(size) * LEVELS) // size
        occupied = weights[:size] > 0
        total = np.bincount(level, weights=weights[:size], minlength=LEVELS)
        members = np.bincount(level, weights=occupied, minlength=LEVELS)
        spread = np.divide(total, members, out=np.zeros(LEVELS), where=members > 0)
        quantised = np.where(occupied, spread[level], 0.0)
        divergence = _divergence(reference, quantised)
        if divergence < best:
            best, kept = divergence, size
    return float(kept)


def _divergence(reference: npt.NDArray[np.float64], quantised: npt.NDArray[np.float64]) -> float:
    p, q = reference / reference.sum(), quantised / max(quantised.sum(), 1.0)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())
