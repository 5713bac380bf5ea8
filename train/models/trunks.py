"""The image networks whose published weights three of the families start from: VGG16, VGG-Face and AlexNet.

State-dict names are torchvision's (``features.N.weight``, ``classifier.N.weight``), so its files load unchanged;
:func:`load_trunk` renames what VGG-Face's ports call ``conv1_1`` or ``conv_1_1``. "64 3x3" is a same-size convolution
with ReLU, "pool" halves the side.

    VGG16      Simonyan, Zisserman 2015, configuration D; VGG-Face (Parkhi, Vedaldi, Zisserman 2015) is the same network
               227x227 (or 224x224) x3
               64 3x3 x2 | pool 113 | 128 3x3 x2 | pool 56 | 256 3x3 x3 | pool 28 | 512 3x3 x3 | pool 14
               512 3x3 x3 | pool 7: 7x7x512 = 25088 | fc6 4096 | fc7 4096 | fc8 K

    AlexNet    Krizhevsky 2014, the one-column form that torchvision's weights have
               227x227x3 | 64 11x11/4: 56 | pool 27 | 192 5x5: 27 | pool 13 | 384 3x3 | 256 3x3 | 256 3x3 | pool 6
               6x6x256 = 9216 | fc6 4096 | fc7 4096 | fc8 K

Departures:
- The papers' AlexNet is the two-column one of 2012 (96, 256, 384, 384, 256 filters, local response normalisation).
  Its weights are published for Caffe and MatConvNet only; torchvision's one-column form has the same layers and widths
  of fc6 and fc7, and weights that load without another framework. Its dropouts stand before fc6 and fc7.
- A map that is not 7x7 (VGG16) or 6x6 (AlexNet) at the last pool is averaged, or repeated, to that size, as in
  torchvision. At the papers' input sizes that does nothing.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from edge.errors import EdgeError

CUTS = ("pool5", "fc6", "fc7", "fc8")
"""Where a trunk may end."""

_FINAL = "classifier.6"
"""fc8, in both networks: the one layer whose size is the number of classes."""

_VGG_LAYERS = (2, 2, 3, 3, 3)
_VGG_CHANNELS = (64, 128, 256, 512, 512)


class TrunkError(EdgeError):
    """A file of published weights that is missing, damaged, or another network's."""


def scaled(count: int, width: float) -> int:
    """A layer's number of channels or units at a width: 1 is the paper's size, never fewer than one."""
    return max(1, round(count * width))


