"""One run of something in a process of its own: ``python -m benchmarks.process WHAT ASKED.json OUT.json BEGUN_NS``.

``loop`` runs the loop that ships over a video, so that its cold start and memory are its own; ``scale`` runs points of
the curves. Started by :mod:`benchmarks.suite`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import edge
from benchmarks.loop import resident_mb, whole_loop
from benchmarks.machine import Meter, clocks
from edge.camera import open_source


def loop(asked: dict[str, Any], begun_ns: int) -> dict[str, Any]:
    """The shipping loop, then the same frames one by one.

    Args:
        asked: ``video``, ``bundle``, ``precision``, ``backend``, ``landmarks``; ``cores`` keeps it to so many.
        begun_ns: ``time.monotonic_ns()`` when this process was asked for.

    Returns:
        What :func:`benchmarks.loop.whole_loop` gives, with ``cold_start_s`` (Python, imports, models, first frame),
        ``resident_mb``, ``drawn``, ``clocks_mhz``, ``core_ms`` (:func:`in_line`) and ``paced`` (:func:`paced`).
    """
    if asked.get("cores") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked["cores"]])
    options = {key: asked[key] for key in ("bundle", "precision", "backend", "landmarks")}
    called = time.monotonic_ns()
    with Meter() as meter:
        found = whole_loop(asked["video"], options)
    found["cold_start_s"] = (called - begun_ns) / 1e9 + found["first_result_s"]
    found["resident_mb"] = resident_mb(peak=True)
    found["drawn"] = asdict(meter.drawn)
    found["clocks_mhz"] = clocks()
    found["core_ms"] = in_line(asked["video"], options)
    found["paced"] = paced(asked["video"], options, asked["paced_s"])
    return found


def in_line(video: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """Milliseconds of this thread's core by stage, a frame each: other programs hardly change them.

    The search beside the frames is not in them. Finding and marking faces are one here, as the watcher tells them apart
    by the wall's clock.
    """
    by_stage: dict[str, list[float]] = {}
    with edge.Recognizer(**options) as recognizer:
        pipeline = recognizer._pipeline
        pipeline._clock = time.thread_time_ns
        source = open_source(video)
        for frame in source:
            spent = dict(pipeline.process(frame).timings_ms)
            found = spent.pop("detect") + spent.pop("landmarks")
            for stage, ms in {"detect and landmarks": found, **spent}.items():
                by_stage.setdefault(stage, []).append(ms)
        source.close()
    return by_stage


def paced(video: str, options: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A file played at its own speed, as a camera would: ``age_ms`` of each result, ``fps`` of the file, ``dropped``.

    The first half a second is left out.
    """
    with edge.Recognizer(video, drop="drop_oldest", **options) as recognizer:
        fps = recognizer.fps
        ages = [(result.frame, result.age_ms) for result in islice(recognizer, max(8, round(seconds * fps)))]
        dropped = recognizer.dropped
    late = [age for frame, age in ages if frame >= fps / 2] or [age for _, age in ages]
    return {"fps": fps, "age_ms": late, "dropped": dropped, "results": len(ages)}


def scale(asked: dict[str, Any], begun_ns: int) -> list[dict[str, Any]]:
    """Points of the curves, see :mod:`benchmarks.scaling`."""
    from benchmarks.scaling import measure

    return measure(asked)


WHAT: dict[str, Callable[[dict[str, Any], int], Any]] = {"loop": loop, "scale": scale}


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; returns the exit status."""
    what, asked, out, begun_ns = arguments
    try:
        found = WHAT[what](json.loads(Path(asked).read_text(encoding="utf-8")), int(begun_ns))
    except edge.EdgeError as error:
        print(error, file=sys.stderr)
        return 2
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
