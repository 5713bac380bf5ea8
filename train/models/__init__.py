"""The families that can be trained: one file each, one table here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edge.bundle import InputSpec
from train.models import cspp
from train.recipe import Recipe


@dataclass(frozen=True)
class Family:
    """What the rest of ``train`` and ``export`` need to know of a network."""

    name: str
    paper: str
    config: type[Any]
    """A frozen dataclass; every field has a default and is a plain value."""
    build: Callable[[Any], nn.Module]
    inputs: Callable[[], tuple[InputSpec, ...]]
    recipes: Mapping[str, Recipe]
    """How to train it; ``paper`` is the paper's own."""


FAMILIES: dict[str, Family] = {
    "cspp": Family(
        name="cspp",
        paper="Li et al. 2019, Facial Expression Recognition Based on Cross-Connection and Spatial Pyramid Pooling",
        config=cspp.Config,
        build=cspp.CSPP,
        inputs=cspp.inputs,
        recipes={
            "paper": Recipe(
                optimizer="sgd", learning_rate=0.0009, momentum=0.9, batch=128, epochs=50, label_smoothing=0.1
            ),
            "fer2013": Recipe(
                optimizer="adamw",
                learning_rate=0.003,
                weight_decay=0.05,
                schedule="one_cycle",
                batch=128,
                epochs=50,
                label_smoothing=0.1,
                average=0.998,
                rotation=15.0,
                scale=0.12,
                shift=0.06,
                mirror=True,
                gamma=0.4,
                erase=0.3,
            ),
        },
    )
}
