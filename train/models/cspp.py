"""C-SPP: cross-connection and spatial pyramid pooling (Li, Song, Zhao 2019): a ladder of four networks, and a deeper.

Input (N, 1, 48, 48) float32; output (N, classes) logits. "32 3x3" is a same-size convolution with ReLU.

    baseline   32 5x5 | pool | 64 7x7 | pool | fc 256 | fc K
    plain7     32 3x3, 32 3x3 | pool | 64 3x3, 64 5x5 | pool | 128 3x3, 128 3x3 | pool | fc 256 | fc K
    plain8     32 3x3, 32 3x3 | pool | 64 3x3 x 3     | pool | 128 3x3, 128 3x3 | pool | fc 256 | fc K
    cspp       plain7's convolutions; SPP(3, 2, 1) of the last one's output (12x12x128 -> 14 * 128 = 1792) beside
               SPP(3, 2, 1) of the second block's output (24x24x64 -> 14 * 64 = 896): 2688 | fc 256 | fc K
    deep       32 3x3 x 2 | pool | 64 3x3 x 2 | pool | 128 3x3 x 3 | pool | 256 3x3 x 2; SPP(3, 2, 1) of the last one's
               output (6x6x256 -> 3584) beside that of the third block's (12x12x128 -> 1792): 5376 | fc 256 | fc K

    shape      48x48 -> 24x24 after the first pool -> 12x12 after the second -> 6x6 after the third

Departures from the paper:
- Figure 6 pools the last map to 6x6 before its SPP. All bins (2x2, 3x3, 6x6 of it) have borders that the pool keeps,
  so pooling 12x12 directly gives the same numbers, and the pool is left out.
- ``batch_norm`` (off by default, as in the paper) puts batch normalisation after each convolution. The paper's six
  posed sets hold hundreds of pictures; on FER2013's 28,709 it trains several times faster. The shipped bundle uses it.
- The paper's "label smoothing factor 0.9" is the weight of the true class, so smoothing is 0.1 spread over the rest.
- Seven classes where the corpus has neutral; the paper's tables use six.
- ``deep`` is not the paper's. It is the same idea on a longer trunk, as FER2013 wants one: nine convolutions of the
  kind that Pramerdorfer and Kampel 2016 found best there (VGG, 72.7 % at 1.8 M parameters), with the two pyramids in
  place of a flattened map. It needs ``batch_norm`` to train; with ``hidden`` 96 it
  has 1.84 M parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.bundle import Alignment, InputSpec, Normalisation
from train.models.blocks import SpatialPyramidPooling, convolution

VARIANTS = ("baseline", "plain7", "plain8", "cspp", "deep")

_CROSSED = ("cspp", "deep")
"""Those whose last block's output and the one before it are both pooled into a pyramid."""

# (filters, kernel) of the convolutions between two pools, figures 2, 3 and 6.
_BLOCKS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "baseline": (((32, 5),), ((64, 7),)),
    "plain7": (((32, 3), (32, 3)), ((64, 3), (64, 5)), ((128, 3), (128, 3))),
    "plain8": (((32, 3), (32, 3)), ((64, 3), (64, 3), (64, 3)), ((128, 3), (128, 3))),
    "cspp": (((32, 3), (32, 3)), ((64, 3), (64, 5)), ((128, 3), (128, 3))),
    "deep": (((32, 3),) * 2, ((64, 3),) * 2, ((128, 3),) * 3, ((256, 3),) * 2),
}


@dataclass(frozen=True)
class Config:
    """Which rung of the ladder, and its few knobs."""

    variant: str = "cspp"
    """One of ``VARIANTS``."""
    classes: int = 7
    hidden: int = 256
    """Units of the first fully connected layer."""
    dropout: float = 0.5
    """Probability of dropping a hidden unit (table 2)."""
    batch_norm: bool = False
    """See the departures."""


class CSPP(nn.Module):
    """One network of the ladder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.variant not in VARIANTS:
            raise ValueError(f"unknown C-SPP variant {config.variant!r}; expected one of {', '.join(VARIANTS)}")
        self.config = config
        channels, blocks = 1, []
        for block in _BLOCKS[config.variant]:
            layers = []
            for filters, kernel in block:
                layers.append(convolution(channels, filters, kernel, batch_norm=config.batch_norm))
                channels = filters
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2)
        self.pyramid = SpatialPyramidPooling((3, 2, 1))
        if config.variant in _CROSSED:
            before = _BLOCKS[config.variant][-2][-1][0]
            features = 14 * (channels + before)
        else:
            side = 48 >> len(blocks)
            features = side * side * channels
        self.hidden = nn.Linear(features, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.logits = nn.Linear(config.hidden, config.classes)

    def forward(self, face: Tensor) -> Tensor:
        """(N, 1, 48, 48) float32 -> (N, classes) logits."""
        if self.config.variant in _CROSSED:
            before = last = self.blocks[0](face)
            for block in self.blocks[1:]:
                before, last = last, block(self.pool(last))
            features = torch.cat([self.pyramid(last), self.pyramid(before)], dim=1)
        else:
            features = face
            for block in self.blocks:
                features = self.pool(block(features))
            features = features.flatten(1)
        return self.logits(self.dropout(torch.relu(self.hidden(features))))


def inputs(config: Config) -> tuple[InputSpec, ...]:
    """What the network eats: a grey face, 48x48, upright, intensity-normalised (sections 4.1 and 4.2).

    The eyes' places are their medians over the 1,885 of 2,500 FER2013 training pictures, drawn at random, in which the
    frontal detector finds one face: a crop at run time then shows as much of the head as FER2013's own pictures do.
    """
    return (
        InputSpec(
            name="face",
            kind="face",
            shape=(1, 1, 48, 48),
            dtype="float32",
            colour="grey",
            interpolation="area",
            normalisation=Normalisation("per_image", min_std=8.0),
            alignment=Alignment(left_eye=(0.316, 0.398), right_eye=(0.684, 0.398)),
        ),
    )
