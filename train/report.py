"""What a run leaves: ``result.json``, ``result.csv``, ``confusion.png``, and a table beside the papers' numbers.

The paper's number is compared with the mean over folds, which is what all five papers report; the interval is of the
pooled accuracy. Whatever was learnt or tested on made-up motion says SYNTHETIC wherever it is shown.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EdgeError

FORMAT = 1
_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "edge-emotion",
    "torch",
    "numpy",
    "scikit-learn",
    "scipy",
    "opencv-python-headless",
    "matplotlib",
    "onnxruntime",
)


class ReportError(EdgeError):
    """A result that is missing, damaged or of another format."""


@dataclass(frozen=True)
class Reference:
    """A number that a paper printed."""

    accuracy: float
    """Percent, 0..100."""
    source: str
    """As ``Li et al. 2019, Table 3``."""


@dataclass(frozen=True)
class FoldResult:
    """One fold of a run."""

    name: str
    train: int
    """Examples learnt from, copies by augmentation before the crop included."""
    test: int
    """Examples tested on."""
    predictions: int
    """What those become when segments are averaged over their sequence."""
    accuracy: float
    """0..1, over ``predictions``; so are the next two."""
    macro_f1: float
    uar: float
    shared_subjects: int
    """Subjects on both sides; 0 where the protocol is subject-independent."""
    leaks: int
    """Pairs of the same picture on both sides that the leak policy let pass."""
    seconds: float
    """Fitting and predicting."""


@dataclass(frozen=True)
class Result:
    """Everything there is to say of one family under one protocol."""

    family: str
    system: str
    """The paper it comes from."""
    corpus: str
    test_on: str | None
    """The corpus tested on, where it is another one."""
    protocol: str
    claim: str
    """What the folds promise, see ``Protocol.claim``."""
    seed: int
    names: tuple[str, ...]
    config: dict[str, Any]
    recipe: dict[str, Any]
    folds: tuple[FoldResult, ...]
    figures: dict[str, Any]
    """Of ``metrics.evaluate``, over all folds; shares are 0..1."""
    averaged: bool
    """Whether segments were averaged over their sequence."""
    synthetic: bool
    skipped: dict[str, int] = field(default_factory=dict)
    """Files that gave no example, by reason."""
    failed: dict[str, int] = field(default_factory=dict)
    """Samples that were lost on the way to an example, as no face found, by reason."""
    reference: Reference | None = None
    note: str = ""
    """What a reader must know besides, as where a paper leaves something open."""

    @property
    def headline(self) -> str:
        """The accuracy in one line: mean over folds, standard deviation, pooled, 95 % interval."""
        figures = self.figures
        text = f"{100 * figures['fold_mean']:.2f} %"
        if figures["fold_sd"] is not None:
            text = f"{100 * figures['fold_mean']:.2f} ± {100 * figures['fold_sd']:.2f} % over {len(self.folds)} folds"
        if figures["interval"] is not None:
            low, high = (100 * bound for bound in figures["interval"])
            pooled = f", pooled {100 * figures['accuracy']:.2f} %" if len(self.folds) > 1 else ""
            text += f"{pooled} [95 %: {low:.1f}, {high:.1f}]"
        return text


def write(result: Result, folder: Path) -> None:
    """Write ``result.json``, ``result.csv`` and ``confusion.png``, each atomically.

    Args:
        result: what was measured.
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "format": FORMAT,
        **asdict(result),
        "command": shlex.join(sys.orig_argv[1:]) if sys.orig_argv else "",
        "versions": versions(),
        "commit": commit(),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    put(folder / "result.json", json.dumps(written, indent=2, ensure_ascii=False, default=_plain).encode() + b"\n")
    put(folder / "result.csv", _table(result).encode())
    put(folder / "confusion.png", picture(result))


def read(folder: Path) -> Result:
    """Read a result back.

    Args:
        folder: where :func:`write` put it.

    Raises:
        ReportError: no result there, or none of this format.
    """
    path = folder / "result.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise ReportError(f"{path}: format {stored['format']!r}; expected {FORMAT}; run it again")
        values = {name: stored[name] for name in Result.__dataclass_fields__}
        values["folds"] = tuple(FoldResult(**fold) for fold in stored["folds"])
        values["names"] = tuple(stored["names"])
        values["reference"] = Reference(**stored["reference"]) if stored["reference"] else None
        return Result(**values)
    except FileNotFoundError as error:
        raise ReportError(f"{path}: no such result; expected the folder of a finished run; run it first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: not a result ({error}); expected what a run wrote; run it again") from error


