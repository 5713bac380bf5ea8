"""FER2013's three forms, as samples and as pixels."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.datasets import PICTURES, fer2013
from train.datasets.errors import CorpusError

STORED = Path(__file__).parents[2] / ".." / "shared" / "data" / "fer2013"


def face(level: int) -> np.ndarray:
    return np.full((48, 48), level, np.uint8)


def line(code, level: int, usage: str) -> str:
    return f"{code},{' '.join([str(level)] * 48 * 48)},{usage}\n"


@pytest.fixture
def arrays(tmp_path):
    root = tmp_path / "npz"
    root.mkdir()
    for name, codes in (("train", [0, 6, 3]), ("public_test", [5]), ("private_test", [1])):
        np.savez(root / f"{name}.npz", x=np.stack([face(code) for code in codes]), y=np.array(codes))
    return root


@pytest.fixture
def table(tmp_path):
    root = tmp_path / "csv" / "fer2013"
    root.mkdir(parents=True)
    rows = line(0, 0, "Training") + line(6, 6, "Training") + line(5, 5, "PublicTest") + line(1, 1, "PrivateTest")
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + rows + line(3, 3, "Training"))
    return root


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "folders"
    for name, level in (
        ("train/angry/1.png", 0),
        ("train/neutral/2.png", 6),
        ("train/happy/3.png", 3),
        ("PublicTest/surprise/4.png", 5),
        ("PrivateTest/disgust/5.png", 1),
    ):
        (root / name).parent.mkdir(parents=True)
        cv2.imwrite(str(root / name), face(level))
    (root / "train/angry/Thumbs.db").touch()
    return root


@pytest.fixture(params=["arrays", "table", "pictures"])
def form(request):
    return request.getfixturevalue(request.param)


def test_load_reads_the_same_from_every_form(form):
    train = PICTURES["fer2013"](form, "train")
    assert sorted(train.labels.tolist()) == [0, 3, 6]
    assert (train.arrays["face"].shape, train.splits) == ((3, 48, 48), ("train",) * 3)
    assert (train.arrays["face"][:, 0, 0] == train.labels).all()  # each picture kept its own label
    assert fer2013.load(form, "test").labels.tolist() == [5]
    assert fer2013.load(form, "private").labels.tolist() == [1]
    with pytest.raises(CorpusError, match="no part 'val'; expected train, test, private"):
        fer2013.load(form, "val")


def test_parse_reads_the_same_from_every_form(form):
    found = fer2013.parse(form)
    assert sorted((s.label, s.split) for s in found.samples) == [
        ("angry", "train"),
        ("happy", "train"),
        ("neutral", "train"),
        ("surprise", "test"),
    ]
    assert {s.subject for s in found.samples} == {None}
    assert len({s.sequence for s in found.samples}) == 4
    assert found.expected == 32_298
    assert sum(count for why, count in found.reasons.items() if "PrivateTest" in why) == 1
    challenge = fer2013.parse(form, private=True)
    assert (challenge.splits, challenge.expected) == ({"train": 3, "val": 1, "test": 1}, 35_887)
    assert next(s.label for s in challenge.samples if s.split == "test") == "disgust"


def test_rows_point_at_their_pixels(arrays, table):
    sample = fer2013.parse(arrays).samples[1]
    assert (sample.kind, sample.fact("row"), sample.fact("usage")) == ("array", "1", "Training")
    with np.load(sample.path) as stored:
        assert fer2013.NAMES[stored["y"][1]] == sample.label
    last = fer2013.parse(table.parent).samples[-1]  # one above the root
    assert (last.label, last.fact("row"), last.path.name) == ("happy", "4", "fer2013.csv")
    assert fer2013.parse(table / "fer2013.csv").samples[-1] == last


def test_icml_header_with_blanks(table):
    text = (table / "fer2013.csv").read_text().replace("emotion,pixels,Usage", "emotion, Usage, pixels")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    (table / "fer2013.csv").unlink()
    swapped = "\n".join(f"{code}, {usage}, {pixels}" for code, pixels, usage in rows)
    (table / "icml_face_data.csv").write_text("emotion, Usage, pixels\n" + swapped + "\n")
    assert fer2013.load(table, "train").labels.tolist() == [0, 6, 3]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("emotion,pixels,Usage\n" + line(7, 0, "Training"), r"csv:2: label code 7; FER2013 has 0\.\.6, unknown codes"),
        ("emotion,pixels,Usage\n" + line("", 0, "Training"), r"label code ; FER2013 has"),
        ("emotion,pixels,Usage\n" + line(1, 0, "Extra"), "unknown Usage 'Extra'; expected Training, PublicTest, Priv"),
        ("emotion,pixels\n1,2 3\n", "header is 'emotion,pixels'; expected emotion,pixels,Usage; give fer2013.csv"),
        ("emotion,pixels,Usage\n1,2 3\n", "csv:2: 2 cells"),
        ("emotion,pixels,Usage\n1,2 3,Training\n", "csv:2: 2 pixels; expected 2304"),
        ("emotion,pixels,Usage\n" + line(1, 256, "Training"), r"pixels are not 0\.\.255"),
        ("emotion,pixels,Usage\n" + line(1, 5, "PublicTest"), "holds no Training rows; expected 28,709"),
    ],
)
def test_bad_tables_are_refused(table, text, why):
    (table / "fer2013.csv").write_text(text)
    with pytest.raises(CorpusError, match=why):
        fer2013.load(table, "train")


@pytest.mark.parametrize("code", [7, -1])
def test_unknown_codes_in_arrays_are_refused(arrays, code):
    np.savez(arrays / "train.npz", x=np.stack([face(0), face(3)]), y=np.array([code, 3]))
    for read in (fer2013.load, fer2013.parse):
        with pytest.raises(CorpusError, match=rf"label code {code}; FER2013 has 0\.\.6"):
            read(arrays)


def test_a_mixed_test_folder_is_not_read_by_default(pictures):
    (pictures / "PublicTest").rename(pictures / "test")
    with pytest.raises(CorpusError, match="test folder mixes in PrivateTest: name it with the part private"):
        fer2013.load(pictures, "test")
    assert fer2013.parse(pictures).splits == {"train": 3}
    assert fer2013.parse(pictures, private=True).splits == {"train": 3, "test": 2}


def test_folders_refuse_unknown_labels_and_other_sizes(pictures):
    cv2.imwrite(str(pictures / "train/angry/1.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(CorpusError, match=r"1\.png: not a picture of 48x48"):
        fer2013.load(pictures, "train")
    (pictures / "train/angry/1.png").unlink()
    (pictures / "train/contempt").mkdir()
    for read in (fer2013.load, fer2013.parse):
        with pytest.raises(CorpusError, match="unknown label 'contempt'; fer2013 has angry, disgust"):
            read(pictures)


def test_missing_npz_keeps_its_message(tmp_path):
    with pytest.raises(CorpusError, match=r"train\.npz: no such file; expected FER2013's train\.npz there"):
        fer2013.load(tmp_path, "train")


@pytest.mark.skipif(not STORED.is_dir(), reason="FER2013 is not beside the repository (../shared/data/fer2013)")
def test_the_real_one_has_the_published_counts():
    found = fer2013.parse(STORED)
    assert found.splits == {"train": 28_709, "test": 3_589}
    assert len(found) == found.expected
    assert fer2013.load(STORED, "test").arrays["face"].shape == (3_589, 48, 48)
