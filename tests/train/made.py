"""Made-up examples of people who show expressions, for tests of protocols and of what comes after them."""

import numpy as np

from train.examples import Examples

NAMES = ("angry", "happy", "sad")


def made(
    subjects: int = 8,
    each: int = 6,
    *,
    corpus: str = "made",
    names: tuple[str, ...] = NAMES,
    copies: int = 0,
    frames: int = 1,
    known: bool = True,
    split: bool = False,
    contrast: float = 18.0,
    seed: int = 0,
    synthetic: bool = True,
) -> Examples:
    """Each subject's ``each`` sequences of ``frames`` examples; every example has ``copies`` disturbed copies.

    A class is a bright quarter of a 16x16 face, under the subject's own texture and noise.
    """
    rng = np.random.default_rng([seed, sum(corpus.encode())])
    faces, labels, whose, sequences, splits, originals = [], [], [], [], [], []
    for subject in range(subjects):
        texture = rng.integers(0, 60, (16, 16))
        for number in range(each):
            label = (number + subject) % len(names)
            for _ in range(frames):
                face = texture + rng.normal(80, 40, (16, 16))
                y, x = divmod(label, 2)
                face[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] += contrast
                for copy in range(1 + copies):
                    faces.append((face + rng.normal(0, 20 * (copy > 0), (16, 16))).clip(0, 255).astype(np.uint8))
                    labels.append(label)
                    whose.append(f"S{subject:03d}" if known else None)
                    sequences.append(f"S{subject:03d}_{number:03d}")
                    splits.append(("train", "val")[subject % 4 == 3] if split else None)
                    originals.append(copy == 0)
    return Examples(
        corpus=corpus,
        names=names,
        arrays={"face": np.array(faces)},
        labels=np.array(labels, np.int64),
        subjects=tuple(whose),
        sequences=tuple(sequences),
        splits=tuple(splits),
        originals=np.array(originals),
        synthetic=synthetic,
    )
