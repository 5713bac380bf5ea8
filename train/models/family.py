"""What the rest of ``train`` and ``export`` need to know of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edge.bundle import InputSpec
from train.recipe import Recipe


@dataclass(frozen=True)
class Window:
    """How a sequence of frames becomes examples."""

    length: int
    """Frames an example sees. 1 for a single face."""
    stride: int = 0
    """Frames from one example's start to the next one's; 0 gives one example a sequence."""
    flows: bool = False
    """Whether motion is wanted: ``length`` frames then give ``length - 1`` crops (the first one dropped) and as many
    flow images."""

    @property
    def uniform(self) -> bool:
        """One example a sequence, its frames spread evenly over it, first and last kept."""
        return self.length > 1 and self.stride == 0


@dataclass(frozen=True)
class Family:
    """One published system."""

    name: str
    key: str
    """The paper's, as in ``python -m train paper KEY``."""
    paper: str
    config: type[Any]
    """A frozen dataclass; every field has a default and is a plain value. It has a field ``classes``."""
    build: Callable[[Any], nn.Module]
    inputs: Callable[[Any], tuple[InputSpec, ...]]
    """What a configuration eats, in the order of ``forward``'s arguments."""
    window: Callable[[Any], Window]
    """What an example of that configuration is."""
    recipes: Mapping[str, Recipe]
    """How to train it; ``paper`` is the paper's own."""
