"""Corpora as they lie on disk: one file each, one table here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from train.datasets import fer2013
from train.datasets.pictures import CorpusError, Pictures

CORPORA: dict[str, Callable[[Path, str], Pictures]] = {"fer2013": fer2013.load}
"""Corpus name to ``load(path, part)``; parts are ``train`` and ``test``."""

__all__ = ["CORPORA", "CorpusError", "Pictures"]
