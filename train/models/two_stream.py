"""Two-stream VGG16 with a deep belief network and a linear SVM (Zhang, Pan, Cui, Zhao, Liu 2019).

Input: the 15 face crops (N, 15, 3, 227, 227) and the 15 flow images (N, 15, 3, 227, 227) of a segment, float32,
normalised as VGG16's weights want; output (N, classes) logits, or decision values of the SVM.

    spatial    15 crops       | VGG16 to fc7, 4096 each | mean over the 15: 4096
    temporal   15 flow images | VGG16 to fc7, 4096 each | mean over the 15: 4096
    dbn        both side by side: 8192 | RBM 4096 | RBM 2048 | RBM 1024 | softmax C (training), linear SVM C (answer)
    score      each stream's mean | its own fc8 | softmax; the two streams' probabilities averaged

Training goes in the paper's three steps. (1) Each stream alone: ``mode`` spatial or temporal with ``classifier``
softmax, from ImageNet's weights (:func:`~train.models.trunks.load_trunk`), cross-entropy (equations 2 and 3).
(2) ``mode`` dbn: :meth:`TwoStream.take` both streams, :meth:`TwoStream.features` of every segment once, then
``dbn.calibrate``, ``dbn.pretrain`` layer by layer (equation 4) and ``dbn.fine_tuning_loss`` (equation 5).
(3) :meth:`TwoStream.describe` of every segment, :func:`average_segments` over each video, :meth:`TwoStream.fit_svm`.

On a robot the features of a frame are computed once: ``encode_frame`` and ``encode_flow`` fill two rings of the last
15, ``head`` reads them. Both together are ``forward``, to rounding.

Departures and open points of the paper:
- How fifteen frames' fc7 become one feature of a segment is not said: their mean. As fc8 is linear, a stream's logits
  are then the mean of its frames' logits.
- fc7 is taken after its ReLU.
- "Score-level fusion" is not described: the mean of the probabilities, as in the two-stream paper it is compared with
  (Simonyan, Zisserman 2014). It needs no SVM, so ``classifier`` does not count there.
- Whether Table 2's single streams are classified by the softmax or by an SVM is not said: ``classifier`` offers both.
- See dbn.py for the scaling of fc7 into 0..1 and for what fine-tuning minimises.
- The SVM is scikit-learn's: one against the rest, squared hinge, C = 1. The paper names neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from edge.bundle import InputSpec
from train.models.dbn import DBN
from train.models.family import segment_inputs
from train.models.trunks import VGG16, scaled

MODES = ("spatial", "temporal", "score", "dbn")
CLASSIFIERS = ("svm", "softmax")
_DBN_UNITS = (4096, 2048, 1024)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Config:
    """The rows of Tables 1 and 2 by flag; ``width`` shrinks every layer for tests, and 1 is the paper's size."""

    classes: int = 6
    mode: str = "dbn"
    """One of ``MODES`` (Table 2)."""
    depth: int = 3
    """RBMs of the DBN, 1 to 3 (Table 1)."""
    classifier: str = "svm"
    """One of ``CLASSIFIERS``: what answers, but in mode ``score``."""
    frames: int = 15
    """Crops, and flow images, of a segment."""
    dropout: float = 0.5
    """After fc6 and fc7."""
    width: float = 1.0
    """Multiplies every number of channels and of units; published weights fit at 1 only."""


