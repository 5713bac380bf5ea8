"""What several tests need: the real face that ships, clips made from it, and where licensed data would be."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

# As the command line does before OpenCV first opens a file: FFmpeg reads this once in a process.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import hypothesis
import numpy as np
import pytest

# The same examples on every machine, however slow it is.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def trace_memory() -> Iterator[Callable[[], None]]:
    """Call it to trace memory from then on. It ends when the test has returned and its threads are gone: before Python
    3.12.9, ``tracemalloc.stop`` may crash a thread that is at work (github.com/python/cpython/issues/128679)."""
    yield tracemalloc.start
    tracemalloc.stop()


CRASHED = 3
"""Exit status of a run in which a process crashed."""

_crashed: list[str] = []


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_handlecrashitem(crashitem: str) -> None:
    """A process crashed in this test: what it had yet to run of the same file is not run by another."""
    _crashed.append(crashitem)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """So such a run is no mere failure, which could be made good by trying the failed tests once more."""
    if _crashed:
        session.exitstatus = CRASHED


@pytest.fixture(scope="session")
def shared() -> Path:
    """Material that may not ship; tests that want it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The portrait, BGR uint8 (512, 512, 3): one smiling face."""
    from edge.source import read_picture
    from edge.synthetic import PORTRAIT

    return read_picture(PORTRAIT)


@pytest.fixture
def face_bundle(tmp_path: Path) -> Path:
    """The default bundle's FP32 alone, to be damaged."""
    from edge.bundle import WINDOW, Bundle, write

    shipped = Bundle.open()
    graph = replace(shipped.manifest.graphs[WINDOW], files={"fp32": "window.fp32.onnx"}, cpu={})
    manifest = replace(shipped.manifest, graphs={WINDOW: graph}, files={})
    return write(
        tmp_path / "bundle", manifest, {"window.fp32.onnx": shipped.graph(WINDOW, "fp32").model}, shipped.golden
    ).where


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a clip of the synthetic camera: ``make_clip(frames=30, name="clip.mp4", start=0.0)``."""

    def make(frames: int = 30, name: str = "clip.mp4", start: float = 0.0) -> Path:
        from edge.synthetic import SyntheticSource

        source = SyntheticSource(320, 240, 25, frames)
        path = tmp_path_factory.mktemp("clip") / name
        fourcc = cv2.VideoWriter.fourcc(*("MJPG" if name.endswith(".avi") else "mp4v"))
        writer = cv2.VideoWriter(str(path), fourcc, 25, (320, 240))
        for index in range(frames):
            writer.write(source.picture(start + index / 25))
        writer.release()
        return path

    return make


def toy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose bright square stands in one of seven places, in noise: (N, 48, 48) uint8 and (N,) labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    pixels = rng.integers(0, 90, (count, 48, 48))
    for picture, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 3)
        y, x = 4 + 15 * row + rng.integers(0, 3), 4 + 15 * column + rng.integers(0, 3)
        picture[y : y + 10, x : x + 10] += 140
    return pixels.astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that a small network learns within seconds, in FER2013's npz form."""
    folder = tmp_path_factory.mktemp("toy")
    for name, count, seed in (("train.npz", 350, 0), ("public_test.npz", 140, 1)):
        pixels, labels = toy(count, seed)
        np.savez(folder / name, x=pixels, y=labels, id=np.arange(count))
    return folder
