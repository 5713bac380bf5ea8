"""From examples to folds: the evaluation protocols of the five papers, and proof that no fold leaks.

    kfold:8            8 folds by subject (Li et al. 2019, section 3.1)
    kfold:7:sequence   7 folds by sequence: subjects are on both sides
    losgo:5            leave one of 5 subject groups out (Zhang et al. 2019, section IV-B; Pan et al. 2019, section 4)
    loso               leave one subject out (Zhang et al. 2019, section IV-B)
    split              the corpus' own split: trained on train, tested on test, or on val where there is no test
    split:val          tested on val, whatever else there is
    holdout:0.2x5      5 times a random fifth by sequence: subjects on both sides (Saurav et al. 2020, section IV-C)
    holdout:0.2x5:subject   the same by subject
    all                everything is for training; only with another corpus to test on (Xie et al. 2019, section 4.4.3)

Everywhere a sequence is on one side only, only originals are tested on, and copies follow their original.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupShuffleSplit, LeaveOneGroupOut, StratifiedShuffleSplit

from edge.errors import EdgeError
from train.examples import Examples
from train.twins import difference_hash

Places = npt.NDArray[np.int64]
"""(N,) places in ``Examples``."""

FORMS = "kfold:8, kfold:8:sequence, losgo:5, loso, split, split:val, holdout:0.2x5, holdout:0.2x5:subject or all"
POLICIES = ("refuse", "list")

_KFOLD = re.compile(r"kfold:(\d+)(?::(subject|sequence))?")
_LOSGO = re.compile(r"losgo:(\d+)")
_SPLIT = re.compile(r"split(?::(val|test))?")
_HOLDOUT = re.compile(r"holdout:(\d*\.\d+)x(\d+)(?::(subject|sequence))?")


class ProtocolError(EdgeError, ValueError):
    """A protocol that is unknown, or that these examples can't be put through."""


class LeakError(ProtocolError):
    """The same picture, subject or sequence on both sides of a fold."""


@dataclass(frozen=True)
class Protocol:
    """How examples are divided into what is learnt from and what is tested on."""

    text: str
    """As it was written, and as results show it."""
    kind: str
    """``kfold``, ``losgo``, ``loso``, ``split``, ``holdout`` or ``all``."""
    count: int = 0
    """Folds, or repetitions of a holdout; 0 where the examples decide."""
    share: float = 0.0
    """Of ``holdout``: the tested share, 0..1."""
    by: str = "subject"
    """What is kept on one side: ``subject``, ``sequence``, or ``corpus`` where the corpus' own split decides."""
    part: str = ""
    """Of ``split``: the part to test on; empty for test, or val where there is no test."""

    @property
    def subject_independent(self) -> bool:
        """Whether no subject is on both sides of a fold; where True, every fold is checked for it."""
        return self.by == "subject"

    @property
    def claim(self) -> str:
        """What a result may say of its folds."""
        if self.kind == "all":
            return "trained on the whole corpus, tested on another one"
        if self.by == "subject":
            return "subject-independent"
        if self.by == "corpus":
            return "the corpus' own split"
        return "NOT subject-independent: divided by sequence"


@dataclass(frozen=True, eq=False)
class Fold:
    """One division. Places are ascending and index the ``Examples`` that were divided."""

    name: str
    """Unique within a protocol, and fit for a folder's name."""
    train: Places
    test: Places
    """Originals only; empty under ``all``, where another corpus is tested on."""


def parse_protocol(text: str) -> Protocol:
    """Read a protocol; see the module for its forms.

    Raises:
        ProtocolError: unknown text, fewer than two folds, or a share outside 0..1.
    """
    text = text.strip()
    if match := _KFOLD.fullmatch(text):
        protocol = Protocol(text, "kfold", count=int(match[1]), by=match[2] or "subject")
    elif match := _LOSGO.fullmatch(text):
        protocol = Protocol(text, "losgo", count=int(match[1]))
    elif text == "loso":
        return Protocol(text, "loso")
    elif text == "all":
        return Protocol(text, "all", count=1)
    elif match := _SPLIT.fullmatch(text):
        return Protocol(text, "split", count=1, by="corpus", part=match[1] or "")
    elif match := _HOLDOUT.fullmatch(text):
        share, count = float(match[1]), int(match[2])
        if not 0 < share < 1 or count < 1:
            raise ProtocolError(
                f"protocol {text!r} tests on a share of {share:g}, {count} times; expected a share between 0 and 1, "
                "at least once; write holdout:0.2x5"
            )
        return Protocol(text, "holdout", count=count, share=share, by=match[3] or "sequence")
    else:
        raise ProtocolError(f"unknown protocol {text!r}; expected one of the forms {FORMS}; write one of these")
    if protocol.count < 2:
        raise ProtocolError(f"protocol {text!r} has {protocol.count} folds; expected 2 or more; write {text[:6]}8")
    return protocol


