"""The command that measures every bundle: what it prints, what it keeps, what it refuses."""

import json

import pytest

from benchmarks.accuracy import main


def test_from_the_command_line(toy_corpus, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--data", str(toy_corpus), "--pictures", "40", "--precision", "fp32,int8", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "accuracy.json").read_text())
    assert found["pictures"] == 40
    assert list(found["bundles"]["face"]["precisions"]) == ["fp32", "int8"]
    assert (out / "accuracy.md").read_text() == printed
    assert not (out / "robust.svg").exists()


def test_refusals(toy_corpus, tmp_path, capsys):
    assert main(["--data", str(tmp_path)]) == 2
    assert "expected FER2013's public_test.npz there (--data FOLDER)" in capsys.readouterr().err
    assert main(["no-such-bundle", "--data", str(toy_corpus)]) == 2
    assert "no-such-bundle" in capsys.readouterr().err
    assert main(["--data", str(toy_corpus), "--precision", "fp8"]) == 2
    assert "fp8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--pictures", "1"])
    (tmp_path / "file").touch()
    assert main(["--data", str(toy_corpus), "--pictures", "9", "--out", str(tmp_path / "file")]) == 2
    assert "give another folder with --out" in capsys.readouterr().err
