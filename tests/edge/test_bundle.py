"""A bundle is whole and unaltered, or it is refused by the file's name."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import edge
from edge.bundle import MANIFEST, Bundle, packaged, write
from edge.manifest import digest


def change(folder, edit, *, sign=True):
    """Edit the manifest; with ``sign`` its digest is made right again, as a deliberate forger would."""
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    edit(document)
    if sign:
        document["digest"] = digest(document)
    path.write_text(json.dumps(document))


def test_the_default_bundle_opens():
    bundle = Bundle.open()
    assert bundle.manifest.labels == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert bundle.cases == ("noise", "portrait", "small", "turned")
    assert "face" in packaged()
    assert Bundle.open("face").manifest == bundle.manifest


def test_the_shipped_accuracy_is_good_enough():
    figures = Bundle.open().manifest.metrics["fer2013 test part"]
    assert figures["count"] == 3589
    assert figures["accuracy"] >= 0.60


@pytest.mark.parametrize("member", ["window.fp32.onnx", "golden.npz", "manifest.json"])
def test_one_flipped_bit_is_found(face_bundle, member):
    path = face_bundle / member
    data = bytearray(path.read_bytes())
    place = data.index(b'"temperature"') + 17 if member == MANIFEST else len(data) // 2
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(edge.BundleError, match=f"{member.split('.')[0]}.*(sha256|digest|damaged)"):
        Bundle.open(face_bundle).verify()


@pytest.mark.parametrize("member", ["window.fp32.onnx", "golden.npz"])
def test_a_missing_file_is_named(face_bundle, member):
    (face_bundle / member).unlink()
    with pytest.raises(edge.BundleError, match=f"{member} is missing"):
        edge.Recognizer(bundle=face_bundle)


def test_no_manifest(face_bundle):
    (face_bundle / MANIFEST).unlink()
    with pytest.raises(edge.BundleError, match=r"no manifest\.json in it; expected a bundle made by"):
        Bundle.open(face_bundle)


def test_permuted_labels_are_found_even_when_signed(face_bundle):
    change(face_bundle, lambda document: document["labels"].reverse())
    with pytest.raises(
        edge.BundleError, match="labels .*'neutral'.* are not the ones the golden vectors were made with"
    ):
        Bundle.open(face_bundle)


def test_an_unsigned_change_is_found(face_bundle):
    change(face_bundle, lambda document: document.update(temperature=1.5), sign=False)
    with pytest.raises(edge.BundleError, match="altered after export"):
        Bundle.open(face_bundle)


@pytest.mark.parametrize("schema", [0, 1, "2", None])
def test_another_schema_is_refused(face_bundle, schema):
    change(face_bundle, lambda document: document.update(schema=schema))
    with pytest.raises(edge.BundleError, match="this version of edge reads schema 2; export the bundle again"):
        Bundle.open(face_bundle)


def spoil(path, value):
    def edit(document):
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = value

    return edit


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("labels",), ["happy"], "two or more"),
        (("labels",), ["happy"] * 7, "different names"),
        (("inputs", 0, "kind"), "sound", "input kind 'sound' is unknown"),
        (("inputs", 0, "kind"), "clip", "a grey clip must have shape"),
        (("inputs", 0, "colour"), "rgb", "rgb face must have shape"),
        (("inputs", 0, "shape"), [1, 1, 48], "must have shape"),
        (("inputs", 0, "dtype"), "float64", "input dtype"),
        (("inputs", 0, "interpolation"), "nearest", "interpolation"),
        (("inputs", 0, "normalisation", "kind"), "minmax", "normalisation"),
        (("inputs", 0, "normalisation", "kind"), "fixed", "fixed normalisation needs 1 means"),
        (("inputs", 0, "alignment", "left_eye"), [0.9, 0.4], "left of the right one"),
        (("inputs",), [], "expected one face, or a clip"),
        (("graphs", "window", "outputs", 0, "shape"), [1, 6], "expected one output 'logits' of shape"),
        (("graphs", "window", "inputs", 0, "shape"), [1, 1, 8, 8], "whose inputs are"),
        (("graphs", "window", "files", "fp8"), "model.fp8.onnx", "precision 'fp8' is unknown"),
        (("window",), {"length": 1, "interval_ms": 0, "gap_ms": 100}, "a face has no window"),
        (("flow",), {"name": "dis"}, "a flow input needs"),
        (("temperature",), 0, "temperature must be positive"),
        (("abstain_below",), 1.5, "within 0..1"),
        (("tolerances",), {"fp32": 1e-4}, "no tolerance for tensor"),
        (("files", "../escape"), "0" * 64, "leaves the bundle's folder"),
        (("graphs",), {}, "expected a graph 'window'"),
        (("graphs", "window", "files", "fp16"), "model.fp16.onnx", "every graph"),
        (("graphs", "window", "files"), {}, "share a precision"),
        (("inputs", 0), {}, "lacks or garbles"),
    ],
)
def test_facts_that_contradict_each_other(face_bundle, path, value, message):
    change(face_bundle, spoil(path, value))
    with pytest.raises(edge.BundleError, match=message) as caught:
        Bundle.open(face_bundle)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_bundle(tmp_path):
    with pytest.raises(edge.BundleError, match="no such bundle; give a folder or zip .*one of: face"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(edge.BundleError, match="not a bundle"):
        Bundle.open(tmp_path / "text")
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / MANIFEST).write_text("{")
    with pytest.raises(edge.BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(tmp_path / "garbled")


def test_a_zip_is_a_bundle_too(face_bundle, tmp_path, portrait):
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", face_bundle)
    with edge.Recognizer(bundle=archive) as recognizer:
        assert recognizer.process(portrait).faces[0].label == "happy"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        for name in whole.namelist():
            if name != "golden.npz":
                less.writestr(name, whole.read(name))
    with pytest.raises(edge.BundleError, match=r"golden\.npz is missing"):
        Bundle.open(tmp_path / "less.zip")


def test_a_pickle_in_the_golden_file_is_not_run(face_bundle):
    golden = dict(Bundle.open(face_bundle).golden)
    golden["trap"] = np.array([{"a": 1}], dtype=object)
    np.savez(face_bundle / "golden.npz", **golden)
    import hashlib

    digest = hashlib.sha256((face_bundle / "golden.npz").read_bytes()).hexdigest()
    change(face_bundle, lambda document: document["files"].update({"golden.npz": digest}))
    with pytest.raises(edge.BundleError, match=r"golden\.npz can't be read"):
        Bundle.open(face_bundle)


def test_a_network_that_answers_something_else_is_refused(face_bundle):
    """Hashes right, digest right, but the golden logits are not this network's."""
    bundle = Bundle.open(face_bundle)
    golden = {
        key: np.roll(value, 1, axis=-1) if key.startswith("logits/") else value for key, value in bundle.golden.items()
    }
    graph = bundle.graph("window", "fp32").model
    forged = write(
        face_bundle.parent / "forged", replace(bundle.manifest, files={}), {"window.fp32.onnx": graph}, golden
    )
    with pytest.raises(edge.BundleError, match=r"golden vectors are not reproduced here \(tensor -> probabilities"):
        edge.Recognizer(bundle=forged.where)


