"""What a result says, and that it says SYNTHETIC wherever it must."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from train import metrics, report
from train.report import FoldResult, Reference, ReportError, Result

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


PRINTED = Reference(97.41, "Li et al. 2019, Table 3")


def result(synthetic=False, reference=PRINTED, folds=4, **more):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 400)
    guess = np.where(rng.random(400) < 0.85, labels, rng.integers(0, 7, 400))
    names = [f"{1 + i % folds:02d}" for i in range(400)]
    figures = metrics.evaluate(
        np.eye(7)[guess], labels, NAMES, folds=names, subjects=[f"S{i % 40}" for i in range(400)]
    )
    rows = tuple(
        FoldResult(name, 300, 100, 100, accuracy, 0.8, 0.8, 0, 0, 1.5) for name, accuracy in figures["folds"].items()
    )
    made = Result(
        family="cspp",
        system="C-SPP",
        corpus="ckplus",
        test_on=None,
        protocol="kfold:4",
        claim="subject-independent",
        seed=3,
        names=NAMES,
        config={"variant": "cspp"},
        recipe={"epochs": 50},
        folds=rows,
        figures=figures,
        averaged=False,
        synthetic=synthetic,
        skipped={"no label": 266},
        failed={"no face": 2},
        reference=reference,
    )
    return replace(made, **more)


def test_result_json_holds_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "train", "crossval", "--data", "my faces"])
    whole = result(synthetic=True)
    report.write(whole, tmp_path)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["synthetic"] is True
    assert (stored["protocol"], stored["seed"], stored["claim"]) == ("kfold:4", 3, "subject-independent")
    assert (stored["skipped"], stored["failed"]) == ({"no label": 266}, {"no face": 2})
    assert stored["reference"] == {"accuracy": 97.41, "source": "Li et al. 2019, Table 3"}
    assert stored["figures"]["fold_mean"] == pytest.approx(np.mean(list(whole.figures["folds"].values())))
    assert {"python", "numpy", "scikit-learn", "torch"} <= stored["versions"].keys()
    assert stored["command"] == "-m train crossval --data 'my faces'"
    assert stored["config"] == {"variant": "cspp"}
    again = report.read(tmp_path)
    assert again.folds == whole.folds
    assert again.reference == whole.reference
    assert report.summary([again]) == report.summary([whole])


def test_commit_is_the_checkouts(tmp_path, monkeypatch):
    head = subprocess.run(["git", "-C", str(report._ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert report.commit().split("+")[0] == head.stdout.strip()
    # A folder inside of some checkout, as an installed package's, is not the checkout.
    monkeypatch.setattr(report, "_ROOT", report._ROOT / "train")
    assert report.commit() is None
    monkeypatch.setattr(report, "_ROOT", tmp_path)
    assert report.commit() is None


def test_result_csv_has_a_row_a_fold(tmp_path):
    whole = result()
    report.write(whole, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "result.csv").read_text())))
    assert [row["name"] for row in rows] == ["01", "02", "03", "04"]
    assert [float(row["accuracy"]) for row in rows] == [fold.accuracy for fold in whole.folds]


def test_summary_puts_the_papers_number_beside_ours():
    whole = result()
    mean = 100 * whole.figures["fold_mean"]
    text = report.summary([whole, replace(whole, corpus="jaffe", reference=None)])
    ours, other = text.splitlines()[2:4]
    assert re.search(
        rf"cspp +ckplus +kfold:4 +97\.41 +{mean:.2f} ± \d+\.\d\d +\d+\.\d\.\.\d+\.\d +{mean - 97.41:+.2f}$", ours
    )
    assert re.search(r"jaffe +kfold:4 +- ", other)
    assert other.endswith("-")
    assert "paper: Li et al. 2019, Table 3" in text
    assert "SYNTHETIC" not in text
    assert "SYNTHETIC" in report.summary([result(synthetic=True)])


def test_summary_admits_what_a_protocol_does_not_hold():
    text = report.summary([result(claim="NOT subject-independent: divided by sequence", note="dark frames")])
    assert "NOT subject-independent" in text.splitlines()[2]
    assert "note: dark frames" in text


def drawn(whole):
    """The words on the picture, and the picture itself."""
    from matplotlib.figure import Figure

    words = []
    original = Figure.savefig

    def spy(self, *arguments, **more):
        words.extend(text.get_text() for text in self.findobj(match=lambda part: hasattr(part, "get_text")))
        return original(self, *arguments, **more)

    Figure.savefig = spy
    try:
        content = report.picture(whole)
    finally:
        Figure.savefig = original
    return words, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def test_the_picture_shows_counts_shares_and_the_headline():
    whole = result(synthetic=True, test_on="jaffe")
    words, pixels = drawn(whole)
    assert "SYNTHETIC  cspp on ckplus → jaffe" in words
    assert any(whole.headline in word and "kfold:4" in word for word in words)
    confusion = np.array(whole.figures["confusion"])
    for row, counts in enumerate(confusion):
        assert str(counts[row]) in words
        assert f"{100 * counts[row] / counts.sum():.1f} %".replace(".0 ", " ") in words
    assert pixels.shape[0] > 700
    assert pixels.shape[1] > 700
    assert not any("SYNTHETIC" in word for word in drawn(result())[0])


@pytest.mark.parametrize("size", [2, 3, 13])
def test_pictures_of_few_and_of_many_classes(size):
    names = tuple(f"name {i}" for i in range(size))
    figures = {**result().figures, "confusion": (50 * np.eye(size, dtype=int)).tolist()}
    words, pixels = drawn(result(names=names, figures=figures))
    assert words.count("100 %") == size
    assert (pixels < 200).any()


def test_headline_of_a_single_fold_has_no_deviation():
    single = result(folds=1)
    assert "±" not in single.headline
    assert re.fullmatch(r"\d+\.\d\d % \[95 %: \d+\.\d, \d+\.\d\]", single.headline)
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d % over 4 folds, pooled \d+\.\d\d % \[.*\]", result().headline)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ReportError, match="no such result; expected the folder of a finished run"):
        report.read(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ReportError, match="not a result"):
        report.read(tmp_path)
    (tmp_path / "result.json").write_text('{"format": 99}')
    with pytest.raises(ReportError, match="format 99; expected 1"):
        report.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    report.put(tmp_path / "x", b"old")

    def refuse(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        report.put(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
