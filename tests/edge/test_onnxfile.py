"""A stranger's graph is looked at before a runtime loads it."""

import contextlib
import hashlib
import shutil
import zipfile
from dataclasses import replace

import hypothesis
import hypothesis.strategies as some
import numpy as np
import pytest
from wire import FLOAT, away, field, here, model, node, value

import edge
from edge import onnxfile
from edge.bundle import PACKAGED, Bundle, write
from edge.onnxfile import OnnxFileError, read

FACE, LOGITS = value("face", (1, 1, 48, 48)), value("logits", (1, 7))
SUMMED = (
    node("Flatten", ("face",), ("flat",)),
    node("MatMul", ("flat", "weight"), ("logits",)),
)


def test_what_the_shipped_graph_says_of_itself():
    facts = read((PACKAGED / "face" / "window.fp32.onnx").read_bytes())
    assert [(one.name, one.shape, one.dtype) for one in facts.inputs] == [("face", (1, 1, 48, 48), "float32")]
    assert [(one.name, one.shape, one.dtype) for one in facts.outputs] == [("logits", (1, 7), "float32")]
    assert not facts.external
    assert not facts.hidden


def test_weights_elsewhere_are_listed():
    place = {"location": "weights.bin", "offset": 64, "length": 2304 * 7 * 4}
    facts = read(model(SUMMED, (away("weight", (2304, 7), **place),), (FACE,), (LOGITS,)))
    (one,) = facts.external
    assert (one.name, one.shape, one.dtype) == ("weight", (2304, 7), "float32")
    assert (one.location, one.offset, one.length) == ("weights.bin", 64, 2304 * 7 * 4)
    assert read(model(SUMMED, (), (value("face", (1, "side", 4)),), (LOGITS,))).inputs[0].shape == (1, -1, 4)


def test_weights_in_hidden_places_are_seen():
    tensor = away("w", (1,), location="/etc/passwd")
    constant = node("Constant", (), ("w",), (field(1, "value") + field(5, tensor),))
    inner = field(1, constant) + field(2, "inner")
    branch = node("If", ("c",), ("w",), (field(1, "then_branch") + field(6, inner),))
    listed = node("If", ("c",), ("w",), (field(1, "g") + field(11, field(5, tensor)),))
    sparse = field(15, field(1, tensor))
    for whole in (
        model((constant,), (), (FACE,), (LOGITS,)),
        model((branch,), (), (FACE,), (LOGITS,)),
        model((listed,), (), (FACE,), (LOGITS,)),
        field(7, sparse + field(11, FACE)),
        model((), (), (FACE,), (LOGITS,)) + field(25, field(7, constant)),
    ):
        assert read(whole).hidden


def test_graphs_within_graphs_end_somewhere():
    inner = node("If", ("c",), ("w",))
    for _ in range(100):
        inner = node("If", ("c",), ("w",), (field(1, "g") + field(6, field(1, inner)),))
    with pytest.raises(OnnxFileError, match="deeper than any network"):
        read(model((inner,), (), (FACE,), (LOGITS,)))


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x08", b"\xff" * 40, field(7, b"\x2a\xff\xff")])
def test_bytes_that_are_no_model(data):
    with pytest.raises(OnnxFileError):
        read(data)


@hypothesis.given(some.data())
@hypothesis.settings(max_examples=150)
def test_damage_is_never_worse_than_a_refusal(data):
    whole = bytearray(model(SUMMED, (away("weight", (2304, 7), location="w.bin"),), (FACE,), (LOGITS,)))
    for _ in range(data.draw(some.integers(1, 4))):
        whole[data.draw(some.integers(0, len(whole) - 1))] = data.draw(some.integers(0, 255))
    with contextlib.suppress(OnnxFileError):
        read(bytes(whole[: data.draw(some.integers(0, len(whole)))]))


# -- in a bundle ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle_of(face_bundle, tmp_path):
    """Makes the default bundle with another graph in it, and more files; every hash is right."""

    def make(graph, **members):
        shipped = Bundle.open(face_bundle)
        manifest = replace(shipped.manifest, files={})
        return write(tmp_path / "made", manifest, {"window.fp32.onnx": graph, **members}, shipped.golden)

    return make


