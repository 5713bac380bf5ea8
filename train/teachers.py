"""Earlier runs that a new one learns from: their weights to begin with, or their answers beside the labels.

A corpus' labels are one annotator's guess. A trained network's answer to the same picture says which other emotions it
resembles (Hinton et al. 2015), and a network that learns from one like itself ends up better than it (Furlanello et al.
2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax

from edge.bundle import InputSpec
from edge.errors import EdgeError
from train.checkpoint import Checkpoint, load
from train.examples import Examples
from train.models.family import Family
from train.recipe import Recipe
from train.stages import predict


class TeacherError(EdgeError):
    """An earlier run that this one can't learn from."""


def weights(path: Path, family: Family, network: torch.nn.Module, recipe: Recipe) -> None:
    """Put an earlier run's result into a network.

    Raises:
        TeacherError: another family or other shapes, or it learnt from what this run holds out.
        CheckpointError: no whole checkpoint there.
    """
    earlier = _load(path, recipe)
    if earlier.family != family.name:
        raise TeacherError(f"{path}: a {earlier.family} network; expected one of {family.name} to start from")
    try:
        network.load_state_dict(earlier.weights)
    except RuntimeError as error:
        raise TeacherError(
            f"{path}: its {earlier.family} network has other layers ({earlier.config}); "
            "give the same network options, or start from another"
        ) from error


class Panel:
    """Earlier runs that are asked of each batch: the mean of their calibrated answers to what the network is shown.

    A network that is shown a picture moved and mixed should not answer as its teachers did to the picture as it was;
    that they see the same, and for many epochs, is what brings a small network closest to them (Beyer et al. 2022).
    Only what makes a picture worse is for the network alone (:meth:`train.stages.Supervised.batch`).

    Where they take turns, each answers to every so many pictures of a batch. Cross-entropy is linear in the answer, and
    which picture comes to whom is drawn anew with each epoch's order: so the steps are the same on average, for the
    time of one teacher.
    """

    def __init__(self, networks: Sequence[tuple[torch.nn.Module, float]], *, turns: bool = False) -> None:
        """Networks in evaluation mode, each with its temperature."""
        self._networks, self._turns = tuple(networks), turns

    @torch.no_grad()
    def __call__(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by argument name -> (N, K) float32 probabilities."""
        if not self._turns:
            return torch.stack([_said(*teacher, given) for teacher in self._networks]).mean(dim=0)
        count, every = len(next(iter(given.values()))), len(self._networks)
        # A batch smaller than the panel leaves the last of them without a picture.
        said = [
            _said(*teacher, {name: value[place::every] for name, value in given.items()})
            for place, teacher in enumerate(self._networks[:count])
        ]
        answers = said[0].new_empty(count, said[0].shape[1])
        for place, some in enumerate(said):
            answers[place::every] = some
        return answers


def _said(network: torch.nn.Module, warmth: float, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.softmax(network(**given).float() / warmth, dim=1)


def panel(
    paths: Sequence[Path],
    examples: Examples,
    inputs: Sequence[InputSpec],
    recipe: Recipe,
    device: torch.device | str = "cpu",
) -> Panel:
    """Earlier runs, ready to be asked.

    Args:
        paths: checkpoints of networks that eat faces.
        examples: the pictures, with the labels that the networks were trained for.
        inputs: what the network that will learn from them eats: they are shown tensors made alike.
        recipe: of the run that will learn from the answers.
        device: where to compute.

    Raises:
        TeacherError: no network of faces, other inputs or labels, or it learnt from what this run holds out.
        CheckpointError: no whole checkpoint there.
    """
    networks = []
    for path in paths:
        teacher = _teacher(path, examples, recipe)
        if teacher.inputs != tuple(inputs):
            raise TeacherError(
                f"{path}: eats {teacher.inputs[0].shape} {teacher.inputs[0].colour}, not what this run's network does; "
                "a teacher that is asked of each batch sees the same tensors; leave --matched out"
            )
        network = teacher.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks.append((network, teacher.temperature))
    return Panel(networks, turns=recipe.turns)


def answers(
    paths: Sequence[Path], examples: Examples, recipe: Recipe, device: torch.device | str = "cpu"
) -> npt.NDArray[np.float32]:
    """What earlier runs say of faces: the mean of their calibrated answers to each picture and its mirror image.

    Args:
        paths: checkpoints of networks that eat faces.
        examples: the pictures, with the labels that the networks were trained for.
        recipe: of the run that will learn from the answers.
        device: where to compute.

    Returns:
        (N, K) probabilities in the order of ``examples.names``.

    Raises:
        TeacherError: no network of faces, other labels, or it learnt from what this run holds out.
        CheckpointError: no whole checkpoint there.
    """
    mirrored = replace(examples, arrays={name: pixels[:, :, ::-1] for name, pixels in examples.arrays.items()})
    said = []
    for path in paths:
        teacher = _teacher(path, examples, recipe)
        network = teacher.network().to(device)
        for view in (examples, mirrored):
            said.append(softmax(predict(network, view, teacher.inputs, device) / teacher.temperature, axis=1))
    return np.mean(said, axis=0, dtype=np.float32)


def _teacher(path: Path, examples: Examples, recipe: Recipe) -> Checkpoint:
    teacher = _load(path, recipe)
    if [spec.kind for spec in teacher.inputs] != ["face"] or teacher.inputs[0].name not in examples.arrays:
        raise TeacherError(f"{path}: a {teacher.family} network; expected one that eats what this run does, faces")
    if teacher.labels != examples.names:
        raise TeacherError(f"{path}: knows {', '.join(teacher.labels)}; expected {', '.join(examples.names)}")
    return teacher


def _load(path: Path, recipe: Recipe) -> Checkpoint:
    earlier = load(path)
    theirs, ours = ((run["held_out"], run["held_out_seed"]) for run in (earlier.recipe, vars(recipe)))
    if theirs != ours:
        raise TeacherError(
            f"{path}: held out {theirs[0]:g} of its pictures by seed {theirs[1]}, this run {ours[0]:g} by seed "
            f"{ours[1]}: it has learnt from pictures that this run wants to be judged by; give it the same two"
        )
    return earlier
