"""What the loop costs beside the network itself: ``python -m train.speed --data FER2013_FOLDER``.

Both figures come from one run, interleaved, so that a busy machine slows both: a step of the loop's pieces (choose,
augment, normalise, forward, backward, update) against the network's bare step on a tensor that never changes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from edge.errors import EdgeError
from train.batches import epoch_order, tensors
from train.datasets import PICTURES
from train.models import FAMILIES
from train.models.cspp import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.speed", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, required=True, help="FER2013's folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args(arguments)
    try:
        ratio = measure(options.data, options.rounds, options.batch)
    except EdgeError as error:
        print(f"speed: {error}", file=sys.stderr)
        return 2
    print(f"a step of the loop takes {ratio:.2f} times the network's bare step (median of {options.rounds} rounds)")
    return 0


def measure(data: Path, rounds: int = 15, batch: int = 128) -> float:
    """The loop's time a step over the bare network's, C-SPP with the ``fer2013`` recipe: the median over rounds."""
    family = FAMILIES["cspp"]
    config, recipe = Config(batch_norm=True), family.recipes["fer2013"]
    examples = PICTURES["fer2013"](data, "train")
    specs = family.inputs(config)
    network = family.build(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    order = epoch_order(len(examples), batch, 0)
    fixed = tensors(examples, order[0].numpy(), specs)
    labels = torch.from_numpy(examples.labels[order[0].numpy()])

    def step(given: dict[str, torch.Tensor], wanted: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(network(**given), wanted, label_smoothing=recipe.label_smoothing).backward()
        optimizer.step()

    def bare() -> None:
        step(fixed, labels)

    def whole(number: int) -> None:
        chosen = order[number % len(order)].numpy()
        step(tensors(examples, chosen, specs, recipe, generator), torch.from_numpy(examples.labels[chosen]))

    for number in range(3):
        bare()
        whole(number)
    ratios = []
    for number in range(rounds):
        begun = time.perf_counter()
        bare()
        between = time.perf_counter()
        whole(number)
        ratios.append((time.perf_counter() - between) / (between - begun))
    return float(np.median(ratios))


if __name__ == "__main__":
    sys.exit(main())
