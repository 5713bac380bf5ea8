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
