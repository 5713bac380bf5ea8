"""What each family is trained by: named stages, one after another.

A stage is of one of four kinds. ``supervised`` and ``autoencoder`` follow a gradient, ``contrastive`` updates a
restricted Boltzmann machine batch by batch, ``closed`` fits something at once. Each says what a step is; the loop takes
the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge.bundle import InputSpec
from train.augment import mix
from train.batches import in_order, seen_well_and_worse, tensors
from train.examples import Examples
from train.models import conv_lstm, dam_cnn, emotional_vlan, two_stream
from train.models.family import Family
from train.models.trunks import Trunk, TrunkError, load_trunk
from train.recipe import Recipe

CONTRASTIVE_RATE = 0.05
"""Learning rate of contrastive divergence. Zhang et al. 2019 print none; an RBM on inputs in 0..1 wants about this."""


@dataclass
class Work:
    """One training run: what it learns from, and all modules that its stages change."""

    family: Family
    config: Any
    recipe: Recipe
    learn: Examples
    held_out: Examples
    """May be empty: then the last epoch counts."""
    network: nn.Module
    trunk: Path | None = None
    """Published weights to start the family's trunks from; None starts from scratch."""
    stills: Examples | None = None
    """Faces for the single-face path of the AFEW form; None takes the clips' last frames."""
    answers: npt.NDArray[np.float32] | None = None
    """What the run's teachers say of ``learn``, (N, K) probabilities; None without any, or where they are asked."""
    ask: Callable[[dict[str, Tensor]], Tensor] | None = None
    """The run's teachers, where they answer to what the network is shown: tensors by name to (N, K) probabilities."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """The network's inputs."""
        return self.family.inputs(self.config)


class Stage(ABC):
    """One stage of one run."""

    name: str
    kind: str

    def __init__(self, work: Work, name: str) -> None:
        self.work, self.name = work, name

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What this stage changes (and what its checkpoints hold)."""

    def begin(self) -> None:  # noqa: B027 - most stages need no preparation
        """Compute what the stage learns from. Called once before its first step, also after a resume."""

    def finish(self) -> None:  # noqa: B027 - most stages leave their module as it is
        """Hand the result on. Called once after the last step, with the best weights in the module."""


class Stepwise(Stage):
    """A stage that walks over batches, epoch by epoch."""

    first = True
    """Whether the recipe's first epochs and rate count for it, or the second ones."""
    gradient = True
    """Whether a step gives a loss to follow, or has already changed the module."""

    @property
    def count(self) -> int:
        """How many examples an epoch draws from."""
        return len(self.work.learn)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """(count,) numbers, equal where an epoch draws one example among several; None where it takes all."""
        return None

    @abstractmethod
    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """The arguments of :meth:`step` for these examples; all randomness from the generator."""

    @abstractmethod
    def loss(self, *batch: Any) -> Tensor:
        """The loss of a batch, a scalar; for a stage without gradient, its error after the update."""

    @abstractmethod
    def figure(self) -> float | None:
        """What the held-out slice says, higher is better; None where nothing was held out."""


class Closed(Stage):
    """A stage that is fitted at once."""

    kind = "closed"

    @abstractmethod
    def fit(self) -> None:
        """Do it."""