def weights(rng=np.random.default_rng(0)):  # noqa: B008 - one stream of numbers for all
    return rng.standard_normal((2304, 7)).astype(np.float32)


def test_weights_in_a_file_of_the_bundle_are_used(bundle_of, tmp_path):
    matrix = weights()
    data = b"\0" * 64 + matrix.tobytes()
    place = {"location": "weights.bin", "offset": 64, "length": matrix.nbytes}
    graph = model(SUMMED, (away("weight", (2304, 7), **place),), (FACE,), (LOGITS,))
    bundle = bundle_of(graph, **{"weights.bin": data})
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", bundle.where)
    face = np.random.default_rng(1).standard_normal((1, 1, 48, 48)).astype(np.float32)
    for where in (bundle.where, archive):
        from edge.engine import open_engine

        engine = open_engine(Bundle.open(where))
        # Nothing on disk is read again: the bytes that were checked are the bytes that run.
        answer = engine.run({"face": face})["logits"]
        assert answer == pytest.approx(face.reshape(1, -1) @ matrix, abs=1e-3)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "other.bin", "", "sub/../weights.bin"])
def test_weights_outside_the_bundle_are_refused_before_loading(bundle_of, location):
    graph = model(SUMMED, (away("weight", (2304, 7), location=location),), (FACE,), (LOGITS,))
    bundle = bundle_of(graph, **{"weights.bin": weights().tobytes()})
    with pytest.raises(edge.BundleError, match="which is no file of this bundle; refused"):
        edge.Recognizer(bundle=bundle.where)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"offset": 8}, "wants more of weights.bin than there is"),
        ({"offset": -4}, "garbles the place"),
        ({"length": 17}, "garbles the place"),
        ({"offset": "many"}, "garbled"),
    ],
)
def test_places_that_cannot_be(bundle_of, place, message):
    graph = model(SUMMED, (away("weight", (2304, 7), location="weights.bin", **place),), (FACE,), (LOGITS,))
    bundle = bundle_of(graph, **{"weights.bin": weights().tobytes()})
    with pytest.raises(edge.BundleError, match=message):
        edge.Recognizer(bundle=bundle.where)


def test_a_graph_that_eats_something_else_is_refused_before_loading(bundle_of):
    graph = model(
        SUMMED, (here("weight", (2304, 7), weights().tobytes()),), (value("face", (1, 1, 64, 64)),), (LOGITS,)
    )
    with pytest.raises(edge.BundleError, match="the manifest says"):
        edge.Recognizer(bundle=bundle_of(graph).where)


def test_weights_hidden_in_a_constant_are_refused(bundle_of):
    constant = node(
        "Constant", (), ("weight",), (field(1, "value") + field(5, away("w", (1,), location="weights.bin")),)
    )
    graph = model((constant, *SUMMED), (), (FACE,), (LOGITS,))
    bundle = bundle_of(graph, **{"weights.bin": weights().tobytes()})
    with pytest.raises(edge.BundleError, match="in places that no export uses"):
        edge.Recognizer(bundle=bundle.where)


def test_a_zip_that_unpacks_to_gigabytes(face_bundle, tmp_path):
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for member in face_bundle.iterdir():
            if member.name != "window.fp32.onnx":
                opened.write(member, member.name)
        with opened.open("window.fp32.onnx", "w") as file:
            for _ in range(80):
                file.write(bytes(1 << 20))
    with pytest.raises(edge.BundleError, match="unpacks to 1.* times its size"):
        edge.Recognizer(bundle=archive)


def test_a_zip_whose_members_climb_out(face_bundle, tmp_path):
    from test_bundle import change

    change(face_bundle, lambda document: document["files"].update({"../out": hashlib.sha256(b"").hexdigest()}))
    archive = tmp_path / "climb.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for member in face_bundle.iterdir():
            opened.write(member, member.name)
        opened.writestr("../out", b"")
    with pytest.raises(edge.BundleError, match="leaves the bundle's folder"):
        Bundle.open(archive)
    assert not (tmp_path.parent / "out").exists()


def test_element_types_have_names():
    assert onnxfile.DTYPES[FLOAT] == "float32"
