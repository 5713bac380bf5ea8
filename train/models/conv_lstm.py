"""3DCNN-ConvLSTM (Saurav, Saini, Kumar, Singh 2020): three 3-D convolutions, then a convolutional LSTM.

Input (N, 8, 1, 64, 64) float32 (batch, time, channel, height, width); output (N, classes) logits. Shapes are time x
height x width x channels; every convolution is followed by a ReLU but those of the ConvLSTM.

    3-D path     8x64x64x1 | 16 2x3x3: 7x64x64x16 | pool 1x2x2: 7x32x32x16 | 32 2x3x3: 6x32x32x32
                 64 2x3x3: 5x32x32x64 | pool 1x2x2: 5x16x16x64
    ConvLSTM     input-to-state 3x3, all gates and steps at once: 5x16x16x(4 x 16)
                 state-to-state 3x3 over 5 steps, equations (1)-(6): the last H, 16x16x16 = 4096 | fc K

    AFEW form    each of the frames that end the 5 steps: 64x64x1 | 32 3x3, 32 3x3 | pool | 64 3x3, 64 3x3 | pool
                 16x16x64 | a second ConvLSTM: 16x16x16, added to the first one's | fc K

Time. No convolution pads in time and none strides, so the features of a step depend on that step's frames alone,
wherever it stands in the window; a window that slides keeps all but its newest. With a kernel of k frames the window
of 8 becomes 8 - 3 (k - 1) steps: 8 for k = 1 (which is no 3-D convolution), 5 for k = 2, and 2 for k = 3, which would
leave the recurrence nothing to remember. The default is 2: a step sees 4 frames, the recurrence 5 steps. ``encode`` of
the newest ``receptive`` frames, input-to-state convolution included, is one entry of the ring; ``head`` of the last
``steps`` entries is the answer. Both together are ``forward``, to rounding.

Departures and open points of the paper:
- Printed nowhere, chosen here: filters (16, 32, 64), kernels (3x3 in space), and where the first pool stands. The text
  says one pool and later "the second max-pool": two, and neither pools time.
- The paper does not print how it pads. In space the convolutions keep their size.
- State-to-state convolutions keep their size and have no bias of their own; the initial states are zero. The forget
  gate's bias starts at 1, which is the default of the layer in the framework that the authors used.
- AFEW's "custom CNN trained on FER2013" is not described: :class:`FaceCNN`, trained alone and then frozen. It reads
  the last 5 of the 8 frames, so that both paths have one entry a step and fit one ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from edge.bundle import Alignment, InputSpec, Normalisation
from train.models.blocks import convolution


@dataclass(frozen=True)
class Config:
    """The network's few knobs. ``filters`` and ``units`` shrink it for tests; the defaults are the paper's size."""

    classes: int = 7
    frames: int = 8
    """Frames of a window."""
    temporal: int = 2
    """Frames under each 3-D kernel; see "Time"."""
    filters: int = 16
    """Of the first 3-D convolution; the others have two and four times as many."""
    units: int = 16
    """Channels of the ConvLSTM's state."""
    two_path: bool = False
    """The AFEW form: add a ConvLSTM over the features of a CNN that was trained on single faces."""
    freeze_face: bool = True
    """In the AFEW form, leave that CNN as it was trained."""
    side: int = 64
    """Height and width of a frame, a multiple of 4."""


