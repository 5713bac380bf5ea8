"""Building blocks that several families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpatialPyramidPooling(nn.Module):
    """Max-pools a feature map into fixed grids and lays them side by side (He et al. 2014; Li et al. 2019, figure 5).

    (N, C, H, W) float -> (N, C * sum(level ** 2 for level in levels)), coarse grids last. Since the maximum of maxima
    is the maximum, a max-pool right before it that keeps the bins' borders changes nothing.
    """

    def __init__(self, levels: tuple[int, ...] = (3, 2, 1)) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        pooled = [nn.functional.adaptive_max_pool2d(features, level).flatten(1) for level in self.levels]
        return torch.cat(pooled, dim=1)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"levels={self.levels}"


class Residual(nn.Module):
    """Two 3x3 convolutions beside a short cut (He et al. 2016, figure 5 left, equation 2).

    (N, inputs, H, W) -> (N, outputs, H / stride, W / stride). Where shapes differ the short cut is a 1x1 convolution
    (their option B). Batch normalisation after each convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, batch_norm=True, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.short: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return torch.relu(self.second(self.first(features)) + self.short(features))


def convolution(inputs: int, outputs: int, kernel: int, *, batch_norm: bool, stride: int = 1) -> nn.Sequential:
    """Square convolution, optional batch normalisation, ReLU: (N, inputs, H, W) -> (N, outputs, H/stride, W/stride).

    Borders are padded so that a stride of 1 keeps the size.
    """
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
