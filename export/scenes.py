"""Whole pictures: is a face that the runtime finds and cuts by itself read as well as a corpus' own crop of it?

Each crop, enlarged, stands in the middle of a grey picture; detector, landmarks, alignment and network then run as for
any single picture (``edge.pipeline``). On the faces that are found, three ways to cut are compared:

    crop      the corpus' own
    eyes      from the whole picture, by where the corpus has the eyes: what resampling costs
    runtime   from the whole picture, by the eyes that the runtime found

A crop ends at the face's edge, where a real picture goes on: the detector misses more of these than of faces at large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge.bundle import ANSWER, Bundle
from edge.engine import Engine
from edge.faces.detect import Detection, FaceDetector
from edge.faces.landmarks import DEFAULT_MODEL, MODELS, Landmarks
from edge.pipeline import Pipeline
from edge.preprocess import face_crop, to_tensor
from edge.recognizer import UNRELATED
from edge.smooth import softmax
from edge.types import Box, Face, FaceState, Frame, Image, Points
from export.charts import Line, Panel, curves
from export.measure import predict, spread
from export.robust import View, rotation, size, views
from train.examples import Examples
from train.metrics import evaluate

GREY = 128
"""Level of what surrounds a face."""

WIDER = 2
"""Side of the whole picture, as a multiple of the face's."""

MIN_FACE = 40
"""As for single pictures on the command line, pixels."""

SAMPLE = 600
"""Pictures, at most, for each size and angle; the whole set is for the first scene alone."""

RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Scene:
    """How a crop stands in its picture."""

    side: int = 144
    """Of the enlarged crop, pixels."""
    degrees: float = 0.0
    """It is turned by so much in the picture's plane, to either side."""


FIRST = Scene()
OTHERS = (
    *(Scene(side) for side in (200, FIRST.side, 128, 96, 64, 48, 32, 24)),
    *(Scene(degrees=degrees) for degrees in (10, 20, 30)),
)


class _Remembering(FaceDetector):
    """Answers for the picture it saw last from memory: each is read with both sets of landmarks."""

    _last: tuple[npt.NDArray[np.uint8], list[Detection]] | None = None

    def find(
        self, grey: npt.NDArray[np.uint8], region: Box | None = None, times: int = 1, filter: int | None = None
    ) -> list[Detection]:
        """As the base class."""
        if (region, times, filter) != (None, 1, None):
            return super().find(grey, region, times, filter)
        if self._last is None or not np.array_equal(self._last[0], grey):
            self._last = grey, super().find(grey)
        return self._last[1]


def place(view: View, scene: Scene, rng: np.random.Generator) -> tuple[Image, Points]:
    """A crop in its picture.

    Args:
        view: the crop, and where its eyes are.
        scene: how it stands there.
        rng: decides to which side it is turned.

    Returns:
        BGR uint8 (H, H, 3), and float32 (2, 2), where the eyes are in it.
    """
    scaled = size(view, scene.side, rng)
    margin = round(scene.side * (WIDER - 1) / 2)
    picture = cv2.copyMakeBorder(scaled.picture, *(margin,) * 4, cv2.BORDER_CONSTANT, value=(GREY,))
    whole = View(np.asarray(picture, np.uint8), scaled.eyes + np.float32(margin))
    if scene.degrees:
        whole = rotation(whole, scene.degrees, rng)
    return np.asarray(cv2.cvtColor(whole.picture, cv2.COLOR_GRAY2BGR), np.uint8), whole.eyes


def measure(
    bundle: Bundle,
    engine: Engine,
    pictures: Examples,
    scene: Scene = FIRST,
    landmarks: Sequence[str] = MODELS,
) -> list[dict[str, Any]]:
    """How many faces are found, and how well they are read.

    Args:
        bundle: one that sees a single picture of a face.
        engine: of that bundle.
        pictures: labelled grey crops of the input's size.
        scene: how each stands in its picture.
        landmarks: models that mark the eyes, ``5`` or ``68``.

    Returns:
        One row a model: the ``scene``'s facts, ``landmarks``, ``pictures`` (how many), ``found`` (how many),
        ``found_by_label`` (shares), ``more`` (pictures with another face than the one that was put there), and, None
        where nothing was found, of those found: ``crop``, ``eyes`` and ``runtime`` (each ``count``, ``accuracy``,
        ``interval``, ``ece``), ``difference`` (accuracy of ``runtime`` less that of ``crop``) with its
        ``difference_interval`` (95 %, bootstrap over the pictures), ``same`` (share on which these two say the same
        label), ``states`` (shares of the runtime's) and ``ok`` (accuracy where the state is ``ok``). Shares are 0..1.
    """
    names, temperature = bundle.manifest.labels, bundle.manifest.temperature
    (spec,) = bundle.manifest.inputs
    own = softmax(predict(bundle, engine, pictures) / temperature)
    detector = _Remembering(MIN_FACE)
    pipelines = {
        name: Pipeline(bundle, engine, detector, Landmarks(name), UNRELATED, always_search=True) for name in landmarks
    }
    read: dict[str, dict[int, Face]] = {name: {} for name in landmarks}
    known, more = np.zeros_like(own), dict.fromkeys(landmarks, 0)
    for number, (image, eyes) in enumerate(_scenes(pictures, scene)):
        for name, pipeline in pipelines.items():
            faces = pipeline.process(Frame(number, number * 10**9, image, number * 10**9)).faces
            here = [face for face in faces if _there(face.box, image)]
            more[name] += len(faces) > 1 or len(faces) > len(here)
            if here:
                read[name][number] = here[0]
        if any(number in one for one in read.values()):
            tensor = to_tensor(face_crop(image, eyes, spec), spec)
            known[number] = softmax(engine.run({spec.name: tensor})[ANSWER] / temperature)[0]
    rows = []
    for name in landmarks:
        found = np.array(sorted(read[name]), np.int64)
        chosen = [read[name][number] for number in found]
        rows.append(
            {
                **asdict(scene),
                "landmarks": name,
                "pictures": len(pictures),
                "found": len(found),
                "found_by_label": {
                    label: float(np.isin(np.flatnonzero(pictures.labels == code), found).mean())
                    for code, label in enumerate(names)
                    if (pictures.labels == code).any()
                },
                "more": more[name],
                **_compared(chosen, own[found], known[found], pictures.labels[found], names),
            }
        )
    return rows


