"""Fitting a direction classifier, in NumPy: a codebook is compiled without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ..codebook.classifiers import DirectionClassifier, sigmoid, silu

__all__ = ["HeadOptions", "fit_classifier", "platt"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How a classifier is trained."""

    members: int = 3
    """Classifiers trained from different seeds, whose logits are averaged."""
    units: int = 64
    epochs: int = 2
    batch: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    dropout: float = 0.3


def fit_classifier(
    features: Array, labels: Array, weights: NDArray[np.float64], options: HeadOptions, seed: int
) -> DirectionClassifier:
    """Train an ensemble and fold it into one classifier with as many units.

    `features` is `(rows, inputs)`, `labels` 0 or 1; rows are drawn for each
    batch in proportion to `weights`. Deterministic by `seed`.
    """
    count = options.members
    members = [
        _train(features, labels, weights, options, seed=seed * count + index)
        for index in range(count)
    ]
    hidden_weights, hidden_bias, output_weights, output_bias = zip(*members, strict=True)
    return DirectionClassifier(
        np.concatenate(hidden_weights, axis=1),
        np.concatenate(hidden_bias),
        np.asarray(np.concatenate(output_weights) / count, dtype=np.float32),
        np.mean(output_bias, axis=0, dtype=np.float32),
    )


def _train(
    features: Array, labels: Array, weights: NDArray[np.float64], options: HeadOptions, seed: int
) -> list[Array]:
    """Minimise the cross-entropy with AdamW (arXiv:1711.05101), cosine decay to zero."""
    rng = np.random.default_rng(seed)
    parameters = _initial(rng, features.shape[1], options.units)
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    cumulative = np.cumsum(weights / weights.sum())
    steps = max(1, options.epochs * len(features) // options.batch)
    for step in range(steps):
        rows = np.searchsorted(cumulative, rng.random(options.batch) * cumulative[-1])
        batch = _drop(rng, features[rows], options.dropout)
        gradients = _gradients(parameters, batch, labels[rows])
        rate = options.learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        _adamw(parameters, gradients, first, second, step + 1, rate, options.weight_decay)
    return parameters


def platt(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """The (slope, offset) that make `sigmoid(slope * logit + offset)` a probability.

    Platt scaling (1999) on held-out logits, with his smoothed targets, so that
    a perfect separation does not saturate; both classes count the same.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weights = np.where(labels, 0.5 / positives, 0.5 / negatives)

    def loss(parameters: NDArray[np.float64]) -> float:
        logit = np.exp(parameters[0]) * logits + parameters[1]
        return float((weights * (np.logaddexp(0, logit) - targets * logit)).sum())

    log_slope, offset = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return float(np.exp(log_slope)), float(offset)


def _initial(rng: np.random.Generator, inputs: int, units: int) -> list[Array]:
    hidden = rng.standard_normal((inputs, units)) * np.sqrt(0.5 / inputs)
    output = rng.standard_normal(units) * np.sqrt(1 / units)
    arrays = [hidden, np.zeros(units), output, np.zeros(1)]
    return [np.asarray(array, dtype=np.float32) for array in arrays]


def _drop(rng: np.random.Generator, batch: Array, rate: float) -> Array:
    keep = rng.random(batch.shape, dtype=np.float32) >= rate
    return np.asarray(batch * keep / (1 - rate), dtype=np.float32)


def _gradients(parameters: list[Array], batch: Array, labels: Array) -> list[Array]:
    hidden_weights, hidden_bias, output_weights, output_bias = parameters
    inner = batch @ hidden_weights + hidden_bias
    gate = sigmoid(inner)
    hidden = silu(inner)
    error = (sigmoid(hidden @ output_weights + output_bias) - labels) / len(batch)
    back = np.outer(error, output_weights) * (gate * (1 + inner * (1 - gate)))
    return [batch.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(keepdims=True)]


def _adamw(
    parameters: list[Array],
    gradients: list[Array],
    first: list[Array],
    second: list[Array],
    step: int,
    rate: float,
    decay: float,
) -> None:
    """One update in place; only matrices decay."""
    for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        change = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        p -= np.float32(rate) * (change + (decay * p if p.ndim == 2 else 0))