def folds(examples: Examples, protocol: Protocol, seed: int = 0) -> tuple[Fold, ...]:
    """Divide the examples, and check every fold.

    Folds of whole subjects, or of whole sequences, are balanced in size and in classes; a holdout by sequence is
    stratified by class.

    Args:
        examples: of one corpus.
        protocol: how.
        seed: of whatever is drawn at random.

    Raises:
        ProtocolError: the examples can't be divided so: none at all, no subjects, fewer subjects than folds, no such
            split, or a class that a training part would lack.
        LeakError: see :func:`check_fold`.
    """
    originals = np.flatnonzero(examples.originals)
    if not len(originals):
        raise ProtocolError(
            f"{examples.corpus}: {len(examples)} examples, none of them an original picture or clip; "
            "expected some to test on; look at what was skipped when the corpus was prepared"
        )
    labels = examples.labels[originals]
    if protocol.kind == "all":
        made = [Fold("all", np.arange(len(examples)), np.empty(0, np.int64))]
    elif protocol.kind == "split":
        made = [_own_split(examples, protocol)]
    else:
        groups = _groups(examples, protocol)
        mine = groups[originals]
        units, need = np.unique(mine), protocol.count if protocol.kind in ("kfold", "losgo") else 2
        if len(units) < need:
            raise ProtocolError(
                f"{examples.corpus}: {len(units)} {protocol.by}{'s' if len(units) != 1 else ''} for {need} folds; "
                f"expected at least one {protocol.by} a fold; ask for fewer folds or prepare more of the corpus"
            )
        made = []
        for index, test in enumerate(_divide(labels, mine, protocol, seed)):
            name = f"{index + 1:02d}"
            if protocol.kind == "loso":
                name += "-" + re.sub(r"[^A-Za-z0-9]+", "-", str(mine[test[0]])).strip("-")
            train = np.flatnonzero(~np.isin(groups, mine[test]))
            made.append(Fold(name, train, originals[test]))
    for fold in made:
        check_fold(examples, fold, protocol)
    return tuple(made)


def check_fold(examples: Examples, fold: Fold, protocol: Protocol) -> None:
    """Prove what the protocol promises of a fold.

    Raises:
        LeakError: an example or sequence on both sides, a tested copy, or, where the protocol is subject-independent,
            a subject on both sides.
        ProtocolError: nothing to train or test on, or a class that the training part lacks.
    """
    where = f"{examples.corpus}, {protocol.text}, fold {fold.name}"
    if not len(fold.train) or not (len(fold.test) or protocol.kind == "all"):
        raise ProtocolError(
            f"{where}: {len(fold.train)} examples to train on and {len(fold.test)} to test on; "
            "expected some of either; ask for other folds"
        )
    if not examples.originals[fold.test].all():
        raise LeakError(f"{where}: tests on augmented copies; expected originals only; leave the copies to training")
    if both := set(fold.train.tolist()) & set(fold.test.tolist()):
        raise LeakError(f"{where}: {len(both)} examples on both sides; expected none; divide them again")
    for what, values in (("sequence", examples.sequences), ("subject", examples.subjects)):
        if what == "subject" and not protocol.subject_independent:
            continue
        shared = {values[i] for i in fold.train} & {values[i] for i in fold.test}
        if shared:
            named = ", ".join(sorted(str(value) for value in shared)[:3])
            raise LeakError(
                f"{where}: {len(shared)} {what}s on both sides ({named}); expected none; "
                f"correct the corpus' {what}s or divide it in another way"
            )
    lacking = np.setdiff1d(np.arange(len(examples.names)), examples.labels[fold.train])
    if len(lacking):
        raise ProtocolError(
            f"{where}: no {', '.join(examples.names[i] for i in lacking)} to train on; expected every class in every "
            "training part; ask for other folds, or leave that label out"
        )


