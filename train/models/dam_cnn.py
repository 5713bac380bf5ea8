"""DAM-CNN: VGG-Face, salient region attention and a multi-path autoencoder (Xie, Hu, Wu 2019).

Input (N, 3, 224, 224) float32, VGG-Face's normalisation (see :func:`inputs`); output (N, classes) logits.

    VGG-Face   13 convolutions and 5 pools (Table 1): 7x7x512 = h_c
    SERD       mask M = tanh(1x1 convolution of h_c to one channel): 7x7x1, equation (1)
               salient features h_s = ReLU(M * h_c): 7x7x512, equation (2), flattened 25088 = s
    MPVS-Net   encoder 25088 -> 4096 sigmoid, equation (6): h
               N decoders 4096 -> 25088 sigmoid, equation (7): training only
               fc 4096 -> 4096 ReLU | fc -> K

    vgg_face   VGG-Face alone with its fc6, fc7 and a new fc8 (Table 2)
    vgg_serd   the same with SERD between the convolutions and fc6 (Tables 2 and 3, and the first training step)
    dam_cnn    SERD's salient features into MPVS-Net (Tables 4 to 11)

Training goes in two steps. (1) ``vgg_serd`` from VGG-Face's weights (:func:`~train.models.trunks.load_trunk`), with
:meth:`DAMCNN.step_one_loss`. (2) ``dam_cnn``: :meth:`DAMCNN.take` step 1's convolutions and SERD, which stay frozen;
:meth:`DAMCNN.salient` of every picture once; for each batch :func:`draw_targets`, and :meth:`DAMCNN.step_two_loss`.
:meth:`DAMCNN.inference` is what leaves the desktop: no decoder.

Departures and open points of the paper:
- Salient features have no upper bound, the decoders' sigmoids have. The paper compares them as they are, and so does
  the default; ``salient_scale`` divides the salient features first.
- Where dropout stands is said as "the fully-connected layers as well as the MPAE": on h, and after the ReLU.
- Algorithm 1 updates the parameters once per decoder j inside a batch. Here all decoders take one step together, which
  is what equation (11), a sum over j, asks for.
- Equation (3) is written for one mask: here its mean over the batch, as equation (5) is a mean.
- A decoding target may be the input sample itself, as in "randomly selected from the training set".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from edge.bundle import Alignment, InputSpec, Normalisation
from train.models.trunks import VGG16, scaled

VARIANTS = ("vgg_face", "vgg_serd", "dam_cnn")


@dataclass(frozen=True)
class Config:
    """The rows of Tables 2 to 4 by flag; ``width`` shrinks every layer for tests, and 1 is the paper's size."""

    classes: int = 7
    variant: str = "dam_cnn"
    """One of ``VARIANTS``."""
    decoders: int = 5
    """Decoding paths, 2 to 5 in Table 4; 0 for inference."""
    gamma1: float = 1e-3
    """Weight of the sparse part of equation (3); 0 switches it off (VGG-SERD-reg2)."""
    gamma2: float = 1e-4
    """Weight of the part of equation (3) that wants large weights; 0 switches it off (VGG-SERD-reg1)."""
    classification: float = 20.0
    """Lambda of equation (11)."""
    salient_scale: float = 1.0
    """Salient features are divided by this before MPVS-Net; 1 is the paper's. See the departures."""
    dropout: float = 0.5
    width: float = 1.0
    """Multiplies every number of channels and of units; VGG-Face's weights fit at 1 only."""