def summary(results: Sequence[Result]) -> str:
    """The paper's number beside ours, one line a result; accuracies in percent."""
    rows = [("system", "corpus", "protocol", "paper", "ours", "95 %", "difference", "")]
    for result in results:
        figures, paper = result.figures, result.reference
        mean = 100 * figures["fold_mean"]
        ours = f"{mean:.2f}" + (f" ± {100 * figures['fold_sd']:.2f}" if figures["fold_sd"] is not None else "")
        interval = "{:.1f}..{:.1f}".format(*(100 * x for x in figures["interval"])) if figures["interval"] else "-"
        remarks = ["SYNTHETIC"] if result.synthetic else []
        remarks += [result.claim] if result.claim.startswith("NOT") else []
        rows.append(
            (
                result.family,
                result.corpus + (f" -> {result.test_on}" if result.test_on else ""),
                result.protocol,
                f"{paper.accuracy:.2f}" if paper else "-",
                ours,
                interval,
                f"{mean - paper.accuracy:+.2f}" if paper else "-",
                "; ".join(remarks),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {3, 6}
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths[:-1]))
    sources = dict.fromkeys(result.reference.source for result in results if result.reference)
    notes = dict.fromkeys(result.note for result in results if result.note)
    lines.append("ours: mean over folds ± standard deviation; 95 %: bootstrap interval of the pooled accuracy")
    lines += [f"paper: {'; '.join(sources)}"] if sources else []
    return "\n".join(lines + [f"note: {note}" for note in notes])


def picture(result: Result) -> bytes:
    """The confusion matrix as a PNG: rows are the truth, each cell its share of the row and its count."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.array(result.figures["confusion"])
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(result.names)
    side = 2.6 + 0.82 * size
    figure = Figure(figsize=(max(side + 0.9, 7.4), side + 0.7), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row in range(size):
        for column in range(size):
            if not counts[row, column]:
                continue
            colour = "white" if shares[row, column] > 60 else "black"
            share = shares[row, column]
            # A rounded 100 % would hide the errors beside it.
            text = f"{share:.0f} %" if share == round(share) else f"{share:.1f} %"
            axes.text(column, row - 0.1, text, ha="center", va="center", color=colour, fontsize=10.5)
            number = f"{counts[row, column]:,}"
            axes.text(column, row + 0.24, number, ha="center", va="center", color=colour, fontsize=7.5)
    axes.set_xticks(range(size), result.names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(size), [f"{name}\n{total:,}" for name, total in zip(result.names, counts.sum(axis=1), strict=True)]
    )
    axes.set_xticks(np.arange(-0.5, size), minor=True)
    axes.set_yticks(np.arange(-0.5, size), minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0, 25, 50, 75, 100])
    bar.set_label("% of the row")
    bar.outline.set_visible(False)
    where = result.corpus + (f" → {result.test_on}" if result.test_on else "")
    synthetic = "SYNTHETIC  " if result.synthetic else ""
    figure.suptitle(f"{synthetic}{result.family} on {where}", fontsize=13, fontweight="bold")
    axes.set_title(f"{result.protocol}, {result.claim}\naccuracy {result.headline}", fontsize=9.5, pad=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """Python, machine, and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit this code is checked out at, with ``+changes`` where files differ; None outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installation may lie in a folder that some other project has under version control.
    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != _ROOT:
        return None
    name = git("rev-parse", "HEAD")
    return None if name is None else name + ("+changes" if git("status", "--porcelain") else "")


def put(path: Path, content: bytes) -> None:
    """Write a file atomically: a killed run leaves the previous one whole, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _table(result: Result) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(FoldResult.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(fold) for fold in result.folds)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """What JSON does not know: paths, numpy's numbers and arrays, tuples inside mappings."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        number = value.item()
        return None if isinstance(number, float) and math.isnan(number) else number
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
