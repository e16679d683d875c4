"""How little each token follows from those before it.

    the first layer's state before a token, and the token's embedding
      ─▶ log p(token) / p(token | before) ─▶ means over blocks, and runs of them ─▶ the peak

What gradient search puts beside a request is read as one long surprise, whatever its words
are (docs/decisions/0037-surprisal.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .projection import Sizes, product

__all__ = ["Surprisal", "peak", "surprise_along"]

Array = NDArray[np.float32]

_RUN = 8
"""Blocks that surprisal is averaged over: shorter runs surprise in harmless text, too."""

_CLIP = 4.0  # nats; a token that is e^4 times as likely as elsewhere surprises nobody


@dataclass(frozen=True, slots=True)
class Surprisal:
    """Two projections whose product tells a token that follows from one that does not.

    `before_weight` and `token_weight` are `(hidden, rank)`, `before_bias` and `token_bias`
    `(rank,)`, `offset` `(1,)`, and `typical` `(1,)` what tokens of normal text have on
    average. For each role, `(roles,)`, every nat of a `peak` above its `limit` adds its
    `slope` to the log-odds of an attack. All are float32.
    """

    before_weight: Array
    before_bias: Array
    token_weight: Array
    token_bias: Array
    offset: Array
    typical: Array
    limit: Array
    slope: Array

    def of_tokens(self, embedded: Array, states: Array) -> Array:
        """Surprisal `(tokens,)` in nats, less what is typical; 0 for the first token.

        `embedded` are the embeddings and `states` the first layer's states of the same
        tokens, both `(tokens, hidden)`.
        """
        found = np.zeros(len(states), np.float32)
        found[1:] = self.of_pairs(states[:-1], embedded[1:]) - self.typical
        return found

    def of_pairs(self, before: Array, token: Array) -> Array:
        """log p(token) / p(token | before) `(pairs,)` within four nats, of states before
        tokens and the tokens' embeddings, both `(pairs, hidden)`."""
        u = product(before, self.before_weight) + self.before_bias
        v = product(token, self.token_weight) + self.token_bias
        likely = np.einsum("pr,pr->p", u, v) + self.offset
        return np.asarray(-np.clip(likely, -_CLIP, _CLIP), np.float32)

    def log_odds(self, peaks: Array) -> NDArray[np.float64]:
        """What `peaks` `(views,)` add to the log-odds of an attack, `(views, roles)`."""
        above = np.maximum(peaks[:, None] - self.limit, 0)
        return np.asarray(self.slope * above, np.float64)


def surprise_along(means: Array, sizes: Sizes) -> Array:
    """The mean over the run of blocks around each block, `(blocks,)`; at the ends of a
    window runs are shorter. `means` `(blocks,)` are those of blocks of `sizes` tokens."""
    total = np.concatenate([[0], np.cumsum(means * sizes, dtype=np.float64)])
    tokens = np.concatenate([[0], np.cumsum(sizes)])
    start = np.arange(len(means)) - _RUN // 2
    first, last = np.maximum(start, 0), np.minimum(start + _RUN, len(means))
    return np.asarray((total[last] - total[first]) / (tokens[last] - tokens[first]), np.float32)


def peak(along: Array) -> float:
    """The most that surprises in a view, whose blocks' `surprise_along` is given; nothing
    (minus infinity) in one that is shorter than a run."""
    return float(along.max()) if len(along) >= _RUN else -np.inf
