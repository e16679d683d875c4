"""How a window is worded -> log-odds of an attack, beside the behavioural head.

What the words are says a little that hidden states, averaged over blocks and cut
to their main directions, do not (docs/decisions/0028-words-beside-states.md): which
tokens stand together, and, so that other forms, cases and languages of a word are
not strange, how the words are spelled (docs/decisions/0036-spelling.md).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BUCKETS",
    "LexicalTable",
    "Passage",
    "Wording",
    "spelling_buckets",
    "token_buckets",
]

BUCKETS = 1 << 18
"""For n-grams of tokens, and as many again for those of characters."""

_TOKENS = 3  # single ones, pairs, triples
_SPELLED = range(3, 6)  # characters of a word, its edges among them
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio (Knuth, TAOCP 6.4)
_SHIFT = np.uint64(64 - BUCKETS.bit_length() + 1)
_ASCII = 128
# Which of ASCII's characters words are made of; all others are, too.
_IN_WORDS = np.array([chr(c) in string.ascii_letters + string.digits for c in range(_ASCII)])


@dataclass(frozen=True, slots=True)
class Wording:
    """What is judged together: its tokens, and the characters that they stand for."""

    ids: Sequence[int]
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens, the characters `[start, end)` of each, and the text that those are of.

    `disguised` `(tokens,)` says which of them another reading has in plain, if any: those
    neither surprise nor stand together with others here.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]
    text: str
    disguised: NDArray[np.bool_] | None = None

    def part(self, first: int, last: int) -> Passage:
        """The tokens `[first, last)`."""
        here = slice(first, last)
        disguised = None if self.disguised is None else self.disguised[here]
        return Passage(self.ids[here], self.offsets[here], self.text, disguised)

    def wording(self, first: int, last: int) -> Wording:
        """Of the tokens `[first, last)`; without characters where there are no offsets."""
        part = self.part(first, last)
        places, ids = part.offsets, part.ids
        if part.disguised is not None:
            ids = list(compress(ids, ~part.disguised))
        return Wording(ids, self.text[places[0][0] : places[-1][1]] if places else "")


@dataclass(frozen=True, slots=True)
class LexicalTable:
    """`weights` is `(2 * BUCKETS, roles)` float32, those of tokens first; 0 for n-grams that
    say nothing."""

    weights: NDArray[np.float32]

    def logits(self, wording: Wording) -> NDArray[np.float64]:
        """What the wording adds to the log-odds of an attack, `(roles,)`."""
        found = token_buckets(wording.ids), BUCKETS + spelling_buckets(wording.text)
        tokens, spelling = (self._mean(places) for places in found)
        return tokens + spelling

    def _mean(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        total = self.weights[places].sum(axis=0, dtype=np.float64)
        return np.asarray(total / np.sqrt(max(1, len(places))))


def token_buckets(ids: Sequence[int]) -> NDArray[np.int64]:
    """The buckets that the n-grams of tokens fall into, each once, in order."""
    tokens = np.asarray(ids, dtype=np.uint64) + np.uint64(1)
    hashed, found = np.zeros_like(tokens), []
    for order in range(min(_TOKENS, len(tokens))):
        hashed = _hashed(hashed, tokens, order)
        found.append(hashed)
    return _places(found)


def spelling_buckets(text: str) -> NDArray[np.int64]:
    """The buckets that the pieces of its words fall into, each once, in order.

    Upper and lower case are the same. A word's edges count, as one gap each.
    """
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    words = _IN_WORDS[np.minimum(codes, _ASCII - 1)] | (codes >= _ASCII)
    spelled = np.concatenate([[0], np.where(words, codes, 0), [0]]).astype(np.uint64)
    spelled = spelled[np.append(True, (spelled[1:] > 0) | (spelled[:-1] > 0))]
    gaps = np.cumsum(spelled == 0)
    hashed, found = np.zeros_like(spelled), []
    for order in range(min(_SPELLED.stop - 1, len(spelled))):
        hashed = _hashed(hashed, spelled + np.uint64(1), order)
        if order + 1 in _SPELLED:
            in_one_word = gaps[order - 1 : order - 1 + len(hashed)] == gaps[: len(hashed)]
            found.append(hashed[in_one_word])
    return _places(found)


def _hashed(
    shorter: NDArray[np.uint64], items: NDArray[np.uint64], order: int
) -> NDArray[np.uint64]:
    """The hashes of the n-grams that are longer by one item than the `shorter`."""
    return np.asarray((shorter[: len(items) - order] + items[order:]) * _MULTIPLIER)


def _places(hashed: Sequence[NDArray[np.uint64]]) -> NDArray[np.int64]:
    if not hashed:
        return np.zeros(0, np.int64)
    return np.unique(np.concatenate(hashed) >> _SHIFT).astype(np.int64)
