"""Each rule on the smallest graph that breaks it, and on its repaired twin; then what is really exported."""

import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import DEFAULT, PACKAGED
from edge.errors import EdgeError
from export.lint import RULES, VERSIONS, LintError, Violation, lint, require
from export.lint import structure as structure_rules
from export.lint.__main__ import main
from export.lint.contract import parse_version
from export.lint.tables import OPS

FLOAT, HALF, INT8, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64
SHIPPED = PACKAGED / DEFAULT / "window.fp32.onnx"


def node(op, inputs, outputs, **attributes):
    """A node that is called what it makes."""
    outputs = outputs.split()
    return helper.make_node(op, inputs.split(), outputs, name=f"node_{outputs[0]}", **attributes)


def model(nodes, constants=None, x=(1, 4, 8, 8), y=(1, 4, 8, 8), kinds=(FLOAT, FLOAT), opset=18, **more):
    """From ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kinds[0], x)],
        [helper.make_tensor_value_info("y", kinds[1], y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


def rules(graph, versions=VERSIONS, **more):
    """Which rules a model breaks."""
    return {violation.rule for violation in lint(graph, versions, **more)}


def relu(**more):
    return model([node("Relu", "x", "y")], **more)


def ones(*shape, kind=np.float32):
    return np.ones(shape, kind)


def one(text):
    """The only violation, whose line must contain the text."""

    def check(graph, **more):
        (violation,) = lint(graph, **more)
        assert text in str(violation)
        return violation

    return check


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_violation_is_one_line_and_frozen():
    bad = one("node_y: dropout: dropout belongs to training; call .eval()")(model([node("Dropout", "x", "y")]))
    assert str(bad).endswith("(TensorRT 10.3, 10.13, 10.16, 11.0)")
    assert "\n" not in str(Violation("a\nb", "r", ("10.3",), "p\r", "m\x1b[31m"))
    with pytest.raises(AttributeError):
        bad.node = "other"


def test_require_names_the_first_few():
    require(relu(), "good.onnx")
    nodes = [node("Dropout", "x", "a"), *(node("Dropout", f"{a}", f"{b}") for a, b in zip("abcd", "bcdy", strict=True))]
    with pytest.raises(
        LintError, match="TensorRT would refuse bad.onnx: node_a: dropout: .* and 2 more: python -m"
    ) as e:
        require(model(nodes), "bad.onnx")
    assert isinstance(e.value, EdgeError)
    assert "\n" not in str(e.value)
    assert "node_c" in str(e.value)
    assert "node_d" not in str(e.value)


def test_every_rule_names_its_source_and_is_tested():
    tests = Path(__file__).read_text()
    for name, rule in RULES.items():
        assert len(rule.__doc__) > 30, name
        assert f'"{name}"' in tests or f" {name}: " in tests or f'"{name}: ' in tests, f"no test of {name}"


@pytest.mark.parametrize(
    ("text", "version"), [("10.3", (10, 3)), ("10.3.0.30", (10, 3)), ("10.16", (10, 16)), ("11.4.1", (11, 4))]
)
def test_versions(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "10", "8.5", "10.2", "12.0", "ten", "10.3a", "-11.0", "10.3.", "1e1.0"])
def test_versions_that_are_not_known(text):
    with pytest.raises(LintError, match="expected"):
        lint(relu(), [text])


# --- the model as a whole -------------------------------------------------------------------------------------------


def test_opset():
    for opset in (9, 13, 18, 20):
        assert rules(relu(opset=opset)) == set()
    (low,) = lint(relu(opset=8))
    assert (low.rule, low.versions) == ("opset", VERSIONS)
    # Between 20 and 24 the parser of 10.16 is documented and that of 10.3 and 10.13 is not.
    (high,) = lint(relu(opset=22))
    assert high.versions == ("10.3", "10.13")
    assert lint(relu(opset=22), ["10.16", "11.0"]) == []
    assert [violation.rule for violation in lint(relu(opset=25), ["11.0"])] == ["opset"]


def test_domain():
    odd = relu()
    odd.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert rules(odd) == {"domain"}
    odd.graph.node[0].domain = "com.microsoft"
    assert sum("com.microsoft" in str(violation) for violation in lint(odd)) >= 2
    twice = relu()
    twice.opset_import.append(helper.make_opsetid("", 17))
    assert "domain" in rules(twice)
    local = relu()
    function = helper.make_function(
        "own", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], local.opset_import
    )
    local.functions.append(function)
    local.opset_import.append(helper.make_opsetid("own", 1))
    assert "domain" in rules(local)


def test_size(monkeypatch):
    assert rules(relu()) == set()
    monkeypatch.setattr(structure_rules, "LARGEST", 10)
    assert rules(relu()) == {"size"}
    graph = quantised()
    monkeypatch.setattr(structure_rules, "LARGEST", graph.ByteSize())
    assert rules(graph) == set()
    monkeypatch.setattr(structure_rules, "LARGEST", graph.ByteSize() - 1)
    assert rules(graph) == {"size"}


def test_what_onnx_itself_refuses():
    loose = model([node("Relu", "nowhere", "y")])
    assert "valid-onnx" in rules(loose)
    wrong = model([node("Relu", "x", "y")], y=(1, 4, 8, 9))
    one("valid-onnx: ONNX itself refuses it")(wrong)
    short = model([node("Add", "x w", "y")], {"w": ones(2000, 1, 1, 1)}, y=(2000, 4, 8, 8))
    assert rules(short) == set()
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-4]
    one("w: valid-onnx: holds 7996 bytes, its shape wants 8000")(short)


def test_initialiser_names():
    twice = model([node("Add", "x w", "y")], {"w": ones(1)})
    assert rules(twice) == set()
    twice.graph.initializer.append(numpy_helper.from_array(ones(1), "w"))
    assert "initialiser-names" in rules(twice)


def test_sparse():
    values = numpy_helper.from_array(ones(1), "values")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    holed = helper.make_sparse_tensor(values, indices, [4])
    constant = node("Constant", "", "c", sparse_value=holed)
    assert "sparse" in rules(model([constant, node("Add", "x c", "y")], x=(4,), y=(4,)))
    dense = node("Constant", "", "c", value=numpy_helper.from_array(ones(4)))
    assert rules(model([dense, node("Add", "x c", "y")], x=(4,), y=(4,))) == set()
    among = model([node("Relu", "x", "y")])
    among.graph.sparse_initializer.append(holed)
    assert "sparse" in rules(among)


def test_edge_types():
    assert rules(model([node("Cast", "x", "y", to=HALF)], kinds=(FLOAT, HALF))) == {"edge-types"}
    casts = [node("Cast", "x", "h", to=HALF), node("Relu", "h", "r"), node("Cast", "r", "y", to=FLOAT)]
    assert rules(model(casts)) == set()
    one("x: edge-types: the input is FLOAT16, expected FLOAT")(
        model([node("Cast", "x", "y", to=1)], kinds=(HALF, FLOAT))
    )


def test_tensor_types():
    wide = [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Relu", "d", "r"), node("Cast", "r", "y", to=FLOAT)]
    found = [violation for violation in lint(model(wide)) if violation.rule == "tensor-types"]
    assert [violation.node for violation in found] == ["node_d", "node_r"]
    for kind in (np.float64, np.uint16, np.uint8, np.int16):
        stored = model([node("Cast", "w", "c", to=FLOAT), node("Add", "x c", "y")], {"w": ones(1, kind=kind)})
        assert "tensor-types" in rules(stored)
    text = node("Constant", "", "c", value_string=b"a")
    assert {"tensor-types", "sparse"} <= rules(model([text, node("Relu", "x", "y")]))


def test_static_shapes():
    one("x: static-shapes: the shape (n, 4, 8, 8) is not fixed")(relu(x=("n", 4, 8, 8)))
    assert {violation.node for violation in lint(relu(x=("n", 4, 8, 8), y=("n", 4, 8, 8)))} == {"x", "y"}
    assert "static-shapes" in rules(relu(x=(None, 4, 8, 8)))
    assert "static-shapes" in rules(relu(x=(0, 4, 8, 8), y=(0, 4, 8, 8)))
    unknown = relu()
    unknown.graph.output[0].type.tensor_type.ClearField("shape")
    found = [violation for violation in lint(unknown) if violation.rule == "static-shapes"]
    assert [f"{violation.node}: {violation.problem}" for violation in found] == ["y: no shape is declared"]


def test_a_shape_that_depends_on_values():
    """Only the node where it begins is named, though three follow."""
    nodes = [
        node("NonZero", "x", "n"),
        node("Cast", "n", "f", to=FLOAT),
        node("Relu", "f", "r"),
        node("ReduceMax", "r axes", "y", keepdims=1),
    ]
    found = lint(model(nodes, {"axes": np.array([0, 1])}, y=(1, 1)))
    assert [violation.node for violation in found if violation.rule == "static-shapes"] == ["node_n"]


def test_shapes_are_inferred_through_constants():
    nodes = [node("Reshape", "x shape", "r"), node("Transpose", "r", "t", perm=[1, 0]), node("Relu", "t", "y")]
    assert rules(model(nodes, {"shape": np.array([4, -1])}, y=(64, 4))) == set()


def test_declarations():
    graph = model([node("Relu", "x", "r"), node("Relu", "r", "y")])
    graph.graph.value_info.append(helper.make_tensor_value_info("r", FLOAT, (1, 4, 8, 8)))
    assert rules(graph) == set()
    del graph.graph.value_info[:]
    graph.graph.value_info.append(helper.make_tensor_value_info("r", HALF, (1, 4, 8, 8)))
    one("r: declarations: declared FLOAT16, but it is FLOAT")(graph)
    del graph.graph.value_info[:]
    graph.graph.value_info.append(helper.make_tensor_value_info("r", FLOAT, (1, 4, 8, 9)))
    assert rules(graph) == {"declarations"}
    del graph.graph.value_info[:]
    graph.graph.value_info.append(helper.make_tensor_value_info("r", FLOAT, ("n", 4, 8, 8)))
    assert rules(graph) == {"static-shapes"}


def outside(tmp_path, **entries):
    """A model whose weights lie in ``weights.bin``; the entries replace how that is told."""
    graph = model([node("Conv", "x w", "y", pads=[1, 1, 1, 1])], {"w": ones(4, 4, 3, 3)})
    onnx.save(graph, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    (tensor,) = stored.graph.initializer
    told = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in told.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return stored


def test_external_data(tmp_path):
    good = outside(tmp_path)
    assert rules(good) == rules(good, folder=tmp_path) == set()
    assert main([str(tmp_path / "m.onnx")]) == 0


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "a/weights.bin", "a\\weights.bin", "..", ".", "", "C:weights.bin", None],
)
def test_external_data_elsewhere(tmp_path, location):
    bad = outside(tmp_path, location=location)
    one("w: external-data: its external data lies at")(bad)
    assert "external-data" in rules(bad, folder=tmp_path)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"offset": "-4"}, "offset '-4'"),
        ({"offset": "four"}, "offset 'four'"),
        ({"offset": "9" * 5000}, "offset '999"),
        ({"length": "572"}, "572 bytes, its shape and type want 576"),
        ({"offset": "4"}, "ends at byte 580 of weights.bin, which has 576"),
        ({"offset": "4", "length": None}, "ends at byte 580 of weights.bin, which has 576"),
        ({"location": "other.bin"}, "file other.bin is absent"),
    ],
)
def test_external_data_that_is_not_all_there(tmp_path, entries, text):
    one(text)(outside(tmp_path, **entries), folder=tmp_path)


def test_external_data_behind_a_link(tmp_path):
    bad = outside(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "real.bin")
    one("absent, or no plain file")(bad, folder=tmp_path)


# --- operators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("Det", "Det is not on the list; write it with listed operators"),
        ("NonZero", "NonZero is not on the list"),
        ("Shape", "Shape: with fixed shapes it is a constant; fold it"),
    ],
)
def test_operators(op, text):
    found = [str(violation) for violation in lint(model([node(op, "x", "y")])) if violation.rule == "operators"]
    assert len(found) == 1
    assert text in found[0]


def test_control_flow_has_reasons_of_its_own():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("s", FLOAT, (1, 4, 8, 8)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("t", FLOAT, (1, 4, 8, 8)),
        ],
    )
    loop = model([node("Loop", "n go x", "y", body=body)], {"n": np.array(3), "go": np.array(True)})
    (found,) = (violation for violation in lint(loop) if violation.rule == "operators")
    assert "TensorRT#4424" in found.problem
    assert "unroll it" in found.remedy


def test_an_operator_that_came_later():
    swish = model([node("Swish", "x", "y")], opset=24)
    (found,) = (violation for violation in lint(swish) if violation.rule == "operators")
    assert found.versions == ("10.3", "10.13", "10.16")
    assert "operators" not in rules(swish, ["11.0"])


def test_batch_norm():
    constants = {name: ones(4) for name in "sbmv"}
    one("node_y: batch-norm: batch normalisation that was not folded; fold it before the export")(
        model([node("BatchNormalization", "x s b m v", "y")], constants)
    )


def test_dropout():
    nodes = [node("Relu", "x", "r"), node("Dropout", "r", "y")]
    assert rules(model(nodes)) == {"dropout"}
    assert rules(model([*nodes[:1], node("Identity", "r", "y")])) == set()


def test_operator_types():
    flags = [node("Greater", "x x", "b"), node("Cast", "b", "f", to=FLOAT), node("Add", "f x", "y")]
    assert rules(model(flags)) == set()
    pooled = [
        node("Cast", "x", "b", to=TensorProto.BOOL),
        node("Where", "b x x", "w"),
        node("Cast", "w", "i", to=INT8),
        node("MaxPool", "i", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Cast", "p", "y", to=FLOAT),
    ]
    found = [violation for violation in lint(model(pooled, y=(1, 4, 4, 4))) if violation.rule == "operator-types"]
    assert [violation.node for violation in found] == ["node_i", "node_p", "node_y"]
    assert "MaxPool on INT8; expected FLOAT, FLOAT16, BFLOAT16; cast before it" in str(found[1])


def test_integers():
    flat = [node("Gather", "x i", "y", axis=1)]
    assert rules(model(flat, {"i": np.array([0, 1, 2, 3])})) == set()
    counted = [node("Concat", "a b", "shape", axis=0), node("Reshape", "x shape", "y")]
    shape = {"a": np.array([4]), "b": np.array([64])}
    found = lint(model(counted, shape, y=(4, 64)))
    assert [(violation.rule, violation.node) for violation in found] == [
        ("integers", "node_shape"),
        ("constants", "node_y"),
    ]
    assert rules(model(counted[1:], {"shape": np.array([4, 64])}, y=(4, 64))) == set()
    same = [node("Identity", "a", "shape"), counted[1]]
    assert rules(model(same, {"a": np.array([4, 64])}, y=(4, 64))) == set()


def test_constants():
    for nodes, constants, y in (
        ([node("Slice", "x s e", "y")], {"s": np.array([0]), "e": np.array([1])}, (1, 4, 8, 8)),
        ([node("ReduceMean", "x a", "y", keepdims=0)], {"a": np.array([2, 3])}, (1, 4)),
        ([node("Unsqueeze", "x a", "y")], {"a": np.array([0])}, (1, 1, 4, 8, 8)),
    ):
        assert rules(model(nodes, constants, y=y)) == set()
        name = nodes[0].input[-1]
        computed = [node("Cast", "x", "long", to=INT64), node("ReduceMax", "long", name, keepdims=0), *nodes]
        rest = {key: value for key, value in constants.items() if key != name}
        assert "constants" in rules(model(computed, rest, y=y))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_weights(op):
    conv = node(op, "x w b", "y", pads=[1, 1, 1, 1])
    constants = {"w": ones(4, 4, 3, 3), "b": ones(4)}
    assert rules(model([conv], constants)) == set()
    assert rules(model([node("Identity", "v", "w"), conv], {"v": ones(4, 4, 3, 3), "b": ones(4)})) == set()
    half = {"v": ones(4, 4, 3, 3, kind=np.float16), "b": ones(4)}
    assert rules(model([node("Cast", "v", "w", to=FLOAT), conv], half)) == set()
    computed = [node("Transpose", "v", "w", perm=[1, 0, 2, 3]), conv]
    one(f"node_y: weights: {op}'s input 1, 'w', is no constant")(model(computed, {"v": ones(4, 4, 3, 3), "b": ones(4)}))
    moved = [node("ReduceMean", "x axes", "b", keepdims=0), conv]
    assert rules(model(moved, {"w": ones(4, 4, 3, 3), "axes": np.array([0, 2, 3])})) == {"weights"}


def test_outputs():
    indices = model([node("MaxPool", "x", "y i", kernel_shape=[2, 2], strides=[2, 2])], y=(1, 4, 4, 4))
    found = lint(indices)
    assert "outputs" in {violation.rule for violation in found}
    norm = model([node("LayerNormalization", "x s", "y m")], {"s": ones(8)})
    one("outputs: LayerNormalization has a further output, 'm'")(norm)
    assert rules(model([node("LayerNormalization", "x s", "y")], {"s": ones(8)})) == set()
    split = [node("Split", "x", "a b", axis=1, num_outputs=2), node("Concat", "b a", "y", axis=1)]
    assert rules(model(split)) == set()


def pool(op="MaxPool", size=8, y=4, **attributes):
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]} | attributes
    rank = len(attributes["kernel_shape"])
    return model([node(op, "x", "y", **attributes)], x=(1, 4, *[size] * rank), y=(1, 4, *[y] * rank), opset=19)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling(op):
    assert rules(pool(op)) == set()
    assert rules(pool(op, kernel_shape=[2, 2, 2], strides=[2, 2, 2])) == set()
    one("pooling: ")(pool(op, kernel_shape=[2], strides=[2]))
    one("with dilations")(pool(op, dilations=[2, 2], y=3))
    assert rules(pool(op, dilations=[1, 1])) == set()
    # Fits: 8 = 2 x 4. Hangs over: 9 = 2 x 4 + 1.
    assert rules(pool(op, ceil_mode=1)) == set()
    one("windows hang over the edge")(pool(op, ceil_mode=1, size=9, y=5))
    assert rules(pool(op, ceil_mode=0, size=9, y=4)) == set()
    assert rules(pool(op, ceil_mode=1, size=7, y=4, pads=[0, 0, 1, 1])) == set()


def resize(**attributes):
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    return model(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], name="node_y", **attributes)], scales, y=(1, 4, 16, 16)
    )


def test_resize():
    assert rules(resize()) == rules(resize(mode="linear", coordinate_transformation_mode="align_corners")) == set()
    for wrong in (
        {"mode": "cubic"},
        {"coordinate_transformation_mode": "half_pixel_symmetric"},
        {"antialias": 1, "mode": "linear"},
        {"keep_aspect_ratio_policy": "not_larger"},
    ):
        assert "resize" in rules(resize(**wrong)), wrong


def test_pad():
    padded = [node("Pad", "x p", "y", mode="reflect")]
    assert rules(model(padded, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, y=(1, 4, 10, 10))) == set()
    named = [helper.make_node("Pad", ["x", "p", "", "a"], ["y"], name="node_y")]
    graph = model(named, {"p": np.array([1, 1, 1, 1]), "a": np.array([2, 3])}, y=(1, 4, 10, 10))
    assert one("pad: Pad with axes as an input")(graph).versions == ("10.3",)
    assert lint(graph, ["10.13", "10.16", "11.0"]) == []
    odd = [node("Pad", "x p", "y", mode="mirror")]
    assert "pad" in rules(model(odd, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, y=(1, 4, 10, 10)))


def test_grid_sample():
    flat = model([node("GridSample", "x g", "y")], {"g": ones(1, 8, 8, 2)})
    assert rules(flat) == set()
    deep = [node("GridSample", "x g", "y", mode="linear")]
    shape = (1, 4, 2, 2, 2)
    assert "grid-sample" in rules(model(deep, {"g": ones(1, 2, 2, 2, 3)}, x=shape, y=shape, opset=20))


# --- strong typing --------------------------------------------------------------------------------------------------


def test_mixed_types():
    mixed = [node("Cast", "x", "h", to=HALF), node("Add", "h w", "z"), node("Cast", "z", "y", to=FLOAT)]
    found = [violation for violation in lint(model(mixed, {"w": ones(1)})) if violation.rule == "mixed-types"]
    assert [violation.node for violation in found] == ["node_z"]
    assert "Add mixes FLOAT and FLOAT16; cast one of them" in str(found[0])
    assert rules(model(mixed, {"w": ones(1, kind=np.float16)})) == set()
    power = [node("Cast", "x", "h", to=HALF), node("Pow", "x h", "y")]
    one("node_y: mixed-types: Pow mixes FLOAT and FLOAT16")(model(power))


def test_fp16_finite():
    nodes = [node("Cast", "x", "h", to=HALF), node("Add", "h w", "z"), node("Cast", "z", "y", to=FLOAT)]
    weights = ones(4, 1, 1, kind=np.float16)
    assert rules(model(nodes, {"w": weights})) == set()
    weights[1] = np.inf
    one("w: fp16-finite: 1 of 4 FLOAT16 values are infinite")(model(nodes, {"w": weights}))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_fp16_range(value):
    nodes = [node("Add", "x w", "s"), node("Cast", "s", "h", to=HALF), node("Cast", "h", "y", to=FLOAT)]
    weight = {"w": np.array([value], np.float32)}
    assert rules(model(nodes, weight)) == ({"fp16-range"} if abs(value) > 65504 else set())
    # In a graph without FP16 any number will do.
    assert rules(model([node("Add", "x w", "y")], weight)) == set()


# --- quantised ------------------------------------------------------------------------------------------------------


def quantised(op="Conv", opset=18, weight=None, **changes):
    """x -> Q -> DQ -> weighted operator <- DQ <- INT8 weights; the changes replace constants."""
    weight = ones(8, 4, 3, 3, kind=np.int8) if weight is None else weight
    scale = np.full(weight.shape[0], 0.01, np.float32)
    constants = {"a": np.float32(0.1), "az": np.int8(0), "w": weight, "s": scale, "sz": np.zeros(len(scale), np.int8)}
    attributes = changes.pop("attributes", {"pads": [1, 1, 1, 1]} if op == "Conv" else {})
    axis = changes.pop("axis", 0)
    x, y = changes.pop("x", (1, 4, 8, 8)), changes.pop("y", (1, 8, 8, 8))
    after = changes.pop("after", [])
    nodes = [
        node("QuantizeLinear", "x a az", "q"),
        node("DequantizeLinear", "q a az", "d"),
        node("DequantizeLinear", "w s sz", "v", axis=axis),
        node(op, "d v", "c" if after else "y", **attributes),
        *after,
    ]
    return model(nodes, constants | changes, x=x, y=y, opset=opset)


def test_explicit_int8_as_tensorrt_wants_it():
    assert rules(quantised()) == set()
    per_tensor = {"s": np.float32(0.01), "sz": np.int8(0)}
    assert rules(quantised(**per_tensor)) == set()


def test_int8_only():
    unsigned = quantised(az=np.uint8(0))
    assert "int8-only" in rules(unsigned)
    wide = quantised(weight=ones(8, 4, 3, 3, kind=np.int32), sz=np.zeros(8, np.int32))
    found = [violation for violation in lint(wide) if violation.rule == "int8-only"]
    assert [violation.node for violation in found] == ["node_v"]
    assert "dequantises INT32, expected INT8; leave biases in float (QuantizeBias: False)" in str(found[0])
    # Without a zero point ONNX quantises to UINT8, whatever TensorRT does.
    absent = quantised()
    del absent.graph.node[0].input[2:], absent.graph.node[1].input[2:]
    assert "int8-only" in rules(absent)
    told = quantised(opset=21)
    del told.graph.node[0].input[2:], told.graph.node[1].input[2:]
    told.graph.node[0].attribute.append(helper.make_attribute("output_dtype", INT8))
    assert lint(told, ["10.16", "11.0"]) == []


@given(st.lists(st.integers(-128, 127), min_size=8, max_size=8))
def test_zero_point(points):
    assert rules(quantised(sz=np.array(points, np.int8))) == ({"zero-point"} if any(points) else set())


def test_zero_point_of_an_activation():
    found = lint(quantised(az=np.int8(-3)))
    assert [(violation.rule, violation.node) for violation in found] == [
        ("zero-point", "node_q"),
        ("zero-point", "node_d"),
    ]
    assert "the zero point is -3; quantise with ActivationSymmetric" in str(found[0])
    fewer = quantised(sz=np.zeros(4, np.int8))
    assert "zero-point" in rules(fewer)
    bare = quantised()
    del bare.graph.node[1].input[2:], bare.graph.node[2].input[2:]
    assert rules(bare) == set()


@given(st.floats(width=32))
def test_scale(value):
    good = np.isfinite(value) and value > 0
    assert rules(quantised(a=np.float32(value))) == (set() if good else {"scale"})


def test_scale_that_is_computed():
    graph = quantised()
    graph.graph.node.insert(0, node("ReduceMax", "x", "m", keepdims=0))
    graph.graph.node[1].input[1] = "m"
    found = [violation for violation in lint(graph) if violation.rule == "scale"]
    assert [violation.node for violation in found] == ["node_q"]


def half(opset):
    """The conforming graph in FP16, with its casts at the edges."""
    graph = quantised(opset=opset, a=np.float16(0.1), s=np.full(8, 0.01, np.float16))
    nodes = [node("Cast", "x", "h", to=HALF), *graph.graph.node, node("Cast", "r", "y", to=FLOAT)]
    nodes[1].input[0], nodes[4].output[0] = "h", "r"
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def test_scale_type():
    assert rules(half(19)) == set()
    assert "scale-type" in rules(half(18))
    # A scale of another type than what it scales.
    graph = half(19)
    graph.graph.node[1].input[1] = "f"
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "f"))
    found = [violation for violation in lint(graph) if violation.rule == "scale-type"]
    assert [violation.node for violation in found] == ["node_q"]
    assert "a scale of FLOAT for data of FLOAT16" in str(found[0])


def test_scale_axis_of_conv():
    wrong = quantised(axis=1, s=np.full(4, 0.01, np.float32), sz=np.zeros(4, np.int8))
    one("scale-axis: scales along axis 1 of Conv's weights; expected axis 0")(wrong)
    miscounted = quantised(s=np.full(5, 0.01, np.float32), sz=np.zeros(5, np.int8))
    assert "scale-axis" in rules(miscounted)
    activation = quantised(a=np.full(4, 0.1, np.float32), az=np.zeros(4, np.int8))
    found = [violation for violation in lint(activation) if violation.rule == "scale-axis"]
    assert {violation.node for violation in found} == {"node_q", "node_d"}


@pytest.mark.parametrize(
    ("op", "attributes", "shape", "axis"),
    [
        ("Gemm", {"transB": 1}, (8, 4), 0),
        ("Gemm", {}, (4, 8), 1),
        ("MatMul", {}, (4, 8), 1),
        ("MatMul", {}, (2, 4, 8), 2),
    ],
)
def test_scale_axis_of_a_matrix(op, attributes, shape, axis):
    y = (*shape[:-2], 1, 8)
    for tried in range(len(shape)):
        count = shape[tried]
        many = {"s": np.full(count, 0.01, np.float32), "sz": np.zeros(count, np.int8)}
        graph = quantised(
            op, weight=ones(*shape, kind=np.int8), x=(1, 4), y=y, axis=tried, attributes=attributes, **many
        )
        assert rules(graph) == (set() if tried == axis else {"scale-axis"}), tried
        negative = quantised(
            op, weight=ones(*shape, kind=np.int8), x=(1, 4), y=y, axis=tried - len(shape), attributes=attributes, **many
        )
        assert rules(negative) == rules(graph)


def test_scales_of_a_weight_that_is_quantised_in_the_graph():
    graph = quantised(weight=ones(8, 4, 3, 3))
    graph.graph.node[2].input[0] = "wq"
    graph.graph.node.insert(2, node("QuantizeLinear", "w s sz", "wq", axis=0))
    assert rules(graph) == set()
    graph.graph.node[2].attribute[0].i = 1
    assert "scale-axis" in rules(graph)


def test_blocks():
    graph = quantised(opset=21, s=np.full((8, 2, 3, 3), 0.01, np.float32), sz=np.zeros((8, 2, 3, 3), np.int8), axis=1)
    graph.graph.node[2].attribute.append(helper.make_attribute("block_size", 2))
    assert "scale-axis" in rules(graph, ["10.16", "11.0"])


def test_qdq_pairs():
    loose = [
        node("QuantizeLinear", "x a az", "q"),
        node("Relu", "x", "y"),
    ]
    scale = {"a": np.float32(0.1), "az": np.int8(0)}
    one("node_q: qdq-pairs: QuantizeLinear feeds nothing")(model(loose, scale))
    direct = [node("QuantizeLinear", "x a az", "q"), node("MaxPool", "q", "p", kernel_shape=[1, 1])]
    direct.append(node("DequantizeLinear", "p a az", "y"))
    found = [violation for violation in lint(model(direct, scale)) if violation.rule == "qdq-pairs"]
    assert [violation.node for violation in found] == ["node_q", "node_y"]
    out = model([node("QuantizeLinear", "x a az", "y")], scale, kinds=(FLOAT, INT8))
    assert rules(out) == {"edge-types", "qdq-pairs"}
    pair = [node("QuantizeLinear", "x a az", "q"), node("DequantizeLinear", "q a az", "y")]
    assert rules(model(pair, scale)) == set()


def test_quantised_bias():
    bias = {"b": ones(8, kind=np.int8), "bs": np.float32(0.001), "bz": np.int8(0)}
    graph = quantised(**bias)
    graph.graph.node[3].input.append("bd")
    graph.graph.node.insert(0, node("DequantizeLinear", "b bs bz", "bd"))
    one("node_y: quantised-bias: Conv's bias is quantised; quantise with QuantizeBias: False")(graph)


def test_quantised_batch_norm():
    constants = {"a": np.float32(0.1), "az": np.int8(0), "w": ones(4, 4, 3, 3)} | {name: ones(4) for name in "tbmv"}
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "c a az", "q"),
        node("DequantizeLinear", "q a az", "d"),
        node("BatchNormalization", "d t b m v", "y"),
    ]
    assert rules(model(nodes, constants)) == {"batch-norm", "quantised-batch-norm"}
    nodes[3].input[0] = "c"
    nodes[1].input[0] = "x"
    assert "quantised-batch-norm" not in rules(model(nodes, constants))


@pytest.mark.parametrize(("second", "broken"), [(0.1, set()), (0.2, {"concat-scales"})])
def test_concat_scales(second, broken):
    constants = {"a": np.float32(0.1), "b": np.float32(second), "z": np.int8(0)}
    nodes = [
        node("QuantizeLinear", "x a z", "q"),
        node("DequantizeLinear", "q a z", "d"),
        node("Relu", "x", "r"),
        node("QuantizeLinear", "r b z", "p"),
        node("DequantizeLinear", "p b z", "e"),
        node("Concat", "d e x", "y", axis=1),
    ]
    assert rules(model(nodes, constants, y=(1, 12, 8, 8))) == broken


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Softmax"])
def test_quantised_gates(op):
    constants = {"a": np.float32(0.1), "az": np.int8(0)}
    before = [node("QuantizeLinear", "x a az", "q"), node("DequantizeLinear", "q a az", "d"), node(op, "d", "y")]
    one(f"node_y: quantised-gates: {op} reads a quantised value")(model(before, constants))
    state = [
        node(op, "x", "g"),
        node("QuantizeLinear", "g a az", "q"),
        node("DequantizeLinear", "q a az", "d"),
        node("Mul", "d x", "y"),
    ]
    one(f"node_q: quantised-gates: {op}'s output is quantised for no weighted operator")(model(state, constants))
    # Its output may be the quantised input of a convolution.
    conv = quantised()
    conv.graph.node.insert(0, node(op, "x", "g"))
    conv.graph.node[1].input[0] = "g"
    assert rules(conv) == set()


def test_quantised_transpose():
    transposed = quantised("ConvTranspose", weight=ones(4, 8, 3, 3, kind=np.int8), attributes={"pads": [1, 1, 1, 1]})
    assert "quantised-transpose" in rules(transposed)


@pytest.mark.parametrize(("width", "broken"), [(1, True), (3, True), (4, False), (6, True), (8, False)])
def test_int8_channels(width, broken):
    graph = quantised(weight=ones(8, width, 3, 3, kind=np.int8), x=(1, width, 8, 8))
    assert rules(graph) == ({"int8-channels"} if broken else set())


# --- graphs that are really exported --------------------------------------------------------------------------------


def test_the_shipped_bundle():
    assert lint(onnx.load(SHIPPED)) == []


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("torch")


def exported(torch, network, *inputs):
    """As torch's exporter leaves it."""
    program = torch.onnx.export(network.eval(), inputs, dynamo=True, opset_version=18, verbose=False)
    return onnx.load_from_string(program.model_proto.SerializeToString())


