"""Rules on the model as a whole: opset, domains, size, names, inputs and outputs, shapes, where its bytes lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto

from export.lint.contract import Finding, Version
from export.lint.graph import Graph, count, dimensions, external_fault, item_bits, label
from export.lint.tables import FLOAT, OPSET_FLOOR, TENSORS, opset_ceiling, type_name

MODEL = "model"
LARGEST = 2**31 - 1
"""Bytes of the largest protobuf message."""


def opset(graph: Graph) -> Iterator[Finding]:
    """Within what the parser reads (onnx-tensorrt, docs/operators.md)."""
    number = graph.opset

    def unread(version: Version) -> bool:
        return not OPSET_FLOOR <= number <= opset_ceiling(version)

    yield Finding(MODEL, f"opset {number}", "export with opset 18; every version reads 9 to 20", unread)


def domain(graph: Graph) -> Iterator[Finding]:
    """One default domain and no functions: anything else needs a plugin, which no board has (onnxOpCheckers.cpp)."""
    remedy = "inline it, or write it with ONNX's own operators"
    domains = [entry.domain for entry in graph.model.opset_import if entry.domain not in ("", "ai.onnx")]
    for name in domains:
        yield Finding(MODEL, f"imports the operators of {name!r}", remedy)
    if len(graph.model.opset_import) - len(domains) > 1:
        yield Finding(MODEL, "names the default domain's opset more than once", "export again")
    for function in graph.model.functions:
        yield Finding(function.name, "a function of the model's own", remedy)
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield Finding(label(node), f"{node.op_type} belongs to {node.domain!r}", remedy)


def valid(graph: Graph) -> Iterator[Finding]:
    """What ONNX's own checker and strict shape inference find; the parser runs both in its own way."""
    if graph.complaint is not None:
        yield Finding(MODEL, f"ONNX itself refuses it: {graph.complaint[:300]}", "export again")
    for name, tensor in graph.tensors():
        bits = item_bits(tensor.data_type)
        if bits is None or bits < 8 or not tensor.HasField("raw_data"):
            continue
        if len(tensor.raw_data) * 8 != count(tensor) * bits:
            wanted = count(tensor) * bits // 8
            yield Finding(name, f"holds {len(tensor.raw_data)} bytes, its shape wants {wanted}", "export again")


def size(graph: Graph) -> Iterator[Finding]:
    """Protobuf's own limit; onnx.proto says so beside ``external_data``."""
    try:
        # Counting for sure takes as long as saving; most models are small by far.
        small = _at_most(graph) <= LARGEST or graph.model.ByteSize() <= LARGEST
    except (EncodeError, ValueError):
        small = False
    if not small:
        remedy = "save with onnx.save(..., save_as_external_data=True)"
        yield Finding(MODEL, "the protobuf is larger than 2 GiB", remedy)


def _at_most(graph: Graph) -> int:
    """Bytes that the model's protobuf doesn't exceed, texts and metadata aside."""
    total = graph.skeleton.ByteSize()
    for tensor in graph.graph.initializer:
        bits = item_bits(tensor.data_type)
        if tensor.data_location == TensorProto.EXTERNAL:
            total += tensor.ByteSize()
        elif tensor.HasField("raw_data") and bits is not None:
            total += count(tensor) * bits // 8 + 1000
        else:
            total += LARGEST + 1
    return total + sum(value.ByteSize() for value in graph.graph.value_info)


def names(graph: Graph) -> Iterator[Finding]:
    """The parser keeps initialisers by name: of two, one would silently win (onnx.proto, GraphProto.initializer)."""
    for name, number in Counter(tensor.name for tensor in graph.graph.initializer).items():
        if number > 1 or not name:
            yield Finding(name or MODEL, f"{number} initialisers have the name {name!r}", "give each its own name")


def sparse(graph: Graph) -> Iterator[Finding]:
    """The table: no sparse tensors and no text in Constant."""
    for tensor in graph.graph.sparse_initializer:
        yield Finding(tensor.values.name or MODEL, "a sparse initialiser", "store it dense")
    for node in graph.nodes:
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.name in ("sparse_value", "value_string", "value_strings"):
                yield Finding(label(node), f"Constant with {entry.name}", "store a dense tensor of numbers")


