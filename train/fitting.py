"""Train on one part, predict on another: what cross-validation asks of a network, in a form that can be sent away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax

from train.checkpoint import Checkpoint, load
from train.examples import Examples
from train.loop import Settings, train
from train.models.family import Family
from train.recipe import Recipe
from train.stages import predict as logits_of


@dataclass(frozen=True)
class Fit:
    """Trains a fold in its folder; a fold that was stopped goes on from its last checkpoint."""

    settings: Settings = field(default_factory=Settings)
    threads: int | None = None
    """CPU threads; None leaves them as they are."""
    report: Callable[[dict[str, Any]], None] | None = None
    """Told each epoch's figures; None where the fold is computed elsewhere."""

    def __call__(self, family: Family, config: Any, recipe: Recipe, examples: Examples, out: Path) -> Path:
        """The place of the fold's checkpoint."""
        if self.threads:
            torch.set_num_threads(self.threads)
        report = self.report
        told = None if report is None else lambda entry: report({"fold": out.name, **entry})
        train(family, config, recipe, examples, out, replace(self.settings, resume=True), told)
        # What resuming needed is of no more use, and of the largest networks it is gigabytes a fold.
        (out / "last.pt").unlink(missing_ok=True)
        return out / "best.pt"


def predict(fitted: Path, examples: Examples) -> npt.NDArray[np.float32]:
    """Calibrated probabilities (N, K) of a fold's network."""
    checkpoint: Checkpoint = load(fitted)
    logits = logits_of(checkpoint.network(), examples, checkpoint.inputs)
    return np.asarray(softmax(logits / checkpoint.temperature, axis=1), np.float32)
