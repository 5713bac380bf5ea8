"""The training loop: read it from top to bottom.

Lightning Fabric places tensors, averages gradients over processes and scales bf16; the rest is plain PyTorch.
Everything random in an epoch comes from generators seeded by (seed, stage, epoch), so a resumed run takes the same
steps as one that was never stopped, and several processes take the steps of one: each computes its share of the batch.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from edge.errors import EdgeError
from train import metrics, teachers
from train.batches import epoch_order
from train.checkpoint import Checkpoint, load, plain
from train.datasets.errors import CorpusError
from train.examples import Examples
from train.models.family import Family
from train.recipe import OPTIMIZERS, SCHEDULES, Recipe
from train.stages import Closed, Stage, Stepwise, Work, plan, predict
from train.step import RecordedStep, Step
from train.twins import difference_hash

LOOK = 20
"""Steps from one look at the loss to the next: a look waits for all that a GPU still has to do."""


class TrainingError(EdgeError):
    """Training can't go on: the loss is not a number, the disk is full, or the checkpoint is another run's."""


@dataclass(frozen=True)
class Settings:
    """Where and how a run computes; none of it changes what is learnt, but for rounding."""

    precision: str = "32-true"
    """Fabric's: ``32-true`` or ``bf16-mixed``; ``auto`` is the latter where the machine computes in it."""
    accelerator: str = "auto"
    """Fabric's: ``auto``, ``cpu`` or ``cuda``."""
    devices: int = 1
    """Processes on this machine; under ``torchrun`` its own number counts."""
    resume: bool = False
    """Go on from ``last.pt`` where it exists."""
    trunk: Path | None = None
    """Published weights to start the trunks from."""
    stills: Examples | None = None
    """Faces for the single-face path of the AFEW form."""
    start: Path | None = None
    """An earlier run's checkpoint: its weights are where this one begins."""
    teachers: tuple[Path, ...] = ()
    """Earlier runs' checkpoints, whose answers are learnt beside the labels, ``recipe.distil`` of them."""
    record: bool = False
    """Record a step as a CUDA graph and launch it whole (:mod:`train.step`); on one GPU."""
    progress: bool = True
    """Show a bar where somebody is looking."""


@dataclass
class Place:
    """How far a run has come."""

    stage: int = 0
    """Stages finished."""
    epoch: int = 0
    """Epochs finished in the stage after those."""
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    family: Family,
    config: Any,
    recipe: Recipe,
    examples: Examples,
    out: Path,
    settings: Settings | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Checkpoint:
    """Train one network on one corpus, stage by stage.

    Args:
        family: which network.
        config: an instance of ``family.config``.
        recipe: how.
        examples: the training part; ``recipe.held_out`` of it is set aside, no subject and no picture on both sides.
        out: folder for ``last.pt`` (after each ``recipe.every`` epochs, to resume from), for ``best.pt`` (the result)
            and for TensorBoard's files.
        settings: where it computes.
        report: called after each epoch and each closed stage with its figures.

    Returns:
        The last stage's best network, with temperature and abstention threshold fitted on the held-out slice.

    Raises:
        TrainingError: NaN loss, a full disk, or a checkpoint of other settings; the last good checkpoint stays.
        CorpusError: a class without a picture.
        TeacherError: an earlier run that this one can't start or learn from.
    """
    settings = settings or Settings()
    _check(recipe)
    fabric = _fabric(settings)
    if settings.record and (fabric.device.type != "cuda" or fabric.world_size > 1):
        raise TrainingError(
            f"a step can be recorded on one CUDA GPU alone, this runs on {fabric.world_size} of {fabric.device.type}; "
            "leave --record out"
        )
    learn, held_out = split(examples, recipe)
    torch.manual_seed(recipe.seed)
    network = family.build(config)
    work = Work(family, config, recipe, learn, held_out, network, settings.trunk, settings.stills, device=fabric.device)
    if settings.start is not None:
        teachers.weights(settings.start, family, network, recipe)
    if bool(settings.teachers) != bool(recipe.distil):
        raise TrainingError(
            f"{len(settings.teachers)} teachers and {recipe.distil:g} of the labels from them; "
            "expected both --teacher and --distil, or neither"
        )
    if recipe.matched and not settings.teachers:
        raise TrainingError("matched answers of no teacher; give --teacher and --distil, or leave --matched out")
    if recipe.turns and not recipe.matched:
        raise TrainingError("turns of teachers that are asked once, not at every step; give --matched, or no --turns")
    if settings.teachers:
        if recipe.matched:
            work.ask = teachers.panel(settings.teachers, learn, work.specs, recipe, fabric.device)
        else:
            work.answers = teachers.answers(settings.teachers, learn, recipe, fabric.device)
    stages = plan(work)
    network.to(fabric.device)
    run = _Run(fabric, work, stages, copies_of(held_out, examples), out, settings, report)
    place = run.restore() if settings.resume and (out / "last.pt").exists() else Place()
    for index in range(place.stage, len(stages)):
        stage = stages[index]
        stage.begin()
        if isinstance(stage, Closed):
            stage.fit()
            run.tell(run.note(place, stage, {"held_out_accuracy": run.accuracy()}))
        elif isinstance(stage, Stepwise):
            run.walk(place, index, stage)
        stage.finish()
        place.stage, place.epoch = index + 1, 0
        run.save(place, None)
    if isinstance(stages[-1], Closed):
        run.keep(run.checkpoint(place, stages[-1].name), "best.pt")
    run.close()
    return load(out / "best.pt")


