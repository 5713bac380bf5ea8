"""Folds: disjoint where they claim to be, balanced, free of leaks; and clear words where examples can't be divided."""

from dataclasses import replace

import numpy as np
import pytest
from made import NAMES, made

pytest.importorskip("sklearn")

from train import protocols
from train.protocols import (
    Fold,
    LeakError,
    ProtocolError,
    aligned,
    check_fold,
    check_leaks,
    folds,
    leaks,
    parse_protocol,
)


def sides(examples, fold, values):
    return {values[i] for i in fold.train}, {values[i] for i in fold.test}


@pytest.mark.parametrize(
    ("text", "kind", "count", "by"),
    [
        ("kfold:8", "kfold", 8, "subject"),
        ("kfold:7:sequence", "kfold", 7, "sequence"),
        ("losgo:5", "losgo", 5, "subject"),
        ("loso", "loso", 0, "subject"),
        ("split", "split", 1, "corpus"),
        ("split:val", "split", 1, "corpus"),
        ("holdout:0.2x5", "holdout", 5, "sequence"),
        ("holdout:.2x5:subject", "holdout", 5, "subject"),
        ("all", "all", 1, "subject"),
    ],
)
def test_forms(text, kind, count, by):
    protocol = parse_protocol(text)
    assert (protocol.text, protocol.kind, protocol.count, protocol.by) == (text, kind, count, by)


@pytest.mark.parametrize(
    "text", ["", "kfold", "kfold:", "kfold:x", "kfold8", "losgo", "loso:3", "holdout:0.2", "leave"]
)
def test_unknown_text_names_the_forms(text):
    with pytest.raises(ProtocolError, match=r"unknown protocol .*kfold:8.*write one of these"):
        parse_protocol(text)


@pytest.mark.parametrize("text", ["kfold:1", "losgo:0", "holdout:1.0x5", "holdout:0.0x5", "holdout:0.2x0"])
def test_numbers_out_of_range(text):
    with pytest.raises(ProtocolError, match="expected"):
        parse_protocol(text)


@pytest.mark.parametrize("text", ["kfold:4", "kfold:8", "losgo:5", "loso"])
def test_subject_independent_folds_cover_every_original_once(text):
    examples = made(subjects=8, copies=2, frames=3)
    divided = folds(examples, parse_protocol(text))
    tested = np.sort(np.concatenate([fold.test for fold in divided]))
    assert tested.tolist() == np.flatnonzero(examples.originals).tolist()
    assert len({fold.name for fold in divided}) == len(divided)
    for fold in divided:
        for values in (examples.subjects, examples.sequences):
            train, test = sides(examples, fold, values)
            assert train
            assert test
            assert not train & test
        # Copies are learnt from, but only those of people who are not tested.
        assert (~examples.originals[fold.train]).sum() == 2 * examples.originals[fold.train].sum()


