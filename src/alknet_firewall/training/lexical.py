"""Fitting the weights of n-grams, of tokens and of characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b
from scipy.sparse import csr_array, hstack

from ..codebook.head import sigmoid
from ..codebook.lexical import (
    BUCKETS,
    LexicalTable,
    Wording,
    spelling_buckets,
    token_buckets,
)

__all__ = ["fit_lexical", "lexical_logits", "read_buckets"]

Array = NDArray[np.float64]

_RIDGE = 3e-6
_ITERATIONS = 60


def read_buckets(wordings: Iterable[Wording]) -> csr_array:
    """What `LexicalTable` sees of each wording, `(wordings, 2 * BUCKETS)`: of n buckets of a
    kind each holds 1 / sqrt(n)."""
    tokens, spelling = [], []
    for wording in wordings:
        tokens.append(token_buckets(wording.ids).astype(np.int32))
        spelling.append(spelling_buckets(wording.text).astype(np.int32))
    return csr_array(hstack([_even(tokens), _even(spelling)], format="csr"))


def _even(rows: Sequence[NDArray[np.int32]]) -> csr_array:
    sizes = np.array([len(row) for row in rows])
    values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return csr_array((values, np.concatenate(rows), edges), shape=(len(rows), BUCKETS))


def fit_lexical(x: csr_array, labels: NDArray[np.float32], weights: Array) -> LexicalTable:
    """Logistic regression with a ridge, per role; `labels` and `weights` are `(windows, roles)`."""
    fits = [_fitted(x, labels[:, role], weights[:, role]) for role in range(labels.shape[1])]
    return LexicalTable(np.stack(fits, axis=1).astype(np.float32))


def lexical_logits(table: LexicalTable, x: csr_array) -> Array:
    """`table.logits` of every window, `(windows, roles)`."""
    return np.asarray(x @ table.weights, np.float64)


def _fitted(x: csr_array, labels: NDArray[np.float32], weights: Array) -> Array:
    used = np.flatnonzero(weights > 0)
    part, y, w = x[used], labels[used], weights[used] / weights[used].sum()
    transposed = part.T.tocsr()

    def loss(beta: Array) -> tuple[float, Array]:
        logits = part @ beta[:-1].astype(np.float32) + beta[-1]
        slack = w * (sigmoid(logits) - y)
        gradient = np.append(transposed @ slack.astype(np.float32), slack.sum())
        gradient[:-1] += _RIDGE * beta[:-1]
        value = (w * (np.logaddexp(0, logits) - y * logits)).sum()
        return float(value + _RIDGE / 2 * (beta[:-1] ** 2).sum()), gradient

    found = fmin_l_bfgs_b(loss, np.zeros(x.shape[1] + 1), maxiter=_ITERATIONS)[0]
    return np.asarray(found[:-1])  # the offset is left to the mixture of words and states
