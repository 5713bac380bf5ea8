"""Does it survive? ``python -m benchmarks.soak [--frames N] [--seconds N] [--seed N] [--json FILE]``.

The recognizer that ships watches a camera that fails by script: it is unplugged and comes back, stands still, hangs,
sends rubbish, changes its resolution, and is at times faster than any consumer, while faces come and go. What is to be
counted is known from the script; it must be what the recognizer counted. Nothing of what is tested is replaced, and no
time is left out but that between pictures: the camera gives the next as soon as it can be taken, an hour's pictures in
minutes. The pauses before a lost camera is tried again are those that ship.

Exit status 0 where everything held, 1 on a breach, 2 for options that can't be used.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import logging
import math
import os
import platform
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

import edge
from benchmarks.faulty import STILL, Script, noisy
from benchmarks.loop import resident_mb
from edge.faces.landmarks import DEFAULT_MODEL, MODELS
from edge.source import SourceHealth, read_picture
from edge.synthetic import PORTRAIT, SyntheticSource
from edge.types import Frame, Image, Result

HOUR = 108_000
"""An hour of a camera with 30 frames a second."""

FPS = 25.0
SIZE = 320, 240
CROWD = 1280, 720
SIZES = ((200, 150), (480, 360), (640, 360), CROWD)
"""The camera's usual size, that in which it shows ten faces, and those that it changes to."""

FROZEN_AFTER_S, SILENT_AFTER_S = 2.0, 1.0
"""Shorter than the defaults, so that more faults fit into the time."""

HANDED_ON = int(FROZEN_AFTER_S * FPS) + 1
"""Pictures of a still camera that are handed on, the first among them; the next is too old."""

AHEAD = 2
"""Pictures that the camera gives before the first of them is answered: both halves of the pipeline have work, and
nothing must be dropped."""

APART_S = 0.001
"""Real seconds between two pictures, so that one is fetched before the next."""

HELD_S = 0.5
"""... but it waits no longer than this, since no real camera waits."""

SLOPE_MB = 1.0
"""Resident memory may grow by this much in 10,000 pictures, MB."""

STEP_MB = 4.0
"""What the allocator may take at once, MB: a slope can't be told from it in a short run (see :func:`allowed_slope`)."""

LIMIT_MB: dict[str, float] = {"68": 300.0, "5": 200.0}
"""Resident memory at most, MB, by landmarks."""

SAMPLE = 100
"""Resident memory is read once in so many pictures."""

STUCK_S = 60.0
"""No result for so long is the end of the run from the command line, with what each thread was doing."""


@dataclass
class Expected:
    """What a plan's faults must have been counted as."""

    faults: dict[str, int] = field(default_factory=dict)
    """How many of each kind."""
    corrupt: int = 0
    frozen: int = 0
    reconnects: int = 0
    withheld: int = 0
    """Pictures of a frozen camera that must not be handed on."""


