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

from edge.arguments import Parser
from edge.errors import EdgeError, OptionError
from train.checkpoint import Checkpoint
from train.cluster import Map, connected
from train.crossval import crossval
from train.data import Loaded, Preparation, Source, detect, load_examples, part
from train.datasets import CORPORA
from train.examples import Examples
from train.fitting import Fit, predict
from train.loop import Settings, train
from train.metrics import summarise
from train.models import FAMILIES, Family
from train.paper import Row, listing, plan
from train.protocols import aligned, parse_protocol
from train.recipe import Recipe
from train.report import Result, summary
from train.stages import predict as logits_of


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
    parser = Parser(prog="python -m train", description="Train the published systems.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in FAMILIES.values():
        command = commands.add_parser(family.name, help=family.paper, description=family.paper)
        command.set_defaults(command=_train, family=family.name)
        _add_source(command)
        _add_preparing(command)
        _add_computing(command)
        command.add_argument("--start", type=Path, metavar="CHECKPOINT", help="begin with an earlier run's weights")
        command.add_argument(
            "--teacher",
            type=Path,
            action="append",
            default=[],
            metavar="CHECKPOINT",
            help="an earlier run whose answers are learnt beside the labels (--distil of them); of faces; repeatable",
        )
        _add_knobs(command, family)

    crossing = commands.add_parser("crossval", help="cross-validate a family", description="Cross-validate a family.")
    families = crossing.add_subparsers(dest="family", required=True, metavar="FAMILY")
    for family in FAMILIES.values():
        command = families.add_parser(family.name, help=family.paper, description=family.paper)
        command.set_defaults(command=_crossval)
        _add_source(command)
        command.add_argument(
            "--protocol", default="kfold:8", help="kfold:8 (default), losgo:5, loso, split, holdout:0.2x5"
        )
        command.add_argument("--test-on", metavar="CORPUS=FOLDER", help="test every fold on another corpus")
        command.add_argument("--common", action="store_true", help="with --test-on: keep the labels both corpora have")
        command.add_argument(
            "--leaks", choices=("refuse", "list"), default="refuse", help="the same picture on both sides of a fold"
        )
        _add_preparing(command)
        _add_computing(command)
        _add_cluster(command)
        _add_knobs(command, family)

    keys = sorted(family.key for family in FAMILIES.values())
    papers = commands.add_parser("paper", help="a paper's tables", description="Run all tables of a paper.")
    papers.set_defaults(command=_paper)
    papers.add_argument("key", choices=keys)
    papers.add_argument("--data", action="append", default=[], metavar="CORPUS=FOLDER", help="once for each corpus")
    papers.add_argument("--only", metavar="WORDS", help="rows whose description holds these words")
    papers.add_argument("--list", action="store_true", help="say what could be run and what is missing, and stop")
    papers.add_argument(
        "--leaks", choices=("refuse", "list"), default="refuse", help="the same picture on both sides of a fold"
    )
    _add_preparing(papers)
    _add_computing(papers)
    _add_cluster(papers)
    _add_fields(papers.add_argument_group("recipe, default from the paper"), Recipe)
    return parser


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, help="the corpus' folder or file")
    command.add_argument(
        "--corpus", choices=sorted(CORPORA), help="default: FER2013 where its files are, else manifest (class folders)"
    )
    command.add_argument("--labels", help="keep these alone, in this order: angry,happy,...")
    command.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the corpus' loader"
    )
    command.add_argument(
        "--onsets", action="store_true", help="make clips of still faces (SYNTHETIC motion; conv_lstm)"
    )
    command.add_argument("--cropped", action="store_true", help="the pictures are face crops: seek no face in them")
    command.add_argument("--stills-each", type=int, metavar="N", help="pictures taken from each video of single faces")


def _add_preparing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where finished crops are kept")
    command.add_argument("--workers", type=int, default=0, help="processes that prepare crops (default: one a core)")
    command.add_argument("--flow", default="clg", help="optical flow: clg (default) or dis")
    command.add_argument("--dark-gamma", type=float, default=1.0, help="brightens dark frames, 1.5 for AFEW")
    command.add_argument("--variation", help="the fact that names each example's variation, as gender (DAM-CNN)")


