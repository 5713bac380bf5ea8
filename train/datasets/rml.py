"""RML (Wang and Guan 2008): 720 clips of 8 speakers in several languages, six expressions.

``rml-1/s1/an1.avi``: the expression is the name's first two letters, the speaker the folder. Some speakers have a
folder for each language between the two, so the same name may occur twice.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders
from train.datasets.samples import BASIC, Corpus

CODES = dict(zip(("an", "di", "fe", "ha", "sa", "su"), BASIC, strict=True))
LAYOUT = "rml-1/s1/an1.avi (or s1/an1.avi)"
_FORM = re.compile(r"(?P<code>[a-z]{2})[a-z]*\s*\(?\d+\)?", re.IGNORECASE)
_SPEAKER = r"s\d+"


def parse(root: Path) -> Corpus:
    """Parse RML; a fact tells the language folder where there is one.

    Raises:
        CorpusError: not RML, or an unknown expression.
    """
    root = find_root(
        root,
        "RML",
        LAYOUT,
        lambda folder: bool(folders(folder, r"rml[-_ ]?\d+")),
        lambda folder: bool(folders(folder, _SPEAKER)),
    )
    collector = Collector("rml", root, LAYOUT)
    for file in collector.videos():
        above = file.relative_to(root).parts[:-1]
        speakers = [i for i, part in enumerate(above) if re.fullmatch(_SPEAKER, part, re.IGNORECASE)]
        match = _FORM.fullmatch(file.stem)
        if not speakers or match is None:
            collector.skip(file, "name is not EXPRESSION and number" if speakers else "not in a speaker's folder")
            continue
        label = CODES.get(match["code"].lower())
        if label is None:
            raise collector.unknown(file, match["code"], CODES)
        language = "/".join(above[speakers[-1] + 1 :])
        facts = (("language", language),) if language else ()
        collector.add(file, label, above[speakers[-1]].lower(), collector.relative(file), facts=facts)
    return collector.finish(BASIC, 720, "Wang and Guan 2008 (8 speakers)")
