"""Corpora as they lie on disk: one file each, and two tables here.

``CORPORA`` lists samples: which file, which label, whose face. ``PICTURES`` loads pixels, for the one corpus that is
published as finished face crops. Everything else needs its faces found first, by the code that the robot runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.datasets import (
    afew,
    baum1s,
    baum2i,
    ckplus,
    enterface,
    fer2013,
    jaffe,
    manifest,
    mmi,
    nimstim,
    rml,
    savee,
    sfew,
    tfeid,
)
from train.datasets.disk import MANIFEST, find_file
from train.datasets.errors import CorpusError
from train.datasets.samples import BASIC, WORDS, Corpus, Sample
from train.examples import Examples

CORPORA: dict[str, Callable[..., Corpus]] = {
    "afew": afew.parse,
    "baum1s": baum1s.parse,
    "baum2i": baum2i.parse,
    "ckplus": ckplus.parse,
    "enterface": enterface.parse,
    "fer2013": fer2013.parse,
    "jaffe": jaffe.parse,
    "manifest": manifest.parse,
    "mmi": mmi.parse,
    "nimstim": nimstim.parse,
    "rml": rml.parse,
    "savee": savee.parse,
    "sfew": sfew.parse,
    "tfeid": tfeid.parse,
}
"""Corpus name to ``parse(root, **options) -> Corpus``: names and annotations only, no pixels."""

PICTURES: dict[str, Callable[[Path, str], Examples]] = {"fer2013": fer2013.load}
"""Corpus name to ``load(path, part) -> Examples``: face crops in memory; parts are ``train`` and ``test``."""


def find(name: str, root: Path, **options: Any) -> Corpus:
    """Parse a corpus by its name; a ``manifest.csv`` in its folder is read in place of its own layout.

    Args:
        name: one of ``CORPORA``.
        root: the corpus' folder.
        options: that loader's own.

    Raises:
        CorpusError: no such corpus, options beside a manifest that they can't apply to, or whatever the loader refuses.
    """
    if name not in CORPORA:
        raise CorpusError(f"unknown corpus {name!r}; expected one of {', '.join(CORPORA)}; any other goes as manifest")
    if name in ("manifest", "baum2i") or not root.is_dir() or find_file(root, re.escape(MANIFEST)) is None:
        return CORPORA[name](root, **options)
    if set(options) - {"codes"}:
        raise CorpusError(
            f"{root / MANIFEST}: read in place of {name}'s own layout, where {', '.join(sorted(options))} "
            f"means nothing; expected no options; leave them out, or move {MANIFEST} away"
        )
    return manifest.parse(root, name=name, **options)


__all__ = ["BASIC", "CORPORA", "PICTURES", "WORDS", "Corpus", "CorpusError", "Sample", "find"]