class Plan:
    """Faults drawn from a seed, one after another, with good pictures between.

    It begins with one of each, so that whatever takes memory once has it before memory is watched.

    Args:
        frames: pictures to give, or a few more, until the last fault is over.
        seconds: or until so much time is over; None is without limit.
        seed: the same seed draws the same faults.
    """

    def __init__(self, frames: int, seconds: float | None, seed: int) -> None:
        self._frames = frames
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._random = random.Random(seed)
        kinds = (self._lose, self._freeze, self._corrupt, self._resize, self._hang, self._burst)
        self._tour: deque[Callable[[Script], None]] = deque(
            [*kinds, partial(self._corrupt, pictures=100), *(partial(self._resize, size=size) for size in SIZES)]
        )
        self._kinds = kinds
        # How often: what takes seconds to notice is rarer, and so are the frames that take longest.
        self._weights = (6, 3, 6, 4, 1, 4)
        self.expected = Expected()
        self.warm: int | None = None
        """Pictures given when the last of the first ones was over; None until then."""
        self.last: int | None = None
        """Number of the last picture, once it is known."""

    def more(self, script: Script) -> None:
        """Add the next fault to a script, or its end."""
        if self.last is not None:
            script.hang()  # the consumer has what it wants, and closes
        elif self._tour:
            script.frames(40)
            self._tour.popleft()(script)
            script.frames(10)
        elif script.taken >= self._frames or time.monotonic() >= self._deadline:
            self.last = script.taken
            script.frames(1)
        else:
            self.warm = script.taken if self.warm is None else self.warm
            script.frames(self._random.randint(50, 500))
            self._random.choices(self._kinds, self._weights)[0](script)
            script.frames(1)

    def _count(self, kind: str) -> None:
        self.expected.faults[kind] = self.expected.faults.get(kind, 0) + 1

    def _lose(self, script: Script) -> None:
        self._count("unplugged")
        self.expected.reconnects += 1
        script.lose(self._random.randint(0, 1))

    def _freeze(self, script: Script) -> None:
        self._count("still")
        pictures = self._random.choice((20, 70, 120))
        noticed = pictures // (HANDED_ON + 1)
        self.expected.frozen += noticed
        self.expected.reconnects += noticed > 0
        self.expected.withheld += max(0, pictures - HANDED_ON)
        script.freeze(pictures)

    def _corrupt(self, script: Script, pictures: int | None = None) -> None:
        self._count("corrupt")
        pictures = pictures or self._random.randint(1, 5)
        self.expected.corrupt += pictures
        self.expected.reconnects += pictures >= 100
        script.corrupt(pictures)

    def _resize(self, script: Script, size: tuple[int, int] | None = None) -> None:
        self._count("resolution")
        script.resize(*(size or self._random.choice(SIZES))).frames(30).resize(*SIZE)

    def _hang(self, script: Script) -> None:
        self._count("hung")
        self.expected.reconnects += 1
        script.hang()

    def _burst(self, script: Script) -> None:
        self._count("burst")
        script.burst(self._random.randint(5, 40))


