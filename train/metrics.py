"""Figures of merit, from logits and labels, and the calibration that is fitted on held-out data.

``summarise`` is for one held-out set; ``evaluate`` is for a protocol: segments become sequences, folds get a mean and a
standard deviation, and the pooled accuracy an interval that knows which predictions belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def evaluate(
    scores: npt.NDArray[np.floating],
    labels: Labels,
    names: Sequence[str],
    sequences: Sequence[str] | None = None,
    *,
    subjects: Sequence[str | None] | None = None,
    folds: Sequence[str] | None = None,
    clusters: Sequence[str] | None = None,
    logits: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures over all folds of a protocol.

    Args:
        scores: (N, K) probabilities, or logits; one row a tested example.
        labels: (N,).
        names: K label names.
        sequences: (N,) what each example is a segment of. The mean probability of a sequence's segments within a fold
            then counts as one prediction (Zhang et al. 2019, section III-D). None where
            each example stands for itself, as the last frames of CK+ do in Li et al. 2019.
        subjects: (N,) or None; resampled together where all are known.
        folds: (N,) which fold's network predicted it; one fold where None.
        clusters: (N,) what is resampled together where subjects are not known; the sequences where None.
        logits: whether ``scores`` are logits.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``count``, ``accuracy`` (pooled over folds), ``interval`` (percentile bootstrap, 95 %, of the pooled accuracy;
        None where there is one cluster only), ``resampled`` (``subjects``, ``sequences`` or ``examples``), ``folds``
        (name to accuracy), ``fold_mean``, ``fold_sd`` (n - 1 in the denominator; None of one fold), ``recall`` by
        class, ``macro_f1``, ``uar`` (over the classes that occur), ``ece`` and ``confusion`` (rows are the truth).
        Shares are 0..1.

    Raises:
        ValueError: no rows, lengths or widths that differ, numbers that are no probabilities, or a sequence with two
            labels.
    """
    count = len(labels)
    columns = [list(column) if column is not None else None for column in (sequences, subjects, folds, clusters)]
    if not count or scores.shape != (count, len(names)) or any(c is not None and len(c) != count for c in columns):
        raise ValueError(f"{count} labels, scores {scores.shape}, {len(names)} names, and columns of other lengths")
    probabilities = softmax(scores.astype(np.float64), axis=1) if logits else scores.astype(np.float64)
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3) or (probabilities < 0).any():
        raise ValueError("rows of scores are not probabilities: expected numbers >= 0 that add up to 1")
    fold_of = np.array(folds if folds is not None else ["all"] * count)
    known = subjects is not None and None not in subjects
    grouped = clusters if clusters is not None else sequences
    cluster_of = np.array(subjects if known else grouped if grouped is not None else range(count)).astype(str)
    resampled = "subjects" if known else "sequences" if grouped is not None else "examples"

    if sequences is not None:
        keys = np.array([f"{fold}\0{sequence}" for fold, sequence in zip(fold_of, sequences, strict=True)])
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        if (labels != labels[first][place]).any():
            odd = int(np.flatnonzero(labels != labels[first][place])[0])
            raise ValueError(f"sequence {sequences[odd]} has two labels; its segments can't be averaged")
        total = np.zeros((len(first), len(names)))
        np.add.at(total, place, probabilities)
        probabilities = total / np.bincount(place)[:, None]
        labels, fold_of, cluster_of = labels[first], fold_of[first], cluster_of[first]

    guess, codes = probabilities.argmax(1), list(range(len(names)))
    right = guess == labels
    accuracies = {str(fold): float(right[fold_of == fold].mean()) for fold in dict.fromkeys(fold_of.tolist())}
    per_fold = np.array(list(accuracies.values()))
    recall = recall_score(labels, guess, labels=codes, average=None, zero_division=0.0)
    return {
        "count": len(labels),
        "accuracy": float(accuracy_score(labels, guess)),
        "interval": _interval(right, cluster_of, resamples, seed),
        "resampled": resampled,
        "folds": accuracies,
        "fold_mean": float(per_fold.mean()),
        "fold_sd": float(per_fold.std(ddof=1)) if len(per_fold) > 1 else None,
        "recall": {name: float(value) for name, value in zip(names, recall, strict=True)},
        "macro_f1": float(f1_score(labels, guess, labels=codes, average="macro", zero_division=0.0)),
        "uar": float(recall[np.isin(codes, labels)].mean()),
        "ece": calibration_error(probabilities, labels),
        "confusion": confusion_matrix(labels, guess, labels=codes).tolist(),
    }


def _interval(
    right: npt.NDArray[np.bool_], clusters: npt.NDArray[np.str_], resamples: int, seed: int
) -> tuple[float, float] | None:
    """Percentile bootstrap, 95 %, of the share that is right, whole clusters resampled (Efron, Tibshirani 1993)."""
    _, place = np.unique(clusters, return_inverse=True)
    sizes, hits = np.bincount(place), np.bincount(place, weights=right)
    if len(sizes) < 2:
        return None
    rng, shares = np.random.default_rng(seed), np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        shares[i] = hits[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


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