def test_preprocessing_that_changed_is_refused(face_bundle):
    bundle = Bundle.open(face_bundle)
    golden = {key: value + 0.5 if key == "tensor/portrait/face" else value for key, value in bundle.golden.items()}
    forged = write(
        face_bundle.parent / "forged",
        replace(bundle.manifest, files={}),
        {"window.fp32.onnx": bundle.graph("window", "fp32").model},
        golden,
    )
    with pytest.raises(edge.BundleError, match="pixels -> tensor, portrait: differs by"):
        edge.Recognizer(bundle=forged.where)


def test_a_graph_that_is_not_onnx(face_bundle):
    bundle = Bundle.open(face_bundle)
    forged = write(
        face_bundle.parent / "forged",
        replace(bundle.manifest, files={}),
        {"window.fp32.onnx": b"no graph"},
        dict(bundle.golden),
    )
    with pytest.raises(edge.BundleError, match=r"window\.fp32\.onnx is no ONNX file \(not a protocol buffer\)"):
        edge.Recognizer(bundle=forged.where)


def test_writing_is_whole_or_nothing(face_bundle, tmp_path):
    bundle = Bundle.open(face_bundle)
    members, manifest = {"window.fp32.onnx": bundle.graph("window", "fp32").model}, replace(bundle.manifest, files={})
    target = tmp_path / "new" / "bundle"

    def refuse(written):
        assert written.where.parent == target.parent, "verified beside its place, so that moving it is atomic"
        raise RuntimeError("no good")

    with pytest.raises(RuntimeError, match="no good"):
        write(target, manifest, members, bundle.golden, verify=[refuse])
    assert list(target.parent.iterdir()) == []
    written = write(target, manifest, members, bundle.golden)
    # Compressed bytes depend on the zlib at hand; what they hold does not.
    assert replace(written.manifest, files={}) == manifest
    assert set(written.golden) == set(bundle.golden)
    with pytest.raises(edge.BundleError, match="already exists"):
        write(target, manifest, members, bundle.golden)
    with pytest.raises(edge.BundleError, match="one output 'logits' of shape"):
        write(tmp_path / "other", replace(manifest, labels=("a", "b")), members, bundle.golden)
    assert not (tmp_path / "other").exists()


def test_an_unwritable_place(face_bundle, tmp_path):
    bundle = Bundle.open(face_bundle)
    (tmp_path / "file").write_text("")
    with pytest.raises(edge.BundleError, match="can't be written"):
        write(tmp_path / "file" / "x", replace(bundle.manifest, files={}), {}, {})


def test_a_file_that_changes_after_opening_is_found(face_bundle):
    bundle = Bundle.open(face_bundle)
    (face_bundle / "window.fp32.onnx").write_bytes(b"other")
    with pytest.raises(edge.BundleError, match="sha256 differs"):
        bundle.graph("window", "fp32")
