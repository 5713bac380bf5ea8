"""Rules on single nodes: which operators, on which types, with which attributes and constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnx import NodeProto

from export.lint.contract import Finding, Version
from export.lint.graph import Graph, attribute, given, label
from export.lint.tables import (
    INTEGERS,
    OPS,
    PAD_MODES,
    REFUSED,
    RESIZE_COORDINATES,
    RESIZE_MODES,
    RESIZE_NEAREST,
    TENSORS,
    type_name,
)

TRAINING = ("BatchNormalization", "Dropout")


def operators(graph: Graph) -> Iterator[Finding]:
    """Nothing but what the tables list (onnx-tensorrt, docs/operators.md)."""
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        if node.domain not in ("", "ai.onnx") or node.op_type in TRAINING:
            continue
        if node.op_type in REFUSED:
            reason, _, remedy = REFUSED[node.op_type].partition("; ")
            yield Finding(label(node), f"{node.op_type}: {reason}", remedy)
        elif op is None:
            remedy = "write it with listed operators, or add its row to export/lint/tables.py"
            yield Finding(label(node), f"{node.op_type} is not on the list", remedy)
        else:
            remedy = f"write it with older operators, or ask for {op.since[0]}.{op.since[1]} and later"
            yield Finding(label(node), f"{node.op_type} came later", remedy, _before(op.since))


def batch_norm(graph: Graph) -> Iterator[Finding]:
    """None left: before a convolution with Q/DQ TensorRT does not fold it (TensorRT#3104)."""
    for node in graph.nodes:
        if node.op_type == "BatchNormalization":
            remedy = "fold it before the export: torch.nn.utils.fusion.fuse_conv_bn_eval"
            yield Finding(label(node), "batch normalisation that was not folded", remedy)


def dropout(graph: Graph) -> Iterator[Finding]:
    """None left: the parser takes it only if it can prove that it does nothing (the table)."""
    for node in graph.nodes:
        if node.op_type == "Dropout":
            yield Finding(label(node), "dropout belongs to training", "call .eval() on the network before the export")


def operator_types(graph: Graph) -> Iterator[Finding]:
    """Each operator on the types of its row (the table; BF16 and INT64 from 9.0 on, onnx-tensorrt changelog)."""
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        if op is None or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data = [name for index, name in enumerate(node.input) if name and index not in op.constants]
        kinds = {graph.type(name) for name in (*data, *node.output) if name}
        # Integers, and types that no tensor may have, are reported by the rules on them.
        for kind in sorted((TENSORS - op.types - INTEGERS) & kinds):
            allowed = ", ".join(type_name(known) for known in sorted(op.types - INTEGERS))
            yield Finding(label(node), f"{node.op_type} on {type_name(kind)}", f"expected {allowed}; cast before it")


def integers(graph: Graph) -> Iterator[Finding]:
    """Integers are constants that tell shapes, axes and indices.

    TensorRT has INT64 since 9.0 (onnx-tensorrt changelog) and could compute on it. In our graphs, whose shapes are
    fixed, that is always something the exporter forgot to fold.
    """
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        if op is None or node.op_type in ("Constant", "QuantizeLinear", "DequantizeLinear"):
            continue
        if node.op_type == "Identity" and node.output and graph.is_constant(node.output[0]):
            continue
        data = [name for index, name in enumerate(node.input) if name and index not in op.constants]
        kinds = INTEGERS & {graph.type(name) for name in (*data, *node.output) if name}
        if kinds:
            shown = " and ".join(type_name(kind) for kind in sorted(kinds))
            remedy = "fold it to a constant before the export, or compute in float"
            yield Finding(label(node), f"{node.op_type} computes on {shown}", remedy)


def constants(graph: Graph) -> Iterator[Finding]:
    """Shapes, axes and indices are constants (the table: "must be an initializer", "resolvable to a constant")."""
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        for index in sorted(op.constants) if op is not None else ():
            name = given(node, index)
            if name and not graph.is_constant(name):
                remedy = "fold it to an initialiser before the export"
                yield Finding(label(node), f"{node.op_type}'s input {index}, {name!r}, is no constant", remedy)


def weights(graph: Graph) -> Iterator[Finding]:
    """A convolution's weights are constants: an initialiser, one that is cast, or one that is quantised.

    TensorRT#2428 and #2131: "Could not fuse 2nd input (kernel weights)".
    """
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        for index in sorted(op.weights) if op is not None else ():
            name = given(node, index)
            if name and not is_weight(graph, name):
                remedy = "make it an initialiser, or DequantizeLinear of an INT8 one"
                yield Finding(label(node), f"{node.op_type}'s input {index}, {name!r}, is no constant", remedy)


def is_weight(graph: Graph, name: str) -> bool:
    """A constant, or one behind Cast, DequantizeLinear, or QuantizeLinear and DequantizeLinear."""
    if graph.is_constant(name):
        return True
    if (cast := graph.maker(name, "Cast")) is not None:
        return graph.is_constant(given(cast, 0))
    if (dequantise := graph.maker(name, "DequantizeLinear")) is None:
        return False
    source = given(dequantise, 0)
    if (quantise := graph.maker(source, "QuantizeLinear")) is not None:
        source = given(quantise, 0)
        if (cast := graph.maker(source, "Cast")) is not None:
            source = given(cast, 0)
    return graph.is_constant(source)


def outputs(graph: Graph) -> Iterator[Finding]:
    """No output that TensorRT lacks: MaxPool's Indices, LayerNormalization's Mean (the table; emptyOutputChecker)."""
    for node in graph.nodes:
        op = OPS.get(node.op_type)
        if op is not None and (extra := [name for name in node.output[op.outputs :] if name]):
            remedy = "leave the output out; nothing at inference needs it"
            yield Finding(label(node), f"{node.op_type} has a further output, {extra[0]!r}", remedy)


def pools(graph: Graph) -> Iterator[Finding]:
    """Pooling over two or three dimensions, without dilation (the table; poolingCheckHelper).

    ``ceil_mode`` only where it changes nothing: what becomes of a last window that begins in the padding, ONNX itself
    says only since opset 22 (MaxPool-22).
    """
    for node in graph.nodes:
        if node.op_type not in ("MaxPool", "AveragePool"):
            continue
        kernel = attribute(node, "kernel_shape", list[int]())
        if len(kernel) not in (2, 3):
            remedy = "add or fold a dimension with Reshape so that there are two or three"
            yield Finding(label(node), f"{node.op_type} over {len(kernel)} dimensions", remedy)
        if any(step != 1 for step in attribute(node, "dilations", list[int]())):
            yield Finding(label(node), f"{node.op_type} with dilations", "pool without dilation")
        if attribute(node, "ceil_mode", 0) and not _is_plain(graph, node, kernel):
            remedy = "pad or crop so that the windows fit, and set ceil_mode to 0"
            yield Finding(label(node), f"{node.op_type} with ceil_mode where windows hang over the edge", remedy)


def _is_plain(graph: Graph, node: NodeProto, kernel: list[int]) -> bool:
    """Whether ceil_mode changes nothing."""
    shape = graph.shape(given(node, 0))
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET" or shape is None or len(shape) != len(kernel) + 2:
        return False
    pads, strides = attribute(node, "pads", [0] * 2 * len(kernel)), attribute(node, "strides", [1] * len(kernel))
    if len(pads) != 2 * len(kernel) or len(strides) != len(kernel):
        return False
    return all(
        size is not None and stride > 0 and (size + before + after - window) % stride == 0
        for size, before, after, window, stride in zip(
            shape[2:], pads[: len(kernel)], pads[len(kernel) :], kernel, strides, strict=True
        )
    )


def resizes(graph: Graph) -> Iterator[Finding]:
    """Resize as the table restricts it: modes, coordinates, no antialiasing, aspect stretched."""
    wanted: dict[str, tuple[str, Callable[[str], bool]]] = {
        "mode": ("nearest", RESIZE_MODES.__contains__),
        "coordinate_transformation_mode": ("half_pixel", RESIZE_COORDINATES.__contains__),
        "nearest_mode": ("round_prefer_floor", RESIZE_NEAREST.__contains__),
        "keep_aspect_ratio_policy": ("stretch", "stretch".__eq__),
    }
    for node in graph.nodes:
        if node.op_type != "Resize":
            continue
        for name, (default, known) in wanted.items():
            value = attribute(node, name, default)
            if not known(value):
                remedy = "resize with nearest or linear and half_pixel, before the graph if need be"
                yield Finding(label(node), f"Resize with {name} {value!r}", remedy)
        if attribute(node, "antialias", 0):
            yield Finding(label(node), "Resize with antialias", "blur before it, or resize before the graph")


def pads(graph: Graph) -> Iterator[Finding]:
    """Pad's modes (the table, changelog 10.0 EA), and its axes as an input, which 10.4 brought (changelog)."""
    for node in graph.nodes:
        if node.op_type != "Pad":
            continue
        mode = attribute(node, "mode", "constant")
        if mode not in PAD_MODES:
            yield Finding(label(node), f"Pad with mode {mode!r}", f"expected one of {', '.join(sorted(PAD_MODES))}")
        if given(node, 3):
            yield Finding(label(node), "Pad with axes as an input", "name the pads of every axis", _before((10, 4)))


def grids(graph: Graph) -> Iterator[Finding]:
    """GridSample on pictures only (the table: "Input must be 4D")."""
    for node in graph.nodes:
        shape = graph.shape(given(node, 0)) if node.op_type == "GridSample" else None
        if shape is not None and len(shape) != 4:
            yield Finding(label(node), f"GridSample on {len(shape)} dimensions", "expected 4: batch, channels, H, W")


def _before(since: Version) -> Callable[[Version], bool]:
    return lambda version: version < since
