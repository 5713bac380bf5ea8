"""A bundle's card: whom and what it is for, and how good it is, from measured figures alone.

``python -m export.card [BUNDLE] --evaluate DATA`` measures a bundle, checkpoint or not, and writes beside its files

    card.json                every figure, and the digest of the manifest that they belong to
    card.md                  the page (:mod:`export.card_page`)
    card-*.svg               its pictures

The manifest does not list them: a card is for people, can be made again, and ``edge`` reads none of it. ``--check``
says whether a card belongs to its bundle and shows its own figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.arguments import BAD_INPUT, Parser
from edge.bundle import Bundle, to_document
from edge.device import describe
from edge.engine import BACKENDS, open_engine, preferred
from edge.errors import EdgeError
from export import card_page, charts, robust, scenes
from export import measure as measuring
from export.errors import ExportError
from train.datasets import PICTURES
from train.examples import Examples

FORMAT = 1
FIGURES, PAGE = "card.json", "card.md"
PACKAGES = ("numpy", "opencv", "dlib", "onnxruntime")
"""Whose versions a card tells: the others have no part in an answer."""


def measure(
    bundle: Bundle,
    corpus: str,
    data: Path,
    *,
    backend: str = "auto",
    most: int | None = None,
    conditions: Sequence[robust.Condition] = robust.CONDITIONS,
    others: Sequence[scenes.Scene] = scenes.OTHERS,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Every figure of a card. Takes minutes: each picture is answered some fifty times.

    Args:
        bundle: opened; one that sees a single picture of a face.
        corpus: a name in ``train.datasets.PICTURES``.
        data: its folder, or the test part's file (then twins and the training part's classes are left out).
        backend: as for :func:`edge.engine.open_engine`.
        most: so many pictures at most, spread over the whole.
        conditions: what the pictures are made worse by.
        others: whole pictures beside :data:`export.scenes.FIRST`.
        tell: is told how far it is.

    Returns:
        What ``card.json`` holds: ``bundle``, ``digest``, ``corpus``, ``pictures``, ``classes``, ``machine``,
        ``precisions`` (:func:`export.measure.measure`), ``chosen`` (the precision that a CPU runs by default, in which
        the rest is measured), ``robust`` and ``scenes`` (each ``precision``, ``backend`` and ``rows``).

    Raises:
        EdgeError: a bundle, corpus or backend that can't be used.
    """
    measuring.single(bundle)
    pictures, doubles = measuring.read(corpus, data, most)
    training = measuring.training_part(corpus, data)
    tell(f"{bundle.manifest.name}: {len(pictures):,} pictures in {', '.join(bundle.manifest.precisions)}")
    found = measuring.measure(bundle, pictures, doubles, (), backend)
    chosen = preferred(bundle)[0]
    engine = open_engine(bundle, backend, chosen)
    machine = describe()
    by = {"precision": chosen, "backend": engine.backend}
    document = {
        "format": FORMAT,
        "bundle": bundle.manifest.name,
        "digest": to_document(bundle.manifest)["digest"],
        "corpus": corpus,
        "pictures": len(pictures),
        "classes": {"test": _classes(pictures), "training": None if training is None else _classes(training)},
        "machine": {
            "processor": machine.processor,
            "packages": {name: machine.packages.get(name) for name in PACKAGES},
        },
        "chosen": chosen,
        "precisions": found,
        "robust": {**by, "rows": robust.measure(bundle, engine, pictures, conditions, tell)},
        "scenes": {**by, "rows": scenes.all_scenes(bundle, engine, pictures, others, tell)},
    }
    engine.close()
    return dict(json.loads(json.dumps(document)))


def _classes(pictures: Examples) -> dict[str, int]:
    counts = np.bincount(pictures.labels, minlength=len(pictures.names))
    return {name: int(count) for name, count in zip(pictures.names, counts, strict=True)}