class Pace:
    """Lets a camera give pictures as fast as they are answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given: deque[int] = deque(maxlen=AHEAD)
        self._received = -1

    def hold(self, number: int) -> None:
        """Wait until the consumer has come near picture ``number``."""
        with self._changed:
            if len(self._given) == AHEAD:
                self._changed.wait_for(lambda: self._received >= self._given[0], HELD_S)
            self._given.append(number)

    def received(self, number: int) -> None:
        """The consumer has the result of picture ``number``."""
        with self._changed:
            self._received = number
            self._changed.notify_all()


def scenes() -> Callable[[int, tuple[int, int]], Image]:
    """Makes picture ``number`` of a size: one face that comes and goes, or ten of them in the largest size.

    They are made anew each time, so that none is kept.
    """
    portrait = read_picture(PORTRAIT)
    head = portrait[20:240, 114:334]
    heads = [cv2.resize(head, (150 + 17 * (i % 4),) * 2, interpolation=cv2.INTER_AREA) for i in range(10)]
    cameras = {size: SyntheticSource(*size) for size in (SIZE, *SIZES)}

    def crowd(number: int) -> Image:
        canvas = np.full((CROWD[1], CROWD[0], 3), 96, np.uint8)
        for i, one in enumerate(heads):
            phase = 2 * math.pi * i / 10
            left = round(65 + 250 * (i % 5) + 12 * math.sin(phase + number / 6))
            top = round(105 + 330 * (i // 5) + 8 * math.cos(phase + number / 8))
            canvas[top : top + one.shape[0], left : left + one.shape[1]] = one
        return canvas

    def picture(number: int, size: tuple[int, int]) -> Image:
        at = 0 if number == STILL else number
        return noisy(crowd(at) if size == CROWD else cameras[size].picture(at / FPS), number)

    return picture


@dataclass
class Found:
    """What a soak found. Memory in MB (10^6 bytes)."""

    seed: int
    landmarks: str
    machine: str
    seconds: float = 0.0
    pictures: int = 0
    """That the camera gave."""
    answered: int = 0
    """Results."""
    with_face: int = 0
    """Results that show a face."""
    most_faces: int = 0
    """In one result."""
    disordered: int = 0
    """Results that came twice, or after a later one."""
    mistaken: int = 0
    """Results whose time of capture is not that of their picture."""
    dropped: int = 0
    expected: Expected = field(default_factory=Expected)
    health: SourceHealth = field(default_factory=SourceHealth)
    warm_up: int = 0
    """Pictures before memory was watched."""
    slope_mb: float = math.nan
    """Growth of resident memory in 10,000 pictures, by least squares."""
    later_mb: float = math.nan
    """The same, of the second half of the samples alone: a leak grows on, what an allocator keeps does not. It is told
    and not judged."""
    first_mb: float = math.nan
    """Resident memory after warming up."""
    last_mb: float = math.nan
    """Resident memory at the end."""
    peak_mb: float = math.nan
    samples: list[tuple[int, float]] = field(default_factory=list)
    """Pictures given and resident memory."""
    threads: tuple[int, int] = (0, 0)
    """Of the process, native ones among them, before and after."""
    descriptors: tuple[int, int] = (0, 0)
    """Open files of the process before and after."""
    raised: str = ""
    """What ended it before its time."""

    @property
    def fps(self) -> float:
        """Pictures a second, pauses before reconnecting among them."""
        return self.pictures / max(1e-9, self.seconds)

    def breaches(self, limit_mb: float | None = None) -> list[str]:
        """What did not hold, one line each; empty where everything did.

        Args:
            limit_mb: resident memory at most; None leaves it out, for a process that does other things too.
        """
        expected, health = self.expected, self.health
        missing = self.pictures - self.answered - self.dropped - expected.corrupt - expected.withheld
        watched = self.samples[-1][0] - self.samples[0][0] if self.samples else 0
        allowed = allowed_slope(watched)
        found = {
            f"raised {self.raised}": bool(self.raised),
            f"{self.disordered} results came twice or out of order": self.disordered > 0,
            f"{self.mistaken} results tell another time of capture than their picture's": self.mistaken > 0,
            f"{missing} pictures are neither answered nor counted as dropped, corrupt or withheld": missing != 0,
            f"no result shows ten faces, the most is {self.most_faces}": self.most_faces != 10,
            f"memory grows by {self.slope_mb:.2f} MB in 10,000 pictures, allowed {allowed:.2f}": not (
                self.slope_mb < allowed
            ),
            f"{self.threads[0]} threads before, {self.threads[1]} after": self.threads[1] > self.threads[0],
            f"{self.descriptors[0]} descriptors before, {self.descriptors[1]} after": (
                self.descriptors[1] > self.descriptors[0]
            ),
            f"{self.peak_mb:.0f} MB resident, allowed {limit_mb}": limit_mb is not None
            and not 0 < self.peak_mb < limit_mb,
        }
        for key in ("corrupt", "frozen", "reconnects"):
            wanted, counted = getattr(expected, key), getattr(health, key)
            found[f"{key}: {counted} counted, {wanted} happened"] = counted != wanted
        return [what for what, breached in found.items() if breached]


def allowed_slope(pictures: int) -> float:
    """Growth of memory in 10,000 pictures that a run may show which watched so many, MB.

    The limit itself from 20,000 pictures on. In fewer than those a single step of the allocator weighs more than any
    leak that the limit is about, so it is allowed for.
    """
    return SLOPE_MB if pictures >= 20_000 else SLOPE_MB + STEP_MB * 10_000 / max(1, pictures)


def slope(samples: Sequence[tuple[int, float]]) -> float:
    """Growth in 10,000 pictures by least squares; NaN for fewer than three samples."""
    if len(samples) < 3:
        return math.nan
    pictures, mb = np.asarray(samples, np.float64).T
    return float(np.polyfit(pictures / 10_000, mb, 1)[0])


def soak(
    frames: int = HOUR,
    seconds: float | None = None,
    seed: int = 0,
    *,
    landmarks: Literal["5", "68"] = DEFAULT_MODEL,
    bundle: str | None = None,
    each: Callable[[Frame, Result], None] = lambda frame, result: None,
) -> Found:
    """Run it once.

    Args:
        frames: pictures that the camera gives, or a few more.
        seconds: stop after so long even if they are fewer; None is without limit.
        seed: of the faults.
        landmarks: as for :class:`edge.Recognizer`.
        bundle: likewise.
        each: what a consumer does with each frame and its result.
    """
    found = Found(seed, landmarks, f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    picture = scenes()
    with edge.Recognizer(bundle=bundle, landmarks=landmarks) as once:
        for number in range(3):
            once.process(picture(number, CROWD))  # libraries start threads of their own with the first large picture
    del once
    threads, descriptors = _threads(settled=0), _descriptors()
    plan, pace = Plan(frames, seconds, seed), Pace()
    script = Script(FPS, APART_S, size=SIZE, picture=picture, more=plan.more, hold=lambda: pace.hold(script.taken))
    source = script.source(frozen_after_s=FROZEN_AFTER_S, silent_after_s=SILENT_AFTER_S)
    begun, last, next_sample = time.monotonic(), -1, 0
    with edge.Recognizer(source, bundle=bundle, landmarks=landmarks) as recognizer:
        try:
            for frame, result in recognizer.with_frames():
                pace.received(result.frame)
                found.answered += 1
                found.disordered += result.frame <= last
                found.mistaken += result.captured_ns != round(result.frame * 1e9 / FPS) or frame.index != result.frame
                last = max(last, result.frame)
                visible = sum(face.visible for face in result.faces)
                found.with_face += visible > 0
                found.most_faces = max(found.most_faces, visible)
                if plan.warm is not None and last >= max(plan.warm, next_sample):
                    found.samples.append((last, resident_mb()))
                    next_sample = last + SAMPLE
                each(frame, result)
                if frame.index == plan.last:  # a result may err in its number, and is to be told of
                    break
        except Exception as error:
            found.raised = f"{type(error).__name__}: {error}"
        found.seconds = time.monotonic() - begun
        found.dropped = recognizer.dropped
        found.health = source.health
    found.pictures, found.expected, found.warm_up = script.taken, plan.expected, plan.warm or script.taken
    found.slope_mb = slope(found.samples)
    found.later_mb = slope(found.samples[len(found.samples) // 2 :])
    if found.samples:
        found.first_mb, found.last_mb = found.samples[0][1], found.samples[-1][1]
    found.peak_mb = resident_mb(peak=True)
    del recognizer, source
    found.threads = threads, _threads(settled=threads)
    found.descriptors = descriptors, _descriptors()
    return found


def _threads(settled: int) -> int:
    """Threads of this process; waits up to three seconds until no more than ``settled`` are left."""
    gc.collect()
    deadline = time.monotonic() + 3
    while (count := len(os.listdir("/proc/self/task"))) > settled and settled and time.monotonic() < deadline:
        time.sleep(0.02)
    return count


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def report(found: Found, breaches: Sequence[str]) -> str:
    """The figures as a table, and the verdict."""
    expected, health = found.expected, found.health
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(expected.faults.items()))
    share = found.with_face / max(1, found.answered)
    lines = [
        f"machine        {found.machine}; landmarks {found.landmarks}, seed {found.seed}",
        f"pictures       {found.pictures} in {found.seconds:.0f} s, {found.fps:.0f} a second",
        f"results        {found.answered}, {share:.0%} with a face, {found.most_faces} faces at most",
        f"faults         {faults}",
        "",
        f"{'counted':<14} {'expected':>9} {'found':>9}",
        f"{'corrupt':<14} {expected.corrupt:9} {health.corrupt:9}",
        f"{'frozen':<14} {expected.frozen:9} {health.frozen:9}",
        f"{'reconnects':<14} {expected.reconnects:9} {health.reconnects:9}",
        f"{'not answered':<14} {found.dropped + expected.corrupt + expected.withheld:9} "
        f"{found.pictures - found.answered:9}  ({found.dropped} dropped, {expected.corrupt} corrupt, "
        f"{expected.withheld} of a frozen camera)",
        f"{'threads':<14} {found.threads[0]:9} {found.threads[1]:9}",
        f"{'descriptors':<14} {found.descriptors[0]:9} {found.descriptors[1]:9}",
        "",
        f"memory         {found.first_mb:.1f} MB after {found.warm_up} pictures, {found.last_mb:.1f} at the end, "
        f"{found.peak_mb:.1f} at most",
        f"growth         {found.slope_mb:+.3f} MB in 10,000 pictures ({len(found.samples)} samples), "
        f"{found.later_mb:+.3f} in the second half",
        "",
        *(f"BREACH         {breach}" for breach in breaches),
        f"verdict        {'breached' if breaches else 'held'}",
    ]
    return "\n".join(lines)


def _as_json(found: Found, breaches: Sequence[str]) -> dict[str, Any]:
    document = asdict(found)
    document["health"]["state"] = found.health.state.value
    return {**document, "fps": found.fps, "breaches": list(breaches)}


class _Progress:
    """Tells how far it is: on one line where somebody looks, else twice a minute. Ends a run that stands still."""

    def __init__(self, frames: int) -> None:
        self._frames, self._begun, self._told = frames, time.monotonic(), -math.inf
        self._watched = sys.stderr.isatty()
        self._watch()

    def __call__(self, frame: Frame, result: Result) -> None:
        now = time.monotonic()
        if now - self._told < (0.5 if self._watched else 30):
            return
        self._told = now
        text = f"{result.frame} of {self._frames} pictures, {now - self._begun:.0f} s, {resident_mb():.1f} MB"
        print(f"\r{text} " if self._watched else text, end="" if self._watched else "\n", file=sys.stderr, flush=True)
        self._watch()

    @staticmethod
    def _watch() -> None:
        # Put off at each telling, which comes half a minute apart at most.
        faulthandler.dump_traceback_later(30 + STUCK_S, exit=True)

    def close(self) -> None:
        """Go to a new line; nothing is watched any more."""
        faulthandler.cancel_dump_traceback_later()
        if self._watched:
            print(file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="Does the loop survive an hour?")
    parser.add_argument("--frames", type=int, default=HOUR, metavar="N", help=f"pictures of the camera ({HOUR})")
    parser.add_argument("--seconds", type=float, metavar="N", help="stop after N seconds, if that is sooner")
    parser.add_argument("--seed", type=int, default=0, help="draws the faults (0)")
    parser.add_argument("--bundle", help="as for edge run")
    parser.add_argument("--landmarks", choices=MODELS, default=DEFAULT_MODEL)
    parser.add_argument("--json", metavar="FILE", help="write every figure there, the samples of memory among them")
    options = parser.parse_args(arguments)
    if options.frames < 1 or (options.seconds is not None and not options.seconds > 0):
        parser.error("--frames and --seconds must be above 0")
    losses = logging.getLogger("edge.sources.live")
    level = losses.level
    losses.setLevel(logging.ERROR)  # each loss is meant, and counted
    progress = _Progress(options.frames)
    try:
        found = soak(
            options.frames,
            options.seconds,
            options.seed,
            landmarks=options.landmarks,
            bundle=options.bundle,
            each=progress,
        )
    except edge.EdgeError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        progress.close()
        losses.setLevel(level)
    breaches = found.breaches(LIMIT_MB[options.landmarks])
    print(report(found, breaches))
    if options.json is not None:
        Path(options.json).write_text(json.dumps(_as_json(found, breaches), indent=2) + "\n", encoding="utf-8")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
