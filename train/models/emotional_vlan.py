"""Thirty AlexNet streams and the EmotionalVlan aggregation layer (Pan, Guo, Guo, Li, Xu, Wu 2019).

Input: the T = L - 1 = 15 face crops (N, 15, 3, 227, 227) and the 15 flow images (N, 15, 3, 227, 227) of a segment,
float32, normalised as AlexNet's weights want; output (N, classes) logits.

    spatial    15 crops       | AlexNet to fc7, 4096 each: x_s,i
    temporal   15 flow images | AlexNet to fc7, 4096 each: x_t,i
    fc8        EmotionalVlan: V[k] = sum over i of exp(a_k) (x_s,i + x_t,i), equation (1): 4096
    fc9        fully connected | C

On a robot the features of a frame are computed once: ``encode_frame`` and ``encode_flow`` fill two rings of the last
15, ``head`` reads them. Both together are ``forward``, to rounding. Unshared streams have no such form: a frame changes
its stream as the window slides.

Departures and open points of the paper:
- Its widths of V contradict each other. ``keep`` names all three: "sum" is equation (1), 4096; "frames" leaves out the
  sum over time, 4096 x 15 = 61440 (below equation (1)); "streams" also leaves out the sum over the two modalities,
  4096 x 30 = 122880 (below equation (3)).
- "30 individual CNN streams", each fine-tuned "respectively": whether the 15 of a modality share weights is not said.
  Here they do (57 M parameters a modality); ``shared = False`` gives each its own (855 M a modality).
- AlexNet is the one-column form, see trunks.py; its own dropouts stand before fc6 and fc7. "In the case of fc6, fc7
  will be dropped, and in case of fc7, fc6 will be dropped" is read as dropout on the layer that is aggregated, on top.
- In the non-trained schema a_k stays 0, the streams stay as they were fine-tuned and without dropout, and fc9 is the
  logistic regression. a_k starts at 0 in the trained one.
- For the flow image's third channel (magnitude) and the choice of the 15 crops among 16, see the preprocessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.bundle import InputSpec
from train.models.family import segment_inputs
from train.models.trunks import AlexNet, scaled

STREAMS = ("both", "spatial", "temporal")
LAYERS = ("fc7", "fc6")
AGGREGATIONS = ("trained", "fixed")
KEEPS = ("sum", "frames", "streams")


@dataclass(frozen=True)
class Config:
    """The rows of Tables 1 to 3 and of Figure 9 by flag; ``width`` shrinks every layer for tests, 1 is the paper's."""

    classes: int = 6
    streams: str = "both"
    """One of ``STREAMS`` (Table 3)."""
    layer: str = "fc7"
    """One of ``LAYERS``: what is aggregated (Table 2)."""
    aggregation: str = "trained"
    """One of ``AGGREGATIONS`` (Table 1)."""
    keep: str = "sum"
    """One of ``KEEPS``: which sums of equation (1) are taken; see the departures."""
    shared: bool = True
    """One network for all frames of a modality."""
    length: int = 16
    """L, frames of a segment, 2 to 20 (Figure 9); a segment has L - 1 crops and flow images."""
    dropout: float = 0.5
    width: float = 1.0
    """Multiplies every number of channels and of units; published weights fit at 1 only."""


class EmotionalVlan(nn.Module):
    """The aggregation layer, equation (1): one gain exp(a_k) a cell, kept positive by the exponential."""

    a: Tensor

    def __init__(self, cells: int, *, trained: bool = True, keep: str = "sum") -> None:
        super().__init__()
        self.keep = keep
        if trained:
            self.a = nn.Parameter(torch.zeros(cells))
        else:
            self.register_buffer("a", torch.zeros(cells))

    def forward(self, streams: Tensor) -> Tensor:
        """(N, modalities, T, cells) float32 -> (N, cells), (N, T * cells) or (N, modalities * T * cells)."""
        gained = torch.exp(self.a) * streams
        if self.keep == "sum":
            return gained.sum(dim=(1, 2))
        return (gained.sum(dim=1) if self.keep == "frames" else gained).flatten(1)


