"""Crops that are learnt also as the robot would have cut them."""

import os

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks
from edge.preprocess import face_crop
from train import checkpoint, loop
from train.__main__ import main
from train.datasets.errors import CorpusError
from train.examples import faces
from train.models import FAMILIES
from train.recipe import Recipe
from train.recut import recut

(SPEC,) = FAMILIES["cspp"].inputs(FAMILIES["cspp"].config())


@pytest.fixture(scope="module")
def crops(portrait):
    """Twelve cuts of one face, some off their place, and three pictures without any."""
    rng = np.random.default_rng(0)
    grey, landmarks = cv2.cvtColor(portrait, cv2.COLOR_BGR2GRAY), Landmarks()
    eyes = landmarks.eyes(landmarks.points(grey, FaceDetector(80).find(grey)[0].box))
    pictures = []
    for i in range(12):
        turned = cv2.getRotationMatrix2D(tuple(map(float, eyes.mean(axis=0))), 2 * i - 10, 1.0)
        view = cv2.warpAffine(portrait, turned, (512, 512), borderMode=cv2.BORDER_REPLICATE)
        there = eyes @ turned[:, :2].T + turned[:, 2]
        pictures.append(face_crop(view, (there + rng.normal(0, 3, (2, 2))).astype(np.float32), SPEC))
    pictures[3:3] = list(rng.integers(0, 256, (3, 48, 48), dtype=np.uint8))
    return faces("toy", "train", ("a", "b"), np.stack(pictures), np.arange(15, dtype=np.int64) % 2)


@pytest.fixture(scope="module")
def made(crops, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return cache, recut(crops, SPEC, cache, workers=1, progress=False)


def test_faces_are_found_and_cut_and_what_shows_none_is_left_out(crops, made):
    _, copies = made
    places = [int(name.split("-")[1]) for name in copies.sequences]
    assert not set(places) & {3, 4, 5}
    assert len(places) >= 9
    assert not copies.originals.any()
    assert copies.labels.tolist() == [crops.labels[i] for i in places]
    assert copies.arrays["face"].shape == (len(places), 48, 48)
    for own, place in zip(copies.arrays["face"], places, strict=True):
        # Another cut of the same face: alike, not the same.
        likeness = np.corrcoef(own.ravel(), crops.arrays["face"][place].ravel())[0, 1]
        assert 0.6 < likeness < 0.9999


def test_all_cuts_have_the_eyes_in_one_place(crops, made):
    _, copies = made
    places = [int(name.split("-")[1]) for name in copies.sequences]

    def spread(pictures):
        return float(pictures.astype(float).std(axis=0).mean())

    assert spread(copies.arrays["face"]) < spread(crops.arrays["face"][places])


def test_it_is_cut_once(crops, made):
    cache, copies = made
    (file,) = cache.iterdir()
    os.utime(file, (0, 0))
    again = recut(crops, SPEC, cache, workers=1, progress=False)
    assert np.array_equal(again.arrays["face"], copies.arrays["face"])
    assert file.stat().st_mtime == 0
    file.write_bytes(file.read_bytes()[:-100])
    mended = recut(crops, SPEC, cache, workers=1, progress=False)
    assert np.array_equal(mended.arrays["face"], copies.arrays["face"])
    assert file.stat().st_mtime > 0


def test_copies_follow_their_pictures_and_choose_nothing(crops, made):
    from train.examples import joined

    recipe = Recipe(held_out=0.25)
    _, alone = loop.split(crops, recipe)
    learn, held_out = loop.split(joined(crops, made[1]), recipe)
    assert held_out.sequences == alone.sequences
    assert held_out.originals.all()
    assert not set(learn.sequences) & set(held_out.sequences)
    assert (~learn.originals).any()


def test_nothing_to_cut(crops, tmp_path):
    nobody = crops.subset(np.array([3, 4, 5]))
    with pytest.raises(CorpusError, match=r"toy: one face is found in none of 3 crops; .*; leave --recut out"):
        recut(nobody, SPEC, tmp_path, workers=1, progress=False)


def test_on_the_command_line(crops, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    labels = np.arange(45) % 7
    pixels = np.tile(crops.arrays["face"], (3, 1, 1))
    np.savez(data / "train.npz", x=pixels, y=labels, id=np.arange(45))
    small = ["--variant", "baseline", "--hidden", "8", "--epochs", "1", "--batch", "16", "--jitter", "0"]
    options = ["cspp", "--data", str(data), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), *small]
    assert main([*options, "--recut", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "to learn from are there as the robot would cut them too" in out
    assert "copies cut otherwise (--jitter, --recut)" in out
    assert checkpoint.load(tmp_path / "out" / "best.pt").recipe["recut"] is True, "a bundle says how it was made"
    wrong = ["conv_lstm", "--onsets", "--data", str(data), "--out", str(tmp_path / "other")]
    assert main([*wrong, "--recut", "--epochs", "1"]) == 2
    assert "recut is for corpora of finished crops and networks of single grey faces" in capsys.readouterr().err