def shared_subjects(examples: Examples, fold: Fold) -> int:
    """How many known subjects are on both sides: what a protocol by sequence has to admit."""
    sides = [{examples.subjects[i] for i in side} - {None} for side in (fold.train, fold.test)]
    return len(sides[0] & sides[1])


def aligned(examples: Examples, others: Examples, *, common: bool = False) -> tuple[Examples, Examples]:
    """Two corpora with the same labels in the same order, to train on one and test on the other.

    Args:
        examples: to train on; its order of labels stays.
        others: to test on.
        common: reduce both to the labels that both have.

    Raises:
        ProtocolError: the same corpus twice, different sets of labels without ``common``, or fewer than two in common.
    """
    if examples.corpus == others.corpus:
        raise ProtocolError(
            f"trained and tested on {examples.corpus}; expected another corpus to test on; name one, or leave it out"
        )
    names = tuple(name for name in examples.names if name in others.names)
    if set(names) != set(examples.names) | set(others.names):
        odd = "; ".join(
            f"{', '.join(set_apart)} only in {side.corpus}"
            for side in (examples, others)
            if (set_apart := [name for name in side.names if name not in names])
        )
        if not common:
            raise ProtocolError(
                f"{examples.corpus} and {others.corpus} have different labels ({odd}); expected the same; "
                f"say common to use the {len(names)} that both have"
            )
        if len(names) < 2:
            raise ProtocolError(
                f"{examples.corpus} and {others.corpus} have {len(names)} labels in common; expected 2 or more; "
                "choose another corpus to test on"
            )
    return _only(examples, names), _only(others, names)


def leaks(
    examples: Examples, fold: Fold, others: Examples | None = None, difference: float = 4.0
) -> tuple[tuple[int, int], ...]:
    """Near-identical pictures on both sides: equal perceptual hash, mean difference under some grey levels.

    Copies need no look: they are on the side of their original. Pictures without contrast (flow where nothing moves)
    are like one another and prove nothing: those whose standard deviation is below ``difference`` are passed over.

    Args:
        examples: what was divided.
        fold: the division.
        others: the corpus tested on, where it is another one.
        difference: grey levels, 0..255.

    Returns:
        Pairs (place in the training part's ``examples``, place in what is tested on), ascending.
    """
    train = fold.train[examples.originals[fold.train]]
    test = fold.test if others is None else np.flatnonzero(others.originals)
    pictures = examples.thumbnails
    tested = pictures if others is None else others.thumbnails
    if pictures.shape[1:] != tested.shape[1:]:
        raise ProtocolError(
            f"pictures of {pictures.shape[1:]} and of {tested.shape[1:]} pixels can't be compared; "
            "expected one size; prepare both corpora for the same network"
        )
    buckets: dict[int, list[int]] = {}
    for place, value in zip(train.tolist(), difference_hash(pictures[train]).tolist(), strict=True):
        buckets.setdefault(value, []).append(place)
    found = []
    for place, value in zip(test.tolist(), difference_hash(tested[test]).tolist(), strict=True):
        picture = tested[place].astype(np.int16)
        if picture.std() < difference:
            continue
        found += [
            (twin, place) for twin in buckets.get(value, ()) if np.abs(pictures[twin] - picture).mean() < difference
        ]
    return tuple(sorted(found))


def check_leaks(
    examples: Examples, fold: Fold, others: Examples | None = None, policy: str = "refuse", difference: float = 4.0
) -> tuple[tuple[int, int], ...]:
    """Refuse a fold with the same picture on both sides, or list the pairs.

    Args:
        examples: what was divided.
        fold: the division.
        others: the corpus tested on, where it is another one.
        policy: ``refuse`` raises, ``list`` returns the pairs.
        difference: see :func:`leaks`.

    Raises:
        LeakError: there are pairs, and the policy is to refuse.
        ProtocolError: an unknown policy.
    """
    if policy not in POLICIES:
        raise ProtocolError(f"unknown leak policy {policy!r}; expected {' or '.join(POLICIES)}; give one of these")
    pairs = leaks(examples, fold, others, difference)
    if pairs and policy == "refuse":
        tested = examples if others is None else others
        shown = ", ".join(f"{examples.sequences[i]} and {tested.sequences[j]}" for i, j in pairs[:3])
        raise LeakError(
            f"{examples.corpus}, fold {fold.name}: {len(pairs)} pairs of the same picture on both sides ({shown}); "
            "expected none; take the copies out of the corpus, or list them instead of refusing"
        )
    return pairs


