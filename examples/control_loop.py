"""A robot's control loop at 50 Hz that looks at faces without ever waiting for them.

    python examples/control_loop.py 0                  # camera 0, until Ctrl-C
    python examples/control_loop.py synthetic:// --seconds 5

Each cycle asks for the newest result. One that is too old, or none, is no reason to stop: the head stays where it is.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field

import edge

RATE_HZ = 50.0
MAX_AGE_MS = 150.0
"""What is older is no ground to move on."""

GAIN = 0.6
"""Degrees that the head turns in a cycle for a face at the picture's edge."""


@dataclass
class Head:
    """Where the head points; a real one would send this to its motors."""

    pan_deg: float = 0.0
    tilt_deg: float = 0.0

    def towards(self, across: float, down: float) -> None:
        """A step towards a place in the picture: -1..1 from left to right, and from top to bottom."""
        self.pan_deg = max(-90.0, min(90.0, self.pan_deg + GAIN * across))
        self.tilt_deg = max(-30.0, min(30.0, self.tilt_deg - GAIN * down))


@dataclass
class Counts:
    """What happened in the cycles."""

    cycles: int = 0
    fresh: int = 0
    """Cycles with a result."""
    with_face: int = 0
    stale: int = 0
    """Cycles in which the newest result was too old."""
    late: int = 0
    """Cycles that began more than half a period too late."""
    longest_ms: float = 0.0
    """The longest time that a cycle's own work took."""
    labels: dict[str, int] = field(default_factory=dict)


def cycle(recognizer: edge.Recognizer, head: Head, size: tuple[int, int], counts: Counts) -> None:
    """One cycle: look, decide, move. It takes well under a millisecond."""
    try:
        result = recognizer.latest(max_age_ms=MAX_AGE_MS)
    except edge.StaleResultError:
        counts.stale += 1
        return
    counts.fresh += 1
    there = [face for face in result.faces if face.visible]
    if not there:
        return
    counts.with_face += 1
    nearest = max(there, key=lambda face: face.box.width)
    x, y = nearest.box.centre
    head.towards(2 * x / size[0] - 1, 2 * y / size[1] - 1)
    # Only `ok` is a statement; all else may not be acted on.
    if nearest.state is edge.FaceState.OK and nearest.label is not None:
        counts.labels[nearest.label] = counts.labels.get(nearest.label, 0) + 1


def run(source: str, seconds: float, size: tuple[int, int]) -> Counts:
    """The loop.

    Args:
        source: as ``edge run`` takes it.
        seconds: how long; 0 is until interrupted.
        size: of the pictures, pixels.

    Raises:
        EdgeError: a source that can't be used, or that was lost for good.
    """
    head, counts = Head(), Counts()
    with edge.Recognizer(source, min_face=60) as recognizer:
        # The first call opens all and waits for the first result: not in the loop.
        recognizer.latest(max_age_ms=float("inf"))
        begun = due = time.monotonic()
        while not seconds or time.monotonic() - begun < seconds:
            woken = time.monotonic()
            counts.late += woken - due > 0.5 / RATE_HZ
            cycle(recognizer, head, size, counts)
            counts.cycles += 1
            counts.longest_ms = max(counts.longest_ms, (time.monotonic() - woken) * 1e3)
            # From when it was due, not from now: the rate does not drift. What was missed is not made up for.
            due = max(due + 1 / RATE_HZ, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    return counts


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A control loop at 50 Hz that looks at faces.")
    parser.add_argument("source", nargs="?", default="0")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long (default: until Ctrl-C)")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args(arguments)
    try:
        counts = run(options.source, options.seconds, tuple(options.size))
    except edge.EdgeError as error:
        print(f"control_loop: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    print(counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
