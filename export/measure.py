"""How good a bundle is on labelled crops: the one code that measures it, for manifests, cards and benchmarks.

Every precision through ``edge``'s own preprocessing and engine: accuracy with an interval, recall by class, confusion,
calibration, accuracy where it dares to speak, agreement with the first precision, with and without the pictures that
have a twin among those that were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.bundle import ANSWER, Bundle
from edge.engine import Engine, open_engine
from edge.errors import EdgeError
from edge.preprocess import to_tensor
from edge.smooth import softmax
from export.errors import ExportError
from train.datasets import PICTURES, CorpusError
from train.examples import Examples
from train.metrics import Labels, Logits, confidence_at_coverage, evaluate
from train.twins import twins

COVERAGE = 0.8
"""Share of the pictures, those of which it is surest, on which accuracy is told too."""

RESAMPLES = 2000
BINS = 15
"""Of the confidence, as in ``train.metrics.calibration_error``."""

STEPS = 20
"""Coverages of the curve, evenly spread over 0..1."""


def predict(bundle: Bundle, engine: Engine, pictures: Examples) -> Logits:
    """Logits (N, K) float32 of grey crops that have the input's size.

    Raises:
        CorpusError: labels or size differ from the bundle's.
    """
    (spec,) = bundle.manifest.inputs
    if pictures.names != bundle.manifest.labels:
        raise CorpusError(
            f"{pictures.corpus}: labels {list(pictures.names)} differ from the bundle's {list(bundle.manifest.labels)}"
        )
    crops = pictures.arrays["face"]
    if spec.colour != "grey" or crops.shape[1:] != (spec.height, spec.width):
        raise CorpusError(
            f"{pictures.corpus}: grey crops of {crops.shape[1:]} pixels; the bundle wants "
            f"{spec.colour} {spec.height}x{spec.width}"
        )
    return np.concatenate([engine.run({spec.name: to_tensor(crop, spec)})[ANSWER] for crop in crops])


def read(corpus: str, data: Path, most: int | None = None) -> tuple[Examples, npt.NDArray[np.bool_] | None]:
    """A corpus' test part, and which of its pictures have a twin in the training part.

    Args:
        corpus: a name in ``train.datasets.PICTURES``.
        data: its folder, or the test part's file (then no training part is looked for).
        most: so many pictures at most, spread over the whole.

    Returns:
        The pictures, and (N,) bool, or None where there is no training part.

    Raises:
        CorpusError: not that corpus.
    """
    test = spread(PICTURES[corpus](data, "test"), most)
    training = training_part(corpus, data)
    return test, None if training is None else twins(test.arrays["face"], training.arrays["face"])


def training_part(corpus: str, data: Path) -> Examples | None:
    """A corpus' training part; None where ``data`` is the test part's file, or holds no other."""
    if not data.is_dir():
        return None
    try:
        return PICTURES[corpus](data, "train")
    except EdgeError:
        return None


def spread(pictures: Examples, most: int | None) -> Examples:
    """So many pictures at most, spread over the whole; None is all."""
    if most is None or most >= len(pictures):
        return pictures
    return pictures.subset(np.linspace(0, len(pictures) - 1, most).astype(np.int64))


def figures(
    logits: Logits,
    labels: Labels,
    names: Sequence[str],
    temperature: float,
    first: npt.NDArray[np.int64],
    abstain_below: float = 0.0,
) -> dict[str, Any]:
    """One precision's figures on one set.

    Args:
        logits: (N, K).
        labels: (N,).
        names: K labels.
        temperature: of the bundle.
        first: (N,) what the first precision says.
        abstain_below: of the bundle: the confidence under which a result is ``uncertain``.

    Returns:
        ``count``, ``accuracy``, ``interval`` (95 %, bootstrap over the pictures), ``macro_f1``, ``uar``, ``ece``,
        ``recall`` by class, ``confusion`` (rows are the truth), ``said`` (times that each label is given),
        ``covered`` (accuracy on the 80 % of the pictures of which it is surest), ``agreement`` (share with the first
        precision's label), ``reliability`` (see :func:`reliability`), ``curve`` (see :func:`curve`) and ``threshold``
        (the point of that curve at ``abstain_below``). Shares are 0..1.
    """
    scaled = (logits / temperature).astype(np.float32)
    found = evaluate(scaled, labels, names, logits=True, resamples=RESAMPLES)
    probabilities = softmax(scaled)
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    right = guess == labels
    sure = confidence >= confidence_at_coverage(probabilities, COVERAGE)
    kept = ("count", "accuracy", "interval", "macro_f1", "uar", "ece", "recall", "confusion")
    return {
        **{key: found[key] for key in kept},
        "interval": None if found["interval"] is None else list(found["interval"]),
        "said": {name: int((guess == code).sum()) for code, name in enumerate(names)},
        "covered": float(right[sure].mean()),
        "agreement": float((guess == first).mean()),
        "reliability": reliability(confidence, right),
        "curve": [_point(confidence, right, np.quantile(confidence, 1 - step / STEPS)) for step in range(1, STEPS + 1)],
        "threshold": _point(confidence, right, abstain_below),
    }


def reliability(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Confidence beside what came true, in equal-width bins (Guo et al. 2017, figure 1).

    Args:
        confidence: (N,) of the label that is given, 0..1.
        right: (N,) whether that was the label.

    Returns:
        For each bin that isn't empty ``count``, mean ``confidence`` and ``accuracy``, from the lowest.
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "count": int((place == one).sum()),
            "confidence": float(confidence[place == one].mean()),
            "accuracy": float(right[place == one].mean()),
        }
        for one in sorted(set(place.tolist()))
    ]


def _point(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], least: float) -> dict[str, float | None]:
    """A point of the risk-coverage curve (El-Yaniv, Wiener 2010): who answers from ``least`` on is this often right."""
    sure = confidence >= least
    return {
        "confidence": float(least),
        "coverage": float(sure.mean()),
        "accuracy": float(right[sure].mean()) if sure.any() else None,
    }


def measure(
    bundle: Bundle,
    pictures: Examples,
    doubles: npt.NDArray[np.bool_] | None = None,
    precisions: Sequence[str] = (),
    backend: str = "auto",
) -> dict[str, dict[str, Any]]:
    """All figures of one bundle, by precision.

    Args:
        bundle: opened; one that sees a single picture of a face.
        pictures: labelled crops of the input's size.
        doubles: (N,) which of them have a twin in the training part; None where that isn't known.
        precisions: some of the bundle's; none is all. Agreement is with the first.
        backend: as for :func:`edge.engine.open_engine`.

    Returns:
        :func:`figures`, with the ``backend`` that answered, and, where twins are known, ``twins`` (how many) and
        ``without_twins`` (the figures of the others).

    Raises:
        ExportError: the bundle sees windows of frames, of which single crops say nothing.
        EdgeError: pictures, precision or backend that can't be used.
    """
    single(bundle)
    manifest = bundle.manifest
    found = dict[str, dict[str, Any]]()
    first: npt.NDArray[np.int64] | None = None
    for precision in precisions or manifest.precisions:
        engine = open_engine(bundle, backend, precision)
        logits = predict(bundle, engine, pictures)
        engine.close()
        said = logits.argmax(1)
        first = said if first is None else first

        def of(
            chosen: npt.NDArray[np.bool_], logits: Logits = logits, first: npt.NDArray[np.int64] = first
        ) -> dict[str, Any]:
            return figures(
                logits[chosen],
                pictures.labels[chosen],
                manifest.labels,
                manifest.temperature,
                first[chosen],
                manifest.abstain_below,
            )

        one = found[precision] = {**of(np.ones(len(pictures), bool)), "backend": engine.backend}
        if doubles is not None:
            one["twins"] = int(doubles.sum())
            if not doubles.all():
                one["without_twins"] = of(~doubles)
    return found


def single(bundle: Bundle) -> None:
    """That a bundle reads single faces.

    Raises:
        ExportError: it sees windows of frames.
    """
    if bundle.manifest.streams:
        raise ExportError(
            f"{bundle.manifest.name}: sees windows of frames; expected a bundle that reads single face crops"
        )


def interval(one: dict[str, Any]) -> str:
    """``63.30% (61.7% to 64.9%)``, of what has ``accuracy`` and ``interval``."""
    low, high = one["interval"] or (math.nan, math.nan)
    return f"{one['accuracy']:.2%} ({low:.1%} to {high:.1%})"


def table(found: dict[str, dict[str, Any]]) -> str:
    """One bundle's figures as Markdown: a column a precision."""
    columns = list(found.values())
    first = next(iter(found))
    rows = [
        ("pictures", [f"{one['count']:,}" for one in columns]),
        ("accuracy (95 %)", [interval(one) for one in columns]),
        (f"accuracy on the surest {COVERAGE:.0%}", [f"{one['covered']:.2%}" for one in columns]),
        ("macro F1", [f"{one['macro_f1']:.3f}" for one in columns]),
        ("mean recall", [f"{one['uar']:.3f}" for one in columns]),
        ("expected calibration error", [f"{one['ece']:.3f}" for one in columns]),
        (f"label of {first}", [f"{one['agreement']:.2%}" for one in columns]),
        *((f"recall, {name}", [f"{one['recall'][name]:.1%}" for one in columns]) for name in columns[0]["recall"]),
    ]
    if "without_twins" in columns[0]:
        rest = [one["without_twins"] for one in columns]
        rows += [
            (f"without {columns[0]['twins']} twins: accuracy (95 %)", [interval(one) for one in rest]),
            (f"without twins: accuracy on the surest {COVERAGE:.0%}", [f"{one['covered']:.2%}" for one in rest]),
            ("without twins: macro F1", [f"{one['macro_f1']:.3f}" for one in rest]),
            ("without twins: expected calibration error", [f"{one['ece']:.3f}" for one in rest]),
        ]
    head = "".join(f"| {name} ({one['backend']}) " for name, one in found.items())
    lines = [f"| figure {head}|", "| --- " * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(values)} |" for name, values in rows)])


def confusion_table(one: dict[str, Any]) -> str:
    """The confusion of one precision as Markdown: a row a true class, shares of that row."""
    names = list(one["recall"])
    lines = [f"| is \\ said | {' | '.join(names)} | pictures |", "| --- " * (len(names) + 2) + "|"]
    for name, row in zip(names, one["confusion"], strict=True):
        total = sum(row)
        cells = " | ".join(f"{count / max(1, total):.0%}" for count in row)
        lines.append(f"| {name} | {cells} | {total} |")
    return "\n".join(lines)