def test_folds_are_balanced_in_size_and_classes():
    # Subjects of very different sizes: the biggest has ten times the smallest.
    whole = made(subjects=24, each=20)
    rank = np.array([int(subject[1:]) for subject in whole.subjects])
    number = np.array([int(sequence[-3:]) for sequence in whole.sequences])
    examples = whole.subset(np.flatnonzero(number < 2 + rank * 18 // 23))
    for seed in range(3):
        divided = folds(examples, parse_protocol("kfold:6"), seed)
        sizes = [len(fold.test) for fold in divided]
        assert max(sizes) <= 1.15 * min(sizes)
        for fold in divided:
            counts = np.bincount(examples.labels[fold.test], minlength=3)
            assert counts.max() <= 1.4 * counts.min()


def test_folds_are_balanced_where_classes_are_not():
    """As in CK+: subjects with one to six sequences, three times as many of one expression as of another."""
    ratios = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        kept = []
        whole = made(subjects=100, each=6, names=("angry", "happy", "sad", "fear"))
        for subject in range(100):
            weight = np.array([45, 25, 28, 83])[whole.labels[6 * subject : 6 * subject + 6]]
            kept += (6 * subject + rng.choice(6, rng.integers(1, 7), replace=False, p=weight / weight.sum())).tolist()
        sizes = [len(fold.test) for fold in folds(whole.subset(np.sort(kept)), parse_protocol("kfold:8"), seed)]
        ratios.append(max(sizes) / min(sizes))
    assert np.mean(ratios) < 1.04


def test_no_fold_is_empty_where_subjects_are_few_and_one_sided():
    # Each subject shows one expression only, and one of them shows nearly all there is.
    whole = made(subjects=6, each=18)
    rank = np.array([int(subject[1:]) for subject in whole.subjects])
    number = np.array([int(sequence[-3:]) for sequence in whole.sequences])
    examples = whole.subset(np.flatnonzero((whole.labels == rank % 3) & ((rank == 0) | (number < 3))))
    assert len(examples) == 11
    divided = folds(examples, parse_protocol("kfold:5"))
    assert all(len(fold.test) for fold in divided)


def test_folds_depend_on_the_seed_alone():
    examples = made(subjects=20)
    first, again, other = (
        [fold.test.tolist() for fold in folds(examples, parse_protocol("holdout:0.2x5"), seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_holdout_is_by_sequence_and_says_so():
    examples = made(subjects=4, each=30, frames=3, copies=1)
    protocol = parse_protocol("holdout:0.2x5")
    assert "NOT subject-independent" in protocol.claim
    divided = folds(examples, protocol)
    assert len(divided) == 5
    assert len({tuple(fold.test) for fold in divided}) == 5
    for fold in divided:
        train, test = sides(examples, fold, examples.sequences)
        assert not train & test
        assert len(test) == 24
        assert len(fold.test) == 3 * 24
        assert protocols.shared_subjects(examples, fold) == 4


def test_holdout_by_subject():
    examples = made(subjects=10)
    for fold in folds(examples, parse_protocol("holdout:0.2x3:subject")):
        train, test = sides(examples, fold, examples.subjects)
        assert len(test) == 2
        assert not train & test


def test_sequences_can_be_divided_without_subjects():
    examples = made(subjects=6, known=False, frames=2)
    for fold in folds(examples, parse_protocol("kfold:3:sequence")):
        train, test = sides(examples, fold, examples.sequences)
        assert not train & test


def test_own_split():
    examples = made(subjects=8, split=True, known=False, copies=1)
    (fold,) = folds(examples, parse_protocol("split"))
    assert fold.name == "val"
    assert {examples.splits[i] for i in fold.train} == {"train"}
    assert {examples.splits[i] for i in fold.test} == {"val"}
    assert examples.originals[fold.test].all()


def test_own_split_prefers_test_and_leaves_val_out():
    examples = made(subjects=8, split=True)
    splits = tuple(
        "test" if subject == "S000" else split
        for subject, split in zip(examples.subjects, examples.splits, strict=True)
    )
    examples = replace(examples, splits=splits)
    (fold,) = folds(examples, parse_protocol("split"))
    assert {examples.subjects[i] for i in fold.test} == {"S000"}
    assert "val" not in {examples.splits[i] for i in fold.train}
    (fold,) = folds(examples, parse_protocol("split:val"))
    assert {examples.splits[i] for i in fold.test} == {"val"}


def test_loso_names_its_subjects():
    examples = made(subjects=3)
    examples = replace(examples, subjects=tuple(f"subject {subject[-1]}" for subject in examples.subjects))
    assert [fold.name for fold in folds(examples, parse_protocol("loso"))] == [
        "01-subject-0",
        "02-subject-1",
        "03-subject-2",
    ]


def none_of(examples):
    return examples.subset(np.empty(0, np.int64))


@pytest.mark.parametrize(
    ("examples", "text", "message"),
    [
        (none_of(made()), "kfold:8", "0 examples, none of them an original .* expected some"),
        (made(subjects=1), "kfold:8", "1 subject for 8 folds; expected at least one subject a fold; ask for fewer"),
        (made(subjects=1), "loso", "1 subject for 2 folds"),
        (made(subjects=7), "kfold:8", "7 subjects for 8 folds"),
        (
            made(known=False),
            "losgo:5",
            "48 of 48 examples have no subject, which losgo:5 divides by; expected one each",
        ),
        (made(), "split", "made has no split; expected train and test|made has no split; expected train and val"),
        (made(split=True), "split:test", "made has train 36, val 12; expected train and test"),
        (made(subjects=8, names=(*NAMES, "fear")), "kfold:4", None),
        (replace(made(), names=(*NAMES, "fear")), "kfold:4", "no fear to train on; expected every class"),
        (made(subjects=3, each=1), "loso", "fold 01-S000: no angry to train on"),
        (made(subjects=1, each=3), "holdout:0.2x5", "expected enough examples of each class"),
    ],
)
def test_what_cannot_be_divided(examples, text, message):
    if message is None:
        assert len(folds(examples, parse_protocol(text))) == 4
        return
    with pytest.raises(ProtocolError, match=message) as caught:
        folds(examples, parse_protocol(text))
    assert "\n" not in str(caught.value)


def test_a_subject_on_both_sides_is_refused():
    examples = made(subjects=4)
    half = np.arange(len(examples))
    fold = Fold("bad", half[half % 2 == 0], half[half % 2 == 1])
    with pytest.raises(LeakError, match=r"4 subjects on both sides \(S000, S001, S002\)"):
        check_fold(examples, fold, parse_protocol("kfold:2"))
    check_fold(examples, fold, parse_protocol("kfold:2:sequence"))


def test_a_sequence_with_two_subjects_is_refused():
    examples = made(subjects=4)
    sequences = list(examples.sequences)
    sequences[-1] = sequences[0]
    with pytest.raises(LeakError, match=r"1 sequences on both sides \(S000_000\)"):
        folds(replace(examples, sequences=tuple(sequences)), parse_protocol("loso"))


def test_copies_and_trained_examples_are_not_tested():
    examples = made(subjects=4, copies=1)
    everything = np.arange(len(examples))
    with pytest.raises(LeakError, match="augmented copies"):
        check_fold(examples, Fold("bad", everything[12:], everything[:12]), parse_protocol("loso"))
    with pytest.raises(LeakError, match="12 examples on both sides|24 examples on both sides"):
        check_fold(examples, Fold("bad", everything, everything[examples.originals]), parse_protocol("loso"))


def planted(examples, source, target):
    """The examples with one picture copied, a little brighter, over another one's."""
    face = examples.arrays["face"].copy()
    face[target] = (face[source].astype(int) + 1).clip(0, 255)
    return replace(examples, arrays={"face": face})


def test_a_planted_leak_is_found():
    examples = made(subjects=4)
    fold = folds(examples, parse_protocol("loso"))[0]
    assert leaks(examples, fold) == ()
    source, target = int(fold.train[5]), int(fold.test[2])
    leaking = planted(examples, source, target)
    assert leaks(leaking, fold) == ((source, target),)
    assert check_leaks(leaking, fold, policy="list") == ((source, target),)
    with pytest.raises(LeakError, match=f"1 pairs .*{examples.sequences[source]} and {examples.sequences[target]}"):
        check_leaks(leaking, fold)
    with pytest.raises(ProtocolError, match="unknown leak policy 'ignore'; expected refuse or list"):
        check_leaks(leaking, fold, policy="ignore")


def test_pictures_without_contrast_prove_nothing():
    examples = made(subjects=4)
    flat = replace(examples, arrays={"face": np.full_like(examples.arrays["face"], 7)})
    assert leaks(flat, folds(flat, parse_protocol("loso"))[0]) == ()


def test_a_leak_into_another_corpus_is_found():
    examples, others = made(), made(corpus="other")
    fold = folds(examples, parse_protocol("kfold:4"))[1]
    assert leaks(examples, fold, others) == ()
    face = others.arrays["face"].copy()
    face[3] = examples.arrays["face"][fold.train[7]]
    assert leaks(examples, fold, replace(others, arrays={"face": face})) == ((int(fold.train[7]), 3),)


def test_other_sizes_cannot_be_compared():
    examples, others = made(), made(corpus="other")
    others = replace(others, arrays={"face": others.arrays["face"][:, :8, :8]})
    with pytest.raises(ProtocolError, match="expected one size"):
        leaks(examples, folds(examples, parse_protocol("loso"))[0], others)


def test_labels_of_two_corpora():
    examples = made(names=("angry", "happy", "sad", "calm"))
    others = made(corpus="other", names=("sad", "angry", "happy", "fear"))
    with pytest.raises(ProtocolError, match=r"calm only in made; fear only in other.*say common to use the 3"):
        aligned(examples, others)
    mine, theirs = aligned(examples, others, common=True)
    assert mine.names == theirs.names == ("angry", "happy", "sad")
    for before, after in ((examples, mine), (others, theirs)):
        kept = [i for i, label in enumerate(before.labels) if before.names[label] in after.names]
        assert 0 < len(kept) < len(before)
        assert [before.names[before.labels[i]] for i in kept] == [after.names[label] for label in after.labels]
        assert (before.arrays["face"][kept] == after.arrays["face"]).all()


def test_labels_in_another_order_are_the_same_labels():
    examples, others = made(), made(corpus="other", names=("sad", "happy", "angry"))
    mine, theirs = aligned(examples, others)
    assert mine is examples
    assert theirs.names == examples.names
    assert [theirs.names[i] for i in theirs.labels] == [others.names[i] for i in others.labels]


def test_corpora_that_do_not_go_together():
    with pytest.raises(ProtocolError, match="trained and tested on made"):
        aligned(made(), made())
    with pytest.raises(ProtocolError, match="1 labels in common"):
        aligned(made(), made(corpus="other", names=("angry", "calm", "fear")), common=True)
