"""Accuracy on labelled crops, and on the same made worse: the figures, and the changes."""

import cv2
import numpy as np
import pytest

from edge.bundle import Bundle
from edge.engine import open_engine
from edge.preprocess import face_crop
from edge.smooth import softmax
from export import robust
from export.errors import ExportError
from export.measure import figures, measure, predict, read
from export.robust import CONDITIONS, Condition, View, answers
from train.datasets import PICTURES


@pytest.fixture(scope="module")
def bundle():
    return Bundle.open()


@pytest.fixture(scope="module")
def face():
    """A smooth face-like picture of 48x48 and its eyes, in the corpus' place."""
    rows, columns = np.mgrid[0:48, 0:48]
    eyes = np.array([[0.316, 0.398], [0.684, 0.398]]) * 48 - 0.5
    picture = 160.0 - 40 * np.hypot(rows - 24, columns - 24) / 24
    for x, y in eyes:
        picture -= 90 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    picture -= 70 * np.exp(-((columns - 23.5) ** 2 / 60 + (rows - 36) ** 2 / 8))
    return View(picture.astype(np.uint8), eyes.astype(np.float32))


def cut(bundle, view):
    (spec,) = bundle.manifest.inputs
    return face_crop(cv2.cvtColor(view.picture, cv2.COLOR_GRAY2BGR), view.eyes, spec).astype(int)


def test_the_arithmetic():
    labels = np.array([0, 0, 1, 1, 1])
    logits = np.array([[5, 0], [0, 1], [0, 4], [0, 3], [0.1, 0]], np.float32)
    found = figures(logits, labels, ("a", "b"), 1.0, np.array([0, 1, 1, 1, 1]))
    assert found["accuracy"] == 0.6
    assert found["recall"] == {"a": 0.5, "b": pytest.approx(2 / 3)}
    assert found["confusion"] == [[1, 1], [1, 2]]
    assert found["covered"] == 0.75  # all but the last, of which it is least sure
    assert found["agreement"] == 0.8
    low, high = found["interval"]
    assert low < 0.6 < high


def test_temperature_moves_calibration_and_nothing_else():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2000, 3)).astype(np.float32)
    labels = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    cold, right, warm = (figures(logits, labels, ("a", "b", "c"), t, logits.argmax(1)) for t in (0.3, 1.0, 3.0))
    assert cold["accuracy"] == right["accuracy"] == warm["accuracy"]
    assert right["ece"] < 0.05 < min(cold["ece"], warm["ece"])


def test_every_precision_through_the_robots_own_steps(bundle, toy_corpus):
    pictures, doubles = read("fer2013", toy_corpus)
    found = measure(bundle, pictures, doubles)
    assert list(found) == ["fp32", "fp16", "int8"]
    assert found["fp32"]["agreement"] == 1
    assert found["int8"]["agreement"] < 1 or found["int8"]["accuracy"] == found["fp32"]["accuracy"]
    for name, one in found.items():
        logits = predict(bundle, open_engine(bundle, precision=name), pictures)
        assert one["accuracy"] == pytest.approx((logits.argmax(1) == pictures.labels).mean())
        assert one["twins"] + one["without_twins"]["count"] == one["count"] == 140


def test_pictures_with_a_twin_are_told_apart(bundle, toy_corpus, tmp_path):
    with np.load(toy_corpus / "public_test.npz") as test, np.load(toy_corpus / "train.npz") as training:
        np.savez(tmp_path / "public_test.npz", x=test["x"], y=test["y"])
        pixels, labels = training["x"].copy(), training["y"].copy()
        pixels[:30], labels[:30] = test["x"][50:80], test["y"][50:80]
        np.savez(tmp_path / "train.npz", x=pixels, y=labels)
    pictures, doubles = read("fer2013", tmp_path)
    assert np.flatnonzero(doubles).tolist() == list(range(50, 80))
    one = measure(bundle, pictures, doubles, ("int8",))["int8"]
    assert (one["twins"], one["without_twins"]["count"]) == (30, 110)
    assert read("fer2013", tmp_path / "public_test.npz")[1] is None