class ConvLSTM(nn.Module):
    """Convolutional LSTM without peepholes, equations (1)-(6), run over the input's part of its gates.

    Gates stand in the equations' order along the channels: forget F, input I, modulation G, output O, ``units`` each.
    """

    def __init__(self, inputs: int, units: int, kernel: int = 3) -> None:
        super().__init__()
        self.units = units
        self.input_to_state = nn.Conv2d(inputs, 4 * units, kernel, padding=kernel // 2)
        self.state_to_state = nn.Conv2d(units, 4 * units, kernel, padding=kernel // 2, bias=False)
        with torch.no_grad():
            self.input_to_state.bias[:units] = 1.0  # type: ignore[index]  # remember at first, learn to forget

    def gates(self, features: Tensor) -> Tensor:
        """W^x * X^t + b of all four gates: (N, T, inputs, H, W) -> (N, T, 4 * units, H, W), one convolution."""
        folded: Tensor = self.input_to_state(features.flatten(0, 1))
        return folded.reshape(*features.shape[:2], *folded.shape[1:])

    def forward(self, gates: Tensor) -> Tensor:
        """The recurrence: (N, T, 4 * units, H, W) from :meth:`gates` -> the last H, (N, units, H, W) in -1..1."""
        hidden = gates.new_zeros(gates.shape[0], self.units, *gates.shape[3:])
        cell = hidden
        for step in range(gates.shape[1]):
            # On the first step H is zero and so is its convolution.
            whole = gates[:, step] + self.state_to_state(hidden) if step else gates[:, step]
            forget, write, modulation, output = whole.chunk(4, dim=1)
            cell = cell * torch.sigmoid(forget) + torch.tanh(modulation) * torch.sigmoid(write)  # (1)-(4)
            hidden = torch.tanh(cell) * torch.sigmoid(output)  # (5), (6)
        return hidden


class FaceCNN(nn.Module):
    """The single-face CNN of the AFEW form, with a classifier of its own so that it can be trained on FER2013 first."""

    def __init__(self, classes: int, filters: int) -> None:
        super().__init__()
        narrow, wide = 2 * filters, 4 * filters
        self.blocks = nn.Sequential(
            convolution(1, narrow, 3, batch_norm=True),
            convolution(narrow, narrow, 3, batch_norm=True),
            nn.MaxPool2d(2),
            convolution(narrow, wide, 3, batch_norm=True),
            convolution(wide, wide, 3, batch_norm=True),
            nn.MaxPool2d(2),
        )
        self.logits = nn.Linear(wide, classes)

    def maps(self, face: Tensor) -> Tensor:
        """(N, 1, 64, 64) float32 -> (N, 64, 16, 16), >= 0: what the ConvLSTM reads."""
        maps: Tensor = self.blocks(face)
        return maps

    def forward(self, face: Tensor) -> Tensor:
        """(N, 1, 64, 64) float32 -> (N, classes) logits, for the training on single faces."""
        logits: Tensor = self.logits(self.maps(face).mean(dim=(2, 3)))
        return logits


class ConvLSTMNetwork(nn.Module):
    """The whole network, in either form."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.side < 4 or config.side % 4:
            raise ValueError(f"side must be a positive multiple of 4, got {config.side}")
        self.config = config
        self.receptive = 1 + 3 * (config.temporal - 1)
        self.steps = config.frames - self.receptive + 1
        if config.temporal < 1 or self.steps < 1:
            raise ValueError(
                f"{config.frames} frames can't pass three kernels of {config.temporal} frames; "
                f"expected frames >= {self.receptive}, temporal >= 1"
            )
        widths = (1, config.filters, 2 * config.filters, 4 * config.filters)
        self.convolutions = nn.ModuleList(
            nn.Conv3d(inputs, outputs, (config.temporal, 3, 3), padding=(0, 1, 1))
            for inputs, outputs in pairwise(widths)
        )
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.recurrence = ConvLSTM(widths[-1], config.units)
        if config.two_path:
            self.face = FaceCNN(config.classes, config.filters)
            self.face_recurrence = ConvLSTM(widths[-1], config.units)
            if config.freeze_face:
                self.face.requires_grad_(False)
        self.logits = nn.Linear(config.units * (config.side // 4) ** 2, config.classes)

    def train(self, mode: bool = True) -> ConvLSTMNetwork:
        """As ever, but a frozen single-face CNN stays in evaluation mode: its batch statistics are frozen too."""
        super().train(mode)
        if self.config.two_path and self.config.freeze_face:
            self.face.eval()
        return self

    def encode(self, frames: Tensor) -> Tensor:
        """All that is computed once per frame: (N, T, 1, 64, 64) -> (N, T - receptive + 1, gates, 16, 16) float32.

        ``gates`` is 4 * units, or twice that in the two-path form. Given the newest ``receptive`` frames it returns
        one entry of the ring, the same numbers as at that place of a whole window.
        """
        first, second, third = self.convolutions
        features = self.pool(torch.relu(first(frames.transpose(1, 2))))
        features = torch.relu(third(torch.relu(second(features))))
        gates = self.recurrence.gates(self.pool(features).transpose(1, 2))
        if not self.config.two_path:
            return gates
        faces = frames[:, self.receptive - 1 :]
        maps = self.face.maps(faces.flatten(0, 1))
        maps = maps.reshape(*faces.shape[:2], *maps.shape[1:])
        return torch.cat([gates, self.face_recurrence.gates(maps)], dim=2)

    def head(self, ring: Tensor) -> Tensor:
        """The recurrence and the classifier: (N, steps, gates, 16, 16) from :meth:`encode` -> (N, classes) logits."""
        if self.config.two_path:
            first, second = ring.chunk(2, dim=2)
            hidden = self.recurrence(first) + self.face_recurrence(second)
        else:
            hidden = self.recurrence(ring)
        logits: Tensor = self.logits(hidden.flatten(1))
        return logits

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 8, 1, 64, 64) float32 -> (N, classes) logits."""
        return self.head(self.encode(frames))


def build(config: Config) -> ConvLSTMNetwork:
    """The network of a configuration. Raises ValueError where its numbers contradict each other."""
    return ConvLSTMNetwork(config)


def inputs(config: Config) -> tuple[InputSpec, ...]:
    """What the network eats: grey faces, upright, 64x64, each with its own intensity normalised.

    The paper aligns by landmarks and crops the face; the eyes stand where they do for C-SPP.
    """
    return (
        InputSpec(
            name="clip",
            kind="clip",
            shape=(1, config.frames, 1, config.side, config.side),
            dtype="float32",
            colour="grey",
            interpolation="area",
            normalisation=Normalisation("per_image", min_std=8.0),
            alignment=Alignment(left_eye=(0.316, 0.398), right_eye=(0.684, 0.398)),
        ),
    )
