"""``python -m train crossval`` and ``paper`` as a researcher types them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise")
QUICK = ["--variant", "baseline", "--hidden", "16", "--batch-norm", "--epochs", "2", "--batch", "32", "--jitter", "0"]
QUICK += ["--optimizer", "adamw", "--learning-rate", "0.003"]


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """Class folders of 48x48 pictures whose names carry subject and sequence: S010_004_00000017.png."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for subject in range(16):
        for code, name in enumerate(NAMES):
            (root / name).mkdir(exist_ok=True)
            for frame in (16, 17):
                picture = rng.integers(0, 90, (48, 48))
                row, column = divmod(code, 3)
                y, x = 4 + 15 * row + rng.integers(0, 3), 4 + 15 * column + rng.integers(0, 3)
                picture[y : y + 10, x : x + 10] += 140
                path = root / name / f"S{subject:03d}_{code + 1:03d}_{frame:08d}.png"
                cv2.imwrite(str(path), picture.astype(np.uint8))
    return root


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


def test_eight_folds_by_subject(class_folders, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["crossval", "cspp", "--data", class_folders, "--out", out, "--cache", tmp_path / "cache", *QUICK]
    arguments += ["--epochs", "3", "--batch", "16", "--hidden", "64"]
    assert main([str(argument) for argument in arguments]) == 0
    shown = capsys.readouterr().out
    assert "manifest: 192 samples found" in shown
    assert "fold-08" in shown
    result = json.loads((out / "result.json").read_text())
    assert len(result["folds"]) == 8
    assert all(fold["shared_subjects"] == 0 for fold in result["folds"])
    assert result["figures"]["accuracy"] > 0.9
    assert sum(fold["test"] for fold in result["folds"]) == 192
    assert (out / "confusion.png").stat().st_size > 10_000
    assert (out / "result.csv").read_text().count("\n") == 9
    # Finished folds are taken over: nothing is trained again.
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("fold-*/best.pt")}
    assert main([str(argument) for argument in [*arguments, "--resume"]]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("fold-*/best.pt")} == stamps


def test_bad_input(class_folders, tmp_path, capsys, toy_corpus):
    start = ["crossval", "cspp", "--out", tmp_path / "out", "--cache", tmp_path / "cache", *QUICK]
    (tmp_path / "empty").mkdir()
    assert "expected FER2013" in refused(capsys, *start, "--data", tmp_path / "empty")
    assert "manifest" in refused(capsys, *start, "--data", tmp_path / "empty", "--corpus", "manifest")
    one = tmp_path / "one"
    for name in NAMES:
        (one / name).mkdir(parents=True)
        for path in (class_folders / name).glob("S000_*.png"):
            (one / name / path.name).write_bytes(path.read_bytes())
    assert "8" in (message := refused(capsys, *start, "--data", one))
    assert "subject" in message
    assert "protocol" in refused(capsys, *start, "--data", class_folders, "--protocol", "bootstrap")
    assert "subject" in refused(capsys, *start, "--data", toy_corpus), "FER2013 has no subjects to divide by"
    assert "expected CORPUS=FOLDER" in refused(capsys, *start, "--data", class_folders, "--test-on", "nowhere")
    assert "label" in refused(capsys, *start, "--data", class_folders, "--test-on", f"fer2013={toy_corpus}")
    assert "has no label 'bored'" in refused(capsys, *start, "--data", class_folders, "--labels", "happy,bored")
    assert "expected NAME=VALUE" in refused(capsys, *start, "--data", class_folders, "--option", "peak")
    assert "unknown C-SPP variant" in refused(capsys, *start[:4], "--data", class_folders, "--variant", "plain9")


def test_a_paper_without_its_corpora_says_which(tmp_path, capsys):
    assert main(["paper", "li2019", "--out", str(tmp_path), "--list"]) == 0
    shown = capsys.readouterr().out
    assert "missing corpora: ckplus, jaffe, mmi, nimstim" in shown
    assert "no row of li2019 can be run; give its corpora" in refused(capsys, "paper", "li2019", "--out", tmp_path)


