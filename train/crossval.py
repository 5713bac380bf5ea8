"""One family under one protocol: every fold fitted, tested and kept, and a result over all of them.

The classifier comes as two callables, and folds go through a function with ``map``'s signature, so that they can be
spread over machines. Each finished fold is on disk before the run goes on: ``fold-<name>/fold.json`` beside
``predictions.npz``. A rerun takes over the finished folds whose key is the same, and refuses those of another one.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from train import report
from train.examples import Examples
from train.metrics import evaluate
from train.models import FAMILIES, Family
from train.protocols import Fold, Protocol, aligned, check_leaks, parse_protocol, shared_subjects
from train.protocols import folds as divide
from train.recipe import Recipe
from train.report import FoldResult, Reference, Result

Fit = Callable[[Family, Any, Recipe, Examples, Path], Any]
"""``fit(family, config, recipe, train_examples, out_folder) -> fitted``; the folder is the fold's own."""
Predict = Callable[[Any, Examples], npt.NDArray[np.float32]]
"""``predict(fitted, examples) -> (N, K)`` float32 probabilities."""
MapFolds = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map``'s signature."""


class CrossvalError(EdgeError):
    """A run that can't go on: finished folds of other settings, or folds that failed."""


@dataclass(frozen=True, eq=False)
class FoldJob:
    """What one fold needs beside what all folds share."""

    fold: Fold
    key: str


@dataclass(frozen=True, eq=False)
class FoldOutcome:
    """What became of one fold."""

    name: str
    probabilities: npt.NDArray[np.float32] | None
    """(N, K), a row a tested example; None where the fold failed."""
    seconds: float
    error: str = ""


@dataclass(frozen=True, eq=False)
class FoldRunner:
    """Fits and tests one fold. Picklable where ``fit`` and ``predict`` are: functions at a module's top level.

    It holds what all folds share, so that a distributed map can send it once; ``job`` is small.
    """

    family: str
    """A name in ``FAMILIES``; the table's entries themselves hold lambdas."""
    config: Any
    recipe: Recipe
    examples: Examples
    others: Examples | None
    settings: Mapping[str, Any]
    out: Path
    fit: Fit
    predict: Predict

    def __call__(self, job: FoldJob) -> FoldOutcome:
        """Fit, predict, store. An error is told, not raised: other folds go on."""
        folder, started = self.out / f"fold-{job.fold.name}", time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").unlink(missing_ok=True)
            fitted = self.fit(
                FAMILIES[self.family], self.config, self.recipe, self.examples.subset(job.fold.train), folder
            )
            tested = _tested(self.examples, self.others, job.fold)
            probabilities = _checked(self.predict(fitted, tested), len(tested), len(tested.names))
        except Exception as error:
            report.put(folder / "error.txt", traceback.format_exc().encode())
            reason = " ".join(str(error).split()) or type(error).__name__
            return FoldOutcome(job.fold.name, None, time.monotonic() - started, reason)
        outcome = FoldOutcome(job.fold.name, probabilities, time.monotonic() - started)
        store(folder, job, outcome, tested, self.settings)
        return outcome


