"""Fitting a sequence head, in NumPy: a codebook is compiled without torch.

The forward pass is that of `codebook.head`, for a batch of windows padded to
one length, with what the backward pass needs kept. `tests/training/test_heads.py`
holds both against each other and against finite differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b

from ..codebook.head import (
    ROLES,
    WIDTH,
    HeadMember,
    member_names,
    neighbours,
    sigmoid,
    silu,
    softmax,
)

__all__ = ["Batch", "HeadOptions", "Parameters", "initial", "loss_and_gradients", "platt"]

Array = NDArray[np.float32]
Parameters = dict[str, Array]

_MASKED = np.float32(-1e4)


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How a head is trained."""

    members: int = 3
    """Networks trained from different seeds, whose logits are averaged."""
    units: int = 64
    queries: int = 4
    hidden: int = 64
    steps: int = 3000
    held_out_steps: int = 3000
    """Steps of the heads that only set thresholds: as many, since a head that was
    trained for less leans on words more."""
    early_steps: int = 1500
    """Steps of the heads that read the first layer alone."""
    batch: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    dropout: float = 0.3
    """Of the inputs; half of it after the convolutions and in the hidden layer."""
    block_share: float = 0.5
    """Weight of the blocks' loss beside the windows'."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows padded to one length, with what they should be told apart by.

    `x` is `(windows, blocks, inputs)`, `mask` `(windows, blocks)` 1 for a block
    that is there; `labels` and `weights` `(windows, roles)`; `block_labels`
    `(windows, blocks, roles)` and `block_weights` `(windows, roles)`, 0 where
    it is not known which blocks are the attack.
    """

    x: Array
    mask: Array
    labels: Array
    weights: Array
    block_labels: Array
    block_weights: Array


