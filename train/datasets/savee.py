"""SAVEE (Haq and Jackson 2009): 480 clips of four men, seven expressions.

``AudioVisualClip/DC/a1.avi`` (or ``a01``): letters, then a number; ``sa`` is sad and ``su`` surprise, which a look at
the first letter alone would miss. Flat copies put the speaker in front: ``DC_a01.avi``. ``AudioData`` is sound only.
"""

from __future__ import annotations

import re
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders, visible
from train.datasets.samples import VIDEO_SUFFIXES, Corpus

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
CODES = dict(zip(("a", "d", "f", "h", "n", "sa", "su"), NAMES, strict=True))
SPEAKERS = ("DC", "JE", "JK", "KL")
LAYOUT = "AudioVisualClip/DC/a1.avi (or DC/a1.avi, or DC_a01.avi)"
_FORM = re.compile(r"(?:(?P<speaker>[A-Z]{2})_)?(?P<code>[A-Z]+)(?P<number>\d+)", re.IGNORECASE)


def parse(root: Path) -> Corpus:
    """Parse SAVEE.

    Raises:
        CorpusError: not SAVEE, only its sound, or an unknown expression.
    """
    root = find_root(
        root,
        "SAVEE",
        LAYOUT,
        lambda folder: bool(folders(folder, "audiovisualclip")),
        lambda folder: bool(folders(folder, "|".join(SPEAKERS))) or any(_is_flat(file) for file in visible(folder)),
    )
    collector = Collector("savee", root, LAYOUT)
    for file in collector.files(root, (*VIDEO_SUFFIXES, ".wav"), "a video"):
        if file.suffix.lower() == ".wav":
            collector.skip(file, "sound only")
            continue
        match = _FORM.fullmatch(file.stem)
        if match is None:
            collector.skip(file, "name is not EXPRESSION and number")
            continue
        speaker = (match["speaker"] or file.parent.name).upper()
        if speaker not in SPEAKERS:
            collector.skip(file, "speaker is none of DC, JE, JK and KL")
            continue
        label = CODES.get(match["code"].lower())
        if label is None:
            raise collector.unknown(file, match["code"], CODES)
        collector.add(file, label, speaker, collector.relative(file))
    return collector.finish(NAMES, 480, "Haq and Jackson 2009 (4 speakers)")


def _is_flat(file: Path) -> bool:
    match = _FORM.fullmatch(file.stem)
    return match is not None and (match["speaker"] or "").upper() in SPEAKERS
