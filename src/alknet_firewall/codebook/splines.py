"""Monotone spline distributions: the CDF of normal text along each dimension.

Between the knots the CDF is a monotone cubic (PCHIP: F. N. Fritsch and
J. Butland, SIAM J. Sci. Stat. Comput. 5, 1984), beyond them it decays
exponentially at a fitted rate. All dimensions are evaluated at once; the
derivatives come from `scipy.interpolate.PchipInterpolator` when the table is
fitted, so the runtime needs no SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_KNOTS", "SplineTable", "fit_splines", "strictly_increasing"]

Array = NDArray[np.float64]

N_KNOTS = 16
_OUTER = 0.005  # probability beyond the first and the last knot
_BISECTIONS = 60  # halves an interval to below float64 resolution


@dataclass(frozen=True, slots=True)
class SplineTable:
    """One CDF per dimension.

    `knots`, `values` (CDF at the knots) and `slopes` (its derivative) are
    `(dimensions, knots)`; `tail_decay` is `(dimensions, 2)`, the rates of the
    low and the high tail. Every x below has dimensions as its last axis.
    """

    knots: Array
    values: Array
    slopes: Array
    tail_decay: Array

    def first(self, dimensions: int) -> SplineTable:
        """The table of the first dimensions."""
        parts = self.knots, self.values, self.slopes, self.tail_decay
        return SplineTable(*(part[:dimensions] for part in parts))

    def cdf(self, x: Array) -> Array:
        """P(X <= x), in [0, 1], non-decreasing, for every finite x."""
        return self._cdf(x, *self._tails(x))

    def _cdf(self, x: Array, low: Array, high: Array) -> Array:
        inside = self._hermite(x)
        return np.where(
            low < 1, low * self.values[:, 0], np.where(high < 1, 1 - self._upper(high), inside)
        )

    def tail_probability(self, x: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Two-sided: twice the smaller of P(X <= x) and P(X > x), in [0, 1]; and whether
        x is in the upper half.

        The far upper tail keeps its precision: it is not computed as 1 - cdf.
        """
        low, high = self._tails(x)
        cdf = self._cdf(x, low, high)
        above = np.where(high < 1, self._upper(high), 1 - cdf)
        return np.asarray(np.clip(2 * np.minimum(cdf, above), 0, 1)), cdf > 0.5

    def inverse(self, p: Array) -> Array:
        """The x with cdf(x) = p, for p in (0, 1)."""
        first, last = self.values[:, 0], self.values[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            low = self.knots[:, 0] + np.log(p / first) / self.tail_decay[:, 0]
            high = self.knots[:, -1] - np.log((1 - p) / (1 - last)) / self.tail_decay[:, 1]
        return np.asarray(np.where(p < first, low, np.where(p > last, high, self._bisect(p))))

    def _tails(self, x: Array) -> tuple[Array, Array]:
        """How far each tail has decayed at x: 1 inside, less beyond."""
        low = np.exp(np.minimum(0, (x - self.knots[:, 0]) * self.tail_decay[:, 0]))
        high = np.exp(np.minimum(0, (self.knots[:, -1] - x) * self.tail_decay[:, 1]))
        return low, high

    def _upper(self, decayed: Array) -> Array:
        return decayed * (1 - self.values[:, -1])

    def _hermite(self, x: Array) -> Array:
        last = self.knots.shape[1] - 2
        interval = np.clip((x[..., None] >= self.knots).sum(axis=-1) - 1, 0, last)
        rows = np.arange(self.knots.shape[0])
        left, right = self.knots[rows, interval], self.knots[rows, interval + 1]
        width = right - left
        t = np.clip((x - left) / width, 0, 1)
        start, end = self.values[rows, interval], self.values[rows, interval + 1]
        value = (
            (1 + 2 * t) * (1 - t) ** 2 * start
            + t * (1 - t) ** 2 * width * self.slopes[rows, interval]
            + t**2 * (3 - 2 * t) * end
            - t**2 * (1 - t) * width * self.slopes[rows, interval + 1]
        )
        # Rounding may leave the interval by one unit in the last place.
        return np.asarray(np.clip(value, start, end))

    def _bisect(self, p: Array) -> Array:
        low = np.broadcast_to(self.knots[:, 0], p.shape)
        high = np.broadcast_to(self.knots[:, -1], p.shape)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self._hermite(middle) < p
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)


def fit_splines(samples: Array, n_knots: int = N_KNOTS) -> SplineTable:
    """Fit one CDF to each column of `samples` (rows, dimensions).

    Knots lie at equally spaced quantiles; a tail's rate is the reciprocal of
    its mean excess, the maximum-likelihood exponential. Raises ValueError for
    fewer rows than knots or values that are not finite.
    """
    if len(samples) < n_knots or not np.isfinite(samples).all():
        raise ValueError(f"needs at least {n_knots} rows of finite values")
    values = np.linspace(_OUTER, 1 - _OUTER, n_knots)
    knots = np.stack([strictly_increasing(k) for k in np.quantile(samples, values, axis=0).T])
    return SplineTable(
        knots=knots,
        values=np.tile(values, (len(knots), 1)),
        slopes=np.stack([_pchip_slopes(row, values) for row in knots]),
        tail_decay=np.stack([_tail_rates(c, k) for c, k in zip(samples.T, knots, strict=True)]),
    )


def strictly_increasing(knots: Array) -> Array:
    """The same knots with ties pushed apart by the least that keeps them apart."""
    step = max(float(np.ptp(knots)), 1.0) * 1e-6
    spread = knots + step * np.arange(len(knots))
    return spread if (np.diff(knots) < step).any() else knots


def _pchip_slopes(knots: Array, values: Array) -> Array:
    from scipy.interpolate import PchipInterpolator

    slopes: Array = PchipInterpolator(knots, values).derivative()(knots)
    # Where knots all but coincide, rounding can pass the bound of a monotone
    # cubic, three times the secant on either side (Fritsch and Carlson, 1980).
    bound = 3 * np.diff(values) / np.diff(knots)
    return np.clip(slopes, 0, np.minimum(np.append(bound, np.inf), np.append(np.inf, bound)))


def _tail_rates(column: Array, knots: Array) -> Array:
    low = knots[0] - column[column < knots[0]]
    high = column[column > knots[-1]] - knots[-1]
    typical = float(np.ptp(knots)) / len(knots)
    return np.array([1 / _mean_excess(low, typical), 1 / _mean_excess(high, typical)])


def _mean_excess(excess: Array, typical: float) -> float:
    """With next to no data in a tail, decay over one typical knot distance."""
    mean = float(excess.mean()) if len(excess) else typical
    return max(mean, typical * 1e-3)
