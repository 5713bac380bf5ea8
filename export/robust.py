"""Pictures made worse in stated steps, and how many faces are still read right.

Each condition is a function of its own, with one strength. It takes a :class:`View`, a picture and where the eyes are
in it, and gives another; ``edge``'s own :func:`~edge.preprocess.face_crop` then cuts the face by those eyes, as on the
robot. What training itself did to its pictures is in the bundle's recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import ANSWER, Bundle
from edge.engine import Engine
from edge.preprocess import face_crop, to_tensor
from edge.smooth import softmax
from edge.types import Points
from export.charts import Line, Panel, curves
from train.examples import Examples
from train.metrics import evaluate
from train.prepare import CROPPED

Grey = npt.NDArray[np.uint8]

MARGIN = 0.25
"""Room around a face that is turned in its frame, as a share of its side: the border is repeated there."""

SENSOR = 2.0
"""Standard deviation of a sensor's noise, grey levels: without it, darkness alone would be undone by normalising."""

HAIR = 1e-6
"""The eyes are taken to be so much closer: else rounding would have the cut of a face that already has its size sample
it twice as finely, and so blur it."""

COVER = 128
"""Grey level of what covers a face."""


@dataclass(frozen=True, slots=True)
class View:
    """One face, somewhere in a picture."""

    picture: Grey
    """uint8 (H, W)."""
    eyes: Points
    """float32 (2, 2), see :func:`edge.preprocess.face_crop`."""


Change = Callable[[View, float, np.random.Generator], View]


def blur(view: View, sigma: float, rng: np.random.Generator) -> View:
    """Out of focus: a Gaussian of ``sigma`` pixels of the picture as the corpus has it."""
    return replace(view, picture=np.asarray(cv2.GaussianBlur(view.picture, (0, 0), sigma), np.uint8))


