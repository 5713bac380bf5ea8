"""A board that is a copy of this machine: an overlay over its own root, with stand-ins for NVIDIA's tools alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
JETSON = ROOT / "jetson"
STANDINS = ROOT / "tests" / "jetson" / "standins.sh"


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run bash lines; the stand-ins' functions are there."""
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source {STANDINS}; {script}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=100,
        check=False,
    )


@dataclass
class Board:
    """A root file system of its own, entered by chroot; it is written to memory and gone afterwards."""

    root: Path
    jetson: str = str(JETSON)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        return subprocess.run(
            ["chroot", str(self.root), *words],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment},
            stdin=subprocess.DEVNULL,
            timeout=180,
            check=False,
        )

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command on it, in a process group of its own."""
        return subprocess.Popen(
            ["chroot", str(self.root), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment},
        )

    def provision(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """provision.sh with the tests' wheelhouse."""
        return self.run(f"{self.jetson}/provision.sh", "--wheelhouse", "/wheelhouse", *options, **environment)

    def path(self, inside: str) -> Path:
        """Where a path of the board lies here."""
        return self.root / inside.lstrip("/")


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse for this machine's Python: the package itself and pip. What they need, the test's Python has."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheelhouse")
    wheels = folder / "wheels"
    source = folder.parent / "source"
    source.mkdir(exist_ok=True)
    for part in ("pyproject.toml", "README.md", "LICENSE", "edge", "export", "train", "benchmarks"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)],
        check=True,
        capture_output=True,
        timeout=110,
    )
    # A wheel of pip from the installed one: the same files, so the tests need no network.
    import pip

    home = Path(pip.__file__).parent
    shutil.make_archive(str(wheels / "pip"), "zip", home.parent, "pip")
    (wheels / "pip.zip").rename(wheels / f"pip-{pip.__version__}-py3-none-any.whl")
    tag = f"cp3{sys.version_info.minor}"
    (folder / f"requirements-{tag}.txt").write_text("edge-emotion\n")
    (folder / f"gpu-{tag}.txt").write_text("pycuda==2026.1\n")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write SHA256SUMS."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


@pytest.fixture
def make_board(tmp_path: Path, wheelhouse: Path) -> Iterator[Callable[..., Board]]:
    """``make_board(major=36, revision="4.4")``: a board with that Jetson Linux; None is none."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("an overlay of this machine's root needs root")
    mounted: list[Path] = []

    def mount(*words: str, at: Path) -> None:
        done = subprocess.run(["mount", *words, str(at)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine can't mount an overlay: {done.stderr.strip()}")
        mounted.append(at)

    def make(major: int | None = 36, revision: str = "4.4") -> Board:
        layers, root = tmp_path / "layers", tmp_path / "root"
        layers.mkdir()
        root.mkdir()
        mount("-t", "tmpfs", "-o", "size=900m", "tmpfs", at=layers)
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        mount(
            *("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={layers / 'upper'},workdir={layers / 'work'}"),
            at=root,
        )
        mount("-t", "proc", "proc", at=root / "proc")
        mount("--bind", "/dev", at=root / "dev")
        # Here, systemd may run; on this board it does not, as in any root that is being prepared.
        mount("-t", "tmpfs", "tmpfs", at=root / "run")
        (root / "run" / "lock").mkdir()
        board = Board(root)
        if major is not None:
            done = shell(f"standin_release {root} {major} {revision}; standin_tools {root}")
            assert done.returncode == 0, done.stderr
        # The distribution's Python is the tests' one here, and knows what the tests' environment has.
        python = Path(os.path.realpath(sys.executable))
        link = root / "usr" / "bin" / "python3"
        # Through a script: Python looks for its library beside where it was called.
        wrapper = root / "opt" / "board-python" / f"python3.{sys.version_info.minor}"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        wrapper.chmod(0o755)
        link.unlink(missing_ok=True)
        link.symlink_to("/" + str(wrapper.relative_to(root)))
        base = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        site = sysconfig.get_paths()["purelib"]
        if site != base:
            (root / base.lstrip("/") / "of_the_tests.pth").write_text(site + "\n")
        # The service's user must reach them, also where they lie in somebody's home.
        for place in (python, Path(site)):
            for folder in place.parents:
                inside = root / str(folder).lstrip("/")
                inside.chmod(inside.stat().st_mode | 0o055)
        shutil.copytree(wheelhouse, root / "wheelhouse")
        return board

    yield make
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture
def board(make_board: Callable[..., Board]) -> Board:
    """A board with JetPack 6.2."""
    return make_board()


def needs(tool: str) -> str:
    """A tool's path; the test skips where it is absent."""
    found = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{tool} is absent; type: apt-get install {tool}, or pip install what brings it")
    return found
