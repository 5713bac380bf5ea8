r"""INT8 written into the graph as QuantizeLinear and DequantizeLinear, the way a strongly typed TensorRT reads it.

Symmetric, zero-point 0. What a weighted operation reads is quantised: its activation per tensor, its weight per output
channel and stored as INT8. Biases, sigmoids, tangents, softmaxes, recurrent states and small heads stay high.

    activation -> Q -> DQ ---\
    INT8 weight -----> DQ ---- Conv | Gemm | MatMul -> ReLU, pools, ... in high precision

TensorRT fuses that with what surrounds it. ONNX Runtime's CPU kernels want another form: see :mod:`export.int8_cpu`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.calibration import LEVELS, WEIGHTED, Ranges
from export.errors import ExportError
from export.fp16 import check_names, tensor_types, to_fp16
from export.onnxgraph import COMMUTES, assembled, attribute_of, beyond, makers_of, output_axis, plain, readers_of

HIGHS = ("fp32", "fp16")

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


RULES = Rules()
"""Unless something else is said."""


def to_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    high: str = "fp32",
    fp32: Collection[str] = (),
    rules: Rules = RULES,
) -> onnx.ModelProto:
    """The same graph with INT8 where it pays, in the form that TensorRT wants.

    Scales are FP16 numbers in either case, and biases are rounded to the grid on which integer kernels add them, so
    that the two forms of ``high`` and :mod:`export.int8_cpu` hold the same integers. Tensors that meet in a Concat, or
    that come from one tensor through operations of ``COMMUTES``, share the largest of their ranges.

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


def quantisable(model: onnx.ModelProto, *, rules: Rules = RULES) -> tuple[str, ...]:
    """Names of the layers that INT8 fits, in the graph's order.

    Convolutions and fully connected layers with constant weights, wide enough, not grouped but by multiples of 8, whose
    input is neither a recurrent state nor the result of a sigmoid, tangent or softmax.
    """
    check_names(model)
    types = tensor_types(model)
    constants = {one.name: tuple(one.dims) for one in model.graph.initializer}
    makers = makers_of(model)
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
            fits = len(shape) == 2 and min(shape) >= rules.least and plain(node)
            fits = fits and (rules.vectors or math.prod(rows[:-1]) > 1)
        if fits and not _recurrent(node.input[0], makers, states):
            found.append(node.name)
    return tuple(found)


def _convolution_fits(node: onnx.NodeProto, shape: tuple[int, ...], rules: Rules) -> bool:
    groups = attribute_of(node, "group", 1)
    if len(shape) > 4 and not rules.volumes:
        return False
    if groups > 1 and (shape[0] % 8 or max(shape[2:]) < 3):
        return False
    return shape[0] >= rules.least and shape[1] * groups >= rules.least


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
        axis, name = output_axis(node), node.input[1]
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
    return assembled(model, nodes, made)


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
    return {name: float(scale_of(largest[root(name)])) for name in points}


def scale_of(largest: float) -> npt.NDArray[np.float32]:
    """What one step of eight bits is worth where ``largest`` becomes 127, a scalar that FP16 holds too."""
    return _round_up(np.array(largest / (LEVELS - 1)))


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
    makers, readers = makers_of(model), readers_of(model)
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
        if made and any(reader.name in layers for reader in beyond(node.output[0], readers)):
            # Of two convolutions the shorter branch is the shortcut.
            branch = max(made, key=lambda name: depth[name])
            found[node.name] = next(name for name in node.input if name != branch)
    return found
