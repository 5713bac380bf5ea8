"""The weights that graphs share: once in the file, found by ONNX Runtime, and nothing lost on the way."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge.errors import EdgeError
from export.lower import lower
from export.to_onnx import to_onnx
from export.weights import ALIGNMENT, SMALLEST, Weights
from train.models import FAMILIES


def network_parts(seed=0):
    torch.manual_seed(seed)
    config = FAMILIES["emotional_vlan"].config(width=1 / 16, length=4)
    network = FAMILIES["emotional_vlan"].build(config).eval()
    return network, lower(network, FAMILIES["emotional_vlan"].inputs(config))


def places(graph: bytes) -> dict[str, dict[str, str]]:
    model = onnx.load_model_from_string(graph)
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }


def single(weight: TensorProto | onnx.NodeProto) -> onnx.ModelProto:
    """One matrix product with a weight of (32, 16)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    initialisers = []
    if isinstance(weight, TensorProto):
        initialisers.append(weight)
    else:
        nodes.insert(0, weight)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        initialisers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path, tensors):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, tensors)


def test_shared_weights_cost_their_bytes_once(tmp_path):
    network, lowered = network_parts()
    rng = np.random.default_rng(0)
    with Weights(tmp_path / "model.weights") as weights:
        sizes = []
        for part in lowered.parts:
            graph = weights.add(to_onnx(part))
            assert len(graph) < 30_000
            (tmp_path / f"{part.role}.onnx").write_bytes(graph)
            for name, place in places(graph).items():
                assert place["location"] == "model.weights"
                assert int(place["offset"]) % ALIGNMENT == 0
                assert int(place["length"]) >= SMALLEST, name
            sizes.append(weights._file.tell())
    assert lowered.parts[0].role == "window"
    assert sizes == [sizes[0]] * 4, "encoders and head add nothing to the window's weights"
    stored = sum(tensor.numel() * 4 for tensor in network.state_dict().values())
    assert 0.97 * stored < (tmp_path / "model.weights").stat().st_size < 1.01 * stored
    for part in lowered.parts:
        tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in part.inputs}
        with torch.inference_mode():
            wanted = part.module(*map(torch.from_numpy, tensors.values())).numpy()
        assert run(tmp_path / f"{part.role}.onnx", tensors)[0] == pytest.approx(wanted, abs=1e-5)


def test_the_same_graphs_give_the_same_bytes(tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, lowered = network_parts()
        with Weights(tmp_path / name / "w.bin") as weights:
            graphs = [weights.add(to_onnx(lowered.part(role))) for role in ("encode_clip", "head")]
        made.append((graphs, (tmp_path / name / "w.bin").read_bytes()))
    assert made[0] == made[1]


def test_the_same_name_with_other_values_is_another_weight(tmp_path):
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal((32, 16)).astype(np.float32) for _ in range(2))
    with Weights(tmp_path / "w.bin") as weights:
        for name, value in (("a", first), ("b", second), ("c", first)):
            graph = weights.add(single(numpy_helper.from_array(value, "w")))
            (tmp_path / f"{name}.onnx").write_bytes(graph)
    assert (tmp_path / "w.bin").stat().st_size == 2 * first.nbytes
    x = rng.standard_normal((1, 32)).astype(np.float32)
    for name, value in (("a", first), ("b", second), ("c", first)):
        assert run(tmp_path / f"{name}.onnx", {"x": x})[0] == pytest.approx(x @ value, abs=1e-4)


@pytest.mark.parametrize("kind", ["constant", "float_data"])
def test_values_wherever_they_stand(kind, tmp_path):
    """A constant among the nodes becomes an initialiser; values outside ``raw_data`` are found too."""
    value = np.random.default_rng(2).standard_normal((32, 16)).astype(np.float32)
    if kind == "constant":
        model = single(helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(value)))
    else:
        model = single(helper.make_tensor("w", TensorProto.FLOAT, value.shape, value.flatten().tolist()))
    with Weights(tmp_path / "w.bin") as weights:
        graph = weights.add(model)
    (tmp_path / "a.onnx").write_bytes(graph)
    assert set(places(graph)) == {"w"}
    assert (tmp_path / "w.bin").read_bytes() == value.tobytes()
    x = np.ones((1, 32), np.float32)
    assert run(tmp_path / "a.onnx", {"x": x})[0] == pytest.approx(x @ value, abs=1e-4)


def test_small_tensors_stay_and_the_next_one_is_aligned(tmp_path):
    rng = np.random.default_rng(3)
    values = {"odd": 257, "even": 300, "small": SMALLEST // 4 - 1}
    graph = helper.make_graph(
        [helper.make_node("Concat", list(values), ["y"], axis=0)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [sum(values.values())])],
        [numpy_helper.from_array(rng.random(count, np.float32), name) for name, count in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    wanted = np.concatenate([numpy_helper.to_array(tensor) for tensor in model.graph.initializer])
    with Weights(tmp_path / "w.bin") as weights:
        (tmp_path / "a.onnx").write_bytes(weights.add(model))
    found = places((tmp_path / "a.onnx").read_bytes())
    assert {name: place["offset"] for name, place in found.items()} == {"odd": "0", "even": "1088"}
    assert np.array_equal(run(tmp_path / "a.onnx", {})[0], wanted)


def test_refusals(tmp_path):
    with pytest.raises(EdgeError, match="can't be written"):
        Weights(tmp_path / "none" / "w.bin")
    model = single(numpy_helper.from_array(np.zeros((32, 16), np.float32), "w"))
    with Weights(tmp_path / "w.bin") as weights:
        graph = weights.add(model)
        with pytest.raises(EdgeError, match="w already lies in another file"):
            weights.add(onnx.load_model_from_string(graph))
