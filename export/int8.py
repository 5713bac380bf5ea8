r"""INT8 written into the graph as QuantizeLinear and DequantizeLinear, the way a strongly typed TensorRT reads it.

Symmetric, zero-point 0. What a weighted operation reads is quantised: its activation per tensor, its weight per output
channel and stored as INT8. Biases, sigmoids, tangents, softmaxes, recurrent states and small heads stay high.

    activation -> Q -> DQ ---\
    INT8 weight -----> DQ ---- Conv | Gemm | MatMul -> ReLU, pools, ... in high precision

TensorRT fuses that with what surrounds it. ONNX Runtime's CPU kernels want another form: :func:`for_cpu` rewrites.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.calibration import LEVELS, WEIGHTED, Ranges, observe
from export.fp16 import check_names, tensor_types, to_fp16
from export.to_onnx import ExportError

HIGHS = ("fp32", "fp16")

COMMUTES = (
    *("Relu", "MaxPool", "GlobalMaxPool", "ReduceMax", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze"),
    *("Unsqueeze", "Slice", "Split", "Gather", "Identity"),
)
"""Operations that only choose or reorder, or clip at 0: with zero-point 0, quantising before or after is the same."""

STRENGTH = 0.5
"""Of :func:`equalise`."""

_GATES = ("Sigmoid", "Tanh", "Softmax")
_SMALLEST_SCALE = 2.0**-20
"""FP16 holds it, with four bits; quantising with the rounded scale makes up for the coarseness."""


@dataclass(frozen=True)
class Rules:
    """Which layers are worth eight bits; the defaults follow NVIDIA's Model Optimizer but for ``vectors``."""

    least: int = 16
    """Fewest input and output channels (or rows and columns of a weight)."""
    vectors: bool = True
    """Also fully connected layers that read one row (batch 1): they wait for their weights, which are four times
    smaller. Model Optimizer leaves them out, since some of TensorRT's kernels pad the row."""
    volumes: bool = False
    """Also 3-D convolutions: TensorRT has few INT8 kernels for them."""


@dataclass(frozen=True)
class Quantised:
    """What :func:`search` settled on."""

    model: onnx.ModelProto
    method: str
    kept: tuple[str, ...]
    """Layers that stayed high."""
    record: list[dict[str, Any]] = field(default_factory=list)
    """Every step: ``step``, ``method``, ``kept`` (a list) and ``score``."""


def to_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    high: str = "fp32",
    fp32: Collection[str] = (),
    rules: Rules = Rules(),
) -> onnx.ModelProto:
    """The same graph with INT8 where it pays, in the form that TensorRT wants.

    Scales are FP16 numbers in either case, and biases are rounded to the grid on which integer kernels add them, so
    that the two forms of ``high`` and :func:`for_cpu` hold the same integers. Tensors that meet in a Concat, or that
    come from one tensor through operations of ``COMMUTES``, share the largest of their ranges.

    Args:
        model: fp32, static shapes, nodes with names. It is not changed.
        ranges: of :func:`export.calibration.calibrate`.
        keep: names of layers that stay high.
        high: ``fp32`` or ``fp16``, the precision of the rest.
        fp32: names of nodes that stay FP32 where the rest is FP16, see :func:`export.fp16.exceptions`.
        rules: which layers are eligible.

    Raises:
        ExportError: an unknown name or precision, a tensor without a range, or no layer that INT8 fits.
    """
    if high not in HIGHS:
        raise ExportError(f"high precision {high!r} is unknown; expected one of {', '.join(HIGHS)}")
    eligible = quantisable(model, rules=rules)
    if missing := sorted(set(keep) - {node.name for node in model.graph.node}):
        raise ExportError(f"layers to keep are not in the graph: {', '.join(missing)}; see quantisable()")
    layers = [name for name in eligible if name not in keep]
    if not layers:
        raise ExportError("no layer is left for INT8; expected one of 16 channels or more; ship fp32 or fp16 alone")
    quantised = _quantise(model, ranges, layers)
    return to_fp16(quantised, keep=fp32) if high == "fp16" else quantised


