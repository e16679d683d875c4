"""The places of texts that are scored: their mean z, label and weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..codebook.detection import WindowShape
from ..codebook.projection import project, roll
from .activations import Blocks
from .data_loader import Example

__all__ = ["Places", "Rows", "place_labels", "place_means", "place_weights"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Places:
    """Every scored place of every text: its mean z and where it is from.

    `z` is `(places, layers, dimensions)`; `injected` and `tokens` count tokens.
    """

    z: Array
    tokens: NDArray[np.float64]
    injected: NDArray[np.float64]
    example: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples as arrays."""

    attack: NDArray[np.bool_]
    role: NDArray[np.str_]
    origin: NDArray[np.str_]
    """The source; for a composed text that of its carrier."""
    composed: NDArray[np.bool_]
    known: NDArray[np.bool_]
    """The injected string of this attack is known."""

    @property
    def source(self) -> NDArray[np.str_]:
        """What counts as one source: all composed texts are one."""
        return np.where(self.composed, "(composed)", self.origin)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        return cls(
            attack=np.array([example.label == "attack" for example in examples]),
            role=np.array([example.role for example in examples]),
            origin=np.array([example.source for example in examples]),
            composed=np.array([example.composed for example in examples]),
            known=np.array([example.injection is not None for example in examples]),
        )


def place_means(blocks: Blocks, basis: Array, mean: Array, shape: WindowShape) -> Places:
    """The mean z of every run of blocks, as detection will see it."""
    z = project(blocks.states.astype(np.float32), basis, mean)
    edges = np.flatnonzero(np.diff(blocks.example) | np.diff(blocks.window)) + 1
    pieces = []
    for start, end in zip([0, *edges], [*edges, len(z)], strict=True):
        sizes, injected = blocks.tokens[start:end], blocks.injected[start:end]
        run = min(shape.run, end - start)
        count = np.convolve(sizes, np.ones(run), "valid")
        hit = np.convolve(injected, np.ones(run), "valid")
        means = roll(z[start:end], sizes.astype(np.intp), run)
        pieces.append((means, count, hit, np.repeat(blocks.example[start], len(means))))
    return Places(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def place_labels(role: Role, places: Places, rows: Rows) -> tuple[Array, NDArray[np.bool_]]:
    """(1 for attack, which places to train on) for one role.

    A place is an attack if it holds half of a known injection, or is half
    filled by it. Places that hold less of one are used for neither class.
    """
    attack, known = rows.attack[places.example], rows.known[places.example]
    total = np.zeros(len(rows.attack))
    np.maximum.at(total, places.example, places.injected)
    holds = places.injected >= 0.5 * np.maximum(total[places.example], 1)
    filled = places.injected >= 0.5 * places.tokens
    positive = attack & (~known | holds | filled)
    unclear = attack & ~positive & (places.injected > 0)
    return positive.astype(np.float32), _relevant(role, rows)[places.example] & ~unclear


def _relevant(role: Role, rows: Rows) -> NDArray[np.bool_]:
    """The texts that teach about a role: its own, and for `tool` every attack.

    What a user must not ask, a document must not ask either; the reverse does
    not hold, since an ordinary request is an attack only inside a document.
    """
    mine: NDArray[np.bool_] = rows.role == role
    return mine | rows.attack if role == "tool" else mine


def place_weights(labels: Array, example: NDArray[np.int32], rows: Rows) -> NDArray[np.float64]:
    """How often each place is drawn: classes equal; within a class, a source by
    the square root of its size, and a text by the square root of its places."""
    weights = 1 / np.sqrt(np.bincount(example, minlength=len(rows.attack))[example])
    groups = np.unique(
        np.stack([labels.astype(np.str_), rows.source[example]]), axis=1, return_inverse=True
    )[1]
    weights /= np.sqrt(np.bincount(groups, weights=weights))[groups]
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    return weights
