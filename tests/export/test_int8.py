"""INT8 in the graph: what TensorRT asks of Q and DQ, the same integers for the CPU, and answers like those of fp32."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import onnxruntime
from graphs import graph_of
from scipy.special import softmax

from edge.bundle import DEFAULT, PACKAGED, Bundle
from edge.preprocess import to_tensor
from export.calibration import METHODS, Histogram, calibrate
from export.equalise import equalise
from export.errors import ExportError
from export.fp16 import exceptions
from export.int8 import Rules, quantisable, to_int8
from export.int8_cpu import for_cpu
from export.search import search
from train.datasets import PICTURES
from train.models import FAMILIES, conv_lstm, dam_cnn, emotional_vlan

SMALL = Rules(least=4)
"""For networks that are narrow because they are tests."""


def session_of(model, optimised=True):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(model, samples, optimised=True):
    session = session_of(model, optimised)
    return np.concatenate([session.run(None, sample)[0] for sample in samples])


def noise(shapes, count=8, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    return [
        {name: (size * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def kinds(model, name):
    """What reads a tensor."""
    return sorted(node.op_type for node in model.graph.node if name in node.input)


@pytest.fixture(scope="module")
def face():
    return onnx.load(PACKAGED / DEFAULT / "window.fp32.onnx")


@pytest.fixture(scope="module")
def golden():
    vectors = Bundle.open().golden
    return [{"face": vectors[name]} for name in vectors if name.startswith("tensor/")]


@pytest.fixture(scope="module")
def ranges(face, golden):
    return calibrate(face, golden, methods=["max"])["max"]


def follows_the_rules(model):
    """Everything that a strongly typed TensorRT build asks of explicit quantisation."""
    constants = {one.name: one for one in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    pairs = weights = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            pairs += 1
            assert constants[node.input[2]].data_type == TensorProto.INT8
            assert not numpy_helper.to_array(constants[node.input[2]]).any()
            assert kinds(model, node.output[0]) == ["DequantizeLinear"]
            assert node.input[0] not in constants
        elif node.op_type == "DequantizeLinear":
            assert not numpy_helper.to_array(constants[node.input[2]]).any()
            if node.input[0] in constants:
                weights += 1
                stored = constants[node.input[0]]
                assert stored.data_type == TensorProto.INT8  # an INT32 one, a bias, would not parse
                assert np.abs(numpy_helper.to_array(stored).astype(int)).max() == 127
                axis = next(one.i for one in node.attribute if one.name == "axis")
                assert list(constants[node.input[1]].dims) == [stored.dims[axis]]
            else:
                assert makers[node.input[0]].op_type == "QuantizeLinear"
        elif node.op_type in ("Sigmoid", "Tanh", "Softmax"):
            beside = {makers[name].op_type for name in node.input if name in makers} | set(kinds(model, node.output[0]))
            assert not beside & {"QuantizeLinear", "DequantizeLinear"}
    assert pairs
    return pairs, weights


def test_the_graph_is_what_tensorrt_wants(face, ranges):
    model = to_int8(face, ranges)
    assert follows_the_rules(model) == (14, 14)
    makers = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    high = [node for node in layers if node.input[0] not in makers or makers[node.input[0]].op_type == "Relu"]
    # One channel in, and seven classes out: too narrow for INT8's units.
    assert [node.op_type for node in high] == ["Conv", "Gemm"]
    assert high[-1].output[0] == "logits"
    for node in layers:
        if node not in high:
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert model.ByteSize() < 0.27 * face.ByteSize()
    assert next(one.version for one in model.opset_import if one.domain == "") == 18


def test_both_high_precisions_hold_the_same_integers(face, ranges, golden):
    wide, half = to_int8(face, ranges), to_int8(face, ranges, high="fp16")
    assert follows_the_rules(half) == (14, 14)
    assert next(one.version for one in half.opset_import if one.domain == "") == 19
    integers = [
        {one.name: one.raw_data for one in model.graph.initializer if one.data_type == TensorProto.INT8}
        for model in (wide, half)
    ]
    assert integers[0] == integers[1]
    constants = {one.name: one for one in half.graph.initializer}
    scales = [constants[node.input[1]] for node in half.graph.node if node.op_type.endswith("quantizeLinear")]
    assert {one.data_type for one in scales} <= {TensorProto.FLOAT16}
    assert not [one.name for one in half.graph.initializer if one.data_type == TensorProto.FLOAT]
    # FP16 sums fall on the other side of a rounding border now and then: no closer than INT8 is to fp32 itself.
    apart = [softmax(answers(model, golden), 1) for model in (wide, half)]
    assert apart[1] == pytest.approx(apart[0], abs=0.03)


def test_the_cpu_form_is_the_same_to_the_bit(face, ranges, golden):
    model = to_int8(face, ranges)
    samples = golden + noise({"face": (1, 1, 48, 48)}, 6)
    cpu = for_cpu(model)

    def hidden(graph, name, kind):
        """The integers that go into the hidden layer, which the two forms sum in another order."""
        part = onnx.ModelProto()
        part.CopyFrom(graph)
        del part.graph.output[:]
        part.graph.output.append(helper.make_tensor_value_info(name, kind, (1, 5376)))
        return answers(part, samples, optimised=False)

    # Unsigned ones go up to 255, so here a Clip follows that takes the place of the signed ones' limit.
    integers = hidden(cpu, "cat_2_int8_clipped", TensorProto.UINT8)
    assert np.array_equal(integers, hidden(model, "cat_2_int8", TensorProto.INT8))
    assert integers.max() > 120
    found, wanted = (answers(one, samples, optimised=False) for one in (cpu, model))
    assert found == pytest.approx(wanted, abs=1e-4)


def test_the_cpu_form_runs_in_integer_kernels(face, ranges, tmp_path):
    def kernels(model):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)

    model = to_int8(face, ranges)
    plain, fast = kernels(model), kernels(for_cpu(model, ranges))
    assert plain["QLinearConv"] == 0
    # All but the first, which reads one channel; without ranges those before a residual sum stay in float32.
    assert (fast["QLinearConv"], fast["QLinearAdd"], fast["Conv"], fast["FusedConv"]) == (13, 5, 1, 0)
    assert kernels(for_cpu(model))["QLinearConv"] == 8
    assert fast["MatMulInteger"] + fast["MatMulIntegerToFloat"] == 1
    with pytest.raises(ExportError, match="expected to_int8"):
        for_cpu(to_int8(face, ranges, high="fp16"))


def test_one_pair_serves_all_readers_and_concat_shares_a_scale():
    torch.manual_seed(0)

    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (torch.nn.Conv2d(*size, 3, padding=1) for size in ((4, 4),) * 3)
            self.last = torch.nn.Conv2d(8, 4, 3)

        def forward(self, x):
            stem = torch.relu(self.first(torch.relu(x)))  # signed values would have seven bits on the CPU
            left, right = torch.relu(self.second(stem)), torch.relu(self.third(stem) * 9)
            return self.last(torch.cat([left, right], 1)).flatten(1)

    shapes = {"x": (1, 4, 8, 8)}
    model = graph_of(Branches(), shapes)
    samples = noise(shapes)
    quantised = to_int8(model, calibrate(model, samples, methods=["max"])["max"], rules=SMALL)
    pairs, weights = follows_the_rules(quantised)
    assert (pairs, weights) == (3, 4)  # x, the stem for both its readers, and what the concat gives
    concat = next(node for node in quantised.graph.node if node.op_type == "Concat")
    assert kinds(quantised, concat.output[0]) == ["QuantizeLinear"]
    assert answers(quantised, samples) == pytest.approx(answers(model, samples), abs=1.0)
    cpu = for_cpu(quantised)
    assert answers(cpu, samples, False) == pytest.approx(answers(quantised, samples, False), abs=1e-4)


def test_on_a_cpu_a_layer_that_reads_signed_values_has_seven_bits():
    """Two products of 0..255 and such weights fit 16 bits; what reads 0..127 keeps all eight."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    shapes = {"x": (1, 4, 8, 8)}
    model = graph_of(network, shapes)
    quantised = to_int8(model, calibrate(model, noise(shapes), methods=["max"])["max"], rules=SMALL)
    cpu = for_cpu(quantised)
    peaks = [
        int(np.abs(numpy_helper.to_array(one).astype(int)).max())
        for one in cpu.graph.initializer
        if one.data_type == TensorProto.INT8 and len(one.dims) == 4
    ]
    assert sorted(peaks) == [64, 127]


