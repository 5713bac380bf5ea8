"""What the documents tell a reader to type works."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge.__main__ import main
from edge.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_five_lines(make_clip, tmp_path):
    """From the checkout, in a folder that holds a clip of that name."""
    (code,) = blocks("python")
    (tmp_path / "clip.mp4").write_bytes(make_clip(20).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) >= 18
    assert {(number, label) for number, label, _ in lines} == {("1", "happy")}


def test_the_five_lines_from_a_wheel(make_clip, tmp_path):
    """The wheel carries the bundle and the portrait, and nothing of the checkout is needed."""
    pytest.importorskip("build")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=110,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        opened.extractall(tmp_path / "site")
    assert {"edge/py.typed", "edge/demo/portrait.jpg", "edge/bundles/face/manifest.json"} <= set(names)
    assert not [name for name in names if name.startswith("tests/")]
    (code,) = blocks("python")
    (tmp_path / "clip.mp4").write_bytes(make_clip(20).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(edge.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "site" / "edge" / "__init__.py")
    assert " happy " in done.stdout


def test_the_commands_exist(capfd):
    for line in "\n".join(blocks("sh")).splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["edge"] and words[1] in ("check", "doctor"):
            assert main(words[1:]) == 0, line
        elif words[:1] == ["edge"]:
            with pytest.raises(SystemExit) as stop:
                main([words[1], "--help"])
            assert stop.value.code == 0
            out = capfd.readouterr().out
            assert all(word.split("=")[0] in out for word in words if word.startswith("--")), line
        elif words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def test_the_keys_of_a_json_line():
    import json

    (line,) = (json.loads(block) for block in blocks("json"))
    assert set(line) == {"frame", "captured_ns", "faces", "timings_ms"}
    assert tuple(line["faces"][0]["probabilities"]) == Bundle.open().manifest.labels
    from edge.pipeline import STAGES

    assert tuple(line["timings_ms"]) == tuple(stage for stage in STAGES if stage != "flow")


def test_the_readmes_figures_are_the_manifests():
    figures = Bundle.open().manifest.metrics["fer2013 test part"]
    assert f"| accuracy | {figures['accuracy']:.2%} |" in README
    assert f"| expected calibration error | {figures['ece']:.3f} |" in README
    assert f"{Bundle.open().manifest.data['parameters']:,} parameters" in README


def test_every_link_leads_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document}: {target}"