def _only(examples: Examples, names: Sequence[str]) -> Examples:
    """The examples with these labels, numbered in this order."""
    if tuple(names) == examples.names:
        return examples
    code = np.array([names.index(name) if name in names else -1 for name in examples.names], np.int64)
    kept = examples.subset(np.flatnonzero(code[examples.labels] >= 0))
    return replace(kept, names=tuple(names), labels=code[kept.labels])


def _own_split(examples: Examples, protocol: Protocol) -> Fold:
    """The corpus' own split; what is neither in train nor tested stays out."""
    splits = np.array([split or "" for split in examples.splits])
    here = Counter(splits[splits != ""].tolist())
    part = protocol.part or ("test" if "test" in here else "val")
    if not here["train"] or not here[part]:
        has = ", ".join(f"{name} {count}" for name, count in here.items()) or "no split"
        raise ProtocolError(
            f"{examples.corpus} has {has}; expected train and {part}; use kfold:8 or holdout:0.2x5, "
            "or give the split in a manifest.csv"
        )
    return Fold(part, np.flatnonzero(splits == "train"), np.flatnonzero((splits == part) & examples.originals))


def _groups(examples: Examples, protocol: Protocol) -> npt.NDArray[np.str_]:
    """What keeps each example company, (N,): its subject or its sequence."""
    if protocol.by == "sequence":
        return np.array(examples.sequences)
    if nameless := sum(subject is None for subject in examples.subjects):
        raise ProtocolError(
            f"{examples.corpus}: {nameless} of {len(examples)} examples have no subject, which {protocol.text} divides "
            "by; expected one each; use split, kfold:8:sequence or holdout:0.2x5, or give subjects in a manifest.csv"
        )
    return np.array(examples.subjects)


def _divide(labels: Places, groups: npt.NDArray[np.str_], protocol: Protocol, seed: int) -> list[Places]:
    """The tested places of each fold, among the originals."""
    units, first = np.unique(groups, return_index=True)
    if protocol.kind == "loso" or (protocol.kind != "holdout" and protocol.count == len(units)):
        return [test for _, test in LeaveOneGroupOut().split(labels, labels, groups)]
    if protocol.kind != "holdout":
        return _balanced(labels, groups, protocol.count, seed)
    try:
        if protocol.by == "subject":
            drawn = GroupShuffleSplit(protocol.count, test_size=protocol.share, random_state=seed)
            return [test for _, test in drawn.split(labels, labels, groups)]
        # Whole sequences are drawn, so many of each class; a sequence with two labels counts for its first one.
        shuffled = StratifiedShuffleSplit(protocol.count, test_size=protocol.share, random_state=seed)
        return [np.flatnonzero(np.isin(groups, units[test])) for _, test in shuffled.split(units, labels[first])]
    except ValueError as error:
        raise ProtocolError(
            f"protocol {protocol.text}: {error}; expected enough examples of each class; "
            "ask for fewer folds or leave the rarest label out"
        ) from error


def _balanced(labels: Places, groups: npt.NDArray[np.str_], count: int, seed: int) -> list[Places]:
    """Folds even in size and in every class: the largest groups first, each to where it does the least harm.

    scikit-learn's ``StratifiedGroupKFold`` takes the groups with the most uneven classes first; large groups that come
    late then make folds half as large again as others.
    """
    rng = np.random.default_rng(seed)
    units, unit = np.unique(groups, return_inverse=True)
    table = np.zeros((len(units), labels.max() + 2))
    np.add.at(table, (unit, labels), 1)
    table[:, -1] = table[:, :-1].sum(1)
    order = rng.permutation(len(units))
    order = order[np.argsort(-table[order, -1], kind="stable")]
    # Shares, so that a rare class counts as much as a frequent one, and as much as the size.
    shares = table / np.maximum(table.sum(0), 1)
    filled, fold_of, members = np.zeros((count, table.shape[1])), np.zeros(len(units), int), np.zeros(count, int)
    for group in order:
        # By how much the sum of squares grows, less what is the same everywhere. An empty fold has 0, so none stays so.
        harm = (filled * shares[group]).sum(1)
        best = np.lexsort((members, harm.round(12)))[0]
        filled[best] += shares[group]
        members[best] += 1
        fold_of[group] = best
    return [np.flatnonzero(fold_of[unit] == fold) for fold in range(count)]