def motion(view: View, length: float, rng: np.random.Generator) -> View:
    """The camera moved over ``length`` pixels, in any direction, while the picture was taken."""
    side = 2 * math.ceil(length / 2) + 3
    kernel = np.zeros((side, side), np.float32)
    angle, middle = rng.uniform(0, math.pi), (side - 1) / 2
    for along in np.linspace(-length / 2, length / 2, 8 * side):
        x, y = middle + along * math.cos(angle), middle + along * math.sin(angle)
        # Each point of the way is shared out among its four neighbours.
        left, top = math.floor(x), math.floor(y)
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            kernel[row, column] += max(0.0, 1 - abs(row - y)) * max(0.0, 1 - abs(column - x))
    moved = cv2.filter2D(view.picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return replace(view, picture=np.asarray(moved, np.uint8))


def noise(view: View, deviation: float, rng: np.random.Generator) -> View:
    """A sensor's Gaussian noise of ``deviation`` grey levels, each pixel on its own."""
    noisy = view.picture + rng.normal(0, deviation, view.picture.shape)
    return replace(view, picture=np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def jpeg(view: View, quality: float, rng: np.random.Generator) -> View:
    """Written as JPEG of ``quality`` 1..100, and read again."""
    done, data = cv2.imencode(".jpg", view.picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    assert done
    return replace(view, picture=np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8))


def darkness(view: View, light: float, rng: np.random.Generator) -> View:
    """The share ``light`` of the light, and a sensor's noise of two grey levels on top."""
    dark = view.picture * light + rng.normal(0, SENSOR, view.picture.shape)
    return replace(view, picture=np.clip(np.rint(dark), 0, 255).astype(np.uint8))


def occlusion(view: View, share: float, rng: np.random.Generator) -> View:
    """A grey square over the share ``share`` of the picture's area, anywhere in it."""
    picture = view.picture.copy()
    height, width = picture.shape
    side = round(math.sqrt(share * height * width))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    picture[top : top + side, left : left + side] = COVER
    return replace(view, picture=picture)


def mask(view: View, share: float, rng: np.random.Generator) -> View:
    """The lower ``share`` of the picture covered, as by a mask or a hand before the mouth."""
    picture = view.picture.copy()
    picture[round(len(picture) * (1 - share)) :] = COVER
    return replace(view, picture=picture)


def sunglasses(view: View, height: float, rng: np.random.Generator) -> View:
    """A black band over the eyes, ``height`` of their distance high, across the picture."""
    picture = view.picture.copy()
    half = height * float(np.hypot(*(view.eyes[1] - view.eyes[0]))) / 2
    middle = float(view.eyes[:, 1].mean())
    picture[max(0, round(middle - half)) : round(middle + half) + 1] = 0
    return replace(view, picture=picture)


def rotation(view: View, degrees: float, rng: np.random.Generator) -> View:
    """A head turned in the picture's plane to either side; the eyes are known, and alignment turns it back."""
    height, width = view.picture.shape
    margin = math.ceil(MARGIN * max(height, width))
    framed = cv2.copyMakeBorder(view.picture, *(margin,) * 4, cv2.BORDER_REPLICATE)
    size = framed.shape[1], framed.shape[0]
    matrix = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), _either(degrees, rng), 1.0)
    turned = cv2.warpAffine(framed, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    eyes = (view.eyes + margin) @ matrix[:, :2].T + matrix[:, 2]
    return View(np.asarray(turned, np.uint8), eyes.astype(np.float32))


def tilt(view: View, degrees: float, rng: np.random.Generator) -> View:
    """The same, but the eyes are taken to be where they were: what the network alone can stand."""
    turned = rotation(view, degrees, rng)
    margin = math.ceil(MARGIN * max(view.picture.shape))
    return replace(turned, eyes=(view.eyes + margin).astype(np.float32))


def misplaced(view: View, share: float, rng: np.random.Generator) -> View:
    """Each eye found off its place by ``share`` of the eyes' distance, in any direction."""
    angles = rng.uniform(0, 2 * math.pi, 2)
    away = share * float(np.hypot(*(view.eyes[1] - view.eyes[0])))
    moved = view.eyes + away * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return replace(view, eyes=moved.astype(np.float32))


def size(view: View, side: float, rng: np.random.Generator) -> View:
    """A face ``side`` pixels wide, got from the corpus' own size: a larger one shows no more than that."""
    height, width = view.picture.shape
    smaller = side < width
    scaled = cv2.resize(
        view.picture,
        (int(side), round(side * height / width)),
        interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC,
    )
    # A pixel's centre is at a whole number.
    factor = np.array([scaled.shape[1] / width, scaled.shape[0] / height])
    return View(np.asarray(scaled, np.uint8), ((view.eyes + 0.5) * factor - 0.5).astype(np.float32))


def _either(degrees: float, rng: np.random.Generator) -> float:
    return degrees if rng.random() < 0.5 else -degrees


@dataclass(frozen=True, slots=True)
class Condition:
    """What is done to the pictures, and how strongly."""

    change: Change
    unit: str
    """What a strength is."""
    strengths: tuple[float, ...]
    """From the least to the worst."""

    @property
    def name(self) -> str:
        """The function's."""
        return self.change.__name__

    @property
    def said(self) -> str:
        """The condition in one sentence."""
        return (self.change.__doc__ or "").splitlines()[0]


CONDITIONS = (
    Condition(blur, "pixels", (0.5, 1, 1.5, 2, 3)),
    Condition(motion, "pixels", (2, 4, 6, 9)),
    Condition(noise, "grey levels", (5, 10, 20, 40)),
    Condition(jpeg, "quality", (50, 30, 20, 10, 5)),
    Condition(darkness, "of the light", (0.5, 0.25, 0.12, 0.06)),
    Condition(occlusion, "of the area", (0.05, 0.1, 0.2, 0.3)),
    Condition(mask, "of the height", (0.2, 0.3, 0.4)),
    Condition(sunglasses, "eye distances", (0.3, 0.6)),
    Condition(rotation, "degrees", (5, 10, 20, 30)),
    Condition(tilt, "degrees", (5, 10, 20, 30)),
    Condition(misplaced, "eye distances", (0.05, 0.1, 0.2)),
    Condition(size, "pixels", (200, 128, 96, 64, 32, 24)),
)


def views(pictures: Examples) -> Iterator[View]:
    """A corpus' crops as faces in a picture, the eyes where that corpus has them.

    Raises:
        KeyError: it isn't known where the corpus' crops have the eyes.
    """
    where = np.array(CROPPED[pictures.corpus])
    for crop in pictures.arrays["face"]:
        eyes = where * (crop.shape[1], crop.shape[0]) - 0.5
        middle = eyes.mean(axis=0)
        yield View(crop, (middle + (eyes - middle) * (1 - HAIR)).astype(np.float32))


def answers(
    bundle: Bundle, engine: Engine, pictures: Examples, change: Change | None = None, strength: float = 0.0
) -> npt.NDArray[np.float32]:
    """Logits (N, K) of a corpus' crops, changed; the same change to the same picture each time.

    Args:
        bundle: one that sees a single picture of a face.
        engine: of that bundle.
        pictures: N grey crops.
        change: None leaves them as they are.
        strength: of the change.
    """
    (spec,) = bundle.manifest.inputs
    rng = np.random.default_rng(0)
    found = []
    for view in views(pictures):
        seen = view if change is None else change(view, strength, rng)
        image = np.asarray(cv2.cvtColor(seen.picture, cv2.COLOR_GRAY2BGR), np.uint8)
        found.append(engine.run({spec.name: to_tensor(face_crop(image, seen.eyes, spec), spec)})[ANSWER])
    return np.concatenate(found)


def measure(
    bundle: Bundle,
    engine: Engine,
    pictures: Examples,
    conditions: Sequence[Condition] = CONDITIONS,
    tell: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """How many are still right.

    Args:
        bundle: one that sees a single picture of a face.
        engine: of that bundle.
        pictures: labelled crops.
        conditions: what is done to them.
        tell: is told each condition that is done.

    Returns:
        One row for the pictures as they are (``condition`` ``none``), then one a condition and strength: ``accuracy``,
        ``interval`` (95 %, bootstrap), ``unchanged`` (share with the label of the picture as it is), ``confidence``
        (mean, calibrated) and ``said`` (share at or above the bundle's threshold for a statement). Shares are 0..1.
    """
    names, temperature = bundle.manifest.labels, bundle.manifest.temperature
    clean: npt.NDArray[np.int64] | None = None
    rows = []
    cases = [(None, 0.0), *((one, strength) for one in conditions for strength in one.strengths)]
    for condition, strength in cases:
        logits = answers(bundle, engine, pictures, condition.change if condition else None, strength) / temperature
        probabilities = softmax(logits)
        guess = probabilities.argmax(1)
        clean = guess if clean is None else clean
        figures = evaluate(logits, pictures.labels, names, logits=True, resamples=500)
        rows.append(
            {
                "condition": condition.name if condition else "none",
                "strength": strength,
                "unit": condition.unit if condition else "",
                "count": figures["count"],
                "accuracy": figures["accuracy"],
                "interval": None if figures["interval"] is None else list(figures["interval"]),
                "macro_f1": figures["macro_f1"],
                "unchanged": float((guess == clean).mean()),
                "confidence": float(probabilities.max(1).mean()),
                "said": float((probabilities.max(1) >= bundle.manifest.abstain_below).mean()),
            }
        )
        if condition is None or strength == condition.strengths[-1]:
            tell(f"{rows[-1]['condition']}: {rows[-1]['accuracy']:.1%}")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line a condition and strength."""
    lines = ["| condition | strength | accuracy | 95 % | same label | mean confidence | said |", "| --- " * 7 + "|"]
    for row in rows:
        low, high = row["interval"] or (math.nan, math.nan)
        name = f"{row['condition']} | {row['strength']:g} {row['unit']}"
        lines.append(
            f"| {'as they are |' if row['condition'] == 'none' else name} | {row['accuracy']:.1%} "
            f"| {low:.1%} to {high:.1%} | {row['unchanged']:.1%} | {row['confidence']:.2f} | {row['said']:.1%} |"
        )
    return "\n".join(lines)


def explained(conditions: Sequence[Condition] = CONDITIONS) -> str:
    """Markdown: what each condition does."""
    return "\n".join(f"- `{one.name}` ({one.unit}): {one.said.replace('``', '`')}" for one in conditions)


def chart(by_bundle: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Accuracy over strength, a panel a condition, a line a bundle and precision.

    Args:
        by_bundle: rows of :func:`measure`, by what they are called.

    Returns:
        SVG.
    """
    some = next(iter(by_bundle.values()))
    panels = []
    for condition in dict.fromkeys(row["condition"] for row in some if row["condition"] != "none"):
        lines = {}
        for name, rows in by_bundle.items():
            chosen = [row for row in rows if row["condition"] == condition]
            low, high = zip(*(row["interval"] or (row["accuracy"],) * 2 for row in chosen), strict=True)
            lines[name] = Line(
                [row["strength"] for row in chosen], [row["accuracy"] for row in chosen], list(low), list(high)
            )
        unit = next(row["unit"] for row in some if row["condition"] == condition)
        panels.append(
            Panel(
                condition,
                lines,
                unit,
                "accuracy",
                log_x=condition in ("size", "darkness", "jpeg"),
                percent=True,
                level=some[0]["accuracy"],
            )
        )
    return curves(panels, columns=3, height=2.4)
