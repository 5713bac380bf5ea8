"""What the precisions need to know of an ONNX graph, and how they put a changed one together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import TensorProto, helper

COMMUTES = (
    *("Relu", "MaxPool", "GlobalMaxPool", "ReduceMax", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze"),
    *("Unsqueeze", "Slice", "Split", "Gather", "Identity"),
)
"""Operations that only choose or reorder, or clip at 0: with zero-point 0, quantising before or after is the same."""


def makers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {name: node for node in model.graph.node for name in node.output}


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in the graph's order."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers[name].append(node)
    return readers


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default where the node doesn't say."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def output_axis(node: onnx.NodeProto) -> int:
    """The weight's axis of output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute_of(node, "transB", 0) else 1


def input_axis(node: onnx.NodeProto) -> int:
    """The weight's axis of input channels."""
    return 1 - output_axis(node)


def beyond(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> Iterator[onnx.NodeProto]:
    """What reads a tensor, directly or through operations of ``COMMUTES``."""
    for node in readers.get(name, ()):
        if node.op_type in COMMUTES:
            for output in node.output:
                yield from beyond(output, readers)
        else:
            yield node


def assembled(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, TensorProto]
) -> onnx.ModelProto:
    """The same model of other nodes and constants; its inputs and outputs stay."""
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


def plain(node: onnx.NodeProto) -> bool:
    """Whether a fully connected layer is x W + b and nothing more."""
    return (
        attribute_of(node, "alpha", 1.0) == 1.0
        and attribute_of(node, "beta", 1.0) == 1.0
        and attribute_of(node, "transA", 0) == 0
    )
