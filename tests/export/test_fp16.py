"""FP16 in the graph: casts at its edges and around exceptions, nothing infinite, and the answers of fp32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import onnxruntime
from graphs import graph_of

from edge.smooth import softmax
from export.errors import ExportError
from export.fp16 import exceptions, tensor_types, to_fp16, unfit
from train.models import FAMILIES, conv_lstm, cspp, dam_cnn, emotional_vlan, two_stream

TOLERANCE = 5e-3
"""On probabilities: what NVIDIA allows between precisions."""


def run(model, feeds):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def honest(model, feeds):
    """Step by step in numpy: ONNX Runtime's CPU widens neighbouring FP16 nodes, which hides what FP16 does."""
    onnx.checker.check_model(model, full_check=True)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def small(nodes, constants, shape=(1, 4)):
    """A hand-made graph from ``x`` to ``y``, both float32 of one shape."""
    graph = helper.make_graph(
        [helper.make_node(kind, reads, writes, name=name) for name, kind, reads, writes in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_casts_stand_at_the_edges_only():
    torch.manual_seed(0)
    network = cspp.CSPP(cspp.Config(hidden=32))
    model = graph_of(network, {"face": (1, 1, 48, 48)}, ["logits"])
    before = model.SerializeToString()
    half = to_fp16(model)
    assert model.SerializeToString() == before
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert [(node.input[0], node.output[0]) for node in casts] == [("face", "face_fp16"), ("logits_fp16", "logits")]
    assert {one.data_type for one in half.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}
    assert half.ByteSize() < 0.55 * model.ByteSize()
    face = np.random.default_rng(0).standard_normal((1, 1, 48, 48)).astype(np.float32)
    (found,), (wanted,) = run(half, {"face": face}), run(model, {"face": face})
    assert found.dtype == np.float32
    assert softmax(found) == pytest.approx(softmax(wanted), abs=TOLERANCE)


def test_a_planted_overflow_is_found_and_kept():
    model = small(
        [
            ("small", "Mul", ["x", "half"], ["a"]),
            ("bang", "Mul", ["a", "much"], ["b"]),
            ("back", "Mul", ["b", "little"], ["c"]),
            ("end", "Relu", ["c"], ["y"]),
        ],
        {"half": 0.5, "much": 60000.0, "little": 1 / 60000.0},
    )
    x = np.array([[1, 2, 3, 400]], np.float32)
    (wanted,) = run(model, {"x": x})
    assert np.isinf(honest(to_fp16(model), {"x": x})[0]).any()
    kept = exceptions(model, [{"x": x}])
    assert kept == ("bang", "back")
    half = to_fp16(model, keep=kept)
    assert run(half, {"x": x})[0] == pytest.approx(wanted, rel=2e-3)
    assert honest(half, {"x": x})[0] == pytest.approx(wanted, rel=2e-3)
    casts = [node.input[0] for node in half.graph.node if node.op_type == "Cast"]
    assert casts == ["x", "a", "c", "y_fp16"]


def test_weights_out_of_range_are_never_infinite():
    model = small([("scale", "Mul", ["x", "w"], ["a"]), ("end", "Div", ["a", "w"], ["y"])], {"w": [1e5, 1, 2, 3]})
    half = to_fp16(model)
    assert unfit(model) == ("scale", "end")
    for one in half.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(one)).all()
    x = np.full((1, 4), 2.0, np.float32)
    assert run(half, {"x": x})[0] == pytest.approx(x)


def test_a_weight_read_in_both_precisions_is_there_twice():
    model = small([("one", "Mul", ["x", "w"], ["a"]), ("two", "Add", ["a", "w"], ["y"])], {"w": [1, 2, 3, 4]})
    half = to_fp16(model, keep=["one"])
    assert sorted(one.data_type for one in half.graph.initializer) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    x = np.ones((1, 4), np.float32)
    assert run(half, {"x": x})[0] == pytest.approx(run(model, {"x": x})[0])


def test_underflow_is_found():
    model = small(
        [("shrink", "Mul", ["x", "w"], ["a"]), ("again", "Mul", ["a", "w"], ["b"]), ("end", "Div", ["b", "v"], ["y"])],
        {"w": 1e-3, "v": 1e-4},
    )
    x = np.array([[1e-2, 2e-2, 3e-2, 4e-2]], np.float32)
    kept = exceptions(model, [{"x": x}])
    assert kept == ("again", "end")
    (wanted,) = run(model, {"x": x})
    assert honest(to_fp16(model, keep=kept), {"x": x})[0] == pytest.approx(wanted, rel=5e-3)
    assert honest(to_fp16(model), {"x": x})[0] != pytest.approx(wanted, rel=5e-2)


def test_sums_count_their_terms():
    """Fifteen exp-gained features, each far under FP16's limit, add up beyond it."""
    network = emotional_vlan.EmotionalVlan(8)
    with torch.no_grad():
        network.a.fill_(np.log(100.0))
    model = graph_of(network, {"rings": (1, 2, 15, 8)}, ["sum"])
    rings = np.full((1, 2, 15, 8), 70.0, np.float32)
    kept = exceptions(model, [{"rings": rings}])
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert {kinds[name] for name in kept} == {"ReduceSum"}
    (wanted,) = run(model, {"rings": rings})
    assert honest(to_fp16(model, keep=kept), {"rings": rings})[0] == pytest.approx(wanted, rel=2e-3)
    assert np.isinf(honest(to_fp16(model), {"rings": rings})[0]).all()


def test_a_logarithm_of_small_probabilities_stays_finite():
    model = small([("p", "Softmax", ["x"], ["a"]), ("end", "Log", ["a"], ["y"])], {})
    assert unfit(model) == ("p", "end")
    x = np.array([[0, 30, 5, -5]], np.float32)
    (wanted,) = run(model, {"x": x})
    assert honest(to_fp16(model), {"x": x})[0] == pytest.approx(wanted, abs=0.05)


def test_refusals():
    model = small([("end", "Relu", ["x"], ["y"])], {})
    with pytest.raises(ExportError, match="nodes to keep in fp32 are not in the graph: nobody"):
        to_fp16(model, keep=["nobody"])
    with pytest.raises(ExportError, match="no samples were given"):
        exceptions(model, [])
    model.graph.node[0].name = ""
    with pytest.raises(ExportError, match="nodes without a name"):
        to_fp16(model)


class Step(torch.nn.Module):
    """One frame of the convolutional LSTM: the state goes in and out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, clip, h, c):
        network = self.network
        gates = network.encode(clip)[:, -1] + network.recurrence.state_to_state(h)
        forget, write, modulation, output = gates.chunk(4, dim=1)
        cell = c * torch.sigmoid(forget) + torch.tanh(modulation) * torch.sigmoid(write)
        hidden = torch.tanh(cell) * torch.sigmoid(output)
        return network.logits(hidden.flatten(1)), hidden, cell


class Head(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, spatial, temporal):
        return self.network.head(spatial, temporal)


def _cases():
    def family(name, config):
        torch.manual_seed(0)
        return FAMILIES[name].build(config).eval()

    yield "dam_cnn", family("dam_cnn", dam_cnn.Config(decoders=0, width=1 / 64)), {"face": (1, 3, 224, 224)}, 60.0
    clip = conv_lstm.Config(filters=4, units=4, side=16)
    yield "conv_lstm window", family("conv_lstm", clip), {"clip": (1, 8, 1, 16, 16)}, 1.0
    step = Step(family("conv_lstm", clip))
    yield "conv_lstm step", step, {"clip": (1, 4, 1, 16, 16), "h": (1, 4, 4, 4), "c": (1, 4, 4, 4)}, 1.0
    rings = {"spatial": (1, 15, 64), "temporal": (1, 15, 64)}
    for mode in ("dbn", "score"):
        network = family("two_stream", two_stream.Config(mode=mode, width=1 / 64, classifier="softmax"))
        yield f"two_stream {mode}", Head(network), rings, 2.0
    yield "vlan", Head(family("emotional_vlan", emotional_vlan.Config(width=1 / 64))), rings, 2.0
    encoder = family("emotional_vlan", emotional_vlan.Config(width=1 / 16)).spatial[0]
    yield "vlan encoder", encoder, {"clip": (1, 3, 227, 227)}, 1.0


@pytest.mark.parametrize("case", list(_cases()), ids=lambda case: case[0])
def test_every_family_converts(case):
    _, module, inputs, size = case
    outputs = ["logits", "h_next", "c_next"][: len(inputs) if "h" in inputs else 1]
    model = graph_of(module, inputs, outputs)
    rng = np.random.default_rng(0)
    samples = [
        {name: np.abs(size * rng.standard_normal(shape)).astype(np.float32) for name, shape in inputs.items()}
        for _ in range(3)
    ]
    half = to_fp16(model, keep=exceptions(model, samples[:2]))
    assert {one.elem_type for one in (value.type.tensor_type for value in half.graph.output)} == {TensorProto.FLOAT}
    for sample in samples:
        found, wanted = (run if "face" in inputs else honest)(half, sample), run(model, sample)
        assert all(one.dtype == np.float32 for one in found)
        assert softmax(found[0]) == pytest.approx(softmax(wanted[0]), abs=TOLERANCE)
        for one, other in zip(found[1:], wanted[1:], strict=True):
            assert one == pytest.approx(other, abs=TOLERANCE)


def test_types_are_known_for_every_tensor():
    torch.manual_seed(0)
    model = graph_of(
        Head(emotional_vlan.VlanNetwork(emotional_vlan.Config(width=1 / 64))),
        {"spatial": (1, 15, 64), "temporal": (1, 15, 64)},
        ["logits"],
    )
    types = tensor_types(model)
    assert all(name in types for node in model.graph.node for name in node.output)
    assert types["logits"] == (TensorProto.FLOAT, (1, 6))
