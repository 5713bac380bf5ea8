"""The training loop: read it from top to bottom.

Lightning Fabric places tensors, scales bf16 and would spread a batch over processes; the rest is plain PyTorch.
Everything random in an epoch comes from one generator seeded by (seed, epoch), so a resumed run takes the same steps
as one that was never stopped.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from edge.bundle import InputSpec
from edge.errors import EdgeError
from edge.preprocess import normalise
from train import metrics
from train.augment import augment
from train.checkpoint import Checkpoint, plain
from train.datasets import Pictures
from train.datasets.errors import CorpusError
from train.models import Family
from train.recipe import OPTIMIZERS, SCHEDULES, Recipe
from train.twins import difference_hash

EVALUATION_BATCH = 512


class TrainingError(EdgeError):
    """Training can't go on: the loss is not a number, or the checkpoint to resume is another run's."""


@dataclass
class Run:
    """Everything that changes while training."""

    network: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epoch: int = 0
    history: list[dict[str, float]] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network whose figures count: the average where there is one."""
        return self.network if self.average is None else self.average.module


def train(
    family: Family,
    config: Any,
    recipe: Recipe,
    pictures: Pictures,
    out: Path,
    *,
    precision: str = "32-true",
    accelerator: str = "auto",
    resume: bool = False,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Checkpoint:
    """Train one network on one corpus.

    Args:
        family: which network.
        config: an instance of ``family.config``.
        recipe: how.
        pictures: the training part; ``recipe.held_out`` of it is set aside, near-identical pictures on one side.
        out: folder for ``last.pt`` (after every epoch) and ``best.pt`` (highest held-out accuracy).
        precision: Fabric's: ``32-true`` or ``bf16-mixed``.
        accelerator: Fabric's: ``auto``, ``cpu`` or ``cuda``.
        resume: go on from ``out/last.pt`` where it exists.
        report: called after each epoch with its figures.

    Returns:
        The checkpoint with the highest held-out accuracy, temperature and abstention threshold fitted.

    Raises:
        TrainingError: NaN loss, or a checkpoint of other settings; the last good checkpoint stays.
        CorpusError: a class without a picture.
    """
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]
    (spec,) = family.inputs()
    learn, held_out = split(pictures, recipe)
    torch.manual_seed(recipe.seed)
    run = _start(family, config, recipe, len(learn))
    # A third faster on CPUs with bf16, never slower.
    run.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = out / "last.pt"
    if resume and last.exists():
        _restore(run, last, family, config, recipe)
    network, optimizer = fabric.setup(run.network, run.optimizer)
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    best: Checkpoint | None = _best(out) if run.epoch else None
    history = run.history or []

    for epoch in range(run.epoch, recipe.epochs):
        torch.manual_seed(_seed(recipe, epoch))
        network.train()
        losses = []
        steps = tqdm(
            batches(learn, recipe, spec, epoch),
            total=steps_per_epoch(len(learn), recipe),
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            leave=False,
            disable=None,
        )
        for faces, labels in steps:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_function(network(faces.to(fabric.device)), labels.to(fabric.device))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"loss is {value} in epoch {epoch + 1}; the last good checkpoint is {last}; "
                    "lower --learning-rate and --resume"
                )
            fabric.backward(loss)
            optimizer.step()
            run.schedule.step()
            if run.average is not None:
                run.average.update_parameters(run.network)
            losses.append(value)
            steps.set_postfix(loss=f"{value:.3f}")
        logits = predict(run.evaluated, held_out, spec, fabric.device)
        figures = {
            "epoch": epoch + 1.0,
            "loss": float(np.mean(losses)),
            "held_out_accuracy": float((logits.argmax(1) == held_out.labels).mean()),
        }
        history.append(figures)
        checkpoint = _checkpoint(run, family, config, recipe, pictures, epoch + 1, history, logits, held_out)
        checkpoint.save(last)
        if best is None or checkpoint.held_out["accuracy"] >= best.held_out["accuracy"]:
            best = checkpoint
            best.save(out / "best.pt")
        if report is not None:
            report(figures)
    if best is None:
        raise TrainingError(
            f"nothing to train: {last} already holds all {recipe.epochs} epochs but no best.pt is there"
        )
    return best


