"""Accuracy on labelled crops beside others: pictures that a finder of faces can use, and labels in one language."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.crops import FACE, SIDE, labels_of, scene, word
from benchmarks.peers import OURS_ON_CROPS, ROOT, PeerError, main, on_crops, write_crops

ADAPTER = """
class Peer:
    def __init__(self, mode):
        self.number = -1

    def look(self, image):
        self.number += 1
        if self.number % 3 == 2:
            return []
        return [("Never", (0, 0, 2, 2)), ("Anger" if self.number % 3 else "Happy", (0, 0, 99, 99))]
"""


def test_a_crop_is_in_the_middle_of_its_picture():
    crop = np.arange(48 * 48, dtype=np.uint8).reshape(48, 48) // 2
    picture = scene(crop)
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8
    edge = (SIDE - FACE) // 2
    middle = picture[edge : edge + FACE, edge : edge + FACE, 0].astype(float)
    assert abs(middle.mean() - crop.mean()) < 1.5


def test_labels_in_other_words():
    assert [word(one) for one in ("Anger", "HAPPY", "scared", "neutral")] == ["angry", "happy", "fear", "neutral"]


def test_the_largest_face_counts():
    faces = [("sad", (0, 0, 5, 5)), ("Happiness", (0, 0, 9, 9))]
    module = SimpleNamespace(apart=lambda mode, pictures: [faces, [], [(None, (0, 0, 3, 3))]])
    assert labels_of(module, "any", [0, 1, 2]) == ["happy", None, None]


def test_a_rival_in_a_process_of_its_own(tmp_path, toy_corpus):
    (tmp_path / "use_it.py").write_text(ADAPTER)
    write_crops(toy_corpus, "fer2013", 9, tmp_path / "crops.npz")
    with np.load(tmp_path / "crops.npz") as stored:
        truth = [str(stored["names"][code]) for code in stored["y"]]
    said = [None if n % 3 == 2 else "angry" if n % 3 else "happy" for n in range(9)]
    right = sum(one == other for one, other in zip(said, truth, strict=True))
    found = on_crops(sys.executable, tmp_path / "use_it.py", "any", tmp_path / "crops.npz")
    assert found == {
        "count": 9,
        "found": pytest.approx(6 / 9),
        "accuracy": pytest.approx(right / 9),
        "accuracy_found": pytest.approx(right / 6),
    }
    (tmp_path / "use_it.py").write_text("raise SystemExit('not today')")
    with pytest.raises(PeerError, match="not today"):
        on_crops(sys.executable, tmp_path / "use_it.py", "any", tmp_path / "crops.npz")


def test_ours_on_real_faces(shared, tmp_path):
    write_crops(shared / "fer2013", "fer2013", 60, tmp_path / "crops.npz")
    found = on_crops(sys.executable, OURS_ON_CROPS, "5", tmp_path / "crops.npz", str(ROOT))
    assert found["count"] == 60
    assert found["found"] > 0.4
    assert found["accuracy_found"] > 0.45


def test_a_corpus_that_is_not_there(tmp_path, capsys):
    assert main(["--rivals", "", "--data", str(tmp_path), "--loop-seconds", "0"]) == 2
    assert "public_test.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--pictures", "0"])
