"""TFEID (Chen and Yen 2007): 40 models, eight expressions at high and slight intensity.

The corpus' own site is gone, so its naming is the least sure of all: here, as one public loader reads it, pictures
whose names are tokens joined by ``_``, the first the model and the last beginning with the expression's two letters.
Both the pattern and the codes can be given. The code of contempt is not known: give it in ``codes.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from train.datasets.disk import CODES_FORM, Collector, find_root, folders, read_codes, visible
from train.datasets.errors import CorpusError
from train.datasets.samples import PICTURE_SUFFIXES, WORDS, Corpus

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
CODES = {
    "ag": "angry",
    "dg": "disgust",
    "fg": "fear",
    "hg": "happy",
    "sg": "sad",
    "pg": "surprise",
    "ng": "neutral",
}
PATTERN = r"(?P<subject>[^_]+)_(?:.*_)?(?P<code>[A-Za-z]{2})[^_]*"
LAYOUT = "folders of pictures MODEL_..._EXPRESSION.jpg"


def parse(root: Path, *, pattern: str = PATTERN, codes: Mapping[str, str] | Path | None = None) -> Corpus:
    """Parse TFEID.

    Args:
        root: the folder of the pictures, or of folders of them.
        pattern: a regular expression for the whole name without suffix, with groups ``subject`` and ``code``.
        codes: code to label, or the ``codes.csv`` or ``codes.json`` that holds it; adds to the known ones. None: the
            file of that name in the root, where there is one.

    Raises:
        CorpusError: not TFEID, an unknown code, or a pattern that can't be used.
    """
    try:
        form = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise CorpusError(f"pattern {pattern!r}: {error}; expected a regular expression; correct it") from error
    if not {"subject", "code"} <= form.groupindex.keys():
        raise CorpusError(f"pattern {pattern!r}: expected groups subject and code, as in {PATTERN!r}; add them")

    def is_root(folder: Path) -> bool:
        return any(
            file.suffix.lower() in PICTURE_SUFFIXES and form.fullmatch(file.stem)
            for place in (folder, *folders(folder))
            for file in visible(place)
        )

    root = find_root(root, "TFEID", LAYOUT, is_root)
    collector = Collector("tfeid", root, LAYOUT)
    known = {**CODES, **(read_codes("tfeid", root, codes) or {})}
    for file in collector.pictures():
        match = form.fullmatch(file.stem)
        if match is None:
            collector.skip(file, "name does not match the pattern")
            continue
        label = known.get(match["code"].lower())
        if label is None:
            remedy = f"write it as {CODES_FORM} in {root}"
            raise collector.unknown(file, match["code"], (f"{code} {name}" for code, name in known.items()), remedy)
        if label == "":
            collector.skip(file, f"code {match['code'].lower()} left out by the code map")
            continue
        collector.add(file, label, match["subject"], collector.relative(file))
    used = {sample.label for sample in collector.samples}
    names = (*NAMES, *(name for name in WORDS if name in used and name not in NAMES))
    if names == NAMES:
        return collector.finish(names, 580, "Xie et al. 2019, section 4.1.1 (six expressions and neutral)")
    return collector.finish(names, None, "580 is for six expressions and neutral")
