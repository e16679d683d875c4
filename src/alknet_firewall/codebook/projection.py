"""Hidden states -> z-coordinates on the SVD basis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pool_blocks", "project", "roll"]

Array = NDArray[np.float32]


def project(states: Array, basis: Array, mean: Array) -> Array:
    """`z = V^T (h - mean)` per layer.

    `states` is `(tokens, layers, hidden)` or `(layers, hidden)`, `basis`
    `(layers, dimensions, hidden)`, `mean` `(layers, hidden)`; z has the shape
    of `states` with `dimensions` in place of `hidden`.
    """
    # One matrix product per layer: einsum would not use BLAS here.
    by_layer = np.moveaxis(states - mean, -2, 0)
    z = np.stack([layer @ vectors.T for layer, vectors in zip(by_layer, basis, strict=True)])
    return np.moveaxis(z, 0, -2)


def pool_blocks(z: Array, block: int) -> tuple[Array, NDArray[np.intp]]:
    """Sums of `z` (tokens, ...) over blocks of `block` tokens, and their sizes."""
    starts = np.arange(0, len(z), block)
    sums: Array = np.add.reduceat(z, starts, axis=0)
    return sums, np.diff(np.append(starts, len(z)))


def roll(sums: Array, sizes: NDArray[np.intp], length: int) -> Array:
    """Means over every run of `length` blocks (one run if there are fewer)."""
    length = min(length, len(sums))
    tokens = _moving_sum(sizes.astype(np.float64), length)
    means = _moving_sum(sums, length) / tokens.reshape(-1, *[1] * (sums.ndim - 1))
    return np.asarray(means, dtype=np.float32)


def _moving_sum(values: NDArray[Any], length: int) -> NDArray[np.float64]:
    total = np.cumsum(values, axis=0, dtype=np.float64)
    total[length:] -= total[:-length].copy()
    return total[length - 1 :]
