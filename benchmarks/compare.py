"""What changed between two documents, beyond the noise: ``python -m benchmarks compare OLD NEW [--percent N]``.

A figure counts as changed when its median moved by more than the given per cent **and** the rounds say that this is no
accident: a one-sided test of Welch (1947) on their logarithms, at five per cent over all figures together (Holm 1979),
so that among hundreds of figures none is called worse by chance. Both must hold even after allowing for a machine that
multiplied matrices more slowly. What was measured once, as a size, has no noise. Times by the wall's clock are judged
only where both machines were quiet: beside other programs they are told, and the same work's milliseconds of a core are
judged in their place.

A machine whose pace wanders moves all stages of a run alike. So each stage is also judged beside the others of its own
rounds: that shows one stage's change where the plain figures hide it in their noise, and nothing of a change to all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.document import Measure, find, measures
from benchmarks.errors import BenchError

PERCENT = 10.0
"""By so much a figure must move, by default."""

POINTS = 0.5
"""... but shares (accuracy and the like) by so many percentage points."""

ALARM = 0.05
"""How often a comparison of two runs of the same may call any figure worse."""

QUIET = 0.3
"""Cores that other programs kept busy, up to which the wall's clock is believed."""

TINY = 1e-9

PACED = "ms", "s", "frames/s"
"""Units that begin so depend on the machine's pace."""

STEADY_UNITS = "ms of a core", "ms of a core a frame", "MB", "share", "a 100 frames"
"""What other programs hardly change."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both documents."""

    old: Measure
    new: Measure
    worse: float
    """New over old, turned so that more is worse: 1.2 is a fifth slower. For shares, points lost."""
    verdict: str
    """``worse``, ``better``, ``same``; ``busy`` where it is worse by a clock that isn't believed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two documents side by side."""

    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    """Only in the old one."""
    added: tuple[str, ...]
    """Only in the new one."""
    slower: float
    """How many times slower the new one's machine multiplied matrices; 1 where it wasn't, or isn't known."""
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Change]:
        """What got worse, the worst first."""
        return sorted((one for one in self.changes if one.verdict == "worse"), key=lambda one: -one.worse)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], percent: float = PERCENT) -> Comparison:
    """Compare two documents.

    Args:
        old: before.
        new: after.
        percent: how much worse is a regression.

    Raises:
        BenchError: they have no figure in common.
    """
    before = {one.key: one for one in measures(old)}
    after = {one.key: one for one in measures(new)}
    common = [key for key in before if key in after]
    if not common:
        raise BenchError("the two documents have no figure in common; expected the same bundles and precisions in both")
    slower = _slower(list(before.values()), list(after.values()))
    disturbed = max(_others(before), _others(after))
    notes = []
    for fact in ("processor", "board", "power_mode", "python"):
        one, other = old["machine"].get(fact), new["machine"].get(fact)
        if one != other:
            notes.append(f"{fact} differs: {one} and {other}")
    for fact in ("video", "frames", "landmarks", "quick"):
        one, other = old["made"].get(fact), new["made"].get(fact)
        if one != other:
            notes.append(f"measured differently: {fact} {one} and {other}")
    if slower > 1.02:
        notes.append(
            f"the new run's machine multiplied matrices {slower:.2f} times as slowly; that much is allowed for"
        )
    if disturbed > QUIET:
        notes.append(f"other programs kept {disturbed:.2f} cores busy: times by the wall's clock are told, not judged")
    names = [name for name in old["bundles"] if name in new["bundles"]]
    for name in names:
        if old["bundles"][name]["digest"] != new["bundles"][name]["digest"]:
            notes.append(f"{name} is another bundle now: its digest differs")
    pairs = [(before[key], after[key]) for key in common if before[key].better != "neither"]
    allowed = [
        slower if one.unit.startswith(("ms", "s", "frames/s")) and one.unit != "share" else 1.0 for one, _ in pairs
    ]
    beside = _beside(pairs)
    pairs += beside
    allowed += [1.0] * len(beside)
    worse = _holm([_chance(*pair, by) for pair, by in zip(pairs, allowed, strict=True)])
    better = _holm([_chance(new, old, 1.0) for old, new in pairs])
    changes = tuple(
        _change(*pair, percent, by, down, up, disturbed <= QUIET)
        for pair, by, down, up in zip(pairs, allowed, worse, better, strict=True)
    )
    return Comparison(
        changes,
        tuple(key for key in before if key not in after),
        tuple(key for key in after if key not in before),
        slower,
        tuple(notes),
    )


