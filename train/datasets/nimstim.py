"""NimStim (Tottenham et al. 2009): 672 posed pictures of 43 models, eight expressions, mouth open or closed.

``Crop-White Background/01F_AN_C.BMP``: model's number and sex, expression, mouth (C closed, O open, X exuberant).
Names come in either case, and a few pictures lie there twice, as BMP and as JPEG or TIFF.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, visible
from train.datasets.samples import PICTURE_SUFFIXES, Corpus

NAMES = ("angry", "calm", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CODES = dict(zip(("AN", "CA", "DI", "FE", "HA", "NE", "SA", "SP"), NAMES, strict=True))
LAYOUT = "a folder of 01F_AN_C.BMP"
MOUTHS = {"c": "closed", "o": "open", "x": "exuberant"}
_FORM = re.compile(r"(?P<subject>\d{2}[FM])_(?P<code>[A-Z]{2})_[^_]?(?P<mouth>[COX])", re.IGNORECASE)


def parse(root: Path) -> Corpus:
    """Parse NimStim. Calm is a label of its own; leave it out with ``Corpus.only``.

    Raises:
        CorpusError: not NimStim, several versions of it in one folder, or an unknown expression.
    """
    root = find_root(root, "NimStim", LAYOUT, _is_root)
    collector = Collector("nimstim", root, LAYOUT)
    taken: set[str] = set()
    # BMP is the original; the stray copies are compressed again.
    for file in sorted(collector.pictures(deep=False), key=lambda file: file.suffix.lower() != ".bmp"):
        match = _FORM.fullmatch(file.stem)
        if match is None:
            collector.skip(file, "name is not MODEL_EXPRESSION_MOUTH")
            continue
        label = CODES.get(match["code"].upper())
        if label is None:
            raise collector.unknown(file, match["code"], CODES)
        sequence = file.stem.upper()
        if sequence in taken:
            collector.skip(file, "same picture in another format")
            continue
        taken.add(sequence)
        mouth = MOUTHS[match["mouth"].lower()]
        collector.add(file, label, match["subject"].upper(), sequence, facts=(("mouth", mouth),))
    return collector.finish(NAMES, 672, "Tottenham et al. 2009 (43 models)")


def _is_root(folder: Path) -> bool:
    return any(file.suffix.lower() in PICTURE_SUFFIXES and _FORM.fullmatch(file.stem) for file in visible(folder))
