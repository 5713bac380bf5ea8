"""How good is it? ``python -m benchmarks.accuracy [BUNDLE ...] [--data FOLDER] [--robust] [--out FOLDER]``.

Every bundle and precision on a corpus' test part, measured by the code that also writes manifests and cards
(:mod:`export.measure`). ``--robust`` adds what blur, noise, darkness and the like do (:mod:`export.robust`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError
from edge.arguments import BAD_INPUT, Parser
from edge.bundle import Bundle, packaged, to_document
from edge.engine import BACKENDS, open_engine, preferred
from edge.errors import EdgeError
from export import robust
from export.measure import confusion_table, measure, read, table
from train.datasets import PICTURES

__all__ = ["main", "measure", "read", "report", "run", "write"]

DATA = Path("../shared/data/fer2013")


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
        ``corpus``, ``pictures`` (how many), and ``bundles``: by name ``digest``, ``precisions``
        (:func:`export.measure.measure`) and, where asked for, ``robust``: ``precision``, ``backend`` and ``rows``
        (:func:`export.robust.measure`).

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
        ExportError: matplotlib isn't installed.
        BenchError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accuracy.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "accuracy.md").write_text(text, encoding="utf-8")
        rows = {name: one["robust"]["rows"] for name, one in found["bundles"].items() if "robust" in one}
        if rows:
            (folder / "robust.svg").write_text(robust.chart(rows), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder}: can't be written ({error.strerror}); give another folder with --out") from error


if __name__ == "__main__":
    sys.exit(main())
