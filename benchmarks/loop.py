"""What the loop costs and gives: ``python -m benchmarks.loop [--seconds N] [--pace FPS] [--video FILE]``.

Everything is measured on :class:`edge.Recognizer` and the two halves of its pipeline, never on a copy of them. Rounds
of the whole loop and of each part alone take turns, so that another load on the machine meets all of them; compare the
figures of one run, not those of two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edge
from edge.camera import open_source
from edge.faces.landmarks import DEFAULT_MODEL, MODELS
from edge.source import read_picture
from edge.synthetic import FACE, PORTRAIT
from edge.types import Image, Result

SIZE = 596, 336
FRAMES = 464
FPS = 25.0

DECODED_S = 0.008
"""How long before it is due a picture is decoded, where the loop is driven at a camera's pace, seconds."""

EYES = (202.0, 107.0), (246.0, 106.0)
MOUTH = (225.0, 150.0)
"""Places in the portrait, pixels."""


def talking_head(frames: int = FRAMES, size: tuple[int, int] = SIZE, noise: float = 2.0) -> Iterator[Image]:
    """A head that talks: the portrait nods, turns in its plane, comes nearer, blinks and moves its mouth.

    Light changes and the sensor is noisy. Made up, it says nothing about accuracy; every run gives the same pictures.

    Args:
        frames: how many, at 25 a second.
        size: width and height, pixels.
        noise: standard deviation of the sensor's noise, grey levels.

    Yields:
        BGR uint8 (H, W, 3).
    """
    portrait, rng = read_picture(PORTRAIT), np.random.default_rng(0)
    width, height = size
    rows, columns = np.mgrid[0 : portrait.shape[0], 0 : portrait.shape[1]].astype(np.float32)
    mouth = np.exp(-(((columns - MOUTH[0]) / 22) ** 2) - ((rows - MOUTH[1]) / 13) ** 2).astype(np.float32)
    lids = sum(
        np.exp(-(((columns - x) / 11) ** 2) - ((rows - y) / 5) ** 2).astype(np.float32) * (rows - y + 6)
        for x, y in EYES
    )
    for index in range(frames):
        t = index / FPS
        speech = max(0.0, math.sin(2 * math.pi * 3.1 * t)) * (0.4 + 0.6 * math.sin(0.9 * t) ** 2)
        blink = 1.0 if t % 3.2 < 0.16 else 0.0
        source = rows - speech * 7 * mouth * np.sign(rows - MOUTH[1]) - blink * 0.8 * lids
        said = cv2.remap(portrait, columns, source.astype(np.float32), cv2.INTER_LINEAR)
        zoom = height / 336 * (1.1 + 0.12 * math.sin(0.5 * t))
        matrix = np.asarray(cv2.getRotationMatrix2D(FACE, 4 * math.sin(1.3 * t), zoom), np.float64)
        matrix[:, 2] += width / 2 + 18 * math.sin(0.7 * t) - FACE[0], height * 0.46 + 6 * math.sin(2.1 * t) - FACE[1]
        view = cv2.warpAffine(said, matrix, size, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        view *= 1 + 0.15 * math.sin(0.8 * t)
        yield np.clip(view + rng.normal(0, noise, view.shape), 0, 255).astype(np.uint8)


def write_clip(path: Path, frames: int = FRAMES) -> None:
    """Write :func:`talking_head` as a video.

    Raises:
        SystemExit: OpenCV can't write one here.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    if not writer.isOpened():
        raise SystemExit(f"{path}: this OpenCV can't write videos; give one with --video")
    for image in talking_head(frames):
        writer.write(image)
    writer.release()


def whole_loop(video: str, options: dict[str, Any]) -> dict[str, Any]:
    """One pass of the loop over a file, every frame."""
    begun = time.perf_counter()
    cpu = time.process_time()
    results: list[Result] = []
    ages: list[float] = []
    first = 0.0
    with edge.Recognizer(video, **options) as recognizer:
        for result in recognizer:
            if not results:
                first, cpu = time.perf_counter(), time.process_time()
            results.append(result)
            ages.append(result.age_ms)
    ended = time.perf_counter()
    stages = results[0].timings_ms
    return {
        "frames": len(results),
        "first_result_s": first - begun,
        "fps": (len(results) - 1) / max(1e-9, ended - first),
        "cpu_ms": (time.process_time() - cpu) / max(1, len(results) - 1) * 1e3,
        "age_ms": ages,
        "stages_ms": {stage: [result.timings_ms[stage] for result in results] for stage in stages},
        **seen(results),
    }


def at_pace(video: str, fps: float, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    """The loop as a camera drives it: pictures come at their time, over and over, and none may be left out.

    Args:
        video: a file; it begins anew when it is at its end.
        fps: pictures a second.
        seconds: for how long.
        options: of :class:`edge.Recognizer`.

    Returns:
        ``age_ms`` of each result (since its picture was handed over) in percentiles, how many results there were of
        how many pictures, and ``network_ms``: what the bare network takes at that pace, measured for a tenth of the
        time before and a tenth after. How far that scatters is the machine's doing, not the loop's.
    """
    alone = network_at_pace(video, fps, seconds / 10, options)
    given = 0

    def pictures() -> Iterator[Image]:
        nonlocal given
        begun = time.perf_counter()
        with closing(_over_and_over(video)) as images:
            while given < seconds * fps:
                due = begun + given / fps
                # A camera's picture costs nothing before its time: it is decoded shortly before it is due, and not
                # while the loop is at work on the one before.
                time.sleep(max(0.0, due - DECODED_S - time.perf_counter()))
                image = next(images)
                time.sleep(max(0.0, due - time.perf_counter()))
                given += 1
                yield image

    with edge.Recognizer(pictures(), drop="wait", **options) as recognizer:
        ages = [result.age_ms for result in recognizer]
    alone += network_at_pace(video, fps, seconds / 10, options)
    # What is loaded and warmed up in the first second is not the loop's.
    return {
        "fps": fps,
        "given": given,
        "results": len(ages),
        "age_ms": _percentiles(ages[round(fps) :] or ages),
        "network_ms": _percentiles(alone),
    }


def _over_and_over(video: str) -> Generator[Image, None, None]:
    """A video's pictures, from its beginning again when it is at its end."""
    while True:
        with closing(open_source(video)) as source:
            for frame in source:
                yield frame.image


def network_at_pace(video: str, fps: float, seconds: float, options: dict[str, Any]) -> list[float]:
    """Milliseconds of the bare network's runs on the first face of a video, with nothing else going on.

    Args:
        video: a file; its first frame with an answer gives what the network is fed.
        fps: runs a second.
        seconds: for how long, and one run.
        options: of :class:`edge.Recognizer`.

    Raises:
        SystemExit: the video shows no face.
    """
    with edge.Recognizer(**options) as recognizer, closing(open_source(video)) as source:
        pipeline = recognizer._pipeline
        for frame in source:
            pipeline.process(frame)
            fed = [(face, tensors) for face, tensors in pipeline.fed.items() if tensors is not None]
            if fed:
                break
        else:
            raise SystemExit(f"{video}: no face is found in it; give a video that shows one")
        spent: list[float] = []
        begun = time.perf_counter()
        for number in range(max(1, math.ceil(seconds * fps))):
            time.sleep(max(0.0, begun + number / fps - time.perf_counter()))
            before = time.perf_counter()
            pipeline._windows.answer(*fed[0])
            spent.append((time.perf_counter() - before) * 1e3)
        return spent


def seen(results: Sequence[Result]) -> dict[str, float]:
    """How steady the results are: share of frames with a face, ids, label changes per 100 frames of one face."""
    with_face, changes, frames = 0, 0, 0
    last: dict[int, str | None] = {}
    for result in results:
        visible = [face for face in result.faces if face.visible]
        with_face += bool(visible)
        for face in visible:
            frames += 1
            changes += face.id in last and last[face.id] != face.label
            last[face.id] = face.label
    return {
        "with_face": with_face / len(results),
        "ids": len(last),
        "label_changes_per_100": 100 * changes / max(1, frames),
    }


def parts_alone(video: str, options: dict[str, Any], count: int) -> dict[str, float]:
    """Frames a second of each part alone: reading, the first half (its search for new faces in line), the second half.

    Each on one core, so that the slowest is what a loop could do that overlaps them perfectly and wastes nothing.
    """
    source = open_source(video)
    begun = time.perf_counter()
    frames = [frame for frame, _ in zip(source, range(count), strict=False)]
    read = time.perf_counter() - begun
    source.close()
    with edge.Recognizer(**options) as recognizer:
        pipeline = recognizer._pipeline
        pipeline.watcher.beside = None
        begun = time.perf_counter()
        looked = [pipeline.look(frame) for frame in frames]
        look = time.perf_counter() - begun
        begun = time.perf_counter()
        for one in looked:
            pipeline.answer(one)
        answer = time.perf_counter() - begun
    return {name: len(frames) / spent for name, spent in (("read", read), ("look", look), ("answer", answer))}


def work(video: str, options: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a core that a frame takes in line, after the first: other programs hardly change them.

    The search beside the frames is not in them; it is in what :func:`whole_loop` calls ``cpu_ms``.
    """
    with edge.Recognizer(**options) as recognizer:
        recognizer._pipeline._clock = time.thread_time_ns
        source = open_source(video)
        totals = [recognizer._pipeline.process(frame).timings_ms["total"] for frame in source]
        source.close()
    return _percentiles(totals[1:] or totals)


def resident_mb(peak: bool = False) -> float:
    """Resident memory of this process, MB (10^6 bytes); 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    key = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith(key)), 0.0)


