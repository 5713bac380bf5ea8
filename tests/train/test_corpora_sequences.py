"""CK+ and MMI as they lie on disk, in miniature."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.datasets import ckplus, mmi
from train.datasets.errors import CorpusError


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def sequence(root: Path, subject: str, number: str, frames: int, code: str | None, images="cohn-kanade-images"):
    folder = root / images / subject / number
    folder.mkdir(parents=True)
    for i in range(1, frames + 1):
        cv2.imwrite(str(folder / f"{subject}_{number}_{i:08d}.png"), np.full((4, 4), i, np.uint8))
    labels = root / "Emotion" / subject / number
    labels.mkdir(parents=True)
    if code is not None:
        (labels / f"{subject}_{number}_{frames:08d}_emotion.txt").write_text(f"   {code}\n")


@pytest.fixture
def posed(tmp_path):
    root = tmp_path / "CK+"
    sequence(root, "S005", "001", 11, "3.0000000e+00")
    sequence(root, "S010", "004", 12, "1.0000000e+00")
    sequence(root, "S010", "006", 5, None)
    sequence(root, "S138", "008", 4, "2.0000000e+00")
    sequence(root, "S999", "001", 2, "7.0000000e+00")
    touch(root, "cohn-kanade-images/.DS_Store", "cohn-kanade-images/S005/001/.DS_Store", "Emotion/S010/006/.DS_Store")
    touch(root, "cohn-kanade-images/S503/001/S503_001_00000001.png")  # no label folder at all
    touch(root, "FACS/S005/001/S005_001_00000011_facs.txt")
    return root


def test_ckplus_last_three_frames(posed):
    found = ckplus.parse(posed)
    assert [(s.path.name, s.label, s.subject, s.sequence) for s in found.samples[:4]] == [
        ("S005_001_00000009.png", "disgust", "S005", "S005_001"),
        ("S005_001_00000010.png", "disgust", "S005", "S005_001"),
        ("S005_001_00000011.png", "disgust", "S005", "S005_001"),
        ("S010_004_00000010.png", "angry", "S010", "S010_004"),
    ]
    assert found.labels == {
        "angry": 3,
        "contempt": 3,
        "disgust": 3,
        "fear": 0,
        "happy": 0,
        "sad": 0,
        "surprise": 2,  # its sequence has two frames
    }
    assert found.reasons == {"no label": 2}
    assert found.expected == 981


def test_ckplus_six_classes(posed):
    found = ckplus.parse(posed, contempt=False)
    assert "contempt" not in found.names
    assert found.reasons == {"no label": 2, "contempt not asked for": 1}
    assert (len(found), found.expected) == (8, 927)


def test_ckplus_whole_sequences_and_neutral_first_frames(posed):
    whole = ckplus.parse(posed, peak=None)
    assert [len(s.files) for s in whole.samples] == [11, 12, 4, 2]
    assert whole.samples[0].path.name == "S005_001_00000001.png"
    assert (whole.samples[0].kind, whole.expected) == ("frames", 327)
    neutral = ckplus.parse(posed, contempt=False, neutral=True)
    assert (neutral.labels["neutral"], neutral.expected, neutral.names[-1]) == (3, 1236, "neutral")
    assert neutral.samples[0].path.name == "S005_001_00000001.png"
    assert len(ckplus.parse(posed, peak=1)) == 4


@pytest.mark.parametrize("where", [".", "..", "Emotion", "cohn-kanade-images"])
def test_ckplus_root_above_and_below(posed, where):
    assert len(ckplus.parse(posed / where)) == 11


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("extended-cohn-kanade-images/cohn-kanade-images", "Emotion_labels/Emotion"),
        ("Cohn-Kanade-Images", "emotion"),
    ],
)
def test_ckplus_root_names_vary(posed, images, labels):
    for old, new in (("cohn-kanade-images", images), ("Emotion", labels)):
        (posed / old).rename(posed / "moving")
        (posed / new).parent.mkdir(exist_ok=True)
        (posed / "moving").rename(posed / new)
    assert len(ckplus.parse(posed)) == 11


@pytest.mark.parametrize("code", ["9.0000000e+00", "3.5", "angry", ""])
def test_ckplus_refuses_an_unknown_code(posed, code):
    (posed / "Emotion/S005/001/S005_001_00000011_emotion.txt").write_text(code)
    with pytest.raises(
        CorpusError, match=rf"emotion\.txt: unknown label '{re.escape(code)}'; ckplus has 0 neutral, 1 angry, .*;"
    ):
        ckplus.parse(posed)


def test_ckplus_arguments_out_of_range(posed):
    with pytest.raises(CorpusError, match="peak is 0; expected 1 or more"):
        ckplus.parse(posed, peak=0)
    with pytest.raises(CorpusError, match="expected peak=3"):
        ckplus.parse(posed, peak=None, neutral=True)


def test_ckplus_without_labels_is_refused(posed):
    (posed / "Emotion").rename(posed / "elsewhere")
    with pytest.raises(CorpusError, match=r"not CK\+ as it lies on disk; expected cohn-kanade-images/S###"):
        ckplus.parse(posed)


def session(root: Path, number: int, name: str, emotion: str | None, view: str = "0", namespace: str = ""):
    folder = root / "Sessions" / str(number)
    folder.mkdir(parents=True)
    (folder / name).touch()
    (folder / "session.xml").write_text(f'<?xml version="1.0"?><session><track view="{view}"/></session>')
    tag = "" if emotion is None else f'<Metatag Name="Emotion" Value="{emotion}"/>'
    stem = Path(name).stem
    (folder / f"{stem}.xml").write_text(f'<Metadata{namespace}><Metatag Name="View" Value="7"/>{tag}</Metadata>')
    (folder / f"{stem}-oao_aucs.xml").write_text('<Annotation><ActionUnit Number="12"/></Annotation>')


@pytest.fixture
def sessions(tmp_path):
    root = tmp_path / "mmi"
    session(root, 1, "S001-001.avi", "4")
    session(root, 2, "S001-002.avi", None)
    session(root, 10, "S016-003.AVI", "1", view="2", namespace=' xmlns="http://mmi"')
    session(root, 11, "S021-001.jpg", "6")
    for name in ("session.xml", "S021-001.xml"):
        (root / "Sessions/11" / name).rename(root / "Sessions/11" / name.upper())
    session(root, 12, "S021-002.avi", "9")
    session(root, 13, "clip.avi", "1")
    touch(root, "Sessions/14/S030-001.avi", "Sessions/1/Thumbs.db", "Sessions/1/notes.txt")
    (root / "Sessions/15").mkdir()
    (root / "Sessions/15/S031-001.avi").touch()
    (root / "Sessions/15/S031-001.xml").write_text("<Metadata>")
    (root / "codes.csv").write_text("code,label\n1,anger\n4,happiness\n6,surprise\n9,\n")
    return root


def test_mmi(sessions):
    found = mmi.parse(sessions)
    facts = [(s.label, s.subject, s.sequence, s.fact("session"), s.fact("view"), s.kind) for s in found.samples]
    assert facts == [
        ("happy", "S001", "S001-001", "1", "0", "video"),
        ("angry", "S016", "S016-003", "10", "2", "video"),
        ("surprise", "S021", "S021-001", "11", "0", "picture"),
    ]
    assert found.reasons == {
        "hidden or thumbnail file": 1,
        "not a picture or a video": 1,
        "no emotion in its XML (action units only)": 2,
        "emotion 9 left out by the code map": 1,
        "name is not SUBJECT-NUMBER": 1,
        "no XML": 1,
        "damaged XML": 1,
    }
    assert (found.names, found.expected) == (("angry", "happy", "surprise"), 213)


@pytest.mark.parametrize("where", ["Sessions", "..", "Sessions/1"])
def test_mmi_root_above_and_below(sessions, where):
    codes = {"1": "angry", "4": "happy", "6": "surprise", "9": ""}
    assert len(mmi.parse(sessions / where, codes=codes)) == 3


def test_mmi_does_not_guess_its_codes(sessions):
    (sessions / "codes.csv").unlink()
    why = r"MMI's emotion numbers are not guessed; expected a code map; write codes\.csv with the header code,label"
    with pytest.raises(CorpusError, match=why):
        mmi.parse(sessions)
    with pytest.raises(CorpusError, match=r"S016-003\.xml: unknown label '1'; mmi has 4 happy; add it to codes\.csv"):
        mmi.parse(sessions, codes={"4": "happy"})
