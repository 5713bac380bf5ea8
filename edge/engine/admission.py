"""Which engine a bundle gets on this machine: a plan is used once it has proved itself here, and not before.

Each plan replays the bundle's golden vectors and is timed. It is admitted if it gives the bundle's answers within the
precision's tolerance, and is no slower than what would be used in its place: INT8 than FP16, FP16 than ONNX Runtime.
Numbers that are wrong under one TensorRT and right under another, and INT8 that is slower than FP16, are what its users
complain of most; so neither is taken on trust. The verdict is kept, with its figures, for ``edge doctor`` and for the
next start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle import Bundle
from edge.cache import cache_folder, own_folder, read_own, write_own
from edge.engine.contract import Engine
from edge.engine.pace import pace
from edge.engine.plans import Place, Plans, command, key_of
from edge.errors import BackendError, EdgeError
from edge.manifest import to_document

if TYPE_CHECKING:
    from edge.cuda import Device

_LOG = logging.getLogger(__name__)

MEETS = 1.02
"""An engine that takes this many times as long as another meets it: timings of one machine repeat no better."""

ORDER = ("int8", "fp16", "fp32")
"""From the fastest that is hoped for down."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was found of one engine."""

    backend: str
    precision: str
    reproduces: bool
    """Whether it gives the bundle's golden answers."""
    difference: float | None
    """Largest difference from them, in probability; None where it did not run."""
    allowed: float
    median_ms: float | None
    """For a new frame of one face."""
    p95_ms: float | None
    admitted: bool
    reason: str
    """In words."""

    def __str__(self) -> str:
        figures = "" if self.median_ms is None else f", {self.median_ms:.2f} ms a frame"
        differs = "" if self.difference is None else f", differs by {self.difference:.1e} of {self.allowed:.1e} allowed"
        return f"{self.backend} {self.precision}: {self.reason}{figures}{differs}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is used for a bundle here, and why."""

    bundle: str
    """Name of the bundle."""
    digest: str
    """Of its manifest."""
    place: Place
    plans: dict[str, str]
    """sha256 of each plan, by graph and precision."""
    rows: tuple[Row, ...]
    when: str
    """UTC."""

    @property
    def chosen(self) -> Row | None:
        """The first that is admitted: of TensorRT's, else ONNX Runtime's; None where nothing runs."""
        return next((row for row in self.rows if row.admitted), None)

    def of(self, precision: str) -> Row | None:
        """What was found of TensorRT in a precision; ``auto`` is the first that is admitted."""
        for row in self.rows:
            if row.backend == "tensorrt" and (row.precision == precision or (precision == "auto" and row.admitted)):
                return row
        return None

    def __str__(self) -> str:
        chosen = self.chosen
        used = "nothing runs" if chosen is None else f"{chosen.backend} {chosen.precision} is used"
        return f"{self.bundle}: {used}; {self.place}"


def wanted(bundle: Bundle) -> tuple[str, ...]:
    """The precisions that are worth building plans of: FP32 only where there is no FP16 to fall back to."""
    there = [one for one in ORDER if one in bundle.manifest.precisions]
    return tuple(one for one in there if one != "fp32" or "fp16" not in there)


def decide(found: list[Row], others: list[Row]) -> tuple[Row, ...]:
    """Admit or refuse what was found.

    Args:
        found: of TensorRT, in :data:`ORDER`; ``admitted`` is not looked at.
        others: of ONNX Runtime, the one that would be used first.

    Returns:
        All of them with their verdicts, in the order in which they are preferred.
    """
    made: list[Row] = []
    spare = next((row for row in others if row.reproduces), None)
    # From the last resort up: what is refused itself is nobody's rival.
    for row in reversed(found):
        rival = next((one for one in made if one.admitted), None) if row.precision == "int8" else None
        rival = rival or spare
        if not row.reproduces:
            made.insert(0, _with(row, False, row.reason))
        elif rival is not None and row.median_ms is not None and rival.median_ms is not None:
            meets = row.median_ms <= MEETS * rival.median_ms
            against = f"{rival.backend} {rival.precision}'s {rival.median_ms:.2f} ms"
            made.insert(0, _with(row, meets, f"{'meets' if meets else 'is slower than'} {against}"))
        else:
            made.insert(0, _with(row, True, "nothing else runs here"))
    return (*made, *(_with(row, row.reproduces, row.reason) for row in others))


