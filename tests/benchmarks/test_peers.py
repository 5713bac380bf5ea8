"""Ours beside others': real environments and processes, and a rival made here, since the real ones are gigabytes."""

import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import pytest

from benchmarks import peers
from benchmarks.loop import write_clip
from benchmarks.peers import RIVALS, PeerError, Rival, changes_per_100, figures, percentiles, prepare, report, run_once

PACKAGE = """
def recognise(mode, image, number):
    height, width = image.shape[:2]
    if mode == "crashes" and number == 3:
        raise RuntimeError("the network is on fire")
    if number % 5 == 4:
        return []
    small = ("never", (0, 0, 2, 2))
    return [small, ("happy" if number % 2 else "sad", (0, 0, width, height))]
"""

ADAPTER = """
import madeup

PACKAGES = "madeup", "not-installed"


class Peer:
    def __init__(self, mode):
        self.mode, self.number = mode, -1

    def look(self, image):
        self.number += 1
        return madeup.recognise(self.mode, image, self.number)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "head.mp4"
    write_clip(path, 20)
    return str(path)


@pytest.fixture(scope="module")
def madeup(tmp_path_factory):
    """A package that a network is not needed for, as a wheel. OpenCV it borrows from the one who tests."""
    folder = tmp_path_factory.mktemp("madeup")
    wheel = folder / "madeup-1.5-py3-none-any.whl"
    files = {
        "madeup.py": PACKAGE,
        "madeup.pth": str(Path(cv2.__file__).parents[1]) + "\n",
        "madeup-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: madeup\nVersion: 1.5\n",
        "madeup-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(
            "madeup-1.5.dist-info/RECORD", "".join(f"{name},,\n" for name in [*files, "madeup-1.5.dist-info/RECORD"])
        )
    adapter = folder / "use_madeup.py"
    adapter.write_text(ADAPTER)
    return Rival("madeup", ("--no-index", str(wheel)), adapter, ("works", "crashes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="module")
def python(madeup, folder):
    return prepare(madeup, folder)


def test_a_rival_has_an_environment_of_its_own_and_sees_every_frame(madeup, python, clip):
    found = run_once(python, madeup.adapter, "works", clip, cores=1)
    assert Path(python).parts[-3] == "madeup"
    assert found["frames"] == 20
    assert found["main"] == [None if n % 5 == 4 else "happy" if n % 2 else "sad" for n in range(20)]
    assert found["faces"] == [0 if n % 5 == 4 else 2 for n in range(20)]
    assert len(found["took_ms"]) == 19
    assert found["versions"] == {"madeup": "1.5"}
    assert found["cores"] == 1 or sys.platform != "linux"
    assert found["cold_start_s"] > 0
    assert found["resident_mb"] > 10


def test_an_environment_is_kept_until_other_packages_are_wanted(madeup, python, folder):
    mark = folder / "madeup" / "kept"
    mark.touch()
    assert prepare(madeup, folder) == python
    assert mark.exists()
    (folder / "madeup" / "installed.json").write_text('["3.11", "madeup==1.4"]')
    assert prepare(madeup, folder) == python
    assert not mark.exists()


def test_what_surrounds_us_does_not_reach_a_rival(madeup, python, clip, tmp_path, monkeypatch):
    (tmp_path / "madeup.py").write_text("raise SystemExit('another one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_once(python, madeup.adapter, "works", clip)["frames"] == 20


def test_a_rival_that_crashes_says_so_in_one_line(madeup, python, clip):
    with pytest.raises(PeerError, match="^RuntimeError: the network is on fire$"):
        run_once(python, madeup.adapter, "crashes", clip)


def test_a_rival_that_never_ends_is_given_up(madeup, python, clip, tmp_path, monkeypatch):
    slow = tmp_path / "use_slow.py"
    slow.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(peers, "RUN_S", 1)
    with pytest.raises(PeerError, match="not done after 1 s"):
        run_once(python, slow, "works", clip)


@pytest.mark.timeout(400)  # sixteen processes, one after another
def test_ours_and_theirs_in_turns(madeup, python, clip, folder, tmp_path, capsys):
    """From the command line, with one rival that works, one that crashes and one that can't be installed."""
    missing = Rival("missing", ("--no-index", "no-such-package==1"), madeup.adapter, ("works",))
    out = tmp_path / "found.json"
    arguments = ["--video", clip, "--rounds", "2", "--environments", str(folder), "--loop-seconds", "0.1"]
    assert peers.main([*arguments, "--json", str(out)], [madeup, missing]) == 0
    found = json.loads(out.read_text())
    rows = found["rows"]
    assert set(rows) == {"edge, 68 landmarks", "edge, 5 landmarks", "madeup, works"}
    assert rows["madeup, works"]["runs"] == 2
    assert rows["edge, 68 landmarks"]["runs"] == 3  # and beside the crash, which is not tried twice
    for model in "68", "5":
        ours = rows[f"edge, {model} landmarks"]
        assert ours["frames"] == 20
        assert ours["with_face"] == 1
        assert len(found["ratios"][f"edge, {model} landmarks"]["madeup, works"]) == 2
        assert 0 < ours["took_ms"]["p50"] <= ours["took_ms"]["p99"]
    assert rows["madeup, works"]["with_face"] == 0.8
    assert set(found["failed"]) == {"madeup, crashes", "missing"}
    assert found["loop"]["overlap"] > 0
    printed = capsys.readouterr().out
    assert printed == report(found) + "\n"
    assert "madeup, crashes failed: RuntimeError: the network is on fire" in printed
    assert re.search("^missing can't be installed: .*no-such-package", printed, re.MULTILINE)
    assert not (folder / "missing").exists()
    assert "madeup 1.5" in printed


