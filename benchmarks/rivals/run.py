"""Runs one recogniser over a video, in this very process, and writes down what it did: started by benchmarks.peers.

``python run.py ADAPTER MODE VIDEO OUT BEGUN_NS [CORES]``

Needs the standard library and OpenCV alone, and whatever the adapter imports. An adapter is a file with a class
``Peer(mode)`` whose ``look(image)`` takes a BGR picture, uint8 (H, W, 3), and returns the faces in it: a list of
``(label or None, box)``, the box being left, top, width and height in pixels. One with an interface of its own for
whole videos also has ``watch(video)``, which yields such lists, one a frame.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

Faces = list[tuple[Any, tuple[float, float, float, float]]]


def keep_to(cores: int) -> None:
    """Keep this process to so many of the cores it may use, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def load(path: str) -> ModuleType:
    """An adapter, by its file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not an adapter; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(video: str) -> Iterator[Any]:
    """Every frame of a file."""
    import cv2

    capture = cv2.VideoCapture(video)
    if not capture.isOpened():
        raise SystemExit(f"{video}: OpenCV can't open it here; give another one")
    while True:
        there, image = capture.read()
        if not there:
            return
        yield image


def one_by_one(peer: Any, video: str, took_ms: list[float]) -> Iterator[Faces]:
    """The faces of each frame, and to ``took_ms`` how long each call took."""
    for image in pictures(video):
        begun = time.perf_counter_ns()
        faces = peer.look(image)
        took_ms.append((time.perf_counter_ns() - begun) / 1e6)
        yield faces


def peak_mb() -> float:
    """The most memory that was resident in this process at one time, MB (10^6 bytes)."""
    # Not getrusage: what that tells of a fresh process begins with its parent's memory.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)


def versions(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which of these packages are installed here, and their versions."""
    for name in packages:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def run(adapter: str, mode: str, video: str, begun_ns: int) -> dict[str, Any]:
    """One pass over a video, every frame.

    Args:
        adapter: the adapter's file.
        mode: what to ask of it.
        video: a file that OpenCV reads.
        begun_ns: ``time.monotonic_ns()`` when this process was asked for.

    Returns:
        ``fps`` from the first result on, decoding included; ``cold_start_s``; ``took_ms``, of each call after the
        first; ``main``, the label of each frame's largest face, or None; ``faces``, how many each frame shows;
        ``resident_mb``; ``cores``, those that the process might use; ``versions`` of the packages that the adapter
        calls ``PACKAGES``.
    """
    module = load(adapter)
    peer = module.Peer(mode)
    took: list[float] = []
    watches = hasattr(peer, "watch")
    first_ns = 0
    main: list[str | None] = []
    counts: list[int] = []
    for faces in peer.watch(video) if watches else one_by_one(peer, video, took):
        first_ns = first_ns or time.monotonic_ns()
        counts.append(len(faces))
        largest = max(faces, key=lambda face: face[1][2] * face[1][3], default=(None, None))
        main.append(None if largest[0] is None else str(largest[0]))
    ended_ns = time.monotonic_ns()
    if not counts:
        raise SystemExit(f"{video}: no frame could be read")
    # Before the second pass, which holds a second recogniser.
    memory = peak_mb()
    if watches:
        for _ in one_by_one(module.Peer(mode), video, took):
            pass
    return {
        "frames": len(counts),
        "fps": (len(counts) - 1) / max(1, ended_ns - first_ns) * 1e9,
        "cold_start_s": (first_ns - begun_ns) / 1e9,
        "took_ms": took[1:] or took,
        "main": main,
        "faces": counts,
        "resident_mb": memory,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": dict(versions(getattr(module, "PACKAGES", ()))),
    }


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    adapter, mode, video, out, begun_ns, *cores = arguments
    if cores:
        keep_to(int(cores[0]))
    Path(out).write_text(json.dumps(run(adapter, mode, video, int(begun_ns))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