class Supervised(Stepwise):
    """Follow a loss of the network's inputs and labels; cross-entropy by default."""

    kind = "supervised"

    def __init__(
        self,
        work: Work,
        name: str,
        network: nn.Module,
        *,
        specs: tuple[InputSpec, ...] | None = None,
        loss: Callable[..., Tensor] | None = None,
        learn: Examples | None = None,
        held_out: Examples | None = None,
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(work, name)
        self._network, self._specs, self._loss = network, specs or work.specs, loss
        self._learn = work.learn if learn is None else learn
        self._held_out = work.held_out if held_out is None else held_out
        self._finish = finish

    @property
    def module(self) -> nn.Module:
        """See the base class."""
        return self._network

    @property
    def count(self) -> int:
        """See the base class."""
        return len(self._learn)

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """See the base class; ``recipe.one_each`` asks for one of each sequence."""
        if not self.work.recipe.one_each:
            return None
        return np.unique(np.array(self._learn.sequences), return_inverse=True)[1].astype(np.int64)

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """Augmented tensors by argument name, and labels (N,) int64, or shares of each (N, K) float32.

        Where teachers are asked, those shares and, third, the tensors that the teachers see.
        """
        recipe, device = self.work.recipe, self.work.device
        draws = generator
        if device.type != "cpu":
            seed = int(torch.randint(2**62, (1,), generator=generator))
            draws = torch.Generator(device).manual_seed(seed)
        places = chosen.numpy()
        labels = torch.from_numpy(self._learn.labels[places]).to(device)
        if self._ask is not None:
            return self._asked(places, labels, draws, generator)
        given = tensors(self._learn, places, self._specs, recipe, draws, device)
        answers = self.work.answers if self._taught else None
        if self._loss is not None or (not recipe.mixup and answers is None):
            return given, labels
        shares = functional.one_hot(labels, len(self._learn.names)).float()
        if answers is not None:
            shares = torch.lerp(shares, torch.from_numpy(answers[places]).to(device), recipe.distil)
        return mix(given, shares, recipe.mixup, generator) if recipe.mixup else (given, shares)

    def _asked(
        self, places: npt.NDArray[np.int64], labels: Tensor, draws: torch.Generator, generator: torch.Generator
    ) -> tuple[Any, ...]:
        """What the network is shown, shares of each label, and what its teachers are asked of: mixed alike."""
        recipe = self.work.recipe
        well, worse = seen_well_and_worse(self._learn, places, self._specs, recipe, draws, labels.device)
        shares = functional.one_hot(labels, len(self._learn.names)).float()
        if recipe.mixup:
            both = {(who, name): value for who, some in enumerate((worse, well)) for name, value in some.items()}
            both, shares = mix(both, shares, recipe.mixup, generator)
            worse, well = ({name: value for (of, name), value in both.items() if of == who} for who in (0, 1))
        return worse, shares, well

    @property
    def _taught(self) -> bool:
        """Whether it learns from what the run's teachers know, and not from other pictures."""
        return self._learn is self.work.learn

    @property
    def _ask(self) -> Callable[[dict[str, Tensor]], Tensor] | None:
        # A loss of its own takes labels, not shares of them.
        return self.work.ask if self._taught and self._loss is None else None

    def loss(self, given: dict[str, Tensor], labels: Tensor, well: dict[str, Tensor] | None = None) -> Tensor:
        """A scalar."""
        if self._loss is not None:
            return self._loss(*given.values(), labels)
        if self._ask is not None:
            assert well is not None
            labels = torch.lerp(labels.float(), self._ask(well), self.work.recipe.distil)
        return functional.cross_entropy(
            self._network(**given), labels, label_smoothing=self.work.recipe.label_smoothing
        )

    def figure(self) -> float | None:
        """Accuracy on the held-out slice."""
        if not len(self._held_out):
            return None
        guess = predict(self._network, self._held_out, self._specs, self.work.device).argmax(1)
        return float((guess == self._held_out.labels).mean())

    def finish(self) -> None:
        """See the base class."""
        self._finish()


class Features(Stepwise):
    """A stage over features that were computed once: (N, D) float32, one row an example."""

    first = False

    def __init__(self, work: Work, name: str, describe: Callable[[dict[str, Tensor]], Tensor]) -> None:
        super().__init__(work, name)
        self._describe = describe
        self._features = self._held_features = torch.empty(0, 0)

    def begin(self) -> None:
        """Compute the features of the learning and the held-out part, as they are outside training."""
        self.work.network.eval()
        self._features = describe_all(self._describe, self.work.learn, self.work.specs, self.work.device)
        if len(self.work.held_out):
            self._held_features = describe_all(self._describe, self.work.held_out, self.work.specs, self.work.device)

    @property
    def labels(self) -> Tensor:
        """(N,) int64 of the learning part."""
        return torch.from_numpy(self.work.learn.labels)


class MultiPath(Features):
    """DAM-CNN's second step: reconstruct other samples of the class, and classify (Xie et al. 2019, Algorithm 1)."""

    kind = "autoencoder"

    def __init__(self, work: Work, network: dam_cnn.DAMCNN) -> None:
        super().__init__(work, "multi-path", lambda given: network.salient(given["face"]))
        self._network = network
        self._variation: Tensor | None = None
        if work.learn.variations:
            named = sorted({str(value) for value in work.learn.variations})
            if len(named) == work.config.decoders:
                self._variation = torch.tensor([named.index(str(value)) for value in work.learn.variations])

    @property
    def module(self) -> nn.Module:
        """MPVS-Net alone: all before it stays as step 1 left it."""
        return self._network._mpvs()

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """Salient features (N, 25088), those to reconstruct (N, decoders, 25088), labels (N,)."""
        rows = dam_cnn.draw_targets(self.labels, chosen, self.work.config.decoders, generator, self._variation)
        return self._features[chosen], self._features[rows], self.labels[chosen]

    def loss(self, salient: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """Equation (11)."""
        return self._network.step_two_loss(salient, targets, labels)

    def figure(self) -> float | None:
        """Accuracy on the held-out slice."""
        if not len(self.work.held_out):
            return None
        with torch.inference_mode():
            logits = self.module.eval()(self._held_features.to(self.work.device))
        return float((logits.argmax(1).cpu().numpy() == self.work.held_out.labels).mean())


class Contrastive(Features):
    """One RBM of the belief network, by contrastive divergence (Zhang et al. 2019, equation 4)."""

    kind = "contrastive"
    gradient = False

    def __init__(self, work: Work, network: two_stream.TwoStream, layer: int) -> None:
        super().__init__(
            work, f"contrastive-{layer + 1}", lambda given: network.features(given["frames"], given["flows"])
        )
        assert network.dbn is not None
        self._dbn, self._layer = network.dbn, layer

    def begin(self) -> None:
        """The features' ranges are learnt with the first layer."""
        super().begin()
        if self._layer == 0:
            self._dbn.calibrate(self._features.to(self.work.device))

    @property
    def module(self) -> nn.Module:
        """The whole belief network, so that a resume has its ranges and lower layers too."""
        return self._dbn

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """Features (N, D), and the draws that decide the hidden units' states."""
        units = self._dbn.rbms[self._layer].weight.shape[0]  # type: ignore[index]
        return self._features[chosen], torch.rand(len(chosen), int(units), generator=generator)

    def loss(self, features: Tensor, draws: Tensor) -> Tensor:
        """Update, and the layer's reconstruction error before it."""
        return torch.tensor(self._dbn.pretrain(self._layer, features, CONTRASTIVE_RATE, draws))

    def figure(self) -> float | None:
        """Minus the reconstruction error of this layer on the held-out slice."""
        if not len(self.work.held_out):
            return None
        with torch.inference_mode():
            state = self._dbn.hidden(self._held_features.to(self.work.device), self._layer)
            rbm = self._dbn.rbms[self._layer]
            again = rbm.down(rbm.up(state))  # type: ignore[operator]
        return -float((state - again).square().sum(1).mean())


class FineTune(Features):
    """The belief network by back-propagation, with the reconstruction loss (Zhang et al. 2019, equation 5)."""

    kind = "autoencoder"

    def __init__(self, work: Work, network: two_stream.TwoStream) -> None:
        super().__init__(work, "fine-tune", lambda given: network.features(given["frames"], given["flows"]))
        assert network.dbn is not None
        self._dbn = network.dbn

    @property
    def module(self) -> nn.Module:
        """See the base class."""
        return self._dbn

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        """Features (N, D) and labels (N,)."""
        return self._features[chosen], self.labels[chosen]

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Equation (5) and the cross-entropy."""
        return self._dbn.fine_tuning_loss(features, labels)

    def figure(self) -> float | None:
        """Accuracy of the softmax layer on the held-out slice."""
        if not len(self.work.held_out):
            return None
        with torch.inference_mode():
            guess = self._dbn(self._held_features.to(self.work.device)).argmax(1).cpu().numpy()
        return float((guess == self.work.held_out.labels).mean())


class SupportVectors(Closed):
    """The linear SVM on each video's averaged features (Zhang et al. 2019, section III-D)."""

    def __init__(self, work: Work, network: two_stream.TwoStream) -> None:
        super().__init__(work, "svm")
        self._network = network

    @property
    def module(self) -> nn.Module:
        """See the base class."""
        assert self._network.svm is not None
        return self._network.svm

    def fit(self) -> None:
        """Describe every segment, average by video, fit."""
        network, learn = self._network, self.work.learn

        def describe(given: dict[str, Tensor]) -> Tensor:
            return network.describe(network.features(given.get("frames"), given.get("flows")))

        described = describe_all(describe, learn, self.work.specs, self.work.device)
        known = {name: i for i, name in enumerate(dict.fromkeys(learn.sequences))}
        videos = torch.tensor([known[name] for name in learn.sequences])
        numbers, averaged = two_stream.average_segments(described, videos)
        # Every segment of a video has the video's label.
        labels = torch.from_numpy(learn.labels)[torch.tensor([int((videos == n).nonzero()[0, 0]) for n in numbers])]
        network.fit_svm(averaged, labels)


def plan(work: Work) -> list[Stage]:
    """The stages of a run, in order, their trunks loaded.

    Raises:
        TrunkError: the trunk's file does not fit, or the family has no trunk.
    """
    network = work.network
    if isinstance(network, two_stream.TwoStream):
        return _two_stream(work, network)
    if isinstance(network, dam_cnn.DAMCNN):
        return _dam_cnn(work, network)
    if isinstance(network, emotional_vlan.VlanNetwork):
        _load(work, *network.spatial, *network.temporal)
        return [Supervised(work, "supervised", network)]
    if work.trunk is not None:
        raise TrunkError(f"{work.family.name} has no trunk that published weights fit; leave --trunk out")
    if isinstance(network, conv_lstm.ConvLSTMNetwork) and work.config.two_path:
        return _two_path(work, network)
    return [Supervised(work, "supervised", network)]


def _load(work: Work, *trunks: nn.Module) -> None:
    if work.trunk is not None:
        for trunk in trunks:
            assert isinstance(trunk, Trunk)
            load_trunk(trunk, work.trunk)


def _two_path(work: Work, network: conv_lstm.ConvLSTMNetwork) -> list[Stage]:
    """The single-face path alone, on stills; then the whole."""
    alone = conv_lstm.FaceCNN(work.config.classes, work.config.filters).to(work.device)
    (clip,) = work.specs
    spec = replace(clip, name="face", kind="face", shape=(1, *clip.shape[2:]))
    learn = _stills(work.learn if work.stills is None else work.stills, work.config.side)
    held_out = _stills(work.held_out, work.config.side) if work.stills is None else learn.subset(np.arange(0))

    def finish() -> None:
        network.face.load_state_dict(alone.state_dict())

    face = Supervised(work, "face", alone, specs=(spec,), learn=learn, held_out=held_out, finish=finish)
    return [face, Supervised(work, "supervised", network)]


def _stills(examples: Examples, side: int) -> Examples:
    """Single faces of this size: the stills, or the last frames of clips."""
    pixels = examples.arrays["face"] if "face" in examples.arrays else examples.arrays["clip"][:, -1]
    if len(pixels) and pixels.shape[1:] != (side, side):
        pixels = np.stack([cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR) for picture in pixels])
    return replace(examples, arrays={"face": pixels})


def _two_stream(work: Work, network: two_stream.TwoStream) -> list[Stage]:
    """Each stream alone as a classifier; then, as the mode asks, the belief network; then the SVM."""
    config: two_stream.Config = work.config
    stages: list[Stage] = []
    streams = [name for name in ("spatial", "temporal") if getattr(network, name) is not None]
    twins = {}
    for name in streams:
        alone = replace(config, mode=name, classifier="softmax")
        twins[name] = two_stream.build(alone)
        _load(work, getattr(twins[name], name))
        twins[name].to(work.device)
        last = name == streams[-1]
        finish = (lambda: network.take(*twins.values())) if last else (lambda: None)
        stages.append(Supervised(work, name, twins[name], specs=work.family.inputs(alone), finish=finish))
    if network.dbn is not None:
        stages += [Contrastive(work, network, layer) for layer in range(len(network.dbn.rbms))]
        stages.append(FineTune(work, network))
    if network.svm is not None:
        stages.append(SupportVectors(work, network))
    return stages


def _dam_cnn(work: Work, network: dam_cnn.DAMCNN) -> list[Stage]:
    """VGG-SERD as a classifier; then, with all before it frozen, MPVS-Net."""
    if network.mpvs is None:
        _load(work, network.trunk)
        return [Supervised(work, "supervised", network, loss=network.step_one_loss)]
    first = dam_cnn.build(replace(work.config, variant="vgg_serd"))
    _load(work, first.trunk)
    first.to(work.device)
    serd = Supervised(work, "serd", first, loss=first.step_one_loss, finish=lambda: network.take(first))
    return [serd, MultiPath(work, network)]


def describe_all(
    describe: Callable[[dict[str, Tensor]], Tensor],
    examples: Examples,
    specs: tuple[InputSpec, ...],
    device: torch.device,
) -> Tensor:
    """Features of all examples as they are: (N, D) float32 on the CPU."""
    parts = []
    with torch.inference_mode():
        for _, given in in_order(examples, specs, device):
            parts.append(describe(given).float().cpu())
    # A copy outside inference mode: what comes next wants gradients.
    return torch.cat(parts).clone()


def predict(
    network: nn.Module, examples: Examples, specs: tuple[InputSpec, ...], device: torch.device | str = "cpu"
) -> np.ndarray:
    """Logits (N, K) float32 in evaluation mode and full precision."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for _, given in in_order(examples, specs, device):
            parts.append(network(**given).float().cpu().numpy())
    return np.concatenate(parts)