def test_refusals(clip, tmp_path, capsys):
    with pytest.raises(SystemExit):
        peers.main(["--rivals", "nobody"])
    assert "rival 'nobody' is unknown; expected some of fer, facial-emotion-recognition" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        peers.main(["--rounds", "0"])
    nothing = ["--rivals", "", "--rounds", "1", "--environments", str(tmp_path)]
    assert peers.main([*nothing, "--video", str(tmp_path / "none.mp4")]) == 2
    assert "none.mp4" in capsys.readouterr().err


def run(fps, took, main, **more):
    return {
        "frames": len(main),
        "fps": fps,
        "took_ms": took,
        "main": main,
        "faces": [0 if label is None else 1 for label in main],
        "cold_start_s": fps / 100,
        "resident_mb": fps,
        "cores": 2,
        "others": 0.5,
        "versions": {},
        **more,
    }


def test_the_arithmetic_of_a_row():
    labels = ["sad", "sad", None, "happy", "sad"]
    row = figures([run(30.0, [1, 2, 3, 4], labels), run(10.0, [5, 5, 5, 5], labels), run(20.0, [2, 2, 2, 8], labels)])
    assert row["fps"] == 20
    assert row["fps_from_to"] == [10, 30]
    assert row["took_ms"] == {"p50": 2, "p95": 5, "p99": 5}
    assert row["p99_over_p50"] == 2
    assert row["cold_start_s"] == 0.2
    assert row["resident_mb"] == 30
    assert row["with_face"] == 0.8
    assert row["label_changes_per_100"] == 50


def test_percentiles_are_values_that_were_measured():
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([7]) == {"p50": 7, "p95": 7, "p99": 7}


def test_frames_without_a_label_change_nothing():
    assert changes_per_100([]) == 0
    assert changes_per_100([None, "sad", None, "sad"]) == 0
    assert changes_per_100(["sad", "happy", None, "sad"]) == pytest.approx(200 / 3)


def test_a_busy_machine_is_told():
    one = run(30.0, [1, 2], ["sad", "sad"])
    found = {
        "video": "clip.mp4",
        "machine": {"name": "x86_64", "processor": "", "cores": 2, "python": "3.11"},
        "load_average": [0.2, 1.6],
        "rounds": 3,
        "rows": {"one": figures([one])},
        "ratios": {"edge, 68 landmarks": {"one": [5.0, 7.0, 9.0]}},
        "others": {"one": [0.5, 0.1, 0.0]},
        "failed": {},
        "runs": {"one": [one]},
    }
    told = report(found)
    assert "load average above 1.5" in told
    assert "other programs kept 0.50 cores busy" in told
    assert "edge, 68 landmarks / one: 7.0 (5.0 to 9.0); in 2 of 3 rounds that nothing else disturbed: 8.0" in told
    calm = run(30.0, [1, 2], ["sad", "sad"], others=0.1)
    told = report({**found, "load_average": [0.2, 1.4], "others": {"one": [0.1] * 3}, "runs": {"one": [calm]}})
    assert "busy" not in told
    assert "load average above" not in told
    assert "one: 7.0 (5.0 to 9.0)\n" in told + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="what a machine does is told by Linux alone")
def test_what_other_programs_do_is_seen():
    code = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    busy = subprocess.Popen([sys.executable, "-c", code])
    try:
        begun, spent = time.monotonic(), peers._busy_s()
        assert not peers.wait_until_quiet(1.5)
        assert peers._busy_s() - spent > 0.2
        assert time.monotonic() - begun >= 1.5
    finally:
        busy.kill()
        busy.wait()
    assert not peers.wait_until_quiet(0)


def test_every_rival_has_its_adapter():
    for rival in RIVALS:
        assert rival.adapter.is_file()
        assert rival.modes
