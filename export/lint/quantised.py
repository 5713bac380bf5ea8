"""Rules on QuantizeLinear and DequantizeLinear, "Q" and "DQ": explicit INT8 as TensorRT wants it.

Sources: onnx-tensorrt's QuantDequantLinearHelper (onnxOpImporters.cpp), "parser" below, which holds the checks that a
build really makes; NVIDIA's guides to where Q and DQ go, "guides" below (TensorRT, tools/pytorch-quantization,
quant_resnet50.rst, and tools/tensorflow-quantization, add_new_layer_support.md); what its own quantiser does,
"Model-Optimizer" below (modelopt/onnx/quantization: int8.py, ort_utils.py, graph_utils.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from export.lint.contract import Finding
from export.lint.graph import Graph, attribute, given, label
from export.lint.tables import FLOAT, INT8, type_name

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "Gemm", "MatMul")
SQUASHING = ("Sigmoid", "Tanh", "Softmax", "LogSoftmax")
INT8_CHANNELS = 4
"""Input channels of an INT8 convolution are a multiple of this."""
SETTINGS = "quantise with ActivationSymmetric, WeightSymmetric, AddQDQPairToWeight and QuantizeBias: False"


def int8_only(graph: Graph) -> Iterator[Finding]:
    """INT8 and nothing else: UINT8 is for the DLA, INT32 (a bias) is refused (operators.md; onnxruntime#14229)."""
    for node in _both(graph):
        if node.op_type == DQ:
            kind = graph.type(given(node, 0))
            if kind is not None and kind != INT8:
                remedy = "leave biases in float (QuantizeBias: False) and quantise all else to INT8"
                yield Finding(label(node), f"dequantises {type_name(kind)}, expected INT8", remedy)
        elif (kind := _made(graph, node)) != INT8:
            remedy = "give it an INT8 zero point of 0 (activation_type and weight_type QInt8)"
            yield Finding(label(node), f"quantises to {type_name(kind)}, expected INT8", remedy)


def zero_point(graph: Graph) -> Iterator[Finding]:
    """Symmetric: every zero point 0, a constant, as many as scales (parser: shiftIsAllZeros)."""
    for node in _both(graph):
        if not (name := given(node, 2)):
            continue
        values, scale = graph.constant(name), graph.constant(given(node, 1))
        if values is None:
            yield Finding(label(node), f"the zero point {name!r} is no constant that can be read", SETTINGS)
        elif np.count_nonzero(values):
            yield Finding(label(node), f"the zero point is {np.ravel(values)[np.ravel(values) != 0][0]}", SETTINGS)
        elif scale is not None and values.size != scale.size:
            remedy = "store one zero point a scale"
            yield Finding(label(node), f"{values.size} zero points for {scale.size} scales", remedy)


def scales(graph: Graph) -> Iterator[Finding]:
    """A scale is a constant, positive and finite (parser: "Scale coefficients must all be positive")."""
    for node in _both(graph):
        values = graph.constant(given(node, 1))
        if values is None:
            remedy = "make it an initialiser, without a Cast before it"
            yield Finding(label(node), f"the scale {given(node, 1)!r} is no constant that can be read", remedy)
        elif not values.size or not np.all(np.isfinite(values)) or not np.all(np.asarray(values, np.float64) > 0):
            remedy = "calibrate with data that moves this value, or leave it out of the quantisation"
            yield Finding(label(node), "a scale is not positive and finite", remedy)


def scale_types(graph: Graph) -> Iterator[Finding]:
    """A scale has its data's type, and FP16 scales need opset 19 (TensorRT, Quantize; ONNX, QuantizeLinear-19)."""
    for node in _both(graph):
        kind = graph.type(given(node, 1))
        beside = graph.type(given(node, 0) if node.op_type == Q else next(iter(node.output), ""))
        if kind is None:
            continue
        if beside is not None and beside != kind:
            remedy = "convert scales together with the data, or cast around the pair"
            yield Finding(label(node), f"a scale of {type_name(kind)} for data of {type_name(beside)}", remedy)
        if kind != FLOAT and graph.opset < 19:
            remedy = "convert to opset 19: onnx.version_converter, before the conversion to FP16"
            yield Finding(label(node), f"a scale of {type_name(kind)} at opset {graph.opset}", remedy)


def granularity(graph: Graph) -> Iterator[Finding]:
    """One scale for an activation; for weights one, or one an output channel (guides; parser).

    The channels are axis 0 of Conv's weights and a transposed Gemm's, axis 1 of a plain Gemm's, the last of MatMul's.
    """
    for node in _both(graph):
        scale = graph.constant(given(node, 1))
        if scale is None or (scale.size == 1 and not attribute(node, "block_size", 0)):
            continue
        if attribute(node, "block_size", 0) or scale.ndim != 1:
            yield Finding(label(node), "scales a block", "one scale a tensor, or one an output channel of a weight")
            continue
        if not _is_weight(graph, node):
            yield Finding(
                label(node), f"{scale.size} scales for an activation", "one scale: per_channel is for weights"
            )
            continue
        shape = graph.shape(given(node, 0)) or ()
        axis = attribute(node, "axis", 1)
        axis += len(shape) if axis < 0 else 0
        if not 0 <= axis < len(shape) or shape[axis] != scale.size:
            yield Finding(label(node), f"{scale.size} scales along axis {axis} of {shape}", "one scale a channel")
            continue
        for taker, index in _ends(graph, node):
            wanted = _axis(taker, index, len(shape))
            if wanted is None:
                remedy = "one scale for the whole tensor, or leave it in float"
                yield Finding(label(node), f"{scale.size} scales for input {index} of {taker.op_type}", remedy)
            elif wanted != axis:
                remedy = f"expected axis {wanted}, its output channels"
                yield Finding(label(node), f"scales along axis {axis} of {taker.op_type}'s weights", remedy)


def pairs(graph: Graph) -> Iterator[Finding]:
    """A Q is followed by DQs alone, a DQ reads a Q or INT8 weights (operators.md: INT8 "only through quantization")."""
    for node in _both(graph):
        if node.op_type == Q:
            takers = graph.takers(node)
            odd = [taker for taker, index in takers if taker.op_type != DQ or index]
            shown = label(odd[0]) if odd else "an output of the graph" if _is_output(graph, node) else None
            if shown is not None or not takers:
                yield Finding(
                    label(node), f"QuantizeLinear feeds {shown or 'nothing'}", "put a DequantizeLinear after it"
                )
        elif not graph.is_constant(given(node, 0)) and graph.maker(given(node, 0), Q) is None:
            remedy = "put a QuantizeLinear before it, or make it an INT8 initialiser"
            yield Finding(label(node), "DequantizeLinear reads neither a QuantizeLinear nor a constant", remedy)


def bias(graph: Graph) -> Iterator[Finding]:
    """A bias stays in float (Model-Optimizer: QuantizeBias False)."""
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and graph.maker(given(node, 2), DQ) is not None:
            yield Finding(label(node), f"{node.op_type}'s bias is quantised", "quantise with QuantizeBias: False")


def before_batch_norm(graph: Graph) -> Iterator[Finding]:
    """No pair between a convolution and its batch normalisation, or they are not fused (TensorRT#3366, #1407)."""
    for node in graph.nodes:
        dequantise = graph.maker(given(node, 0), DQ) if node.op_type == "BatchNormalization" else None
        quantise = graph.maker(given(dequantise, 0), Q) if dequantise is not None else None
        if quantise is not None and graph.maker(given(quantise, 0), "Conv", "ConvTranspose") is not None:
            remedy = "fold the batch normalisation before quantising"
            yield Finding(label(quantise), "Q/DQ between a convolution and its batch normalisation", remedy)


def concat_scales(graph: Graph) -> Iterator[Finding]:
    """The quantised inputs of a Concat share one scale, or are requantised (Model-Optimizer: concat_elimination)."""
    for node in graph.nodes:
        if node.op_type != "Concat":
            continue
        makers = [graph.maker(name, DQ) for name in node.input]
        found = [graph.constant(given(maker, 1)) for maker in makers if maker is not None]
        known = {scale.astype(np.float64).tobytes() for scale in found if scale is not None}
        if len(known) > 1:
            remedy = "give them one scale, or leave them in float"
            yield Finding(label(node), f"Concat's quantised inputs have {len(known)} scales", remedy)


def squashed(graph: Graph) -> Iterator[Finding]:
    """Gates and probabilities stay in float (Model-Optimizer takes them from the list of what is quantised).

    No pair before Sigmoid, Tanh or Softmax, and none after them but before a weighted operator: a gate's error would
    stay in the state for as long as the state lives.
    """
    remedy = "leave it out: op_types_to_quantize=['Conv', 'Gemm']"
    for node in graph.nodes:
        if node.op_type not in SQUASHING:
            continue
        source = graph.maker(given(node, 0), DQ)
        if source is not None and not _is_weight(graph, source):
            yield Finding(label(node), f"{node.op_type} reads a quantised value", remedy)
        for taker, _ in graph.takers(node):
            ends = _ends(graph, taker) if taker.op_type == Q else []
            if any(end.op_type not in WEIGHTED for end, _ in ends) or (taker.op_type == Q and not ends):
                yield Finding(label(taker), f"{node.op_type}'s output is quantised for no weighted operator", remedy)


def transposed(graph: Graph) -> Iterator[Finding]:
    """ConvTranspose stays in float (TensorRT#2380, #1694, #4668).

    Its kernels want scales along the input channels, and tools write them along the output channels.
    """
    for node in graph.nodes:
        made = (graph.maker(given(node, index), DQ) for index in (0, 1))
        if node.op_type == "ConvTranspose" and any(maker is not None for maker in made):
            yield Finding(label(node), "ConvTranspose is quantised", "leave it out of op_types_to_quantize")


def channels(graph: Graph) -> Iterator[Finding]:
    """An INT8 convolution has a multiple of four input channels.

    With three, TensorRT 11.3 on an A100 was reported to find no implementation, and strong typing has nothing to fall
    back on; Model-Optimizer wants 16. Whether 10.x would pad them is not known here; the stricter holds for all.
    """
    for node in graph.nodes:
        if node.op_type != "Conv" or any(graph.maker(given(node, index), DQ) is None for index in (0, 1)):
            continue
        shape = graph.shape(given(node, 0))
        width = shape[1] if shape is not None and len(shape) > 1 else None
        if width is not None and width % INT8_CHANNELS:
            remedy = "leave it in float: nodes_to_exclude"
            yield Finding(label(node), f"an INT8 convolution of {width} input channels", remedy)


def _both(graph: Graph) -> Iterator[NodeProto]:
    return (node for node in graph.nodes if node.op_type in (Q, DQ))


def _made(graph: Graph, node: NodeProto) -> int:
    """What a Q makes: by its zero point, else by output_dtype, else UINT8 (ONNX, Q-21)."""
    if name := given(node, 2):
        return graph.type(name) or TensorProto.UNDEFINED
    return int(attribute(node, "output_dtype", 0)) or TensorProto.UINT8


def _is_output(graph: Graph, node: NodeProto) -> bool:
    return any(name in graph.output_names for name in node.output)


def _is_weight(graph: Graph, node: NodeProto) -> bool:
    """Whether a Q or DQ works on a constant, or on one that is cast or quantised before it."""
    name = given(node, 0)
    for _ in range(2):
        if graph.is_constant(name):
            return True
        before = graph.maker(name, Q, "Cast")
        if before is None:
            return False
        name = given(before, 0)
    return graph.is_constant(name)


def _ends(graph: Graph, node: NodeProto) -> list[tuple[NodeProto, int]]:
    """Who takes the dequantised value of a Q or DQ, and as which input."""
    if node.op_type == DQ:
        return graph.takers(node)
    return [end for taker, _ in graph.takers(node) if taker.op_type == DQ for end in graph.takers(taker)]


def _axis(node: NodeProto, index: int, rank: int) -> int | None:
    """The axis of the output channels in a weighted operator's weights; None where scales a channel have no place."""
    if node.op_type == "Conv" and index == 1:
        return 0
    if node.op_type == "Gemm" and index == 1:
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul" and index == 1:
        return rank - 1
    return None
