"""Small bundles that see windows: one whose encoder remembers, one whose encoder sees several images."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

# The bundle with states, its graphs and its facts.
from test_window_state import IMAGE, RECEPTIVE, SIDE, STEPS, encoder, manifest, model

from edge.bundle import (
    ANSWER,
    FEATURE,
    HEAD,
    WINDOW,
    Alignment,
    Bundle,
    Graph,
    InputSpec,
    Normalisation,
    Stream,
    TensorSpec,
    write,
)
from edge.flow import CLG

FRAMES = 5
TWO = (1, 3, 1, SIDE, SIDE)


def bundles(folder: Path) -> list[Bundle]:
    """Both, in FP32, their golden answers those of ONNX Runtime."""
    return [_with_states(folder / "states"), _with_images(folder / "images")]


def _with_states(where: Path) -> Bundle:
    members = {"e.onnx": encoder(), "head.onnx": _head(STEPS), "window.onnx": _window(RECEPTIVE + STEPS - 1)}
    return _written(where, manifest(), members)


def _with_images(where: Path) -> Bundle:
    """An encoder that sees three images, and a head that sees three features."""
    stream = Stream("clip", "encode_clip", "clip_features", 3, 3)
    feature = TensorSpec(FEATURE, (1, 2))
    facts = manifest(replace(stream, state=()), inputs=(("clip", TWO),), outputs=((FEATURE, (1, 2)),))
    graphs = dict(facts.graphs)
    graphs["encode_clip"] = Graph((TensorSpec("clip", TWO),), (feature,), {"fp32": "e.onnx"})
    graphs[WINDOW] = Graph(
        (TensorSpec("clip", (1, FRAMES, *IMAGE[1:])),), (TensorSpec(ANSWER, (1, 2)),), {"fp32": "window.onnx"}
    )
    spec = replace(facts.inputs[0], shape=(1, FRAMES, *IMAGE[1:]))
    window = replace(facts.window, length=FRAMES)
    facts = replace(facts, inputs=(spec,), graphs=graphs, window=window)
    # The order of the images matters to the first number: 4 times the newest and once the oldest.
    encode = _model(
        [
            helper.make_node("Reshape", ["clip", "as_rows"], ["rows"]),
            helper.make_node("ReduceMean", ["rows", "last"], ["means"], keepdims=0),
            helper.make_node("Split", ["means"], ["first", "second", "third"], axis=1, num_outputs=3),
            helper.make_node("Mul", ["third", "four"], ["more"]),
            helper.make_node("Add", ["first", "more"], ["left"]),
            helper.make_node("Concat", ["left", "second"], [FEATURE], axis=1),
        ],
        [("clip", TWO)],
        [(FEATURE, (1, 2))],
    )
    return _written(where, facts, {"e.onnx": encode, "head.onnx": _head(3), "window.onnx": _window(FRAMES)})


def _model(nodes: list[object], inputs: list[object], outputs: list[object]) -> bytes:
    def named(which: list[object]) -> list[object]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in which]

    weights = [
        helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("as_rows", TensorProto.INT64, [3], [1, 3, SIDE * SIDE]),
        helper.make_tensor("as_planes", TensorProto.INT64, [3], [1, 3, 32 * 32]),
        helper.make_tensor("steps_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("behind", TensorProto.INT64, [3], [1, 3, 4]),
    ]
    used = {name for node in nodes for name in node.input}
    weights = [one for one in weights if one.name in used]
    graph = helper.make_graph(nodes, "g", named(inputs), named(outputs), weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def with_motion(where: Path) -> Bundle:
    """An encoder for single flow images, and a head that sees three of its features."""
    shape, image = (1, 3, 3, 32, 32), (1, 3, 32, 32)
    stream = Stream("flow", "encode_flow", "flow_features", 1, 3)
    spec = InputSpec(
        name="flow",
        kind="flow",
        shape=shape,
        dtype="float32",
        colour="bgr",
        interpolation="area",
        normalisation=Normalisation("fixed", (128.0,) * 3, (16.0,) * 3),
        alignment=Alignment((0.3, 0.4), (0.7, 0.4)),
    )
    answer = (TensorSpec(ANSWER, (1, 2)),)
    graphs = {
        WINDOW: Graph((TensorSpec("flow", shape),), answer, {"fp32": "window.onnx"}),
        "encode_flow": Graph((TensorSpec("flow", image),), (TensorSpec(FEATURE, (1, 3)),), {"fp32": "e.onnx"}),
        HEAD: Graph((TensorSpec("flow_features", (1, 3, 3)),), answer, {"fp32": "head.onnx"}),
    }
    facts = replace(
        manifest(),
        inputs=(spec,),
        graphs=graphs,
        streams=(stream,),
        flow=asdict(CLG()),
        window=replace(manifest().window, length=4),
    )
    encode = _model(
        [
            helper.make_node("Reshape", ["flow", "as_planes"], ["planes"]),
            helper.make_node("ReduceMean", ["planes", "last"], [FEATURE], keepdims=0),
        ],
        [("flow", image)],
        [(FEATURE, (1, 3))],
    )
    head = _model(
        [
            helper.make_node("ReduceSum", ["flow_features", "steps_axis"], ["sum"], keepdims=0),
            helper.make_node("Split", ["sum"], ["x", "y", "size"], axis=1, num_outputs=3),
            helper.make_node("Concat", ["x", "y"], [ANSWER], axis=1),
        ],
        [("flow_features", (1, 3, 3))],
        [(ANSWER, (1, 2))],
    )
    window = _model(
        [
            helper.make_node("ReduceMean", ["flow", "behind"], ["means"], keepdims=0),
            helper.make_node("Split", ["means"], ["x", "y", "size"], axis=1, num_outputs=3),
            helper.make_node("Concat", ["x", "y"], [ANSWER], axis=1),
        ],
        [("flow", shape)],
        [(ANSWER, (1, 2))],
    )
    return _written(where, facts, {"e.onnx": encode, "head.onnx": head, "window.onnx": window})


def _head(steps: int) -> bytes:
    """Twice the newest features and the sum of all: the order of the ring matters."""
    return model(
        [
            helper.make_node("ReduceSum", ["clip_features", "axis"], ["sum"], keepdims=0),
            helper.make_node("Split", ["clip_features"], [f"at{n}" for n in range(steps)], axis=1, num_outputs=steps),
            helper.make_node("ReduceSum", [f"at{steps - 1}", "axis"], ["newest"], keepdims=0),
            helper.make_node("Mul", ["newest", "four"], ["more"]),
            helper.make_node("Add", ["sum", "more"], [ANSWER]),
        ],
        [("clip_features", (1, steps, 2))],
        [(ANSWER, (1, 2))],
    )


def _window(frames: int) -> bytes:
    return model(
        [
            helper.make_node("ReduceMean", ["clip", "axes"], ["means"], keepdims=0),
            helper.make_node("Concat", ["means", "means"], [ANSWER], axis=1),
        ],
        [("clip", (1, frames, *IMAGE[1:]))],
        [(ANSWER, (1, 2))],
    )


def _written(where: Path, facts: object, members: dict[str, bytes]) -> Bundle:
    spec = facts.inputs[0]
    rng = np.random.default_rng(1)
    tensors = rng.normal(size=spec.shape).astype(np.float32)
    golden = {
        "labels": np.array(("low", "high")),
        "no_face": np.zeros((8, 8, 3), np.uint8),
        "picture/one": np.zeros((facts.window.length, 8, 8, 3), np.uint8),
        "eyes/one": np.tile(np.array([[2.0, 4.0], [6.0, 4.0]], np.float32), (facts.window.length, 1, 1)),
        f"tensor/one/{spec.name}": tensors,
        "logits/one": np.zeros((1, 2), np.float32),
    }
    golden["logits/one"] = _streamed(facts, members, tensors)
    return write(where, facts, members, golden)


def _streamed(facts: object, members: dict[str, bytes], tensors: np.ndarray) -> np.ndarray:
    """The answer to a window, without any code of ours but the graphs."""
    encode = onnxruntime.InferenceSession(members["e.onnx"], providers=["CPUExecutionProvider"])
    head = onnxruntime.InferenceSession(members["head.onnx"], providers=["CPUExecutionProvider"])
    stream = facts.streams[0]
    features = []
    states = {before: np.zeros(IMAGE, np.float32) for before, _ in stream.state}
    for at in range(tensors.shape[1]):
        if stream.state:
            feature, *after = encode.run(None, {stream.input: tensors[:, at], **states})
            states = dict(zip(states, after, strict=True))
            features += [feature] if at + 1 >= stream.receptive else []
        elif stream.receptive == 1:
            features += encode.run(None, {stream.input: tensors[:, at]})
        elif at + 1 >= stream.receptive:
            features += encode.run(None, {"clip": tensors[:, at + 1 - stream.receptive : at + 1]})
    return head.run(None, {stream.ring: np.stack(features[-stream.steps :], axis=1)})[0]