def initial(rng: np.random.Generator, inputs: int, options: HeadOptions) -> Parameters:
    """Uniform in 1 / sqrt(inputs of the layer) (LeCun); blocks start as harmless."""
    u, q, hidden = options.units, options.queries, options.hidden
    shapes = {
        "embed_weight": (inputs, u),
        "conv1_weight": (WIDTH * u, u),
        "conv2_weight": (WIDTH * u, u),
        "own_weight": (u, u),
        "whole_weight": (u, u),
        "query_weight": (u, q),
        "block_weight": (u, len(ROLES)),
        "hidden_weight": ((q + 1) * u, hidden),
        "output_weight": (hidden, len(ROLES)),
    }
    parameters: Parameters = {}
    for name, shape in shapes.items():
        bound = shape[0] ** -0.5
        parameters[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        if name != "whole_weight":
            parameters[name.replace("weight", "bias")] = np.zeros(shape[1], np.float32)
    parameters["block_bias"] -= 2
    return {name: parameters[name] for name in member_names()}


def loss_and_gradients(
    p: Parameters,
    batch: Batch,
    options: HeadOptions,
    rng: np.random.Generator | None = None,
) -> tuple[float, Parameters]:
    """The weighted cross-entropy of windows and blocks, and its gradients.

    With `rng`, units are dropped at random as in training.
    """
    m = HeadMember(**p)
    rate = options.dropout / 2
    x = _dropped(rng, batch.x, options.dropout)[0]
    mask = batch.mask[..., None]
    count = mask.sum(axis=1)

    u0 = _times(x, m.embed_weight) + m.embed_bias
    h0 = silu(u0) * mask
    n1 = neighbours(h0)
    u1 = _times(n1, m.conv1_weight) + m.conv1_bias
    d1, keep1 = _dropped(rng, silu(u1), rate)
    h1 = h0 + d1 * mask
    n2 = neighbours(h1)
    u2 = _times(n2, m.conv2_weight) + m.conv2_bias
    d2, keep2 = _dropped(rng, silu(u2), rate)
    h2 = h1 + d2 * mask
    mean = h2.sum(axis=1) / count
    u3 = _times(h2, m.own_weight) + (mean @ m.whole_weight)[:, None] + m.own_bias
    t = silu(u3)
    attention = softmax(np.where(mask > 0, _times(t, m.query_weight) + m.query_bias, _MASKED))
    pooled = np.swapaxes(attention, 1, 2) @ t
    seen = np.concatenate([pooled.reshape(len(t), -1), mean], axis=1)
    u4 = seen @ m.hidden_weight + m.hidden_bias
    d4, keep4 = _dropped(rng, silu(u4), rate)
    windows = d4 @ m.output_weight + m.output_bias
    blocks = _times(t, m.block_weight) + m.block_bias

    window_loss, g_windows = _cross_entropy(windows, batch.labels, batch.weights)
    shares = batch.block_weights[:, None] * mask / count[:, None] * options.block_share
    block_loss, g_blocks = _cross_entropy(blocks, batch.block_labels, shares)

    g: Parameters = {}
    g["output_weight"], g["output_bias"], g_d4 = _linear(d4, g_windows, m.output_weight)
    g_u4 = g_d4 * keep4 * _silu_slope(u4)
    g["hidden_weight"], g["hidden_bias"], g_seen = _linear(seen, g_u4, m.hidden_weight)
    g_pooled = g_seen[:, : pooled[0].size].reshape(pooled.shape)
    g_mean = g_seen[:, pooled[0].size :]
    g["block_weight"], g["block_bias"], g_t = _linear(t, g_blocks, m.block_weight)
    g_t = g_t + attention @ g_pooled
    g_attention = t @ np.swapaxes(g_pooled, 1, 2)
    g_scores = attention * (g_attention - (attention * g_attention).sum(axis=1, keepdims=True))
    g["query_weight"], g["query_bias"], more = _linear(t, g_scores, m.query_weight)
    g_u3 = (g_t + more) * _silu_slope(u3)
    g["own_weight"], g["own_bias"], g_h2 = _linear(h2, g_u3, m.own_weight)
    g_whole = g_u3.sum(axis=1)
    g["whole_weight"] = mean.T @ g_whole
    g_mean = (g_mean + g_whole @ m.whole_weight.T) / count
    g_h2 = (g_h2 + g_mean[:, None]) * mask
    g_u2 = g_h2 * keep2 * _silu_slope(u2)
    g["conv2_weight"], g["conv2_bias"], g_n2 = _linear(n2, g_u2, m.conv2_weight)
    g_h1 = g_h2 + _from_neighbours(g_n2) * mask
    g_u1 = g_h1 * keep1 * _silu_slope(u1)
    g["conv1_weight"], g["conv1_bias"], g_n1 = _linear(n1, g_u1, m.conv1_weight)
    g_u0 = (g_h1 + _from_neighbours(g_n1)) * mask * _silu_slope(u0)
    g["embed_weight"] = _flat(x).T @ _flat(g_u0)
    g["embed_bias"] = _flat(g_u0).sum(axis=0)
    return window_loss + block_loss, g


def _cross_entropy(logits: Array, labels: Array, weights: Array) -> tuple[float, Array]:
    loss = (weights * (np.logaddexp(0, logits) - labels * logits)).sum()
    return float(loss), np.asarray(weights * (sigmoid(logits) - labels), np.float32)


def _linear(x: Array, g: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of the weight, the bias and the input of `x @ weight + bias`."""
    return _flat(x).T @ _flat(g), _flat(g).sum(axis=0), _times(g, weight.T)


def _times(x: Array, weight: Array) -> Array:
    """`x @ weight` as one product: NumPy would make one a window."""
    return (_flat(x) @ weight).reshape(*x.shape[:-1], weight.shape[1])


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _silu_slope(u: Array) -> Array:
    gate = sigmoid(u)
    return np.asarray(gate * (1 + u * (1 - gate)), np.float32)


def _from_neighbours(g: Array) -> Array:
    """The transpose of `neighbours`."""
    windows, blocks, wide = g.shape
    units, margin = wide // WIDTH, WIDTH // 2
    padded = np.zeros((windows, blocks + 2 * margin, units), np.float32)
    for k in range(WIDTH):
        padded[:, k : k + blocks] += g[..., k * units : (k + 1) * units]
    return padded[:, margin : margin + blocks]


def _dropped(rng: np.random.Generator | None, x: Array, rate: float) -> tuple[Array, Array]:
    """x with a share of its entries zeroed and the rest scaled up, and the factors.

    The share is a number of 256ths, so that a random byte decides for an entry.
    """
    if rng is None or not rate:
        return x, np.ones(1, np.float32)
    zeroed = round(256 * rate)
    keep = np.frombuffer(rng.bytes(x.size), np.uint8).reshape(x.shape) >= zeroed
    factors = keep * np.float32(256 / (256 - zeroed))
    return x * factors, factors


class Adam:
    """AdamW (arXiv:1711.05101) with warm-up, cosine decay and clipped gradients;
    only matrices decay."""

    def __init__(self, parameters: Parameters, options: HeadOptions, steps: int) -> None:
        self._parameters, self._options, self._steps = parameters, options, steps
        self._first = {name: np.zeros_like(p) for name, p in parameters.items()}
        self._second = {name: np.zeros_like(p) for name, p in parameters.items()}
        self._step = 0

    def update(self, gradients: Parameters) -> None:
        """One step, in place."""
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
        shrink = np.float32(min(1.0, 1.0 / max(norm, 1e-12)))
        rate = np.float32(self._rate())
        self._step += 1
        first_scale, second_scale = 1 - 0.9**self._step, 1 - 0.999**self._step
        for name, p in self._parameters.items():
            g, m, v = gradients[name] * shrink, self._first[name], self._second[name]
            m += np.float32(0.1) * (g - m)
            v += np.float32(0.001) * (g * g - v)
            if p.ndim == 2:
                p *= 1 - rate * np.float32(self._options.weight_decay)
            p -= (
                rate
                * (m / np.float32(first_scale))
                / (np.sqrt(v / second_scale) + 1e-8).astype(np.float32)
            )

    def _rate(self) -> float:
        warm = min(1.0, (self._step + 1) / 100)
        decay = 0.5 * (1 + np.cos(np.pi * self._step / self._steps))
        return float(self._options.learning_rate * warm * decay)


def platt(
    logits: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """The slopes and offset that make `sigmoid(logits @ slopes + offset)` a probability.

    `logits` is `(texts, detectors)`, `weights` `(texts,)`; no slope is below 0.

    Platt scaling (1999) on held-out logits, with his smoothed targets, so that
    a perfect separation does not saturate.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = logits @ parameters[:-1] + parameters[-1]
        slack = weights * (sigmoid(logit) - targets)
        value = (weights * (np.logaddexp(0, logit) - targets * logit)).sum()
        return float(value), np.append(logits.T @ slack, slack.sum())

    bounds = [(0.0, np.inf)] * logits.shape[1] + [(-np.inf, np.inf)]
    found = fmin_l_bfgs_b(loss, np.zeros(len(bounds)), bounds=bounds)[0]
    return np.asarray(found[:-1]), float(found[-1])