class SERD(nn.Module):
    """Salient expressional region descriptor: one attention weight in -1..1 for each place of a feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, 1)

    def mask(self, maps: Tensor) -> Tensor:
        """Equation (1): (N, channels, H, W) -> (N, 1, H, W) in -1..1."""
        return torch.tanh(self.attention(maps))

    def forward(self, maps: Tensor) -> Tensor:
        """Equation (2): (N, channels, H, W), >= 0 -> the same shape, >= 0, zero where attention is negative."""
        return torch.relu(self.mask(maps) * maps)


def serd_regulariser(mask: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """Equation (3), gamma1 ||M||_1^2 + gamma2 ||1 - M*M||_F^2, as a mean over the batch: (N, 1, H, W) -> a scalar."""
    flat = mask.flatten(1)
    sparse = flat.abs().sum(1).square()
    decided = (1 - flat * flat).square().sum(1)
    return (gamma1 * sparse + gamma2 * decided).mean()


class MPVSNet(nn.Module):
    """Multi-path variation-suppressing network: one encoder, ``decoders`` decoders, two fully connected layers."""

    def __init__(self, inputs: int, hidden: int, classes: int, decoders: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, hidden)
        self.decoders = nn.ModuleList(nn.Linear(hidden, inputs) for _ in range(decoders))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def encode(self, salient: Tensor) -> Tensor:
        """Equation (6) and its dropout: (N, 25088) -> (N, 4096), in 0..1 outside training."""
        code: Tensor = self.dropout(torch.sigmoid(self.encoder(salient)))
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Equation (7), every path: (N, 4096) -> (N, decoders, 25088) in 0..1."""
        return torch.stack([torch.sigmoid(decoder(code)) for decoder in self.decoders], dim=1)

    def forward(self, salient: Tensor) -> Tensor:
        """(N, 25088) -> (N, classes) logits."""
        logits: Tensor = self.classifier(self.encode(salient))
        return logits


def reconstruction_loss(decoded: Tensor, targets: Tensor) -> Tensor:
    """J_all of equations (8) and (9): squared distances, mean over samples, sum over decoders.

    Args:
        decoded: (N, decoders, 25088) from :meth:`MPVSNet.decode`.
        targets: the same shape; ``targets[i, j]`` is what decoder j shall make of sample i.
    """
    return (decoded - targets).square().sum(dim=2).mean(dim=0).sum()


def draw_targets(
    labels: Tensor, batch: Tensor, decoders: int, generator: torch.Generator, variation: Tensor | None = None
) -> Tensor:
    """Choose what each decoder shall reconstruct for each sample of a batch.

    Args:
        labels: (M,) int64, the classes of the training part.
        batch: (N,) int64, which of them are in the batch.
        decoders: number of decoding paths.
        generator: where the random choice comes from.
        variation: (M,) int64 in 0..decoders - 1, as a gender (section 4.3.2): decoder j then gets samples of
            variation j only. Without it any sample of the class will do.

    Returns:
        (N, decoders) int64, rows of the training part with the sample's own label.

    Raises:
        ValueError: a class of the batch has no sample of some variation.
    """
    targets = torch.empty(len(batch), decoders, dtype=torch.int64)
    for label in sorted(set(labels[batch].tolist())):
        rows = (labels[batch] == label).nonzero().flatten()
        for path in range(decoders):
            fits = labels == label if variation is None else (labels == label) & (variation == path)
            candidates = fits.nonzero().flatten()
            if not len(candidates):
                raise ValueError(f"class {label} has no sample of variation {path} for decoder {path} to reconstruct")
            targets[rows, path] = candidates[torch.randint(len(candidates), (len(rows),), generator=generator)]
    return targets


