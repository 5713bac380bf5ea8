"""``python -m train FAMILY``: train one network on one corpus."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from edge.errors import EdgeError
from train.datasets import PICTURES
from train.loop import predict, train
from train.metrics import summarise
from train.models import FAMILIES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _train(options)
    except EdgeError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntrain: stopped; the same command with --resume goes on from {options.out}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train", description="Train one of the published systems.")
    families = parser.add_subparsers(dest="family", required=True, metavar="FAMILY")
    for family in FAMILIES.values():
        command = families.add_parser(family.name, help=family.paper, description=family.paper)
        command.add_argument("--data", type=Path, required=True, help="folder or file of the corpus")
        command.add_argument("--corpus", choices=sorted(PICTURES), default="fer2013")
        command.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
        command.add_argument("--recipe", choices=sorted(family.recipes), default="paper")
        command.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
        command.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
        command.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
        command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
        _add_fields(command.add_argument_group("network"), family.config, skip=("classes",))
        _add_fields(
            command.add_argument_group("recipe, default from --recipe"), type(next(iter(family.recipes.values())))
        )
    return parser


def _add_fields(group: Any, kind: type[Any], skip: tuple[str, ...] = ()) -> None:
    """One option for each field of a configuration dataclass."""
    for entry in fields(kind):
        if entry.name in skip:
            continue
        flag = "--" + entry.name.replace("_", "-")
        if isinstance(entry.default, bool):
            group.add_argument(flag, dest=entry.name, action=argparse.BooleanOptionalAction, default=None)
        else:
            group.add_argument(
                flag, dest=entry.name, type=type(entry.default), default=None, metavar=entry.name.upper()
            )


def _given(options: argparse.Namespace, kind: type[Any]) -> dict[str, Any]:
    values = {entry.name: getattr(options, entry.name, None) for entry in fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _train(options: argparse.Namespace) -> int:
    family = FAMILIES[options.family]
    if options.threads:
        torch.set_num_threads(options.threads)
    pictures = PICTURES[options.corpus](options.data, "train")
    try:
        recipe = replace(family.recipes[options.recipe], **_given(options, type(family.recipes[options.recipe])))
        config = family.config(**{**_given(options, family.config), "classes": len(pictures.names)})
        parameters = sum(p.numel() for p in family.build(config).parameters())
    except ValueError as error:
        raise EdgeError(str(error)) from error
    print(f"{family.name}: {parameters:,} parameters; {pictures.corpus}: {len(pictures):,} pictures", flush=True)
    started = time.monotonic()

    def report(figures: dict[str, float]) -> None:
        print(
            f"epoch {figures['epoch']:3.0f}/{recipe.epochs}  loss {figures['loss']:.4f}  "
            f"held-out accuracy {figures['held_out_accuracy']:.4f}  {time.monotonic() - started:6.0f} s",
            flush=True,
        )

    best = train(
        family,
        config,
        recipe,
        pictures,
        options.out,
        precision=options.precision,
        accelerator=options.accelerator,
        resume=options.resume,
        report=report,
    )
    print(f"best: epoch {best.epoch}, held-out accuracy {best.held_out['accuracy']:.4f} -> {options.out / 'best.pt'}")
    try:
        test = PICTURES[options.corpus](options.data, "test")
    except EdgeError:
        return 0
    (spec,) = family.inputs()
    figures = summarise(predict(best.network(), test, spec), test.labels, test.names, best.temperature)
    print(f"test part: {figures['count']} pictures, accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