def quantisable(model: onnx.ModelProto, *, rules: Rules = Rules()) -> tuple[str, ...]:
    """Names of the layers that INT8 fits, in the graph's order.

    Convolutions and fully connected layers with constant weights, wide enough, not grouped but by multiples of 8, whose
    input is neither a recurrent state nor the result of a sigmoid, tangent or softmax.
    """
    check_names(model)
    types = tensor_types(model)
    constants = {one.name: tuple(one.dims) for one in model.graph.initializer}
    makers = _makers(model)
    outputs = {tuple(size.dim_value for size in one.type.tensor_type.shape.dim) for one in model.graph.output}
    # A state goes in and comes out again with the same shape: how it drifts over many frames no sample shows.
    states = {
        one.name
        for one in model.graph.input
        if tuple(size.dim_value for size in one.type.tensor_type.shape.dim) in outputs
    }
    found = []
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.input[0] in constants or node.input[1] not in constants:
            continue
        shape = constants[node.input[1]]
        if node.op_type == "Conv":
            fits = _convolution_fits(node, shape, rules)
        else:
            rows = types[node.input[0]][1]
            fits = len(shape) == 2 and min(shape) >= rules.least and _plain(node)
            fits = fits and (rules.vectors or math.prod(rows[:-1]) > 1)
        if fits and not _recurrent(node.input[0], makers, states):
            found.append(node.name)
    return tuple(found)


def equalise(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, npt.NDArray[np.floating]]],
    *,
    strength: float = STRENGTH,
    rules: Rules = Rules(),
) -> onnx.ModelProto:
    """The same fp32 function with its channels brought nearer to one size, so that one scale fits them better.

    A positive factor on a channel goes through ReLUs and pools unchanged: multiplied into the layer before, it is
    divided out of the layers behind (Nagel et al. 2019, "Data-Free Quantization", section 4.1). A channel's factor is
    ``w ** (1 - strength) / a ** strength`` with ``a`` the mean over samples of its largest activation and ``w`` the
    largest weight that reads it, each relative to its output channel's largest (after SmoothQuant, Xiao et al. 2023,
    equation 4).

    Args:
        model: fp32, static shapes, nodes with names. It is not changed.
        samples: an array by input name, float32; read once, one at a time.
        strength: 0 evens out the weights, 1 the activations.
        rules: see :func:`to_int8`; what no eligible layer reads stays as it is.

    Raises:
        ExportError: no samples.
    """
    layers = set(quantisable(model, rules=rules))
    places = {node.name: sinks for node, sinks in _rescalable(model) if any(one.name in layers for one, _ in sinks)}
    makers = {node.name: node for node in model.graph.node}
    names = [makers[name].output[0] for name in places]
    peaks = {name: np.zeros(1) for name in names}
    count = 0
    for values in observe(model, samples, names):
        count += 1
        for name, value in values.items():
            peaks[name] = peaks[name] + np.maximum(value.max(axis=(0, *range(2, value.ndim))), 0.0)

    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    changed: set[str] = set()

    def scale(name: str, factors: npt.NDArray[np.float64], axis: int) -> None:
        weight = weights[name]
        shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
        weights[name] = (weight * factors.reshape(shape)).astype(np.float32)
        changed.add(name)

    for name, sinks in places.items():
        layer = makers[name]
        active = peaks[layer.output[0]] / count  # a mean: one odd sample should not decide
        reading = np.zeros(len(active))
        for sink, channels in sinks:
            output, read = _axis(sink), _inner(sink)
            weight = np.abs(weights[sink.input[1]])
            others = tuple(one for one in range(weight.ndim) if one != output)
            relative = weight / np.maximum(weight.max(others, keepdims=True), np.finfo(np.float32).tiny)
            column = relative.max(tuple(one for one in range(weight.ndim) if one != read))
            there = channels >= 0
            np.maximum.at(reading, channels[there], column[there])
        alive = (active > 0) & (reading > 0)
        factors = np.ones(len(active))
        if alive.any():
            factors[alive] = reading[alive] ** (1 - strength) / active[alive] ** strength
            # Tensors that meet in a Concat share a scale: all are brought to the same largest peak, 1.
            factors[alive] /= (active * factors)[alive].max()
        scale(layer.input[1], factors, _axis(layer))
        if len(layer.input) > 2:
            scale(layer.input[2], factors, 0)
        for sink, channels in sinks:
            back = np.where(channels >= 0, 1 / factors[np.maximum(channels, 0)], 1.0)
            scale(sink.input[1], back, _inner(sink))
    constants = {
        one.name: numpy_helper.from_array(weights[one.name], one.name) if one.name in changed else one
        for one in model.graph.initializer
    }
    return _assemble(model, list(model.graph.node), constants)


