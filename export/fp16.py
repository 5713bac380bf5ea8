"""FP16 written into the graph: a strongly typed TensorRT build does exactly what the graph says.

Inputs and outputs stay float32. Casts stand at the graph's edges and around the nodes that stay FP32, nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.calibration import observe
from export.errors import ExportError

LARGEST = 65504.0
"""The largest finite FP16 number."""

SAFE_SHARE = 1 / 8
"""Of ``LARGEST``: samples are few, and the faces to come may go beyond them."""

LOST = 0.01
"""A tensor that FP16 changes by more than this share of its norm underflows badly; rounding alone changes 0.0003."""

SCALED_QUANTISATION = 19
"""First opset whose QuantizeLinear and DequantizeLinear take FP16 scales."""

_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that an operation wants in float32 whatever its data is."""

_SUMS = ("ReduceSum", "ReduceMean", "ReduceL1", "ReduceSumSquare", "GlobalAveragePool", "AveragePool")

_CARRIES_SMALL = (
    *("ReduceMean", "ReduceSum", "Add", "Mul", "Div", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split"),
    *("Gather", "Transpose", "Flatten", "Clip", "Max", "Identity"),
)
_MAKES_SMALL = ("Softmax", "Exp", "Sigmoid")


def to_fp16(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The same graph in half precision; inputs and outputs stay float32.

    Nodes stay FP32 that are named in ``keep``, that have a weight which FP16 can't hold, or that take a logarithm
    (probabilities under 6e-8 are 0 in FP16, and their logarithm is infinite), with what makes these probabilities.

    Args:
        model: fp32, static shapes; QuantizeLinear and DequantizeLinear with INT8 are welcome. It is not changed.
        keep: names of nodes; see :func:`exceptions`.

    Returns:
        A new model, of opset 19 at least where it has Q/DQ.

    Raises:
        ExportError: ``keep`` names a node that isn't there, or a node holds a graph of its own.
    """
    names = {node.name for node in model.graph.node}
    if missing := sorted(set(keep) - names):
        raise ExportError(f"nodes to keep in fp32 are not in the graph: {', '.join(missing)}; see the graph's names")
    return _Halved(model, set(keep) | set(unfit(model))).model


def unfit(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the nodes that FP16 can't do whatever their input is: weights out of range, logarithms of the small."""
    constants = {one.name: one for one in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    for node in model.graph.node:
        floats = [
            constants[name]
            for index, name in enumerate(node.input)
            if name in constants
            and constants[name].data_type == TensorProto.FLOAT
            and index not in _FLOAT32_INPUTS.get(node.op_type, ())
        ]
        # Each number of a factor counts by itself; those of a matrix and a bias only by what they add to a sum.
        elementwise = node.op_type in ("Mul", "Div")
        if any(_spoils(numpy_helper.to_array(one), elementwise=elementwise) for one in floats):
            found.add(node.name)
        if node.op_type == "Log":
            found |= {node.name, *_behind(node.input[0], makers)}
    return tuple(node.name for node in model.graph.node if node.name in found)


def exceptions(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, npt.NDArray[np.floating]]],
    *,
    share: float = SAFE_SHARE,
) -> tuple[str, ...]:
    """Names of the nodes that must stay FP32, found by running the fp32 graph on samples.

    A node stays when an input, an output or the terms of its sum exceed ``share`` of 65504, or when an input or output
    underflows: FP16 would change it by more than a hundredth of its norm.

    Args:
        model: fp32, static shapes.
        samples: an array by input name, float32; read once, one at a time.
        share: of 65504, 0..1.

    Raises:
        ExportError: no samples.
    """
    types = tensor_types(model)
    constants = {one.name for one in model.graph.initializer}
    active = [
        name
        for name in dict.fromkeys(name for node in model.graph.node for name in (*node.input, *node.output))
        if name not in constants and types.get(name, (0, ()))[0] == TensorProto.FLOAT
    ]
    largest = dict.fromkeys(active, 0.0)
    underflow: set[str] = set()
    for values in observe(model, samples, active):
        for name, value in values.items():
            peak = float(np.abs(value).max(initial=0.0))
            largest[name] = max(largest[name], peak)
            # Nothing but zeros and what exceeds the range (caught above) has no underflow to look for.
            if 0.0 < peak < LARGEST and _lost(value) > LOST:
                underflow.add(name)
    limit = share * LARGEST
    kept = set(unfit(model))
    for node in model.graph.node:
        names = (*node.input, *node.output)
        peaks = [largest.get(name, 0.0) for name in names]
        if node.op_type in _SUMS:
            peaks.append(largest.get(node.input[0], 0.0) * _terms(node, types))
        if not all(peak <= limit for peak in peaks) or any(name in underflow for name in names):
            kept.add(node.name)
    return tuple(node.name for node in model.graph.node if node.name in kept)


def tensor_types(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type (``TensorProto.DataType``) and static shape of every tensor, by name; shape () where unknown.

    Large weights are left out of the inference: a copy of them would cost as much memory as the model.
    """
    light = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    types: dict[str, tuple[int, tuple[int, ...]]] = {}
    given = {one.name for one in model.graph.input}
    for constant in model.graph.initializer:
        types[constant.name] = (constant.data_type, tuple(constant.dims))
        if constant.data_type in (TensorProto.INT64, TensorProto.INT32) and np.prod(constant.dims) < 1024:
            graph.initializer.append(constant)  # a shape, or axes: the inference reads them
        elif constant.name not in given:
            graph.input.append(helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        types.setdefault(value.name, (tensor.elem_type, tuple(size.dim_value for size in tensor.shape.dim)))
    return types


def check_names(model: onnx.ModelProto) -> None:
    """Nodes are spoken of by name. Raises ExportError where one has none, or two share one, or one holds a graph."""
    names = [node.name for node in model.graph.node]
    if "" in names or len(set(names)) < len(names):
        raise ExportError("nodes without a name or with the same name; expected one for each; export the graph again")
    for node in model.graph.node:
        if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
            raise ExportError(f"{node.name} ({node.op_type}) holds a graph of its own; expected a graph without loops")


class _Halved:
    """Builds the new model node by node; knows each tensor's type under its present name."""

    def __init__(self, model: onnx.ModelProto, keep: set[str]) -> None:
        check_names(model)
        self._types = {name: kind for name, (kind, _) in tensor_types(model).items()}
        self._constants = {one.name: one for one in model.graph.initializer}
        self._outputs = {one.name for one in model.graph.output}
        self._made: dict[str, TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._cast: dict[tuple[str, int], str] = {}
        self._stays = {
            name
            for node in model.graph.node
            for index, name in enumerate(node.input)
            if node.name in keep or index in _FLOAT32_INPUTS.get(node.op_type, ())
        }
        self._half: dict[str, str] = {}
        """What an output's tensor is called as long as it is FP16."""
        for node in model.graph.node:
            self._convert(node, TensorProto.FLOAT if node.name in keep else TensorProto.FLOAT16)
        graph = helper.make_graph(
            self._nodes, model.graph.name or "graph", model.graph.input, model.graph.output, list(self._made.values())
        )
        opsets = [helper.make_opsetid(one.domain, one.version) for one in model.opset_import]
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in self._nodes):
            for one in opsets:
                if one.domain in ("", "ai.onnx"):
                    one.version = max(one.version, SCALED_QUANTISATION)
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version, 9))
        self.model.producer_name = model.producer_name
        self.model.producer_version = model.producer_version

    def _convert(self, node: onnx.NodeProto, kind: int) -> None:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        if node.op_type == "Cast":
            self._convert_cast(made, kind)
        elif node.op_type in ("Constant", "ConstantOfShape"):
            self._convert_constant(made, kind)
        for index, name in enumerate(node.input):
            if self._types.get(name) == TensorProto.FLOAT:
                wanted = TensorProto.FLOAT if index in _FLOAT32_INPUTS.get(node.op_type, ()) else kind
                made.input[index] = self._as(name, wanted, own_type=node.op_type == "Cast")
            elif name in self._constants:
                self._made.setdefault(name, self._constants[name])
        self._nodes.append(made)
        for index, name in enumerate(node.output):
            if self._types.get(name) != TensorProto.FLOAT:
                continue
            if kind == TensorProto.FLOAT:
                self._cast[name, TensorProto.FLOAT] = name
            elif name in self._outputs:
                half = f"{name}_fp16"
                made.output[index] = half
                self._cast[name, TensorProto.FLOAT16] = half
                self._cast[name, TensorProto.FLOAT] = name
                self._nodes.append(
                    helper.make_node("Cast", [half], [name], name=f"{name}_to_fp32", to=TensorProto.FLOAT)
                )
            else:
                self._cast[name, TensorProto.FLOAT16] = name

    def _convert_cast(self, made: onnx.NodeProto, kind: int) -> None:
        for one in made.attribute:
            if one.name == "to" and one.i == TensorProto.FLOAT:
                one.i = kind

    def _convert_constant(self, made: onnx.NodeProto, kind: int) -> None:
        if made.op_type == "ConstantOfShape" and not made.attribute and kind == TensorProto.FLOAT16:
            # Its default is a float32 zero.
            zero = numpy_helper.from_array(np.zeros(1, np.float16))
            made.attribute.append(helper.make_attribute("value", zero))
        for one in made.attribute:
            if one.name == "value" and one.t.data_type == TensorProto.FLOAT and kind == TensorProto.FLOAT16:
                value = numpy_helper.to_array(one.t)
                if _spoils(value, elementwise=True):
                    raise ExportError(f"{made.name}: a constant that FP16 can't hold; name the node in keep")
                one.t.CopyFrom(numpy_helper.from_array(value.astype(np.float16)))
            elif one.name.startswith("value_float") and kind == TensorProto.FLOAT16:
                raise ExportError(f"{made.name}: a float constant in an attribute; fold the graph's constants first")

    def _as(self, name: str, kind: int, *, own_type: bool) -> str:
        """The name under which a float tensor is found in the wanted type; made where it isn't yet."""
        if name in self._constants:
            if kind == TensorProto.FLOAT:
                self._made.setdefault(name, self._constants[name])
                return name
            # Kept nodes still want the wide one under its own name.
            half = f"{name}_fp16" if name in self._stays else name
            if half not in self._made:
                value = numpy_helper.to_array(self._constants[name])
                self._made[half] = numpy_helper.from_array(_half(value), half)
            return half
        if own_type:  # a Cast reads whatever type there is
            for there in (TensorProto.FLOAT16, TensorProto.FLOAT):
                if (name, there) in self._cast:
                    return self._cast[name, there]
            return name
        if kind == TensorProto.FLOAT and (name, TensorProto.FLOAT16) not in self._cast:
            return name  # an input of the graph
        if (name, kind) not in self._cast:
            suffix = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
            source = self._cast.get((name, TensorProto.FLOAT if suffix == "fp16" else TensorProto.FLOAT16), name)
            cast = f"{name}_{suffix}"
            self._nodes.append(helper.make_node("Cast", [source], [cast], name=f"{name}_to_{suffix}", to=kind))
            self._cast[name, kind] = cast
        return self._cast[name, kind]