def _beside(pairs: Sequence[tuple[Measure, Measure]]) -> list[tuple[Measure, Measure]]:
    """Each stage's core milliseconds, freed of what moved the other stages of the same round.

    A round's pace is the median over the other stages of how far each is from its own mean in OLD: one stage that
    changed does not move it.
    """
    runs: dict[tuple[str, str, str], list[tuple[Measure, Measure]]] = {}
    for old, new in pairs:
        if old.name.startswith("core/") and old.name != "core/total" and min(*old.rounds, *new.rounds) > 0:
            runs.setdefault((old.bundle, old.precision, old.backend), []).append((old, new))
    found = []
    for stages in runs.values():
        lengths = {(len(old.rounds), len(new.rounds)) for old, new in stages}
        if len(stages) < 3 or len(lengths) > 1 or min(next(iter(lengths))) < 2:
            continue
        means = [float(np.log(old.rounds).mean()) for old, _ in stages]
        moved = [
            [np.log(which.rounds) - mean for (which, mean) in zip(side, means, strict=True)]
            for side in zip(*stages, strict=True)
        ]
        for place, pair in enumerate(stages):
            freed = []
            for which, side in zip(pair, moved, strict=True):
                pace = np.exp(np.median([one for other, one in enumerate(side) if other != place], axis=0))
                rounds = tuple(float(one) for one in np.array(which.rounds) / pace)
                freed.append(replace(which, name=f"{which.name}, beside the other stages", rounds=rounds))
            found.append((freed[0], freed[1]))
    return found


def _change(old: Measure, new: Measure, percent: float, allowed: float, down: bool, up: bool, quiet: bool) -> Change:
    """The verdict on one figure; ``down`` and ``up`` tell whether it is worse, or better, beyond chance."""
    less = old.better == "less"
    if old.unit == "share":
        lost = (new.value - old.value if less else old.value - new.value) * 100
        verdict = "worse" if lost > POINTS and down else "better" if -lost > POINTS and up else "same"
        return Change(old, new, lost, verdict)
    # Speeds as times, so that more is worse in all of them.
    one, other = (old, new) if less else (new, old)
    ratio = (other.value + TINY) / (one.value + TINY)
    bar = 1 + percent / 100
    verdict = "same"
    if ratio > bar * allowed and down:
        verdict = "worse" if quiet or old.unit in STEADY_UNITS else "busy"
    elif ratio < 1 / bar and up:
        verdict = "better"
    return Change(old, new, ratio, verdict)


def _chance(old: Measure, new: Measure, allowed: float) -> float:
    """How probable such rounds are if the new ones are no worse than ``allowed`` times the old ones, 0..1."""
    from scipy.stats import ttest_ind

    less = old.better == "less"
    first, second = np.array(old.rounds), np.array(new.rounds)
    if (first > 0).all() and (second > 0).all():
        first, second = np.log(first), np.log(second)
        second = second - math.log(allowed) if less else second + math.log(allowed)
    if len(first) < 2 or len(second) < 2 or max(np.ptp(first), np.ptp(second)) < 1e-9:
        moved = float(np.median(second) - np.median(first))
        return 0.0 if (moved > 0) == less and abs(moved) > TINY else 1.0
    return float(ttest_ind(second, first, equal_var=False, alternative="greater" if less else "less").pvalue)


def _holm(chances: Sequence[float]) -> list[bool]:
    """Which of them are beyond chance, all together at ALARM (Holm 1979)."""
    found = [False] * len(chances)
    for place, index in enumerate(np.argsort(chances)):
        if not chances[index] <= ALARM / (len(chances) - place):
            break
        found[index] = True
    return found


def _slower(before: Sequence[Measure], after: Sequence[Measure]) -> float:
    one, other = (find(which, "machine/multiply fp32") for which in (before, after))
    return max(1.0, one.value / other.value) if one is not None and other is not None else 1.0


def _others(by_key: Mapping[str, Measure]) -> float:
    one = by_key.get("machine/others")
    return 0.0 if one is None else one.value


def report(found: Comparison, percent: float) -> str:
    """In words, for the command line."""
    lines = [*found.notes]
    judged = {"worse": "WORSE", "better": "better", "busy": "(busy)"}
    order = {"worse": 0, "busy": 1, "better": 2}
    shown = sorted(
        (one for one in found.changes if one.verdict in judged), key=lambda one: (order[one.verdict], -one.worse)
    )
    width = max((len(one.old.key) for one in shown), default=0)
    for one in shown:
        if one.old.unit == "share":
            moved = f"{-one.worse:+.1f} points"
            values = f"{one.old.value:.2%} -> {one.new.value:.2%}"
        else:
            moved = f"{one.new.value / one.old.value - 1:+.0%}" if one.old.value else "from 0"
            values = f"{_span(one.old)} -> {_span(one.new)} {one.old.unit}"
        lines.append(f"{judged[one.verdict]:<7} {one.old.key:<{width}} {moved:>11}  {values}")
    for name, keys in (("only in OLD", found.gone), ("only in NEW", found.added)):
        if keys:
            lines.append(f"{name}: {len(keys)} figures, as {keys[0]}")
    worse = len(found.regressions)
    same = sum(one.verdict == "same" for one in found.changes)
    lines.append(
        f"{len(found.changes)} figures compared: {worse} worse by more than {percent:g} %, "
        f"{sum(one.verdict == 'better' for one in found.changes)} better, {same} the same within noise"
    )
    return "\n".join(lines)


def _span(one: Measure) -> str:
    return f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})" if len(one.rounds) > 1 else f"{one.value:.3g}"
