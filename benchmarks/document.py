"""What a run of the benchmarks leaves behind: one JSON of the same form from every machine.

Everything measured is a :class:`Measure`: what, of which bundle, precision and backend, and at which place of a curve,
with one value a round. Rounds take turns over everything that is measured, so a machine that was busy for a while shows
as a wide interval, and not as a winner. ``docs/benchmarks.md`` lists the names.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchError

SCHEMA = 1
"""Raised when a reader of older files would misread newer ones."""

QUANTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)

BETTER = "less", "more", "neither"

_KEYS = {
    "schema": int,
    "made": dict,
    "machine": dict,
    "bundles": dict,
    "measures": list,
    "graphs": list,
    "predictions": list,
    "accuracy": (dict, type(None)),
    "peers": (dict, type(None)),
    "notes": list,
}
"""Keys of a document, and what they hold."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, and what is needed to judge it."""

    name: str
    """As ``engine/window``, ``stage/detect``, ``loop/fps`` or ``scale/faces``."""
    unit: str
    better: str
    """``less`` or ``more``; ``neither`` of what describes the machine."""
    rounds: tuple[float, ...]
    """One value a round, in the order of the rounds."""
    bundle: str = ""
    precision: str = ""
    backend: str = ""
    at: float | None = None
    """Place on a curve: faces, megapixels, threads, frames."""
    quantiles: Mapping[str, float] = field(default_factory=dict)
    """Of single samples, all rounds together: per cent to value."""

    def __post_init__(self) -> None:
        if self.better not in BETTER or not self.rounds or not all(map(math.isfinite, self.rounds)):
            raise BenchError(f"{self.key}: {list(self.rounds)}, better {self.better!r}; expected finite figures")

    @property
    def key(self) -> str:
        """What it is found by in another document."""
        place = "" if self.at is None else f"@{self.at:g}"
        return " ".join(part for part in (self.name + place, self.bundle, self.precision, self.backend) if part)

    @property
    def value(self) -> float:
        """The median round's."""
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The least round's."""
        return min(self.rounds)

    @property
    def high(self) -> float:
        """The greatest round's."""
        return max(self.rounds)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rounds": list(self.rounds), "value": self.value, "low": self.low, "high": self.high}


def quantiles(samples: Iterable[float]) -> dict[str, float]:
    """Of single samples, by per cent."""
    values = np.percentile(list(samples), QUANTILES)
    return {str(share): float(value) for share, value in zip(QUANTILES, values, strict=True)}


def of(document: Mapping[str, Any]) -> Measure:
    """A measure of its JSON."""
    return Measure(
        name=str(document["name"]),
        unit=str(document["unit"]),
        better=str(document["better"]),
        rounds=tuple(float(value) for value in document["rounds"]),
        bundle=str(document["bundle"]),
        precision=str(document["precision"]),
        backend=str(document["backend"]),
        at=None if document["at"] is None else float(document["at"]),
        quantiles={str(key): float(value) for key, value in document["quantiles"].items()},
    )


def measures(document: Mapping[str, Any], prefix: str = "") -> list[Measure]:
    """A document's measures whose name begins so."""
    return [of(one) for one in document["measures"] if one["name"].startswith(prefix)]


def load(path: Path) -> dict[str, Any]:
    """Read a document, and check that it is one.

    Raises:
        BenchError: missing, damaged, of another schema, or with figures that are none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(
            f"{path}: can't be read ({error.strerror}); expected bench.json of python -m benchmarks"
        ) from None
    except ValueError as error:
        raise BenchError(f"{path}: no JSON ({error}); expected bench.json of python -m benchmarks") from None
    check(document, str(path))
    return dict(document)


def check(document: Any, name: str) -> None:
    """Check that something is a document.

    Raises:
        BenchError: it isn't; with the first thing that is wrong.
    """
    if not isinstance(document, dict) or "schema" not in document:
        raise BenchError(f"{name}: not a document of python -m benchmarks; expected its bench.json")
    if document["schema"] != SCHEMA:
        raise BenchError(f"{name}: schema {document['schema']!r}, this version reads {SCHEMA}; measure again")
    for key, kind in _KEYS.items():
        if not isinstance(document.get(key), kind):  # type: ignore[arg-type]
            raise BenchError(f"{name}: {key} is missing or garbled; measure again")
    seen = set[str]()
    try:
        for one in document["measures"]:
            key = of(one).key
            if key in seen:
                raise BenchError(f"{name}: {key} is there twice; measure again")
            seen.add(key)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"{name}: a measure is garbled ({error!r}); measure again") from None


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write a document.

    Raises:
        BenchError: it is none, or can't be written.
    """
    check(document, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: can't be written ({error.strerror}); give another folder with --out") from None


def find(all_of_them: Sequence[Measure], name: str, **facts: Any) -> Measure | None:
    """The measure of that name and those facts (``bundle``, ``precision``, ``backend``, ``at``), or None."""
    for one in all_of_them:
        if one.name == name and all(getattr(one, key) == value for key, value in facts.items()):
            return one
    return None