def test_the_identity_branch_of_a_residual_sum_is_quantised():
    torch.manual_seed(0)

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.deep, self.last = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))

        def forward(self, x):
            stem = torch.relu(self.stem(torch.relu(x)))  # signed values would have seven bits on the CPU
            sum_ = torch.relu(stem + self.deep(torch.relu(self.inner(stem))))
            return self.last(sum_).flatten(1)

    shapes = {"x": (1, 4, 8, 8)}
    model = graph_of(Residual(), shapes)
    samples = noise(shapes)
    quantised = to_int8(model, calibrate(model, samples, methods=["max"])["max"], rules=SMALL)
    follows_the_rules(quantised)
    makers = {name: node for node in quantised.graph.node for name in node.output}
    add = next(node for node in quantised.graph.node if node.op_type == "Add")
    assert sorted(makers[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"]
    identity = next(name for name in add.input if makers[name].op_type == "DequantizeLinear")
    assert kinds(quantised, identity) == ["Add", "Conv"]
    assert answers(quantised, samples) == pytest.approx(answers(model, samples), abs=0.2)
    assert np.array_equal(answers(quantised, samples, False), answers(for_cpu(quantised), samples, False))


def test_on_a_cpu_a_residual_sum_adds_integers():
    """Either branch may be negative, and the shortcut may be a convolution too."""
    torch.manual_seed(0)

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.deep, self.last = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
            self.short, self.end = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            first = torch.relu(self.stem(x))
            first = torch.relu(self.short(first) + self.deep(torch.relu(self.inner(first))))
            return self.end(torch.relu(first + self.last(first))).flatten(1)

    shapes = {"x": (1, 4, 8, 8)}
    model = graph_of(Residual(), shapes)
    samples = noise(shapes)
    ranges = calibrate(model, samples, methods=["max"])["max"]
    quantised = to_int8(model, ranges, rules=SMALL)
    cpu = for_cpu(quantised, ranges)
    makers = {name: node for node in cpu.graph.node for name in node.output}
    adds = [node for node in cpu.graph.node if node.op_type == "Add"]
    assert len(adds) == 2
    zeros = set()
    for add in adds:
        assert [makers[name].op_type for name in add.input] == ["DequantizeLinear"] * 2
        assert kinds(cpu, add.output[0]) == ["QuantizeLinear"]
        zeros |= {makers[name].input[2] for name in add.input}
    assert zeros == {"uint8_zero", "uint8_128"}
    exact = answers(quantised, samples, False)
    # One more rounding to eight bits before each sum, and its half step is what the sum may be off by.
    assert answers(cpu, samples, False) == pytest.approx(exact, abs=3 * float(np.abs(exact).max()) / 127)
    assert not np.array_equal(answers(cpu, samples, False), exact)


def test_recurrent_states_and_gates_stay_high():
    torch.manual_seed(0)
    network = FAMILIES["conv_lstm"].build(conv_lstm.Config(filters=4, units=4, side=16))
    shapes = {"clip": (1, 8, 1, 16, 16)}
    model = graph_of(network, shapes)
    samples = noise(shapes, 4)
    found = {node.name: node for node in model.graph.node if node.name in quantisable(model, rules=SMALL)}
    weights = {node.input[1]: node for node in found.values()}
    assert "recurrence.input_to_state.weight" in weights
    assert "recurrence.state_to_state.weight" not in weights
    assert not any(name.startswith("convolutions") for name in weights)
    wide = quantisable(model, rules=Rules(least=4, volumes=True))
    assert len(wide) == len(found) + 2  # the first has one channel
    ranges = calibrate(model, samples, methods=["max"])["max"]
    for rules in (SMALL, Rules(least=4, volumes=True)):
        quantised = to_int8(model, ranges, rules=rules)
        follows_the_rules(quantised)
        assert answers(quantised, samples) == pytest.approx(answers(model, samples), abs=0.02)
        assert answers(for_cpu(quantised), samples) == pytest.approx(answers(quantised, samples), abs=0.02)


def test_still_pictures_through_vgg_and_alexnet():
    torch.manual_seed(0)
    attentive = FAMILIES["dam_cnn"].build(dam_cnn.Config(decoders=0, width=1 / 16))
    with torch.no_grad():
        attentive.serd.attention.weight.zero_()  # untrained, it may switch everything off
        attentive.serd.attention.bias.fill_(1.0)
    cases = [
        (attentive, {"face": (1, 3, 224, 224)}, 60.0),
        (emotional_vlan.VlanNetwork(emotional_vlan.Config(width=1 / 16)).spatial[0], {"clip": (1, 3, 227, 227)}, 1.0),
    ]
    for network, shapes, size in cases:
        model = graph_of(network, shapes)
        samples = noise(shapes, 2, size=size)
        ranges = calibrate(model, samples, methods=["max"])["max"]
        quantised = to_int8(model, ranges, high="fp16", fp32=exceptions(model, samples))
        follows_the_rules(quantised)
        wanted = answers(model, samples)
        assert np.linalg.norm(answers(quantised, samples) - wanted) < 0.1 * np.linalg.norm(wanted)
        cpu = for_cpu(to_int8(model, ranges))
        for optimised in (False, True):
            found = answers(cpu, samples, optimised=optimised)
            assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_evening_out_the_channels_changes_nothing_in_fp32(face, golden):
    even = equalise(face, golden)
    assert answers(even, golden) == pytest.approx(answers(face, golden), abs=1e-4)

    def spread(model):
        session = onnx.ModelProto()
        session.CopyFrom(model)
        session.graph.output.append(helper.make_tensor_value_info("relu_2", TensorProto.FLOAT, (1, 64, 24, 24)))
        peaks = [session_of(session).run(["relu_2"], sample)[0].max((0, 2, 3)) for sample in golden]
        mean = np.mean(peaks, 0)
        return np.std(np.log(mean[mean > 1e-3]))

    assert spread(even) < 0.8 * spread(face)


def planted():
    """Three layers, of which the second has one loud channel that drowns the others at eight bits."""
    torch.manual_seed(0)
    loud = torch.nn.Conv2d(16, 16, 3, padding=1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(), loud, torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)
    )
    with torch.no_grad():
        loud.weight[3] *= 5000
        network[4].weight[:, 3] /= 50000
    shapes = {"x": (1, 16, 8, 8)}
    model = graph_of(torch.nn.Sequential(network, torch.nn.Flatten()), shapes)
    return model, noise(shapes)


def test_the_search_leaves_the_planted_layer_high():
    model, samples = planted()
    wanted = answers(model, samples)

    def evaluate(quantised):
        return 1 - float(np.abs(answers(quantised, samples) - wanted).max() / np.abs(wanted).max())

    ranges = calibrate(model, samples, methods=["max", "percentile-99"])
    layers = quantisable(model)
    assert len(layers) == 3
    result = search(model, ranges, evaluate, floor=0.95)
    assert result.kept == (layers[2],)  # it reads what is loud
    assert evaluate(result.model) >= 0.95
    assert [entry["step"] for entry in result.record][:5] == ["method"] * 2 + ["alone"] * 3
    assert result.record[-1]["kept"] == list(result.kept)
    assert result.record[-1]["score"] >= 0.95
    again = search(model, ranges, evaluate, floor=0.95)
    assert again.record == result.record
    assert again.model.SerializeToString() == result.model.SerializeToString()
    # Evened out, no layer has to stay high.
    even = equalise(model, samples)
    assert search(even, calibrate(even, samples, methods=["max"]), evaluate, floor=0.95).kept == ()
    with pytest.raises(ExportError, match="INT8 reaches .* at best; expected 1.5"):
        search(model, ranges, evaluate, floor=1.5)


def test_histograms_tell_what_numpy_tells():
    rng = np.random.default_rng(0)
    parts = [np.zeros(100), *(size * rng.standard_normal(4000) for size in (0.1, 1.0, 3.0))]
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    everything = np.abs(np.concatenate(parts))
    assert histogram.counts.sum() == len(everything)
    assert histogram.amax("max") == pytest.approx(everything.max())
    for share in (50, 99, 99.9):
        assert histogram.amax(f"percentile-{share}") == pytest.approx(
            np.percentile(everything, share), abs=2 * histogram.top / len(histogram.counts)
        )
    # One value far out is not worth the resolution of all others.
    histogram.add(np.array([40.0], np.float32))
    assert histogram.amax("max") == 40
    assert 3 < histogram.amax("entropy") < 20


def test_refusals(face, ranges, golden):
    with pytest.raises(ExportError, match="calibration method 'guess' is unknown"):
        calibrate(face, golden, methods=["guess"])
    blank = calibrate(face, [{"face": np.zeros((1, 1, 48, 48), np.float32)}], methods=["max"], tensors=["face"])
    assert blank == {"max": {"face": 0.0}}
    with pytest.raises(ExportError, match="NaN or infinity"):
        calibrate(face, [{"face": np.full((1, 1, 48, 48), np.nan, np.float32)}])
    with pytest.raises(ExportError, match="no range over 0 for relu"):
        to_int8(face, {})
    with pytest.raises(ExportError, match="layers to keep are not in the graph: nobody"):
        to_int8(face, ranges, keep=["nobody"])
    with pytest.raises(ExportError, match="high precision 'int4' is unknown"):
        to_int8(face, ranges, high="int4")
    with pytest.raises(ExportError, match="no layer is left for INT8"):
        to_int8(face, ranges, keep=quantisable(face))
    with pytest.raises(ExportError, match="no ranges were given"):
        search(face, {}, lambda model: 1.0, floor=0.5)


def test_the_shipped_network_agrees_with_itself(face, shared):
    """Calibrated and chosen on FER2013's Training part, measured on PublicTest."""
    (spec,) = Bundle.open().manifest.inputs
    train = PICTURES["fer2013"](shared / "fer2013", "train").arrays["face"]
    drawn = np.random.default_rng(0).permutation(len(train))
    samples = [{"face": to_tensor(train[i], spec)} for i in drawn[:300]]
    unseen = [{"face": to_tensor(train[i], spec)} for i in drawn[300:800]]
    wanted = answers(face, unseen).argmax(1)
    even = equalise(face, samples)
    result = search(
        even,
        calibrate(even, samples, methods=METHODS),
        lambda model: float((answers(for_cpu(model), unseen).argmax(1) == wanted).mean()),
        floor=0.99,
    )
    test = PICTURES["fer2013"](shared / "fer2013", "test").subset(np.arange(1000))
    pictures = [{"face": to_tensor(crop, spec)} for crop in test.arrays["face"]]
    wide, narrow = answers(face, pictures).argmax(1), answers(for_cpu(result.model), pictures).argmax(1)
    assert (wide == narrow).mean() >= 0.99
    assert abs((wide == test.labels).mean() - (narrow == test.labels).mean()) <= 0.005
