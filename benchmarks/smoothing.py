"""What smoothing does, and what it costs in time: ``python -m benchmarks.smoothing [BUNDLE] [--data FOLDER]``.

Faces of a corpus' test part are shown for three seconds each, shifted, turned and noisy from frame to frame as a
robot's crops are, and then as steps from one face into another of which the bundle says something else. Each sequence
goes through :class:`edge.smooth.Smoother` at several settings; the shipped one stands among them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.accuracy import DATA
from benchmarks.errors import BenchError
from edge.arguments import BAD_INPUT, Parser
from edge.bundle import ANSWER, Bundle
from edge.engine import open_engine
from edge.errors import EdgeError
from edge.preprocess import to_tensor
from edge.smooth import Smoother, Smoothing
from export.measure import spread
from train.datasets import PICTURES

FRAME_NS = 1_000_000_000 // 30
STILL, HALF = 90, 40
"""Frames that a face is shown for, and frames before a step and after it."""

CLEAR = 0.9
"""Share of its frames in which a face has its usual label, at the least, to be one side of a step."""

SHIFT, TURN, NOISE = 0.02, 3.0, 4.0
"""Standard deviations from frame to frame: share of the crop's side, degrees, grey levels."""

SETTINGS = {
    "none": Smoothing(time_constant_ms=0.0, margin=0.0, patience_ms=0.0),
    **{f"{ms} ms": Smoothing(time_constant_ms=float(ms)) for ms in (50, 100, 150, 200, 300)},
}

Logits = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Effect:
    """One setting's figures."""

    changes: float
    """Label changes in 100 frames of a face that stays the same."""
    delays_ms: tuple[float, ...]
    """From the first frame of another face to the first that has its label, one for each step."""
    unseen: int
    """Steps whose new label never came."""


def shaken(face: Pixels, frames: int, rng: np.random.Generator) -> list[Pixels]:
    """A grey crop as so many frames of a face that is held still: uint8, of its own size."""
    side = np.array(face.shape[::-1], np.float64)
    shown = []
    for _ in range(frames):
        change = cv2.getRotationMatrix2D(tuple((side - 1) / 2), rng.normal(0, TURN), 1.0)
        change[:, 2] += rng.normal(0, SHIFT, 2) * side
        moved = cv2.warpAffine(face, change, face.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        shown.append(np.clip(moved + rng.normal(0, NOISE, face.shape), 0, 255).astype(np.uint8))
    return shown


def labels(logits: Logits, bundle: Bundle, smoothing: Smoothing) -> npt.NDArray[np.int64]:
    """The smoothed label of each frame of one face, (N,), from its frames' logits (N, K)."""
    smoother = Smoother(bundle.manifest.temperature, bundle.manifest.abstain_below, smoothing)
    said = [smoother.update(1, one, place * FRAME_NS) for place, one in enumerate(logits)]
    return np.array([one[0] for one in said if one is not None], np.int64)


def effect(stills: Sequence[Logits], steps: Sequence[Logits], bundle: Bundle, smoothing: Smoothing) -> Effect:
    """What one setting makes of sequences of logits (N, K); a step's second half is another face.

    A step shows when the label is the one that the second face's own frames give most often.
    """
    moves = frames = unseen = 0
    for one in stills:
        said = labels(one, bundle, smoothing)
        moves, frames = moves + int((np.diff(said) != 0).sum()), frames + len(said) - 1
    delays = []
    for one in steps:
        said = labels(one, bundle, smoothing)[HALF:]
        shown = np.flatnonzero(said == _usual(one[HALF:])[0])
        if len(shown):
            delays.append(int(shown[0]) * FRAME_NS / 1e6)
        else:
            unseen += 1
    return Effect(100 * moves / max(frames, 1), tuple(delays), unseen)


def _usual(logits: Logits) -> tuple[int, float]:
    """The label that most frames give, and their share."""
    counts = np.bincount(logits.argmax(1))
    return int(counts.argmax()), float(counts.max() / len(logits))


def measure(bundle: Bundle, faces: Pixels, seed: int = 0) -> dict[str, Effect]:
    """Every setting's effect on a bundle's answers.

    Args:
        bundle: one that sees a single grey picture of a face.
        faces: uint8 (N, H, W), of the input's size.
        seed: of the frames' shaking.

    Raises:
        BenchError: another kind of bundle or size, or no two faces that it names clearly and unlike.
    """
    inputs = bundle.manifest.inputs
    size = (inputs[0].height, inputs[0].width)
    if len(inputs) != 1 or inputs[0].kind != "face" or inputs[0].colour != "grey" or faces.shape[1:] != size:
        raise BenchError(
            f"{bundle.manifest.name}: eats {', '.join(spec.kind for spec in inputs)} of {size}, the crops are of "
            f"{faces.shape[1:]}; expected a bundle of single grey faces of their size"
        )
    engine, rng = open_engine(bundle), np.random.default_rng(seed)

    def answers(face: Pixels) -> Logits:
        shown = shaken(face, STILL, rng)
        return np.concatenate([engine.run({inputs[0].name: to_tensor(one, inputs[0])})[ANSWER] for one in shown])

    stills = [answers(face) for face in faces]
    engine.close()
    # What the bundle calls now this and now that, or alike, shows no step.
    clear = [one for one in stills if _usual(one)[1] >= CLEAR]
    steps = [
        np.concatenate([before[:HALF], after[-HALF:]])
        for before, after in zip(clear, clear[1:] + clear[:1], strict=True)
        if _usual(before)[0] != _usual(after)[0]
    ]
    if not steps:
        raise BenchError(
            f"{bundle.manifest.name}: names no two of {len(faces)} faces clearly and unlike; give more (--faces)"
        )
    return {name: effect(stills, steps, bundle, smoothing) for name, smoothing in SETTINGS.items()}


def report(found: dict[str, Effect]) -> str:
    """The figures as Markdown."""
    shipped = Smoothing()
    lines = ["| smoothing | label changes per 100 frames | a step shows after, median / 95% / worst | never |"]
    lines.append("| --- | --- | --- | --- |")
    for name, one in found.items():
        times = " / ".join(f"{value:.0f}" for value in np.quantile(one.delays_ms, (0.5, 0.95, 1.0)))
        row = [name, f"{one.changes:.2f}", f"{times} ms", str(one.unseen)]
        if SETTINGS[name] == shipped:
            row = [f"**{cell}**" for cell in row]
        lines.append(f"| {' | '.join(row)} |")
    steps = max(len(one.delays_ms) + one.unseen for one in found.values())
    moves = f"at a lead of {shipped.margin:.2f}, or after {shipped.patience_ms:.0f} ms ahead"
    lines.append(f"\n{steps} steps. Averaged so long; the label moves {moves}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.smoothing", description="What smoothing does to a bundle's labels.")
    parser.add_argument("bundle", nargs="?", help="name or path (default: face)")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help=f"the corpus ({DATA})")
    parser.add_argument("--corpus", choices=sorted(PICTURES), default="fer2013")
    parser.add_argument("--faces", type=int, default=400, metavar="N", help="faces shown, spread over the test part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.faces < 2:
        parser.error("--faces is 2 or more")
    try:
        pictures = spread(PICTURES[options.corpus](options.data, "test"), options.faces)
        found = measure(Bundle.open(options.bundle), pictures.arrays["face"], options.seed)
    except EdgeError as error:
        print(f"smoothing: {error}", file=sys.stderr)
        return BAD_INPUT
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
