"""Token n-grams of a window -> log-odds of an attack, beside the behavioural head.

What the words are says a little that hidden states, averaged over blocks and cut
to their main directions, do not (docs/decisions/0028-words-beside-states.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUCKETS", "LexicalTable", "buckets"]

BUCKETS = 1 << 18

_ORDERS = 3  # single tokens, pairs, triples
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 6.4)
_SHIFT = np.uint64(64 - BUCKETS.bit_length() + 1)


@dataclass(frozen=True, slots=True)
class LexicalTable:
    """`weights` is `(BUCKETS, roles)` float32; 0 for n-grams that say nothing."""

    weights: NDArray[np.float32]

    def logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """What the words of one window add to the log-odds of an attack, `(roles,)`."""
        found = buckets(ids)
        total = self.weights[found].sum(axis=0, dtype=np.float64)
        return np.asarray(total / np.sqrt(max(1, len(found))))


def buckets(ids: Sequence[int]) -> NDArray[np.int64]:
    """The buckets that the window's n-grams fall into, each once, in order."""
    tokens = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
    hashed, found = np.zeros_like(tokens), []
    for order in range(min(_ORDERS, len(tokens))):
        hashed = (hashed[: len(tokens) - order] + tokens[order:]) * _MULTIPLIER
        found.append(hashed >> _SHIFT)
    return np.unique(np.concatenate(found)).astype(np.int64) if found else np.zeros(0, np.int64)