def test_a_papers_row_runs(tmp_path, capsys):
    """JAFFE in miniature, as it lies on disk: 256x256 tiffs of a face."""
    from edge.synthetic import PORTRAIT

    face = cv2.resize(cv2.imread(str(PORTRAIT), cv2.IMREAD_GRAYSCALE)[20:240, 110:340], (256, 256))
    jaffe = tmp_path / "jaffe"
    jaffe.mkdir()
    number = 0
    for subject in ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM"):
        for code, word in enumerate(("AN", "DI", "FE", "HA", "SA", "SU")):
            number += 1
            picture = np.roll(face, (number, 2 * code), (0, 1)).astype(int) + 8 * code
            cv2.imwrite(str(jaffe / f"{subject}.{word}1.{number}.tiff"), picture.clip(0, 255).astype(np.uint8))
    arguments = [
        "paper",
        "li2019",
        "--data",
        f"jaffe={jaffe}",
        "--only",
        "jaffe, kfold",
        "--out",
        str(tmp_path / "out"),
    ]
    arguments += [
        "--cache",
        str(tmp_path / "cache"),
        "--epochs",
        "1",
        "--jitter",
        "0",
        "--workers",
        "1",
        "--batch",
        "32",
    ]
    arguments += ["--leaks", "list"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "68.85" in shown, "the paper's number stands beside ours"
    (result,) = (tmp_path / "out").glob("*/result.json")
    stored = json.loads(result.read_text())
    assert stored["reference"]["accuracy"] == 68.85
    assert len(stored["folds"]) == 10


def test_onset_clips_are_marked_as_made_up(tmp_path, capsys, shared):
    """Of a few real FER2013 faces; landmarks can't be found in toy pictures."""
    with np.load(shared / "fer2013" / "train.npz") as stored:
        chosen = np.concatenate([np.flatnonzero(stored["y"] == code)[:14] for code in range(7)])
        np.savez(tmp_path / "train.npz", x=stored["x"][chosen], y=stored["y"][chosen])
    arguments = ["conv_lstm", "--data", str(tmp_path), "--onsets", "--epochs", "1", "--batch", "8", "--filters", "4"]
    assert main([*arguments, "--units", "4", "--held-out", "0.2", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "SYNTHETIC onset clips made of them" in shown
    assert "SYNTHETIC motion" in shown
    from train.checkpoint import load

    assert load(tmp_path / "out" / "best.pt").synthetic
    assert "expected the family conv_lstm" in refused(
        capsys, "two_stream", "--data", tmp_path, "--onsets", "--out", tmp_path / "o"
    )


def test_a_full_disk_keeps_the_last_good_checkpoint(toy_corpus, tmp_path):
    """The file size is limited, which the system answers like a disk without room."""
    code = (
        "import resource, signal, sys; from train.__main__ import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY));"
        "sys.exit(main(sys.argv[2:]))"
    )
    arguments = ["cspp", "--data", str(toy_corpus), "--out", str(tmp_path / "out"), *QUICK, "--held-out", "0.2"]

    def run(limit, *more):
        command = [sys.executable, "-c", code, str(limit), *arguments, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    whole = run(1 << 30, "--epochs", "1")
    assert whole.returncode == 0, whole.stderr
    before = (tmp_path / "out" / "last.pt").read_bytes()
    full = run(1 << 20)
    assert full.returncode == 2, full.stderr
    assert "the checkpoint can't be written" in full.stderr
    assert "the last good one stays; make room and --resume" in full.stderr
    assert (tmp_path / "out" / "last.pt").read_bytes() == before
    assert not list((tmp_path / "out").glob(".*pt*"))


def test_the_loops_cost_is_measured(toy_corpus):
    from train.speed import measure

    assert measure(toy_corpus, rounds=3, batch=32) > 0.5


def test_finished_crops_of_another_size(class_folders, tmp_path, capsys):
    """No face is found in toy pictures, and none is sought in what is said to be crops; a trunk is loaded by name."""
    from train.models.trunks import VGG16

    trunk = tmp_path / "vgg.pth"
    torch.save(VGG16(1000, width=1 / 64).state_dict(), trunk)
    arguments = [
        "dam_cnn",
        "--data",
        class_folders,
        "--cache",
        tmp_path / "cache",
        "--variant",
        "vgg_serd",
        "--epochs",
        "1",
    ]
    arguments += ["--width", 1 / 64, "--batch", "32", "--out", tmp_path / "out", "--workers", "1", "--trunk", trunk]
    assert "no face found" in refused(capsys, *arguments)
    assert main([str(argument) for argument in [*arguments, "--cropped"]]) == 0
    out = capsys.readouterr().out
    assert "192 examples to learn from" in out
    assert "setting 5% of them aside" in out
    torch.save({**VGG16(1000, width=1 / 64).state_dict(), "features.0.weight": torch.zeros(9, 3, 3, 3)}, trunk)
    message = refused(capsys, *arguments, "--cropped", "--out", tmp_path / "other")
    assert "features.0.weight has shape (9, 3, 3, 3), expected (1, 3, 3, 3)" in message