def crossval(
    family: Family,
    config: Any,
    recipe: Recipe,
    examples: Examples,
    protocol: Protocol | str,
    out: Path,
    *,
    fit: Fit,
    predict: Predict,
    test_on: Examples | None = None,
    common: bool = False,
    resume: bool = True,
    map_folds: MapFolds = map,
    leak_policy: str = "refuse",
    seed: int = 0,
    skipped: Mapping[str, int] | None = None,
    failed: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    note: str = "",
) -> Result:
    """Run a protocol and write its result to ``out``.

    Segments of a sequence (``Window.stride``) are averaged over the sequence before anything is counted; stills count
    one by one.

    Args:
        family: an entry of ``FAMILIES``.
        config: of that family, for as many classes as there are labels.
        recipe: how ``fit`` shall train.
        examples: of the corpus that is divided.
        protocol: how, as text or parsed.
        out: folder of the run; each fold has one below it.
        fit: trains a classifier. To be spread over processes it must be a function at a module's top level.
        predict: gives probabilities.
        test_on: another corpus: every fold's classifier is tested on the whole of it (Li et al. 2019, section 5.2).
        common: with ``test_on``, reduce both corpora to the labels that both have.
        resume: take over finished folds; False fits them again.
        map_folds: has ``map``'s signature.
        leak_policy: ``refuse`` or ``list``, see :func:`~train.protocols.check_leaks`.
        seed: of the division and of the bootstrap.
        skipped: files that gave no example, by reason; goes into the result.
        failed: samples lost on the way, by reason; goes into the result.
        reference: the paper's number; goes into the result.
        note: goes into the result.

    Raises:
        CrossvalError: finished folds of other settings or data, a number of classes that differs, or folds that
            failed; the finished ones stay.
        ProtocolError, LeakError: see :mod:`train.protocols`.
    """
    protocol = parse_protocol(protocol) if isinstance(protocol, str) else protocol
    if test_on is not None:
        examples, test_on = aligned(examples, test_on, common=common)
        if not test_on.originals.any():
            raise CrossvalError(f"{test_on.corpus}: no original to test on; expected some; prepare the corpus again")
    elif protocol.kind == "all":
        raise CrossvalError("protocol all keeps nothing to test on; expected another corpus beside it; name one")
    if family.name not in FAMILIES:
        raise CrossvalError(f"unknown family {family.name!r}; expected one of {', '.join(FAMILIES)}; choose one")
    if config.classes != len(examples.names):
        raise CrossvalError(
            f"{family.name} has {config.classes} classes, {examples.corpus} {len(examples.names)} labels "
            f"({', '.join(examples.names)}); expected as many; set classes to {len(examples.names)}"
        )
    divided = divide(examples, protocol, seed)
    pairs = [check_leaks(examples, fold, test_on, leak_policy) for fold in divided]
    settings = _settings(family, config, recipe, examples, test_on, protocol, seed, fit, predict)
    jobs = [FoldJob(fold, _key(settings, fold)) for fold in divided]

    # All that is counted with; pixels would be copied by the gigabyte.
    facts = {
        fold.name: _tested(replace(examples, arrays={}), test_on and replace(test_on, arrays={}), fold)
        for fold in divided
    }
    outcomes: dict[str, FoldOutcome] = {}
    if resume:
        for job in jobs:
            tested = facts[job.fold.name]
            if (
                kept := finished(out / f"fold-{job.fold.name}", job, settings, len(tested), len(tested.names))
            ) is not None:
                outcomes[job.fold.name] = kept
    runner = FoldRunner(family.name, config, recipe, examples, test_on, settings, out, fit, predict)
    left = [job for job in jobs if job.fold.name not in outcomes]
    by_name = {job.fold.name: job for job in left}
    for name in by_name:
        (out / f"fold-{name}" / "fold.json").unlink(missing_ok=True)
    for outcome in map_folds(runner, left):
        outcomes[outcome.name] = outcome
        folder = out / f"fold-{outcome.name}"
        # Another machine may have written to a disk of its own.
        if outcome.probabilities is not None and not (folder / "fold.json").exists():
            store(folder, by_name[outcome.name], outcome, facts[outcome.name], settings)
    _refuse_failures(jobs, outcomes, out)

    averaged = family.window(config).stride > 0
    rows, collected = [], []
    for job, found in zip(jobs, pairs, strict=True):
        tested, outcome = facts[job.fold.name], outcomes[job.fold.name]
        assert outcome.probabilities is not None  # _refuse_failures
        figures = evaluate(
            outcome.probabilities, tested.labels, tested.names, tested.sequences if averaged else None, resamples=1
        )
        rows.append(
            FoldResult(
                name=job.fold.name,
                train=len(job.fold.train),
                test=len(tested),
                predictions=figures["count"],
                accuracy=figures["accuracy"],
                macro_f1=figures["macro_f1"],
                uar=figures["uar"],
                shared_subjects=shared_subjects(examples, job.fold),
                leaks=len(found),
                seconds=round(outcome.seconds, 3),
            )
        )
        collected.append((job.fold.name, tested, outcome.probabilities))
    sequences = [sequence for _, tested, _ in collected for sequence in tested.sequences]
    result = Result(
        family=family.name,
        system=family.paper,
        corpus=examples.corpus,
        test_on=test_on.corpus if test_on is not None else None,
        protocol=protocol.text,
        claim=protocol.claim,
        seed=seed,
        names=examples.names,
        config=asdict(config),
        recipe=asdict(recipe),
        folds=tuple(rows),
        figures=evaluate(
            np.concatenate([probabilities for _, _, probabilities in collected]),
            np.concatenate([tested.labels for _, tested, _ in collected]),
            examples.names,
            sequences if averaged else None,
            subjects=[subject for _, tested, _ in collected for subject in tested.subjects],
            clusters=sequences,
            folds=[name for name, tested, _ in collected for _ in range(len(tested))],
            seed=seed,
        ),
        averaged=averaged,
        synthetic=examples.synthetic or (test_on is not None and test_on.synthetic),
        skipped=dict(skipped or {}),
        failed=dict(failed or {}),
        reference=reference,
        note=note,
    )
    report.write(result, out)
    return result


