"""Hidden states -> z-coordinates on the SVD basis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sizes", "pool_blocks", "product", "project", "project_layer", "roll"]

_FEW_ROWS = 256  # more come from training, where threads are welcome
_SMALL_PRODUCT = 600_000  # multiplications that OpenBLAS does on one thread

Array = NDArray[np.float32]
Sizes = NDArray[np.intp]


def project(states: Array, basis: Array, mean: Array) -> Array:
    """`z = V^T (h - mean)` per layer.

    `states` is `(tokens, layers, hidden)` or `(layers, hidden)`, `basis`
    `(layers, dimensions, hidden)`, `mean` `(layers, hidden)`; z has the shape
    of `states` with `dimensions` in place of `hidden`.
    """
    # One matrix product per layer: einsum would not use BLAS here.
    by_layer = zip(np.moveaxis(states, -2, 0), basis, mean, strict=True)
    return np.stack([project_layer(*layer) for layer in by_layer], axis=-2)


def project_layer(states: Array, vectors: Array, mean: Array) -> Array:
    """The same for one layer: `states` `(..., hidden)`, `vectors` `(dimensions, hidden)`."""
    return product(states - mean, vectors.T)


def product(a: Array, b: Array) -> Array:
    """`a @ b`, matrices or stacks of them; a few rows of `a` at a time where it has only few.

    BLAS then stays on the calling thread. Waking its other threads for a
    product of microseconds took up to 100 ms on a busy machine.
    """
    rows = a.shape[-2] if a.ndim > 1 else 1
    step = max(1, _SMALL_PRODUCT // (b.shape[-2] * b.shape[-1]))
    if rows <= step or rows > _FEW_ROWS:
        return np.asarray(a @ b)
    parts = [a[..., start : start + step, :] @ b for start in range(0, rows, step)]
    return np.concatenate(parts, axis=-2)


def pool_blocks(values: Array, block: int) -> tuple[Array, Sizes]:
    """Means of `values` (tokens, ...) over blocks of `block` tokens, and their sizes."""
    whole, left = divmod(len(values), block)
    inside = values[: whole * block]
    first, *others = (inside[place::block] for place in range(block))
    # A sum of strided views: reduceat takes several times as long.
    means = sum(others, start=first) / np.float32(block)
    if left:
        means = np.concatenate([means, values[-left:].mean(axis=0, keepdims=True)])
    sizes = np.array([block] * whole + [left] * bool(left), dtype=np.intp)
    return np.asarray(means, dtype=np.float32), sizes


def roll(means: Array, sizes: Sizes, length: int) -> Array:
    """Means over the tokens of every run of `length` blocks (one run if there
    are fewer), from the means of the blocks."""
    length = min(length, len(means))
    sums = _moving_sum(means * _column(sizes, means), length)
    tokens = _moving_sum(sizes, length)
    return np.asarray(sums / _column(tokens, sums), dtype=np.float32)


def _column(counts: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Counts shaped so that they divide the rows of `values`."""
    return counts.reshape(-1, *[1] * (values.ndim - 1))


def _moving_sum(values: NDArray[Any], length: int) -> NDArray[np.float64]:
    total = np.cumsum(values, axis=0, dtype=np.float64)
    total[length:] -= total[:-length].copy()
    return total[length - 1 :]
