"""Random changes to a batch, made on grey levels before the normalisation that ``edge`` does.

All pictures of one example change alike, so that a clip keeps its motion.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.recipe import Recipe

Name = TypeVar("Name", bound=Hashable)


def augment(
    pixels: Mapping[str, Tensor], recipe: Recipe, generator: torch.Generator, motion: Collection[str] = ()
) -> dict[str, Tensor]:
    """Warp, mirror, gamma, blur, noise and erase, each example differently: :func:`jitter`, then :func:`degrade`."""
    return degrade(jitter(pixels, recipe, generator, motion), recipe, generator, motion)


def jitter(
    pixels: Mapping[str, Tensor], recipe: Recipe, generator: torch.Generator, motion: Collection[str] = ()
) -> dict[str, Tensor]:
    """Warp, mirror and gamma, each example differently: the same face, held and lit otherwise.

    Args:
        pixels: by input name, (N, T, C, H, W) float32, 0..255, on any device.
        recipe: which changes, how strong.
        generator: the only source of randomness, on the pixels' device.
        motion: names of the inputs that are flow images: these are only mirrored, their motion with them.

    Returns:
        The same shapes, dtypes and ranges.
    """
    count = len(next(iter(pixels.values())))
    angle = _uniform(count, math.radians(recipe.rotation), generator)
    scale = 1 + _uniform(count, recipe.scale, generator)
    # grid_sample's coordinates span -1..1, so a shift by a fraction of the side counts double.
    across, down = (2 * _uniform(count, recipe.shift, generator) for _ in range(2))
    mirrored = (_rand(count, generator) < 0.5) & recipe.mirror
    exponent = torch.exp(_uniform(count, recipe.gamma, generator))[:, None, None, None, None]
    flip = torch.where(mirrored, -1.0, 1.0)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([flip * cosine, -flip * sine, across], 1), torch.stack([sine, cosine, down], 1)]
    change = torch.stack(rows, 1)
    moves = bool(recipe.rotation or recipe.scale or recipe.shift or recipe.mirror)
    done = {}
    for name, pictures in pixels.items():
        if name in motion:
            done[name] = _mirror_motion(pictures, mirrored)
            continue
        if moves:
            pictures = _warp(pictures, change)
        if recipe.gamma:
            pictures = 255 * (pictures / 255).clamp(0, 1) ** exponent
        done[name] = pictures
    return done


def degrade(
    pixels: Mapping[str, Tensor], recipe: Recipe, generator: torch.Generator, motion: Collection[str] = ()
) -> dict[str, Tensor]:
    """Blur, noise and erase, each example differently: the same face, seen worse. As :func:`jitter` otherwise."""
    done = {}
    for name, pictures in pixels.items():
        if name not in motion:
            if recipe.blur:
                pictures = _blur(pictures, recipe.blur, generator)
            if recipe.noise:
                pictures = _noise(pictures, recipe.noise, generator)
            if recipe.erase:
                pictures = _erase(pictures, recipe.erase, generator)
        done[name] = pictures
    return done


def mix(
    given: Mapping[Name, Tensor], labels: Tensor, alpha: float, generator: torch.Generator
) -> tuple[dict[Name, Tensor], Tensor]:
    """Mix each example with another of the batch, inputs and labels alike (mixup, Zhang et al. 2018, equation 1).

    Args:
        given: by some name, (N, ...) float32, normalised, on any device.
        labels: (N, K) float32, rows that sum to 1, on the same.
        alpha: of the Beta distribution that the share is drawn from, one for each example.
        generator: the only source of randomness, on the CPU: a seed asked of a GPU waits for all that it has to do.

    Returns:
        The same shapes and dtypes.
    """
    count = len(labels)
    # Torch's own Beta takes no generator: NumPy draws, from a seed that the generator gives.
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count)).float().to(labels.device)
    other = torch.randperm(count, generator=generator).to(labels.device)

    def mixed(values: Tensor) -> Tensor:
        part = share.reshape(-1, *[1] * (values.dim() - 1))
        return part * values + (1 - part) * values[other]

    return {name: mixed(values) for name, values in given.items()}, mixed(labels)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (2 * _rand(count, generator) - 1) * limit


def _rand(shape: int | torch.Size, generator: torch.Generator) -> Tensor:
    """Uniform in 0..1, where the generator is."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _warp(pictures: Tensor, change: Tensor) -> Tensor:
    """(N, T, C, H, W) by one affine map an example; what comes in from outside repeats the border."""
    # Time and colour ride along as channels: one map for all of them.
    flat = pictures.flatten(1, 2)
    grid = functional.affine_grid(change, list(flat.shape), align_corners=False)
    return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).reshape(pictures.shape)


def _mirror_motion(flows: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror flow images: the picture, and the sign of its first channel, 16 * dx + 128 (Zhang et al. 2019)."""
    turned = flows.flip(-1)
    turned[:, :, 0] = (256 - turned[:, :, 0]).clamp(max=255)
    return torch.where(mirrored[:, None, None, None, None], turned, flows)


def _strengths(count: int, most: float, generator: torch.Generator) -> Tensor:
    """(N,): 0 for half of the examples, uniform up to ``most`` for the others."""
    return most * _rand(count, generator) * (_rand(count, generator) < 0.5)


def _blur(pictures: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """A Gaussian of each example's own width, first along rows, then along columns; the border is repeated."""
    # Under a fifth of a pixel nothing changes; it keeps the exponent finite.
    sigma = _strengths(len(pictures), most, generator).clamp(min=0.2)
    reach = math.ceil(3 * most)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=sigma.device) ** 2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    # Examples lie side by side as channels, each with a kernel of its own; time and colour are a batch.
    flat = pictures.flatten(1, 2).transpose(0, 1)
    padded = functional.pad(flat, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel[:, None, None, :], groups=len(pictures))
    return (
        functional.conv2d(across, kernel[:, None, :, None], groups=len(pictures))
        .transpose(0, 1)
        .reshape(pictures.shape)
    )


def _noise(pictures: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """A sensor's noise, each example's of its own strength, each pixel on its own."""
    strength = _strengths(len(pictures), most, generator)[:, None, None, None, None]
    grain = torch.randn(pictures.shape, generator=generator, device=generator.device)
    return (pictures + strength * grain).clamp(0, 255)


def _erase(pictures: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """A random rectangle of noise, at the same place in all pictures of an example."""
    count, _, _, height, width = pictures.shape
    chosen = _rand(count, generator) < probability
    area = 0.02 + 0.23 * _rand(count, generator)
    ratio = torch.exp(_uniform(count, math.log(3.0), generator))
    tall, wide = height * (area * ratio).sqrt(), width * (area / ratio).sqrt()
    top = _rand(count, generator) * (height - tall).clamp(min=0)
    left = _rand(count, generator) * (width - wide).clamp(min=0)
    down, across = (torch.arange(side, device=pictures.device) for side in (height, width))
    row, column = down[None, :, None], across[None, None, :]
    top, left, tall, wide = (value[:, None, None] for value in (top, left, tall, wide))
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + wide) & chosen[:, None, None]
    noise = 255 * _rand(pictures.shape, generator)
    return torch.where(inside[:, None, None], noise, pictures)
