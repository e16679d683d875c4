"""The SVD basis of normal text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .activations import Chunk, read_chunk, read_places

__all__ = ["Basis", "fit_basis"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Basis:
    """Directions `(layers, dimensions, hidden)`, the mean state `(layers, hidden)`
    and the standard deviation along each direction, `(layers * dimensions,)`."""

    vectors: Array
    mean: Array
    scale: Array


def fit_basis(
    chunks: Sequence[Chunk],
    normal: NDArray[np.bool_],
    dimensions: int,
    *,
    blocks: int = 60_000,
    seed: int = 0,
) -> Basis:
    """SVD of at most `blocks` blocks of the `normal` texts (one entry a text).

    The sign of each direction is fixed by making its largest entry positive.
    """
    from scipy.linalg import svd

    states = _sampled(chunks, normal, blocks, seed)
    vectors, means, scales = [], [], []
    for layer in range(states.shape[1]):
        centred = states[:, layer].astype(np.float64)
        means.append(centred.mean(axis=0))
        centred -= means[-1]
        _, _, directions = svd(centred, full_matrices=False)
        directions = directions[:dimensions]
        largest = np.abs(directions).argmax(axis=1)
        directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
        vectors.append(directions)
        scales.append(np.maximum((centred @ directions.T).std(axis=0), 1e-6))
    arrays = np.stack(vectors), np.stack(means), np.concatenate(scales)
    return Basis(*(array.astype(np.float32) for array in arrays))


def _sampled(
    chunks: Sequence[Chunk], normal: NDArray[np.bool_], blocks: int, seed: int
) -> NDArray[np.float16]:
    """States of random blocks of normal texts, in order: `(blocks, layers, hidden)`."""
    usable = [normal[read_places(chunk).example] for chunk in chunks]
    counts = [int(mask.sum()) for mask in usable]
    order = np.random.default_rng(seed).permutation(sum(counts))[:blocks]
    chosen = np.zeros(sum(counts), dtype=bool)
    chosen[order] = True
    parts = []
    for chunk, mask, taken in zip(
        chunks, usable, np.split(chosen, np.cumsum(counts)[:-1]), strict=True
    ):
        parts.append(read_chunk(chunk).states[np.flatnonzero(mask)[taken]])
    return np.concatenate(parts)