def for_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same integers in the form that ONNX Runtime's CPU kernels fuse; TensorRT would refuse it.

    - A convolution whose result goes through a ReLU (and ``COMMUTES``) to a quantisation gets that quantisation
      directly behind it, which makes it one integer kernel, and pools behind it work on integers.
    - After a ReLU no value is negative: unsigned eight bits with zero-point 0 clip at 0 on their own, and a Clip at 127
      does what signed ones do. Products of such values also never overflow on CPUs without VNNI.
    - A fully connected layer with a float32 result is summed in integers and scaled afterwards: ONNX Runtime 1.31 and
      1.23 don't fuse one that another float32 layer follows.
    - The other biases become INT32, which the fused kernels ask for.

    Args:
        model: of :func:`to_int8` with ``high="fp32"``. It is not changed.

    Returns:
        A model that gives the same numbers, but for rounding in the kernels that fuse.

    Raises:
        ExportError: the model's high precision is FP16, for which the CPU has few kernels.
    """
    constants = {one.name: one for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and constants[node.input[1]].data_type != TensorProto.FLOAT:
            raise ExportError("the CPU form wants float32 scales; expected to_int8(..., high='fp32')")
    return _ForCPU(model).model


def search(
    model: onnx.ModelProto,
    ranges_by_method: Mapping[str, Ranges],
    evaluate: Callable[[onnx.ModelProto], float],
    *,
    floor: float,
    high: str = "fp32",
    fp32: Collection[str] = (),
    rules: Rules = Rules(),
) -> Quantised:
    """The calibration method that scores best, and as few layers left high as the floor asks for.

    All methods are tried. Where none reaches the floor, each layer is quantised alone to see what it costs, with the
    best method first; the costliest are left high, one more at a time, until the floor is reached; then each that turns
    out not to be needed is given back. The next best method follows where this fails.

    Args:
        model: fp32.
        ranges_by_method: of :func:`export.calibration.calibrate`.
        evaluate: a score of a quantised model, the higher the better, always the same for the same model.
        floor: the score that will do.
        high: see :func:`to_int8`.
        fp32: see :func:`to_int8`.
        rules: see :func:`to_int8`.

    Raises:
        ExportError: no method was given, or the floor is out of reach with a single layer in INT8.
    """
    if not ranges_by_method:
        raise ExportError("no ranges were given to choose from; expected those of at least one method; see calibrate()")
    layers = quantisable(model, rules=rules)
    record: list[dict[str, Any]] = []

    def attempt(step: str, method: str, kept: Collection[str]) -> tuple[float, onnx.ModelProto]:
        made = to_int8(model, ranges_by_method[method], keep=kept, high=high, fp32=fp32, rules=rules)
        score = float(evaluate(made))
        ordered = [name for name in layers if name in kept]
        record.append({"step": step, "method": method, "kept": ordered, "score": score})
        return score, made

    scores = {method: attempt("method", method, ())[0] for method in ranges_by_method}
    for method in sorted(scores, key=lambda name: -scores[name]):  # stable: the first of equals
        if scores[method] >= floor:
            made = to_int8(model, ranges_by_method[method], high=high, fp32=fp32, rules=rules)
            return Quantised(made, method, (), record)
        alone = {name: attempt("alone", method, set(layers) - {name})[0] for name in layers}
        costliest = sorted(layers, key=lambda name: alone[name])
        kept: list[str] = []
        score = scores[method]
        while score < floor and len(kept) + 1 < len(layers):
            kept.append(costliest[len(kept)])
            score, best = attempt("keep", method, kept)
        if score < floor:
            continue
        for name in kept[:-1]:
            fewer = [one for one in kept if one != name]
            score, made = attempt("give back", method, fewer)
            if score >= floor:
                kept, best = fewer, made
        return Quantised(best, method, tuple(name for name in layers if name in kept), record)
    raise ExportError(
        f"INT8 reaches {max(entry['score'] for entry in record):.4f} at best; expected {floor:.4f}; "
        "calibrate with more samples, or ship fp16"
    )


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    return readers


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _convolution_fits(node: onnx.NodeProto, shape: tuple[int, ...], rules: Rules) -> bool:
    groups = _attribute(node, "group", 1)
    if len(shape) > 4 and not rules.volumes:
        return False
    if groups > 1 and (shape[0] % 8 or max(shape[2:]) < 3):
        return False
    return shape[0] >= rules.least and shape[1] * groups >= rules.least


def _plain(node: onnx.NodeProto) -> bool:
    """Whether a fully connected layer is x W + b and nothing more."""
    return (
        _attribute(node, "alpha", 1.0) == 1.0
        and _attribute(node, "beta", 1.0) == 1.0
        and _attribute(node, "transA", 0) == 0
    )


def _recurrent(name: str, makers: Mapping[str, onnx.NodeProto], states: Collection[str]) -> bool:
    """Whether a tensor is a state, a gate's result, or a product of gates' results, in whatever order it lies."""
    if name in states:
        return True
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type in _GATES:
        return True
    if node.op_type == "Mul":
        return all(_recurrent(one, makers, states) for one in node.input)
    if node.op_type in COMMUTES and node.op_type != "Relu":
        return any(_recurrent(one, makers, states) for one in node.input if one in makers or one in states)
    return False


def _axis(node: onnx.NodeProto) -> int:
    """The weight's axis of output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and _attribute(node, "transB", 0) else 1


