"""What every loader of a corpus needs: find the root, walk it, refuse what is unknown, and say what was skipped.

Two rules hold for all loaders. A name that is not of the corpus' form is skipped and reported: archives carry read-me
files and thumbnails. A name of the right form with a label code that the corpus does not have is refused: a guessed
label would spoil the training without a trace.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from train.datasets.errors import CorpusError
from train.datasets.samples import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    WORDS,
    Corpus,
    Facts,
    Sample,
    Skipped,
    shortened,
    word,
)

MANIFEST = "manifest.csv"
CODES = ("codes.csv", "codes.json")
JUNK = "hidden or thumbnail file"


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key for names that puts ``s2`` before ``s10``, whatever the case."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def is_junk(path: Path) -> bool:
    """Whether a file or folder is the operating system's, not the corpus'."""
    name = path.name.lower()
    return name.startswith(".") or name.endswith(".db") or name in ("__macosx", "desktop.ini")


def visible(folder: Path) -> list[Path]:
    """The folder's entries in natural order, junk left out."""
    return sorted((entry for entry in folder.iterdir() if not is_junk(entry)), key=natural)


def folders(folder: Path, pattern: str = "") -> list[Path]:
    """The visible folders in a folder whose whole names match, in natural order."""
    return [
        entry
        for entry in visible(folder)
        if entry.is_dir() and (not pattern or re.fullmatch(pattern, entry.name, re.IGNORECASE))
    ]


def find_file(folder: Path, pattern: str) -> Path | None:
    """The first file in a folder whose whole name matches, whatever the case."""
    for entry in visible(folder):
        if entry.is_file() and re.fullmatch(pattern, entry.name, re.IGNORECASE):
            return entry
    return None


