"""How populations of text lie along each direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DirectionProfile"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DirectionProfile:
    """Normal text of one role against attacks, per direction.

    Every array is `(layers, dimensions)` float32: mean and standard deviation
    of z for normal text, mean for attacks, Cohen's d (attack minus normal, in
    pooled standard deviations) and the silhouette of the two, in [-1, 1].
    """

    centroids: Array
    scale: Array
    attack_centroids: Array
    cohen_d: Array
    silhouette: Array

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """(layer index, dimension) of the directions with the largest |d|."""
        order = np.argsort(-np.abs(self.cohen_d), axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, self.cohen_d.shape)
        return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]
