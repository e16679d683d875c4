"""What scores are worth on labelled rows. Every source counts the same.

A large file then decides no more than a small one. Recall is reported at
false-positive rates of 1 % and 0.1 %, next to what the shipped levels do,
never alone. Everything returned is ready for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import AlarmLevel, Role
from . import stats
from .data_loader import Example

__all__ = ["FALSE_POSITIVE_RATES", "Columns", "curves", "number", "role_figures", "source_figures"]

FALSE_POSITIVE_RATES = (0.01, 0.001)

_ROC_RATES = np.geomspace(1e-3, 1, 61)  # twenty to a decade, so that 0.1 %, 1 %, 10 % are in it
_CONFIDENCE_BINS = 10
_LOGIT_EDGES = np.linspace(-10, 10, 41)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """Scored rows as arrays, one entry a row. `level` is an `AlarmLevel` as int."""

    role: NDArray[np.str_]
    kind: NDArray[np.str_]
    source: NDArray[np.str_]
    attack: Mask
    score: Array
    level: NDArray[np.int_]

    @classmethod
    def of(
        cls, examples: Sequence[Example], scores: Sequence[float], levels: Sequence[int]
    ) -> Columns:
        """Columns of examples, their scores and levels, given in the same order."""
        return cls(
            role=np.array([example.role for example in examples], dtype=np.str_),
            kind=np.array([example.kind for example in examples], dtype=np.str_),
            source=np.array([example.source for example in examples], dtype=np.str_),
            attack=np.array([example.label == "attack" for example in examples], dtype=bool),
            score=np.array(scores, dtype=np.float64),
            level=np.array(levels, dtype=np.int_),
        )

    def chosen(self, rows: Mask) -> Columns:
        """The same columns for some of the rows."""
        return Columns(
            role=self.role[rows],
            kind=self.kind[rows],
            source=self.source[rows],
            attack=self.attack[rows],
            score=self.score[rows],
            level=self.level[rows],
        )

    def of_role(self, role: Role) -> Columns:
        """The rows of one role."""
        return self.chosen(self.role == role)

    @property
    def weights(self) -> Array:
        """They sum to 1 within each class, every source counting the same."""
        return stats.equal_source_weights(self.source, self.attack)

    @property
    def has_both_classes(self) -> bool:
        return bool(self.attack.any() and not self.attack.all())


def role_figures(rows: Columns) -> dict[str, Any]:
    """AUC, recall at each rate by kind, and what the levels do, for rows of one role."""
    weights = rows.weights
    figures: dict[str, Any] = {
        "benign": int((~rows.attack).sum()),
        "attacks": int(rows.attack.sum()),
        "auc": number(stats.auc(rows.score, rows.attack, weights)),
        "shipped": {
            level.name.lower(): _shipped(rows, weights, level)
            for level in (AlarmLevel.SUSPICIOUS, AlarmLevel.DANGEROUS)
        },
    }
    for rate in FALSE_POSITIVE_RATES:
        if rows.has_both_classes:
            figures[f"at_{rate:g}"] = _at_rate(rows, weights, rate)
    return figures


def _at_rate(rows: Columns, weights: Array, rate: float) -> dict[str, Any]:
    normal = ~rows.attack
    threshold = stats.threshold_at(rows.score[normal], weights[normal], rate)

    def recall(chosen: Mask) -> float | None:
        return number(stats.weighted_share_above(rows.score[chosen], weights[chosen], threshold))

    kinds = np.unique(rows.kind[rows.attack])
    return {
        "threshold": threshold,
        "recall": recall(rows.attack),
        "by_kind": {str(kind): recall(rows.attack & (rows.kind == kind)) for kind in kinds},
    }


def _shipped(rows: Columns, weights: Array, level: AlarmLevel) -> dict[str, Any]:
    def flagged(chosen: Mask) -> float | None:
        limit = int(level) - 0.5
        return number(stats.weighted_share_above(rows.level[chosen], weights[chosen], limit))

    def by_kind(chosen: Mask) -> dict[str, float | None]:
        return {str(k): flagged(chosen & (rows.kind == k)) for k in np.unique(rows.kind[chosen])}

    return {
        "false_positives": flagged(~rows.attack),
        "recall": flagged(rows.attack),
        "false_positives_by_kind": by_kind(~rows.attack),
        "recall_by_kind": by_kind(rows.attack),
        "worst_source": _worst_source(rows, level),
    }


def _worst_source(rows: Columns, level: AlarmLevel) -> dict[str, Any] | None:
    """The benign source of which the largest share is flagged."""
    normal = rows.chosen(~rows.attack)
    shares = [
        (float((normal.level[normal.source == source] >= level).mean()), str(source))
        for source in np.unique(normal.source)
    ]
    if not shares:
        return None
    share, source = max(shares)
    return {"source": source, "false_positives": share}


def source_figures(rows: Columns) -> list[dict[str, Any]]:
    """How much of each source, role and label is flagged, and is above 1 %'s threshold."""
    thresholds = {
        role: _threshold(rows.of_role(role), FALSE_POSITIVE_RATES[0]) for role in get_args(Role)
    }
    return [
        {
            "source": str(source),
            "role": role,
            "label": "attack" if attack else "benign",
            **_shares(rows.chosen(mine), thresholds[role]),
        }
        for source in np.unique(rows.source)
        for role in get_args(Role)
        for attack in (False, True)
        if (mine := (rows.source == source) & (rows.role == role) & (rows.attack == attack)).any()
    ]


