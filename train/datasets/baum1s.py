"""BAUM-1 (Zhalehpour et al. 2017): clips of Turkish speakers, spontaneous (1s) and acted (1a).

``BAUM1s_MP4 - All/s001/S001_001.mp4``; the labels are only in ``Annotations_BAUM1s.xlsx``. The two parts number their
labels differently, and the first three letters of concentrating and contempt are the same, so the code decides; a row
whose name contradicts its code (there is one) is left out. Some rows have no video and some videos no row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.errors import MissingPackageError
from train.datasets.disk import Collector, find_file, find_root, folders
from train.datasets.errors import CorpusError
from train.datasets.samples import BASIC, Corpus

SPONTANEOUS = {
    1: "anger",
    2: "boredom",
    3: "bothered",
    4: "concentrating",
    5: "contempt",
    6: "disgust",
    7: "fear",
    8: "happiness",
    9: "neutral",
    10: "sadness",
    11: "surprise",
    12: "thinking",
    13: "unsure",
}
ACTED = {
    1: "anger",
    2: "boredom",
    3: "disgust",
    4: "fear",
    5: "happiness",
    6: "interest",
    7: "sadness",
    8: "surprise",
    9: "unsure",
}
_COMMON = {
    "anger": "angry",
    "boredom": "bored",
    "happiness": "happy",
    "interest": "interested",
    "sadness": "sad",
}
COLUMNS = (3, 4, 5)
"""Where the sheet has the clip's name, the emotion's name and its code; 0 is the first column."""
_CLIP = re.compile(r"(?P<subject>S\d+)_\d+[a-z]?", re.IGNORECASE)


def parse(root: Path, *, acted: bool = False, basic: bool = True, columns: tuple[int, int, int] = COLUMNS) -> Corpus:
    """Parse one part of BAUM-1.

    Args:
        root: the folder that holds the sheet and the folder of clips.
        acted: BAUM-1a; False: BAUM-1s.
        basic: only the six basic expressions, as Zhang et al. 2019 and Pan et al. 2019 do.
        columns: see ``COLUMNS``.

    Raises:
        CorpusError: not BAUM-1, an unreadable sheet, or an unknown code.
        MissingPackageError: openpyxl is not installed.
    """
    part = "1a" if acted else "1s"
    codes = ACTED if acted else SPONTANEOUS
    layout = f"Annotations_BAUM{part}.xlsx beside BAUM{part}_MP4/s001/S001_001.mp4"
    sheet_name = rf"annotations.*baum-?{part}.*\.xlsx"
    root = find_root(root, f"BAUM-{part}", layout, lambda folder: find_file(folder, sheet_name) is not None)
    sheet = find_file(root, sheet_name) or root
    collector = Collector(f"baum{part}", root, layout)
    names = tuple(_COMMON.get(name, name) for name in codes.values())
    wanted = BASIC if basic else names
    clips = {}
    for folder in folders(root, rf"baum-?{part}.*"):
        for file in collector.videos(folder):
            clips[file.stem.lower()] = file
    annotated = set()
    for place, clip, name, code in _rows(collector, sheet, columns):
        match = _CLIP.fullmatch(clip)
        if match is None:
            collector.skip(place, "row without a clip's name")
            continue
        annotated.add(clip.lower())
        emotion = codes.get(_number(code))
        if emotion is None:
            raise collector.unknown(
                place, str(code), (f"{key} {value}" for key, value in codes.items()), "correct the sheet"
            )
        label = _COMMON.get(emotion, emotion)
        if not _agree(name, emotion):
            collector.skip(place, "name and code tell different labels")
        elif label not in wanted:
            collector.skip(place, f"{label} not asked for")
        elif clip.lower() not in clips:
            collector.skip(place, "annotated but no video")
        else:
            collector.add(clips[clip.lower()], label, match["subject"].upper(), clip.upper())
    for stem, file in clips.items():
        if stem not in annotated:
            collector.skip(file, "video without annotation")
    if basic and not acted:
        return collector.finish(wanted, 521, "Zhang et al. 2019, section IV-A (six expressions)")
    return collector.finish(wanted, None, "521 is for the six basic expressions of BAUM-1s")


def _rows(collector: Collector, sheet: Path, columns: tuple[int, int, int]) -> Iterator[tuple[Path, str, str, Any]]:
    """(row's place, clip, emotion name, code) of every row that is not empty, the header left out."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingPackageError(
            f"{sheet}: needs openpyxl to be read; expected it installed; type: pip install 'edge-emotion[train]'"
        ) from error
    try:
        book = openpyxl.load_workbook(sheet, read_only=True, data_only=True)
    except Exception as error:  # openpyxl lets errors of zip, XML and its own through
        raise CorpusError(
            f"{sheet}: not a readable xlsx ({error}); expected the corpus' own sheet; copy it anew"
        ) from error
    try:
        begun = False
        for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            if not any(cell is not None for cell in row):
                continue
            clip, name, code = (row[column] if column < len(row) else None for column in columns)
            text = str(clip or "").strip()
            if not begun and _CLIP.fullmatch(text) is None:
                continue  # headings
            begun = True
            yield sheet.with_name(f"{sheet.name}:{number}"), text, str(name or "").strip(), code
    finally:
        book.close()
    if not begun:
        raise CorpusError(
            f"{sheet}: no clip names such as S001_001 in column {columns[0] + 1}; expected clip, emotion and code in "
            f"columns {', '.join(str(column + 1) for column in columns)}; give columns=(CLIP, EMOTION, CODE), from 0"
        )


def _number(code: Any) -> int:
    """The code as a number, -1 where it is none."""
    try:
        value = float(code)
    except (TypeError, ValueError):
        return -1
    return int(value) if value.is_integer() else -1


def _agree(name: str, emotion: str) -> bool:
    """Whether the sheet's word is the code's: their first three letters, four where those are ``con``."""
    lower = name.lower()
    length = min(len(lower), 4 if lower.startswith("con") else 3)
    return lower[:length] == emotion[:length]
