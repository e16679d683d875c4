"""How far some texts lie from the normal text of a codebook, direction by direction.

Under the splines of a codebook the CDF values of its own normal text are
uniform. How far those of other texts are from uniform is how far they drifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .detection import Region

__all__ = ["DirectionDrift", "Drift", "drift", "drift_table"]

_CHUNK = 500  # places whose CDF values are computed at a time: bounds memory
_TAIL = 0.01
_SHOWN = 10

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DirectionDrift:
    """One direction. `shift` is the mean in standard deviations of normal text, after
    the spline made that Gaussian; `ks` (Kolmogorov-Smirnov) is the largest and
    `wasserstein` the mean difference of the CDF values from uniform, in [0, 1] and
    [0, 0.5]."""

    layer: int
    dimension: int
    shift: float
    ks: float
    wasserstein: float


@dataclass(frozen=True, slots=True)
class Drift:
    """All directions, the one with the largest `ks` first.

    `chance` is the `ks` that some direction exceeds in one of twenty samples of
    as many normal texts. `mean_ks` is the overall figure; `tail_share` is how
    much lies where 1 % of normal text does.
    """

    texts: int
    places: int
    mean_ks: float
    tail_share: float
    chance: float
    beyond_chance: int
    directions: tuple[DirectionDrift, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def drift(z: NDArray[np.float32], texts: int, region: Region, layers: Sequence[int]) -> Drift:
    """Compare the mean z of places `(places, layers, dimensions)`, which come from
    so many `texts`, with the normal text of a region."""
    values = _cdf(z, region)
    shift = _gaussian(values).mean(axis=0)
    steps = _steps(values)
    ks, distance = _kolmogorov_smirnov(*steps), _wasserstein(*steps)
    chance = _chance(texts, len(ks))
    dimensions = z.shape[2]
    directions = tuple(
        DirectionDrift(
            layer=layers[index // dimensions],
            dimension=int(index % dimensions),
            shift=float(shift[index]),
            ks=float(ks[index]),
            wasserstein=float(distance[index]),
        )
        for index in np.argsort(-ks, kind="stable")
    )
    return Drift(
        texts=texts,
        places=len(z),
        mean_ks=float(ks.mean()),
        tail_share=float(((values < _TAIL / 2) | (values > 1 - _TAIL / 2)).mean()),
        chance=chance,
        beyond_chance=int((ks > chance).sum()),
        directions=directions,
    )


def _cdf(z: NDArray[np.float32], region: Region) -> Array:
    """CDF values `(places, directions)`."""
    flat = z.reshape(len(z), -1)
    return np.concatenate(
        [
            region.splines.cdf(flat[start : start + _CHUNK].astype(np.float64))
            for start in range(0, len(flat), _CHUNK)
        ]
    )


def _gaussian(values: Array) -> Array:
    from scipy.special import ndtri

    return np.asarray(ndtri(np.clip(values, 1e-6, 1 - 1e-6)))


def _steps(values: Array) -> tuple[Array, Array, Array]:
    """Each column in order, and its distribution before and after each of its values."""
    low = np.arange(len(values))[:, None] / len(values)
    return np.sort(values, axis=0), low, low + 1 / len(values)


def _kolmogorov_smirnov(quantile: Array, low: Array, high: Array) -> Array:
    """The largest distance of each column's distribution from the uniform one."""
    return np.asarray(np.maximum(quantile - low, high - quantile).max(axis=0))


def _wasserstein(quantile: Array, low: Array, high: Array) -> Array:
    """The first Wasserstein distance of each column from the uniform distribution.

    The integral over p of |quantile(p) - p|, piece by piece: the quantile is
    constant on each of n steps.
    """
    crossed = (quantile > low) & (quantile < high)
    inside = ((quantile - low) ** 2 + (high - quantile) ** 2) / 2
    outside = np.abs(quantile - (low + high) / 2) / len(quantile)
    return np.asarray(np.where(crossed, inside, outside).sum(axis=0))


def _chance(texts: int, directions: int) -> float:
    """The distance that one of so many directions exceeds with a chance of 5 %.

    Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), and
    Bonferroni's correction. It counts texts, not places: places of one text are
    alike.
    """
    return min(1.0, sqrt(log(2 * directions / 0.05) / (2 * texts)))


def drift_table(found: Drift) -> str:
    """The drift as text for a terminal."""
    lines = [
        f"drift      {found.mean_ks:.3f} mean Kolmogorov-Smirnov distance from the bundled normal "
        "(0 none, 1 all)",
        f"chance     {found.chance:.3f}: {found.beyond_chance} of {len(found.directions)} "
        f"directions are farther than chance takes {found.texts} texts",
        f"tails      {found.tail_share:.1%} lies where 1 % of normal text does",
        "",
        f"{'layer':>5} {'direction':>9} {'shift':>7} {'KS':>6} {'Wasserstein':>11}",
    ]
    lines += [
        f"{d.layer:>5} {d.dimension:>9} {d.shift:>+7.2f} {d.ks:>6.3f} {d.wasserstein:>11.3f}"
        for d in found.directions[:_SHOWN]
    ]
    return "\n".join(lines)