def check_folder(path: Path, name: str, layout: str) -> None:
    """Refuse what can't be a corpus.

    Raises:
        CorpusError: no such folder, or nothing in it.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise CorpusError(f"{path}: {what}; expected {name} as {layout}; give the folder that holds it")
    if not visible(path):
        raise CorpusError(f"{path}: empty folder; expected {name} as {layout}; unpack the corpus there")


def find_root(path: Path, name: str, layout: str, *tests: Callable[[Path], bool]) -> Path:
    """The corpus' root: the folder itself, else the one folder in it, else its parent, that passes the first test.

    Args:
        path: what the user gave.
        name: the corpus.
        layout: what it looks like, for the error.
        tests: strictest first; the next one is tried where no folder passes.

    Raises:
        CorpusError: missing, empty, not the corpus, or more than one root in the folder.
    """
    check_folder(path, name, layout)
    for test in tests:
        if test(path):
            return path
        below = [folder for folder in folders(path) if _passes(test, folder)]
        if len(below) > 1:
            raise CorpusError(
                f"{path}: more than one {name} in it ({', '.join(folder.name for folder in below)}); "
                f"expected one root; give one of these folders"
            )
        if below:
            return below[0]
        parent = path.resolve().parent
        if _passes(test, parent):
            return parent
    raise CorpusError(
        f"{path}: not {name} as it lies on disk; expected {layout}; give that folder, or write a {MANIFEST} in it"
    )


def _passes(test: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return test(folder)
    except OSError:  # a neighbour that may not be read is not the corpus
        return False


class Collector:
    """What a loader gathers while it walks a corpus."""

    def __init__(self, name: str, root: Path, layout: str) -> None:
        self.name, self.root, self.layout = name, root, layout
        self.samples: list[Sample] = []
        self.skipped: list[Skipped] = []

    def skip(self, path: Path, why: str) -> None:
        """Remember that a path gave no sample, and why."""
        self.skipped.append((path, why))

    def files(self, folder: Path, suffixes: Sequence[str], what: str, deep: bool = True) -> Iterator[Path]:
        """The files with these suffixes, in natural order; all others are skipped as ``not {what}``."""
        for entry in sorted(folder.iterdir(), key=natural):
            if is_junk(entry):
                self.skip(entry, JUNK)
            elif entry.is_dir():
                if deep:
                    yield from self.files(entry, suffixes, what)
            elif entry.suffix.lower() in suffixes:
                yield entry
            elif entry.name.lower() not in (MANIFEST, *CODES):
                self.skip(entry, f"not {what}")

    def pictures(self, folder: Path | None = None, deep: bool = True) -> Iterator[Path]:
        """The picture files below a folder (the root)."""
        return self.files(self.root if folder is None else folder, PICTURE_SUFFIXES, "a picture", deep)

    def videos(self, folder: Path | None = None) -> Iterator[Path]:
        """The video files below a folder (the root)."""
        return self.files(self.root if folder is None else folder, VIDEO_SUFFIXES, "a video")

    def add(
        self,
        source: Path | tuple[Path, ...],
        label: str,
        subject: str | None,
        sequence: str,
        split: str | None = None,
        facts: Facts = (),
    ) -> None:
        """Remember one sample."""
        self.samples.append(Sample(source, label, subject, sequence, split, facts))

    def relative(self, path: Path) -> str:
        """The path from the root, without its suffix."""
        return shortened(path.with_suffix(""), self.root)

    def unknown(self, path: Path, code: str, known: Iterable[str], remedy: str = "") -> CorpusError:
        """The refusal of a label that the corpus does not have."""
        return CorpusError(
            f"{path}: unknown label {code!r}; {self.name} has {', '.join(known)}; "
            + (remedy or f"correct or remove it, or write a {MANIFEST} in {self.root}")
        )

    def finish(self, names: Sequence[str], expected: int | None, expected_from: str) -> Corpus:
        """The corpus.

        Raises:
            CorpusError: not one sample was found; the reasons are told.
        """
        if not self.samples:
            reasons = Counter(why for _, why in self.skipped).most_common(3)
            why = ", ".join(f"{count} x {reason}" for reason, count in reasons)
            raise CorpusError(
                f"{self.root}: no {self.name} samples found ({why or 'no files'}); expected {self.layout}; "
                f"give that folder, or write a {MANIFEST} in it"
            )
        return Corpus(
            self.name, self.root, tuple(names), tuple(self.samples), expected, expected_from, tuple(self.skipped)
        )


def label_of_folder(collector: Collector, folder: Path, names: Sequence[str]) -> str:
    """The label that a class folder's name stands for.

    Raises:
        CorpusError: it is none of the corpus' names.
    """
    label = word(folder.name)
    if label is None or label not in names:
        raise collector.unknown(folder, folder.name, names)
    return label


def read_codes(name: str, root: Path, codes: Mapping[str, str] | Path | None) -> dict[str, str] | None:
    """The user's map from label codes to common words.

    Args:
        name: the corpus, for errors.
        root: where ``codes.csv`` (header ``code,label``) or ``codes.json`` (``{"1": "angry"}``) is looked for.
        codes: the map itself, or such a file elsewhere; None looks in the root.

    Returns:
        Code, in lower case, to common word; an empty word leaves that code's samples out. None where there is no map.

    Raises:
        CorpusError: no such file, not of that form, or a label that is not a common word.
    """
    where = "codes"
    if codes is None:
        codes = find_file(root, r"codes\.(csv|json)")
        if codes is None:
            return None
    if isinstance(codes, Path):
        where = str(codes)
        codes = _codes_file(codes)
    result = {}
    for code, label in codes.items():
        common = word(label) if label.strip() else ""
        if common is None:
            raise CorpusError(
                f"{where}: {name} code {code!r} is mapped to {label!r}; expected one of {', '.join(WORDS)}, "
                "or nothing to leave that code out; correct it"
            )
        result[code.strip().lower()] = common
    if not result:
        raise CorpusError(f"{where}: holds no code; expected {CODES_FORM}; write them")
    return result


CODES_FORM = 'codes.csv with the header code,label, or codes.json as {"CODE": "LABEL"}'


def _codes_file(file: Path) -> dict[str, str]:
    try:
        if file.suffix.lower() == ".json":
            stored = json.loads(file.read_text(encoding="utf-8-sig"))
            if not isinstance(stored, dict) or not all(isinstance(value, str) for value in stored.values()):
                raise ValueError("not an object of strings")
            return stored
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            return {row["code"]: row["label"] or "" for row in rows}
    except FileNotFoundError as error:
        raise CorpusError(f"{file}: no such file; expected {CODES_FORM}; write it") from error
    except (KeyError, ValueError, OSError) as error:
        raise CorpusError(f"{file}: not a map of label codes ({error}); expected {CODES_FORM}; correct it") from error
