"""Statistics for compiling and for judging: effect sizes, AUC, recall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codebook.profiles import DirectionProfile

__all__ = [
    "auc",
    "capped",
    "cohen_d",
    "equal_kind_weights",
    "equal_source_weights",
    "fit_profile",
    "pooled_std",
    "recall_at",
    "silhouette",
    "threshold_at",
    "weighted_share_above",
]

Array = NDArray[np.float64]


def pooled_std(a: Array, b: Array) -> Array:
    """Pooled standard deviation of two samples, per column."""
    degrees = len(a) + len(b) - 2
    if degrees < 1:
        return np.zeros(a.shape[1:])
    squares = (len(a) - 1) * a.var(axis=0, ddof=1) + (len(b) - 1) * b.var(axis=0, ddof=1)
    return np.asarray(np.sqrt(squares / degrees))


def cohen_d(a: Array, b: Array) -> Array:
    """Cohen's d per column: (mean(a) - mean(b)) / pooled standard deviation."""
    spread = pooled_std(a, b)
    difference = a.mean(axis=0) - b.mean(axis=0)
    return np.asarray(
        np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 0)
    )


def silhouette(a: Array, b: Array) -> Array:
    """Mean simplified silhouette of two clusters, per column, in [-1, 1].

    The simplified form uses distances to the cluster means (Hruschka et al.,
    2004), which is linear in the number of points.
    """
    means = a.mean(axis=0), b.mean(axis=0)
    return np.asarray(np.concatenate([_widths(a, *means), _widths(b, *means[::-1])]).mean(axis=0))


def _widths(points: Array, own: Array, other: Array) -> Array:
    inner, outer = np.abs(points - own), np.abs(points - other)
    largest = np.maximum(inner, outer)
    return np.asarray(
        np.divide(outer - inner, largest, out=np.zeros_like(points), where=largest > 0)
    )


def fit_profile(
    normal: NDArray[np.float32], hostile: NDArray[np.float32], dimensions: int
) -> DirectionProfile:
    """The profile of two samples `(rows, layers * dimensions)`."""
    a, b = hostile.astype(np.float64), normal.astype(np.float64)
    arrays = (
        b.mean(axis=0),
        np.maximum(b.std(axis=0), 1e-6),
        a.mean(axis=0),
        cohen_d(a, b),
        silhouette(a, b),
    )
    return DirectionProfile(*(array.reshape(-1, dimensions).astype(np.float32) for array in arrays))


def equal_source_weights(sources: NDArray[np.str_], labels: NDArray[np.bool_]) -> Array:
    """Weights that sum to 1 within each class, every source counting the same."""
    weights = np.zeros(len(labels))
    for label in (False, True):
        mine = labels == label
        _, inverse, counts = np.unique(sources[mine], return_inverse=True, return_counts=True)
        shares = 1 / counts[inverse]
        weights[mine] = shares / shares.sum()
    return weights


def equal_kind_weights(kinds: NDArray[np.str_], sources: NDArray[np.str_]) -> Array:
    """Weights that sum to 1, every kind counting the same, and in it every source."""
    weights = np.zeros(len(kinds))
    for kind in np.unique(kinds):
        mine = kinds == kind
        weights[mine] = equal_source_weights(sources[mine], np.ones(int(mine.sum()), dtype=bool))
    return np.asarray(weights / max(weights.sum(), 1))


def capped(weights: Array, most: float) -> Array:
    """Weights that sum to 1 with none above `most`, or all equal where that is not possible;
    those below keep their proportions."""
    found = weights / weights.sum()
    if most * len(found) <= 1:
        return np.full(len(found), 1 / len(found))
    full = np.zeros(len(found), dtype=bool)
    while (found[~full] > most).any():
        full |= found > most
        found = np.where(full, most, found)
        found[~full] *= (1 - most * full.sum()) / found[~full].sum()
    return np.asarray(found)


def auc(scores: Array, labels: NDArray[np.bool_], weights: Array) -> float:
    """Weighted area under the ROC curve, ties counted half; NaN without both classes."""
    if labels.all() or not labels.any():
        return float("nan")
    _, group = np.unique(scores, return_inverse=True)
    negative = np.bincount(group, weights=weights * ~labels)
    positive = np.bincount(group, weights=weights * labels)
    below = np.cumsum(negative) - negative
    area = (positive * (below + negative / 2)).sum()
    return float(area / (negative.sum() * positive.sum()))


def threshold_at(scores: Array, weights: Array, false_positives: float) -> float:
    """The score that at most this weighted share of normal texts exceeds.

    `weights` sum to 1. They are not normalised once more: rounding would move
    the threshold by a row where a share meets the budget exactly.
    """
    order = np.argsort(-scores, kind="stable")
    share = np.cumsum(weights[order])
    return float(scores[order][min(int(np.searchsorted(share, false_positives)), len(order) - 1)])


def recall_at(scores: Array, attack: NDArray[np.bool_], weights: Array, rate: float) -> float:
    """Share of the attacks above the score that `rate` of the normal texts exceed."""
    threshold = threshold_at(scores[~attack], weights[~attack], rate)
    return weighted_share_above(scores[attack], weights[attack], threshold)


def weighted_share_above(scores: NDArray[Any], weights: Array, threshold: float) -> float:
    """The weighted share of scores above a threshold; NaN for no scores."""
    total = weights.sum()
    return float(weights[scores > threshold].sum() / total) if total > 0 else float("nan")
