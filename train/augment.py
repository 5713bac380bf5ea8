"""Random changes to a batch of pictures, made on grey levels before the normalisation that ``edge`` does."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from train.recipe import Recipe


def augment(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Warp, mirror, gamma and erase, each picture differently.

    Args:
        pixels: (N, C, H, W) float32, 0..255.
        recipe: which changes, how strong.
        generator: the only source of randomness.

    Returns:
        The same shape, dtype and range.
    """
    if recipe.rotation or recipe.scale or recipe.shift or recipe.mirror:
        pixels = _warp(pixels, recipe, generator)
    if recipe.gamma:
        exponent = torch.exp(_uniform(len(pixels), recipe.gamma, generator))[:, None, None, None]
        pixels = 255 * (pixels / 255).clamp(0, 1) ** exponent
    if recipe.erase:
        pixels = _erase(pixels, recipe.erase, generator)
    return pixels


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(count, generator=generator) - 1) * limit


def _warp(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    count = len(pixels)
    angle = _uniform(count, math.radians(recipe.rotation), generator)
    scale = 1 + _uniform(count, recipe.scale, generator)
    # grid_sample's coordinates span -1..1, so a shift by a fraction of the side counts double.
    across, down = (2 * _uniform(count, recipe.shift, generator) for _ in range(2))
    flip = torch.ones(count)
    if recipe.mirror:
        flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([flip * cosine, -flip * sine, across], 1), torch.stack([sine, cosine, down], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _erase(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    count, channels, height, width = pixels.shape
    chosen = torch.rand(count, generator=generator) < probability
    area = 0.02 + 0.23 * torch.rand(count, generator=generator)
    ratio = torch.exp(_uniform(count, math.log(3.0), generator))
    tall, wide = height * (area * ratio).sqrt(), width * (area / ratio).sqrt()
    top = torch.rand(count, generator=generator) * (height - tall).clamp(min=0)
    left = torch.rand(count, generator=generator) * (width - wide).clamp(min=0)
    row, column = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    top, left, tall, wide = (value[:, None, None] for value in (top, left, tall, wide))
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide)
    noise = 255 * torch.rand(count, channels, height, width, generator=generator)
    return torch.where((inside & chosen[:, None, None])[:, None], noise, pixels)