class TwoStream(nn.Module):
    """One mode of the system. A stream that the mode does not use is not built."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        for value, allowed, what in (
            (config.mode, MODES, "mode"),
            (config.classifier, CLASSIFIERS, "classifier"),
            (config.depth, (1, 2, 3), "depth"),
        ):
            if value not in allowed:
                raise ValueError(f"unknown {what} {value!r}; expected one of {', '.join(map(str, allowed))}")
        self.config = config
        until = "fc7" if config.mode == "dbn" else "fc8"
        self.spatial = self._stream(until) if config.mode != "temporal" else None
        self.temporal = self._stream(until) if config.mode != "spatial" else None
        described = scaled(4096, config.width)
        self.dbn: DBN | None = None
        if config.mode == "dbn":
            units = tuple(scaled(count, config.width) for count in _DBN_UNITS[: config.depth])
            self.dbn = DBN((2 * described, *units), config.classes)
            described = units[-1]
        self.svm = (
            nn.Linear(described, config.classes) if config.classifier == "svm" and config.mode != "score" else None
        )

    def _stream(self, until: str) -> VGG16:
        return VGG16(self.config.classes, until=until, width=self.config.width, dropout=self.config.dropout)

    def take(self, *trained: TwoStream) -> None:
        """Copy each stream from the first network in ``trained``, of the same width, that has it (after step 1).

        Raises:
            ValueError: none of them has a stream that this network needs; nothing was copied.
        """
        pairs = []
        for name in ("spatial", "temporal"):
            mine = getattr(self, name)
            theirs = [stream for network in trained if (stream := getattr(network, name)) is not None]
            if mine is not None and not theirs:
                raise ValueError(f"no network with a {name} stream was given; expected one trained in mode {name}")
            if mine is not None:
                pairs.append((mine, theirs[0].state_dict()))
        for mine, weights in pairs:
            mine.load_state_dict({name: weights[name] for name in mine.state_dict()})

    def encode_frame(self, frame: Tensor) -> Tensor:
        """fc7 of face crops, computed once per frame: (N, 3, 227, 227) float32 -> (N, 4096), >= 0."""
        return _present(self.spatial, "spatial stream").describe(frame)

    def encode_flow(self, flow: Tensor) -> Tensor:
        """fc7 of flow images, computed once per flow: (N, 3, 227, 227) float32 -> (N, 4096), >= 0."""
        return _present(self.temporal, "temporal stream").describe(flow)

    def pool(self, spatial: Tensor | None, temporal: Tensor | None) -> Tensor:
        """The mean over a segment's rings, streams side by side: twice (N, 15, 4096) -> (N, 8192), or (N, 4096)."""
        rings = []
        if self.spatial is not None:
            rings.append(_present(spatial, "spatial features").mean(1))
        if self.temporal is not None:
            rings.append(_present(temporal, "temporal features").mean(1))
        return torch.cat(rings, dim=1)

    def features(self, frames: Tensor | None, flows: Tensor | None) -> Tensor:
        """What the DBN learns from: crops and flow images -> (N, 8192), or (N, 4096) of a single stream; >= 0."""
        return self.pool(*self._encode(frames, flows))

    def describe(self, features: Tensor) -> Tensor:
        """What the SVM learns from: the DBN's last hidden layer, or a single stream's own features.

        (N, 8192) from :meth:`features` -> (N, 1024 for DBN-3) in 0..1.
        """
        return features if self.dbn is None else self.dbn.hidden(features)

    def head(self, spatial: Tensor | None, temporal: Tensor | None) -> Tensor:
        """Everything behind the rings: twice (N, 15, 4096) -> (N, classes) logits, or decision values of the SVM."""
        features = self.pool(spatial, temporal)
        if self.svm is not None:
            logits: Tensor = self.svm(self.describe(features))
        elif self.dbn is not None:
            logits = self.dbn(features)
        else:
            streams = [stream for stream in (self.spatial, self.temporal) if stream is not None]
            each = [stream.logits(part) for stream, part in zip(streams, features.chunk(len(streams), 1), strict=True)]
            # The logarithm of the averaged probabilities: a softmax over it gives them back.
            logits = each[0] if len(each) == 1 else torch.stack(each).softmax(2).mean(0).log()
        return logits

    def forward(self, frames: Tensor | None = None, flows: Tensor | None = None) -> Tensor:
        """A segment's crops and flow images, each (N, 15, 3, 227, 227) float32 -> (N, classes).

        Raises:
            ValueError: an input that the mode needs is missing.
        """
        return self.head(*self._encode(frames, flows))

    def _encode(self, frames: Tensor | None, flows: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        spatial = temporal = None
        if self.spatial is not None:
            frames = _present(frames, "face crops")
            spatial = self.encode_frame(frames.flatten(0, 1)).reshape(*frames.shape[:2], -1)
        if self.temporal is not None:
            flows = _present(flows, "flow images")
            temporal = self.encode_flow(flows.flatten(0, 1)).reshape(*flows.shape[:2], -1)
        return spatial, temporal

    def fit_svm(self, described: Tensor, labels: Tensor, cost: float = 1.0) -> None:
        """Fit the linear SVM on videos: (V, D) float32 from :func:`average_segments`, (V,) int64 of every class.

        Raises:
            ValueError: this mode has no SVM, or a class has no video.
        """
        from sklearn.svm import LinearSVC

        svm = _present(self.svm, "SVM")
        if set(labels.tolist()) != set(range(self.config.classes)):
            raise ValueError(
                f"expected videos of every class 0..{self.config.classes - 1}, got {sorted(set(labels.tolist()))}"
            )
        fitted = LinearSVC(C=cost, dual="auto", max_iter=10_000, random_state=0)
        fitted.fit(described.double().cpu().numpy(), labels.cpu().numpy())
        weight, bias = fitted.coef_, fitted.intercept_
        if len(weight) == 1:  # of two classes it keeps one plane, that of the second
            weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
        with torch.no_grad():
            svm.weight.copy_(torch.from_numpy(weight))
            svm.bias.copy_(torch.from_numpy(bias))


def _present(value: _Value | None, what: str) -> _Value:
    if value is None:
        raise ValueError(f"{what} missing: this mode needs it and was not given it, or does not have it")
    return value


def average_segments(described: Tensor, videos: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool a video's segments (section III-D).

    Args:
        described: (S, D) float32, one row a segment, from :meth:`TwoStream.describe`.
        videos: (S,) int64, the number of each segment's video.

    Returns:
        The videos' numbers, (V,) ascending, and their features, (V, D).
    """
    numbers = torch.tensor(sorted(set(videos.tolist())), device=videos.device)
    place = torch.searchsorted(numbers, videos)
    counts = torch.bincount(place)
    sums = described.new_zeros(len(numbers), described.shape[1]).index_add_(0, place, described)
    return numbers, sums / counts.unsqueeze(1)


def build(config: Config) -> TwoStream:
    """The network of a configuration. Raises ValueError where a value is unknown."""
    return TwoStream(config)


def inputs(config: Config) -> tuple[InputSpec, ...]:
    """What the network eats: a segment's crops, its flow images, or both, as the mode asks."""
    return segment_inputs(config.frames, crops=config.mode != "temporal", motion=config.mode != "spatial")
