"""What all loaders share: samples, the corpus' report, finding the root, and the table."""

from pathlib import Path

import pytest

from train.datasets import CORPORA, PICTURES, find
from train.datasets.disk import is_junk, natural, read_codes
from train.datasets.errors import CorpusError
from train.datasets.samples import Corpus, Sample, word


def make(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def corpus() -> Corpus:
    root = Path("/corpora/x")
    samples = (
        Sample(root / "a.png", "happy", "s1", "a", "train"),
        Sample(root / "b.avi", "sad", "s1", "b", "val"),
        Sample((root / "c/1.png", root / "c/2.png"), "happy", None, "c", "train"),
    )
    skipped = ((root / "readme.txt", "not a picture"), (root / "d.png", "no label"), (root / "e.png", "no label"))
    return Corpus("x", root, ("sad", "happy", "fear"), samples, 4, "Someone 2000", skipped)


def test_sample_knows_what_it_is_and_cannot_change():
    kinds = [sample.kind for sample in corpus().samples]
    assert kinds == ["picture", "video", "frames"]
    sample = corpus().samples[0]
    assert not hasattr(sample, "__dict__")
    with pytest.raises(AttributeError):
        sample.label = "sad"  # type: ignore[misc]
    assert Sample(Path("a.png"), "sad", None, "a", facts=(("view", "2"),)).fact("view") == "2"
    assert sample.fact("view") is None


def test_report_tells_expected_found_labels_subjects_splits_and_reasons():
    assert corpus().report().splitlines() == [
        "x: 3 samples found in /corpora/x, 4 expected (-1), by Someone 2000",
        "  labels: sad 1, happy 2, fear 0",
        "  subjects: 1, 2 to 2 samples each, 1 samples without one: s1 2",
        "  splits: train 2, val 1",
        "  skipped: 3",
        "    2 x no label, as d.png",
        "    1 x not a picture, as readme.txt",
    ]


def test_only_keeps_the_named_labels_in_that_order_and_says_what_it_left():
    kept = corpus().only(("happy",), 2, "Someone else")
    assert (kept.names, len(kept), kept.expected, kept.expected_from) == (("happy",), 2, 2, "Someone else")
    assert kept.reasons["sad not asked for"] == 1
    with pytest.raises(CorpusError, match=r"x has no label 'calm'; expected some of sad, happy, fear; ask for those"):
        corpus().only(("calm",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anger", "angry"),
        (" happiness ", "happy"),
        ("SURPRISE", "surprise"),
        ("joy", "happy"),
        ("an", None),
        ("", None),
    ],
)
def test_word(text, expected):
    assert word(text) == expected


def test_natural_order_and_junk():
    names = sorted((Path(name) for name in ("s10", "S2", "s1", "readme", "7")), key=natural)
    assert [path.name for path in names] == ["7", "readme", "s1", "S2", "s10"]
    junk = (".DS_Store", "Thumbs.db", "cache.DB", "._a.png", "__MACOSX", "desktop.ini")
    assert all(is_junk(Path(name)) for name in junk)
    assert not is_junk(Path("KA.AN1.39.tiff"))


PARSERS = sorted(set(CORPORA) - {"manifest"})


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_missing_and_empty_folders_are_refused_in_one_line(name, tmp_path):
    with pytest.raises(CorpusError, match=r"no such folder; expected .+; give the folder that holds it") as missing:
        find(name, tmp_path / "nowhere")
    (tmp_path / "empty" / "void").mkdir(parents=True)
    (tmp_path / "empty" / "void" / ".DS_Store").touch()
    with pytest.raises(CorpusError, match=r"empty folder; expected .+; unpack the corpus there") as empty:
        find(name, tmp_path / "empty" / "void")
    for error in (missing, empty):
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PARSERS)
def test_a_folder_of_something_else_is_refused_with_the_layout_expected(name, tmp_path):
    root = make(tmp_path, "deep/photos/2019/holiday.jpg", "deep/photos/notes.txt") / "deep" / "photos"
    with pytest.raises(CorpusError, match=r"manifest\.csv|code map") as refusal:
        find(name, root)
    assert "\n" not in str(refusal.value)
    assert "expected" in str(refusal.value) or name == "baum2i"


def test_unknown_corpus():
    with pytest.raises(CorpusError, match=r"unknown corpus 'affectnet'; expected one of afew, baum1s, .*manifest"):
        find("affectnet", Path())


def test_manifest_in_the_folder_replaces_the_layout(tmp_path):
    make(tmp_path, "KA.AN1.39.tiff", "other.png")
    (tmp_path / "manifest.csv").write_text("path,label,subject\nother.png,Joy,QQ\n")
    found = find("jaffe", tmp_path)
    assert [(s.label, s.subject, s.source) for s in found.samples] == [("happy", "QQ", tmp_path / "other.png")]
    assert found.name == "jaffe"
    with pytest.raises(CorpusError, match=r"read in place of ckplus's own layout, where peak means nothing"):
        find("ckplus", tmp_path, peak=3)


def test_tables_hold_every_corpus_once():
    thirteen = ["afew", "baum1s", "baum2i", "ckplus", "enterface", "fer2013", "jaffe", "mmi", "nimstim", "rml", "savee"]
    thirteen += ["sfew", "tfeid"]
    assert sorted(CORPORA) == sorted([*thirteen, "manifest"])
    assert list(PICTURES) == ["fer2013"]


def test_two_roots_in_one_folder_are_not_chosen_between(tmp_path):
    make(tmp_path, "old/KA.AN1.39.tiff", "new/KA.AN1.39.tiff")
    with pytest.raises(CorpusError, match=r"more than one JAFFE in it \(new, old\); expected one root; give one"):
        find("jaffe", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("codes.csv", "code,label\n1,cross\n", "code '1' is mapped to 'cross'; expected one of angry, "),
        ("codes.csv", "number,label\n1,angry\n", "not a map of label codes"),
        ("codes.csv", "code,label\n", "holds no code; expected codes.csv"),
        ("codes.json", "[1, 2]", "not a map of label codes .*expected codes.csv with the header code,label"),
        ("codes.json", "{", "not a map of label codes"),
    ],
)
def test_bad_code_maps_are_refused(name, text, why, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=why):
        read_codes("mmi", tmp_path, None)


def test_code_maps_from_csv_json_and_elsewhere(tmp_path):
    assert read_codes("mmi", tmp_path, None) is None
    with pytest.raises(CorpusError, match=r"no such file; expected codes\.csv with the header"):
        read_codes("mmi", tmp_path, tmp_path / "codes.csv")
    (tmp_path / "Codes.CSV").write_text("code,label\nAG,Anger\n9,\n")
    assert read_codes("mmi", tmp_path, None) == {"ag": "angry", "9": ""}
    (tmp_path / "mine.json").write_text('{"1": "fear"}')
    assert read_codes("mmi", tmp_path, tmp_path / "mine.json") == {"1": "fear"}
    assert read_codes("mmi", tmp_path, {"2": "sadness"}) == {"2": "sad"}