def _inner(node: onnx.NodeProto) -> int:
    """The weight's axis of input channels."""
    return 1 - _axis(node)


def _rescalable(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.NodeProto, list[tuple[onnx.NodeProto, npt.NDArray[np.int64]]]]]:
    """Layers whose every reader, through ``COMMUTES``, is a layer too, with weights that nothing else reads.

    Yields a layer, and for each reader the layer's channel that each of its weight's input channels reads, -1 for none.
    """
    readers, types = _readers(model), tensor_types(model)
    constants = {one.name for one in model.graph.initializer}
    outputs = {one.name for one in model.graph.output}

    def own(node: onnx.NodeProto) -> bool:
        names = [name for name in node.input[1:] if name]
        return all(name in constants and len(readers[name]) == 1 for name in names)

    def plain(node: onnx.NodeProto) -> bool:
        if node.op_type == "Conv":
            return _attribute(node, "group", 1) == 1
        return node.op_type == "Gemm" and _plain(node)

    for node in model.graph.node:
        if not (plain(node) and own(node)):
            continue
        region: dict[str, onnx.NodeProto] = {}
        sinks: list[tuple[onnx.NodeProto, str]] = []
        open_names, whole = [node.output[0]], True
        while open_names:
            name = open_names.pop()
            whole = whole and name not in outputs
            for reader in readers.get(name, ()):
                if reader.op_type not in COMMUTES:
                    sinks.append((reader, name))
                elif reader.name not in region:
                    region[reader.name] = reader
                    open_names.extend(reader.output)
        if not whole or not sinks:
            continue
        if not all(plain(sink) and own(sink) and sink.input[0] == name for sink, name in sinks):
            continue
        ordered = [one for one in model.graph.node if one.name in region]
        channels = _follow(model, node.output[0], ordered, [name for _, name in sinks], types)
        mapped = []
        for sink, name in sinks:
            places = channels[name]
            line = np.moveaxis(places, 1 if sink.op_type == "Conv" else -1, 0).reshape(
                types[sink.input[1]][1][_inner(sink)], -1
            )
            if (line != line[:, :1]).any():
                break
            mapped.append((sink, line[:, 0]))
        else:
            yield node, mapped