def test_an_lstm_is_found(torch):
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(4, 8)

        def forward(self, x):
            return self.lstm(x)[0]

    found = lint(exported(torch, Recurrent(), torch.zeros(3, 1, 4)))
    (lstm,) = (violation for violation in found if "LSTM" in violation.problem)
    assert lstm.rule == "operators"
    assert "write its steps out" in lstm.remedy


def test_batch_normalisation_that_the_exporter_left_is_found(torch):
    """Called once a time step with shared weights, it is not folded."""

    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))

        def forward(self, x):
            return sum(self.block(step) for step in x.unbind(0))

    found = lint(exported(torch, Shared(), torch.zeros(3, 1, 1, 8, 8)))
    assert sum(violation.rule == "batch-norm" for violation in found) == 3


def quantised_by_runtime(source, out, shape, **options):
    """What ONNX Runtime's quantiser makes of a file, calibrated with noise."""
    from onnxruntime import quantization

    (name,) = (value.name for value in onnx.load(source).graph.input)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.pictures = iter(np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32))

        def get_next(self):
            picture = next(self.pictures, None)
            return None if picture is None else {name: picture}

    quantization.quantize_static(source, out, Reader(), **options)
    return onnx.load(out)


@pytest.fixture
def quantise(tmp_path):
    """ONNX Runtime's quantiser on a small network: 1 channel -> 8 -> 8, pooled, 7 classes."""
    rng = np.random.default_rng(0)
    shapes = {"u": (8, 1, 3, 3), "ub": (8,), "v": (8, 8, 3, 3), "vb": (8,), "w": (7, 200), "wb": (7,)}
    constants = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    nodes = [
        node("Conv", "x u ub", "first"),
        node("Relu", "first", "a"),
        node("MaxPool", "a", "b", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "b v vb", "c"),
        node("Relu", "c", "d"),
        node("Flatten", "d", "e"),
        node("Gemm", "e w wb", "y", transB=1),
    ]
    source, shape = tmp_path / "float.onnx", (1, 1, 16, 16)
    onnx.save(model(nodes, constants, x=shape, y=(1, 7)), source)
    return lambda **options: quantised_by_runtime(source, tmp_path / "int8.onnx", shape, **options)