class _Run:
    """One call of :func:`train`."""

    def __init__(
        self,
        fabric: Fabric,
        work: Work,
        stages: list[Stage],
        copies: Examples,
        out: Path,
        settings: Settings,
        report: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.fabric, self.work, self.stages, self.out = fabric, work, stages, out
        self._copies = copies
        self._progress, self._report, self._record = settings.progress, report, settings.record
        self._log = _tensorboard(out) if fabric.is_global_zero else None
        self._resumed: dict[str, Any] = {}

    def walk(self, place: Place, index: int, stage: Stepwise) -> None:
        """A stage's epochs, from where it stands to its last or until it no longer improves."""
        recipe, fabric = self.work.recipe, self.fabric
        epochs = recipe.epochs if stage.first else recipe.second_epochs or recipe.epochs
        rate = recipe.learning_rate if stage.first else recipe.second_rate or recipe.learning_rate
        steps = len(epoch_order(stage.count, recipe.batch, 0, stage.groups))
        trained = _Trained(stage)
        if not any(isinstance(module, nn.Conv3d) for module in stage.module.modules()):
            # A third faster on CPUs with bf16, never slower; it is a layout of pictures, not of clips.
            stage.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = None
        if recipe.average and stage.gradient:
            average = AveragedModel(stage.module, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
        optimizer, schedule = _optimizer(recipe, stage, rate, epochs * steps)
        best: dict[str, torch.Tensor] = {}
        best_figure, best_epoch = -math.inf, 0
        if self._resumed:
            stage.module.load_state_dict(self._resumed["module"])
            optimizer.load_state_dict(self._resumed["optimizer"])
            schedule.load_state_dict(self._resumed["schedule"])
            if average is not None:
                average.load_state_dict(self._resumed["average"])
            best, best_figure = self._resumed["best"], self._resumed["best_figure"]
            best_epoch = self._resumed["best_epoch"]
            self._resumed = {}
        step: Callable[..., torch.Tensor] = trained
        if stage.gradient:
            ready, optimizer = fabric.setup(trained, optimizer)
            step = (RecordedStep if self._record else Step)(ready, fabric.backward, stage.module)
        for epoch in range(place.epoch, epochs):
            loss = self._epoch(stage, step, optimizer, schedule, average, index, epoch, epochs)
            place.epoch = epoch + 1
            if (epoch + 1) % recipe.every and epoch + 1 < epochs:
                self.tell(self.note(place, stage, {"loss": loss}))
                continue
            raw = None
            if average is not None:
                # What counts is the average: it stands in for the module while that is looked at.
                raw = deepcopy(stage.module.state_dict())
                stage.module.load_state_dict(average.module.state_dict())
            figure = stage.figure()
            if figure is None or figure >= best_figure:
                best = {name: value.detach().cpu().clone() for name, value in stage.module.state_dict().items()}
                best_figure, best_epoch = (-math.inf if figure is None else figure), epoch + 1
            name = "held_out_accuracy" if stage.kind != "contrastive" else "held_out_figure"
            entry = self.note(place, stage, {"loss": loss} | ({} if figure is None else {name: figure}))
            if index == len(self.stages) - 1 and best_epoch == epoch + 1:
                checkpoint = self.checkpoint(place, stage.name)
                self.keep(checkpoint, "best.pt")
            if raw is not None:
                stage.module.load_state_dict(raw)
            self.save(
                place,
                {
                    "module": stage.module.state_dict(),
                    "average": None if average is None else average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "best": best,
                    "best_figure": best_figure,
                    "best_epoch": best_epoch,
                },
            )
            self.tell(entry)
            if recipe.patience and epoch + 1 - best_epoch >= recipe.patience:
                break
        if best:
            stage.module.load_state_dict(best)

    def _epoch(
        self,
        stage: Stepwise,
        step: Callable[..., torch.Tensor],
        optimizer: Any,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        average: AveragedModel | None,
        index: int,
        epoch: int,
        epochs: int,
    ) -> float:
        """One pass over the examples; the mean loss."""
        recipe, fabric = self.work.recipe, self.fabric
        torch.manual_seed(_seed(recipe, index, epoch) + fabric.global_rank)
        generator = torch.Generator().manual_seed(_seed(recipe, index, epoch))
        stage.module.train()
        losses: list[torch.Tensor] = []
        batches = epoch_order(stage.count, recipe.batch, _seed(recipe, index, epoch), stage.groups)
        shown = self._progress and fabric.is_global_zero
        steps = tqdm(batches, desc=f"{stage.name} {epoch + 1}/{epochs}", leave=False, disable=None if shown else True)
        for number, chosen in enumerate(steps, 1):
            # Every process makes the same batch and keeps its share: the draws don't depend on how many there are.
            batch = _share(stage.batch(chosen, generator), fabric)
            loss = step(*batch)
            if stage.gradient:
                optimizer.step()
                schedule.step()
                if average is not None:
                    average.update_parameters(stage.module)
            losses.append(loss.detach())
            if number % LOOK == 0 or number == len(batches):
                latest = torch.stack(losses[-LOOK:]).tolist()
                if not math.isfinite(sum(latest)):
                    raise TrainingError(
                        f"loss is {sum(latest)} in epoch {epoch + 1} of {stage.name}; the last good checkpoint is "
                        f"{self.out / 'last.pt'}; lower --learning-rate and --resume"
                    )
                steps.set_postfix(loss=f"{latest[-1]:.3f}")
        mean = fabric.all_reduce(torch.stack(losses).mean().to(fabric.device), reduce_op="mean")
        assert isinstance(mean, torch.Tensor)
        return float(mean)

    def note(self, place: Place, stage: Stage, figures: dict[str, Any]) -> dict[str, Any]:
        """Write figures down, for the history and for TensorBoard."""
        entry = {"stage": stage.name, "kind": stage.kind, "epoch": place.epoch, **figures}
        place.history.append(entry)
        if self._log is not None:
            for name, value in figures.items():
                if isinstance(value, float):
                    self._log.add_scalar(f"{stage.name}/{name}", value, place.epoch)
        return entry

    def tell(self, entry: dict[str, Any]) -> None:
        """Tell whoever listens; what is told has been saved."""
        if self._report is not None and self.fabric.is_global_zero:
            self._report(entry)

    def accuracy(self) -> float | None:
        """Of the whole network on the held-out slice."""
        if not len(self.work.held_out):
            return None
        logits = predict(self.work.network, self.work.held_out, self.work.specs, self.work.device)
        return float((logits.argmax(1) == self.work.held_out.labels).mean())

    def checkpoint(self, place: Place, stage: str) -> Checkpoint:
        """The network as it stands, calibrated where something was held out."""
        work, held_out = self.work, self.work.held_out
        temperature, abstain_below, figures = 1.0, 0.0, {}
        if len(held_out):
            seen = [one for one in (held_out, self._copies) if len(one)]
            logits = np.concatenate([predict(work.network, one, work.specs, work.device) for one in seen])
            temperature = metrics.fit_temperature(logits, np.concatenate([one.labels for one in seen]))
            probabilities = softmax(logits / temperature, axis=1)
            abstain_below = metrics.confidence_at_coverage(probabilities)
            # Judged on the corpus' own pictures; those come first.
            own = slice(len(held_out))
            figures = {
                "count": float(len(held_out)),
                "accuracy": float((logits[own].argmax(1) == held_out.labels).mean()),
                "ece": metrics.calibration_error(probabilities[own], held_out.labels),
            }
        return Checkpoint(
            **self._run_facts(),
            stage=stage,
            complete=stage == self.stages[-1].name,
            epoch=place.epoch,
            weights={name: value.detach().cpu().clone() for name, value in work.network.state_dict().items()},
            state={"history": list(place.history)},
            temperature=temperature,
            abstain_below=abstain_below,
            held_out=figures,
        )

    def _run_facts(self) -> dict[str, Any]:
        """What every checkpoint of this run says alike."""
        work = self.work
        return {
            "family": work.family.name,
            "config": plain(work.config),
            "recipe": plain(work.recipe),
            "labels": work.learn.names,
            "corpus": work.learn.corpus,
            "synthetic": work.learn.synthetic,
            "flow": None if work.learn.flow is None else dict(work.learn.flow),
        }

    def save(self, place: Place, current: dict[str, Any] | None) -> None:
        """``last.pt``: every stage's module, and where the current one stands."""
        done = {stage.name: stage.module.state_dict() for stage in self.stages[: place.stage]}
        stage = self.stages[min(place.stage, len(self.stages) - 1)]
        checkpoint = Checkpoint(
            **self._run_facts(),
            stage=stage.name,
            complete=place.stage == len(self.stages),
            epoch=place.epoch,
            weights=self.work.network.state_dict(),
            state={"done": done, "stage": place.stage, "current": current, "history": list(place.history)},
            temperature=1.0,
            abstain_below=0.0,
            held_out={},
        )
        self.keep(checkpoint, "last.pt")

    def restore(self) -> Place:
        """Go back to ``last.pt``: finished stages' modules, their results handed on, and the current one's state."""
        stored = load(self.out / "last.pt")
        wanted = (self.work.family.name, plain(self.work.config), plain(self.work.recipe), self.work.learn.names)
        if (stored.family, stored.config, stored.recipe, stored.labels) != wanted:
            raise TrainingError(
                f"{self.out / 'last.pt'} was trained with other settings; give the same ones, or another --out"
            )
        self.work.network.load_state_dict(stored.weights)
        for stage in self.stages[: stored.state["stage"]]:
            stage.module.load_state_dict(stored.state["done"][stage.name])
            stage.finish()
        self._resumed = stored.state["current"] or {}
        return Place(stored.state["stage"], stored.epoch, list(stored.state["history"]))

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._log is not None:
            self._log.close()

    def keep(self, checkpoint: Checkpoint, name: str) -> None:
        """Write a checkpoint, once for all processes."""
        if self.fabric.is_global_zero:
            _written(lambda: checkpoint.save(self.out / name), self.out)
        self.fabric.barrier()


class _Trained(nn.Module):
    """A stage's loss as a module's forward, which is where Fabric wraps precision and processes."""

    def __init__(self, stage: Stepwise) -> None:
        super().__init__()
        self.module = stage.module
        # Not a submodule: the stage's own references to its network are not to be registered twice.
        object.__setattr__(self, "_loss", stage.loss)

    def forward(self, *batch: Any) -> torch.Tensor:
        """The loss of a batch."""
        return self._loss(*batch)  # type: ignore[operator]


def split(examples: Examples, recipe: Recipe) -> tuple[Examples, Examples]:
    """Set the held-out slice aside, stratified by label.

    Everything of one subject, of one sequence, and all near-identical pictures stay on one side. Copies made by
    augmentation are learnt from, never held out. With ``held_out`` 0 nothing is set aside.

    Raises:
        CorpusError: too few examples of a class.
    """
    counts = np.bincount(examples.labels, minlength=len(examples.names))
    if not len(examples) or counts.min() < 2:
        fewest = int(counts.argmin())
        raise CorpusError(
            f"{examples.corpus}: {counts[fewest]} examples of {examples.names[fewest]}; "
            "expected at least 2 of every class"
        )
    # Copies follow what they were made of, and have no say in what is held out: runs with and without them agree.
    originals = np.flatnonzero(examples.originals)
    if recipe.held_out <= 0:
        return examples, examples.subset(originals[:0])
    groups = related(examples.subset(originals))
    largest = int(np.bincount(examples.labels[originals]).max())
    folds = min(round(1 / recipe.held_out), len(set(groups.tolist())), largest)
    if folds < 2:
        return examples, examples.subset(originals[:0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class may have fewer members than there are folds
        folding = StratifiedGroupKFold(folds, shuffle=True, random_state=recipe.held_out_seed)
        _, held_out = next(iter(folding.split(originals, examples.labels[originals], groups)))
    held_out = originals[held_out]
    sequences = {examples.sequences[i] for i in held_out}
    subjects = {examples.subjects[i] for i in held_out} - {None}
    theirs = zip(examples.sequences, examples.subjects, strict=True)
    learn = [i for i, (sequence, subject) in enumerate(theirs) if sequence not in sequences and subject not in subjects]
    return examples.subset(np.array(learn, np.int64)), examples.subset(held_out)


def copies_of(held_out: Examples, examples: Examples) -> Examples:
    """One copy of each held-out picture that has any.

    What a network says is as sure as it may be on the robot when it is fitted to crops as the robot makes them, too.
    """
    held, taken = set(held_out.sequences), dict[str, int]()
    for place in np.flatnonzero(~examples.originals):
        if examples.sequences[place] in held:
            taken.setdefault(examples.sequences[place], int(place))
    return examples.subset(np.array(list(taken.values()), np.int64))


def related(examples: Examples) -> np.ndarray:
    """Which examples belong on one side of any split: (N,) group numbers.

    Two examples are related when they share a known subject, a sequence or a perceptual hash, directly or through
    others.
    """
    count = len(examples)
    keys: list[tuple[int, object]] = []
    for i, (subject, sequence) in enumerate(zip(examples.subjects, examples.sequences, strict=True)):
        keys.append((i, ("sequence", sequence)))
        if subject is not None:
            keys.append((i, ("subject", subject)))
    if any(subject is None for subject in examples.subjects):
        keys += [(i, ("hash", int(value))) for i, value in enumerate(difference_hash(examples.thumbnails))]
    numbers = {key: count + j for j, key in enumerate(dict.fromkeys(key for _, key in keys))}
    rows, columns = [i for i, _ in keys], [numbers[key] for _, key in keys]
    size = count + len(numbers)
    graph = coo_array((np.ones(len(keys), np.int8), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:count])


def _fabric(settings: Settings) -> Fabric:
    """One process, several on this machine, or what ``torchrun`` started."""
    under_torchrun = "LOCAL_WORLD_SIZE" in os.environ
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else settings.devices
    nodes = int(os.environ.get("WORLD_SIZE", devices)) // devices if under_torchrun else 1
    several = devices * nodes > 1
    with _quiet():
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=fastest(settings),  # type: ignore[arg-type]
            # Frozen trunks and unused heads have no gradient in some stages.
            strategy="ddp_find_unused_parameters_true" if several else "auto",
        )
        if several:
            fabric.launch()
    if fabric.device.type == "cuda":
        # All batches have one size, and the first of them finds the fastest convolutions.
        torch.backends.cudnn.benchmark = True
    return fabric


def fastest(settings: Settings) -> str:
    """Fabric's name for the precision; ``auto`` is settled here.

    A CPU without instructions for bf16 imitates it: a step of C-SPP's residual form took twelve times as long on one.
    """
    if settings.precision != "auto":
        return settings.precision
    if settings.accelerator != "cpu" and torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        able = any(getattr(torch.cpu, name, lambda: False)() for name in asked)
    return "bf16-mixed" if able else "32-true"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Fabric tells which precision it uses, which the user has just typed."""
    import logging

    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def _share(batch: tuple[Any, ...], fabric: Fabric) -> tuple[Any, ...]:
    """This process' part of a batch, on its device."""

    def mine(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: mine(part) for name, part in value.items()}
        return value[fabric.global_rank :: fabric.world_size].to(fabric.device)

    return tuple(mine(value) for value in batch)


def _seed(recipe: Recipe, stage: int, epoch: int) -> int:
    return recipe.seed * 100_003 + stage * 10_007 + epoch


def _check(recipe: Recipe) -> None:
    for value, allowed, what in ((recipe.optimizer, OPTIMIZERS, "optimizer"), (recipe.schedule, SCHEDULES, "schedule")):
        if value not in allowed:
            raise TrainingError(f"unknown {what} {value!r}; expected one of {', '.join(allowed)}")
    if min(recipe.batch, recipe.epochs, recipe.every) < 1:
        raise TrainingError(
            f"batch {recipe.batch}, epochs {recipe.epochs} and every {recipe.every}; expected 1 or more of each"
        )


def _optimizer(
    recipe: Recipe, stage: Stepwise, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    else:
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(parameters, lr=rate, weight_decay=recipe.weight_decay)
    if recipe.schedule == "one_cycle":
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
        )
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _written(save: Callable[[], None], out: Path) -> None:
    try:
        save()
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"{out}: the checkpoint can't be written ({reason}); the last good one stays; make room and --resume"
        ) from error


def _tensorboard(out: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed: it is a view, not a result."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