def _half(value: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        return np.asarray(value.astype(np.float16))


def _spoils(value: npt.NDArray[np.floating], *, elementwise: bool) -> bool:
    """Whether FP16 overflows, or loses more than ``LOST`` of the norm (of any one element, where that counts)."""
    half = _half(value).astype(np.float32)
    if not np.isfinite(half).all():
        return True
    if elementwise:
        return bool((np.abs(half - value) > LOST * np.abs(value)).any())
    # A tensor so small that it adds nothing to FP16 sums (a bias of 1e-9) may vanish; a matrix may not.
    return value.ndim > 1 and _lost(value) > LOST


def _lost(value: npt.NDArray[np.floating]) -> float:
    """Share of a tensor's norm that FP16 changes, 0 for zeros."""
    wide = np.asarray(value, np.float64)
    norm = float(np.linalg.norm(wide))
    return float(np.linalg.norm(_half(value).astype(np.float64) - wide)) / norm if norm else 0.0


def _behind(name: str, makers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The nodes between a logarithm and the softmax (or such) whose small values it reads."""
    node = makers.get(name)
    if node is None:
        return set()
    if node.op_type in _MAKES_SMALL:
        return {node.name}
    if node.op_type not in _CARRIES_SMALL:
        return set()
    return {node.name}.union(*(_behind(one, makers) for one in node.input))


def _terms(node: onnx.NodeProto, types: Mapping[str, tuple[int, tuple[int, ...]]]) -> float:
    """How many numbers each output of a sum or mean adds."""
    if node.op_type == "AveragePool":
        return float(np.prod(next(tuple(one.ints) for one in node.attribute if one.name == "kernel_shape")))
    read, written = (math.prod(types.get(name, (0, ()))[1]) for name in (node.input[0], node.output[0]))
    return max(read / max(written, 1), 1.0)
