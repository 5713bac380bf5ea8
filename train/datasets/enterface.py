"""eNTERFACE'05 (Martin et al. 2006): clips of six acted expressions, five sentences each.

``subject 1/anger/sentence 1/s1_an_1.avi``. Subject 6 has no sentence folders, and some names have four parts
(``s_3_ha_4.avi``) or another subject's number: the folder tells who it is. The paper counts 1,166 clips of 42 subjects;
the archive holds 1,293 of 44.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders
from train.datasets.samples import BASIC, Corpus, word

CODES = dict(zip(("an", "di", "fe", "ha", "sa", "su"), BASIC, strict=True))
LAYOUT = "subject 1/anger/sentence 1/s1_an_1.avi"
_SUBJECT = r"subject[\s_-]*(\d+)"
_SENTENCE = r"sentence[\s_-]*\d+"


def parse(root: Path) -> Corpus:
    """Parse eNTERFACE'05.

    Raises:
        CorpusError: not eNTERFACE'05, an unknown label folder, or no label folder and an unknown code in the name.
    """
    root = find_root(root, "eNTERFACE'05", LAYOUT, lambda folder: bool(folders(folder, _SUBJECT)))
    collector = Collector("enterface", root, LAYOUT)
    for file in collector.videos():
        above = file.relative_to(root).parts[:-1]
        subject = re.fullmatch(_SUBJECT, above[0], re.IGNORECASE) if above else None
        if subject is None:
            collector.skip(file, "not in a subject's folder")
            continue
        classes = [part for part in above[1:] if not re.fullmatch(_SENTENCE, part, re.IGNORECASE)]
        by_folder = word(classes[0]) if classes else None
        if classes and by_folder not in BASIC:
            raise collector.unknown(file.parent, classes[0], BASIC)
        token = next((part for part in re.split(r"[_\s.-]+", file.stem) if re.fullmatch("[A-Za-z]{2}", part)), "")
        by_name = CODES.get(token.lower())
        if by_folder is None and by_name is None:
            if not token:
                collector.skip(file, "no label folder, and no code in the name")
                continue
            raise collector.unknown(file, token, CODES)
        if by_folder is not None and by_name is not None and by_folder != by_name:
            collector.skip(file, "folder and name tell different labels")
            continue
        collector.add(file, by_folder or by_name or "", f"subject {int(subject[1])}", collector.relative(file))
    return collector.finish(BASIC, 1293, "count of the archive (44 subjects); Martin et al. 2006: 1,166 of 42")
