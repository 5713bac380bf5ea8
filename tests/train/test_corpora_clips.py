"""AFEW, RML, eNTERFACE'05, SAVEE and BAUM-1 as they lie on disk, in miniature."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import MissingPackageError
from train.datasets import afew, baum1s, enterface, rml, savee
from train.datasets.errors import CorpusError


def make(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".jpg":
            cv2.imwrite(str(file), np.zeros((4, 4), np.uint8))
        else:
            file.touch()
    return root


@pytest.fixture
def films(tmp_path):
    return make(
        tmp_path / "AFEW",
        "Train_AFEW/Angry/000519240.avi",
        "Train_AFEW/Angry/.DS_Store",
        "Train_AFEW/Happy/001122334.avi",
        "Train_AFEW/Happy/readme.txt",
        "Train_AFEW/AlignedFaces_LBPTOP_Points/Faces/000519240/001.jpg",
        "Train_AFEW/AlignedFaces_LBPTOP_Points/Faces/000519240/000.jpg",
        "Train_AFEW/AlignedFaces_LBPTOP_Points/Faces/999999999/000.jpg",
        "Train_AFEW/AlignedFaces_LBPTOP_Points/Points/000519240.mat",
        "Val_AFEW/Fear/000519240.avi",  # the number of a training clip again
        "Val_AFEW/Fear/000519240/000.jpg",
        "Test_vid/012345678.avi",
    )


def test_afew_clips(films):
    found = afew.parse(films)
    assert [(s.label, s.subject, s.sequence, s.split, s.kind) for s in found.samples] == [
        ("angry", None, "train/000519240", "train", "video"),
        ("happy", None, "train/001122334", "train", "video"),
        ("fear", None, "val/000519240", "val", "video"),
    ]
    assert found.reasons == {"not a video": 2, "hidden or thumbnail file": 1, "test clips without a label": 1}
    assert (found.expected, found.splits) == (1156, {"train": 2, "val": 1})


def test_afew_aligned_faces(films):
    found = afew.parse(films, aligned=True)
    assert [(s.label, s.sequence, [f.name for f in s.files]) for s in found.samples] == [
        ("angry", "train/000519240", ["000.jpg", "001.jpg"]),
        ("fear", "val/000519240", ["000.jpg"]),
    ]
    assert found.reasons["frames of no known clip"] == 1
    assert (films / "Train_AFEW/Happy/001122334.avi", "no aligned face in this clip") in found.skipped


def test_afew_other_folder_names_and_roots(films):
    (films / "Train_AFEW").rename(films / "Train")
    (films / "Val_AFEW").rename(films / "val")
    for root in (films, films.parent, films / "Train"):
        assert afew.parse(root).splits == {"train": 2, "val": 1}


@pytest.mark.parametrize("aligned", [False, True])
def test_afew_refuses_an_unknown_label_folder(films, aligned):
    make(films, "Val_AFEW/Contempt/000000001.avi")
    with pytest.raises(CorpusError, match="unknown label 'Contempt'; afew has angry, disgust"):
        afew.parse(films, aligned=aligned)


def test_afew_refuses_frames_of_a_label_it_does_not_have(films):
    make(films, "Val_AFEW/Contempt/000000001/000.jpg")
    with pytest.raises(CorpusError, match="unknown label 'Contempt'; afew has angry, disgust"):
        afew.parse(films, aligned=True)


def test_afew_number_in_two_label_folders_is_skipped(films):
    make(films, "Train_AFEW/Sad/000519240.avi")
    found = afew.parse(films, aligned=True)
    assert found.reasons["clip number in several label folders"] == 1
    assert [s.split for s in found.samples] == ["val"]


@pytest.fixture
def speakers(tmp_path):
    return make(
        tmp_path / "RML",
        "rml-1/s1/an1.avi",
        "rml-1/s1/SU10.avi",
        "rml-1/s2/English/ha1.avi",
        "rml-1/s2/Mandarin/ha1.avi",
        "rml-2/s6/di2.avi",
        "rml-2/s6/Thumbs.db",
        "rml-2/s6/notes.txt",
        "rml-2/demo.avi",
        "rml-2/s8/trailer.avi",
    )


def test_rml(speakers):
    found = rml.parse(speakers)
    assert [(s.label, s.subject, s.sequence, s.fact("language")) for s in found.samples] == [
        ("angry", "s1", "rml-1/s1/an1", None),
        ("surprise", "s1", "rml-1/s1/SU10", None),
        ("happy", "s2", "rml-1/s2/English/ha1", "English"),
        ("happy", "s2", "rml-1/s2/Mandarin/ha1", "Mandarin"),
        ("disgust", "s6", "rml-2/s6/di2", None),
    ]
    assert found.reasons == {
        "not in a speaker's folder": 1,
        "not a video": 1,
        "hidden or thumbnail file": 1,
        "name is not EXPRESSION and number": 1,
    }
    assert found.expected == 720


def test_rml_roots(speakers):
    for root in (speakers.parent, speakers / "rml-1"):
        assert len(rml.parse(root)) == 5
    (speakers / "rml-1").rename(speakers.parent / "all")
    assert len(rml.parse(speakers.parent / "all")) == 4
    assert len(rml.parse(speakers.parent / "all" / "s2")) == 4


def test_rml_refuses_an_unknown_code(speakers):
    make(speakers, "rml-1/s1/ne1.avi")
    with pytest.raises(CorpusError, match=r"ne1\.avi: unknown label 'ne'; rml has an, di, fe, ha, sa, su; correct"):
        rml.parse(speakers)


@pytest.fixture
def subjects(tmp_path):
    return make(
        tmp_path / "enterface database",
        "subject 1/anger/sentence 1/s1_an_1.avi",
        "subject 1/anger/sentence 1/Thumbs.db",
        "subject 2/happiness/sentence 3/s_2_ha_3.avi",
        "subject 3/sadness/sentence 4/s12_sa_4.avi",  # the folder tells who it is
        "subject 6/s6_fe_1.avi",
        "subject 6/disgust/s6_di_2.avi",
        "subject 10/Surprise/sentence 5/s10_su_5.avi",
        "subject 10/Surprise/sentence 4/s10_fe_4.avi",
        "subject 11/intro.avi",
        "overview.avi",
    )


def test_enterface(subjects):
    found = enterface.parse(subjects)
    assert [(s.label, s.subject, s.sequence) for s in found.samples] == [
        ("angry", "subject 1", "subject 1/anger/sentence 1/s1_an_1"),
        ("happy", "subject 2", "subject 2/happiness/sentence 3/s_2_ha_3"),
        ("sad", "subject 3", "subject 3/sadness/sentence 4/s12_sa_4"),
        ("disgust", "subject 6", "subject 6/disgust/s6_di_2"),
        ("fear", "subject 6", "subject 6/s6_fe_1"),
        ("surprise", "subject 10", "subject 10/Surprise/sentence 5/s10_su_5"),
    ]
    assert found.reasons == {
        "hidden or thumbnail file": 1,
        "folder and name tell different labels": 1,
        "no label folder, and no code in the name": 1,
        "not in a subject's folder": 1,
    }
    assert found.expected == 1293
    for root in (subjects.parent, subjects / "subject 1"):
        assert len(enterface.parse(root)) == 6


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("subject 7/boredom/sentence 1/s7_bo_1.avi", "unknown label 'boredom'; enterface has angry, disgust"),
        ("subject 7/s7_bo_1.avi", r"s7_bo_1\.avi: unknown label 'bo'; enterface has an, di, fe, ha, sa, su"),
    ],
)
def test_enterface_refuses_unknown_labels(subjects, name, why):
    make(subjects, name)
    with pytest.raises(CorpusError, match=why):
        enterface.parse(subjects)


@pytest.fixture
def men(tmp_path):
    return make(
        tmp_path / "SAVEE",
        "AudioVisualClip/DC/a1.avi",
        "AudioVisualClip/DC/sa02.avi",
        "AudioVisualClip/JE/su15.avi",
        "AudioVisualClip/KL/n30.avi",
        "AudioVisualClip/KL/.DS_Store",
        "AudioVisualClip/XX/a1.avi",
        "AudioVisualClip/KL/intro.avi",
        "AudioData/DC/a01.wav",
        "Info.txt",
    )


def test_savee(men):
    found = savee.parse(men)
    assert [(s.label, s.subject, s.sequence) for s in found.samples] == [
        ("angry", "DC", "AudioVisualClip/DC/a1"),
        ("sad", "DC", "AudioVisualClip/DC/sa02"),
        ("surprise", "JE", "AudioVisualClip/JE/su15"),
        ("neutral", "KL", "AudioVisualClip/KL/n30"),
    ]
    assert found.reasons == {
        "sound only": 1,
        "hidden or thumbnail file": 1,
        "name is not EXPRESSION and number": 1,
        "speaker is none of DC, JE, JK and KL": 1,
        "not a video": 1,
    }
    assert found.expected == 480
    for root in (men.parent, men / "AudioVisualClip"):
        assert len(savee.parse(root)) == 4


def test_savee_flat_names(tmp_path):
    root = make(tmp_path / "ALL", "DC_a01.avi", "JK_sa15.avi", "KL_su02.avi", "KL_su02.wav")
    found = savee.parse(root)
    assert [(s.label, s.subject) for s in found.samples] == [("angry", "DC"), ("sad", "JK"), ("surprise", "KL")]
    for sample in found.samples:
        sample.path.unlink()
    with pytest.raises(CorpusError, match=r"no savee samples found \(1 x sound only\); expected AudioVisualClip"):
        savee.parse(root)


@pytest.mark.parametrize("name", ["s01", "b3", "sad1"])
def test_savee_refuses_unknown_codes(men, name):
    make(men, f"AudioVisualClip/DC/{name}.avi")
    with pytest.raises(CorpusError, match=rf"{name}\.avi: unknown label '[a-z]+'; savee has a, d, f, h, n, sa, su;"):
        savee.parse(men)


HEADER = ("No", "Subject", "Gender", "Clip Name", "Emotion", "Emotion code")
SPONTANEOUS = (
    (1, 1, "F", "S001_001", "Concentrating", 4),
    (2, 1, "F", "S001_002", "Con", 5),
    (3, 2, "M", "S002_001", "Happy", 8),  # not to the letter, and no contradiction
    (4, 2, "M", "S002_002", "Disgust", 6.0),
    (5, 15, "M", "S015_007", "Neutral", 8),  # contradicts itself
    (6, 15, "M", "S015_008", "Sadness", 10),  # no such video
    (7, 15, "M", "S015_009", "Contempt", 4),
    (None, None, None, None, None, None),
    ("Total", 6, None, None, None, None),
)


def sheet(file: Path, rows) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (("BAUM-1",), HEADER, *rows):
        book.active.append(row)
    book.save(file)


@pytest.fixture
def turkish(tmp_path):
    root = make(
        tmp_path / "BAUM1",
        "BAUM1s_MP4 - All/s001/S001_001.mp4",
        "BAUM1s_MP4 - All/s001/S001_001.srt",
        "BAUM1s_MP4 - All/s001/S001_002.mp4",
        "BAUM1s_MP4 - All/s002/s002_001.MP4",
        "BAUM1s_MP4 - All/s002/S002_002.mp4",
        "BAUM1s_MP4 - All/s002/S002_099.mp4",
        "BAUM1s_MP4 - All/s015/S015_007.mp4",
        "BAUM1s_MP4 - All/s015/S015_009.mp4",
        "BAUM1a_MP4_all/s001/S001_001.mp4",
        "BAUM1a_MP4_all/s001/S001_002.mp4",
    )
    sheet(root / "Annotations_BAUM1s.xlsx", SPONTANEOUS)
    acted = ((1, 1, "F", "S001_001", "Disgust", 3), (2, 1, "F", "S001_002", "Interest", 6))
    sheet(root / "Annotations_BAUM1a.xlsx", acted)
    return root


def test_baum1s_all_labels(turkish):
    found = baum1s.parse(turkish, basic=False)
    assert [(s.label, s.subject, s.sequence, s.path.name) for s in found.samples] == [
        ("concentrating", "S001", "S001_001", "S001_001.mp4"),
        ("contempt", "S001", "S001_002", "S001_002.mp4"),
        ("happy", "S002", "S002_001", "s002_001.MP4"),
        ("disgust", "S002", "S002_002", "S002_002.mp4"),
    ]
    assert found.reasons == {
        "not a video": 1,
        "name and code tell different labels": 2,
        "annotated but no video": 1,
        "row without a clip's name": 1,
        "video without annotation": 1,
    }
    assert all("BAUM1s" in str(s.source) for s in found.samples)
    assert (len(found.names), found.expected) == (13, None)
    assert (turkish / "Annotations_BAUM1s.xlsx:7", "name and code tell different labels") in found.skipped


def test_baum1s_basic_labels(turkish):
    found = baum1s.parse(turkish)
    assert found.names == ("angry", "disgust", "fear", "happy", "sad", "surprise")
    assert (found.labels["happy"], found.labels["disgust"], len(found), found.expected) == (1, 1, 2, 521)
    assert found.reasons["contempt not asked for"] == 1
    for root in (turkish.parent, turkish / "BAUM1s_MP4 - All"):
        assert len(baum1s.parse(root)) == 2


def test_baum1a_has_its_own_codes(turkish):
    found = baum1s.parse(turkish, acted=True, basic=False)
    assert [(s.label, s.path.parent.parent.name) for s in found.samples] == [
        ("disgust", "BAUM1a_MP4_all"),
        ("interested", "BAUM1a_MP4_all"),
    ]
    assert found.name == "baum1a"


@pytest.mark.parametrize("code", [14, 0, 8.5, "happy", None])
def test_baum1s_refuses_an_unknown_code(turkish, code):
    sheet(turkish / "Annotations_BAUM1s.xlsx", ((1, 1, "F", "S001_001", "Happiness", code),))
    why = rf"Annotations_BAUM1s\.xlsx:3: unknown label '{code}'; baum1s has 1 anger, .*13 unsure; correct the sheet"
    with pytest.raises(CorpusError, match=why):
        baum1s.parse(turkish)


def test_baum1s_other_columns(turkish):
    sheet(turkish / "Annotations_BAUM1s.xlsx", (("S001_001", 8, "Happiness"),))
    with pytest.raises(CorpusError, match=r"no clip names such as S001_001 in column 4; .*columns=\(CLIP, EMOTION"):
        baum1s.parse(turkish)
    assert baum1s.parse(turkish, columns=(0, 2, 1)).samples[0].label == "happy"


def test_baum1s_unreadable_sheet(turkish):
    (turkish / "Annotations_BAUM1s.xlsx").write_bytes(b"not a zip")
    with pytest.raises(CorpusError, match="not a readable xlsx"):
        baum1s.parse(turkish)


def test_baum1s_names_the_extra_that_openpyxl_is_in(turkish, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingPackageError, match=r"needs openpyxl .*pip install 'edge-emotion\[train\]'"):
        baum1s.parse(turkish)
