"""What a training step costs at full size: ``python -m train.sizes [FAMILY ...]``, each in a process of its own."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from edge.bundle import InputSpec
from train.examples import Examples
from train.models import FAMILIES
from train.stages import Stepwise, Work, plan

CLIPS, FACES = 1, 2
"""Examples a step: a segment of two streams is thirty pictures, so one is enough."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m train.sizes", description="One step of every stage at full size.")
    parser.add_argument("families", nargs="*", help=f"some of {', '.join(FAMILIES)} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := set(options.families) - set(FAMILIES):
        print(f"sizes: unknown family {', '.join(unknown)}; expected some of {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    if len(options.families) == 1:
        measure(options.families[0])
        return 0
    return max(subprocess.call([sys.executable, "-m", "train.sizes", name]) for name in options.families or FAMILIES)


def measure(name: str) -> None:
    """Take one step of each stage with the paper's own optimiser on made-up pixels; print time and peak memory."""
    family = FAMILIES[name]
    config = family.config()
    inputs = family.inputs(config)
    count = FACES if inputs[0].kind == "face" else CLIPS
    rng = np.random.default_rng(0)
    examples = Examples(
        corpus="made up",
        names=tuple(f"label {i}" for i in range(config.classes)),
        arrays={spec.name: rng.integers(0, 256, _shape(spec, count), dtype=np.uint8) for spec in inputs},
        labels=np.zeros(count, np.int64),
        subjects=(None,) * count,
        sequences=tuple(map(str, range(count))),
        splits=(None,) * count,
        originals=np.ones(count, bool),
    )
    recipe = family.recipes["paper"]
    work = Work(family, config, recipe, examples, examples.subset(np.arange(0)), family.build(config))
    for stage in plan(work):
        if not isinstance(stage, Stepwise):
            continue
        begun = time.perf_counter()
        stage.begin()
        stage.module.train()
        batch = stage.batch(torch.arange(count), torch.Generator().manual_seed(0))
        loss = stage.loss(*batch)
        if stage.gradient:
            loss.backward()
            parameters = [parameter for parameter in stage.module.parameters() if parameter.requires_grad]
            kind = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.Adam
            kind(parameters, lr=recipe.learning_rate).step()
            stage.module.zero_grad(set_to_none=True)
        spent, peak = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:<15} {stage.name:<14} {spent:6.1f} s   peak {peak:5.2f} GiB so far", flush=True)


def _shape(spec: InputSpec, count: int) -> tuple[int, ...]:
    time_axis = () if spec.kind == "face" else (spec.shape[1],)
    return (count, *time_axis, spec.height, spec.width, *((3,) if spec.channels == 3 else ()))


if __name__ == "__main__":
    sys.exit(main())
