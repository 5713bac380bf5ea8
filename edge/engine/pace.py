"""How long an engine takes for a new frame of one face, as the robot asks for it: an image in, logits out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edge.bundle import Bundle
from edge.engine.contract import Engine
from edge.types import Tensor

WARM_S = 0.5
"""Before anything counts: clocks go up when there is work."""

COUNTED_S = 1.5
"""Of work that is timed, unless the fewest frames take longer."""

LEAST = 20

MOST = 2000


@dataclass(frozen=True, slots=True)
class Pace:
    """Milliseconds for a new frame."""

    median: float
    p95: float
    count: int
    """Frames that were timed."""


def pace(bundle: Bundle, engine: Engine) -> Pace:
    """Time an engine on the bundle's golden tensors, for about two seconds.

    Args:
        bundle: that the engine is of.
        engine: loaded.
    """
    step, close = frames(bundle, engine)
    try:
        begun = time.perf_counter()
        step()
        while time.perf_counter() - begun < WARM_S:
            step()
        took: list[float] = []
        begun = time.perf_counter()
        while len(took) < LEAST or (time.perf_counter() - begun < COUNTED_S and len(took) < MOST):
            at = time.perf_counter()
            step()
            took.append(1e3 * (time.perf_counter() - at))
    finally:
        close()
    return Pace(float(np.median(took)), float(np.quantile(took, 0.95)), len(took))


def frames(bundle: Bundle, engine: Engine) -> tuple[Callable[[], object], Callable[[], None]]:
    """A function that answers one new frame each time it is called, its window being full, and one that ends it."""
    tensors = bundle.window(bundle.cases[0])
    if not bundle.manifest.streams:
        return lambda: engine.run(tensors), lambda: None
    length = next(iter(tensors.values())).shape[1]
    images: list[Mapping[str, Tensor]] = [
        {name: np.ascontiguousarray(tensor[:, at]) for name, tensor in tensors.items()} for at in range(length)
    ]
    memory, at = engine.remember(), 0

    def step() -> None:
        nonlocal at
        memory.answer(images[at % length])
        at += 1

    for _ in range(length):
        step()
    return step, memory.close
