"""Everything, in rounds that take turns: engines, the loop that ships, curves, accuracy, floors. See ``__main__``.

A round measures each thing once, every one in a process of its own; the next round does so in the opposite order. What
a busy machine adds thus falls on all of them, and shows as the distance between the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import limit, machine
from benchmarks.document import SCHEMA, Measure, quantiles
from benchmarks.errors import BenchError
from benchmarks.loop import FRAMES, write_clip
from benchmarks.peers import _busy_s, _children_s
from benchmarks.scaling import MOST_FACES, SIZES
from edge.bundle import Bundle, to_document
from edge.device import describe
from edge.engine import BACKENDS, open_engine, preferred
from edge.errors import EdgeError
from edge.faces.landmarks import DEFAULT_MODEL
from export.figures import size as bundle_bytes

ROOT = Path(__file__).parents[1]

BUSY = 0.2
"""Cores that other programs may keep busy without a note."""

GIVE_UP_S = 900


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    frames: int = FRAMES
    """Of the made video."""
    engine_s: float = 0.8
    """For one graph, precision and backend in a round."""
    paced_s: float = 6.0
    """The loop at a camera's pace, in a round."""
    faces: tuple[int, ...] = tuple(range(1, MOST_FACES + 1))
    sizes: tuple[tuple[int, int], ...] = SIZES
    scale_rounds: int = 3
    scale_frames: int = 30
    scale_s: float = 0.4
    pictures: int | None = None
    """Labelled ones at most; None is all."""
    quick: bool = False


QUICK = Plan(
    rounds=3,
    frames=120,
    engine_s=0.25,
    paced_s=1.5,
    faces=(1, 2, 5, 10),
    sizes=((320, 240), (640, 360), (1280, 720)),
    scale_rounds=1,
    scale_frames=12,
    scale_s=0.1,
    pictures=600,
    quick=True,
)
"""Under two minutes on two cores."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One of what is compared: a bundle in a precision on a backend."""

    given: str
    """As :meth:`edge.bundle.Bundle.open` takes it."""
    bundle: str
    """What it is called in the figures."""
    precision: str
    backend: str


def subjects(bundles: Sequence[str]) -> tuple[list[Subject], dict[str, Bundle], list[str]]:
    """What can be measured here: every precision of every bundle on every backend that is present.

    Args:
        bundles: names or paths.

    Returns:
        The subjects, the opened bundles by the name they have in the figures, and what can't be measured, in words.

    Raises:
        EdgeError: a bundle that can't be opened, or nothing runs here.
    """
    found, opened, notes = list[Subject](), dict[str, Bundle](), dict[str, None]()
    for given in bundles:
        bundle = Bundle.open(given)
        name = bundle.manifest.name
        number = 2
        while name in opened:
            name, number = f"{bundle.manifest.name} ({number})", number + 1
        opened[name] = bundle
        # From another folder too, since each runs in a process of its own.
        where = given if not Path(given).exists() else str(Path(given).resolve())
        for backend in BACKENDS:
            if backend == "auto":
                continue
            for precision in bundle.manifest.precisions:
                try:
                    open_engine(bundle, backend, precision).close()
                except EdgeError as error:
                    notes[f"{backend} not measured: {error}"] = None
                    continue
                found.append(Subject(where, name, precision, backend))
    if not found:
        raise BenchError(f"nothing runs here: {'; '.join(notes)}")
    return found, opened, list(notes)


class Collected:
    """Values by measure, a round each."""

    def __init__(self) -> None:
        self._facts: dict[str, Measure] = {}
        self._rounds: dict[str, list[float]] = {}
        self._samples: dict[str, list[float]] = {}

    def add(
        self,
        name: str,
        unit: str,
        better: str,
        value: float,
        *,
        subject: Subject | None = None,
        samples: Iterable[float] = (),
        at: float | None = None,
    ) -> None:
        """One round's value, of a subject or of the machine, and the single samples that it is from."""
        which = ("", "", "") if subject is None else (subject.bundle, subject.precision, subject.backend)
        one = Measure(name, unit, better, (value,), *which, at=at)
        self._facts.setdefault(one.key, one)
        self._rounds.setdefault(one.key, []).append(value)
        self._samples.setdefault(one.key, []).extend(samples)

    def measures(self) -> list[Measure]:
        """All of them."""
        return [
            replace(
                one,
                rounds=tuple(self._rounds[key]),
                quantiles=quantiles(self._samples[key]) if self._samples[key] else {},
            )
            for key, one in self._facts.items()
        ]