def _scenes(pictures: Examples, scene: Scene) -> Iterator[tuple[Image, Points]]:
    rng = np.random.default_rng(0)
    for view in views(pictures):
        yield place(view, scene, rng)


def _there(box: Box, image: Image) -> bool:
    """Whether a face is the one in the middle."""
    side = image.shape[0]
    return all(abs(centre - side / 2) < side / (2 * WIDER) for centre in box.centre)


def _compared(
    faces: Sequence[Face],
    own: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, Any]:
    keys = ("crop", "eyes", "runtime", "difference", "difference_interval", "same", "states", "ok")
    if not faces:
        return dict.fromkeys(keys)
    runtime = np.array([[face.probabilities[name] for name in names] for face in faces])
    right = runtime.argmax(1) == labels
    gained = right.astype(float) - (own.argmax(1) == labels)
    rng = np.random.default_rng(0)
    drawn = [gained[rng.integers(0, len(gained), len(gained))].mean() for _ in range(RESAMPLES)]
    ok = np.array([face.state is FaceState.OK for face in faces])
    values = (
        *(_brief(one, labels, names) for one in (own, known, runtime)),
        float(gained.mean()),
        [float(one) for one in np.quantile(drawn, (0.025, 0.975))],
        float((runtime.argmax(1) == own.argmax(1)).mean()),
        {
            state.value: share
            for state in FaceState
            if (share := float(np.mean([face.state is state for face in faces]))) > 0
        },
        float(right[ok].mean()) if ok.any() else None,
    )
    return dict(zip(keys, values, strict=True))


def _brief(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], names: Sequence[str]) -> Any:
    found = evaluate(probabilities, labels, names, resamples=RESAMPLES)
    between = None if found["interval"] is None else list(found["interval"])
    return {"count": found["count"], "accuracy": found["accuracy"], "interval": between, "ece": found["ece"]}


def all_scenes(
    bundle: Bundle,
    engine: Engine,
    pictures: Examples,
    others: Sequence[Scene] = OTHERS,
    tell: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Rows of :func:`measure`: the first scene on all pictures, with both sets of landmarks; others, with one."""
    rows = measure(bundle, engine, pictures)
    tell(f"whole pictures: {rows[0]['found']} of {rows[0]['pictures']} faces found")
    some = spread(pictures, SAMPLE)
    for scene in others:
        rows += measure(bundle, engine, some, scene, (DEFAULT_MODEL,))
        tell(f"whole pictures, {scene.side} pixels, {scene.degrees:g} degrees: {rows[-1]['found']} of {len(some)}")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line a row."""
    lines = [
        "| face, pixels | turned | landmarks | pictures | found | corpus' crop | same eyes | runtime "
        "| runtime less crop | same label | `ok` | right where `ok` |",
        "| --- " * 12 + "|",
    ]
    for row in rows:
        head = f"| {row['side']} | {row['degrees']:g}° | {row['landmarks']} | {row['pictures']:,} "
        head += f"| {row['found'] / row['pictures']:.1%} "
        if row["runtime"] is None:
            lines.append(head + "| - " * 7 + "|")
            continue
        low, high = row["difference_interval"]
        head += "".join(f"| {row[way]['accuracy']:.1%} " for way in ("crop", "eyes", "runtime"))
        head += f"| {_points(row['difference'])} ({_points(low)} to {_points(high)}) | {row['same']:.1%} "
        ok = "-" if row["ok"] is None else f"{row['ok']:.1%}"
        lines.append(f"{head}| {row['states'].get('ok', 0.0):.1%} | {ok} |")
    return "\n".join(lines)


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """What is found, and how well it is read, over size and angle: SVG."""
    least = min(row["pictures"] for row in rows)
    some = [row for row in rows if row["pictures"] == least and row["landmarks"] == DEFAULT_MODEL]
    panels = []
    for key, title, across in (("side", "size", "pixels"), ("degrees", "turned in the plane", "degrees")):
        other = "degrees" if key == "side" else "side"
        by_key = {row[key]: row for row in some if row[other] == getattr(FIRST, other)}
        at = sorted(by_key)
        found = [one for one in at if by_key[one]["found"]]
        lines = {"found": Line(at, [by_key[one]["found"] / by_key[one]["pictures"] for one in at])}
        for way, name in (("crop", "right, corpus' crop"), ("runtime", "right, runtime's crop")):
            lines[name] = Line(found, [by_key[one][way]["accuracy"] for one in found])
        panels.append(Panel(title, lines, across, "share", log_x=key == "side", percent=True))
    return curves(panels, columns=2)
