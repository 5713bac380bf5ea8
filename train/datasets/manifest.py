"""Any corpus: a ``manifest.csv``, or folders named after the labels.

``manifest.csv`` has a header and a row a sample: ``path,label,subject,sequence,split``. Only ``path`` and ``label`` are
needed. A path is relative to the manifest; a folder stands for its pictures as one run of frames. Any other column
becomes a fact. Every loader's corpus can be given that way, where its own layout is not what is expected.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from train.datasets.disk import CODES_FORM, MANIFEST, Collector, check_folder, find_file, folders, read_codes, visible
from train.datasets.errors import CorpusError
from train.datasets.samples import PICTURE_SUFFIXES, SPLITS, VIDEO_SUFFIXES, WORDS, Corpus, word

LAYOUT = f"{MANIFEST} with the header path,label,subject,sequence,split, or class folders (happy/S010_004_00000017.png)"
PATTERN = r"(?P<subject>[A-Za-z]*\d+)_(?P<sequence>\d+)_(?P<frame>\d+)"
_COLUMNS = ("path", "label", "subject", "sequence", "split")
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def parse(
    root: Path,
    *,
    name: str = "manifest",
    codes: Mapping[str, str] | Path | None = None,
    pattern: str = PATTERN,
    expected: int | None = None,
    expected_from: str = "",
) -> Corpus:
    """Parse a manifest or class folders.

    Args:
        root: the manifest, its folder, or the folder of class folders (or of train, val and test folders of them).
        name: what to call the corpus.
        codes: label as written to common word, for labels that are not common words; or the file that holds it.
            None: ``codes.csv`` or ``codes.json`` in the root, where there is one.
        pattern: class folders only: a regular expression for a whole name without suffix, with groups ``subject`` and
            ``sequence``. A name that does not match is a sample without a subject, its own sequence.
        expected: the published count.
        expected_from: who published it.

    Raises:
        CorpusError: nothing there, a label or split that is not known, or no usable row.
    """
    if root.is_file():
        file: Path | None = root
        root = root.parent
    else:
        check_folder(root, name, LAYOUT)
        file = find_file(root, re.escape(MANIFEST))
    collector = Collector(name, root, LAYOUT)
    known = read_codes(name, root, codes) or {}
    if file is not None:
        _rows(collector, file, known)
    else:
        _class_folders(collector, known, pattern)
    used = {sample.label for sample in collector.samples}
    return collector.finish(tuple(label for label in WORDS if label in used), expected, expected_from)


def _label(collector: Collector, where: Path, text: str, known: Mapping[str, str]) -> str:
    """The common word; an empty one is to be left out.

    Raises:
        CorpusError: not a common word, and not in the code map.
    """
    label = known.get(text.strip().lower(), word(text))
    if label is None:
        raise collector.unknown(
            where, text, (*WORDS, *known), f"use these words, or write {CODES_FORM} in {collector.root}"
        )
    return label


def _rows(collector: Collector, file: Path, known: Mapping[str, str]) -> None:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = [field.strip().lower() for field in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{file}: can't be read ({error}); expected {LAYOUT}; correct it") from error
    if not {"path", "label"} <= set(reader.fieldnames):
        found = ",".join(reader.fieldnames)
        raise CorpusError(f"{file}: header is {found!r}; expected {','.join(_COLUMNS)}; write at least path and label")
    for number, row in enumerate(rows, 2):
        values = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        where = file.with_name(f"{file.name}:{number}")
        if not values["path"]:
            collector.skip(where, "row without a path")
            continue
        path = file.parent / values["path"]
        label = _label(collector, where, values["label"], known)
        split = _PARTS.get(values.get("split", "").lower())
        if split is None and values.get("split"):
            raise CorpusError(f"{where}: unknown split {values['split']!r}; expected {', '.join(SPLITS)} or nothing")
        frames: tuple[Path, ...] = ()
        if label == "":
            collector.skip(path, f"label {values['label']!r} left out by the code map")
            continue
        if path.is_dir():
            frames = tuple(entry for entry in visible(path) if entry.suffix.lower() in PICTURE_SUFFIXES)
        if not frames and not (path.is_file() and path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)):
            collector.skip(path, "not a picture, a video or a folder of pictures" if path.exists() else "no such file")
            continue
        collector.add(
            frames or path,
            label,
            values.get("subject") or None,
            values.get("sequence") or Path(values["path"]).with_suffix("").as_posix(),
            split,
            tuple((key, value) for key, value in values.items() if key not in _COLUMNS and key and value),
        )


def _class_folders(collector: Collector, known: Mapping[str, str], pattern: str) -> None:
    try:
        form = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise CorpusError(f"pattern {pattern!r}: {error}; expected a regular expression; correct it") from error
    if not {"subject", "sequence"} <= form.groupindex.keys():
        raise CorpusError(f"pattern {pattern!r}: expected groups subject and sequence, as in {PATTERN!r}; add them")
    top = folders(collector.root)
    parts = [(folder, _PARTS[folder.name.lower()]) for folder in top if folder.name.lower() in _PARTS]
    places: list[tuple[Path, str | None]] = (
        [(folder, split) for part, split in parts for folder in folders(part)]
        if parts
        else [(folder, None) for folder in top]
    )
    for folder in top:
        if parts and folder.name.lower() not in _PARTS:
            collector.skip(folder, "beside the train, val and test folders")
    for folder, split in places:
        label = _label(collector, folder, folder.name, known)
        if label == "":
            collector.skip(folder, f"label {folder.name!r} left out by the code map")
            continue
        for file in collector.files(folder, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES), "a picture or a video"):
            match = form.fullmatch(file.stem)
            if match is None:
                collector.add(file, label, None, collector.relative(file), split)
            else:
                collector.add(file, label, match["subject"], f"{match['subject']}_{match['sequence']}", split)
