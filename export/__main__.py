"""``python -m export CHECKPOINT --out BUNDLE``: a checkpoint becomes a verified bundle, or nothing at all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edge.arguments import Parser
from edge.errors import EdgeError
from export import card, charts
from export.assemble import Wishes, export
from export.figures import table
from train.checkpoint import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m export", description="Turn a checkpoint into a bundle.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; must not exist")
    parser.add_argument("--name", help="the bundle's name (default: the folder's)")
    parser.add_argument(
        "--precisions", default="fp32", metavar="P,P,...", help="some of fp32,fp16,int8 (default: fp32)"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR", help="pictures or videos with faces, or FER2013: int8 needs them"
    )
    parser.add_argument(
        "--evaluate", type=Path, metavar="DATA", help="folder of the corpus: puts its accuracy in the manifest"
    )
    parser.add_argument(
        "--interval-ms", type=float, metavar="MS", help="of a window's frames (default: the family's own)"
    )
    parser.add_argument(
        "--card", action="store_true", help="also measure everything else on it, and write the bundle's card (minutes)"
    )
    options = parser.parse_args(arguments)
    if options.card and options.evaluate is None:
        parser.error("--card is measured on a corpus; give its folder: --evaluate DATA")
    wishes = Wishes(
        name=options.name,
        precisions=tuple(one.strip() for one in options.precisions.split(",") if one.strip()),
        calibrate=options.calibrate,
        evaluate=options.evaluate,
        interval_ms=options.interval_ms,
    )

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if options.card:
            charts.require()
        bundle = export(load(options.checkpoint), options.out, wishes, say)
        if options.card:
            document = card.measure(bundle, card.corpus_of(bundle), options.evaluate, tell=say)
            card.write(document, bundle, bundle.where)
    except EdgeError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    manifest = bundle.manifest
    print(f"{bundle.where}: {manifest.family}, {', '.join(manifest.labels)}")
    for corpus, figures in manifest.metrics.items():
        shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items() if isinstance(value, int | float))
        if shown:
            print(f"  {corpus}: {shown}")
    print(f"\n{table(bundle)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