def _shares(mine: Columns, threshold: float | None) -> dict[str, Any]:
    return {
        "rows": len(mine.score),
        "flagged": number((mine.level >= AlarmLevel.SUSPICIOUS).mean()),
        "dangerous": number((mine.level >= AlarmLevel.DANGEROUS).mean()),
        "above_at_0.01": None if threshold is None else number((mine.score > threshold).mean()),
    }


def _threshold(rows: Columns, rate: float) -> float | None:
    normal = ~rows.attack
    if not normal.any():
        return None
    return stats.threshold_at(rows.score[normal], rows.weights[normal], rate)


def curves(rows: Columns) -> dict[str, Any]:
    """ROC, score distributions and reliability, for rows of one role; empty without
    both classes."""
    if not rows.has_both_classes:
        return {}
    return {"roc": roc(rows), "distribution": _distribution(rows), "reliability": reliability(rows)}


def roc(rows: Columns) -> dict[str, list[float]]:
    """Recall at false-positive rates from 0.1 % to 1, evenly spaced in their logarithm."""
    weights, normal = rows.weights, ~rows.attack
    scores, shares = rows.score[rows.attack], weights[rows.attack]
    thresholds = [
        stats.threshold_at(rows.score[normal], weights[normal], float(rate)) for rate in _ROC_RATES
    ]
    recalls = [stats.weighted_share_above(scores, shares, threshold) for threshold in thresholds]
    return {"false_positives": _ROC_RATES.tolist(), "recall": recalls}


def _distribution(rows: Columns) -> dict[str, list[float]]:
    """The weighted share of each class in bins of the log-odds of the score."""
    weights = rows.weights
    odds = np.clip(_logit(rows.score), _LOGIT_EDGES[0], _LOGIT_EDGES[-1])

    def share(chosen: Mask) -> list[float]:
        counts, _ = np.histogram(odds[chosen], _LOGIT_EDGES, weights=weights[chosen])
        return [float(count) for count in counts]

    return {
        "log_odds": _LOGIT_EDGES.tolist(),
        "benign": share(~rows.attack),
        "attack": share(rows.attack),
    }


def _logit(score: Array) -> Array:
    inside = np.clip(score, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def reliability(rows: Columns) -> dict[str, Any]:
    """Whether the score is a probability, both classes counting the same.

    Ten equal bins of the score: its mean, the weighted share of attacks, and
    how much of the weight is in the bin. `expected_calibration_error` is the
    mean gap of the two (Guo et al., arXiv:1706.04599), `brier` the mean squared
    error (Brier, 1950; 0.25 is a constant 0.5).
    """
    weights = rows.weights / 2
    edges = np.linspace(0, 1, _CONFIDENCE_BINS + 1)
    number_of = np.clip(np.digitize(rows.score, edges[1:-1]), 0, _CONFIDENCE_BINS - 1)
    bins = [_bin(rows, weights, number_of == n) for n in range(_CONFIDENCE_BINS)]
    filled = [b for b in bins if b["weight"] > 0]
    return {
        "bins": filled,
        "expected_calibration_error": sum(
            b["weight"] * abs(b["score"] - b["attacks"]) for b in filled
        ),
        "brier": float((weights * (rows.score - rows.attack) ** 2).sum()),
    }


def _bin(rows: Columns, weights: Array, chosen: Mask) -> dict[str, float]:
    weight = float(weights[chosen].sum())
    if not weight:
        return {"weight": 0.0}
    return {
        "weight": weight,
        "rows": int(chosen.sum()),
        "score": float((weights * rows.score)[chosen].sum() / weight),
        "attacks": float((weights * rows.attack)[chosen].sum() / weight),
    }


def number(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)
