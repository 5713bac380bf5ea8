"""From a corpus' name and folder to the examples that a network of some family learns from."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.bundle import InputSpec
from edge.errors import OptionError
from train.cluster import Map
from train.datasets import PICTURES, CorpusError, find
from train.examples import Examples, joined
from train.models import FAMILIES, Family


@dataclass(frozen=True)
class Source:
    """A corpus as it is to be used."""

    corpus: str
    """A name in ``train.datasets.CORPORA``."""
    labels: tuple[str, ...] = ()
    """Keep these alone, in this order; empty keeps all."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The loader's own."""
    stills: int | None = None
    """For networks of single faces: how many pictures around the middle of each sequence become examples."""
    cropped: bool = False
    """The pictures are finished face crops, the eyes about where FER2013 has them: no face is sought in them."""
    onsets: bool = False
    """For networks of grey clips: make clips of the corpus' still faces, their motion made up (:mod:`train.onset`)."""


@dataclass(frozen=True)
class Preparation:
    """How a corpus is made ready. What the robot would do, but for ``gamma``, ``jitter`` and ``recut``."""

    cache: Path = Path("runs/cache")
    """Where finished crops and flow images are kept."""
    workers: int = 0
    """Processes; 0 is one a core."""
    flow: str = "clg"
    """The optical flow's method (see :mod:`edge.flow`)."""
    gamma: float = 1.0
    """Brightens dark frames (1.5 in Saurav et al. 2020, for AFEW)."""
    jitter: int = 0
    """Extra crops of each picture with disturbed eye positions, marked as not original (Lopes et al. 2017)."""
    recut: bool = False
    """Finished grey crops of the training part come a second time, as the robot would cut them (:mod:`train.recut`)."""
    spread: Map | None = None
    """A ``map`` over a cluster, in the place of this machine's processes."""
    variation: str | None = None
    """The fact that names each example's variation, as ``gender``."""
    seed: int = 0


@dataclass(frozen=True)
class Loaded:
    """Examples, and what happened on the way."""

    examples: Examples
    report: str
    """The corpus' own account: expected against found, what was skipped and why."""
    skipped: dict[str, int]
    """Files that gave no sample, by reason."""
    failed: tuple[tuple[Path, str], ...] = ()
    """Samples that gave no example, and why."""

    @property
    def failures(self) -> dict[str, int]:
        """How many samples failed, by reason."""
        return dict(Counter(why for _, why in self.failed))


def load_examples(
    source: Source, root: Path, family: Family, config: Any, preparation: Preparation | None = None
) -> Loaded:
    """Everything of a corpus that this configuration can learn from or be tested on.

    Args:
        source: which corpus, and what of it.
        root: its folder or file.
        family: which network.
        config: its configuration; decides size, colour, window and inputs.
        preparation: how crops are made.

    Raises:
        CorpusError: the corpus is missing, incomplete beyond use, or gives not one example.
    """
    preparation = preparation or Preparation()
    inputs = family.inputs(config)
    crops = source.corpus in PICTURES and [spec.kind for spec in inputs] == ["face"]
    if preparation.recut and (source.onsets or not crops or inputs[0].channels != 1):
        raise OptionError(
            f"{source.corpus} with {family.name}: recut is for corpora of finished crops and networks of single grey "
            "faces; leave --recut out"
        )
    if source.onsets:
        return _onsets(source, root, inputs, preparation)
    if crops:
        return _pictures(source, root, inputs[0], preparation)
    corpus = find(source.corpus, root, **source.options)
    if source.labels:
        corpus = corpus.only(source.labels)
    from train.prepare import prepare  # needs dlib, which finished crops do not

    prepared = prepare(
        corpus,
        inputs,
        family.window(config),
        preparation.cache,
        workers=preparation.workers,
        jitter=preparation.jitter,
        flow=preparation.flow,
        gamma=preparation.gamma,
        seed=preparation.seed,
        variation=preparation.variation,
        stills=source.stills or 1,
        spread=preparation.spread,
        cropped=source.cropped,
    )
    return Loaded(prepared.examples, corpus.report(), corpus.reasons, prepared.failed)


def _onsets(source: Source, root: Path, inputs: tuple[InputSpec, ...], preparation: Preparation) -> Loaded:
    """Clips made of still faces; the neutral shape is the training part's, for every part."""
    (spec,) = inputs if len(inputs) == 1 else (None,)
    if spec is None or spec.kind != "clip" or spec.channels != 1:
        raise CorpusError(
            "onsets are grey clips without flow images; expected the family conv_lstm; leave --onsets out"
        )
    from train.onset import neutral_shapes, onsets  # needs dlib

    cspp = FAMILIES["cspp"]
    loaded = load_examples(replace(source, onsets=False), root, cspp, cspp.config(), preparation)
    splits = [name for name in ("train", "val", "test") if name in loaded.examples.splits]
    parts = [part(loaded.examples, name) for name in splits] or [loaded.examples]
    neutral = neutral_shapes(parts[0], progress=True)
    made = [
        onsets(faces, spec.shape[1], (spec.height, spec.width), preparation.seed, neutral=neutral) for faces in parts
    ]
    examples = made[0].examples
    for other in made[1:]:
        examples = joined(examples, other.examples)
    failed = sum(one.skipped for one in made)
    report = (
        f"{loaded.report}\n  {len(examples):,} SYNTHETIC onset clips made of them, {failed:,} faces could not be marked"
    )
    return replace(loaded, examples=examples, report=report)


def detect(root: Path) -> str:
    """Which corpus this is: FER2013 by its files' names, anything else by a manifest or class folders."""
    if root.is_file():
        return "manifest" if root.name.lower() == "manifest.csv" else "fer2013"
    names = {path.name.lower() for path in root.iterdir()} if root.is_dir() else set()
    return "fer2013" if names & {"train.npz", "fer2013.csv", "icml_face_data.csv"} or not names else "manifest"


def _pictures(source: Source, root: Path, spec: InputSpec, preparation: Preparation) -> Loaded:
    """Finished crops: both parts of the corpus, where both are there."""
    load = PICTURES[source.corpus]
    examples = load(root, "train")
    if root.is_dir():
        with contextlib.suppress(CorpusError):  # a training part alone is enough to learn from
            examples = joined(examples, load(root, "test"))
    examples = _only(fitted(examples, spec), source.labels)
    report = f"{source.corpus}: {len(examples):,} face crops in {root}"
    if preparation.recut:
        from train.recut import recut  # needs dlib, which finished crops do not

        learn = part(examples, "train")
        copies = recut(learn, spec, preparation.cache, workers=preparation.workers)
        examples = joined(examples, copies)
        report += f"\n  {len(copies):,} of {len(learn):,} to learn from are there as the robot would cut them too"
    return Loaded(examples, report, {})


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
