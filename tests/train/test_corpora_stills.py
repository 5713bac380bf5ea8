"""JAFFE, NimStim, TFEID and SFEW as they lie on disk, in miniature."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.datasets import jaffe, nimstim, sfew, tfeid
from train.datasets.errors import CorpusError


def make(root: Path, *names: str) -> Path:
    picture = np.zeros((4, 4), np.uint8)
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() in (".png", ".jpg", ".tiff", ".bmp"):
            cv2.imwrite(str(file), picture)
        else:
            file.touch()
    return root


@pytest.fixture
def japanese(tmp_path):
    return make(
        tmp_path / "data" / "jaffe",
        "KA.AN1.39.tiff",
        "NA.SU2.212.tiff",  # a search for NA or AN anywhere would go wrong
        "NM.NE3.119.TIFF",
        "TM.DI1.187.tiff",
        "README",
        "README.tiff",
        ".DS_Store",
        "Thumbs.db",
    )


def test_jaffe(japanese):
    found = jaffe.parse(japanese)
    assert [(s.label, s.subject, s.sequence) for s in found.samples] == [
        ("angry", "KA", "KA.AN1.39"),
        ("surprise", "NA", "NA.SU2.212"),
        ("neutral", "NM", "NM.NE3.119"),
        ("disgust", "TM", "TM.DI1.187"),
    ]
    assert all(s.kind == "picture" and s.split is None and s.path.is_file() for s in found.samples)
    assert found.reasons == {
        "hidden or thumbnail file": 2,
        "not a picture": 1,
        "name is not SUBJECT.EXPRESSION.SERIAL": 1,
    }
    assert (found.expected, found.subjects["NA"]) == (213, 1)
    assert found.labels == {"angry": 1, "disgust": 1, "fear": 0, "happy": 0, "neutral": 1, "sad": 0, "surprise": 1}


def test_jaffe_root_one_above(japanese):
    assert len(jaffe.parse(japanese.parent)) == 4


def test_jaffe_refuses_an_unknown_code(japanese):
    make(japanese, "KA.XX1.40.tiff")
    with pytest.raises(CorpusError, match=r"KA\.XX1\.40\.tiff: unknown label 'XX'; jaffe has AN, DI, FE, .*manifest"):
        jaffe.parse(japanese)


@pytest.fixture
def actors(tmp_path):
    return make(
        tmp_path / "NimStim" / "Crop-White Background",
        "01F_AN_C.BMP",
        "01F_CA_O.BMP",
        "29m_an_c.jpg",
        "29M_AN_C.BMP",
        "45m_ha_x.bmp",
        "12F_SP_O.bmp",
        "codebook_faces",
        "cover.png",
        ".DS_Store",
    )


def test_nimstim(actors):
    found = nimstim.parse(actors)
    assert {(s.sequence, s.label, s.subject, s.fact("mouth")) for s in found.samples} == {
        ("01F_AN_C", "angry", "01F", "closed"),
        ("01F_CA_O", "calm", "01F", "open"),
        ("29M_AN_C", "angry", "29M", "closed"),
        ("45M_HA_X", "happy", "45M", "exuberant"),
        ("12F_SP_O", "surprise", "12F", "open"),
    }
    assert (actors / "29m_an_c.jpg", "same picture in another format") in found.skipped
    assert found.reasons == {
        "hidden or thumbnail file": 1,
        "not a picture": 1,
        "name is not MODEL_EXPRESSION_MOUTH": 1,
        "same picture in another format": 1,
    }
    assert found.expected == 672
    assert len(found.only(("angry", "happy", "surprise"))) == 4
    assert len(nimstim.parse(actors.parent)) == 5


def test_nimstim_refuses_an_unknown_code(actors):
    make(actors, "01F_SU_C.BMP")
    with pytest.raises(CorpusError, match=r"01F_SU_C\.BMP: unknown label 'SU'; nimstim has AN, CA, .*, SP; correct"):
        nimstim.parse(actors)


@pytest.fixture
def models(tmp_path):
    return make(
        tmp_path / "tfeid",
        "anger/f01_h_ag12.jpg",
        "anger/Thumbs.db",
        "neutral/m02_ng.jpg",
        "surprise/m02_x_y_PG1.jpg",
        "happy/broken.jpg",
    )


def test_tfeid(models):
    found = tfeid.parse(models)
    assert [(s.label, s.subject, s.sequence) for s in found.samples] == [
        ("angry", "f01", "anger/f01_h_ag12"),
        ("neutral", "m02", "neutral/m02_ng"),
        ("surprise", "m02", "surprise/m02_x_y_PG1"),
    ]
    assert found.reasons == {"hidden or thumbnail file": 1, "name does not match the pattern": 1}
    assert (found.expected, len(found.names)) == (580, 7)


def test_tfeid_contempt_needs_its_code(models):
    make(models, "contempt/f01_h_cg12.jpg")
    with pytest.raises(CorpusError, match=r"unknown label 'cg'; tfeid has ag angry, .*write it as codes\.csv"):
        tfeid.parse(models)
    (models / "codes.csv").write_text("code,label\ncg,contempt\n")
    found = tfeid.parse(models)
    assert (found.labels["contempt"], found.names[-1], found.expected) == (1, "contempt", None)
    left_out = tfeid.parse(models, codes={"cg": ""})
    assert (len(left_out), left_out.expected) == (3, 580)
    assert left_out.reasons["code cg left out by the code map"] == 1


def test_tfeid_other_pattern(tmp_path):
    root = make(tmp_path / "tfeid", "AG-f01.jpg", "HG-m03.jpg")
    found = tfeid.parse(root, pattern=r"(?P<code>..)-(?P<subject>.+)")
    assert [(s.label, s.subject) for s in found.samples] == [("angry", "f01"), ("happy", "m03")]
    with pytest.raises(CorpusError, match="expected groups subject and code"):
        tfeid.parse(root, pattern="(..)-(.+)")
    with pytest.raises(CorpusError, match="expected a regular expression"):
        tfeid.parse(root, pattern="(")


@pytest.fixture
def films(tmp_path):
    return make(
        tmp_path / "SFEW_2",
        "Train/Train_Aligned_Faces/Angry/Airheads_000519240_00000005.png",
        "Train/Train_Aligned_Faces/Angry/Airheads_000519240_00000009.png",
        "Train/Train_Aligned_Faces/happy/21_Jump_Street_001_00000001.png",
        "Train/Train_Aligned_Faces/Angry/.DS_Store",
        "Train/Train_Aligned_Faces/stray_1_2.png",
        "Train/Angry/Airheads_000519240_00000005.png",
        "Train/LPQ.mat",
        "Val/Val_Aligned_Faces_new/Surprise/Juno_010203040_00000001.png",
        "Test/Test_Aligned_Faces/Juno_000000001_00000001.png",
    )


def test_sfew(films):
    found = sfew.parse(films)
    assert [(s.label, s.subject, s.sequence, s.split, s.fact("film")) for s in found.samples] == [
        ("angry", None, "Airheads_000519240", "train", "Airheads"),
        ("angry", None, "Airheads_000519240", "train", "Airheads"),
        ("happy", None, "21_Jump_Street_001", "train", "21_Jump_Street"),
        ("surprise", None, "Juno_010203040", "val", "Juno"),
    ]
    assert found.reasons == {
        "whole frame, not an aligned face": 1,
        "hidden or thumbnail file": 1,
        "not in a label folder": 1,
        "not a picture": 1,
        "test picture without a label": 1,
    }
    assert found.splits == {"train": 3, "val": 1}
    assert found.expected == 1394


def test_sfew_root_above_and_below_and_whole_frames(films):
    assert len(sfew.parse(films.parent)) == 4
    assert len(sfew.parse(films / "Train")) == 4
    whole = sfew.parse(films, aligned=False)
    assert [s.source for s in whole.samples] == [films / "Train/Angry/Airheads_000519240_00000005.png"]


def test_sfew_refuses_an_unknown_label_folder(films):
    make(films, "Val/Val_Aligned_Faces_new/Contempt/Juno_1_2.png")
    with pytest.raises(CorpusError, match=r"Contempt: unknown label 'Contempt'; sfew has angry, disgust, .*surprise;"):
        sfew.parse(films)


def test_sfew_with_nothing_but_whole_frames_says_so(tmp_path):
    make(tmp_path, "Train/Angry/Airheads_000519240_00000005.png")
    with pytest.raises(CorpusError, match=r"no sfew samples found \(1 x whole frame, not an aligned face\); expected"):
        sfew.parse(tmp_path)