def measure(video: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    """Rounds of the loop and of its parts, in turns.

    Args:
        video: a file.
        seconds: at least this long, and one round.
        options: of :class:`edge.Recognizer`.
    """
    begun, load = time.perf_counter(), os.getloadavg()[0]
    loops: list[dict[str, Any]] = []
    alone: list[dict[str, float]] = []
    memory = 0.0
    while not loops or time.perf_counter() - begun < seconds:
        loops.append(whole_loop(video, options))
        # Before the parts: those keep every frame, which the loop does not.
        memory = memory or resident_mb(peak=True)
        alone.append(parts_alone(video, options, min(loops[0]["frames"], 150)))
    ratios = [loop["fps"] / min(part.values()) for loop, part in zip(loops, alone, strict=True)]
    return {
        "video": video,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        "rounds": len(loops),
        "frames": loops[0]["frames"],
        "fps": statistics.median(loop["fps"] for loop in loops),
        "alone_fps": {name: statistics.median(part[name] for part in alone) for name in alone[0]},
        "overlap": statistics.median(ratios),
        "cpu_ms_a_frame": statistics.median(loop["cpu_ms"] for loop in loops),
        "first_result_s": loops[0]["first_result_s"],
        "resident_mb": memory,
        "work_ms": work(video, options),
        "age_ms": _percentiles([age for loop in loops for age in loop["age_ms"]]),
        "stages_ms": {
            stage: _percentiles([ms for loop in loops for ms in loop["stages_ms"][stage]])
            for stage in loops[0]["stages_ms"]
        },
        **{key: loops[0][key] for key in ("with_face", "ids", "label_changes_per_100")},
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def report(found: dict[str, Any]) -> str:
    """The figures as a table."""
    alone = ", ".join(f"{name} {fps:.0f}" for name, fps in found["alone_fps"].items())
    lines = [
        f"{found['video']}: {found['frames']} frames, {found['rounds']} rounds",
        f"machine        {found['machine']}; load average {found['load_average'][0]} to {found['load_average'][1]}",
        f"speed          {found['fps']:.1f} frames/s; alone: {alone}",
        f"overlap        {found['overlap']:.2f} of the slowest part alone",
        f"work           {found['cpu_ms_a_frame']:.2f} ms of a core a frame, all threads together",
        f"first result   {found['first_result_s']:.2f} s after the call that makes the recognizer",
        f"memory         {found['resident_mb']:.0f} MB resident at most",
        f"face in        {found['with_face']:.1%} of the frames, {found['ids']} ids",
        f"label changes  {found['label_changes_per_100']:.1f} per 100 frames",
        "",
        f"{'ms':<16} {'p50':>8} {'p95':>8} {'p99':>8}",
    ]
    rows = {**found["stages_ms"], "age": found["age_ms"], "total, of a core": found["work_ms"]}
    for name, ms in rows.items():
        lines.append(f"{name:<16} {ms['p50']:8.2f} {ms['p95']:8.2f} {ms['p99']:8.2f}")
    return "\n".join(lines)


def pace_report(found: dict[str, Any]) -> str:
    """The figures of :func:`at_pace` in a line or two."""
    age, network = found["age_ms"], found["network_ms"]
    return (
        f"{found['results']} results of {found['given']} pictures at {found['fps']:g} a second\n"
        f"age  p50 {age['p50']:.2f} ms  p95 {age['p95']:.2f}  p99 {age['p99']:.2f}, "
        f"which is {age['p99'] / age['p50']:.2f} times p50\n"
        f"bare network at that pace  p50 {network['p50']:.2f} ms  p99 {network['p99']:.2f}, "
        f"which is {network['p99'] / network['p50']:.2f} times p50"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description="Measure the loop that ships.")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="N", help="take rounds for N seconds (20)")
    parser.add_argument("--video", metavar="FILE", help="measure on this video instead of a made one")
    parser.add_argument(
        "--pace", type=float, metavar="FPS", help="latency alone, with pictures at a camera's pace, for --seconds"
    )
    parser.add_argument("--bundle", help="as for edge run")
    parser.add_argument("--precision", choices=("auto", "fp32", "fp16", "int8"), default="auto")
    parser.add_argument("--landmarks", choices=MODELS, default=DEFAULT_MODEL)
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    chosen = {"bundle": options.bundle, "precision": options.precision, "landmarks": options.landmarks}
    with tempfile.TemporaryDirectory() as folder:
        video = options.video
        if video is None:
            video = str(Path(folder) / "talking_head.mp4")
            write_clip(Path(video))
        try:
            if options.pace is not None:
                found = at_pace(video, options.pace, options.seconds, chosen)
            else:
                found = measure(video, options.seconds, chosen)
        except edge.EdgeError as error:
            print(error, file=sys.stderr)
            return 2
    print(report(found) if options.pace is None else pace_report(found))
    if options.json is not None:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
