"""JAFFE (Lyons et al. 1998): 213 pictures of ten Japanese women, seven expressions.

One flat folder of ``KA.AN1.39.tiff``: subject, expression and number, serial. The expression is the second token: one
subject is called NA and another NM, so a search for NE or AN in the whole name would be wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, visible
from train.datasets.samples import PICTURE_SUFFIXES, Corpus

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CODES = dict(zip(("AN", "DI", "FE", "HA", "NE", "SA", "SU"), NAMES, strict=True))
LAYOUT = "a flat folder of KA.AN1.39.tiff"
_FORM = re.compile(r"(?P<subject>[A-Z]{2})\.(?P<code>[A-Z]{2})(?P<number>\d*)\.(?P<serial>\d+)", re.IGNORECASE)


def parse(root: Path) -> Corpus:
    """Parse JAFFE.

    Raises:
        CorpusError: not JAFFE, or an unknown expression.
    """
    root = find_root(root, "JAFFE", LAYOUT, _is_root)
    collector = Collector("jaffe", root, LAYOUT)
    for file in collector.pictures():
        match = _FORM.fullmatch(file.stem)
        if match is None:
            collector.skip(file, "name is not SUBJECT.EXPRESSION.SERIAL")
            continue
        label = CODES.get(match["code"].upper())
        if label is None:
            raise collector.unknown(file, match["code"], CODES)
        collector.add(file, label, match["subject"].upper(), file.stem.upper())
    return collector.finish(NAMES, 213, "Lyons et al. 1998")


def _is_root(folder: Path) -> bool:
    return any(file.suffix.lower() in PICTURE_SUFFIXES and _FORM.fullmatch(file.stem) for file in visible(folder))