def _follow(
    model: onnx.ModelProto,
    name: str,
    region: list[onnx.NodeProto],
    targets: list[str],
    types: Mapping[str, tuple[int, tuple[int, ...]]],
) -> dict[str, npt.NDArray[np.int64]]:
    """Which channel of a tensor each value of the targets comes from, -1 for none: the region, run on numbers of it."""
    import onnxruntime

    shape = types[name][1]
    numbers = np.arange(1, shape[1] + 1, dtype=np.float32).reshape(1, -1, *[1] * (len(shape) - 2))
    made = {one for node in region for one in node.output}
    constants = {one.name: one for one in model.graph.initializer}
    needed = {one for node in region for one in node.input if one}
    inputs = [name, *sorted(needed - made - set(constants) - {name})]
    outputs = [one for one in dict.fromkeys(targets) if one != name]
    found = {name: np.broadcast_to(numbers, shape).astype(np.int64) - 1}
    if not outputs:
        return found
    graph = helper.make_graph(
        region,
        "region",
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, types[one][1]) for one in inputs],
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, types[one][1]) for one in outputs],
        [constants[one] for one in sorted(needed & set(constants))],
    )
    part = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {one: np.zeros(types[one][1], np.float32) for one in inputs}
    feeds[name] = np.ascontiguousarray(np.broadcast_to(numbers, shape))
    for one, value in zip(outputs, session.run(outputs, feeds), strict=True):
        found[one] = np.rint(value).astype(np.int64) - 1
    return found


def _quantise(model: onnx.ModelProto, ranges: Ranges, layers: Collection[str]) -> onnx.ModelProto:
    constants = {one.name: one for one in model.graph.initializer}
    chosen = [node for node in model.graph.node if node.name in layers]
    residual = _residuals(model, {node.name for node in chosen})
    points = dict.fromkeys([node.input[0] for node in chosen] + list(residual.values()))
    scales = _scales(model, ranges, list(points))

    made: dict[str, TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    zero = "int8_zero"
    made[zero] = numpy_helper.from_array(np.zeros((), np.int8), zero)

    quantised: dict[str, str] = {}

    def activation(name: str) -> str:
        """Put the pair behind a tensor, once for all its readers; they read the result."""
        if name not in quantised:
            scale, integers, result = f"{name}_scale", f"{name}_int8", f"{name}_dequantised"
            made[scale] = numpy_helper.from_array(np.array(scales[name], np.float32), scale)
            nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=f"{name}_quantise"))
            nodes.append(
                helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{name}_dequantise")
            )
            quantised[name] = result
        return quantised[name]

    weights: dict[tuple[str, str, int], tuple[str, npt.NDArray[np.float32]]] = {}

    def weight(node: onnx.NodeProto) -> tuple[str, npt.NDArray[np.float32]]:
        """The INT8 weight behind its DequantizeLinear, and its scales; steps that share a weight share the nodes."""
        axis, name = _axis(node), node.input[1]
        bias = node.input[2] if len(node.input) > 2 else ""
        key = (name, bias, axis)
        if key not in weights:
            tag = name if sum(one[0] == name for one in weights) == 0 else f"{name}_{len(weights)}"
            shift = numpy_helper.to_array(constants[bias]) if bias in constants else None
            integers, scale = _integers(numpy_helper.to_array(constants[name]), axis, shift, scales[node.input[0]])
            if node.op_type == "Gemm" and axis == 0:
                # A row an input, as integer kernels read it: both forms then keep the very same bytes.
                integers, axis = np.ascontiguousarray(integers.T), 1
            parts = (f"{tag}_int8", f"{tag}_scale", f"{tag}_zero")
            made[parts[0]] = numpy_helper.from_array(integers, parts[0])
            made[parts[1]] = numpy_helper.from_array(scale, parts[1])
            made[parts[2]] = numpy_helper.from_array(np.zeros(len(scale), np.int8), parts[2])
            result = f"{tag}_dequantised"
            nodes.append(helper.make_node("DequantizeLinear", parts, [result], name=f"{tag}_dequantise", axis=axis))
            weights[key] = (result, scale)
        return weights[key]

    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.name in layers:
            copy.input[0] = activation(node.input[0])
            copy.input[1], scale = weight(node)
            for attribute in copy.attribute:
                if node.op_type == "Gemm" and attribute.name == "transB":
                    attribute.i = 0
            if len(node.input) > 2 and node.input[2] in constants:
                step = np.float32(scales[node.input[0]]) * scale
                shift = numpy_helper.to_array(constants[node.input[2]])
                rounded = (np.rint(shift / step).astype(np.int32).astype(np.float32) * step).astype(np.float32)
                name = f"{node.name}_{node.input[2]}"
                made[name] = numpy_helper.from_array(rounded, name)
                copy.input[2] = name
        elif node.name in residual:
            for index, name in enumerate(node.input):
                if name == residual[node.name]:
                    copy.input[index] = activation(name)
        nodes.append(copy)
    used = {name for node in nodes for name in node.input}
    for name, constant in constants.items():
        if name in used:
            made.setdefault(name, constant)
    return _assemble(model, nodes, made)


