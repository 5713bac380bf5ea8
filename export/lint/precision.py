"""Rules of strong typing: the engine computes in exactly the types that the graph names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto

from export.lint.contract import Finding
from export.lint.graph import Graph, label
from export.lint.structure import is_half
from export.lint.tables import FLOAT, HALF, OPS, type_name

HALF_MAX = 65504.0
"""Largest finite FP16."""


def mixtures(graph: Graph) -> Iterator[Finding]:
    """Inputs that ONNX calls of one type are of one type.

    A build makes "exactly what the graph specifies" (NVIDIA, trt-strong-typing-migration): no cast is put in.
    ``Pow`` alone may mix them in ONNX; TensorRT's elementwise layer may not.
    """
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type not in OPS:
            continue
        groups: dict[str, set[int]] = {}
        for index, name in enumerate(node.input):
            kind = graph.type(name) if name else None
            if kind is not None:
                groups.setdefault(_variable(node, index, graph.opset), set()).add(kind)
        for kinds in groups.values():
            if len(kinds) > 1:
                shown = " and ".join(type_name(kind) for kind in sorted(kinds))
                yield Finding(label(node), f"{node.op_type} mixes {shown}", "cast one of them in the graph")


def _variable(node: NodeProto, index: int, opset: int) -> str:
    """The type variable of an input in ONNX's definition; of its own where there is none."""
    if node.op_type == "Pow":
        return "T"
    try:
        formal = onnx.defs.get_schema(node.op_type, max(opset, 1), "").inputs
    except onnx.defs.SchemaError:
        return f"input {index}"
    return str(formal[min(index, len(formal) - 1)].type_str) if formal else f"input {index}"


def finite(graph: Graph) -> Iterator[Finding]:
    """FP16 weights are numbers: a conversion that overflowed leaves infinities (Model-Optimizer, 8_autocast.rst)."""
    for name, tensor in graph.tensors():
        values = graph.array(tensor) if tensor.data_type == HALF else None
        if values is not None and (bad := int(np.count_nonzero(~np.isfinite(values)))):
            remedy = "keep this node in float32, or rescale the layer before the conversion"
            yield Finding(name, f"{bad} of {values.size} FLOAT16 values are infinite or no numbers", remedy)


def reach(graph: Graph) -> Iterator[Finding]:
    """FP32 weights in an FP16 graph fit FP16: one cast, or 10.x's weakly typed build, makes them infinite.

    The limit is that of Model-Optimizer's AutoCast (8_autocast.rst).
    """
    if not is_half(graph):
        return
    for name, tensor in graph.tensors():
        values = graph.array(tensor) if tensor.data_type == FLOAT else None
        if values is not None and values.size and (largest := float(np.abs(values).max())) > HALF_MAX:
            remedy = "rescale it, or clip it to 65504"
            yield Finding(name, f"holds {largest:.4g}, beyond FP16's 65504, in an FP16 graph", remedy)
