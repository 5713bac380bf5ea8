"""What a network learns from: arrays of pixels, and of whom, of what and from where each one is.

An example is one face, one clip, or one segment of a video. Pixels stay uint8, as ``edge`` cuts them, and may lie in
memory-mapped files: they become tensors batch by batch, through ``edge``'s own normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Examples:
    """Labelled examples of one corpus, or of a part of it."""

    corpus: str
    names: tuple[str, ...]
    """Label names; ``labels`` indexes them."""
    arrays: Mapping[str, npt.NDArray[np.uint8]]
    """By input name. A ``face`` is (N, H, W) grey or (N, H, W, 3); a ``clip`` or ``flow`` has time after N."""
    labels: npt.NDArray[np.int64]
    """(N,)."""
    subjects: tuple[str | None, ...]
    """Who it is, (N,); None where the corpus does not say."""
    sequences: tuple[str, ...]
    """What it was taken from, (N,): a video's segments share one, and so do the neighbouring frames of a sequence."""
    splits: tuple[str | None, ...]
    """``train``, ``val`` or ``test`` where the corpus fixes it, (N,)."""
    originals: npt.NDArray[np.bool_]
    """(N,): False for copies made by augmentation before the crop, which are for training only."""
    variations: tuple[str | None, ...] = ()
    """A named variation of each example (as gender), (N,) or empty."""
    synthetic: bool = False
    """Whether the motion is made up; everything that shows these examples says so."""
    flow: Mapping[str, Any] | None = None
    """Name and every parameter of the optical flow that made the flow images (:mod:`edge.flow`); None without any."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        sizes = {name: len(array) for name, array in self.arrays.items()}
        sizes |= {"subjects": len(self.subjects), "sequences": len(self.sequences), "splits": len(self.splits)}
        sizes |= {"originals": len(self.originals), "variations": len(self.variations) or count}
        if wrong := {name: size for name, size in sizes.items() if size != count}:
            raise ValueError(f"{count} labels but {wrong}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, chosen: npt.NDArray[np.integer]) -> Examples:
        """The examples at these places, in this order."""

        def pick(values: Sequence[str | None]) -> tuple[str | None, ...]:
            return tuple(values[i] for i in chosen) if values else ()

        return replace(
            self,
            arrays={name: array[chosen] for name, array in self.arrays.items()},
            labels=self.labels[chosen],
            subjects=pick(self.subjects),
            sequences=tuple(self.sequences[i] for i in chosen),
            splits=pick(self.splits),
            originals=self.originals[chosen],
            variations=pick(self.variations),
        )

    @property
    def thumbnails(self) -> npt.NDArray[np.uint8]:
        """One grey picture an example, (N, H, W): the face, or a clip's last frame (its apex in posed corpora)."""
        for name in ("face", "clip"):
            if name in self.arrays:
                pixels = self.arrays[name] if name == "face" else self.arrays[name][:, -1]
                # The luma of either order of colours serves a hash equally well.
                return pixels if pixels.ndim == 3 else pixels.mean(axis=-1).astype(np.uint8)
        return self.arrays["flow"][:, -1, ..., 2]


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


def faces(
    corpus: str, part: str, names: tuple[str, ...], pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> Examples:
    """Face crops of which nothing but the label is known.

    Args:
        corpus: name of the corpus.
        part: ``train``, ``val`` or ``test``.
        names: label names.
        pixels: (N, H, W) grey.
        labels: (N,).
    """
    count = len(labels)
    return Examples(
        corpus=corpus,
        names=names,
        arrays={"face": pixels},
        labels=labels,
        subjects=(None,) * count,
        sequences=tuple(f"{part}-{i}" for i in range(count)),
        splits=(part,) * count,
        originals=np.ones(count, bool),
    )
