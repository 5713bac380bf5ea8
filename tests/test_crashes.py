"""A test that takes its process down ends the run, and is not made good by another try."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

ROOT = Path(__file__).resolve().parent.parent


def test_a_process_that_crashes_is_told_and_the_others_go_on(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_dies.py").write_text(
        "import os, signal\n"
        "def test_before(): pass\n"
        "def test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def test_after(): pass\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(
            "import time\ndef test_first(): time.sleep(0.2)\ndef test_second(): time.sleep(0.2)\n"
        )
    makefile = (ROOT / "Makefile").read_text()
    options = makefile.partition("-m pytest -n 2 ")[2].partition("||")[0].split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", *options, "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "crashed while running 'test_dies.py::test_dies'" in done.stdout
    assert "1 failed, 5 passed" in done.stdout, done.stdout[-2000:]
    assert done.returncode == 3, "neither success nor a failure that may be tried again"
