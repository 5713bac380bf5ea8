"""BAUM-2i (Erdem et al. 2015): stills of films and series, at the peak of the clips of BAUM-2.

How the pictures lie on disk and what their label codes mean is not public, so nothing is guessed here: the user writes
``manifest.csv`` beside them (see ``manifest``), with a ``gender`` column for the experiment of Xie et al. 2019, section
4.3.2, and ``codes.csv`` where its labels are codes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from train.datasets import manifest
from train.datasets.disk import CODES_FORM, MANIFEST, check_folder, find_file
from train.datasets.errors import CorpusError
from train.datasets.samples import Corpus

LAYOUT = f"the pictures and a {MANIFEST} (path,label,subject,sequence,split,gender)"


def parse(root: Path, *, codes: Mapping[str, str] | Path | None = None) -> Corpus:
    """Parse BAUM-2i by its manifest.

    Args:
        root: the folder of the manifest, or the manifest.
        codes: label as written to common word, or the file that holds it; None: looked for in the root.

    Raises:
        CorpusError: no manifest, or a label that is neither a common word nor in the code map.
    """
    if not root.is_file():
        check_folder(root, "BAUM-2i", LAYOUT)
        if find_file(root, re.escape(MANIFEST)) is None:
            raise CorpusError(
                f"{root}: no {MANIFEST}; BAUM-2i's layout is not public and its labels are not guessed; "
                f"write {MANIFEST} with the header path,label,subject,sequence,split,gender, "
                f"and {CODES_FORM} where labels are codes"
            )
    return manifest.parse(
        root,
        name="baum2i",
        codes=codes,
        expected=998,
        expected_from="Xie et al. 2019, section 4.1.1 (six expressions and neutral)",
    )
