"""The few figures that a manifest holds of a bundle on labelled crops.

``python -m export.accuracy [BUNDLE] --data FER2013_FOLDER`` prints them; :mod:`export.card` and
``python -m benchmarks.accuracy`` tell more, from the same code (:mod:`export.measure`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.arguments import BAD_INPUT, Parser
from edge.bundle import PRECISIONS, Bundle
from edge.errors import EdgeError
from export import measure as measuring
from export.measure import predict, read
from train.datasets import PICTURES

__all__ = ["measure", "predict", "table"]

KEPT = ("count", "accuracy", "interval", "covered", "macro_f1", "uar", "ece", "recall", "confusion", "agreement")


def measure(bundle: Bundle, precisions: Sequence[str], corpus: str, data: Path) -> dict[str, dict[str, Any]]:
    """Figures on a corpus' test part, with and without the pictures that have a twin in its training part.

    Args:
        bundle: opened; one that sees a single picture of a face.
        precisions: of that bundle.
        corpus: a name in ``train.datasets.PICTURES``.
        data: the corpus' folder, or the test part's file (then no training part is looked for).

    Returns:
        By precision, see :func:`export.measure.figures`; ``agreement`` is the share of the pictures on which the label
        is the first precision's, 0..1.

    Raises:
        EdgeError: a corpus or a bundle that can't be used.
    """
    pictures, doubles = read(corpus, data)
    return {name: brief(one) for name, one in measuring.measure(bundle, pictures, doubles, precisions).items()}


def brief(one: dict[str, Any]) -> dict[str, Any]:
    """What a manifest keeps of one precision's figures."""
    kept = {key: one[key] for key in KEPT}
    if "without_twins" in one:
        kept |= {"twins": one["twins"], "accuracy_without_twins": one["without_twins"]["accuracy"]}
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m export.accuracy", description="Measure a bundle on labelled crops.")
    parser.add_argument("bundle", nargs="?", help="name or path (default: face)")
    parser.add_argument("--data", type=Path, required=True, help="the corpus' folder, or its test part's file")
    parser.add_argument("--corpus", choices=sorted(PICTURES), default="fer2013")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    options = parser.parse_args(arguments)
    try:
        bundle = Bundle.open(options.bundle)
        figures = measure(bundle, [options.precision], options.corpus, options.data)[options.precision]
    except EdgeError as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return BAD_INPUT
    print(table(figures))
    return 0


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [("pictures", f"{figures['count']:,}"), ("accuracy", f"{figures['accuracy']:.2%}")]
    if figures["interval"] is not None:
        low, high = figures["interval"]
        rows.append(("95 % interval of that", f"{low:.1%} to {high:.1%}"))
    if "twins" in figures:
        without = figures["accuracy_without_twins"]
        rows.append((f"accuracy without the {figures['twins']} that have a twin in Training", f"{without:.2%}"))
    rows.append((f"accuracy on the surest {measuring.COVERAGE:.0%}", f"{figures['covered']:.2%}"))
    rows.append(("macro F1", f"{figures['macro_f1']:.3f}"))
    rows.append(("expected calibration error", f"{figures['ece']:.3f}"))
    rows += [(f"recall, {name}", f"{value:.1%}") for name, value in figures["recall"].items()]
    return "\n".join(["| figure | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
