"""Ours beside others': ``python -m benchmarks.peers [--video FILE] [--rivals NAME,...] [--data FOLDER] [--json FILE]``.

Every rival gets a virtual environment of its own, is called through its public interface, sees every frame of the same
video, and runs in a process of its own, as ours does. Ours runs before and after each run of a rival, so that another
load on the machine meets both; what is compared is the ratio within such a group of three.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loop import write_clip
from edge.errors import EdgeError
from edge.faces.landmarks import MODELS

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent / "rivals"
OURS_ON_CROPS = Path(__file__).with_name("crops_edge.py")

OURS = MODELS
"""Landmark models that ours is run with: one before each run of a rival, the other after it, in turns."""

BUSY = 1.5
"""Load average from which the report says that the machine was not ours alone."""

QUIET = 0.2
"""Cores that other programs may keep busy without its being told."""

INSTALL_S, RUN_S = 1800, 600
"""Seconds after which an installation and a run are given up."""


class PeerError(EdgeError):
    """A recogniser that could not be installed or run."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A recogniser to be measured beside ours."""

    name: str
    requirements: tuple[str, ...]
    """What pip is asked for, options included."""
    adapter: Path
    """See ``rivals/run.py``."""
    modes: tuple[str, ...]
    """Its ways of working that are measured, the fastest first."""


RIVALS = (
    Rival(
        "fer",
        # It imports pkg_resources, which newer setuptools no longer bring, and does not ask for it.
        ("fer==25.10.3", "setuptools<81"),
        HERE / "use_fer.py",
        ("haar", "mtcnn"),
    ),
    Rival(
        "facial-emotion-recognition",
        # The same face finder as in fer's environment, which pins the same torch: else pip may choose an older one.
        ("facial-emotion-recognition==0.3.4", "facenet-pytorch==2.6.0", "opencv-python<5"),
        HERE / "use_facial_emotion_recognition.py",
        ("mtcnn",),
    ),
)


def prepare(rival: Rival, folder: Path) -> Path:
    """A rival's virtual environment, made at the first call and kept.

    Args:
        rival: which.
        folder: where environments are kept.

    Returns:
        Its Python.

    Raises:
        PeerError: it can't be installed; with pip's last line.
    """
    environment = folder / rival.name
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = environment / "installed.json"
    wanted = json.dumps([platform.python_version(), *rival.requirements])
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *rival.requirements],
    ):
        try:
            _call(command, INSTALL_S)
        except PeerError as error:
            shutil.rmtree(environment, ignore_errors=True)
            raise PeerError(f"{rival.name} can't be installed: {error}") from error
    done.write_text(wanted, encoding="utf-8")
    return python


def run_once(
    python: Path | str, adapter: Path, mode: str, video: str, *, cores: int | None = None, path: str | None = None
) -> dict[str, Any]:
    """One pass of one recogniser over a video, in a process of its own.

    Args:
        python: of the environment that it is installed in.
        adapter: its file in ``rivals/``.
        mode: one of its ways of working.
        video: a file.
        cores: keep it to so many.
        path: where Python looks for more packages; None is nowhere else.

    Returns:
        See ``rivals/run.py``; with ``others``, how many cores other programs kept busy meanwhile.

    Raises:
        PeerError: it ended without figures; with the last line that it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [str(python), str(HERE / "run.py"), str(adapter), mode, str(Path(video).resolve()), str(out)]
        begun, busy, own = time.monotonic(), _busy_s(), _children_s()
        _call([*command, str(time.monotonic_ns()), *([] if cores is None else [str(cores)])], RUN_S, path, folder)
        if not out.is_file():
            raise PeerError("it ended without figures")
        others = (_busy_s() - busy - _children_s() + own) / (time.monotonic() - begun)
        return {**json.loads(out.read_text(encoding="utf-8")), "others": max(0.0, others)}


def write_crops(data: Path, corpus: str, most: int, file: Path) -> None:
    """A corpus' labelled crops as ``crops.py`` reads them.

    Args:
        data: the corpus' folder.
        corpus: a name in ``train.datasets.PICTURES``.
        most: so many at most, spread over the test part.
        file: the npz to write.

    Raises:
        EdgeError: not that corpus.
    """
    from train.datasets import PICTURES

    test = PICTURES[corpus](data, "test")
    chosen = np.linspace(0, len(test) - 1, min(most, len(test))).astype(np.int64)
    np.savez(file, x=test.arrays["face"][chosen], y=test.labels[chosen], names=np.array(test.names))


def on_crops(python: Path | str, adapter: Path, mode: str, crops: Path, path: str | None = None) -> dict[str, Any]:
    """How often one recogniser is right on labelled crops, each enlarged and set into a picture; see ``crops.py``.

    Args:
        python: of the environment that it is installed in.
        adapter: its file.
        mode: one of its ways of working.
        crops: from :func:`write_crops`.
        path: where Python looks for more packages; None is nowhere else.

    Returns:
        ``count``; ``found``, the share in which it finds a face; ``accuracy``, the share of all that is right; and
        ``accuracy_found``, that of those in which it finds one (0 where none is). Shares are 0..1.

    Raises:
        PeerError: it ended without figures; with the last line that it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "crops.json"
        command = [str(python), str(Path(__file__).with_name("crops.py")), str(adapter), mode, str(crops), str(out)]
        _call(command, RUN_S, path, folder)
        if not out.is_file():
            raise PeerError("it ended without figures")
        answers = json.loads(out.read_text(encoding="utf-8"))
    right = sum(one == other for one, other in zip(answers["said"], answers["truth"], strict=True))
    found = sum(one is not None for one in answers["said"])
    count = len(answers["truth"])
    return {"count": count, "found": found / count, "accuracy": right / count, "accuracy_found": right / max(1, found)}