def _with(row: Row, admitted: bool, reason: str) -> Row:
    facts = {name: getattr(row, name) for name in Row.__slots__}
    return Row(**{**facts, "admitted": admitted, "reason": reason})


def examine(engine: Engine, bundle: Bundle) -> Row:
    """An engine's answers to the golden vectors, and its time for a frame."""
    from edge.check import check_engine

    findings = check_engine(bundle, engine)
    failed = next((one for one in findings if not one.passed), None)
    differences = [one.difference for one in findings if one.difference is not None]
    worst, allowed = max(differences, default=None), bundle.manifest.tolerances[engine.precision]
    facts = (engine.backend, engine.precision, failed is None, worst, allowed)
    if failed is not None:
        return Row(*facts, None, None, False, f"does not reproduce the golden vectors ({failed.what})")
    took = pace(bundle, engine)
    return Row(*facts, took.median, took.p95, False, "reproduces the golden vectors")


def judge(
    bundle: Bundle,
    device: Device,
    plans: Plans,
    *,
    failed: dict[str, str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Examine every plan there is of a bundle, and ONNX Runtime, and keep the verdict if all of them ran.

    Args:
        bundle: opened.
        device: the GPU.
        plans: where its plans are.
        failed: why there is no plan, by precision.
        tell: is told what goes on, a line at a time.

    Raises:
        BackendError: the verdict can't be kept.
    """
    from edge.engine import open_engine, preferred
    from edge.engine.library import place
    from edge.engine.tensorrt import TensorRTEngine

    here = place(device)
    found: list[Row] = []
    others: list[Row] = []
    passing = False
    for precision in [one for one in ORDER if one in bundle.manifest.precisions]:
        reason = (failed or {}).get(precision)
        if reason is not None:
            found.append(_refused(bundle, "tensorrt", precision, f"could not be built ({reason})"))
        elif _hashes(bundle, precision, here, plans) is not None:
            tell(f"proving tensorrt {precision}")
            make = partial(TensorRTEngine, bundle, precision, plans=plans, device=device)
            row, ran = _tried(bundle, "tensorrt", precision, make)
            found.append(row)
            passing = passing or not ran
    for precision in preferred(bundle):
        tell(f"timing onnxruntime {precision}")
        row, _ = _tried(bundle, "onnxruntime", precision, partial(open_engine, bundle, "onnxruntime", precision))
        others.append(row)
        if row.reproduces:
            break
    verdict = Verdict(
        bundle.manifest.name,
        to_document(bundle.manifest)["digest"],
        here,
        _all_hashes(bundle, here, plans),
        decide(found, others),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    # A GPU that was full or lost for once says nothing of its plans: they are proved again at the next start.
    if not passing:
        path = _path(bundle, here)
        own_folder(path.parent)
        write_own(path, json.dumps({**asdict(verdict), "chosen": _chosen(verdict)}, indent=2).encode())
    return verdict


def _refused(bundle: Bundle, backend: str, precision: str, reason: str) -> Row:
    return Row(backend, precision, False, None, bundle.manifest.tolerances[precision], None, None, False, reason)


def _tried(bundle: Bundle, backend: str, precision: str, make: Callable[[], Engine]) -> tuple[Row, bool]:
    """What was found, and whether it ran at all."""
    try:
        engine = make()
    except EdgeError as error:
        return _refused(bundle, backend, precision, f"could not be opened ({error})"), False
    try:
        return examine(engine, bundle), True
    except EdgeError as error:
        return _refused(bundle, backend, precision, f"failed ({error})"), False
    finally:
        engine.close()


def kept(bundle: Bundle, here: Place, plans: Plans) -> Verdict | None:
    """The verdict on exactly the plans that are there, or None.

    Raises:
        BackendError: there is one that is not to be trusted.
    """
    try:
        verdict = parse(json.loads(read_own(_path(bundle, here))))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None
    same = verdict.digest == to_document(bundle.manifest)["digest"] and verdict.place == here
    return verdict if same and verdict.plans == _all_hashes(bundle, here, plans) else None


def every() -> tuple[Verdict, ...]:
    """All verdicts in the cache, on whatever plans."""
    found = []
    for path in sorted((cache_folder() / "verdicts").glob("*.json")):
        try:
            found.append(parse(json.loads(read_own(path))))
        except (OSError, EdgeError, ValueError, KeyError, TypeError):
            continue
    return tuple(found)


def open_admitted(
    bundle: Bundle, precision: str = "auto", *, plans: Plans | None = None, device: Device | None = None
) -> Engine:
    """TensorRT for a bundle, where it is admitted; plans without a verdict are proved first.

    Args:
        bundle: opened.
        precision: ``auto`` is the first that is admitted.
        plans: None is the user's cache.
        device: an open GPU, which stays open; None opens one for the engine.

    Raises:
        BackendError: TensorRT can't run here, has no plans here, or is not admitted: why, and what to type.
        BundleError: the bundle has no such precision.
    """
    from edge.cuda import Device
    from edge.engine.library import library, place
    from edge.engine.tensorrt import TensorRTEngine

    library()
    plans = plans or Plans()
    own = device is None
    device = Device() if device is None else device
    try:
        here = place(device)
        if precision != "auto":
            _required(bundle, precision, here, plans)
        elif not _all_hashes(bundle, here, plans):
            _required(bundle, wanted(bundle)[0], here, plans)
        verdict = kept(bundle, here, plans) or judge(bundle, device, plans, tell=_LOG.info)
        row = verdict.of(precision)
        if row is None or not row.admitted:
            rows = "; ".join(
                str(one) for one in verdict.rows if one.backend == "tensorrt" and precision in ("auto", one.precision)
            )
            raise BackendError(
                f"{bundle.where}: TensorRT is not admitted here ({rows}); type: {command(bundle)} --rebuild, "
                "or type: --backend onnxruntime"
            )
        engine = TensorRTEngine(bundle, row.precision, plans=plans, device=device)
    except BaseException:
        if own:
            device.close()
        raise
    if own:
        engine.adopt()
    return engine


def _required(bundle: Bundle, precision: str, here: Place, plans: Plans) -> None:
    """Raise where a plan is missing, in the words of the store."""
    for graph in bundle.manifest.running:
        if plans.find(key := key_of(bundle, graph, precision, here)) is None:
            plans.read(key, bundle)


def _hashes(bundle: Bundle, precision: str, here: Place, plans: Plans) -> dict[str, str] | None:
    """sha256 of the plans of all running graphs in a precision; None where one is missing."""
    found = {}
    for graph in bundle.manifest.running:
        facts = plans.find(key_of(bundle, graph, precision, here))
        if facts is None:
            return None
        found[f"{graph}.{precision}"] = facts.sha256
    return found


def _all_hashes(bundle: Bundle, here: Place, plans: Plans) -> dict[str, str]:
    return {
        name: sha
        for one in bundle.manifest.precisions
        for name, sha in (_hashes(bundle, one, here, plans) or {}).items()
    }


def _path(bundle: Bundle, here: Place) -> Path:
    facts = json.dumps([to_document(bundle.manifest)["digest"], asdict(here)], sort_keys=True)
    return cache_folder() / "verdicts" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.json"


def _chosen(verdict: Verdict) -> str | None:
    return None if verdict.chosen is None else f"{verdict.chosen.backend} {verdict.chosen.precision}"


def parse(document: dict[str, Any]) -> Verdict:
    """A verdict from its JSON object.

    Raises:
        KeyError, TypeError, ValueError: something is missing or garbled.
    """
    return Verdict(
        str(document["bundle"]),
        str(document["digest"]),
        Place(**document["place"]),
        {str(name): str(sha) for name, sha in document["plans"].items()},
        tuple(Row(**row) for row in document["rows"]),
        str(document["when"]),
    )
