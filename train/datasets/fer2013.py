"""FER2013 (Goodfellow et al. 2013): 48x48 grey faces from the web, seven classes, no subject ids.

Read from the npz form: ``train.npz`` (Training, 28,709) and ``public_test.npz`` (PublicTest, 3,589), each with ``x``
uint8 (N, 48, 48) and ``y`` 0..6. PrivateTest (``private_test.npz``, 3,589) is read when it is named, never by default.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from train.datasets.pictures import CorpusError, Pictures

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
PARTS = {"train": "train.npz", "test": "public_test.npz"}


def load(path: Path, part: str = "train") -> Pictures:
    """Load one part.

    Args:
        path: the folder that holds the parts, or one npz file (then ``part`` only names it).
        part: ``train`` or ``test``.

    Raises:
        CorpusError: no such file, or not FER2013's arrays.
    """
    file = path if path.is_file() else path / PARTS[part]
    try:
        with np.load(file, allow_pickle=False) as stored:
            pixels, labels = stored["x"], stored["y"]
    except FileNotFoundError as error:
        raise CorpusError(f"{file}: no such file; expected FER2013's {PARTS[part]} there (--data FOLDER)") from error
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{file}: not FER2013 as npz (arrays x and y): {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise CorpusError(f"{file}: expected x uint8 (N, 48, 48) and y (N,), got {pixels.shape} and {labels.shape}")
    if len(labels) == 0:
        raise CorpusError(f"{file}: holds no pictures")
    if labels.max() >= len(NAMES):
        raise CorpusError(f"{file}: label code {labels.max()}; FER2013 has 0..6, unknown codes are refused")
    return Pictures("fer2013", part, NAMES, pixels, labels.astype(np.int64))
