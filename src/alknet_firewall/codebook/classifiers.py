"""From z-coordinates to the probability of an attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .projection import product

__all__ = ["DirectionClassifier", "direction_features", "sigmoid"]

Array = NDArray[np.float32]

_CLIP = 8.0  # standard deviations; bounds what one odd direction can do


@dataclass(frozen=True, slots=True)
class DirectionClassifier:
    """Logistic regression on a small hidden layer over the directions.

    Why it is not linear: docs/decisions/0012-hidden-layer.md. `hidden_weights`
    is `(inputs, units)`, `hidden_bias` and `output_weights` `(units,)`,
    `output_bias` `(1,)`, all float32.
    """

    hidden_weights: Array
    hidden_bias: Array
    output_weights: Array
    output_bias: Array

    def logits(self, features: Array) -> NDArray[np.float64]:
        """Log-odds of an attack for each row of `features` (rows, inputs)."""
        hidden = silu(product(features, self.hidden_weights) + self.hidden_bias)
        return np.asarray(hidden @ self.output_weights + self.output_bias, dtype=np.float64)

    def rescaled(self, slope: float, offset: float) -> DirectionClassifier:
        """The classifier whose logits are `slope * logit + offset`."""
        weights = np.asarray(self.output_weights * slope, dtype=np.float32)
        bias = np.asarray(self.output_bias * slope + offset, dtype=np.float32)
        return replace(self, output_weights=weights, output_bias=bias)


def direction_features(z: Array, centroids: Array, scale: Array) -> Array:
    """z `(rows, layers, dimensions)` in standard deviations from normal text.

    Returns `(rows, layers * dimensions)` float32, clipped to +-8.
    """
    standard = (z - centroids) / scale
    return np.asarray(np.clip(standard, -_CLIP, _CLIP).reshape(len(z), -1), dtype=np.float32)


def silu(x: Array) -> Array:
    """x * sigmoid(x) (arXiv:1606.08415)."""
    return np.asarray(x * sigmoid(x), dtype=np.float32)


def sigmoid(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 / (1 + exp(-x)), without overflow for any finite x."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
