"""Encoders that remember: a face's states are its own, start as zeros, and the manifest says what goes with what."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import handmade
from onnx import TensorProto, helper

from edge.bundle import (
    ANSWER,
    FEATURE,
    HEAD,
    WINDOW,
    Alignment,
    Bundle,
    Graph,
    InputSpec,
    Manifest,
    Normalisation,
    Stream,
    TensorSpec,
    write,
)
from edge.bundle import Window as Facts
from edge.engine import open_engine
from edge.errors import BundleError
from edge.manifest import contradiction, parse, to_document
from edge.window import Windows

SIDE, FRAMES, STEPS = 4, 4, 2
RECEPTIVE = FRAMES - STEPS + 1
IMAGE = (1, 1, SIDE, SIDE)
STREAM = Stream("clip", "encode_clip", "clip_features", RECEPTIVE, STEPS, (("one", "one_next"), ("two", "two_next")))
INPUTS = (("clip", IMAGE), ("one", IMAGE), ("two", IMAGE))
OUTPUTS = ((FEATURE, (1, 2)), ("one_next", IMAGE), ("two_next", IMAGE))
RING = ("clip_features", (1, STEPS, 2))
ANSWERS = ((ANSWER, (1, 2)),)


WEIGHTS = [
    helper.make_tensor("four", TensorProto.FLOAT, [], [4.0]),
    helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    helper.make_tensor("three_axes", TensorProto.INT64, [3], [1, 2, 3]),
    helper.make_tensor("axes", TensorProto.INT64, [3], [1, 3, 4]),
    helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
]


def model(nodes, inputs, outputs) -> bytes:
    return handmade.model(nodes, inputs, outputs, WEIGHTS)


def encoder() -> bytes:
    """(mean of the image + 4 times that of the one before, mean of the image two before)."""
    return model(
        [
            helper.make_node("Mul", ["one", "four"], ["more"]),
            helper.make_node("Add", ["clip", "more"], ["both"]),
            helper.make_node("ReduceMean", ["both", "three_axes"], ["left"], keepdims=0),
            helper.make_node("ReduceMean", ["two", "three_axes"], ["right"], keepdims=0),
            helper.make_node("Unsqueeze", ["left", "axis"], ["left_2d"]),
            helper.make_node("Unsqueeze", ["right", "axis"], ["right_2d"]),
            helper.make_node("Concat", ["left_2d", "right_2d"], [FEATURE], axis=1),
            helper.make_node("Add", ["clip", "zero"], ["one_next"]),
            helper.make_node("Add", ["one", "zero"], ["two_next"]),
        ],
        INPUTS,
        OUTPUTS,
    )


def manifest(stream: Stream = STREAM, inputs=INPUTS, outputs=OUTPUTS) -> Manifest:
    spec = InputSpec(
        name="clip",
        kind="clip",
        shape=(1, FRAMES, *IMAGE[1:]),
        dtype="float32",
        colour="grey",
        interpolation="area",
        normalisation=Normalisation("fixed", (0.0,), (1.0,)),
        alignment=Alignment((0.3, 0.4), (0.7, 0.4)),
    )
    answer = (TensorSpec(ANSWER, (1, 2)),)
    graphs = {
        WINDOW: Graph((TensorSpec("clip", spec.shape),), answer, {"fp32": "window.onnx"}),
        "encode_clip": Graph(
            tuple(TensorSpec(*one) for one in inputs), tuple(TensorSpec(*one) for one in outputs), {"fp32": "e.onnx"}
        ),
        HEAD: Graph((TensorSpec("clip_features", (1, stream.steps, 2)),), answer, {"fp32": "head.onnx"}),
    }
    return Manifest(
        name="memory",
        family="none",
        labels=("low", "high"),
        inputs=(spec,),
        graphs=graphs,
        temperature=1.0,
        abstain_below=0.5,
        tolerances={"tensor": 0.1, "fp32": 1e-4},
        data={},
        licence="none",
        metrics={},
        window=Facts(FRAMES, 0.0, 500.0),
        streams=(stream,),
        files=dict.fromkeys(("golden.npz", "window.onnx", "e.onnx", "head.onnx"), "0" * 64),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    members = {
        "e.onnx": encoder(),
        "head.onnx": model([helper.make_node("ReduceSum", [RING[0], "axis"], [ANSWER], keepdims=0)], [RING], ANSWERS),
        # Never run here; the reference is computed by hand.
        "window.onnx": model(
            [
                helper.make_node("ReduceMean", ["clip", "axes"], ["means"], keepdims=0),
                helper.make_node("Concat", ["means", "means"], [ANSWER], axis=1),
            ],
            [("clip", (1, FRAMES, *IMAGE[1:]))],
            ANSWERS,
        ),
    }
    golden = {
        "labels": np.array(("low", "high")),
        "no_face": np.zeros((8, 8, 3), np.uint8),
        "picture/one": np.zeros((FRAMES, 8, 8, 3), np.uint8),
        "eyes/one": np.tile(np.array([[2.0, 4.0], [6.0, 4.0]], np.float32), (FRAMES, 1, 1)),
        "tensor/one/clip": np.zeros((1, FRAMES, *IMAGE[1:]), np.float32),
        "logits/one": np.zeros((1, 2), np.float32),
    }
    return write(tmp_path_factory.mktemp("memory") / "bundle", manifest(), members, golden)


def by_hand(means: list[float]) -> np.ndarray:
    """The logits of images that are all of one value each, from the last four of them."""
    one, two, three, four = means[-FRAMES:]
    return np.array([(three + 4 * two) + (four + 4 * three), one + two], np.float32)


def image(value: float) -> dict[str, np.ndarray]:
    return {"clip": np.full(IMAGE, value, np.float32)}


def test_each_face_has_states_of_its_own_and_starts_from_zeros(bundle):
    windows = Windows(open_engine(bundle, "onnxruntime", "fp32"))
    crops = {"clip": np.zeros((SIDE, SIDE), np.uint8)}
    rng = np.random.default_rng(0)
    seen: dict[int, list[float]] = {1: [], 2: []}
    answered = 0
    for at in range(24):
        now = round(at * 40e6)
        for face in (1, 2):
            if face == 2 and 8 <= at < 22:
                continue  # for longer than a window bears
            if face == 2 and at == 22:
                seen[2].clear()
            assert windows.advance(face, crops, now) is not None
            seen[face].append(float(rng.standard_normal()))
            logits = windows.answer(face, image(seen[face][-1]))
            assert (logits is not None) == (len(seen[face]) >= FRAMES), "not before the window is full"
            if logits is not None:
                assert logits == pytest.approx(by_hand(seen[face]), abs=1e-5)
                answered += 1
        windows.forget(now)
    assert answered == 21 + 5


def test_a_whole_window_leaves_no_memory_behind(bundle):
    windows = Windows(open_engine(bundle, "onnxruntime", "fp32"))
    for values in ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]):
        clip = np.tile(np.array(values, np.float32).reshape(1, FRAMES, 1, 1, 1), (1, 1, *IMAGE[1:]))
        assert windows.stream({"clip": clip}) == pytest.approx(by_hand(values), abs=1e-5)


def test_states_survive_the_manifest(bundle):
    assert bundle.manifest.streams == (STREAM,)
    document = to_document(bundle.manifest)
    assert parse(document).streams == (STREAM,)
    del document["streams"][0]["state"]
    assert parse(document).streams[0].state == ()


WRONG = {
    "nothing that is given back": ({"inputs": INPUTS[:2]}, "inputs .'clip', 'one', 'two'., the first of shape"),
    "several images beside states": (
        {"inputs": (("clip", (1, RECEPTIVE, *IMAGE[1:])), *INPUTS[1:])},
        r"the first of shape \(1, 1, 4, 4\)",
    ),
    "nothing that is kept": ({"outputs": OUTPUTS[:2]}, "must answer 'feature'"),
    "another shape": (
        {"outputs": (*OUTPUTS[:2], ("two_next", (1, 2, SIDE, SIDE)))},
        "state 'two' must come out again, as 'two_next', as it went in",
    ),
    "another type": (
        {"inputs": (*INPUTS[:2], ("two", IMAGE, "float16")), "outputs": (*OUTPUTS[:2], ("two_next", IMAGE, "float16"))},
        "state 'two' must come out again",
    ),
    "one output for two": (
        {
            "stream": Stream("clip", "encode_clip", RING[0], RECEPTIVE, STEPS, (("one", "next"), ("two", "next"))),
            "outputs": (OUTPUTS[0], ("next", IMAGE), ("next", IMAGE)),
        },
        "names of their own",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_states_that_cannot_be(what, tmp_path):
    changes, message = WRONG[what]
    assert contradiction(manifest()) is None
    with pytest.raises(BundleError, match=message):
        write(tmp_path / "b", manifest(**changes), dict.fromkeys(("e.onnx", "window.onnx", "head.onnx"), b""), {})
