"""Figures of merit, from logits and labels, and the calibration that is fitted on held-out data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def calibration_error(probabilities: npt.NDArray[np.floating], labels: Labels, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of the confidence (Guo et al. 2017, equation 3), 0..1."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(
        sum(abs(right[place == b].mean() - confidence[place == b].mean()) * (place == b).mean() for b in set(place))
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017, section 4.2)."""

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def confidence_at_coverage(probabilities: npt.NDArray[np.floating], coverage: float = 0.8) -> float:
    """The confidence that this share of pictures reaches: abstain below it."""
    return float(np.quantile(probabilities.max(1), 1 - coverage))


def summarise(logits: Logits, labels: Labels, names: Sequence[str], temperature: float = 1.0) -> dict[str, object]:
    """Accuracy, macro-F1, unweighted average recall, ECE, recall by class, confusion matrix (rows are the truth)."""
    probabilities = softmax(logits / temperature, axis=1)
    guess, codes = probabilities.argmax(1), list(range(len(names)))
    recall = recall_score(labels, guess, labels=codes, average=None, zero_division=0.0)
    present = np.isin(codes, labels)
    return {
        "count": len(labels),
        "accuracy": float(accuracy_score(labels, guess)),
        "macro_f1": float(f1_score(labels, guess, labels=codes, average="macro", zero_division=0.0)),
        "uar": float(recall[present].mean()),
        "ece": calibration_error(probabilities, labels),
        "recall": {name: float(value) for name, value in zip(names, recall, strict=True)},
        "confusion": confusion_matrix(labels, guess, labels=codes).tolist(),
    }