class Trunk(nn.Module):
    """Convolutions, a fixed grid, fully connected layers; cut after one of ``CUTS``.

    Every method takes (N, 3, H, W) float32, normalised as the weights were trained: torchvision's want RGB in 0..1 less
    (0.485, 0.456, 0.406) over (0.229, 0.224, 0.225); VGG-Face's want 0..255 less (129.19, 104.76, 93.59), RGB.
    """

    features: nn.Sequential
    avgpool: nn.AdaptiveAvgPool2d
    classifier: nn.Sequential

    def __init__(self, until: str, hidden_end: dict[str, int]) -> None:
        super().__init__()
        if until not in CUTS:
            raise ValueError(f"unknown cut {until!r}; expected one of {', '.join(CUTS)}")
        self.until = until
        self._hidden_end = hidden_end["fc6" if until == "fc6" else "fc7"]

    def _cut(self, layers: list[nn.Module], hidden_end: dict[str, int]) -> nn.Sequential:
        ends = {"pool5": 0, "fc6": hidden_end["fc6"], "fc7": hidden_end["fc7"], "fc8": len(layers)}
        return nn.Sequential(*layers[: ends[self.until]])

    def maps(self, image: Tensor) -> Tensor:
        """The last pool's output: (N, 3, H, W) -> (N, channels, H', W'), 7x7 or 6x6 at the papers' sizes, >= 0."""
        maps: Tensor = self.features(image)
        return maps

    def hidden(self, maps: Tensor) -> Tensor:
        """From the last pool to the last kept hidden layer, after its ReLU: (N, 4096) at full width, >= 0."""
        hidden: Tensor = self.classifier[: self._hidden_end](torch.flatten(self.avgpool(maps), 1))
        return hidden

    def describe(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 4096) at full width: fc6 of a trunk cut there, else fc7; after the ReLU, so >= 0."""
        return self.hidden(self.maps(image))

    def logits(self, hidden: Tensor) -> Tensor:
        """fc8, with its dropout in VGG16: (N, 4096) -> (N, classes). Only of a trunk that goes ``until`` fc8."""
        logits: Tensor = self.classifier[self._hidden_end :](hidden)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """As far as the trunk goes: maps, hidden features or logits."""
        maps = self.maps(image)
        return maps if self.until == "pool5" else self.classifier(torch.flatten(self.avgpool(maps), 1))


class VGG16(Trunk):
    """VGG16, or VGG-Face, which differs in its weights only.

    ``width`` multiplies every number of channels and hidden units; 1 is the published size, and only at 1 do published
    weights fit. ``classes`` is fc8's.
    """

    def __init__(self, classes: int = 1000, *, until: str = "fc8", width: float = 1.0, dropout: float = 0.5) -> None:
        ends = {"fc6": 2, "fc7": 5}
        super().__init__(until, ends)
        layers: list[nn.Module] = []
        channels = 3
        for count, filters in zip(_VGG_LAYERS, _VGG_CHANNELS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, scaled(filters, width), 3, padding=1), nn.ReLU(inplace=True)]
                channels = scaled(filters, width)
            layers.append(nn.MaxPool2d(2))
        self.channels = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = scaled(4096, width)
        self.classifier = self._cut(
            [
                nn.Linear(49 * channels, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, classes),
            ],
            ends,
        )
        # Thirteen convolutions at PyTorch's own initialisation let next to nothing through; this keeps the variance.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class AlexNet(Trunk):
    """AlexNet in one column. ``width`` and ``classes`` as in :class:`VGG16`."""

    def __init__(self, classes: int = 1000, *, until: str = "fc8", width: float = 1.0, dropout: float = 0.5) -> None:
        ends = {"fc6": 3, "fc7": 6}
        super().__init__(until, ends)
        first, second, third, fourth = (scaled(count, width) for count in (64, 192, 384, 256))
        self.channels = fourth
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(fourth, fourth, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        hidden = scaled(4096, width)
        self.classifier = self._cut(
            [
                nn.Dropout(dropout),
                nn.Linear(36 * fourth, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, classes),
            ],
            ends,
        )


def load_trunk(module: Trunk, file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Put published weights into a trunk.

    Takes torchvision's ``vgg16`` and ``alexnet`` state dicts, VGG-Face's two common PyTorch ports (``conv1_1.weight``
    or ``conv_1_1.weight``, ``fc6.weight``), and this module's own, as of a stream that was trained alone.
    Only names are changed: the ``conv_1_1`` port was fed blue-green-red, so check what a file expects. fc8 is
    left alone where its number of classes differs, and layers beyond the trunk's cut are skipped.

    Args:
        module: the trunk; changed only if the whole file fits.
        file: a state dict written by ``torch.save``; it is read with ``weights_only=True``, so it can't run code.

    Returns:
        The names of the trunk's tensors that keep their initial values: fc8's, or none.

    Raises:
        TrunkError: the file is missing, not a state dict, or a tensor is missing, unknown or of another shape.
    """
    stored = _renamed(_read(Path(file)))
    wanted = module.state_dict()
    beyond = {name for name in stored if name not in wanted and name.startswith("classifier.")}
    kept = [
        name
        for name, tensor in wanted.items()
        if name.startswith(_FINAL) and (name not in stored or stored[name].shape != tensor.shape)
    ]
    for name, tensor in wanted.items():
        if name in kept:
            continue
        if name not in stored:
            raise TrunkError(
                f"{file}: no tensor {name}; expected a {type(module).__name__} state dict; give a file of that network"
            )
        if stored[name].shape != tensor.shape:
            raise TrunkError(
                f"{file}: {name} has shape {tuple(stored[name].shape)}, expected {tuple(tensor.shape)}; "
                "give a file of this network, or build it at width 1.0"
            )
    if unknown := [name for name in stored if name not in wanted and name not in beyond]:
        raise TrunkError(
            f"{file}: {unknown[0]} belongs to no layer; expected a {type(module).__name__} state dict; "
            "give a file of that network"
        )
    module.load_state_dict({name: tensor if name in kept else stored[name] for name, tensor in wanted.items()})
    return tuple(kept)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrunkError(f"{file}: no such file; expected a state dict of the trunk; check the path") from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0][:80]
        raise TrunkError(
            f"{file}: can't be read ({reason}); expected a state dict; save one with torch.save"
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise TrunkError(f"{file}: not a state dict; expected tensors by name; save network.state_dict()")
    return stored


def _renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """VGG-Face's layer names to torchvision's; names that already are, or are unknown, stay."""
    names: dict[str, str] = {}
    index = 0
    for block, count in enumerate(_VGG_LAYERS, start=1):
        for layer in range(1, count + 1):
            names[f"conv{block}_{layer}"] = f"features.{index}"
            index += 2  # a convolution and its ReLU
        index += 1  # the pool
    names |= {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    renamed = {}
    for name, tensor in stored.items():
        layer_name, dot, part = name.rpartition(".")
        layer_name = re.sub(r"^conv_(\d)_(\d)$", r"conv\1_\2", layer_name)
        renamed[names.get(layer_name, layer_name) + dot + part] = tensor
    return renamed