def _add_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cluster", metavar="auto|ADDRESS", help="spread preparation and folds over a Ray cluster")


def _add_computing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, required=True, help="folder for results and checkpoints")
    command.add_argument("--resume", action="store_true", help="go on where a stopped run was")
    command.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "auto"),
        default="32-true",
        help="auto: bf16-mixed where the machine computes in it, else 32-true (default: 32-true)",
    )
    command.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--devices", type=int, default=1, help="GPUs of this machine; torchrun's number counts first")
    command.add_argument("--record", action="store_true", help="launch a step as one CUDA graph; on one GPU")
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
    labels = tuple(options.labels.split(",")) if options.labels else ()
    corpus = options.corpus or detect(options.data)
    return Source(
        corpus,
        labels,
        dict(_option(text) for text in options.option),
        stills=options.stills_each,
        cropped=options.cropped,
        onsets=options.onsets,
    )


def _preparation(options: argparse.Namespace, recipe: Recipe, spread: Map | None = None) -> Preparation:
    return Preparation(
        spread=spread,
        cache=options.cache,
        workers=options.workers,
        flow=options.flow,
        gamma=options.dark_gamma,
        jitter=recipe.jitter,
        recut=recipe.recut,
        variation=options.variation,
        seed=recipe.seed,
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
        cspp = FAMILIES["cspp"]
        stills = part(load_examples(Source("fer2013"), options.stills, cspp, cspp.config()).examples, "train")
    return Settings(
        precision=options.precision,
        accelerator=options.accelerator,
        devices=options.devices,
        resume=options.resume,
        record=options.record,
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
    loaded = _load(_source(options), options.data, family, config, _preparation(options, recipe))
    examples = loaded.examples
    config = replace(config, classes=len(examples.names))
    learn = part(examples, "train") if "train" in examples.splits else examples
    print(f"{_size(family, config)}; {_counted(learn)} to learn from{_marked(examples)}", flush=True)
    _warn(family, options)
    if recipe.held_out > 0:
        # Of tens of thousands of pictures this takes most of a minute.
        print(f"setting {recipe.held_out:.0%} of them aside to judge by, related pictures together", flush=True)
    settings = replace(_settings(options), start=options.start, teachers=tuple(options.teacher))
    best = train(family, config, recipe, learn, options.out, settings, _reporter(recipe))
    print(f"best: {best.stage}, epoch {best.epoch}{_held_out(best)} -> {options.out / 'best.pt'}")
    test = part(examples, "test")
    if len(test):
        logits = logits_of(best.network(), test, family.inputs(config))
        figures = summarise(logits, test.labels, test.names, best.temperature)
        print(f"test part: {figures['count']} examples, accuracy {figures['accuracy']:.4f}, ECE {figures['ece']:.4f}")
    return 0


def _crossval(options: argparse.Namespace) -> int:
    family = FAMILIES[options.family]
    protocol = parse_protocol(options.protocol)
    config, recipe = _configured(family, options, classes=7)
    source = _source(options)
    with connected(options.cluster) as spread:
        preparation = _preparation(options, recipe, spread)
        loaded = _load(source, options.data, family, config, preparation)
        config = replace(config, classes=len(loaded.examples.names))
        other = None
        if options.test_on:
            name, root = _corpus(options.test_on)
            other = _load(Source(name, source.labels), root, family, config, preparation)
            names = aligned(loaded.examples, other.examples, common=options.common)[0].names
            config = replace(config, classes=len(names))
        print(f"{_size(family, config)}; {_counted(loaded.examples)}, {protocol.text}{_marked(loaded.examples)}")
        _warn(family, options)
        result = crossval(
            family,
            config,
            recipe,
            loaded.examples,
            protocol,
            options.out,
            fit=_fit(options, recipe),
            predict=predict,
            test_on=None if other is None else other.examples,
            common=options.common,
            resume=options.resume or not (options.out / "result.json").exists(),
            map_folds=spread or map,
            leak_policy=options.leaks,
            seed=recipe.seed,
            skipped=loaded.skipped,
            failed=loaded.failures,
        )
    _show([result], options.out)
    return 0


def _paper(options: argparse.Namespace) -> int:
    roots = dict(_corpus(text) for text in options.data)
    print(listing(options.key, roots))
    rows = [row for row in plan(options.key, roots)[0] if (options.only or "").lower() in row.describe().lower()]
    if options.list:
        return 0
    if not rows:
        raise OptionError(f"no row of {options.key} can be run; give its corpora with --data CORPUS=FOLDER")
    results = []
    with connected(options.cluster) as spread:
        for number, row in enumerate(rows, 1):
            print(f"[{number}/{len(rows)}] {row.describe()}", flush=True)
            results.append(_row(row, roots, options, spread))
    _show(results, options.out)
    return 0


def _row(row: Row, roots: dict[str, Path], options: argparse.Namespace, spread: Map | None) -> Result:
    """One number of a paper."""
    family, config = row.family, row.make_config()
    recipe = replace(family.recipes["paper"], **{**row.recipe, **_given(options, Recipe)})
    preparation = replace(_preparation(options, recipe, spread), variation=row.variation)
    loaded = _load(row.source, roots[row.source.corpus], family, config, preparation)
    other = None
    if row.test_on is not None:
        other = _load(row.test_on, roots[row.test_on.corpus], family, config, preparation)
    return crossval(
        family,
        config,
        recipe,
        loaded.examples,
        row.protocol,
        options.out / row.slug,
        fit=_fit(options, recipe),
        predict=predict,
        test_on=None if other is None else other.examples,
        map_folds=spread or map,
        leak_policy=options.leaks,
        seed=recipe.seed,
        skipped=loaded.skipped,
        failed=loaded.failures,
        reference=row.reference,
        note=row.note,
    )


def _load(source: Source, root: Path, family: Family, config: Any, preparation: Preparation) -> Loaded:
    loaded = load_examples(source, root, family, config, preparation)
    print(loaded.report)
    for path, why in loaded.failed:
        print(f"  left out: {path}: {why}")
    return loaded


def _fit(options: argparse.Namespace, recipe: Recipe) -> Fit:
    # A fold elsewhere has nobody to tell; its figures are in its checkpoint.
    return Fit(_settings(options), options.threads, None if options.cluster else _reporter(recipe))


def _corpus(text: str) -> tuple[str, Path]:
    name, equals, root = text.partition("=")
    if not equals or name not in CORPORA:
        raise OptionError(f"{text}: expected CORPUS=FOLDER with a corpus of {', '.join(sorted(CORPORA))}")
    return name, Path(root)


def _show(results: Sequence[Result], out: Path) -> None:
    print(f"\n{summary(results)}\n\nresult.json, result.csv and confusion.png are in {out}")


def _size(family: Family, config: Any) -> str:
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in family.build(config).parameters())
    return f"{family.name}: {parameters:,} parameters"


def _counted(examples: Examples) -> str:
    copies = int((~examples.originals).sum())
    more = f" and {copies:,} copies cut otherwise (--jitter, --recut)" if copies else ""
    return f"{len(examples) - copies:,} examples{more}"


def _marked(examples: Examples) -> str:
    return ", SYNTHETIC motion" if examples.synthetic else ""


def _warn(family: Family, options: argparse.Namespace) -> None:
    if options.trunk is None and family.name in ("two_stream", "emotional_vlan", "dam_cnn"):
        print("no --trunk: random weights take the place of the published ones, training starts from scratch")


def _held_out(best: Checkpoint) -> str:
    return f", held-out accuracy {best.held_out['accuracy']:.4f}" if best.held_out else ""


def _reporter(recipe: Recipe) -> Any:
    started = time.monotonic()

    def report(entry: dict[str, Any]) -> None:
        words = [entry["fold"]] if "fold" in entry else []
        words.append(f"{entry['stage']:<14}")
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
