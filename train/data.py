"""From a corpus' name and folder to the examples that a network of some family learns from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.bundle import InputSpec
from train.datasets import PICTURES, CorpusError, find
from train.examples import Examples
from train.models.family import Family


@dataclass(frozen=True)
class Source:
    """Which corpus, where it is, and how it is made ready."""

    corpus: str
    """A name in ``train.datasets.CORPORA``."""
    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    """The loader's own."""
    labels: tuple[str, ...] = ()
    """Keep these alone, in this order; empty keeps all."""
    cache: Path = Path("runs/cache")
    """Where finished crops and flow images are kept."""
    workers: int = 0
    """Processes that prepare; 0 is one a core."""
    flow: str = "clg"
    """The optical flow's method (see :mod:`edge.flow`)."""
    gamma: float = 1.0
    """Brightens dark frames (1.5 in Saurav et al. 2020, for AFEW)."""
    frames: int | None = None
    """For networks that eat single faces: how many frames of a sequence (see :func:`train.prepare.prepare`)."""


@dataclass(frozen=True)
class Loaded:
    """Examples, and what happened on the way."""

    examples: Examples
    report: str
    """The corpus' own account: expected against found, what was skipped and why."""
    skipped: int
    failed: tuple[tuple[Path, str], ...] = ()
    """Files whose faces could not be prepared, and why."""


def load_examples(source: Source, family: Family, config: Any, *, jitter: int = 0, seed: int = 0) -> Loaded:
    """Everything of a corpus that this configuration can learn from or be tested on.

    Args:
        source: the corpus.
        family: which network.
        config: its configuration; decides size, colour, window and inputs.
        jitter: extra crops of each picture with disturbed eye positions, marked as not original.
        seed: of the jitter.

    Raises:
        CorpusError: the corpus is missing, incomplete beyond use, or gives not one example.
    """
    inputs = family.inputs(config)
    if source.corpus in PICTURES and [spec.kind for spec in inputs] == ["face"]:
        examples = PICTURES[source.corpus](source.root, "train")
        try:
            test = PICTURES[source.corpus](source.root, "test")
            examples = joined(examples, test)
        except CorpusError:
            pass
        examples = fitted(examples, inputs[0])
        report = f"{source.corpus}: {len(examples):,} face crops in {source.root}"
        return Loaded(_only(examples, source.labels), report, 0)
    corpus = find(source.corpus, source.root, **source.options)
    if source.labels:
        corpus = corpus.only(source.labels)
    from train.prepare import prepare  # needs dlib, which finished crops do not

    prepared = prepare(
        corpus,
        inputs,
        family.window(config),
        source.cache,
        workers=source.workers,
        jitter=jitter,
        flow=source.flow,
        gamma=source.gamma,
        seed=seed,
    )
    return Loaded(prepared.examples, corpus.report(), len(corpus.skipped), prepared.failed)


def joined(first: Examples, second: Examples) -> Examples:
    """Two sets of examples of the same corpus, one after the other."""
    return replace(
        first,
        arrays={name: np.concatenate([array, second.arrays[name]]) for name, array in first.arrays.items()},
        labels=np.concatenate([first.labels, second.labels]),
        subjects=first.subjects + second.subjects,
        sequences=first.sequences + second.sequences,
        splits=first.splits + second.splits,
        originals=np.concatenate([first.originals, second.originals]),
        variations=first.variations + second.variations,
    )


def part(examples: Examples, name: str) -> Examples:
    """The examples of one split, ``train``, ``val`` or ``test``."""
    return examples.subset(np.array([i for i, split in enumerate(examples.splits) if split == name], np.int64))


def fitted(examples: Examples, spec: InputSpec) -> Examples:
    """Finished grey crops in an input's size and number of channels."""
    pixels = examples.arrays["face"]
    if pixels.shape[1:3] != (spec.height, spec.width):
        size = (spec.width, spec.height)
        pixels = np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR) for picture in pixels])
    if spec.channels == 3:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return replace(examples, arrays={"face": pixels})


def _only(examples: Examples, labels: tuple[str, ...]) -> Examples:
    if not labels:
        return examples
    if unknown := set(labels) - set(examples.names):
        raise CorpusError(
            f"{examples.corpus} has no label {sorted(unknown)[0]!r}; expected some of {', '.join(examples.names)}"
        )
    codes = {examples.names.index(name): place for place, name in enumerate(labels)}
    kept = examples.subset(np.array([i for i, label in enumerate(examples.labels) if int(label) in codes], np.int64))
    return replace(kept, names=labels, labels=np.array([codes[int(label)] for label in kept.labels], np.int64))
