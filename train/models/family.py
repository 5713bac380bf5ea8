"""What the rest of ``train`` and ``export`` need to know of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from edge.bundle import Alignment, InputSpec, Normalisation
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
    interval_ms: float = 0.0
    """On the robot, milliseconds from a window's frame to its next; a frame that comes sooner is left out."""

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


def segment_inputs(count: int, *, crops: bool, motion: bool) -> tuple[InputSpec, ...]:
    """A segment's face crops and its flow images, each 227x227 in three channels (Zhang et al. 2019, Pan et al. 2019).

    The papers cut 150x110 pixels where the eyes are 55 apart and stretch that to 227x227; here the crop is square and
    the face keeps its proportions. Crops are normalised as torchvision's ImageNet weights expect; flow images, 128
    where nothing moves, to -1..1.

    Args:
        count: crops, and flow images, of a segment.
        crops: whether crops are wanted.
        motion: whether flow images are.
    """
    shape, alignment = (1, count, 3, 227, 227), Alignment(left_eye=(0.28, 0.35), right_eye=(0.72, 0.35))
    colours = Normalisation("fixed", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    flows = Normalisation("fixed", mean=(128.0, 128.0, 128.0), std=(128.0, 128.0, 128.0))
    clip = InputSpec("clip", "clip", shape, "float32", "rgb", "area", colours, alignment)
    flow = InputSpec("flow", "flow", shape, "float32", "rgb", "area", flows, alignment)
    return tuple(spec for spec, wanted in ((clip, crops), (flow, motion)) if wanted)
