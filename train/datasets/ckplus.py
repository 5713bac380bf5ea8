"""CK+ (Lucey et al. 2010): posed sequences from neutral to the peak, 123 subjects, 593 sequences, 327 with a label.

``cohn-kanade-images/S005/001/S005_001_00000001.png`` beside ``Emotion/S005/001/S005_001_00000011_emotion.txt``; both
roots go by several names and may be one folder deeper. A sequence without a label has an empty label folder, or none.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders, visible
from train.datasets.errors import CorpusError
from train.datasets.samples import PICTURE_SUFFIXES, Corpus

NAMES = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
CODES = {
    0: "neutral",
    1: "angry",
    2: "contempt",
    3: "disgust",
    4: "fear",
    5: "happy",
    6: "sad",
    7: "surprise",
}
LAYOUT = "cohn-kanade-images/S###/### with the frames and Emotion/S###/### with the labels"
_SUBJECT = r"s\d+"


def parse(root: Path, *, peak: int | None = 3, contempt: bool = True, neutral: bool = False) -> Corpus:
    """Parse CK+.

    Args:
        root: the folder that holds the frames and the labels.
        peak: the last this many frames of a sequence, each a picture; None: the whole sequence, one sample of frames.
        contempt: seven classes; False: the six of Li et al. 2019 and Xie et al. 2019.
        neutral: also each kept sequence's first frame, as a picture of a neutral face (Xie et al. 2019).

    Raises:
        CorpusError: not CK+, an unknown or unreadable label, or an argument out of its range.
    """
    if peak is not None and peak < 1:
        raise CorpusError(f"peak is {peak}; expected 1 or more frames, or None for whole sequences; give 3 for C-SPP")
    if neutral and peak is None:
        raise CorpusError(
            "neutral first frames go with peak pictures, not with whole sequences; expected peak=3; give it"
        )
    root = find_root(root, "CK+", LAYOUT, lambda folder: _trees(folder) is not None)
    images, emotions = _trees(root) or (root, root)
    collector = Collector("ckplus", root, LAYOUT)
    names = NAMES if contempt else tuple(name for name in NAMES if name != "contempt")
    for subject in folders(images, _SUBJECT):
        for sequence in folders(subject):
            frames = [frame for frame in visible(sequence) if frame.suffix.lower() in PICTURE_SUFFIXES]
            label = _label(collector, _child(_child(emotions, subject.name), sequence.name))
            if label is None:
                collector.skip(sequence, "no label")
            elif label not in names:
                collector.skip(sequence, f"{label} not asked for")
            elif not frames:
                collector.skip(sequence, "label but no frames")
            else:
                identity = f"{subject.name.upper()}_{sequence.name}"
                if neutral:
                    collector.add(frames[0], "neutral", subject.name.upper(), identity, facts=(("frame", "first"),))
                if peak is None:
                    collector.add(tuple(frames), label, subject.name.upper(), identity)
                else:
                    for frame in frames[-peak:]:
                        collector.add(frame, label, subject.name.upper(), identity)
    sequences = 327 if contempt else 309
    return collector.finish(
        (*names, "neutral") if neutral else names,
        sequences * (peak or 1) + (sequences if neutral else 0),
        "Lucey et al. 2010" if contempt else "Li et al. 2019, section 3.1 (309 sequences of 106 subjects)",
    )


def _trees(root: Path) -> tuple[Path, Path] | None:
    """The folders of subjects with frames and with labels, at most two levels down."""
    images = emotions = None
    for first in folders(root):
        for folder in (first, *folders(first)):
            if folders(folder, _SUBJECT):
                path = folder.relative_to(root).as_posix().lower()
                if "emotion" in path:
                    emotions = emotions or folder
                elif "image" in path:
                    images = images or folder
    return None if images is None or emotions is None else (images, emotions)


def _child(folder: Path | None, name: str) -> Path | None:
    """The folder of this name, whatever the case."""
    found = folders(folder, re.escape(name)) if folder is not None else []
    return found[0] if found else None


def _label(collector: Collector, folder: Path | None) -> str | None:
    """The label in a sequence's label folder; None where there is none."""
    files = [file for file in visible(folder) if file.suffix.lower() == ".txt"] if folder is not None else []
    if not files:
        return None
    text = files[0].read_text(encoding="ascii", errors="replace").strip()
    try:
        code = float(text)
    except ValueError:
        code = -1.0
    if code not in CODES:
        raise collector.unknown(files[0], text[:40], (f"{key} {name}" for key, name in CODES.items()))
    return CODES[int(code)]
