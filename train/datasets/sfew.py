"""SFEW 2.0 (Dhall et al. 2011, 2015): stills from films, seven expressions, train, validation and unlabelled test.

``Train/Train_Aligned_Faces/Angry/Airheads_000519240_00000005.png`` (film, time, frame), ``Val/Val_Aligned_Faces_new``
the same, ``Test`` flat and without labels. Whole frames may lie in the same tree beside the aligned faces.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders, label_of_folder
from train.datasets.samples import Corpus, shortened

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
LAYOUT = "Train and Val with label folders below them (Train/Train_Aligned_Faces/Angry/FILM_TIME_FRAME.png)"
_FORM = re.compile(r"(?P<film>.+)_(?P<time>\d+)_(?P<frame>\d+)")


def parse(root: Path, *, aligned: bool = True) -> Corpus:
    """Parse SFEW. There are no subject ids; the film is a fact, and a sequence is a film's clip.

    Args:
        root: the folder that holds ``Train`` and ``Val``.
        aligned: the aligned faces; False: the whole frames.

    Raises:
        CorpusError: not SFEW, or a label folder of another name.
    """
    root = find_root(root, "SFEW 2.0", LAYOUT, lambda folder: bool(folders(folder, "train|val")))
    collector = Collector("sfew", root, LAYOUT)
    for part in folders(root, "train|val"):
        for file in collector.pictures(part):
            if ("aligned" in shortened(file.parent, part).lower()) != aligned:
                collector.skip(
                    file, "whole frame, not an aligned face" if aligned else "aligned face, not a whole frame"
                )
                continue
            folder = file.parent
            if folder == part or "faces" in folder.name.lower():
                collector.skip(file, "not in a label folder")
                continue
            label = label_of_folder(collector, folder, NAMES)
            match = _FORM.fullmatch(file.stem)
            if match is None:
                collector.skip(file, "name is not FILM_TIME_FRAME")
                continue
            sequence = f"{match['film']}_{match['time']}"
            collector.add(file, label, None, sequence, part.name.lower(), (("film", match["film"]),))
    for part in folders(root, "test"):
        for file in collector.pictures(part):
            collector.skip(file, "test picture without a label")
    return collector.finish(NAMES, 958 + 436, "Dhall et al. 2015 (958 train, 436 validation)")