class VlanNetwork(nn.Module):
    """The whole network. A modality that is not used is not built."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        for value, allowed, what in (
            (config.streams, STREAMS, "streams"),
            (config.layer, LAYERS, "layer"),
            (config.aggregation, AGGREGATIONS, "aggregation"),
            (config.keep, KEEPS, "keep"),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}; expected one of {', '.join(allowed)}")
        if not 2 <= config.length <= 20:
            raise ValueError(f"length must be 2 to 20 frames, got {config.length}")
        self.config = config
        self.frames = config.length - 1
        copies = 1 if config.shared else self.frames
        # One network in each list where the streams share it; load published weights into every one of them.
        self.spatial = nn.ModuleList(self._stream() for _ in range(copies) if config.streams != "temporal")
        self.temporal = nn.ModuleList(self._stream() for _ in range(copies) if config.streams != "spatial")
        cells = scaled(4096, config.width)
        modalities = 2 if config.streams == "both" else 1
        self.dropout = nn.Dropout(config.dropout)
        self.vlan = EmotionalVlan(cells, trained=config.aggregation == "trained", keep=config.keep)
        kept = {"sum": 1, "frames": self.frames, "streams": modalities * self.frames}[config.keep]
        self.logits = nn.Linear(kept * cells, config.classes)
        if config.aggregation == "fixed":
            self.spatial.requires_grad_(False)
            self.temporal.requires_grad_(False)

    def _stream(self) -> AlexNet:
        return AlexNet(until=self.config.layer, width=self.config.width, dropout=self.config.dropout)

    def train(self, mode: bool = True) -> VlanNetwork:
        """As ever, but in the non-trained schema nothing before fc9 is in training: no dropout either."""
        super().train(mode)
        if self.config.aggregation == "fixed":
            for module in (self.spatial, self.temporal, self.dropout):
                module.eval()
        return self

    def encode_frame(self, frame: Tensor) -> Tensor:
        """fc7 (or fc6) of face crops, computed once per frame: (N, 3, 227, 227) float32 -> (N, 4096), >= 0.

        Raises:
            ValueError: the spatial streams are unshared or not built.
        """
        return self._shared(self.spatial, "spatial").describe(frame)

    def encode_flow(self, flow: Tensor) -> Tensor:
        """fc7 (or fc6) of flow images, computed once per flow: (N, 3, 227, 227) float32 -> (N, 4096), >= 0.

        Raises:
            ValueError: the temporal streams are unshared or not built.
        """
        return self._shared(self.temporal, "temporal").describe(flow)

    def _shared(self, streams: nn.ModuleList, what: str) -> AlexNet:
        if len(streams) == 0:
            raise ValueError(f"this network has no {what} stream; build it with streams 'both' or {what!r}")
        if not self.config.shared:
            raise ValueError("unshared streams have no per-frame features; build the network with shared streams")
        stream = streams[0]
        assert isinstance(stream, AlexNet)
        return stream

    def head(self, spatial: Tensor | None, temporal: Tensor | None) -> Tensor:
        """Aggregation and classifier: twice (N, 15, 4096), None for a modality not used -> (N, classes) logits."""
        streams = torch.stack([ring for ring in (spatial, temporal) if ring is not None], dim=1)
        logits: Tensor = self.logits(self.vlan(self.dropout(streams)))
        return logits

    def forward(self, frames: Tensor | None = None, flows: Tensor | None = None) -> Tensor:
        """A segment's crops and flow images, each (N, 15, 3, 227, 227) float32 -> (N, classes) logits.

        Raises:
            ValueError: an input that a modality needs is missing, or holds another number of frames.
        """
        return self.head(self._encode(self.spatial, frames), self._encode(self.temporal, flows))

    def _encode(self, streams: nn.ModuleList, images: Tensor | None) -> Tensor | None:
        if len(streams) == 0:
            return None
        if images is None or images.shape[1] != self.frames:
            given = "none" if images is None else str(images.shape[1])
            raise ValueError(f"expected {self.frames} images a segment for each modality, got {given}")
        if len(streams) == 1:
            described: Tensor = streams[0](images.flatten(0, 1))
            return described.reshape(*images.shape[:2], -1)
        return torch.stack([stream(images[:, i]) for i, stream in enumerate(streams)], dim=1)


def build(config: Config) -> VlanNetwork:
    """The network of a configuration. Raises ValueError where a value is unknown."""
    return VlanNetwork(config)


def inputs(config: Config) -> tuple[InputSpec, ...]:
    """What the network eats: a segment's crops, its flow images, or both, as the choice of streams asks."""
    return segment_inputs(config.length - 1, crops=config.streams != "temporal", motion=config.streams != "spatial")
