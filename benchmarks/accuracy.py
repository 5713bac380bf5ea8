"""How good is it? ``python -m benchmarks.accuracy [BUNDLE ...] [--data FOLDER] [--robust] [--out FOLDER]``.

Every bundle and precision on a corpus' test part, through ``edge``'s own preprocessing and engine: accuracy with an
interval, recall by class, confusion, calibration, accuracy where it dares to speak, agreement with fp32, with and
without the pictures that have a twin among those that were trained on. ``--robust`` adds what blur, noise, darkness and
the like do (:mod:`benchmarks.robust`). ``python -m export.accuracy`` gives the few figures that a manifest holds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import charts, robust
from benchmarks.errors import BenchError
from edge.arguments import BAD_INPUT, Parser
from edge.bundle import Bundle, packaged, to_document
from edge.engine import BACKENDS, open_engine, preferred
from edge.errors import EdgeError
from edge.smooth import softmax
from export.accuracy import predict
from train.datasets import PICTURES
from train.examples import Examples
from train.metrics import Labels, Logits, confidence_at_coverage, evaluate
from train.twins import twins

DATA = Path("../shared/data/fer2013")
COVERAGE = 0.8
RESAMPLES = 2000


def figures(
    logits: Logits, labels: Labels, names: Sequence[str], temperature: float, first: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """One precision's figures on one set.

    Args:
        logits: (N, K).
        labels: (N,).
        names: K labels.
        temperature: of the bundle.
        first: (N,) what the first precision says.

    Returns:
        ``count``, ``accuracy``, ``interval`` (95 %, bootstrap over the pictures), ``macro_f1``, ``uar``, ``ece``,
        ``recall`` by class, ``confusion`` (rows are the truth), ``covered`` (accuracy on the 80 % of the pictures of
        which it is surest) and ``agreement`` (share with the first precision's label). Shares are 0..1.
    """
    scaled = (logits / temperature).astype(np.float32)
    found = evaluate(scaled, labels, names, logits=True, resamples=RESAMPLES)
    probabilities = softmax(scaled)
    guess, confidence = probabilities.argmax(1), probabilities.max(1)
    sure = confidence >= confidence_at_coverage(probabilities, COVERAGE)
    kept = ("count", "accuracy", "interval", "macro_f1", "uar", "ece", "recall", "confusion")
    return {
        **{key: found[key] for key in kept},
        "covered": float((guess[sure] == labels[sure]).mean()),
        "agreement": float((guess == first).mean()),
    }


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
    test = PICTURES[corpus](data, "test")
    if most is not None and most < len(test):
        test = test.subset(np.linspace(0, len(test) - 1, most).astype(np.int64))
    if not data.is_dir():
        return test, None
    try:
        training = PICTURES[corpus](data, "train")
    except EdgeError:
        return test, None
    return test, twins(test.arrays["face"], training.arrays["face"])


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
        BenchError: the bundle sees windows of frames, of which single crops say nothing.
        EdgeError: pictures, precision or backend that can't be used.
    """
    manifest = bundle.manifest
    if manifest.streams:
        raise BenchError(f"{manifest.name}: sees windows of frames; expected a bundle that reads single face crops")
    names, found = manifest.labels, dict[str, dict[str, Any]]()
    first: npt.NDArray[np.int64] | None = None
    for precision in precisions or manifest.precisions:
        engine = open_engine(bundle, backend, precision)
        logits = predict(bundle, engine, pictures)
        engine.close()
        first = logits.argmax(1) if first is None else first
        one = found[precision] = {
            **figures(logits, pictures.labels, names, manifest.temperature, first),
            "backend": engine.backend,
        }
        if doubles is not None:
            alone = ~doubles
            one["twins"] = int(doubles.sum())
            one["without_twins"] = figures(
                logits[alone], pictures.labels[alone], names, manifest.temperature, first[alone]
            )
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """One bundle's figures as Markdown: a column a precision."""
    columns = list(found.values())
    first = next(iter(found))

    def interval(one: dict[str, Any]) -> str:
        low, high = one["interval"] or (math.nan, math.nan)
        return f"{one['accuracy']:.2%} ({low:.1%} to {high:.1%})"

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


def robust_chart(by_bundle: dict[str, list[dict[str, Any]]]) -> str:
    """Accuracy over strength, a panel a condition, a line a bundle and precision.

    Args:
        by_bundle: rows of :func:`benchmarks.robust.measure`, by what they are called.

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
            lines[name] = charts.Line(
                [row["strength"] for row in chosen], [row["accuracy"] for row in chosen], list(low), list(high)
            )
        unit = next(row["unit"] for row in some if row["condition"] == condition)
        logarithmic = condition in ("size", "darkness", "jpeg")
        panels.append(
            charts.Panel(
                f"{condition}",
                lines,
                unit,
                "accuracy",
                log_x=logarithmic,
                percent=True,
                level=some[0]["accuracy"],
            )
        )
    return charts.curves(panels, columns=3, height=2.4)


def report(found: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = [f"# Accuracy on {found['corpus']}", f"{found['pictures']:,} labelled face crops of its test part."]
    for name, one in found["bundles"].items():
        parts += [f"## {name}", table(one["precisions"])]
        parts += [
            f"Confusion, {next(iter(one['precisions']))}:",
            confusion_table(next(iter(one["precisions"].values()))),
        ]
    if robust_rows := {name: one["robust"] for name, one in found["bundles"].items() if "robust" in one}:
        parts += ["# Made worse in steps", robust.explained()]
        for name, one in robust_rows.items():
            parts += [f"## {name}, {one['precision']} ({one['backend']})", robust.table(one["rows"])]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.accuracy", description="Measure bundles on labelled face crops.")
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", help="names or paths (default: all that ship)")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help=f"the corpus ({DATA})")
    parser.add_argument("--corpus", choices=sorted(PICTURES), default="fer2013")
    parser.add_argument("--precision", metavar="NAME,...", help="some of the bundle's, fp32 first (default: all)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--pictures", type=int, metavar="N", help="measure on N of them, spread over the whole")
    parser.add_argument("--robust", action="store_true", help="also on pictures made worse (minutes)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write accuracy.json, accuracy.md and robust.svg")
    options = parser.parse_args(arguments)
    if options.pictures is not None and options.pictures < 2:
        parser.error("--pictures is 2 or more")
    try:
        found = run(
            options.bundles or packaged(),
            options.data,
            corpus=options.corpus,
            precisions=tuple(one for one in (options.precision or "").split(",") if one),
            backend=options.backend,
            most=options.pictures,
            worse=options.robust,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        text = report(found)
        print(text, end="")
        if options.out is not None:
            write(found, text, options.out)
    except EdgeError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def run(
    bundles: Sequence[str],
    data: Path,
    *,
    corpus: str = "fer2013",
    precisions: Sequence[str] = (),
    backend: str = "auto",
    most: int | None = None,
    worse: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Bundles on one corpus.

    Args:
        bundles: names or paths.
        data: the corpus' folder, or its test part's file.
        corpus: a name in ``train.datasets.PICTURES``.
        precisions: some of the bundles'; none is all.
        backend: as for :func:`edge.engine.open_engine`.
        most: so many pictures at most.
        worse: also on pictures made worse, in the precision among these that ``auto`` prefers.
        tell: is told how far it is.

    Returns:
        ``corpus``, ``pictures`` (how many), and ``bundles``: by name ``digest``, ``precisions`` (:func:`measure`) and,
        where asked for, ``robust``: ``precision``, ``backend`` and ``rows`` (:func:`benchmarks.robust.measure`).

    Raises:
        EdgeError: what can't be used.
    """
    opened = [Bundle.open(one) for one in bundles]
    pictures, doubles = read(corpus, data, most)
    document: dict[str, Any] = {"corpus": corpus, "pictures": len(pictures), "bundles": {}}
    for given, bundle in zip(bundles, opened, strict=True):
        # Two bundles may have the same name in their manifests.
        name = bundle.manifest.name if bundle.manifest.name not in document["bundles"] else str(given)
        tell(f"{name}: {len(pictures)} pictures in {', '.join(precisions or bundle.manifest.precisions)}")
        one: dict[str, Any] = {
            "digest": to_document(bundle.manifest)["digest"],
            "precisions": measure(bundle, pictures, doubles, precisions, backend),
        }
        if worse:
            chosen = next(each for each in preferred(bundle) if each in (precisions or bundle.manifest.precisions))
            engine = open_engine(bundle, backend, chosen)
            one["robust"] = {
                "precision": chosen,
                "backend": engine.backend,
                "rows": robust.measure(bundle, engine, pictures, tell=tell),
            }
            engine.close()
        document["bundles"][name] = one
    return document


def write(found: dict[str, Any], text: str, folder: Path) -> None:
    """Keep everything: ``accuracy.json``, ``accuracy.md``, and ``robust.svg`` where there is something to draw.

    Raises:
        BenchError: matplotlib isn't installed, or the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accuracy.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "accuracy.md").write_text(text, encoding="utf-8")
        rows = {name: one["robust"]["rows"] for name, one in found["bundles"].items() if "robust" in one}
        if rows:
            (folder / "robust.svg").write_text(robust_chart(rows), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder}: can't be written ({error.strerror}); give another folder with --out") from error


if __name__ == "__main__":
    sys.exit(main())