def run(
    bundles: Sequence[str],
    plan: Plan = Plan(),
    *,
    command: Sequence[str] = (),
    video: str | None = None,
    landmarks: str = DEFAULT_MODEL,
    data: Path | None = None,
    corpus: str = "fer2013",
    lengths: Mapping[int, str] | None = None,
    curves: bool = True,
    keep: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure.

    Args:
        bundles: names or paths.
        plan: how much.
        command: what was typed, for the record.
        video: a file; None is a made one.
        landmarks: ``5`` or ``68``.
        data: a labelled corpus' folder; None measures no accuracy.
        corpus: its name.
        lengths: paths of bundles of one family that differ in their window's length, by that length.
        curves: whether to measure how cost grows.
        keep: folder for pytest-benchmark's own JSON, a file a round; None keeps none.
        tell: is told how far it is.

    Returns:
        A document (:mod:`benchmarks.document`).

    Raises:
        EdgeError: what can't be measured.
    """
    begun = time.monotonic()
    chosen, opened, notes = subjects(bundles)
    collected = Collected()
    before = machine.description()
    busy: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        if video is None:
            video = str(Path(folder) / "talking_head.mp4")
            write_clip(Path(video), plan.frames)
        workshop = _Workshop(Path(folder), keep)
        for number in range(plan.rounds):
            started, all_s, own_s = time.monotonic(), _busy_s(), _own_s()
            order = chosen if number % 2 == 0 else chosen[::-1]
            _yardsticks(collected, opened, notes)
            _engines(collected, workshop, order, opened, plan, number)
            for subject in order:
                _loop(collected, workshop, subject, plan, video, landmarks)
            if curves and number < plan.scale_rounds:
                _curves(collected, workshop, chosen, opened, plan, landmarks, number, lengths or {})
            passed = time.monotonic() - started
            busy.append(max(0.0, (_busy_s() - all_s - _own_s() + own_s) / passed))
            collected.add("machine/others", "cores", "neither", busy[-1])
            tell(f"round {number + 1} of {plan.rounds}: {passed:.0f} s; other programs kept {busy[-1]:.2f} cores busy")
    if statistics.median(busy) >= BUSY:
        notes.append(
            f"other programs kept {statistics.median(busy):.2f} cores busy (median of the rounds): trust ratios within "
            "this run before figures"
        )
    graphs, predictions = _limits(opened, notes)
    accuracy = None if data is None else _accuracy(chosen, data, corpus, plan, notes, tell)
    if accuracy is not None:
        _accuracy_measures(collected, accuracy)
    for subject in chosen:
        size = bundle_bytes(opened[subject.bundle], subject.precision) / 1e6
        collected.add("size", "MB", "less", size, subject=subject)
    after = machine.description()
    return {
        "schema": SCHEMA,
        "made": {
            "command": list(command),
            **machine.commit(),
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - begun, 1),
            "rounds": plan.rounds,
            "quick": plan.quick,
            "video": "talking head, made, 596x336" if "talking_head.mp4" in video else Path(video).name,
            "frames": plan.frames,
            "landmarks": landmarks,
        },
        "machine": {**before, "clocks_mhz_after": after["clocks_mhz"]},
        "bundles": {name: _facts(bundle) for name, bundle in opened.items()},
        "measures": [one.document() for one in collected.measures()],
        "graphs": graphs,
        "predictions": predictions,
        "accuracy": accuracy,
        "peers": None,
        "notes": list(dict.fromkeys(notes)),
    }


def _own_s() -> float:
    return sum(os.times()[:2]) + _children_s()


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "family": manifest.family,
        "digest": to_document(manifest)["digest"],
        "parameters": manifest.data.get("parameters"),
        "precisions": list(manifest.precisions),
        "preferred": preferred(bundle)[0],
        "window": None if manifest.window is None else manifest.window.length,
        "graphs": list(manifest.running),
        "inputs": {spec.name: list(spec.shape) for spec in manifest.inputs},
    }


class _Workshop:
    """Runs things in processes of their own."""

    def __init__(self, folder: Path, keep: Path | None) -> None:
        self.folder, self.keep = folder, keep

    def process(self, what: str, asked: Mapping[str, Any]) -> Any:
        """What :mod:`benchmarks.process` finds."""
        given, out = self.folder / "asked.json", self.folder / "found.json"
        given.write_text(json.dumps(asked), encoding="utf-8")
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.process", what, str(given), str(out), str(time.monotonic_ns())]
        self._call(command)
        return json.loads(out.read_text(encoding="utf-8"))

    def micro(self, asked: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """What pytest-benchmark finds in one round."""
        out = self.folder / f"micro-{number + 1}.json"
        # The project's own settings of pytest are for its tests.
        command = [sys.executable, "-m", "pytest", str(Path(__file__).with_name("micro.py")), "-q", "-c", os.devnull]
        command += ["--rootdir", str(ROOT), "-p", "no:cacheprovider", f"--benchmark-json={out}"]
        self._call(command, {"EDGE_BENCH": json.dumps(asked)})
        text = out.read_text(encoding="utf-8")
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / out.name).write_text(text, encoding="utf-8")
        return list(json.loads(text)["benchmarks"])

    def _call(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        # What is measured is no part of tests that run this, whatever these tell their own processes.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        surroundings = {**kept, "PYTHONPATH": path, **(more or {})}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=GIVE_UP_S, env=surroundings
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{' '.join(command[2:4])}: not done after {GIVE_UP_S} s; see --quick") from error
        if done.returncode:
            said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
            if "No module named pytest" in done.stderr or "--benchmark-json" in done.stderr:
                raise BenchError('pytest-benchmark is missing; type: pip install "edge-emotion[bench]"')
            last = said[-1][:300] if said else f"exit status {done.returncode}"
            raise BenchError(f"{' '.join(command[2:5])} failed: {last}")


def _yardsticks(collected: Collected, opened: Mapping[str, Bundle], notes: list[str]) -> None:
    """What the machine can do now: every round, so that two documents' machines can be compared too."""
    collected.add("machine/copy", "GB/s", "neither", machine.copy_gb_s())
    try:
        for kind in ("fp32", "int8"):
            collected.add(f"machine/multiply {kind}", "Gop/s", "neither", machine.multiply_gop_s(kind))
    except ImportError:
        notes.append('no rate of arithmetic, no floors: onnx is missing; type: pip install "edge-emotion[bench]"')


def _engines(
    collected: Collected,
    workshop: _Workshop,
    order: Sequence[Subject],
    opened: Mapping[str, Bundle],
    plan: Plan,
    number: int,
) -> None:
    by_case = {
        (one.given, one.precision, one.backend, graph): one
        for one in order
        for graph in opened[one.bundle].manifest.running
    }
    found = workshop.micro({"cases": list(by_case), "seconds": plan.engine_s}, number)
    whole: dict[Subject, list[float]] = {}
    for entry in found:
        case = tuple(entry["extra_info"]["case"])
        subject = by_case[case]
        samples = [second * 1e3 for second in entry["stats"]["data"]]
        median = statistics.median(samples)
        whole.setdefault(subject, []).append(median)
        collected.add(f"engine/{case[-1]}", "ms", "less", median, samples=samples, subject=subject)
    for subject, medians in whole.items():
        # What a new frame of one face costs: encoders and head together.
        collected.add("engine", "ms", "less", sum(medians), subject=subject)


def _loop(collected: Collected, workshop: _Workshop, subject: Subject, plan: Plan, video: str, landmarks: str) -> None:
    """The loop that ships, in a process of its own."""
    found = workshop.process(
        "loop",
        {
            "video": video,
            "bundle": subject.given,
            "precision": subject.precision,
            "backend": subject.backend,
            "landmarks": landmarks,
            "paced_s": plan.paced_s,
        },
    )
    collected.add("loop/fps", "frames/s", "more", found["fps"], subject=subject)
    collected.add("loop/core", "ms of a core a frame", "less", found["cpu_ms"], subject=subject)
    ages = found["paced"]["age_ms"]
    collected.add("loop/age", "ms", "less", statistics.median(ages), samples=ages, subject=subject)
    lost = found["paced"]["dropped"] / max(1, found["paced"]["dropped"] + found["paced"]["results"])
    collected.add("loop/dropped", "share", "less", lost, subject=subject)
    for stage, values in found["stages_ms"].items():
        rest = values[1:]
        # Means, since a stage that rests in two frames of three has no telling median; they add up, too.
        collected.add(f"stage/{stage}", "ms", "less", statistics.fmean(rest), samples=rest, subject=subject)
    for stage, values in found["core_ms"].items():
        rest = values[1:]
        collected.add(f"core/{stage}", "ms of a core", "less", statistics.fmean(rest), samples=rest, subject=subject)
    collected.add("cold start", "s", "less", found["cold_start_s"], subject=subject)
    collected.add("memory/host", "MB", "less", found["resident_mb"], subject=subject)
    collected.add("steady/changes", "a 100 frames", "less", found["label_changes_per_100"], subject=subject)
    collected.add("steady/with a face", "share", "more", found["with_face"], subject=subject)
    drawn = found["drawn"]
    if drawn["device_mb"] is not None:
        collected.add("memory/device", "MB", "less", drawn["device_mb"], subject=subject)
    if drawn["joules"] is not None:
        collected.add(
            f"energy ({drawn['by']})", "mJ a frame", "less", drawn["joules"] * 1e3 / found["frames"], subject=subject
        )


def _curves(
    collected: Collected,
    workshop: _Workshop,
    chosen: Sequence[Subject],
    opened: Mapping[str, Bundle],
    plan: Plan,
    landmarks: str,
    number: int,
    lengths: Mapping[int, str],
) -> None:
    """One round of how cost grows."""
    for name, bundle in opened.items():
        mine = [one for one in chosen if one.bundle == name]
        if not mine:
            continue
        first = next((one for precision in preferred(bundle) for one in mine if one.precision == precision), mine[0])
        options = {
            "bundle": first.given,
            "precision": first.precision,
            "backend": first.backend,
            "landmarks": landmarks,
        }
        points: list[dict[str, Any]] = [{"curve": "faces", "at": faces} for faces in plan.faces]
        points += [{"curve": "size", "at": list(size)} for size in plan.sizes]
        if any(one.backend == "onnxruntime" for one in mine):
            cores = range(1, min(8, describe().cores) + 1)
            points += [
                {"curve": "threads", "at": threads, "bundle": first.given, "precision": precision}
                for precision in bundle.manifest.precisions
                for threads in cores
            ]
        _points(collected, workshop, points, options, plan, number, first)
        if bundle.manifest.streams:
            point = {"curve": "window", "at": 0, **{key: options[key] for key in ("bundle", "precision", "backend")}}
            _points(collected, workshop, [point], options, plan, number, first)
    for path in lengths.values():
        one = {"bundle": str(Path(path).resolve()), "precision": "fp32", "backend": "onnxruntime"}
        subject = Subject(one["bundle"], Bundle.open(path).manifest.family, "fp32", "onnxruntime")
        _points(collected, workshop, [{"curve": "window", "at": 0, **one}], {}, plan, number, subject)


def _points(
    collected: Collected,
    workshop: _Workshop,
    points: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    plan: Plan,
    number: int,
    subject: Subject,
) -> None:
    asked = {
        "points": list(points)[:: 1 if number % 2 == 0 else -1],
        "options": options,
        "frames": plan.scale_frames,
        "seconds": plan.scale_s,
    }
    for one in workshop.process("scale", asked):
        curve, median = one["curve"], statistics.median(one["ms"])
        if curve in ("faces", "size"):
            at = float(one["at"]) if curve == "faces" else one["at"][0] * one["at"][1] / 1e6
            mean = statistics.fmean(one["ms"])
            collected.add(f"scale/{curve}", "ms", "less", mean, samples=one["ms"], at=at, subject=subject)
            collected.add(f"scale/{curve} core", "ms of a core", "less", one["cpu_ms"], at=at, subject=subject)
            collected.add(f"scale/{curve} seen", "faces", "neither", one["faces"], at=at, subject=subject)
            for stage, ms in one["stages_ms"].items():
                if stage != "total":
                    collected.add(f"scale/{curve} {stage}", "ms", "less", ms, at=at, subject=subject)
        elif curve == "threads":
            which = replace(subject, precision=one["precision"], backend="onnxruntime")
            collected.add("scale/threads", "ms", "less", median, samples=one["ms"], at=one["at"], subject=which)
        else:
            at = float(one["length"])
            collected.add("scale/window", "ms", "less", median, samples=one["ms"], at=at, subject=subject)
            if "whole_ms" in one:
                whole = statistics.median(one["whole_ms"])
                collected.add("scale/window at once", "ms", "less", whole, at=at, subject=subject)


def _limits(opened: Mapping[str, Bundle], notes: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What each graph does, its floor here, and what is predicted elsewhere."""
    graphs, predictions = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, bundle in opened.items():
        try:
            counts = [limit.count(bundle, graph) for graph in bundle.manifest.running]
        except ImportError:
            return [], []
        rates = {kind: machine.multiply_gop_s(kind) for kind in ("fp32", "int8")}
        for counted in counts:
            floors = {}
            for precision in bundle.manifest.precisions:
                # A CPU computes FP16 in FP32.
                form = "fp32" if precision == "fp16" else precision
                here = limit.floor(counted, form, rates[form], machine.copy_gb_s(counted.bytes(form), 0.05))
                floors[precision] = {"compute_ms": here.compute_ms, "memory_ms": here.memory_ms, "ms": here.ms}
            graphs.append({"bundle": name, **limit.document(counted), "floor": floors})
        for board in limit.BOARDS:
            for precision in bundle.manifest.precisions:
                predictions.append(
                    {
                        "bundle": name,
                        "precision": precision,
                        "board": board.name,
                        "floor_ms": sum(limit.board_floor(one, precision, board).ms for one in counts),
                        "predicted_ms": sum(limit.predicted_ms(one, precision, board) for one in counts),
                    }
                )
    return graphs, predictions


def _accuracy(
    chosen: Sequence[Subject], data: Path, corpus: str, plan: Plan, notes: list[str], tell: Callable[[str], None]
) -> dict[str, Any] | None:
    try:
        from benchmarks import accuracy
    except ImportError as error:
        notes.append(f'no accuracy: {error}; type: pip install "edge-emotion[bench]"')
        return None
    document: dict[str, Any] = {"corpus": corpus, "pictures": 0, "bundles": {}}
    pictures, doubles = accuracy.read(corpus, data, plan.pictures)
    document["pictures"] = len(pictures)
    for name, given in {one.bundle: one.given for one in chosen}.items():
        document["bundles"][name] = {"precisions": {}}
        for backend in dict.fromkeys(one.backend for one in chosen if one.bundle == name):
            precisions = [one.precision for one in chosen if (one.bundle, one.backend) == (name, backend)]
            tell(f"accuracy of {name} on {len(pictures)} pictures: {', '.join(precisions)} on {backend}")
            try:
                found = accuracy.measure(Bundle.open(given), pictures, doubles, precisions, backend)
            except EdgeError as error:
                notes.append(f"no accuracy of {name}: {error}")
                continue
            for precision, figures in found.items():
                document["bundles"][name]["precisions"][f"{precision}/{backend}"] = figures
    return document


def _accuracy_measures(collected: Collected, accuracy: Mapping[str, Any]) -> None:
    """Accuracy among the measures, so that two documents can be compared in it."""
    for name, one in accuracy["bundles"].items():
        for which, figures in one["precisions"].items():
            subject = Subject("", name, *which.split("/"))
            collected.add("accuracy", "share", "more", figures["accuracy"], subject=subject)
            collected.add("accuracy/surest 80 %", "share", "more", figures["covered"], subject=subject)
            collected.add("accuracy/agreement", "share", "more", figures["agreement"], subject=subject)
            collected.add("accuracy/calibration error", "share", "less", figures["ece"], subject=subject)
