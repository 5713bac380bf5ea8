"""C-SPP: cross-connection and spatial pyramid pooling (Li, Song, Zhao 2019): a ladder of four networks, and a residual.

Input (N, 1, 48, 48) float32; output (N, classes) logits. "32 3x3" is a same-size convolution with ReLU.

    baseline   32 5x5 | pool | 64 7x7 | pool | fc 256 | fc K
    plain7     32 3x3, 32 3x3 | pool | 64 3x3, 64 5x5 | pool | 128 3x3, 128 3x3 | pool | fc 256 | fc K
    plain8     32 3x3, 32 3x3 | pool | 64 3x3 x 3     | pool | 128 3x3, 128 3x3 | pool | fc 256 | fc K
    cspp       plain7's convolutions; SPP(3, 2, 1) of the last one's output (12x12x128 -> 14 * 128 = 1792) beside
               SPP(3, 2, 1) of the second block's output (24x24x64 -> 14 * 64 = 896): 2688 | fc 256 | fc K
    residual   32 3x3 | 64 3x3 /2 | residual 64, 64 | residual 128 /2, 128 | residual 256 /2; SPP(3, 2, 1) of the last
               one's output (6x6x256 -> 3584) beside that of the block before (12x12x128 -> 1792): 5376 | fc 64 | fc K

    shape      48x48 -> 24x24 after the first pool -> 12x12 after the second -> 6x6 after the third

Departures from the paper:
- Figure 6 pools the last map to 6x6 before its SPP. All bins (2x2, 3x3, 6x6 of it) have borders that the pool keeps,
  so pooling 12x12 directly gives the same numbers, and the pool is left out.
- ``batch_norm`` (off by default, as in the paper) puts batch normalisation after each convolution. The paper's six
  posed sets hold hundreds of pictures; on FER2013's 28,709 it trains several times faster. The shipped bundle uses it.
- The paper's "label smoothing factor 0.9" is the weight of the true class, so smoothing is 0.1 spread over the rest.
- Seven classes where the corpus has neutral; the paper's tables use six.
- ``residual`` is not the paper's. It is the same idea, two pyramids of two scales, on a trunk that FER2013's noisy
  labels want: residual blocks (He et al. 2016, figure 5 left), halved by stride where the ladder pools, always with
  batch normalisation. 1.96 M parameters, 213 M multiplications a face with the 64 hidden units of its recipe. After two
  epochs it is where a plain trunk of nine convolutions was after eight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.bundle import Alignment, InputSpec, Normalisation
from train.models.blocks import Residual, SpatialPyramidPooling, convolution

VARIANTS = ("baseline", "plain7", "plain8", "cspp", "residual")

# (filters, kernel) of the convolutions between two pools, figures 2, 3 and 6.
_BLOCKS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "baseline": (((32, 5),), ((64, 7),)),
    "plain7": (((32, 3), (32, 3)), ((64, 3), (64, 5)), ((128, 3), (128, 3))),
    "plain8": (((32, 3), (32, 3)), ((64, 3), (64, 3), (64, 3)), ((128, 3), (128, 3))),
    "cspp": (((32, 3), (32, 3)), ((64, 3), (64, 5)), ((128, 3), (128, 3))),
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
    width: int = 1
    """Multiplies the filters of ``residual``; a wider one teaches, it does not ship."""


class CSPP(nn.Module):
    """One network of the ladder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.variant not in VARIANTS:
            raise ValueError(f"unknown C-SPP variant {config.variant!r}; expected one of {', '.join(VARIANTS)}")
        self.config = config
        if config.width < 1 or (config.width > 1 and config.variant != "residual"):
            raise ValueError(f"width {config.width} of {config.variant}; expected 1, or more with residual")
        self.blocks = _residual(config.width) if config.variant == "residual" else _ladder(config)
        # The residual trunk halves by stride.
        self.pool = nn.Identity() if config.variant == "residual" else nn.MaxPool2d(2)
        self.pyramid = SpatialPyramidPooling((3, 2, 1))
        features = {"cspp": 14 * (128 + 64), "residual": 14 * (256 + 128) * config.width}.get(config.variant)
        if features is None:
            # No pyramid: the last map, pooled once more, as it lies.
            side = 48 >> len(self.blocks)
            features = side * side * _BLOCKS[config.variant][-1][-1][0]
        # Its pyramids feed few hidden units, and learn FER2013 by heart unless they are dropped too.
        self.dropped = nn.Dropout(config.dropout) if config.variant == "residual" else nn.Identity()
        self.hidden: nn.Module = nn.Linear(features, config.hidden)
        if config.variant == "residual":
            # Maxima of normalised maps lie well above zero: without this the first epochs teach it nothing.
            self.hidden = nn.Sequential(nn.Linear(features, config.hidden, bias=False), nn.BatchNorm1d(config.hidden))
        self.dropout = nn.Dropout(config.dropout)
        self.logits = nn.Linear(config.hidden, config.classes)

    def forward(self, face: Tensor) -> Tensor:
        """(N, 1, 48, 48) float32 -> (N, classes) logits."""
        if self.config.variant in ("cspp", "residual"):
            before = last = self.blocks[0](face)
            for block in self.blocks[1:]:
                before, last = last, block(self.pool(last))
            features = self.dropped(torch.cat([self.pyramid(last), self.pyramid(before)], dim=1))
        else:
            features = face
            for block in self.blocks:
                features = self.pool(block(features))
            features = features.flatten(1)
        return self.logits(self.dropout(torch.relu(self.hidden(features))))


def _ladder(config: Config) -> nn.ModuleList:
    channels, blocks = 1, []
    for block in _BLOCKS[config.variant]:
        layers = []
        for filters, kernel in block:
            layers.append(convolution(channels, filters, kernel, batch_norm=config.batch_norm))
            channels = filters
        blocks.append(nn.Sequential(*layers))
    return nn.ModuleList(blocks)


def _residual(width: int) -> nn.ModuleList:
    """(N, 1, 48, 48) -> (N, 64, 24, 24) -> (N, 128, 12, 12) -> (N, 256, 6, 6), channels times ``width``."""
    stem, one, two, three = (width * filters for filters in (32, 64, 128, 256))
    first = [convolution(1, stem, 3, batch_norm=True), convolution(stem, one, 3, batch_norm=True, stride=2)]
    return nn.ModuleList(
        [
            nn.Sequential(*first, Residual(one, one), Residual(one, one)),
            nn.Sequential(Residual(one, two, stride=2), Residual(two, two)),
            Residual(two, three, stride=2),
        ]
    )


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
