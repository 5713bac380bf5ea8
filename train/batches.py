"""From stored pixels to the tensors that a network eats: chosen, changed at random, normalised by ``edge``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from edge.bundle import InputSpec, Normalisation
from edge.preprocess import normalise
from train.augment import augment, degrade, jitter
from train.examples import Examples
from train.recipe import Recipe

ARGUMENTS = {"face": "face", "clip": "frames", "flow": "flows"}
"""The name of ``forward``'s argument for each kind of input."""

EVALUATION_VALUES = 4_000_000
"""Input values of an evaluation batch: 512 faces of 48x48 are a third of it, one segment of two streams is more."""


def tensors(
    examples: Examples,
    chosen: Sequence[int] | np.ndarray | slice,
    specs: Sequence[InputSpec],
    recipe: Recipe | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """Some examples as tensors.

    Args:
        examples: where the pixels are.
        chosen: which of them.
        specs: the network's inputs.
        recipe: how to change them at random; None leaves them as they are.
        generator: the only source of that randomness, on ``device``.
        device: where the pixels are changed and normalised. They travel as bytes, a quarter of what becomes of them.

    Returns:
        float32 by argument name: a face is (N, C, H, W), a clip or flow (N, T, C, H, W).
    """
    pixels = _pixels(examples, chosen, specs, device)
    if recipe is not None and generator is not None:
        pixels = augment(pixels, recipe, generator, motion=_motion(specs))
    return _ready(pixels, specs)


def seen_well_and_worse(
    examples: Examples,
    chosen: Sequence[int] | np.ndarray | slice,
    specs: Sequence[InputSpec],
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """As :func:`tensors`, twice: moved and lit otherwise, and those same pictures blurred, noisy and partly covered."""
    well = jitter(_pixels(examples, chosen, specs, device), recipe, generator, motion=_motion(specs))
    return _ready(well, specs), _ready(degrade(well, recipe, generator, motion=_motion(specs)), specs)


def _pixels(
    examples: Examples,
    chosen: Sequence[int] | np.ndarray | slice,
    specs: Sequence[InputSpec],
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    """(N, T, C, H, W) float32, 0..255, by input name; a face is a clip of one."""
    pixels = {}
    for spec in specs:
        array = examples.arrays[spec.name][chosen]
        frames = array if spec.kind != "face" else array[:, None]
        # Grey comes without an axis for its channel.
        frames = frames[..., None] if spec.channels == 1 else frames
        laid = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3)))
        pixels[spec.name] = laid.to(device).float()
    return pixels


def _motion(specs: Sequence[InputSpec]) -> list[str]:
    return [spec.name for spec in specs if spec.kind == "flow"]


def _ready(pixels: Mapping[str, torch.Tensor], specs: Sequence[InputSpec]) -> dict[str, torch.Tensor]:
    """Normalised, and by the name of the network's argument."""
    given = {}
    for spec in specs:
        values = pixels[spec.name]
        ready = normalised(values.flatten(0, 1), spec.normalisation).reshape(values.shape)
        given[ARGUMENTS[spec.kind]] = ready[:, 0] if spec.kind == "face" else ready
    return given


def normalised(pixels: torch.Tensor, how: Normalisation) -> torch.Tensor:
    """What :func:`edge.preprocess.normalise` makes of grey levels, on their own device.

    On the CPU it is that function; a GPU would wait for the way there and back, so the same sums are written for it.

    Args:
        pixels: (N, C, H, W) float32, 0..255.
        how: see :class:`edge.bundle.Normalisation`.

    Returns:
        (N, C, H, W) float32.
    """
    return torch.from_numpy(normalise(pixels.numpy(), how)) if pixels.device.type == "cpu" else _on_device(pixels, how)


def _on_device(pixels: torch.Tensor, how: Normalisation) -> torch.Tensor:
    if how.kind == "fixed":
        mean, std = (torch.tensor(value, device=pixels.device)[:, None, None] for value in (how.mean, how.std))
        return (pixels - mean) / std
    variance, mean = torch.var_mean(pixels, dim=(1, 2, 3), correction=0, keepdim=True)
    return (pixels - mean) / variance.sqrt().clamp(min=how.min_std)


def epoch_order(count: int, batch: int, seed: int, groups: np.ndarray | None = None) -> list[torch.Tensor]:
    """The shuffled places of one epoch, batch by batch; a rest that fills no batch waits for another epoch.

    Args:
        count: how many examples there are.
        batch: how many make a step.
        seed: of the shuffling.
        groups: (count,) numbers; of the examples that share one, one is drawn. None draws all.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if groups is not None:
        # The first of each group in a random order is a fair draw; those of large groups come early, so shuffle anew.
        _, first = np.unique(groups[order.numpy()], return_index=True)
        drawn = order[torch.from_numpy(first)]
        order = drawn[torch.randperm(len(drawn), generator=generator)]
    return [order[step * batch : (step + 1) * batch] for step in range(max(1, len(order) // batch))]


def in_order(
    examples: Examples, specs: Sequence[InputSpec], device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
    """All examples as they are, in pieces that fit in memory: (places, tensors on the device)."""
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    step = max(1, min(512, EVALUATION_VALUES // size))
    for start in range(0, len(examples), step):
        places = slice(start, min(start + step, len(examples)))
        yield places, tensors(examples, places, specs, device=device)
