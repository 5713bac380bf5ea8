"""How cost grows: with faces, with pixels, with threads, and with the length of a window.

Everything goes through :meth:`edge.Recognizer.process`, or through the engine that ships; nothing is a copy of either.
Pictures are made up and say nothing about accuracy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

import cv2
import numpy as np

import edge
from benchmarks.loop import talking_head
from edge.bundle import Bundle
from edge.engine import Engine, open_engine
from edge.engine.onnxruntime import OnnxRuntimeEngine
from edge.source import read_picture
from edge.synthetic import PORTRAIT
from edge.types import Image
from edge.window import Windows

CROWD = 1280, 720
MOST_FACES = 10
SIZES = ((320, 240), (640, 360), (960, 540), (1280, 720), (1600, 900), (1920, 1080))

WARM = 6
"""Frames at the start that don't count: the first are searched whole, and libraries start their threads."""

FRAME_NS = 40_000_000
"""Between two frames, as at 25 a second."""


def crowd(faces: int) -> Callable[[int], Image]:
    """A picture of so many faces by its number: the portrait's head in ten sizes, each swaying in a place of its own.

    Args:
        faces: 0 to 10.

    Returns:
        A function of the number, giving BGR uint8 (720, 1280, 3).
    """
    portrait = read_picture(PORTRAIT)
    head = portrait[20:240, 114:334]
    heads = [cv2.resize(head, (150 + 17 * (i % 4),) * 2, interpolation=cv2.INTER_AREA) for i in range(faces)]

    def picture(number: int) -> Image:
        canvas = np.full((CROWD[1], CROWD[0], 3), 96, np.uint8)
        for i, one in enumerate(heads):
            phase = 2 * math.pi * i / MOST_FACES
            left = round(35 + 250 * (i % 5) + 12 * math.sin(phase + number / 6))
            top = round(105 + 330 * (i // 5) + 8 * math.cos(phase + number / 8))
            canvas[top : top + one.shape[0], left : left + one.shape[1]] = one
        return canvas

    return picture


def to_and_fro(pictures: Sequence[Image]) -> Iterator[Image]:
    """Pictures without end, forwards and backwards, so that nothing jumps."""
    while True:
        yield from pictures
        yield from pictures[-2:0:-1]


def frames_of(name: str, at: Any) -> Iterator[Image]:
    """The pictures of one point of a curve."""
    if name == "faces":
        made = crowd(at)
        return (made(number) for number in range(1_000_000))
    return to_and_fro(list(talking_head(12, tuple(at))))


def watched(pictures: Iterator[Image], options: dict[str, Any], count: int) -> dict[str, Any]:
    """What frames cost, one by one.

    Args:
        pictures: more than WARM + count.
        options: of :class:`edge.Recognizer`.
        count: frames that count.

    Returns:
        ``ms`` (a frame each, wall clock), ``cpu_ms`` (of a core, all threads, the mean), ``stages_ms`` (means, which
        add up) and ``faces`` (the mean seen).
    """
    took, faces, stages = [], [], dict[str, list[float]]()
    cpu = 0
    with edge.Recognizer(**options) as recognizer:
        for number, picture in enumerate(islice(pictures, WARM + count)):
            if number == WARM:
                cpu = time.process_time_ns()
            begun = time.perf_counter_ns()
            result = recognizer.process(picture, captured_ns=number * FRAME_NS)
            spent = time.perf_counter_ns() - begun
            if number >= WARM:
                took.append(spent / 1e6)
                faces.append(sum(face.visible for face in result.faces))
                for stage, ms in result.timings_ms.items():
                    stages.setdefault(stage, []).append(ms)
        # Making the pictures is in here too: it is taken off below.
        cpu = time.process_time_ns() - cpu
    making = time.process_time_ns()
    for _ in islice(pictures, count):
        pass
    making = time.process_time_ns() - making
    return {
        "ms": took,
        "cpu_ms": max(0, cpu - making) / count / 1e6,
        "stages_ms": {stage: float(np.mean(values)) for stage, values in stages.items()},
        "faces": float(np.mean(faces)),
    }


def engine_threads(bundle: str, precision: str, threads: int, seconds: float) -> dict[str, Any]:
    """What a frame of one face costs the engine on the CPU with so many threads: its ``ms``, a run each."""
    one = OnnxRuntimeEngine(Bundle.open(bundle), precision, threads=threads)
    return {"ms": _runs(one, seconds)}


def window(bundle: str, precision: str, backend: str, seconds: float) -> dict[str, Any]:
    """A window's ``length`` and cost: ``ms``, a new frame each, streamed; ``whole_ms``, the whole window at once."""
    one = open_engine(Bundle.open(bundle), backend, precision)
    length = 1 if one.manifest.window is None else one.manifest.window.length
    found: dict[str, Any] = {"length": length, "ms": _runs(one, seconds)}
    if one.manifest.streams:
        inputs = one.bundle.window(one.bundle.cases[0])
        found["whole_ms"] = _timed(lambda: one.run(inputs), seconds)
    one.close()
    return found


def _runs(one: Engine, seconds: float) -> list[float]:
    """Milliseconds of each new frame of one face: the whole network, or encoders and head once the window is full."""
    bundle, case = one.bundle, one.bundle.cases[0]
    if not one.manifest.streams:
        inputs = bundle.window(case)
        return _timed(lambda: one.run(inputs), seconds)
    running = Windows(one)
    seen = zip(bundle.golden[f"picture/{case}"], bundle.golden[f"eyes/{case}"], strict=True)
    # To and fro, so that there are always more.
    crops = [running.cutter.cut(picture, eyes) for picture, eyes in seen]
    coming = chain.from_iterable(repeat([*crops, *crops[-2:0:-1]]))
    assert one.manifest.window is not None
    now, step = 0, round(one.manifest.window.interval_ms * 1e6)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 8 or (time.perf_counter() < end and len(took) < 503):
        now += step
        tensors = running.advance(0, next(coming), now)
        if tensors is None:
            continue
        begun = time.perf_counter_ns()
        logits = running.answer(0, tensors)
        if logits is not None:
            took.append((time.perf_counter_ns() - begun) / 1e6)
    return took[3:]


def _timed(run: Callable[[], Any], seconds: float) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    for _ in range(3):
        run()
    while len(took) < 5 or (time.perf_counter() < end and len(took) < 500):
        begun = time.perf_counter_ns()
        run()
        took.append((time.perf_counter_ns() - begun) / 1e6)
    return took


def measure(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """All points that are asked for, once, in that order.

    Args:
        asked: ``points``: a list of objects with ``curve`` (``faces``, ``size``, ``threads`` or ``window``) and ``at``;
            ``options`` of the recognizer for the first two, ``bundle``, ``precision``, ``backend`` for the others;
            ``frames`` and ``seconds``, how long a point takes.

    Returns:
        For each point its ``curve``, ``at`` and what was found.
    """
    found = []
    for point in asked["points"]:
        curve, at = point["curve"], point["at"]
        if curve in ("faces", "size"):
            one = watched(frames_of(curve, at), asked["options"], asked["frames"])
        elif curve == "threads":
            one = engine_threads(point["bundle"], point["precision"], at, asked["seconds"])
        else:
            one = window(point["bundle"], point["precision"], point["backend"], asked["seconds"])
        found.append({**point, **one})
    return found
