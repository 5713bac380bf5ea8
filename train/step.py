"""A training step: the loss of a batch and its gradients, kernel by kernel or recorded once as a CUDA graph.

A step of a small network is some hundred kernels of a few microseconds each, and a GPU waits for Python between them; a
graph is launched whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

WARM_UP = 3
"""Steps before the recording: they find the fastest convolutions and allocate what those need."""


class Step:
    """A forward and a backward pass."""

    def __init__(self, forward: Callable[..., Tensor], backward: Callable[[Tensor], Any], module: nn.Module) -> None:
        """What a step is made of: the loss of a batch, its gradients, and the module that they belong to."""
        self._forward, self._backward, self._module = forward, backward, module

    def __call__(self, *batch: Any) -> Tensor:
        """Put the batch's gradients into the module's parameters; the loss, a scalar without gradient."""
        self._module.zero_grad(set_to_none=True)
        loss = self._forward(*batch)
        self._backward(loss)
        return loss.detach()


class RecordedStep(Step):
    """The same, launched as one graph.

    All batches have the first one's shapes, and nothing in the step may wait for the GPU, or choose by its values.
    """

    def __init__(self, forward: Callable[..., Tensor], backward: Callable[[Tensor], Any], module: nn.Module) -> None:
        """See the base class."""
        super().__init__(forward, backward, module)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._loss = torch.empty(0)

    def __call__(self, *batch: Any) -> Tensor:
        """See the base class."""
        leaves = pytree.tree_leaves(batch)
        if self._graph is None:
            self._graph = self._record(batch)
        for mine, given in zip(self._given, leaves, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _record(self, batch: tuple[Any, ...]) -> torch.cuda.CUDAGraph:
        mine = pytree.tree_map(lambda value: value.clone(), batch)
        self._given = pytree.tree_leaves(mine)
        # Trying steps out must not count: normalisations keep their statistics as buffers.
        kept = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                super().__call__(*mine)
        torch.cuda.current_stream().wait_stream(aside)
        for buffer, before in kept:
            buffer.copy_(before)
        # Without gradients to add to, the recorded pass writes them anew each time.
        self._module.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = super().__call__(*mine)
        return graph
