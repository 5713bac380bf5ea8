"""Operations and bytes, floors and predictions, counted on graphs whose sums can be done by hand."""

import numpy as np
import pytest

from benchmarks import limit
from benchmarks.limit import BOARDS, Board, Count, Layer, board_floor, count, floor, of_model, predicted_ms
from edge.bundle import Bundle

onnx = pytest.importorskip("onnx")


def graph(nodes, inputs, outputs, constants):
    from onnx import TensorProto, helper, numpy_helper

    made = helper.make_graph(
        [helper.make_node(kind, given, [out], **attributes) for kind, given, out, attributes in nodes],
        "it",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def test_sums_by_hand():
    model = graph(
        [
            ("Conv", ["x", "w", "b"], "c", {"pads": [1, 1, 1, 1]}),
            ("Relu", ["c"], "r", {}),
            ("MaxPool", ["r"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Flatten", ["p"], "f", {}),
            ("Gemm", ["f", "g"], "y", {"transB": 1}),
        ],
        {"x": (1, 3, 8, 8)},
        {"y": (1, 5)},
        {"w": (4, 3, 3, 3), "b": (4,), "g": (5, 64)},
    )
    found = of_model(model, "window")
    assert [layer.kind for layer in found.layers] == ["Conv", "MaxPool", "Gemm"]
    assert [layer.macs for layer in found.layers] == [8 * 8 * 4 * 3 * 9, 0, 5 * 64]
    assert found.parameters == 4 * 27 + 4 + 5 * 64
    assert (found.inputs, found.outputs, found.nodes) == (192, 5, 5)
    assert (found.layers[0].read, found.layers[0].written) == (192, 256)
    assert found.bytes("fp32") == 4 * (432 + 192 + 5)
    assert found.bytes("int8") == 432 + 4 * 197


def test_groups_and_products():
    model = graph(
        [("Conv", ["x", "w"], "c", {"group": 4}), ("MatMul", ["c", "m"], "y", {})],
        {"x": (1, 4, 6, 6)},
        {"y": (1, 4, 6, 10)},
        {"w": (4, 1, 1, 1), "m": (6, 10)},
    )
    assert [layer.macs for layer in of_model(model, "it").layers] == [4 * 36, 4 * 6 * 10 * 6]


def test_the_shipped_network():
    """48x48 through all its convolutions and two fully connected layers, as its manifest's parameters say."""
    bundle = Bundle.open()
    found = count(bundle, "window")
    said = bundle.manifest.data["parameters"]
    assert said - 3000 < found.parameters < said  # batch normalisation is folded into the convolutions
    assert found.macs == sum(layer.macs for layer in found.layers)
    assert limit.document(found)["macs"] == found.macs
    assert found.inputs == 48 * 48
    assert found.outputs == 7


ONE = Count("window", (Layer("conv", "Conv", 1_000_000, 10_000, 5_000, 5_000),), 10_000, 1_000, 7, 1)


def test_a_floor_is_the_greater_of_the_two():
    found = floor(ONE, "fp32", gop_s=100, gb_s=10)
    assert found.compute_ms == pytest.approx(0.02)
    assert found.memory_ms == pytest.approx(4 * 11_007 / 10e9 * 1e3)
    assert (found.ms, found.bound) == (0.02, "compute")
    assert floor(ONE, "int8", gop_s=1e6, gb_s=1).bound == "memory"


def test_a_prediction_adds_what_is_assumed():
    board = Board("some", gb_s=100, fp32_tflops=1, fp16_tflops=4, int8_tops=8)
    start = limit.START_US / 1e3
    assert predicted_ms(ONE, "fp32", board) == pytest.approx(start + 2e6 / (1e12 * limit.COMPUTE_SHARE) * 1e3)
    thin = Board("thin", gb_s=0.1, fp32_tflops=1, fp16_tflops=4, int8_tops=8)
    assert predicted_ms(ONE, "int8", thin) == pytest.approx(start + 20_000 / (0.1e9 * limit.BANDWIDTH_SHARE) * 1e3)
    assert predicted_ms(ONE, "fp32", board) > board_floor(ONE, "fp32", board).ms


@pytest.mark.parametrize("board", BOARDS, ids=lambda one: one.name)
def test_boards_are_consistent(board):
    assert board.fp32_tflops < board.fp16_tflops < board.int8_tops
    assert board.int8_tops == pytest.approx(2 * board.fp16_tflops, rel=0.02)