def write(document: Mapping[str, Any], bundle: Bundle, folder: Path) -> list[Path]:
    """A card's files, in place of an older card's.

    Args:
        document: of :func:`measure`.
        bundle: that was measured.
        folder: the bundle's, or another.

    Returns:
        The files, the page first.

    Raises:
        ExportError: the figures are of another bundle, matplotlib isn't installed, or the folder can't be written.
    """
    _belongs(document, bundle, folder)
    files = {
        PAGE: card_page.page(document, bundle.manifest),
        FIGURES: json.dumps(document, indent=1) + "\n",
        **card_page.pictures(document),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{folder}: can't be written ({error.strerror}); give another folder with --out") from error
    return [folder / name for name in files]


def read(folder: Path) -> dict[str, Any]:
    """The figures of a card.

    Raises:
        ExportError: there is no card, or it is damaged or of another version.
    """
    again = "make it with: python -m export.card BUNDLE --evaluate DATA"
    try:
        document = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(f"{folder}: no {FIGURES} in it; {again}") from error
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder / FIGURES}: can't be read ({error}); {again}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ExportError(f"{folder / FIGURES}: not a card of format {FORMAT}; {again}")
    return document


def check(bundle: Bundle, folder: Path) -> None:
    """That a card is this bundle's, and that its page shows its own figures.

    Raises:
        ExportError: it doesn't.
    """
    document = read(folder)
    _belongs(document, bundle, folder)
    try:
        shown = (folder / PAGE).read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{folder / PAGE}: can't be read ({error.strerror}); make it with --redraw") from error
    if shown != card_page.page(document, bundle.manifest):
        raise ExportError(f"{folder / PAGE}: does not show the figures of {FIGURES}; write it again with --redraw")


def _belongs(document: Mapping[str, Any], bundle: Bundle, folder: Path) -> None:
    wanted = to_document(bundle.manifest)["digest"]
    if document["digest"] != wanted:
        raise ExportError(
            f"{folder}: its card is of a manifest {document['digest'][:12]}, the bundle's is {wanted[:12]}; "
            "measure it again with --evaluate DATA"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m export.card", description="Measure a bundle and write its card.")
    parser.add_argument("bundle", nargs="?", help="name or path (default: face)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--evaluate", type=Path, metavar="DATA", help="the corpus' folder: measure (minutes) and write")
    what.add_argument("--redraw", action="store_true", help=f"write page and pictures again from {FIGURES}")
    what.add_argument("--check", action="store_true", help="does the card belong to the bundle?")
    parser.add_argument("--corpus", choices=sorted(PICTURES), help="(default: the one that the bundle was trained on)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the card's folder (default: the bundle's)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--pictures", type=int, metavar="N", help="measure on N of them, spread over the whole")
    options = parser.parse_args(arguments)
    if options.pictures is not None and options.pictures < 2:
        parser.error("--pictures is 2 or more")
    try:
        bundle = Bundle.open(options.bundle)
        folder = options.out or bundle.where
        if not folder.is_dir() and options.out is None:
            raise ExportError(f"{folder}: a zip; its card goes into a folder: --out FOLDER")
        if options.check:
            check(bundle, folder)
            print(f"{folder / PAGE}: the card of this bundle")
            return 0
        if options.redraw:
            document = read(folder)
        else:
            charts.require()
            document = measure(
                bundle,
                corpus_of(bundle, options.corpus),
                options.evaluate,
                backend=options.backend,
                most=options.pictures,
                tell=lambda line: print(line, file=sys.stderr, flush=True),
            )
        files = write(document, bundle, folder)
    except EdgeError as error:
        print(f"card: {error}", file=sys.stderr)
        return BAD_INPUT
    print(f"{files[0]}: {sum(path.stat().st_size for path in files) / 1e3:.0f} kB with its figures and pictures")
    return 0


def corpus_of(bundle: Bundle, corpus: str | None = None) -> str:
    """The corpus that a bundle is measured on: the one that is given, or the one that it was trained on.

    Raises:
        ExportError: none is given, and the bundle's can't be read as single crops.
    """
    chosen = corpus or str(bundle.manifest.data.get("corpus"))
    if chosen not in PICTURES:
        raise ExportError(
            f"{bundle.manifest.name}: trained on {chosen}, and crops are read of {', '.join(sorted(PICTURES))}; "
            "name one with --corpus"
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
