"""Restricted Boltzmann machines, and the deep belief network stacked from them (Hinton, Osindero, Teh 2006).

Used by the two-stream family (Zhang et al. 2019, section III-C). Units are binary and their states are given as
probabilities, float32 in 0..1; inputs (N, features).

    DBN-1      8192 | 4096 | C                   each "|" between hidden layers is one RBM, the last is a softmax layer
    DBN-2      8192 | 4096 | 2048 | C
    DBN-3      8192 | 4096 | 2048 | 1024 | C

Points the paper leaves open:
- Its input, fc7 after a ReLU, has no upper bound, and a binary unit's reconstruction can't leave 0..1. Each feature is
  divided by the largest value that the training part has (:meth:`DBN.calibrate`) and clamped to 0..1.
- Equation (4) is applied with one step of contrastive divergence, hidden states sampled in the data phase only and
  probabilities elsewhere (Hinton 2012, section 3); biases follow the same rule.
- Fine-tuning is called supervised, but its only printed loss, equation (5), uses no label. Here the softmax layer's
  cross-entropy is added with a weight, ``supervision``; at 0 it is equation (5) alone. The way down to the
  reconstruction uses the transposed weights of the way up.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear


class RBM(nn.Module):
    """One restricted Boltzmann machine: ``visible`` and ``hidden`` binary units, one weight a pair, one bias a unit."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(hidden, visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))

    def up(self, visible: Tensor) -> Tensor:
        """Probability that each hidden unit is on: (N, visible) in 0..1 -> (N, hidden) in 0..1."""
        return torch.sigmoid(linear(visible, self.weight, self.hidden_bias))

    def down(self, hidden: Tensor) -> Tensor:
        """Probability that each visible unit is on: (N, hidden) in 0..1 -> (N, visible) in 0..1."""
        return torch.sigmoid(linear(hidden, self.weight.T, self.visible_bias))

    @torch.no_grad()
    def update(self, visible: Tensor, rate: float, draws: Tensor | None = None) -> float:
        """One step of equation (4) on a batch: w += rate * (<v h>_data - <v h>_model), expectations over the batch.

        Args:
            visible: (N, visible), 0..1.
            rate: the learning rate.
            draws: uniform random numbers in 0..1 that sample the hidden states, (N, hidden); drawn here if not given.

        Returns:
            The mean squared length of the reconstruction's error, equation (5), before the step.
        """
        data = self.up(visible)
        draws = torch.rand_like(data) if draws is None else draws
        reconstruction = self.down((draws < data).to(data.dtype))
        model = self.up(reconstruction)
        count = len(visible)
        self.weight.add_((data.T @ visible - model.T @ reconstruction) / count, alpha=rate)
        self.hidden_bias.add_((data - model).mean(0), alpha=rate)
        self.visible_bias.add_((visible - reconstruction).mean(0), alpha=rate)
        return float((visible - reconstruction).square().sum(1).mean())


class DBN(nn.Module):
    """RBMs with a softmax layer on top; ``sizes`` counts the units from the input to the last hidden layer."""

    ceiling: Tensor
    """Largest training value of each input feature."""

    def __init__(self, sizes: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.rbms = nn.ModuleList(RBM(visible, hidden) for visible, hidden in pairwise(sizes))
        self.logits = nn.Linear(sizes[-1], classes)
        self.register_buffer("ceiling", torch.ones(sizes[0]))

    @torch.no_grad()
    def calibrate(self, features: Tensor) -> None:
        """Learn each feature's range from the training part's (N, features), >= 0. A feature always 0 stays 0."""
        largest = features.amax(0)
        self.ceiling.copy_(torch.where(largest > 0, largest, 1.0))

    def scale(self, features: Tensor) -> Tensor:
        """(N, features), >= 0 -> (N, features) in 0..1, as the RBMs take them."""
        return (features / self.ceiling).clamp(0, 1)

    def hidden(self, features: Tensor, layers: int | None = None) -> Tensor:
        """Features, unscaled, through the first ``layers`` RBMs (all by default): (N, units of that layer) in 0..1."""
        state = self.scale(features)
        for rbm in self.rbms[:layers]:
            assert isinstance(rbm, RBM)
            state = rbm.up(state)
        return state

    def pretrain(self, layer: int, features: Tensor, rate: float, draws: Tensor | None = None) -> float:
        """One greedy step, equation (4), of one RBM on what the trained ones below it make of unscaled features.

        Returns the reconstruction error of that layer, as :meth:`RBM.update` does.
        """
        rbm = self.rbms[layer]
        assert isinstance(rbm, RBM)
        with torch.no_grad():
            state = self.hidden(features, layer)
        return rbm.update(state, rate, draws)

    def reconstruct(self, features: Tensor) -> Tensor:
        """Up through every RBM and down again: (N, features) unscaled -> (N, features) in 0..1."""
        state = self.hidden(features)
        for rbm in reversed(self.rbms):
            assert isinstance(rbm, RBM)
            state = rbm.down(state)
        return state

    def reconstruction_loss(self, features: Tensor) -> Tensor:
        """Equation (5), ||x - x'||^2 of the scaled input, as a mean over the batch: a scalar."""
        return (self.scale(features) - self.reconstruct(features)).square().sum(1).mean()

    def fine_tuning_loss(self, features: Tensor, labels: Tensor, supervision: float = 1.0) -> Tensor:
        """Equation (5) plus ``supervision`` times the softmax layer's cross-entropy: a scalar.

        Args:
            features: (N, features) float32, >= 0, unscaled.
            labels: (N,) int64.
            supervision: the cross-entropy's weight; 0 is the printed loss alone.
        """
        loss = self.reconstruction_loss(features)
        return loss + supervision * cross_entropy(self(features), labels) if supervision else loss

    def forward(self, features: Tensor) -> Tensor:
        """(N, features) unscaled -> (N, classes) logits of the softmax layer."""
        logits: Tensor = self.logits(self.hidden(features))
        return logits
