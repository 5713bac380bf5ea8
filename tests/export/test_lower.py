"""Every family as graphs: they answer what the network answers, image by image as well, in layers that fuse."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime
from torch import nn

from export.errors import ExportError
from export.lint import lint
from export.lower import FEATURE, FixedPyramid, Lowered, Part, lower
from export.to_onnx import to_onnx
from train.models import FAMILIES
from train.models.blocks import SpatialPyramidPooling
from train.models.emotional_vlan import VlanNetwork

ROOT = Path(__file__).resolve().parents[2]
TINY = 1 / 64
ARGUMENTS = {"clip": "frames", "flow": "flows", "face": "face"}
CASES = {
    "cspp": ("cspp", {"hidden": 8, "batch_norm": True}),
    "conv_lstm": ("conv_lstm", {"filters": 4, "units": 3}),
    "conv_lstm-two-path": ("conv_lstm", {"filters": 2, "units": 3, "two_path": True}),
    "conv_lstm-still": ("conv_lstm", {"filters": 2, "units": 2, "temporal": 1, "frames": 3}),
    "conv_lstm-long-kernel": ("conv_lstm", {"filters": 2, "units": 2, "temporal": 3}),
    "conv_lstm-one-step": ("conv_lstm", {"filters": 2, "units": 2, "frames": 4, "side": 16}),
    "two_stream": ("two_stream", {"width": TINY}),
    "two_stream-score": ("two_stream", {"width": TINY, "mode": "score", "frames": 4}),
    "two_stream-spatial": ("two_stream", {"width": TINY, "mode": "spatial", "frames": 4}),
    "two_stream-temporal": ("two_stream", {"width": TINY, "mode": "temporal", "classifier": "softmax", "frames": 4}),
    "two_stream-dbn": ("two_stream", {"width": TINY, "depth": 1, "classifier": "softmax", "frames": 4}),
    "emotional_vlan": ("emotional_vlan", {"width": TINY}),
    "emotional_vlan-frames": ("emotional_vlan", {"width": TINY, "keep": "frames", "layer": "fc6", "length": 5}),
    "emotional_vlan-streams": ("emotional_vlan", {"width": TINY, "keep": "streams", "length": 5}),
    "emotional_vlan-spatial": ("emotional_vlan", {"width": TINY, "streams": "spatial", "aggregation": "fixed"}),
    "dam_cnn": ("dam_cnn", {"width": TINY}),
    "dam_cnn-scaled": ("dam_cnn", {"width": TINY, "salient_scale": 3.0}),
    "dam_cnn-serd": ("dam_cnn", {"width": TINY, "variant": "vgg_serd"}),
}
CLIPS = (
    *("conv_lstm", "conv_lstm-two-path", "conv_lstm-still", "conv_lstm-long-kernel", "conv_lstm-one-step"),
    *("two_stream", "two_stream-score", "emotional_vlan"),
)
NEVER = {"Loop", "Scan", "If", "BatchNormalization", "Dropout", "Identity", "Shape", "Gather", "GatherND", "Unsqueeze"}


def lively(network: nn.Module) -> nn.Module:
    """Weights under which no layer is dead and inputs make a difference, and statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("running_var", "ceiling")):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() > 1:
                # What follows a sum over all images of a segment gets that much smaller weights.
                summed = 30 if isinstance(network, VlanNetwork) and name == "logits.weight" else 1
                tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5 / summed)
            else:
                tensor.copy_(0.3 * noise)
    return network.eval()


class Case:
    """A network, its parts, and their graphs in ONNX Runtime."""

    def __init__(self, key: str) -> None:
        family, options = CASES[key]
        config = FAMILIES[family].config(**options)
        self.inputs = FAMILIES[family].inputs(config)
        self.network = lively(FAMILIES[family].build(config))
        self.before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.lowered: Lowered = lower(self.network, self.inputs)
        self.models = {part.role: to_onnx(part) for part in self.lowered.parts}
        self.sessions = {
            role: onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            for role, model in self.models.items()
        }

    def run(self, role: str, tensors: dict) -> list[np.ndarray]:
        return self.sessions[role].run(None, {name: np.ascontiguousarray(value) for name, value in tensors.items()})


@pytest.fixture(scope="module")
def case():
    made: dict[str, Case] = {}

    def get(key: str) -> Case:
        if key not in made:
            made[key] = Case(key)
        return made[key]

    return get


def random_tensors(part: Part, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in part.inputs}


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(1).numpy()


