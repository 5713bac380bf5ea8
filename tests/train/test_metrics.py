"""Figures of merit against numbers worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("torch")

from train import metrics
from train.twins import twins


def test_calibration_error_by_hand():
    """Two bins: confidence 0.9 with 1 of 2 right, confidence 0.6 with 2 of 2 right: (0.4 + 0.4) / 2."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(probabilities, np.array([0, 1, 0, 0])) == pytest.approx(0.4)


def test_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 5))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=p) for p in chances])
    assert metrics.fit_temperature((3 * logits).astype(np.float32), labels) == pytest.approx(3, rel=0.05)


def test_summary_by_hand():
    logits = np.array([[2, 0], [2, 0], [0, 2], [2, 0]], np.float32)
    figures = metrics.summarise(logits, np.array([0, 0, 1, 1]), ("a", "b"))
    assert figures["accuracy"] == 0.75
    assert figures["recall"] == {"a": 1.0, "b": 0.5}
    assert figures["uar"] == 0.75
    assert figures["confusion"] == [[2, 0], [1, 1]]
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_coverage():
    confidence = np.linspace(0.5, 1, 101)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    threshold = metrics.confidence_at_coverage(probabilities, 0.8)
    assert (confidence >= threshold).mean() == pytest.approx(0.8, abs=0.02)


def test_twins():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 48, 48), dtype=np.uint8)
    others = (
        np.concatenate([pictures[2:4].astype(int) + 1, rng.integers(0, 255, (3, 48, 48))]).clip(0, 255).astype(np.uint8)
    )
    assert twins(pictures, others).tolist() == [False, False, True, True, False, False]


def certain(guesses: list[int], classes: int = 2) -> np.ndarray:
    """Probabilities that leave no doubt."""
    return np.eye(classes)[guesses]


def test_folds_by_hand():
    """Fold a: 3 of 4 right; fold b: 1 of 2. Mean 0.625, sd |0.75 - 0.5| / sqrt 2, pooled 4 of 6."""
    labels = np.array([0, 0, 1, 1, 0, 1])
    figures = metrics.evaluate(certain([0, 0, 1, 0, 0, 0]), labels, ("x", "y"), folds=list("aaaabb"))
    assert figures["folds"] == {"a": 0.75, "b": 0.5}
    assert figures["fold_mean"] == 0.625
    assert figures["fold_sd"] == pytest.approx(0.25 / np.sqrt(2))
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["recall"] == {"x": 1.0, "y": pytest.approx(1 / 3)}
    assert figures["uar"] == pytest.approx(2 / 3)
    assert figures["macro_f1"] == pytest.approx((0.75 + 0.5) / 2)
    assert figures["confusion"] == [[3, 0], [2, 1]]
    assert figures["ece"] == pytest.approx(2 / 6)
    assert figures["resampled"] == "examples"


def test_segments_are_averaged_over_their_sequence():
    """Two of three segments are wrong, but the mean probability is right; the other sequence has one segment."""
    probabilities = np.array([[0.4, 0.6], [0.45, 0.55], [0.9, 0.1], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1])
    apart = metrics.evaluate(probabilities, labels, ("x", "y"))
    together = metrics.evaluate(probabilities, labels, ("x", "y"), ["s", "s", "s", "t"])
    assert (apart["count"], apart["accuracy"]) == (4, 0.5)
    assert (together["count"], together["accuracy"]) == (2, 1.0)
    assert together["resampled"] == "sequences"
    # The mean probabilities themselves: confidences 1.75 / 3 and 0.7, both right.
    assert together["ece"] == pytest.approx(((1 - 1.75 / 3) + 0.3) / 2)


def test_a_sequence_counts_once_in_each_fold():
    figures = metrics.evaluate(certain([0, 1]), np.array([0, 0]), ("x", "y"), ["s", "s"], folds=["a", "b"])
    assert figures["count"] == 2
    assert figures["folds"] == {"a": 1.0, "b": 0.0}


def test_logits_and_probabilities_agree():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (40, 3)), rng.integers(0, 3, 40)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = ("x", "y", "z")
    assert metrics.evaluate(logits, labels, names, logits=True) == metrics.evaluate(chances, labels, names)


def test_the_interval_of_independent_examples_is_the_binomial_one():
    labels = np.zeros(400, np.int64)
    figures = metrics.evaluate(certain([0] * 320 + [1] * 80), labels, ("x", "y"))
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert figures["interval"] == pytest.approx((0.8 - half, 0.8 + half), abs=0.006)
    again = metrics.evaluate(certain([0] * 320 + [1] * 80), labels, ("x", "y"))
    assert figures["interval"] == again["interval"]


def test_whole_subjects_are_resampled():
    """Twenty subjects of twenty examples, each all right or all wrong: as uncertain as twenty examples."""
    right = np.repeat([0] * 16 + [1] * 4, 20)
    labels, subjects = np.zeros(400, np.int64), [f"s{i // 20}" for i in range(400)]
    figures = metrics.evaluate(certain(right.tolist()), labels, ("x", "y"), subjects=subjects)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 20)
    assert figures["resampled"] == "subjects"
    assert figures["interval"] == pytest.approx((0.8 - half, 0.8 + half), abs=0.05)
    # One unknown subject, and they can't be trusted to tell what belongs together; clusters then do.
    figures = metrics.evaluate(
        certain(right.tolist()), labels, ("x", "y"), subjects=[None, *subjects[1:]], clusters=subjects
    )
    assert figures["resampled"] == "sequences"
    assert figures["interval"] == pytest.approx((0.8 - half, 0.8 + half), abs=0.05)


def test_no_interval_of_a_single_subject_and_no_deviation_of_a_single_fold():
    figures = metrics.evaluate(certain([0, 1]), np.array([0, 0]), ("x", "y"), subjects=["s", "s"])
    assert figures["interval"] is None
    assert figures["fold_sd"] is None


@pytest.mark.parametrize(
    ("scores", "labels", "sequences", "message"),
    [
        (np.array([[0.5, 0.6]]), [0], None, "not probabilities"),
        (np.array([[np.nan, 0.5]]), [0], None, "not probabilities"),
        (np.array([[1.5, -0.5]]), [0], None, "not probabilities"),
        (np.array([[0.5, 0.5]]), [0, 1], None, "2 labels, scores"),
        (np.empty((0, 2)), [], None, "0 labels"),
        (np.array([[0.5, 0.5]]), [0], ["s", "t"], "columns of other lengths"),
        (np.array([[0.5, 0.5], [0.5, 0.5]]), [0, 1], ["s", "s"], "sequence s has two labels"),
    ],
)
def test_what_cannot_be_evaluated(scores, labels, sequences, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(scores, np.array(labels, np.int64), ("x", "y"), sequences)
