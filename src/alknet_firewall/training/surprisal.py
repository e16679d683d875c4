"""Fitting what tells a token that follows from one that does not.

A bilinear form of the state before a token and the token's embedding is trained to tell
the token that stands there from tokens of other texts, by noise-contrastive estimation
(Gutmann and Hyvärinen, AISTATS 2010): its value is then log p(token | before) / p(token).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.pool import ThreadPool

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook.head import ROLES, sigmoid
from ..codebook.surprisal import Surprisal, peak, surprise_along
from ..firewall import readable
from ..model.protocol import DetectorModel, infer_by_layer
from . import stats
from .data_loader import Example, sample
from .memory import keep_freed
from .sequences import Rows, Sequences
from .workers import workers

__all__ = ["SurprisalOptions", "fit_surprisal", "gradients", "limited", "window_peaks"]

RATE = 0.01
"""Share of normal texts that surprise at all."""
SLOPES: Mapping[Role, float] = {"user": 4.5, "tool": 0.0}
"""Log-odds for each nat; documents are full of identifiers and rows of numbers
(docs/decisions/0037-surprisal.md)."""

Array = NDArray[np.float32]

_NEVER = 8.0  # nats, which no peak reaches: where normal texts are too short to have one
_CLIP = np.float32(8.0)  # standard deviations, of the inputs that it is trained on
_LEAST_SPREAD = 1e-3  # of the main direction's
_SHOWN = 100_000  # rows that a whitening is made from, and that are whitened at a time
_BETA = np.float32(0.9), np.float32(0.999)


@dataclass(frozen=True, slots=True)
class SurprisalOptions:
    """How it is trained."""

    rows_per_group: int = 200
    """Harmless texts of each source and role."""
    tokens: int = 96
    """Of each text."""
    rank: int = 64
    whitened: int = 256
    """Main directions of states and of embeddings that are read."""
    steps: int = 1500
    batch: int = 1024
    learning_rate: float = 5e-3
    held_out: int = 10
    """One of so many texts is not trained on, and shows what is typical."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """States before tokens and the tokens' embeddings, `(tokens, hidden)` float16 since there
    are a million; and the number of the text of each."""

    before: NDArray[np.float16]
    token: NDArray[np.float16]
    text: NDArray[np.int64]


def fit_surprisal(
    model: DetectorModel, examples: Iterable[Example], options: SurprisalOptions, seed: int
) -> Surprisal:
    """From harmless texts: what was read here is not surprising afterwards, and attacks
    should stay so. Standalone texts are left out."""
    normal = (e for e in examples if e.label == "benign" and not e.composed and not e.standalone)
    texts = [e.text for e in sample(normal, options.rows_per_group, seed)]
    keep_freed()
    with workers() as pool:
        pairs = _read(pool, model, texts, options.tokens)
        apart = pairs.text % options.held_out == 0
        fitted = _trained(pairs, np.flatnonzero(~apart), options, seed)
    shown = apart if apart.any() else ~apart
    found = fitted.of_pairs(
        pairs.before[shown].astype(np.float32), pairs.token[shown].astype(np.float32)
    )
    return replace(fitted, typical=found.mean(dtype=np.float64, keepdims=True).astype(np.float32))


def limited(
    surprisal: Surprisal, peaks: NDArray[np.float32], sequences: Sequences, rows: Rows
) -> Surprisal:
    """With the limit that `RATE` of each role's normal texts exceed, sources weighted
    equally, and its `SLOPES`; `peaks` are those of the windows."""
    highest = sequences.highest(peaks, len(rows.attack))
    limits = []
    for role in ROLES:
        normal = (rows.role == role) & ~rows.composed & ~rows.attack
        weights = stats.equal_source_weights(rows.source[normal], rows.attack[normal])
        limit = stats.threshold_at(highest[normal], weights, RATE)
        limits.append(limit if np.isfinite(limit) else _NEVER)
    slopes = [SLOPES[role] for role in ROLES]
    return replace(
        surprisal, limit=np.array(limits, np.float32), slope=np.array(slopes, np.float32)
    )


def window_peaks(sequences: Sequences) -> NDArray[np.float32]:
    """The `peak` of every window and paragraph, `(windows,)`."""
    means = sequences.surprisal
    sizes, along = sequences.tokens.astype(np.intp), np.empty(len(means), np.float32)
    edges = list(zip(sequences.start, sequences.end, sequences.part, strict=True))
    for first, last, part in edges:
        if not part:
            along[first:last] = surprise_along(means[first:last], sizes[first:last])
    return np.array([peak(along[first:last]) for first, last, _ in edges], np.float32)


def _read(pool: ThreadPool, model: DetectorModel, texts: Sequence[str], tokens: int) -> _Pairs:
    def read(text: str) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        ids = model.encode(readable(text)).ids[:tokens]
        layers = infer_by_layer(model, [model.bos_id, *ids])
        (_, embedded), (_, states) = islice(layers, 2)
        # The second token is the first with a text before it.
        return states[1:-1].astype(np.float16), embedded[2:].astype(np.float16)

    found = list(
        tqdm(pool.imap(read, texts), desc="reading for surprisal", unit="text", total=len(texts))
    )
    return _Pairs(
        before=np.concatenate([states for states, _ in found]),
        token=np.concatenate([embedded for _, embedded in found]),
        text=np.repeat(np.arange(len(found)), [len(states) for states, _ in found]),
    )


@dataclass(frozen=True, slots=True)
class _Whitening:
    """`(x - mean) @ weight` has no correlations and a variance of 1."""

    mean: Array
    weight: Array

    @classmethod
    def of(cls, x: NDArray[np.float16], directions: int) -> _Whitening:
        some = x[:: -(-len(x) // _SHOWN)].astype(np.float64)
        mean = some.mean(axis=0)
        some -= mean
        values, vectors = np.linalg.eigh(some.T @ some / len(some))
        order = np.argsort(-values)[: min(directions, x.shape[1])]
        spread = np.sqrt(np.maximum(values[order], 0))
        # Few texts do not fill all directions, and noise is no direction.
        spread = np.maximum(spread, _LEAST_SPREAD * spread[0])
        return cls(mean.astype(np.float32), (vectors[:, order] / spread).astype(np.float32))

    def of_rows(self, x: NDArray[np.float16]) -> Array:
        parts = np.array_split(x, -(-len(x) // _SHOWN))
        white = [(part.astype(np.float32) - self.mean) @ self.weight for part in parts]
        return np.clip(np.concatenate(white), -_CLIP, _CLIP)

    def folded(self, weight: Array) -> tuple[Array, Array]:
        """Weight and bias that do to rows what `weight` does to whitened ones."""
        whole = self.weight @ weight
        return np.asarray(whole, np.float32), np.asarray(-self.mean @ whole, np.float32)


def _trained(
    pairs: _Pairs, chosen: NDArray[np.int64], options: SurprisalOptions, seed: int
) -> Surprisal:
    """Adam with a cosine decay, on batches in which each token is the noise of all others."""
    rng = np.random.default_rng(seed)
    whitenings = [_Whitening.of(x[chosen], options.whitened) for x in (pairs.before, pairs.token)]
    z, e = (w.of_rows(x) for w, x in zip(whitenings, (pairs.before, pairs.token), strict=True))
    # A product of two rows of whitened numbers starts with a variance of 1 at most.
    start = options.rank**-0.25 * options.whitened**-0.5
    parameters = [
        (start * rng.standard_normal((x.shape[1], options.rank))).astype(np.float32) for x in (z, e)
    ]
    parameters.append(np.zeros(1, np.float32))
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    for step in tqdm(range(options.steps), desc="fitting surprisal"):
        batch = rng.choice(chosen, options.batch)
        found = gradients(z[batch], e[batch], parameters)
        rate = options.learning_rate * 0.5 * (1 + np.cos(np.pi * step / options.steps))
        for p, g, m, v in zip(parameters, found, first, second, strict=True):
            m += (1 - _BETA[0]) * (g - m)
            v += (1 - _BETA[1]) * (g * g - v)
            scale = rate / (1 - float(_BETA[0]) ** (step + 1))
            root = np.sqrt(v / np.float32(1 - float(_BETA[1]) ** (step + 1))) + np.float32(1e-8)
            p -= np.float32(scale) * m / root
    (before, before_bias), (token, token_bias) = (
        w.folded(p) for w, p in zip(whitenings, parameters, strict=False)
    )
    none = np.zeros(len(ROLES), np.float32)
    return Surprisal(
        before,
        before_bias,
        token,
        token_bias,
        offset=parameters[2],
        typical=np.zeros(1, np.float32),
        limit=none,
        slope=none,
    )


def gradients(z: Array, e: Array, parameters: Sequence[Array]) -> list[Array]:
    """Of the cross-entropy of pairs that stand together against all other pairs of the
    batch, both classes the same."""
    a, b, offset = parameters
    u, v = z @ a, e @ b
    slack = np.asarray(sigmoid(u @ v.T + offset), np.float32) / np.float32(len(z) - 1)
    own = np.einsum("tr,tr->t", u, v) + offset
    np.fill_diagonal(slack, sigmoid(own) - 1)
    slack /= np.float32(len(z))
    return [z.T @ (slack @ v), e.T @ (slack.T @ u), slack.sum(keepdims=True).reshape(1)]
