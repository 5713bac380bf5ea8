"""How good a bundle is on labelled crops, measured with ``edge``'s own preprocessing and engine.

``python -m export.accuracy [BUNDLE] --data FER2013_FOLDER``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle import ANSWER, Bundle
from edge.engine import Engine, open_engine
from edge.errors import EdgeError
from edge.preprocess import to_tensor
from train.datasets import PICTURES, CorpusError
from train.examples import Examples
from train.metrics import Logits, summarise
from train.twins import twins


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


def measure(bundle: Bundle, precisions: Sequence[str], corpus: str, data: Path) -> dict[str, dict[str, Any]]:
    """Figures on a corpus' test part, with and without the pictures that have a twin in its training part.

    Args:
        bundle: opened.
        precisions: of that bundle.
        corpus: a name in ``train.datasets.PICTURES``.
        data: the corpus' folder, or the test part's file (then no training part is looked for).

    Returns:
        By precision; ``agreement`` is the share of the pictures on which the label is the first precision's, 0..1.
    """
    test = PICTURES[corpus](data, "test")
    logits = {name: predict(bundle, open_engine(bundle, precision=name), test) for name in precisions}
    first = logits[precisions[0]].argmax(1)
    figures = {
        name: {
            **summarise(one, test.labels, test.names, bundle.manifest.temperature),
            "agreement": float((one.argmax(1) == first).mean()),
        }
        for name, one in logits.items()
    }
    if data.is_dir():
        try:
            alone = ~twins(test.arrays["face"], PICTURES[corpus](data, "train").arrays["face"])
        except EdgeError:
            return figures
        for name, one in figures.items():
            one["twins"] = int((~alone).sum())
            one["accuracy_without_twins"] = float((logits[name][alone].argmax(1) == test.labels[alone]).mean())
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m export.accuracy", description="Measure a bundle on labelled crops."
    )
    parser.add_argument("bundle", nargs="?", help="name or path (default: face)")
    parser.add_argument("--data", type=Path, required=True, help="the corpus' folder, or its test part's file")
    parser.add_argument("--corpus", choices=sorted(PICTURES), default="fer2013")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    options = parser.parse_args(arguments)
    try:
        bundle = Bundle.open(options.bundle)
        figures = measure(bundle, [options.precision], options.corpus, options.data)[options.precision]
    except EdgeError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    print(table(figures))
    return 0


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [("pictures", f"{figures['count']:,}"), ("accuracy", f"{figures['accuracy']:.2%}")]
    if "twins" in figures:
        without = figures["accuracy_without_twins"]
        rows.append((f"accuracy without the {figures['twins']} that have a twin in Training", f"{without:.2%}"))
    rows.append(("macro F1", f"{figures['macro_f1']:.3f}"))
    rows.append(("expected calibration error", f"{figures['ece']:.3f}"))
    rows += [(f"recall, {name}", f"{value:.1%}") for name, value in figures["recall"].items()]
    return "\n".join(["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
