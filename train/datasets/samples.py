"""What every corpus on disk becomes: samples that say where the pixels are, and a corpus that says what is missing.

Loading parses names and annotations only; pixels are read later, by whoever needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.datasets.errors import CorpusError

BASIC = ("angry", "disgust", "fear", "happy", "sad", "surprise")
"""The six basic expressions: the classes of C-SPP, of Zhang et al. 2019 and of Pan et al. 2019."""

WORDS = (
    *BASIC,
    "neutral",
    "contempt",
    "calm",
    "bored",
    "bothered",
    "concentrating",
    "interested",
    "thinking",
    "unsure",
)
"""The common words: whatever a corpus calls it, ``Sample.label`` is one of these."""

SPLITS = ("train", "val", "test")

_SYNONYMS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "neutrality": "neutral",
    "contemptuous": "contempt",
    "boredom": "bored",
    "interest": "interested",
}

Facts = tuple[tuple[str, str], ...]
Skipped = tuple[Path, str]
"""A file or folder that gave no sample, and why."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm")
VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mpg", ".mpeg", ".wmv", ".mkv", ".flv", ".m4v")
ARRAY_SUFFIXES = (".npz", ".csv")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture, video or run of frames, as it lies on disk."""

    source: Path | tuple[Path, ...]
    """A picture file, a video file, the frame files in their order, or (FER2013) an array file with a ``row`` fact."""
    label: str
    """One of the corpus' names."""
    subject: str | None
    """Who it is; None where the corpus does not say."""
    sequence: str
    """What it was taken from. Samples of one sequence are near-identical and belong on one side of any split."""
    split: str | None = None
    """``train``, ``val`` or ``test`` where the corpus fixes it."""
    facts: Facts = ()
    """Whatever else the corpus says of it, as (name, value)."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file, or the frames in their order."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def path(self) -> Path:
        """The file, or the first of the frames."""
        return self.files[0]

    @property
    def kind(self) -> str:
        """``picture``, ``video``, ``frames`` or ``array``."""
        if isinstance(self.source, tuple):
            return "frames"
        suffix = self.path.suffix.lower()
        if suffix in ARRAY_SUFFIXES:
            return "array"
        return "video" if suffix in VIDEO_SUFFIXES else "picture"

    def fact(self, name: str) -> str | None:
        """The value of one fact, or None."""
        return dict(self.facts).get(name)


@dataclass(frozen=True)
class Corpus:
    """A corpus as it was found, next to what was published of it."""

    name: str
    root: Path
    names: tuple[str, ...]
    """Label names in the corpus' order; every sample's label is one of them."""
    samples: tuple[Sample, ...]
    expected: int | None
    """How many samples there should be; None where nobody published it for what was asked."""
    expected_from: str
    """Who says so."""
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> dict[str, int]:
        """How many samples each label has, in the order of ``names``, zeros included."""
        counts = Counter(sample.label for sample in self.samples)
        return {name: counts[name] for name in self.names}

    @property
    def subjects(self) -> dict[str, int]:
        """How many samples each known subject has, in order of appearance."""
        return dict(Counter(sample.subject for sample in self.samples if sample.subject is not None))

    @property
    def splits(self) -> dict[str, int]:
        """How many samples each split has; empty where the corpus fixes none."""
        counts = Counter(sample.split for sample in self.samples)
        return {split: counts[split] for split in SPLITS if counts[split]}

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were skipped for each reason, most frequent first."""
        return dict(Counter(why for _, why in self.skipped).most_common())

    def only(self, names: Sequence[str], expected: int | None = None, expected_from: str = "") -> Corpus:
        """The samples with these labels; the others are skipped, and say so.

        Args:
            names: labels to keep, in the order wanted.
            expected: the published count of what is kept.
            expected_from: who published it.

        Raises:
            CorpusError: a name that the corpus does not have.
        """
        for name in names:
            if name not in self.names:
                raise CorpusError(
                    f"{self.name} has no label {name!r}; expected some of {', '.join(self.names)}; ask for those"
                )
        kept = tuple(sample for sample in self.samples if sample.label in names)
        left = tuple(
            (sample.path, f"{sample.label} not asked for") for sample in self.samples if sample.label not in names
        )
        return replace(
            self,
            names=tuple(names),
            samples=kept,
            expected=expected,
            expected_from=expected_from,
            skipped=self.skipped + left,
        )

    def report(self) -> str:
        """A few lines to read: expected against found, by label, by subject, by split, and what was skipped and why."""
        found = f"{self.name}: {len(self):,} samples found in {self.root}, "
        if self.expected is None:
            found += "no published count for these" + (f" ({self.expected_from})" if self.expected_from else "")
        else:
            missing = len(self) - self.expected
            found += f"{self.expected:,} expected" + (f" ({missing:+,})" if missing else "")
            found += f", by {self.expected_from}" if self.expected_from else ""
        lines = [found, "  labels: " + ", ".join(f"{name} {count:,}" for name, count in self.labels.items())]
        if self.subjects:
            counts = self.subjects.values()
            unknown = len(self) - sum(counts)
            lines.append(
                f"  subjects: {len(counts)}, {min(counts):,} to {max(counts):,} samples each"
                + (f", {unknown:,} samples without one" if unknown else "")
            )
            if len(counts) <= 12:
                lines[-1] += ": " + ", ".join(f"{name} {count:,}" for name, count in self.subjects.items())
        else:
            lines.append("  subjects: not known")
        if self.splits:
            lines.append("  splits: " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items()))
        lines.append(f"  skipped: {len(self.skipped):,}")
        examples = {why: path for path, why in reversed(self.skipped)}
        lines.extend(
            f"    {count:,} x {why}, as {shortened(examples[why], self.root)}" for why, count in self.reasons.items()
        )
        return "\n".join(lines)


def word(text: str) -> str | None:
    """The common word for an expression's name, or None: ``Anger`` and ``angry`` are ``angry``."""
    lower = text.strip().lower()
    lower = _SYNONYMS.get(lower, lower)
    return lower if lower in WORDS else None


def shortened(path: Path, root: Path) -> str:
    """The path as seen from the root, with forward slashes; the whole path where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