def _call(command: Sequence[str], seconds: float, path: str | None = None, folder: str | None = None) -> None:
    """Run a command; where it fails, raise the last line that it wrote."""
    surroundings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    if path is not None:
        surroundings["PYTHONPATH"] = path
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=surroundings, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"not done after {seconds:.0f} s") from error
    if done.returncode:
        said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
        raise PeerError(said[-1][:200] if said else f"exit status {done.returncode}, without a word")


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs of one recogniser, as one row.

    Args:
        runs: as :func:`run_once` gives them, one or more.

    Returns:
        Medians over the runs of ``fps``, ``cold_start_s`` and the percentiles of the calls' times; the worst run's
        ``resident_mb`` and least and greatest ``fps``; and from the first run what is the same in each.
    """
    first = runs[0]
    speeds = [run["fps"] for run in runs]
    by_run = [percentiles(run["took_ms"]) for run in runs]
    return {
        "runs": len(runs),
        "frames": first["frames"],
        "fps": statistics.median(speeds),
        "fps_from_to": [min(speeds), max(speeds)],
        "took_ms": {key: statistics.median(one[key] for one in by_run) for key in ("p50", "p95", "p99")},
        "p99_over_p50": statistics.median(one["p99"] / max(1e-9, one["p50"]) for one in by_run),
        "cold_start_s": statistics.median(run["cold_start_s"] for run in runs),
        "resident_mb": max(run["resident_mb"] for run in runs),
        "with_face": sum(count > 0 for count in first["faces"]) / len(first["faces"]),
        "label_changes_per_100": changes_per_100(first["main"]),
        "others": statistics.median(run["others"] for run in runs),
        "cores": first["cores"],
        "versions": first["versions"],
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99: the least values that so many in a hundred are not above."""
    ordered = sorted(values)
    return {f"p{share}": ordered[max(0, -(-share * len(ordered) // 100) - 1)] for share in (50, 95, 99)}


def changes_per_100(labels: Sequence[str | None]) -> float:
    """How often a label differs from the one before it, in 100 frames that have one; others are left out."""
    said = [label for label in labels if label is not None]
    return 100 * sum(a != b for a, b in pairwise(said)) / max(1, len(said))


def measure(
    video: str,
    rivals: Sequence[Rival],
    rounds: int,
    folder: Path,
    cores: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    wait_s: float = 0,
    crops: Path | None = None,
) -> dict[str, Any]:
    """Ours and every rival, in turns.

    Args:
        video: a file.
        rivals: beside whom.
        rounds: in each, every mode of every rival runs once, between two of ours.
        folder: where the rivals' environments are kept.
        cores: keep every process to so many of the machine's.
        tell: what is said on the way.
        wait_s: how long to wait, before each run of a rival and the two of ours, for other programs to end.
        crops: from :func:`write_crops`; None measures no accuracy.

    Returns:
        ``rows`` by name, ``ratios`` (ours over the rival's speed, one a round, by ours and the rival),
        ``others`` (how many cores other programs kept busy in the worst of the three runs that a ratio comes from, one
        a round, by the rival), ``crops`` (:func:`on_crops` by name) and ``failed``.

    Raises:
        PeerError: ours could not be run.
    """
    ready: list[tuple[Rival, Path]] = []
    failed: dict[str, str] = {}
    for rival in rivals:
        tell(f"{rival.name}: installing, unless done before")
        try:
            ready.append((rival, prepare(rival, folder)))
        except PeerError as error:
            failed[rival.name] = str(error)
    runs: dict[str, list[dict[str, Any]]] = {}
    ratios: dict[str, dict[str, list[float]]] = {}
    others: dict[str, list[float]] = {}
    loads = [_load()]

    def ours(mode: str) -> dict[str, Any]:
        found = run_once(sys.executable, HERE / "use_edge.py", mode, video, cores=cores, path=str(ROOT))
        runs.setdefault(f"edge, {mode} landmarks", []).append(found)
        return found

    for number in range(rounds):
        pairs = [(rival, python, mode) for rival, python in ready for mode in rival.modes]
        for rival, python, mode in pairs:
            name = f"{rival.name}, {mode}"
            if name in failed:
                continue
            wait_until_quiet(wait_s)
            order = OURS if number % 2 == 0 else OURS[::-1]
            speeds = {order[0]: ours(order[0])["fps"]}
            try:
                theirs = run_once(python, rival.adapter, mode, video, cores=cores)
            except PeerError as error:
                failed[name] = f"{name} failed: {error}"
                continue
            finally:
                speeds[order[1]] = ours(order[1])["fps"]
            runs.setdefault(name, []).append(theirs)
            disturbed = max(
                one["others"] for one in (theirs, *(runs[f"edge, {model} landmarks"][-1] for model in OURS))
            )
            others.setdefault(name, []).append(disturbed)
            for model, fps in speeds.items():
                ratios.setdefault(f"edge, {model} landmarks", {}).setdefault(name, []).append(fps / theirs["fps"])
            each = ", ".join(f"{speeds[model]:.0f} with {model} landmarks" for model in OURS)
            tell(
                f"round {number + 1}, {name}: {theirs['fps']:.1f} frames/s; ours {each}; "
                f"others kept {disturbed:.2f} cores busy"
            )
        if not pairs:
            for model in OURS:
                ours(model)
        loads.append(_load())
    right: dict[str, dict[str, Any]] = {}
    if crops is not None:
        for model in OURS:
            right[f"edge, {model} landmarks"] = on_crops(sys.executable, OURS_ON_CROPS, model, crops, str(ROOT))
        for rival, python in ready:
            for mode in rival.modes:
                name = f"{rival.name}, {mode}"
                tell(f"{name}: labelled crops")
                try:
                    right[name] = on_crops(python, rival.adapter, mode, crops)
                except PeerError as error:
                    failed.setdefault(f"{name} on crops", f"{name} on crops failed: {error}")
    return {
        "video": video,
        "machine": {
            "name": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
        },
        "load_average": loads,
        "rounds": rounds,
        "rows": {name: figures(one) for name, one in runs.items()},
        "ratios": ratios,
        "others": others,
        "crops": right,
        "failed": failed,
        "runs": runs,
    }


def wait_until_quiet(seconds: float) -> bool:
    """Wait until other programs keep less than QUIET cores busy for a second, and so long at most; was it so?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun, busy = time.monotonic(), _busy_s()
        time.sleep(1)
        if _busy_s() - busy < QUIET * (time.monotonic() - begun):
            return True
    return False


def _busy_s() -> float:
    """Core seconds that this machine has worked, all programs together; 0 where the system does not tell."""
    try:
        with Path("/proc/stat").open() as stat:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _children_s() -> float:
    """Core seconds of the processes that were started here and have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def _load() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def report(found: Mapping[str, Any]) -> str:
    """The figures as a table."""
    rows, machine, loads = found["rows"], found["machine"], found["load_average"]
    width = max(len(name) for name in rows)
    some = next(iter(rows.values()))
    lines = [
        f"{found['video']}: {some['frames']} frames, every one of them; {found['rounds']} rounds",
        f"machine: {machine['processor'] or machine['name']}, {some['cores']} of {machine['cores']} cores, "
        f"Python {machine['python']}; load average {min(loads):.2f} to {max(loads):.2f}",
    ]
    if max(loads) > BUSY:
        lines.append(f"load average above {BUSY}, to which the runs themselves add up to {some['cores']}")
    disturbed = [run["others"] for each in found["runs"].values() for run in each]
    if max(disturbed) >= QUIET:
        lines.append(
            f"other programs kept {statistics.median(disturbed):.2f} cores busy while a run lasted (median), "
            f"{max(disturbed):.2f} at most: trust ratios before figures"
        )
    lines += [
        "",
        f"{'':<{width}} {'frames/s':>8} {'from-to':>11} {'p50 ms':>7} {'p95':>6} {'p99':>6} {'face in':>7} "
        f"{'changes':>7} {'MB':>5} {'cold s':>6}",
    ]
    for name, row in rows.items():
        low, high = row["fps_from_to"]
        ms = row["took_ms"]
        lines.append(
            f"{name:<{width}} {row['fps']:8.1f} {f'{low:.0f}-{high:.0f}':>11} {ms['p50']:7.1f} {ms['p95']:6.1f} "
            f"{ms['p99']:6.1f} {row['with_face']:7.1%} {row['label_changes_per_100']:7.1f} {row['resident_mb']:5.0f} "
            f"{row['cold_start_s']:6.2f}"
        )
    lines += ["", "changes: of the label, in 100 frames; ours over theirs in frames a second, median (least to most):"]
    for ours, by_rival in found["ratios"].items():
        for name, each in by_rival.items():
            line = f"  {ours} / {name}: {statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})"
            calm = [ratio for ratio, others in zip(each, found["others"][name], strict=True) if others < QUIET]
            if 0 < len(calm) < len(each):
                line += (
                    f"; in {len(calm)} of {len(each)} rounds that nothing else disturbed: {statistics.median(calm):.1f}"
                )
            lines.append(line)
    if found.get("crops"):
        count = next(iter(found["crops"].values()))["count"]
        lines.append(f"right of {count} labelled crops, each enlarged and set into a picture (and a face found in):")
        for name, one in found["crops"].items():
            lines.append(
                f"  {name}: {one['accuracy']:.1%} ({one['found']:.1%}); {one['accuracy_found']:.1%} of those found"
            )
    if "loop" in found:
        loop = found["loop"]
        alone = ", ".join(f"{name} {fps:.0f}" for name, fps in loop["alone_fps"].items())
        lines.append(f"  edge's loop / its slowest part alone: {loop['overlap']:.2f} (frames/s alone: {alone})")
    for name, row in rows.items():
        if row["versions"]:
            lines.append(f"{name}: {', '.join(f'{package} {number}' for package, number in row['versions'].items())}")
    return "\n".join([*lines, *found["failed"].values()])


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-emotion" / "rivals"


def main(arguments: Sequence[str] | None = None, rivals: Sequence[Rival] = RIVALS) -> int:
    """Run from the command line; returns the exit status."""
    names = [rival.name for rival in rivals]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Measure ours beside others'.")
    parser.add_argument("--video", metavar="FILE", help="measure on this video instead of a made one")
    parser.add_argument("--rivals", default=",".join(names), metavar="NAME,...", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="each runs so often (3)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="keep each process to so many (2)")
    parser.add_argument("--environments", type=Path, default=_cache(), metavar="FOLDER", help="where rivals are kept")
    parser.add_argument("--loop-seconds", type=float, default=10, metavar="N", help="measure our loop's parts too (10)")
    parser.add_argument("--wait", type=float, default=0, metavar="N", help="wait N s at most until others rest (0)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="labelled crops (FER2013): accuracy on them too")
    parser.add_argument("--pictures", type=int, default=500, metavar="N", help="so many of those at most (500)")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    options = parser.parse_args(arguments)
    asked = [name for name in options.rivals.split(",") if name]
    if strange := [name for name in asked if name not in names]:
        parser.error(f"rival {strange[0]!r} is unknown; expected some of {', '.join(names)}")
    if options.rounds < 1 or options.cores < 1 or options.pictures < 1:
        parser.error("--rounds, --cores and --pictures are 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        video = options.video
        if video is None:
            video = str(Path(folder) / "talking_head.mp4")
            write_clip(Path(video))
        try:
            crops = None
            if options.data is not None:
                crops = Path(folder) / "crops.npz"
                write_crops(options.data, "fer2013", options.pictures, crops)
            found = measure(
                video,
                [rival for rival in rivals if rival.name in asked],
                options.rounds,
                options.environments.resolve(),
                options.cores,
                lambda line: print(line, file=sys.stderr, flush=True),
                options.wait,
                crops,
            )
            if options.loop_seconds > 0:
                found["loop"] = _parts(video, options.loop_seconds, folder)
        except EdgeError as error:
            print(error, file=sys.stderr)
            return 2
    print(report(found))
    if options.json is not None:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def _parts(video: str, seconds: float, folder: str) -> dict[str, Any]:
    """What benchmarks.loop finds in a process of its own."""
    out = Path(folder) / "loop.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.loop",
        "--seconds",
        str(seconds),
        "--video",
        str(Path(video).resolve()),
    ]
    _call([*command, "--json", str(out)], RUN_S + seconds, str(ROOT))
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