def _scales(model: onnx.ModelProto, ranges: Ranges, points: list[str]) -> dict[str, float]:
    """Scale by quantised tensor; those that meet, or come of one, share one."""
    if missing := [name for name in points if not ranges.get(name, 0.0) > 0.0]:
        raise ExportError(
            f"no range over 0 for {', '.join(missing)}; expected some activation; calibrate this very graph"
        )
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.get(name, name) != name:
            name = group[name]
        return name

    constants = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in COMMUTES:
            data = node.input if node.op_type == "Concat" else node.input[:1]
            for name in (*data, *node.output):
                if name and name not in constants:
                    group[root(name)] = root(node.output[0])
    largest: dict[str, float] = defaultdict(float)
    for name in points:
        largest[root(name)] = max(largest[root(name)], ranges[name])
    top = LEVELS - 1
    return {name: float(_round_up(np.array(largest[root(name)] / top))) for name in points}


def _round_up(scale: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The next FP16 number that is not smaller, so that both high precisions hold the very same scale."""
    wide = np.maximum(np.asarray(scale, np.float64), _SMALLEST_SCALE)
    half = wide.astype(np.float16)
    half = np.where(half.astype(np.float64) < wide, np.nextafter(half, np.float16(np.inf)), half)
    return np.asarray(half, np.float32)


def _integers(
    weight: npt.NDArray[np.floating], axis: int, bias: npt.NDArray[np.floating] | None, activation: float
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """The weight's integers in -127..127 and one scale for each output channel."""
    others = tuple(one for one in range(weight.ndim) if one != axis)
    largest = np.abs(weight).max(others).astype(np.float64)
    scale = largest / (LEVELS - 1)
    if bias is not None:
        # A bias far beyond its weights would leave the integers that a float32 holds.
        scale = np.maximum(scale, np.abs(np.broadcast_to(bias, scale.shape)) / (activation * 2**24))
    rounded = _round_up(scale)
    shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
    integers = np.clip(np.rint(weight / rounded.reshape(shape)), 1 - LEVELS, LEVELS - 1)
    return np.ascontiguousarray(integers.astype(np.int8)), rounded


def _residuals(model: onnx.ModelProto, layers: Collection[str]) -> dict[str, str]:
    """Add's name to its identity branch, for each Add of an INT8 convolution whose sum INT8 layers read.

    The fused kernel's output has the precision of what is added to it.
    """
    makers, readers = _makers(model), _readers(model)
    depth: dict[str, int] = {}
    for node in model.graph.node:
        deepest = 1 + max((depth.get(name, 0) for name in node.input), default=0)
        depth.update(dict.fromkeys(node.output, deepest))
    constants = {one.name for one in model.graph.initializer}
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Add" or any(name in constants for name in node.input) or node.input[0] == node.input[1]:
            continue
        made = [name for name in node.input if name in makers and makers[name].name in layers]
        if made and any(reader.name in layers for reader in _beyond(node.output[0], readers)):
            # Of two convolutions the shorter branch is the shortcut.
            branch = max(made, key=lambda name: depth[name])
            found[node.name] = next(name for name in node.input if name != branch)
    return found


def _beyond(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """What reads a tensor, directly or through operations of ``COMMUTES``."""
    for node in readers.get(name, ()):
        if node.op_type in COMMUTES:
            for output in node.output:
                yield from _beyond(output, readers)
        else:
            yield node


def _assemble(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        model.graph.name or "graph",
        model.graph.input,
        model.graph.output,
        [one for name, one in constants.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return made


class _ForCPU:
    """Finds what can move, then writes the graph anew in one pass."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {one.name: one for one in model.graph.initializer}
        self._makers, self._readers = _makers(model), _readers(model)
        self._outputs = {one.name for one in model.graph.output}
        self._made = dict(self._constants)
        for name, value in (("uint8_zero", np.uint8(0)), ("uint8_127", np.uint8(LEVELS - 1))):
            self._made[name] = numpy_helper.from_array(np.array(value), name)
        self._nodes: list[onnx.NodeProto] = []
        self._early = self._find_early()
        self._renamed: dict[str, str] = {}
        self._integers: dict[str, str] = {}
        """The integers behind a tensor that was quantised at once."""
        self._unsigned: set[str] = set()
        """INT8 tensors of the old graph that are unsigned in the new one."""
        for node in model.graph.node:
            self._write(node)
        read = self._outputs | {name for node in self._nodes for name in node.input}
        alive = [node for node in self._nodes if not read.isdisjoint(node.output)]
        self.model = _assemble(model, alive, self._made)

    def _is_layer(self, node: onnx.NodeProto | None) -> bool:
        """Whether this is a weighted operation whose activation and weight come out of a DequantizeLinear."""
        if node is None or node.op_type not in WEIGHTED:
            return False
        sources = [self._makers.get(name) for name in node.input[:2]]
        return all(one is not None and one.op_type == "DequantizeLinear" for one in sources)

    def _find_early(self) -> dict[str, tuple[str, str]]:
        """A layer's name to the tensor (its own or its ReLU's) that is quantised at once, and the scale's name."""
        found = {}
        for node in self._model.graph.node:
            if not self._is_layer(node):
                continue
            result = node.output[0]
            readers = self._readers.get(result, [])
            if len(readers) == 1 and readers[0].op_type == "Relu" and result not in self._outputs:
                result = readers[0].output[0]
            scale = self._one_scale(result)
            if scale is not None:
                found[node.name] = (result, scale)
        return found

    def _one_scale(self, name: str) -> str | None:
        """The one scale with which a tensor is quantised everywhere it goes; None if it is read otherwise."""
        names = [name]
        scales: dict[float, str] = {}
        while names:
            one = names.pop()
            readers = self._readers.get(one, [])
            if one in self._outputs or not readers:
                return None
            for node in readers:
                if node.op_type in COMMUTES:
                    names.extend(node.output)
                elif node.op_type == "QuantizeLinear":
                    scales.setdefault(float(numpy_helper.to_array(self._constants[node.input[1]])), node.input[1])
                else:
                    return None
        return next(iter(scales.values())) if len(scales) == 1 else None

    def _positive(self, name: str) -> bool:
        """Whether no value can be negative."""
        node = self._makers.get(name)
        if node is None:
            return False
        if node.op_type == "Relu":
            return True
        data = node.input if node.op_type == "Concat" else node.input[:1]
        return node.op_type in COMMUTES and all(self._positive(one) for one in data)

    def _settled(self, name: str, scale: float) -> bool:
        """Whether all values of a tensor were quantised with this scale on the way, so that none exceeds 127."""
        for result, scale_name in self._early.values():
            if result == name:
                return float(numpy_helper.to_array(self._constants[scale_name])) == scale
        node = self._makers.get(name)
        if node is None or node.op_type not in COMMUTES:
            return False
        data = node.input if node.op_type == "Concat" else node.input[:1]
        return all(self._settled(one, scale) for one in data)

    def _write(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            copy.input[index] = self._renamed.get(name, name)
        if node.op_type == "Relu":
            maker = self._makers.get(node.input[0])
            if maker is not None and self._early.get(maker.name, ("", ""))[0] == node.output[0]:
                # The unsigned quantisation behind the layer clips at 0 already.
                self._renamed[node.output[0]] = self._renamed[node.input[0]]
                return
        if node.op_type == "QuantizeLinear":
            self._write_quantise(node, copy)
            return
        if node.op_type == "DequantizeLinear" and node.input[0] in self._unsigned:
            copy.input[2] = "uint8_zero"
        if self._is_layer(node):
            if node.op_type != "Conv" and node.name not in self._early:
                self._write_integer(node, copy.output[0])
                return
            self._add_bias(node, copy)
        self._nodes.append(copy)
        if node.name in self._early:
            result, scale = self._early[node.name]
            layer = node.output[0]
            unsigned = self._positive(result)
            self._renamed[layer] = self._pair(layer, scale, unsigned=unsigned)

    def _write_quantise(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        if not self._positive(node.input[0]):
            self._nodes.append(copy)
            return
        self._unsigned.add(node.output[0])
        if copy.input[0] in self._integers:
            self._renamed[node.output[0]] = self._integers[copy.input[0]]
            return
        copy.input[2] = "uint8_zero"
        self._nodes.append(copy)
        scale = float(numpy_helper.to_array(self._constants[node.input[1]]))
        if not self._settled(node.input[0], scale):
            self._renamed[node.output[0]] = self._clip(node.output[0])

    def _pair(self, name: str, scale: str, *, unsigned: bool) -> str:
        zero = "uint8_zero" if unsigned else "int8_zero"
        if not unsigned:
            self._made.setdefault(zero, numpy_helper.from_array(np.zeros((), np.int8), zero))
        integers, result = f"{name}_at_once", f"{name}_at_once_dequantised"
        self._nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [integers], name=f"{integers}_q"))
        if unsigned:
            integers = self._clip(integers)
        self._nodes.append(helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{result}_q"))
        if unsigned:
            self._integers[result] = integers
        return result

    def _clip(self, name: str) -> str:
        clipped = f"{name}_clipped"
        self._nodes.append(helper.make_node("Clip", [name, "uint8_zero", "uint8_127"], [clipped], name=f"{name}_clip"))
        return clipped

    def _write_integer(self, node: onnx.NodeProto, output: str) -> None:
        """A fully connected layer with a float32 result: summed as integers, then scaled."""
        activation, weight = self._sources(node)
        integers = self._renamed.get(activation.input[0], activation.input[0])
        zero = "uint8_zero" if activation.input[0] in self._unsigned else activation.input[2]
        step, tag = self._step(node), f"{node.name}_summed"
        matrix = numpy_helper.to_array(self._constants[weight.input[0]])
        if _axis(node) == 0:
            matrix = np.ascontiguousarray(matrix.T)
        self._made[f"{tag}_weight"] = numpy_helper.from_array(matrix, f"{tag}_weight")
        self._made[f"{tag}_scale"] = numpy_helper.from_array(step, f"{tag}_scale")
        self._nodes.append(helper.make_node("MatMulInteger", [integers, f"{tag}_weight", zero], [tag], name=tag))
        if len(node.input) > 2:
            shift = np.rint(numpy_helper.to_array(self._constants[node.input[2]]) / step).astype(np.int32)
            self._made[f"{tag}_bias"] = numpy_helper.from_array(shift, f"{tag}_bias")
            self._nodes.append(helper.make_node("Add", [tag, f"{tag}_bias"], [f"{tag}_all"], name=f"{tag}_all"))
            tag = f"{tag}_all"
        self._nodes.append(helper.make_node("Cast", [tag], [f"{tag}_real"], name=f"{tag}_real", to=TensorProto.FLOAT))
        scale = f"{node.name}_summed_scale"
        self._nodes.append(helper.make_node("Mul", [f"{tag}_real", scale], [output], name=f"{node.name}_scaled"))

    def _sources(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
        """The nodes that dequantise a layer's activation and weight."""
        return self._makers[node.input[0]], self._makers[node.input[1]]

    def _step(self, node: onnx.NodeProto) -> npt.NDArray[np.float32]:
        """What one unit of a layer's integer sums is worth, by output channel."""
        activation, weight = (numpy_helper.to_array(self._constants[one.input[1]]) for one in self._sources(node))
        return np.asarray(activation * weight, np.float32)

    def _add_bias(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        if len(node.input) < 3 or node.input[2] not in self._constants:
            return
        step = self._step(node)
        value = numpy_helper.to_array(self._constants[node.input[2]])
        if value.shape != step.shape:
            return
        tag = f"{node.name}_bias"
        parts = (f"{tag}_int32", f"{tag}_scale", f"{tag}_zero")
        self._made[parts[0]] = numpy_helper.from_array(np.rint(value / step).astype(np.int32), parts[0])
        self._made[parts[1]] = numpy_helper.from_array(step, parts[1])
        self._made[parts[2]] = numpy_helper.from_array(np.zeros(len(step), np.int32), parts[2])
        result = f"{tag}_dequantised"
        self._nodes.append(helper.make_node("DequantizeLinear", parts, [result], name=f"{tag}_dequantise", axis=0))
        copy.input[2] = result