class DAMCNN(nn.Module):
    """One variant of the system."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.variant not in VARIANTS:
            raise ValueError(f"unknown DAM-CNN variant {config.variant!r}; expected one of {', '.join(VARIANTS)}")
        if config.decoders < 0 or not config.salient_scale > 0:
            raise ValueError(
                f"expected decoders >= 0 and salient_scale > 0, got {config.decoders} and {config.salient_scale}"
            )
        self.config = config
        until = "pool5" if config.variant == "dam_cnn" else "fc8"
        self.trunk = VGG16(config.classes, until=until, width=config.width, dropout=config.dropout)
        self.serd = None if config.variant == "vgg_face" else SERD(self.trunk.channels)
        self.mpvs: MPVSNet | None = None
        if config.variant == "dam_cnn":
            hidden = scaled(4096, config.width)
            self.mpvs = MPVSNet(49 * self.trunk.channels, hidden, config.classes, config.decoders, config.dropout)
            # Step 2 leaves all before MPVS-Net as step 1 made it (Algorithm 1, line 4).
            self.trunk.requires_grad_(False)
            self._serd().requires_grad_(False)

    def _serd(self) -> SERD:
        if self.serd is None:
            raise ValueError("variant 'vgg_face' has no attention; build 'vgg_serd' or 'dam_cnn'")
        return self.serd

    def _mpvs(self) -> MPVSNet:
        if self.mpvs is None:
            raise ValueError(f"variant {self.config.variant!r} has no MPVS-Net; build 'dam_cnn'")
        return self.mpvs

    def take(self, step_one: DAMCNN) -> None:
        """Copy the convolutions and SERD from a trained ``vgg_serd`` of the same width (step 1 into step 2)."""
        self.trunk.features.load_state_dict(step_one.trunk.features.state_dict())
        self._serd().load_state_dict(step_one._serd().state_dict())

    def attention(self, face: Tensor) -> Tensor:
        """The mask M of equation (1): (N, 3, 224, 224) float32 -> (N, 1, 7, 7) in -1..1."""
        return self._serd().mask(self.trunk.maps(face))

    def heat_map(self, face: Tensor) -> Tensor:
        """The mask resized bilinearly to the picture (Figure 8): (N, 3, 224, 224) -> (N, 1, 224, 224) in -1..1."""
        return interpolate(self.attention(face), size=face.shape[2:], mode="bilinear", align_corners=False)

    def salient(self, face: Tensor) -> Tensor:
        """What step 2 learns from, s of equation (6): (N, 3, 224, 224) float32 -> (N, 25088), >= 0."""
        salient: Tensor = self._serd()(self.trunk.maps(face))
        return salient.flatten(1) / self.config.salient_scale

    def step_one_loss(self, face: Tensor, labels: Tensor) -> Tensor:
        """Equation (4): cross-entropy plus the regulariser of equation (3), of ``vgg_serd``; a scalar.

        Of ``vgg_face`` it is the cross-entropy alone.
        """
        maps = self.trunk.maps(face)
        if self.serd is None:
            return cross_entropy(self._classified(maps), labels)
        mask = self.serd.mask(maps)
        logits = self._classified(torch.relu(mask * maps))
        return cross_entropy(logits, labels) + serd_regulariser(mask, self.config.gamma1, self.config.gamma2)

    def step_two_loss(self, salient: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """Equation (11), J_all + lambda L_ce, with the gradients of Algorithm 1: a scalar.

        The encoder and the decoders get the gradient of equation (11), the fully connected layers that of equation
        (10), which has no lambda, from one backward pass.

        Args:
            salient: (N, 25088) from :meth:`salient`.
            targets: (N, decoders, 25088), salient features of the rows that :func:`draw_targets` chose.
            labels: (N,) int64.
        """
        network, weight = self._mpvs(), self.config.classification
        code = network.encode(salient)
        # Same value, lambda times the gradient: the fully connected layers lie behind this, the encoder before it.
        amplified = code.detach() + weight * (code - code.detach())
        classified = cross_entropy(network.classifier(amplified), labels)
        loss = reconstruction_loss(network.decode(code), targets) + classified
        return loss + (weight - 1) * classified.detach()

    def _classified(self, maps: Tensor) -> Tensor:
        return self.trunk.logits(self.trunk.hidden(maps))

    def forward(self, face: Tensor) -> Tensor:
        """(N, 3, 224, 224) float32 -> (N, classes) logits."""
        if self.mpvs is not None:
            logits: Tensor = self.mpvs(self.salient(face))
            return logits
        maps = self.trunk.maps(face)
        return self._classified(maps if self.serd is None else self.serd(maps))

    def inference(self) -> DAMCNN:
        """The network without its decoders, in evaluation mode; all other weights are the very same tensors."""
        with torch.device("meta"):
            network = DAMCNN(replace(self.config, decoders=0))
        kept = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        network.load_state_dict({name: kept[name] for name in network.state_dict()}, assign=True)
        return network.eval()


def build(config: Config) -> DAMCNN:
    """The network of a configuration. Raises ValueError where a value is unknown."""
    return DAMCNN(config)


def inputs(config: Config) -> tuple[InputSpec, ...]:
    """What the network eats: a face in colour, 224x224, less VGG-Face's mean (Parkhi et al. 2015).

    The paper resizes Viola-Jones boxes; the eyes are put where those have them, about two fifths from the top.
    """
    return (
        InputSpec(
            name="face",
            kind="face",
            shape=(1, 3, 224, 224),
            dtype="float32",
            colour="rgb",
            interpolation="area",
            normalisation=Normalisation("fixed", mean=(129.1863, 104.7624, 93.5940), std=(1.0, 1.0, 1.0)),
            alignment=Alignment(left_eye=(0.31, 0.39), right_eye=(0.69, 0.39)),
        ),
    )