def answer(network: nn.Module, tensors: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        return network(**{ARGUMENTS[name]: torch.from_numpy(value) for name, value in tensors.items()}).numpy()


@pytest.mark.parametrize("key", CASES)
def test_every_part_answers_what_the_network_answers(key, case):
    this = case(key)
    for part in this.lowered.parts:
        session = this.sessions[part.role]
        assert [(i.name, tuple(i.shape), i.type) for i in session.get_inputs()] == [
            (name, shape, "tensor(float)") for name, shape in part.inputs
        ]
        assert [(o.name, tuple(o.shape)) for o in session.get_outputs()] == list(part.outputs)
        tensors = random_tensors(part)
        with torch.inference_mode():
            wanted = part.module(*map(torch.from_numpy, tensors.values()))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for found, expected in zip(this.run(part.role, tensors), wanted, strict=True):
            scale = max(1.0, float(expected.abs().max()))
            assert found / scale == pytest.approx(expected.numpy() / scale, abs=1e-5)
    window = this.lowered.part("window")
    assert window.inputs == tuple((spec.name, spec.shape) for spec in this.inputs)
    answers = []
    for seed in range(3):
        tensors = random_tensors(window, seed)
        answers.append(this.run("window", tensors)[0])
        assert answers[-1] == pytest.approx(answer(this.network, tensors), abs=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-4, "a network that says the same of everything proves nothing"
    assert all(torch.equal(tensor, this.before[name]) for name, tensor in this.network.state_dict().items())


@pytest.mark.parametrize("key", CASES)
def test_only_layers_that_fuse(key, case):
    for role, model in case(key).models.items():
        assert [str(violation) for violation in lint(model)] == [], role
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        # A window's features, computed as a batch, get their batch of one back.
        never = NEVER - {"Unsqueeze"} if role == "window" else NEVER
        assert not never & {node.op_type for node in graph.node}
        assert not model.functions
        used = {name for node in graph.node for name in node.input}
        assert weights <= used, "weights that no layer reads"
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                assert set(node.input[1:]) <= weights, f"{role}: {node.name} has weights that are no constants"
            if node.op_type == "MaxPool":
                assert len(node.output) == 1
        for value in (*graph.input, *graph.output, *graph.value_info):
            assert all(dimension.dim_value > 0 for dimension in value.type.tensor_type.shape.dim)
        assert b"/site-packages/" not in model.SerializeToString()


@pytest.mark.parametrize("key", CASES)
def test_parts_share_their_weights(key, case):
    """Under one name one value; the encoders' and the head's together are the window's."""
    found: dict[str, dict[str, bytes]] = {}
    values: dict[str, bytes] = {}
    for role, model in case(key).models.items():
        named = {one.name: one.raw_data for one in model.graph.initializer if one.name.startswith("network.")}
        found[role] = named
        for name, value in named.items():
            assert values.setdefault(name, value) == value, (role, name)
    apart = [set(named) for role, named in found.items() if role not in ("window", "step")]
    assert not apart or set().union(*apart) == set(found["window"])


@pytest.mark.parametrize("key", CLIPS)
def test_image_by_image_equals_windows(key, case):
    """A sequence of 30 images, one at a time through the encoders and the rings, answers as its windows do."""
    this = case(key)
    rng = np.random.default_rng(7)
    video = {spec.name: rng.standard_normal((1, 30, *spec.shape[2:])).astype(np.float32) for spec in this.inputs}
    length = this.inputs[0].shape[1]
    # Whatever the states hold at first, a window later it is forgotten.
    states = {
        stream.input: {
            name: np.abs(rng.standard_normal(shape)).astype(np.float32)
            for name, shape in this.lowered.part(stream.encoder).inputs[1:]
        }
        for stream in this.lowered.streams
    }
    rings = {stream.ring: deque(maxlen=stream.steps) for stream in this.lowered.streams}
    answers = []
    for at in range(30):
        for stream in this.lowered.streams:
            kept = states[stream.input]
            feature, *following = this.run(stream.encoder, {stream.input: video[stream.input][:, at], **kept})
            assert (FEATURE, feature.shape) == this.lowered.part(stream.encoder).outputs[0]
            assert tuple(kept) == tuple(before for before, _ in stream.state)
            states[stream.input] = dict(zip(kept, following, strict=True))
            if at + 1 >= stream.receptive:
                rings[stream.ring].append(feature)
        if at >= length - 1:
            assert [len(ring) for ring in rings.values()] == [stream.steps for stream in this.lowered.streams]
            answers.append(this.run("head", {name: np.stack(ring, 1) for name, ring in rings.items()})[0])
    windows = [
        this.run("window", {name: clip[:, start : start + length] for name, clip in video.items()})[0]
        for start in range(30 - length + 1)
    ]
    streamed, whole = softmax(np.concatenate(answers)), softmax(np.concatenate(windows))
    assert streamed == pytest.approx(whole, abs=1e-5)
    assert np.ptp(whole, axis=0).max() > 1e-4, "windows that all say the same prove nothing"


@pytest.mark.parametrize("key", ["conv_lstm", "conv_lstm-two-path", "conv_lstm-still", "conv_lstm-one-step"])
def test_steps_from_zero_states_give_the_windows_answer(key, case):
    this = case(key)
    clip = random_tensors(this.lowered.part("window"))["clip"]
    step = this.lowered.part("step")
    states = {name: np.zeros(shape, np.float32) for name, shape in step.inputs[1:]}
    receptive = step.inputs[0][1][1]
    for at in range(clip.shape[1] - receptive + 1):
        logits, *following = this.run("step", {"clip": clip[:, at : at + receptive], **states})
        assert [name for name, _ in step.outputs[1:]] == [f"{name}_next" for name in states]
        states = dict(zip(states, following, strict=True))
    assert logits == pytest.approx(this.run("window", {"clip": clip})[0], abs=1e-5)


def test_the_recurrence_is_unrolled_over_one_weight(case):
    graph = case("conv_lstm").models["window"].graph
    convolutions = Counter(node.input[1] for node in graph.node if node.op_type == "Conv")
    recurrent = convolutions.pop("network.recurrence.state_to_state.weight")
    assert recurrent == 5 - 1, "none for the first step: its H is zero"
    assert convolutions.pop("network.recurrence.input_to_state.weight") == 1, "all steps and gates at once"
    assert list(convolutions.values()) == [1, 1, 1]
    # The kernels are 2-D: two frames' channels side by side.
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert [shapes[name] for name in convolutions] == [(4, 2, 3, 3), (8, 8, 3, 3), (16, 16, 3, 3)]


def test_an_image_meets_each_weight_once(case):
    """The recurrences under way are a batch; nothing that an earlier image gave is computed again."""
    graph = case("conv_lstm").models["encode_clip"].graph
    convolutions = Counter(node.input[1] for node in graph.node if node.op_type == "Conv")
    assert len(convolutions) == 5
    assert set(convolutions.values()) == {1}
    shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in graph.value_info}
    batches = {node.input[1]: shapes[node.output[0]][0] for node in graph.node if node.op_type == "Conv"}
    assert batches.pop("network.recurrence.state_to_state.weight") == 5 - 1
    assert set(batches.values()) == {1}
    assert [node.op_type for node in case("conv_lstm").models["head"].graph.node] == ["Reshape", "Gemm"]


def test_roles_and_streams(case):
    assert set(case("cspp").models) == set(case("dam_cnn").models) == {"window"}
    assert set(case("two_stream").models) == {"window", "encode_clip", "encode_flow", "head"}
    assert set(case("emotional_vlan-spatial").models) == {"window", "encode_clip", "head"}
    assert set(case("two_stream-temporal").models) == {"window", "encode_flow", "head"}
    assert set(case("conv_lstm").models) == {"window", "encode_clip", "head", "step"}
    (stream,) = case("conv_lstm").lowered.streams
    assert (stream.receptive, stream.steps) == (8, 1)
    encoder, head = (case("conv_lstm").lowered.part(role) for role in ("encode_clip", "head"))
    assert dict(encoder.inputs) == {
        "clip": (1, 1, 64, 64),
        "before_1": (1, 1, 64, 64),
        "before_2": (1, 4, 32, 32),
        "before_3": (1, 8, 32, 32),
        "h": (4, 3, 16, 16),
        "c": (4, 3, 16, 16),
    }
    assert encoder.outputs == (("feature", (1, 3, 16, 16)), *((f"{n}_next", shape) for n, shape in encoder.inputs[1:]))
    assert stream.state == tuple((name, f"{name}_next") for name, _ in encoder.inputs[1:])
    assert head.inputs == (("clip_features", (1, 1, 3, 16, 16)),)
    assert case("conv_lstm").lowered.part("step").inputs[0] == ("clip", (1, 4, 1, 64, 64))
    first, second = case("emotional_vlan").lowered.streams
    assert (first.input, first.ring, second.input, second.ring) == ("clip", "clip_features", "flow", "flow_features")
    assert (first.receptive, first.steps, first.state) == (1, 15, ())


@pytest.mark.slow
def test_the_pyramid_bit_for_bit_at_any_size():
    """Levels 6, 3, 2 and 1 side by side, so 3, 2, 1 as well."""
    levels = (6, 3, 2, 1)

    class Crops(nn.Module):
        """The pyramid over many sizes at once: one export each would take minutes."""

        def __init__(self, pyramid: nn.Module, sizes: list[tuple[int, int]]) -> None:
            super().__init__()
            self.pyramid, self.sizes = pyramid, sizes

        def forward(self, features):
            return torch.cat([self.pyramid(features[:, :, :height, :width]) for height, width in self.sizes], 1)

    every = [(side, side) for side in range(5, 65)] + [(5, 64), (64, 7), (12, 13), (57, 6), (31, 48)]
    # In torch at every size; through ONNX, where an export takes a second a size, at every fifth square (all remainders
    # by 6) and those that are none.
    sizes = [*every[:60:5], *every[60:]]
    width = len(sizes) * sum(level**2 for level in levels)
    module = Crops(FixedPyramid(levels), sizes)
    part = Part("any", module, (("features", (1, 1, 64, 64)),), (("bins", (1, width)),))
    tensors = random_tensors(part)
    session = onnxruntime.InferenceSession(to_onnx(part).SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = Crops(SpatialPyramidPooling(levels), sizes)(torch.from_numpy(tensors["features"])).numpy()
    assert np.array_equal(session.run(None, tensors)[0], wanted)
    short, features = (3, 2, 1), torch.randn(2, 3, 64, 64)
    for height, width in every:
        crop = features[:, :, :height, :width]
        assert torch.equal(FixedPyramid(short)(crop), SpatialPyramidPooling(short)(crop))


def test_a_pyramid_over_even_bins_is_max_pools_alone(case):
    graph = case("cspp").models["window"].graph
    counts = Counter(node.op_type for node in graph.node)
    assert counts["MaxPool"] == 2 + 6
    assert not {"Slice", "ReduceMax"} & set(counts)
    uneven = Part("any", FixedPyramid((3, 2)), (("maps", (1, 1, 8, 13)),), (("bins", (1, 13)),))
    counts = Counter(node.op_type for node in to_onnx(uneven).graph.node)
    assert (counts["MaxPool"], counts["Slice"], counts["ReduceMax"]) == (1, 6, 6)


def test_scores_of_two_sure_streams_stay_finite(case):
    """Where both streams rule a class out, its averaged probability is no float's: the logarithm still is."""
    this = case("two_stream-score")
    tensors = {name: 1e4 * np.abs(value) for name, value in random_tensors(this.lowered.part("head")).items()}
    with torch.inference_mode():
        wanted = this.network.head(*map(torch.from_numpy, tensors.values())).numpy()
    assert np.isneginf(wanted).any()
    (found,) = this.run("head", tensors)
    assert np.isfinite(found).all()
    assert softmax(found) == pytest.approx(softmax(wanted), abs=1e-5)


def test_large_weights_are_shared_not_copied(case):
    for key in ("two_stream", "emotional_vlan", "dam_cnn"):
        this = case(key)
        mine = {tensor.data_ptr() for tensor in this.network.parameters()}
        theirs = {tensor.data_ptr() for part in this.lowered.parts for tensor in part.module.parameters()}
        assert theirs <= mine, key


def test_a_network_in_training_stays_in_training(case):
    config = FAMILIES["cspp"].config(hidden=8, batch_norm=True)
    network = FAMILIES["cspp"].build(config).train()
    lower(network, FAMILIES["cspp"].inputs(config))
    assert all(module.training for module in network.modules())
    assert isinstance(network.pyramid, SpatialPyramidPooling)


def test_what_has_no_features_of_one_image_is_refused():
    config = FAMILIES["emotional_vlan"].config(width=TINY, shared=False, length=3)
    network = FAMILIES["emotional_vlan"].build(config)
    with pytest.raises(ExportError, match="expected shared streams; train with --shared"):
        lower(network, FAMILIES["emotional_vlan"].inputs(config))
    with pytest.raises(ExportError, match="no lowering for a Linear; expected CSPP, ConvLSTMNetwork, TwoStream"):
        lower(nn.Linear(2, 2), ())


_DIGEST = """
import hashlib, sys
sys.path.insert(0, "tests/export")
from test_lower import Case
print(*(hashlib.sha256(model.SerializeToString()).hexdigest() for model in Case("conv_lstm-two-path").models.values()))
"""


def test_the_same_network_gives_the_same_bytes(case):
    """In another process as well, whose sets have another order."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", _DIGEST], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    ours = case("conv_lstm-two-path").models.values()
    assert found.stdout.split() == [hashlib.sha256(model.SerializeToString()).hexdigest() for model in ours]