def test_unchanged_pictures_get_the_unchanged_answers(bundle, toy_corpus):
    """What goes through a frame and the robot's own cut is what goes in as a crop."""
    pictures = PICTURES["fer2013"](toy_corpus, "test").subset(np.arange(20))
    engine = open_engine(bundle, precision="fp32")
    assert (answers(bundle, engine, pictures) == predict(bundle, engine, pictures)).all()


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda one: one.name)
def test_each_condition_is_worse_with_its_strength(bundle, face, condition):
    """Against the crop as it is; some change it by chance, so it is a mean."""
    clean = cut(bundle, face)
    by_strength = []
    for strength in condition.strengths:
        rng = np.random.default_rng(1)
        away = [np.abs(cut(bundle, condition.change(face, strength, rng)) - clean).mean() for _ in range(25)]
        by_strength.append(np.mean(away))
    if condition.name == "rotation":
        assert 0.1 < max(by_strength) < 1  # the eyes are followed: only resampling is left
    elif condition.name == "size":
        assert max(by_strength[:4]) < 0.5  # larger than the crop: nothing is lost
        assert by_strength[3] < by_strength[4] < by_strength[5]
    else:
        assert by_strength == sorted(by_strength)
        assert 0 < by_strength[0] < by_strength[-1]
        assert by_strength[-1] > 0.3


def test_strengths_are_what_they_are_called(face):
    rng = np.random.default_rng(0)
    grey = View(np.full((48, 48), 120, np.uint8), face.eyes)
    assert robust.noise(grey, 10, rng).picture.std() == pytest.approx(10, rel=0.1)
    assert robust.darkness(grey, 0.25, rng).picture.mean() == pytest.approx(30, abs=0.5)
    assert (robust.occlusion(View(grey.picture * 0, face.eyes), 0.25, rng).picture > 0).mean() == 0.25
    assert (robust.mask(View(grey.picture * 0, face.eyes), 0.5, rng).picture[:24] == 0).all()
    assert robust.size(face, 24, rng).picture.shape == (24, 24)
    apart = np.hypot(*np.subtract(*robust.size(face, 200, rng).eyes))
    assert apart == pytest.approx(200 / 48 * np.hypot(*np.subtract(*face.eyes)), rel=1e-5)
    moved = robust.misplaced(face, 0.1, rng).eyes - face.eyes
    assert np.hypot(*moved.T) == pytest.approx(0.1 * 0.368 * 48, rel=1e-4)
    glasses = robust.sunglasses(face, 0.6, rng).picture
    assert glasses[round(float(face.eyes[0, 1]))].max() == 0
    assert glasses[45].min() > 0
    turned = robust.rotation(face, 20, rng)
    along = turned.eyes[1] - turned.eyes[0]
    assert abs(np.degrees(np.arctan2(along[1], along[0]))) == pytest.approx(20, abs=0.01)
    spread = robust.motion(
        View(np.where(np.arange(48) == 24, 255, 0)[:, None].repeat(48, 1).astype(np.uint8), face.eyes), 9, rng
    )
    assert spread.picture.max() < 250
    assert spread.picture.sum() == pytest.approx(255 * 48, rel=0.05)


def test_rows_of_the_table(bundle, toy_corpus):
    pictures = PICTURES["fer2013"](toy_corpus, "test").subset(np.arange(21))
    engine = open_engine(bundle, precision="int8")
    rows = robust.measure(bundle, engine, pictures, (Condition(robust.blur, "pixels", (1, 4)),))
    assert [(row["condition"], row["strength"]) for row in rows] == [("none", 0), ("blur", 1), ("blur", 4)]
    assert rows[0]["unchanged"] == 1
    again = robust.measure(bundle, engine, pictures, (Condition(robust.noise, "grey levels", (30,)),))
    assert again == robust.measure(bundle, engine, pictures, (Condition(robust.noise, "grey levels", (30,)),))
    text = robust.table(rows)
    assert text.splitlines()[2].startswith("| as they are | |")
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_the_picture_of_what_is_made_worse(bundle, toy_corpus, tmp_path):
    pytest.importorskip("matplotlib")
    pictures = PICTURES["fer2013"](toy_corpus, "test").subset(np.arange(21))
    chosen = (Condition(robust.blur, "pixels", (1, 4)), Condition(robust.size, "pixels", (96, 24)))
    rows = robust.measure(bundle, open_engine(bundle), pictures, chosen)
    drawn = robust.chart({"face, int8": rows})
    assert drawn.startswith("<svg")
    assert ">blur<" in drawn
    assert ">size<" in drawn
    assert "http://www.w3.org" in drawn
    assert "DOCTYPE" not in drawn
    assert drawn == robust.chart({"face, int8": rows})


def test_a_bundle_of_windows_is_refused(bundle, toy_corpus):
    from dataclasses import replace

    from edge.bundle import Stream

    stream = Stream(input="face", encoder="encoder", ring="features", steps=2, receptive=1, state=())
    odd = replace(bundle, manifest=replace(bundle.manifest, streams=(stream,)))
    with pytest.raises(ExportError, match="sees windows of frames"):
        measure(odd, read("fer2013", toy_corpus)[0])
