"""A network's channels brought nearer to one size before INT8: the same function, in numbers that eight bits suit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.calibration import observe
from export.fp16 import tensor_types
from export.int8 import RULES, Rules, quantisable
from export.onnxgraph import COMMUTES, assembled, attribute_of, input_axis, output_axis, plain, readers_of

STRENGTH = 0.5
"""Of :func:`equalise`."""


def equalise(
    model: onnx.ModelProto,
    samples: Iterable[Mapping[str, npt.NDArray[np.floating]]],
    *,
    strength: float = STRENGTH,
    rules: Rules = RULES,
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
            output, read = output_axis(sink), input_axis(sink)
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
        scale(layer.input[1], factors, output_axis(layer))
        if len(layer.input) > 2:
            scale(layer.input[2], factors, 0)
        for sink, channels in sinks:
            back = np.where(channels >= 0, 1 / factors[np.maximum(channels, 0)], 1.0)
            scale(sink.input[1], back, input_axis(sink))
    constants = {
        one.name: numpy_helper.from_array(weights[one.name], one.name) if one.name in changed else one
        for one in model.graph.initializer
    }
    return assembled(model, list(model.graph.node), constants)


def _rescalable(
    model: onnx.ModelProto,
) -> Iterator[tuple[onnx.NodeProto, list[tuple[onnx.NodeProto, npt.NDArray[np.int64]]]]]:
    """Layers whose every reader, through ``COMMUTES``, is a layer too, with weights that nothing else reads.

    Yields a layer, and for each reader the layer's channel that each of its weight's input channels reads, -1 for none.
    """
    readers, types = readers_of(model), tensor_types(model)
    constants = {one.name for one in model.graph.initializer}
    outputs = {one.name for one in model.graph.output}

    def own(node: onnx.NodeProto) -> bool:
        names = [name for name in node.input[1:] if name]
        return all(name in constants and len(readers[name]) == 1 for name in names)

    def scalable(node: onnx.NodeProto) -> bool:
        if node.op_type == "Conv":
            return attribute_of(node, "group", 1) == 1
        return node.op_type == "Gemm" and plain(node)

    for node in model.graph.node:
        if not (scalable(node) and own(node)):
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
        if not all(scalable(sink) and own(sink) and sink.input[0] == name for sink, name in sinks):
            continue
        ordered = [one for one in model.graph.node if one.name in region]
        channels = _follow(model, node.output[0], ordered, [name for _, name in sinks], types)
        mapped = []
        for sink, name in sinks:
            places = channels[name]
            line = np.moveaxis(places, 1 if sink.op_type == "Conv" else -1, 0).reshape(
                types[sink.input[1]][1][input_axis(sink)], -1
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