def store(folder: Path, job: FoldJob, outcome: FoldOutcome, tested: Examples, settings: Mapping[str, Any]) -> None:
    """Write a finished fold: predictions first, then ``fold.json``, which makes it finished. Both atomically.

    Args:
        folder: the fold's.
        job: what was asked.
        outcome: with its probabilities.
        tested: (N,) what they are of.
        settings: what the key was made from.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        probabilities=outcome.probabilities,  # type: ignore[arg-type]
        labels=tested.labels,
        names=np.array(tested.names),
        sequences=np.array(tested.sequences),
        subjects=np.array([subject or "" for subject in tested.subjects]),
    )
    report.put(folder / "predictions.npz", buffer.getvalue())
    written = {
        "name": outcome.name,
        "key": job.key,
        "seconds": outcome.seconds,
        "settings": dict(settings),
        "train": job.fold.train.tolist(),
        "test": job.fold.test.tolist(),
        "predictions": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    report.put(folder / "fold.json", json.dumps(written).encode() + b"\n")


def finished(folder: Path, job: FoldJob, settings: Mapping[str, Any], count: int, classes: int) -> FoldOutcome | None:
    """A finished fold as it was stored, or None where there is none or it is damaged.

    Args:
        folder: the fold's.
        job: what is asked.
        settings: what its key was made from; tells what differs.
        count: examples tested.
        classes: labels.

    Raises:
        CrossvalError: it was finished under another key.
    """
    try:
        stored = json.loads((folder / "fold.json").read_text(encoding="utf-8"))
        content = (folder / "predictions.npz").read_bytes()
        key, theirs, digest = stored["key"], stored["settings"], stored["predictions"]
        seconds = float(stored["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if key != job.key:
        differs = ", ".join(_differences(theirs, settings)) or "the division into folds"
        raise CrossvalError(
            f"{folder}: finished with other settings or data ({differs}); expected the same to go on from; "
            "give another folder to write to, or do not resume"
        )
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            probabilities = _checked(arrays["probabilities"], count, classes)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return FoldOutcome(job.fold.name, probabilities, seconds)


def digest(examples: Examples) -> str:
    """A hash of everything in the examples; pixels are read example by example, as they may lie in mapped files."""
    whole = hashlib.blake2b(digest_size=16)
    facts = (examples.corpus, examples.names, examples.subjects, examples.sequences, examples.splits)
    whole.update(json.dumps([*facts, examples.variations, examples.synthetic]).encode())
    whole.update(examples.labels.astype("<i8").tobytes() + examples.originals.tobytes())
    for name, array in sorted(examples.arrays.items()):
        whole.update(f"{name} {array.shape} {array.dtype}".encode())
        for example in array:
            whole.update(np.ascontiguousarray(example).data)
    return whole.hexdigest()


def _tested(examples: Examples, others: Examples | None, fold: Fold) -> Examples:
    return examples.subset(fold.test) if others is None else others.subset(np.flatnonzero(others.originals))


def _checked(probabilities: npt.ArrayLike, count: int, classes: int) -> npt.NDArray[np.float32]:
    values = np.asarray(probabilities, np.float32)
    if values.shape != (count, classes):
        raise ValueError(f"predict gave {values.shape}, expected ({count}, {classes})")
    if not np.isfinite(values).all():
        raise ValueError("predict gave numbers that are not finite: the training has diverged")
    if (values < 0).any() or not np.allclose(values.sum(1), 1, atol=1e-3):
        raise ValueError("predict gave rows that are not probabilities")
    return values


def _settings(
    family: Family,
    config: Any,
    recipe: Recipe,
    examples: Examples,
    others: Examples | None,
    protocol: Protocol,
    seed: int,
    fit: Fit,
    predict: Predict,
) -> dict[str, Any]:
    """All that a fold's predictions depend on, as plain values."""
    settings = {
        "family": family.name,
        "config": asdict(config),
        "recipe": asdict(recipe),
        "protocol": protocol.text,
        "seed": seed,
        "fit": _named(fit),
        "predict": _named(predict),
        "data": digest(examples),
        "test_on": digest(others) if others is not None else None,
    }
    # As it will be read back, so that a tuple in a configuration does not differ from itself.
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _named(function: Callable[..., Any]) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _key(settings: Mapping[str, Any], fold: Fold) -> str:
    whole = hashlib.sha256(json.dumps([settings, fold.name], sort_keys=True).encode())
    for side in (fold.train, fold.test):
        whole.update(side.astype("<i8").tobytes() + b"|")
    return whole.hexdigest()


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two settings, as ``recipe.epochs 3 there, 5 here``."""
    found = []
    for name in dict.fromkeys((*theirs, *ours)):
        there, here = theirs.get(name), ours.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            hashed = name in ("data", "test_on")
            found.append(f"{prefix}{name}" if hashed else f"{prefix}{name} {there} there, {here} here")
    return found


def _refuse_failures(jobs: list[FoldJob], outcomes: Mapping[str, FoldOutcome], out: Path) -> None:
    reasons = {}
    for job in jobs:
        outcome = outcomes.get(job.fold.name)
        if outcome is None:
            reasons[job.fold.name] = "nothing came back"
        elif outcome.probabilities is None:
            reasons[job.fold.name] = outcome.error
    if reasons:
        name, reason = next(iter(reasons.items()))
        raise CrossvalError(
            f"{len(reasons)} of {len(jobs)} folds failed, the first is {name} ({reason}); expected all to finish; "
            f"the others are kept in {out}: see {out / f'fold-{name}' / 'error.txt'} and run it again"
        )