def split(pictures: Pictures, recipe: Recipe) -> tuple[Pictures, Pictures]:
    """Set the held-out slice aside, stratified by label, near-identical pictures on the same side.

    Raises:
        CorpusError: too few pictures of a class.
    """
    counts = np.bincount(pictures.labels, minlength=len(pictures.names))
    if counts.min() < 2:
        raise CorpusError(
            f"{pictures.corpus}: {counts.min()} pictures of {pictures.names[int(counts.argmin())]}; "
            "expected at least 2 of every class"
        )
    folds = max(2, round(1 / recipe.held_out))
    groups = difference_hash(pictures.pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class may have fewer members than there are folds
        folding = StratifiedGroupKFold(folds, shuffle=True, random_state=recipe.seed)
        learn, held_out = next(iter(folding.split(pictures.pixels, pictures.labels, groups)))
    return pictures.subset(learn), pictures.subset(held_out)


def steps_per_epoch(count: int, recipe: Recipe) -> int:
    """Whole batches only: a last small one would upset batch normalisation."""
    return max(1, count // recipe.batch)


def batches(
    pictures: Pictures, recipe: Recipe, spec: InputSpec, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of shuffled, augmented, normalised batches: (N, 1, H, W) float32 and (N,) int64."""
    generator = torch.Generator().manual_seed(_seed(recipe, epoch))
    order = torch.randperm(len(pictures), generator=generator)
    pixels, labels = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.labels)
    for step in range(steps_per_epoch(len(pictures), recipe)):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        changed = augment(pixels[chosen, None].float(), recipe, generator)
        yield torch.from_numpy(normalise(changed.numpy(), spec.normalisation)), labels[chosen]


def predict(
    network: nn.Module, pictures: Pictures, spec: InputSpec, device: torch.device | str = "cpu"
) -> metrics.Logits:
    """Logits (N, K) float32 in evaluation mode and full precision."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), EVALUATION_BATCH):
            faces = normalise(pictures.pixels[start : start + EVALUATION_BATCH, None], spec.normalisation)
            parts.append(network(torch.from_numpy(faces).to(device)).float().cpu().numpy())
    return np.concatenate(parts)


def _seed(recipe: Recipe, epoch: int) -> int:
    return recipe.seed * 100_003 + epoch


def _start(family: Family, config: Any, recipe: Recipe, count: int) -> Run:
    for value, allowed, what in ((recipe.optimizer, OPTIMIZERS, "optimizer"), (recipe.schedule, SCHEDULES, "schedule")):
        if value not in allowed:
            raise TrainingError(f"unknown {what} {value!r}; expected one of {', '.join(allowed)}")
    network = family.build(config)
    rate, decay = recipe.learning_rate, recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=recipe.momentum, weight_decay=decay)
    else:
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(network.parameters(), lr=rate, weight_decay=decay)
    schedule: torch.optim.lr_scheduler.LRScheduler
    if recipe.schedule == "one_cycle":
        total = recipe.epochs * steps_per_epoch(count, recipe)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total + 1, pct_start=0.1)
    else:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    average = None
    if recipe.average:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
    return Run(network, average, optimizer, schedule)


def _restore(run: Run, last: Path, family: Family, config: Any, recipe: Recipe) -> None:
    from train.checkpoint import load

    stored = load(last)
    if (stored.family, stored.config, stored.recipe) != (family.name, plain(config), plain(recipe)):
        raise TrainingError(f"{last} was trained with other settings; give the same ones, or another --out")
    run.network.load_state_dict(stored.state["network"])
    run.optimizer.load_state_dict(stored.state["optimizer"])
    run.schedule.load_state_dict(stored.state["schedule"])
    if run.average is not None:
        run.average.load_state_dict(stored.state["average"])
    run.epoch, run.history = stored.epoch, list(stored.state["history"])


def _best(out: Path) -> Checkpoint | None:
    from train.checkpoint import load

    return load(out / "best.pt") if (out / "best.pt").exists() else None


def _checkpoint(
    run: Run,
    family: Family,
    config: Any,
    recipe: Recipe,
    pictures: Pictures,
    epoch: int,
    history: list[dict[str, float]],
    logits: metrics.Logits,
    held_out: Pictures,
) -> Checkpoint:
    temperature = metrics.fit_temperature(logits, held_out.labels)
    probabilities = softmax(logits / temperature, axis=1)
    return Checkpoint(
        family=family.name,
        config=plain(config),
        recipe=plain(recipe),
        labels=pictures.names,
        corpus=pictures.corpus,
        stage="supervised",
        epoch=epoch,
        weights={name: value.detach().cpu() for name, value in run.evaluated.state_dict().items()},
        state={
            "network": run.network.state_dict(),
            "average": None if run.average is None else run.average.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "history": history,
        },
        temperature=temperature,
        abstain_below=metrics.confidence_at_coverage(probabilities),
        held_out={
            "count": float(len(held_out)),
            "accuracy": float((logits.argmax(1) == held_out.labels).mean()),
            "ece": metrics.calibration_error(probabilities, held_out.labels),
        },
    )
