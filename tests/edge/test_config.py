"""edge.toml: every key checked, the command line wins, and what would run is what runs."""

import importlib.util
import json
import sys

import pytest
from refusals import refused

from edge import config
from edge.__main__ import _parser, main


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "edge.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def run_parser():
    return _parser().parse_args(["run", "0"]).parser


def test_a_run_as_the_file_says(toml, tmp_path, capfd):
    target = tmp_path / "faces.jsonl"
    file = toml(f'source = "synthetic://?frames=6"\nlandmarks = 5\njsonl = "{target}"\nmax-frames = 4\n')
    assert main(["run", "--config", str(file)]) == 0
    assert len(target.read_text().splitlines()) == 4


def test_the_command_line_wins(toml, capfd):
    file = toml('source = "nowhere.mp4"\nlandmarks = "5"\njsonl = "never.jsonl"\nmax-frames = 4\n')
    source = "synthetic://?frames=6"
    assert main(["run", source, "--config", str(file), "--jsonl", "-", "--max-frames", "2"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["frame"] for row in rows] == [0, 1]


def test_without_leaves_out_what_the_file_says(toml, tmp_path, capfd):
    target = tmp_path / "never.jsonl"
    file = toml(f'source = "synthetic://?frames=2"\nlandmarks = 5\njsonl = "{target}"\npreview = true\n')
    assert main(["run", "--config", str(file), "--without", "jsonl,preview"]) == 0
    assert "preview at" not in capfd.readouterr().out
    assert not target.exists()
    assert "no such key; expected of source, " in refused(capfd, "run", "--config", file, "--without", "jsonll")
    assert "--without is for what --config says" in refused(capfd, "run", "0", "--without", "jsonl")


def test_each_option_of_run_is_a_key(run_parser):
    names = set(config.keys(run_parser))
    assert {"source", "bundle", "backend", "precision", "min-face", "preview", "privacy", "budget-ms"} <= names
    longs = {option for action in run_parser._actions for option in action.option_strings if option.startswith("--")}
    assert {f"--{name}" for name in names - {"source"}} == longs - {"--help", "--config", "--without"}


def test_what_is_shown_can_be_used(run_parser, toml, capfd):
    """Every example and default, with its mark taken off, is a value that its option takes."""
    assert main(["config", "show"]) == 0
    text = capfd.readouterr().out
    keys = [line for line in text.splitlines() if line.startswith("#") and line[1:2] not in ("", " ")]
    file = toml("\n".join(line[1:] for line in keys))
    assert set(config.load(file, run_parser)) >= set(config.keys(run_parser)) - {"record-private", "privacy"}
    assert config.load(toml(text), run_parser) == {}, "as it stands nothing is in force"


def test_check_says_what_would_run(toml, capfd):
    file = toml('source = "rtsp://me:secret@10.0.0.1/a?key=1"\nprecision = "fp32"\nprivacy = true\n')
    assert main(["config", "check", str(file)]) == 0
    out = capfd.readouterr().out
    assert f"{file}: good; edge run --config {file} would run" in out
    assert "source          rtsp://10.0.0.1/a\n" in out
    assert "secret" not in out
    assert "precision       fp32\n" in out
    assert "backend         auto  (default)\n" in out
    assert "privacy         yes\n" in out
    assert "angry, disgust, fear, happy, sad, surprise, neutral" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sauce = 1", "unknown key 'sauce'; did you mean source?"),
        ("min_face = 60", "unknown key 'min_face'; did you mean min-face?"),
        ("qqq = 60", "unknown key 'qqq'; expected of source, bundle, "),
        ("config = 'a'", "unknown key 'config'"),
        ("[source]\na = 1", "source is a section, and there are none; write  source = ... above the first [...]"),
        ("min-face = '60'", 'min-face = "60" is not a whole number'),
        ("min-face = 60.5", "min-face = 60.5 is not a whole number"),
        ("min-face = true", "min-face = true is not a whole number"),
        ("budget-ms = '3'", 'budget-ms = "3" is not a number'),
        ("privacy = 1", "privacy = 1 is not true or false"),
        ("privacy = 'yes'", 'privacy = "yes" is not true or false'),
        ("precision = 'int4'", 'precision = "int4" is not one of "auto", "fp32", "fp16", "int8"'),
        ("landmarks = 7", 'landmarks = 7 is not one of "5", "68"'),
        ("jsonl = true", "jsonl = true is not text in quotation marks"),
        ("jsonl = ''", 'jsonl = "" is not text in quotation marks'),
        ("source = '0'\nros = 'http://a'", "--ros 'http://a': expected zenoh://HOST:PORT or dds://"),
        ("source = '0'\nmqtt = 'a'", "--mqtt 'a': expected mqtt://HOST:1883/PREFIX"),
        ("preview = 1.5", "preview = 1.5 is not text in quotation marks, true or false"),
        ("source = v4l2", "not TOML (Invalid value (at line 1, column 10))"),
        ("source = '0'\nsource = '1'", "not TOML (Cannot overwrite a value"),
        ("landmarks = '5'", "names no source"),
        ("source = '0'\nprivacy = true\nvideo = 'a.mp4'", "--privacy writes no picture"),
        ("source = '0'\nmax-frames = 0", "--max-frames 0: expected 1 or more"),
        ("source = '0'\npreview = 'a b'", "--preview 'a b': expected HOST:PORT"),
        ("source = '0'\nbundle = 'none'", "no such bundle"),
    ],
)
def test_every_key_is_checked(toml, capfd, text, expected):
    assert expected in refused(capfd, "config", "check", toml(text))


def test_false_says_nothing(toml, run_parser):
    assert config.load(toml("preview = false\nprivacy = false"), run_parser) == {}


def test_a_file_that_is_not_there(tmp_path, capfd):
    for command in (["run", "--config"], ["config", "check"]):
        refusal = refused(capfd, *command, tmp_path / "none.toml")
        assert "none.toml: can't be read (No such file or directory); to begin one, type: edge config show" in refusal
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in refused(capfd, "config", "check", tmp_path / "binary.toml")
    assert "/etc/edge/edge.toml" in str(config.SYSTEM)


def test_python_3_10_is_told_what_to_install(toml, monkeypatch, capfd):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert "a configuration file needs tomli; type: pip install tomli" in refused(capfd, "config", "check", toml(""))


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("ros = true", "rosbags"),
        ("ros = 'dds'", "cyclonedds"),
        ("mqtt = 'mqtt://a'", "paho"),
        ("preview = 1", "uvicorn"),
    ],
)
def test_check_names_what_is_not_installed(toml, monkeypatch, capfd, text, module):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    expected = f"{text.split()[0]} needs "
    refusal = refused(capfd, "config", "check", toml(f"source = '0'\n{text}"))
    assert expected in refusal
    assert module in refusal
    assert f"type: pip install 'edge-emotion[{text.split()[0]}]'" in refusal