FIRST = "node_first"
CONFORMING = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "Relu", "MaxPool"],
}


def test_what_the_quantiser_writes_by_default_is_refused(quantise):
    found = rules(quantise(nodes_to_exclude=[FIRST]))
    assert found == {"zero-point", "int8-only", "quantised-bias"}


def test_what_the_quantiser_writes_when_told_how(quantise):
    told = {"op_types_to_quantize": ["Conv", "Gemm"], "per_channel": True}
    graph = quantise(nodes_to_exclude=[FIRST], extra_options=CONFORMING, **told)
    assert sum(entry.op_type == "QuantizeLinear" for entry in graph.graph.node) == 4
    assert [str(violation) for violation in lint(graph)] == []
    # The first convolution reads one grey channel.
    assert rules(quantise(extra_options=CONFORMING, **told)) == {"int8-channels"}
    # Symmetric alone leaves the biases.
    symmetric = {key: CONFORMING[key] for key in ("ActivationSymmetric", "WeightSymmetric")}
    assert {"int8-only", "quantised-bias"} <= rules(quantise(nodes_to_exclude=[FIRST], extra_options=symmetric, **told))


def test_the_shipped_bundle_quantised(tmp_path):
    options = {"op_types_to_quantize": ["Conv", "Gemm"], "per_channel": True, "extra_options": CONFORMING}
    shape = (1, 1, 48, 48)
    (first, *_) = (entry.name for entry in onnx.load(SHIPPED).graph.node if entry.op_type == "Conv")
    graph = quantised_by_runtime(SHIPPED, tmp_path / "q.onnx", shape, nodes_to_exclude=[first], **options)
    assert [str(violation) for violation in lint(graph)] == []
    assert rules(quantised_by_runtime(SHIPPED, tmp_path / "d.onnx", shape)) >= {"zero-point", "int8-only"}


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    onnx.save(relu(), good)
    onnx.save(model([node("Dropout", "x", "a"), node("Dropout", "a", "y")]), bad)
    assert main([str(good), str(SHIPPED)]) == 0
    assert capsys.readouterr().out == f"{good}: ok\n{SHIPPED}: ok\n"
    assert main([str(good), str(bad)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[str(good), "ok"], [str(bad), "node_a"], [str(bad), "node_y"]]


def test_the_command_narrows_the_versions(tmp_path, capsys):
    path = tmp_path / "new.onnx"
    onnx.save(relu(opset=22), path)
    assert main([str(path), "--tensorrt", "10.16,11.0"]) == 0
    assert main([str(path), "--tensorrt", "10.3, 11.0"]) == 1
    assert capsys.readouterr().out.endswith("(TensorRT 10.3)\n")
    with pytest.raises(SystemExit) as left:
        main([str(path), "--tensorrt", "8.5"])
    assert left.value.code == 2
    assert "TensorRT 8.5 is not known here; expected 10.3 to 11.x" in capsys.readouterr().err


def test_what_is_no_model(tmp_path, capsys):
    files = {
        "text.onnx": b"This is no ONNX file at all, it is prose.",
        "empty.onnx": b"",
        "half.onnx": SHIPPED.read_bytes()[:100_000],
        "start.onnx": SHIPPED.read_bytes()[:9],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for path in (*(tmp_path / name for name in files), tmp_path, tmp_path / "absent.onnx"):
        assert main([str(path)]) == 2, path
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith(f"lint: {path}")
    # The others are still looked at.
    assert main([str(tmp_path), str(SHIPPED)]) == 2
    assert "ok" in capsys.readouterr().out


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "export.lint", str(SHIPPED)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.endswith(": ok\n")


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_never_crash_it(data, tmp_path_factory):
    """Whatever bytes are wrong: no traceback, status 0, 1 or 2."""
    content = bytearray(quantised().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    assert main([str(path)]) in (0, 1, 2)


def damage(graph, random):
    """Break one thing somewhere in a graph."""
    entry, tensor = random.choice(graph.node), random.choice(graph.initializer)
    kind = random.randrange(8)
    if kind == 0:
        del entry.input[:]
    elif kind == 1:
        del entry.output[:]
    elif kind == 2:
        del entry.attribute[:]
    elif kind == 3:
        entry.op_type = random.choice([*OPS, "Loop", "BatchNormalization", ""])
    elif kind == 4 and entry.input:
        entry.input[random.randrange(len(entry.input))] = random.choice(["", "x", "y", "nowhere"])
    elif kind == 5 and entry.attribute:
        random.choice(entry.attribute).type = random.choice(list(range(15)))
    elif kind == 6:
        tensor.data_type = random.randrange(30)
    elif kind == 7:
        tensor.dims[:] = [random.choice([-1, 0, 3, 2**62]) for _ in range(random.randrange(6))]


def test_broken_graphs_never_crash_it():
    random = Random(0)
    for kind in (quantised, pool, resize, lambda: half(19), lambda: pool(ceil_mode=1, pads=[0, 0, 0, 0])):
        for _ in range(100):
            graph = kind()
            if not graph.graph.initializer:
                graph.graph.initializer.append(numpy_helper.from_array(ones(4), "spare"))
            for _ in range(random.randint(1, 4)):
                damage(graph.graph, random)
            assert isinstance(lint(graph), list)
