"""Manifests, class folders, and BAUM-2i, which is only ever read by a manifest."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.datasets import baum2i, manifest
from train.datasets.errors import CorpusError


def make(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".png":
            cv2.imwrite(str(file), np.zeros((4, 4), np.uint8))
        else:
            file.touch()
    return root


@pytest.fixture
def listed(tmp_path):
    root = make(tmp_path / "own", "a/1.png", "b.avi", "run/f2.png", "run/f10.png", "run/notes.txt", "void/x.txt")
    (root / "manifest.csv").write_text(
        "\ufeffPath, Label,subject,sequence,split,gender\n"
        "a/1.png, Anger, p1 ,take1,Training,female\n"
        "b.avi,happy,,,val,\n"
        "run,SURPRISED,p2,,test,male\n"
        "gone.png,fear,p2,,,\n"
        "void,fear,p2,,,\n"
        ",fear,p2,,,\n",
        encoding="utf-8",
    )
    return root


def test_manifest(listed):
    found = manifest.parse(listed)
    assert [(s.kind, s.label, s.subject, s.sequence, s.split, s.fact("gender")) for s in found.samples] == [
        ("picture", "angry", "p1", "take1", "train", "female"),
        ("video", "happy", None, "b", "val", None),
        ("frames", "surprise", "p2", "run", "test", "male"),
    ]
    assert [frame.name for frame in found.samples[2].files] == ["f2.png", "f10.png"]
    assert found.names == ("angry", "happy", "surprise")
    assert found.reasons == {
        "no such file": 1,
        "not a picture, a video or a folder of pictures": 1,
        "row without a path": 1,
    }
    assert "no published count" in found.report()
    assert manifest.parse(listed / "manifest.csv").samples == found.samples


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,label\nb.avi,XZ\n", r"manifest\.csv:2: unknown label 'XZ'; manifest has angry, .*codes\.csv"),
        ("path,label\nb.avi,\n", "unknown label ''"),
        ("path,label,split\nb.avi,sad,dev\n", r"manifest\.csv:2: unknown split 'dev'; expected train, val, test"),
        ("file,label\nb.avi,sad\n", r"header is 'file,label'; expected path,label,subject,sequence,split"),
        ("", r"header is ''; expected path,label"),
        ("path,label\nnone.avi,sad\n", r"no manifest samples found \(1 x no such file\)"),
    ],
)
def test_bad_manifests_are_refused(listed, text, why):
    (listed / "manifest.csv").write_text(text)
    with pytest.raises(CorpusError, match=why) as refusal:
        manifest.parse(listed)
    assert "\n" not in str(refusal.value)


def test_manifest_codes(listed):
    (listed / "manifest.csv").write_text("path,label\nb.avi,7\na/1.png,8\n")
    (listed / "codes.json").write_text('{"7": "neutral", "8": ""}')
    found = manifest.parse(listed)
    assert found.labels == {"neutral": 1}
    assert found.reasons == {"label '8' left out by the code map": 1}


@pytest.fixture
def classes(tmp_path):
    return make(
        tmp_path / "CK+48",
        "anger/S010_004_00000017.png",
        "anger/S010_004_00000018.png",
        "Happy/S130_012_00000005.png",
        "Happy/someone.png",
        "Happy/Thumbs.db",
        "Happy/list.txt",
    )


def test_class_folders(classes):
    found = manifest.parse(classes, expected=981, expected_from="three frames of 327 sequences")
    assert [(s.label, s.subject, s.sequence, s.split) for s in found.samples] == [
        ("angry", "S010", "S010_004", None),
        ("angry", "S010", "S010_004", None),
        ("happy", "S130", "S130_012", None),
        ("happy", None, "Happy/someone", None),
    ]
    assert found.reasons == {"hidden or thumbnail file": 1, "not a picture or a video": 1}
    assert "4 samples found" in found.report()
    assert "981 expected (-977), by three frames of 327 sequences" in found.report()


def test_class_folders_in_splits(tmp_path):
    root = make(
        tmp_path, "train/sad/S1_1_1.png", "Validation/fear/S2_1_1.png", "test/sad/S3_1_1.png", "extra/sad/a.png"
    )
    found = manifest.parse(root)
    assert [(s.label, s.subject, s.split) for s in found.samples] == [
        ("sad", "S3", "test"),
        ("sad", "S1", "train"),
        ("fear", "S2", "val"),
    ]
    assert found.skipped == ((root / "extra", "beside the train, val and test folders"),)


def test_class_folders_other_names_and_labels(classes):
    make(classes, "weird/S1_2_3.png")
    with pytest.raises(CorpusError, match="weird: unknown label 'weird'; manifest has angry"):
        manifest.parse(classes)
    found = manifest.parse(classes, codes={"weird": "unsure"}, pattern=r"(?P<sequence>(?P<subject>some).*)")
    assert [s.subject for s in found.samples if s.subject] == ["some"]
    assert found.labels["unsure"] == 1
    with pytest.raises(CorpusError, match="expected groups subject and sequence"):
        manifest.parse(classes, pattern="(.+)")
    with pytest.raises(CorpusError, match="expected a regular expression"):
        manifest.parse(classes, pattern="(")


def test_baum2i(tmp_path):
    root = make(tmp_path / "BAUM2i", "S003_001.png", "S004_002.png")
    (root / "manifest.csv").write_text("path,label,subject,gender\nS003_001.png,3,S003,m\nS004_002.png,8,S004,f\n")
    with pytest.raises(CorpusError, match=r"unknown label '3'; baum2i has .*codes\.csv with the header code,label"):
        baum2i.parse(root)
    found = baum2i.parse(root, codes={"3": "disgust", "8": "surprise"})
    assert [(s.label, s.subject, s.fact("gender")) for s in found.samples] == [
        ("disgust", "S003", "m"),
        ("surprise", "S004", "f"),
    ]
    assert (found.name, found.expected) == ("baum2i", 998)
    assert "Xie et al. 2019" in found.expected_from


def test_baum2i_without_a_manifest_says_what_to_write(tmp_path):
    make(tmp_path, "S003_001.png")
    with pytest.raises(
        CorpusError, match=r"write manifest\.csv with the header path,label,subject,.*gender, and codes"
    ):
        baum2i.parse(tmp_path)
