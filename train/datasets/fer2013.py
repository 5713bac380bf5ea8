"""FER2013 (Goodfellow et al. 2013): 48x48 grey faces from the web, seven classes, no subject ids.

Three forms are read. npz: ``train.npz`` (Training, 28,709), ``public_test.npz`` (PublicTest, 3,589) and
``private_test.npz`` (PrivateTest, 3,589), each with ``x`` uint8 (N, 48, 48) and ``y`` 0..6. csv: ``fer2013.csv`` or
``icml_face_data.csv`` with ``emotion,pixels,Usage``. Folders: ``train/angry/*.jpg``, with ``publictest`` (or ``val``)
and ``privatetest`` beside it; the usual copy has one ``test`` folder instead, PublicTest and PrivateTest mixed.

PrivateTest is read when it is named, never by default, and so is the mixed ``test`` folder, because it holds it.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from train.datasets.disk import Collector, find_file, find_root, folders, label_of_folder
from train.datasets.errors import CorpusError
from train.datasets.samples import Corpus
from train.examples import Examples, faces

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
PARTS = {"train": "train.npz", "test": "public_test.npz", "private": "private_test.npz"}
USAGES = {"train": "Training", "test": "PublicTest", "private": "PrivateTest"}
COUNTS = {"train": 28_709, "test": 3_589, "private": 3_589}
LAYOUT = "train.npz, fer2013.csv or train/angry"
SIDE = 48
"""Pixels."""
_CSV = r"(fer2013|icml_face_data)\.csv"
_FOLDERS = {
    "train": r"train(ing)?",
    "test": r"public_?test|val(id|idation)?",
    "private": r"private_?test|test",
}


def load(path: Path, part: str = "train") -> Examples:
    """Load one part's pixels.

    Args:
        path: the folder that holds the parts in any of the three forms, one npz file (then ``part`` only names it), or
            one csv file.
        part: ``train``, ``test`` (PublicTest) or ``private`` (PrivateTest).

    Raises:
        CorpusError: no such part, file or folder, or not FER2013's contents.
    """
    if part not in PARTS:
        raise CorpusError(f"FER2013 has no part {part!r}; expected {', '.join(PARTS)}; give one of these")
    if path.suffix.lower() == ".csv":
        return _from_csv(path, part)
    if path.is_dir() and not (path / PARTS[part]).exists():
        file = find_file(path, _CSV)
        if file is not None:
            return _from_csv(file, part)
        if folders(path, _FOLDERS["train"]):
            return _from_folders(path, part)
    file = path if path.is_file() else path / PARTS[part]
    pixels, labels = _arrays(file, PARTS[part])
    return faces("fer2013", part, NAMES, pixels, labels.astype(np.int64))


def parse(root: Path, *, private: bool = False) -> Corpus:
    """List the samples of whichever form is there; a sample of an array file has its ``row`` as a fact.

    Args:
        root: the folder of any of the three forms, or one above it, or a csv file.
        private: also PrivateTest. Then PublicTest is the ``val`` split and PrivateTest ``test``, as in the challenge;
            without it PublicTest is ``test``, as in ``load``.

    Raises:
        CorpusError: none of the forms, or not FER2013's contents.
    """
    csv_file = root if root.is_file() else None
    root = root.parent if csv_file else find_root(root, "FER2013", LAYOUT, _is_root)
    csv_file = csv_file or find_file(root, _CSV)
    collector = Collector("fer2013", root, LAYOUT)
    splits = {"train": "train", "test": "val" if private else "test", "private": "test"}
    if (root / PARTS["train"]).exists():
        for part, name in PARTS.items():
            file = root / name
            if part == "private" and not private:
                if file.exists():
                    collector.skip(file, "PrivateTest not asked for")
            elif file.exists():
                for row, label in enumerate(_arrays(file, name)[1]):
                    facts = (("row", str(row)), ("usage", USAGES[part]))
                    collector.add(file, NAMES[label], None, f"{file.stem}/{row}", splits[part], facts)
    elif csv_file is not None:
        for row, label, part, _ in _rows(csv_file):
            if part == "private" and not private:
                collector.skip(csv_file.with_name(f"{csv_file.name}:{row + 2}"), "PrivateTest not asked for")
            else:
                facts = (("row", str(row)), ("usage", USAGES[part]))
                collector.add(csv_file, NAMES[label], None, f"{csv_file.stem}/{row}", splits[part], facts)
    else:
        for part in PARTS:
            for folder in folders(root, _FOLDERS[part]):
                if part == "private" and not private:
                    collector.skip(folder, "holds PrivateTest, not asked for")
                    continue
                for files in folders(folder):
                    label = label_of_folder(collector, files, NAMES)
                    for file in collector.pictures(files):
                        collector.add(file, label, None, collector.relative(file), splits[part])
    expected = sum(count for part, count in COUNTS.items() if private or part != "private")
    return collector.finish(NAMES, expected, "Goodfellow et al. 2013")


def _is_root(folder: Path) -> bool:
    return (
        (folder / PARTS["train"]).exists()
        or find_file(folder, _CSV) is not None
        or any(folders(train, "angry|anger") for train in folders(folder, _FOLDERS["train"]))
    )


def _arrays(file: Path, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    """Pixels (N, 48, 48) and label codes (N,) of one npz file."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            pixels, labels = stored["x"], stored["y"]
    except FileNotFoundError as error:
        raise CorpusError(f"{file}: no such file; expected FER2013's {name} there (--data FOLDER)") from error
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{file}: not FER2013 as npz (arrays x and y): {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise CorpusError(f"{file}: expected x uint8 (N, 48, 48) and y (N,), got {pixels.shape} and {labels.shape}")
    if len(labels) == 0:
        raise CorpusError(f"{file}: holds no pictures")
    for code in (labels.min(), labels.max()):
        if not 0 <= code < len(NAMES):
            raise CorpusError(f"{file}: label code {code}; FER2013 has 0..6, unknown codes are refused")
    return pixels, labels


def _rows(file: Path) -> Iterator[tuple[int, int, str, str]]:
    """(row from 0, label code, part, pixels as text) of a csv file."""
    parts = {usage.lower(): part for part, usage in USAGES.items()}
    header = "emotion,pixels,Usage"
    try:
        stream = file.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{file}: can't be read ({error.strerror}); expected FER2013 as {header}") from error
    with stream:
        reader = csv.reader(stream)
        # icml_face_data.csv has blanks after its commas.
        columns = [column.strip().lower() for column in next(reader, [])]
        if not {"emotion", "pixels", "usage"} <= set(columns):
            raise CorpusError(
                f"{file}: header is {','.join(columns)!r}; expected {header}; "
                "give fer2013.csv, not the challenge's parts"
            )
        emotion, pixels, usage = (columns.index(name) for name in ("emotion", "pixels", "usage"))
        for row, cells in enumerate(reader):
            where = f"{file}:{row + 2}"
            if len(cells) != len(columns):
                raise CorpusError(f"{where}: {len(cells)} cells; expected {header}; the file is damaged, copy it anew")
            code, part = cells[emotion].strip(), parts.get(cells[usage].strip().lower())
            if not re.fullmatch("[0-6]", code):
                raise CorpusError(f"{where}: label code {code}; FER2013 has 0..6, unknown codes are refused")
            if part is None:
                raise CorpusError(f"{where}: unknown Usage {cells[usage]!r}; expected {', '.join(USAGES.values())}")
            yield row, int(code), part, cells[pixels]


def _from_csv(file: Path, part: str) -> Examples:
    pictures, labels = [], []
    for row, code, found, text in _rows(file):
        if found == part:
            values = text.split()
            try:
                pixels = np.array(values, np.uint8)
            except (ValueError, OverflowError) as error:
                raise CorpusError(f"{file}:{row + 2}: pixels are not 0..255 ({error}); copy the file anew") from error
            if pixels.size != SIDE * SIDE:
                raise CorpusError(f"{file}:{row + 2}: {pixels.size} pixels; expected {SIDE * SIDE}; copy the file anew")
            pictures.append(pixels.reshape(SIDE, SIDE))
            labels.append(code)
    if not pictures:
        raise CorpusError(f"{file}: holds no {USAGES[part]} rows; expected {COUNTS[part]:,}; give the whole file")
    return faces("fer2013", part, NAMES, np.stack(pictures), np.array(labels, np.int64))


def _from_folders(root: Path, part: str) -> Examples:
    collector = Collector("fer2013", root, LAYOUT)
    pictures, labels = [], []
    for folder in folders(root, _FOLDERS[part]):
        for files in folders(folder):
            code = NAMES.index(label_of_folder(collector, files, NAMES))
            for file in collector.pictures(files):
                pixels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
                if pixels is None or pixels.shape != (SIDE, SIDE):
                    raise CorpusError(f"{file}: not a picture of {SIDE}x{SIDE}; expected FER2013's; remove it")
                pictures.append(pixels)
                labels.append(code)
    if not pictures:
        mixed = part == "test" and bool(folders(root, "test"))
        raise CorpusError(
            f"{root}: no pictures of {USAGES[part]}; expected a folder of it; "
            + (
                "its test folder mixes in PrivateTest: name it with the part private"
                if mixed
                else "copy the folder anew"
            )
        )
    return faces("fer2013", part, NAMES, np.stack(pictures).astype(np.uint8), np.array(labels, np.int64))
