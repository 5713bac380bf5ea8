"""``python -m train``: train a family, cross-validate it, or run a paper's whole set of tables.

python -m train cspp --data fer2013/ --out runs/face
python -m train crossval cspp --data ck+/ --corpus ckplus --protocol kfold:8 --out runs/ckplus
python -m train paper li2019 --data ckplus=ck+/ --data jaffe=jaffe/ --out runs/li2019
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from edge.errors import EdgeError, OptionError
from train.checkpoint import Checkpoint
from train.data import Source, load_examples, part
from train.datasets import CORPORA
from train.examples import Examples
from train.loop import Settings, train
from train.metrics import summarise
from train.models import FAMILIES, Family
from train.recipe import Recipe
from train.stages import predict

PLAIN = (int, float, str, bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0, 2 for bad input, 130 when interrupted)."""
    options = _parser().parse_args(arguments)
    if getattr(options, "threads", None):
        torch.set_num_threads(options.threads)
    try:
        return int(options.command(options))
    except EdgeError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntrain: stopped; the same command with --resume goes on from {options.out}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train", description="Train the published systems.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in FAMILIES.values():
        command = commands.add_parser(family.name, help=family.paper, description=family.paper)
        command.set_defaults(command=_train, family=family.name)
        _add_source(command)
        _add_computing(command)
        _add_knobs(command, family)
    return parser


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, help="the corpus' folder or file")
    command.add_argument("--corpus", choices=sorted(CORPORA), default="fer2013", help="default: fer2013")
    command.add_argument("--labels", help="keep these alone, in this order: angry,happy,...")
    command.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where finished crops are kept")
    command.add_argument("--workers", type=int, default=0, help="processes that prepare crops (default: one a core)")
    command.add_argument("--flow", default="clg", help="optical flow: clg (default) or dis")
    command.add_argument("--dark-gamma", type=float, default=1.0, help="brightens dark frames, 1.5 for AFEW")
    command.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the corpus' loader"
    )


def _add_computing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, help="folder for results and checkpoints")
    command.add_argument("--resume", action="store_true", help="go on where a stopped run was")
    command.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    command.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--devices", type=int, default=1, help="GPUs of this machine; torchrun's number counts first")
    command.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    command.add_argument("--trunk", type=Path, help="published weights: torchvision's VGG16 or AlexNet, VGG-Face")
    command.add_argument("--stills", type=Path, help="FER2013, for the single-face path of conv_lstm --two-path")


def _add_knobs(command: argparse.ArgumentParser, family: Family) -> None:
    command.add_argument("--recipe", choices=sorted(family.recipes), default="paper")
    _add_fields(command.add_argument_group("network"), family.config, skip=("classes",))
    _add_fields(command.add_argument_group("recipe, default from --recipe"), Recipe)


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


def _source(options: argparse.Namespace) -> Source:
    return Source(
        corpus=options.corpus,
        root=options.data,
        options=dict(_option(text) for text in options.option),
        labels=tuple(options.labels.split(",")) if options.labels else (),
        cache=options.cache,
        workers=options.workers,
        flow=options.flow,
        gamma=options.dark_gamma,
    )


def _option(text: str) -> tuple[str, Any]:
    """``peak=3`` as a name and a value: a number, true, false, none, or text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--option {text}: expected NAME=VALUE")
    words = {"true": True, "false": False, "none": None}
    return name, words.get(value.lower(), int(value) if value.lstrip("-").isdigit() else value)


def _settings(options: argparse.Namespace) -> Settings:
    stills: Examples | None = None
    if options.stills is not None:
        stills = load_examples(Source("fer2013", options.stills), FAMILIES["cspp"], FAMILIES["cspp"].config()).examples
        stills = part(stills, "train")
    return Settings(
        precision=options.precision,
        accelerator=options.accelerator,
        devices=options.devices,
        resume=options.resume,
        trunk=options.trunk,
        stills=stills,
    )


def _configured(family: Family, options: argparse.Namespace, classes: int) -> tuple[Any, Recipe]:
    """The network's configuration and the recipe, as the command line has them; refused if no network can be built."""
    recipe = replace(family.recipes[options.recipe], **_given(options, Recipe))
    try:
        config = family.config(**{**_given(options, family.config), "classes": classes})
        with torch.device("meta"):
            family.build(config)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return config, recipe


def _train(options: argparse.Namespace) -> int:
    family = FAMILIES[options.family]
    config, recipe = _configured(family, options, classes=7)
    loaded = load_examples(_source(options), family, config, jitter=recipe.jitter, seed=recipe.seed)
    examples = loaded.examples
    config = replace(config, classes=len(examples.names))
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in family.build(config).parameters())
    print(loaded.report)
    for path, why in loaded.failed:
        print(f"  left out: {path}: {why}")
    learn = part(examples, "train") if "train" in examples.splits else examples
    kind = ", SYNTHETIC motion" if examples.synthetic else ""
    print(f"{family.name}: {parameters:,} parameters; {len(learn):,} examples to learn from{kind}", flush=True)
    if options.trunk is None and family.name in ("two_stream", "emotional_vlan", "dam_cnn"):
        print("no --trunk: the published weights' place is taken by random ones, training starts from scratch")
    best = train(family, config, recipe, learn, options.out, _settings(options), _reporter(recipe))
    print(f"best: {best.stage}, epoch {best.epoch}{_held_out(best)} -> {options.out / 'best.pt'}")
    test = part(examples, "test")
    if len(test):
        logits = predict(best.network(), test, family.inputs(config))
        figures = summarise(logits, test.labels, test.names, best.temperature)
        print(f"test part: {figures['count']} examples, accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}")
    return 0


def _held_out(best: Checkpoint) -> str:
    return f", held-out accuracy {best.held_out['accuracy']:.4f}" if best.held_out else ""


def _reporter(recipe: Recipe) -> Any:
    started = time.monotonic()

    def report(entry: dict[str, Any]) -> None:
        words = [f"{entry['stage']:<14}"]
        if entry["kind"] != "closed":
            words.append(f"epoch {entry['epoch']:3d}")
        if "loss" in entry:
            words.append(f"loss {entry['loss']:.4f}")
        for name in ("held_out_accuracy", "held_out_figure"):
            if entry.get(name) is not None:
                words.append(f"{name.replace('_', ' ').replace('held out', 'held-out')} {entry[name]:.4f}")
        print("  ".join([*words, f"{time.monotonic() - started:6.0f} s"]), flush=True)

    return report


if __name__ == "__main__":
    sys.exit(main())