def edges(graph: Graph) -> Iterator[Finding]:
    """Inputs and outputs are float32: our convention, so that no caller cares for the precision (``keep_io_types``)."""
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            found = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
            if found != FLOAT:
                yield Finding(
                    value.name, f"the {kind} is {type_name(found)}, expected FLOAT", "cast at the edge of the graph"
                )


def tensor_types(graph: Graph) -> Iterator[Finding]:
    """No DOUBLE, no unsigned integers, no text, no type that an Orin lacks (the table's notes)."""
    remedy = "export in float32; indices and shapes are INT64"
    seen: dict[str, int | None] = {name: tensor.data_type for name, tensor in graph.initializers.items()}
    seen |= {value.name: graph.type(value.name) for value in graph.inputs}
    for name, kind in seen.items():
        if kind is not None and kind not in TENSORS:
            yield Finding(name, f"{type_name(kind)} is no type for a tensor", remedy)
    for node in graph.nodes:
        for kind in {graph.type(name) for name in node.output if name}:
            # What QuantizeLinear makes has a rule of its own, with a remedy of its own.
            if kind is not None and kind not in TENSORS and node.op_type != "QuantizeLinear":
                yield Finding(label(node), f"it makes {type_name(kind)}, which is no type for a tensor", remedy)


def shapes(graph: Graph) -> Iterator[Finding]:
    """Every shape is fixed: one optimisation profile, and nothing is inferred on the board."""
    remedy = "export with fixed shapes, batch 1, without dynamic_axes or dynamic_shapes"
    for value in (*graph.inputs, *graph.outputs, *graph.graph.value_info):
        declared = dimensions(value.type)
        if declared is None:
            if value not in graph.graph.value_info:
                yield Finding(value.name, "no shape is declared", remedy)
        elif any(size is None for size in declared):
            dims = value.type.tensor_type.shape.dim
            shown = ", ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
            yield Finding(value.name, f"the shape ({shown}) is not fixed", remedy)
        elif any(size is not None and size < 1 for size in declared):
            yield Finding(value.name, f"the shape {declared} is empty", "leave it out of the graph")
    for node in graph.nodes if graph.is_inferred else ():
        taken = [name for name in node.input if name]
        loose = [name for name in node.output if name and not graph.is_static(name)]
        # Only where it begins: what follows from a shape that is not fixed is not fixed either.
        if loose and all(graph.is_static(name) for name in taken):
            yield Finding(label(node), f"the shape of {loose[0]!r} can't be told before it runs", remedy)


def declarations(graph: Graph) -> Iterator[Finding]:
    """What the model says of its intermediate values must be so: ONNX Runtime refuses it otherwise."""
    remedy = "infer the shapes again after the last change: onnx.shape_inference.infer_shapes"
    for value in graph.graph.value_info:
        kind, shape = graph.type(value.name), graph.shape(value.name)
        said = value.type.tensor_type.elem_type
        if kind is not None and said and said != kind:
            yield Finding(value.name, f"declared {type_name(said)}, but it is {type_name(kind)}", remedy)
        declared = dimensions(value.type)
        if declared and shape and None not in declared and None not in shape and declared != shape:
            yield Finding(value.name, f"declared {declared}, but it is {shape}", remedy)


def external(graph: Graph) -> Iterator[Finding]:
    """External data lies in a file beside the model, and is all there (ONNX, ExternalData.md)."""
    for name, tensor in graph.tensors():
        if tensor.data_location == TensorProto.EXTERNAL and (fault := external_fault(tensor, graph.folder)):
            yield Finding(name, fault, "save again with onnx.save(..., save_as_external_data=True) into one folder")


def is_half(graph: Graph) -> bool:
    """An FP16 graph: some value of it is FLOAT16."""
    half = onnx.TensorProto.FLOAT16
    stored = any(tensor.data_type == half for tensor in graph.initializers.values())
    return stored or any(graph.type(name) == half for node in graph.nodes for name in node.output if name)
