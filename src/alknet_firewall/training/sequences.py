"""The windows of texts as sequences of z-coordinates, with their labels and weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..codebook.head import ROLES, features
from ..codebook.projection import project
from .activations import Chunk, read_chunk, read_places
from .basis import Basis
from .data_loader import Example
from .heads import Batch
from .workers import workers

__all__ = ["SHARED", "Rows", "Sequences", "Targets", "read_sequences", "run_means"]

SHARED = 0.25
"""How much an attack on users counts where `tool` is taught
(docs/decisions/0009-roles-apart.md)."""

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples as arrays."""

    attack: Mask
    role: NDArray[np.str_]
    source: NDArray[np.str_]
    kind: NDArray[np.str_]
    composed: Mask
    known: Mask
    """The injected string of this attack is known."""
    origins: Sequence[tuple[str, ...]]
    """What a composed text was made from."""

    def made_from(self, sources: Iterable[str]) -> Mask:
        """The texts that are of one of the sources, or hold a part of one."""
        names = set(sources)
        parts = [not names.isdisjoint(origins) for origins in self.origins]
        return np.asarray(np.isin(self.source, list(names)) | np.array(parts, dtype=bool))

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        """The rows of examples, in their order."""
        return cls(
            attack=np.array([example.label == "attack" for example in examples]),
            role=np.array([example.role for example in examples]),
            source=np.array([example.source for example in examples]),
            kind=np.array([example.kind for example in examples]),
            composed=np.array([example.composed for example in examples]),
            known=np.array([example.injection is not None for example in examples]),
            origins=[example.origins for example in examples],
        )


@dataclass(frozen=True, slots=True)
class Sequences:
    """Every window of every text.

    `x` is `(blocks, inputs)` float16, z in standard deviations of normal text;
    `tokens` and `injected` say how many tokens a block has and how many of them
    lie in the known injection. Window `i` is `x[start[i]:end[i]]`, of the text
    `example[i]`. Behind the windows come their paragraphs, for which `part` is true.
    """

    x: NDArray[np.float16]
    tokens: NDArray[np.int32]
    injected: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    example: NDArray[np.int32]
    part: Mask
    surprisal: Array
    """The mean of each block's tokens, `(blocks,)`."""

    def highest(self, values: NDArray[np.floating], texts: int) -> NDArray[np.float64]:
        """The highest of the values of each text's windows; `values` is `(windows, ...)`, and
        the result `(texts, ...)`, -inf without a window."""
        found = np.full((texts, *values.shape[1:]), -np.inf)
        np.maximum.at(found, self.example, values)
        return found

    def with_parts(self, windows: NDArray[np.int64], blocks: NDArray[np.int64]) -> Sequences:
        """The same with parts of windows behind them: the numbers of the `windows` `(parts,)`
        and the `blocks` `[first, last)` in them, `(parts, 2)`."""
        start = self.start[windows]
        return replace(
            self,
            start=np.concatenate([self.start, start + blocks[:, 0]]),
            end=np.concatenate([self.end, start + blocks[:, 1]]),
            example=np.concatenate([self.example, self.example[windows]]),
            part=np.concatenate([self.part, np.ones(len(windows), dtype=bool)]),
        )

    def batch(self, chosen: NDArray[np.int64], targets: Targets, weights: Array) -> Batch:
        """The chosen windows, padded; `weights` `(windows, roles)` of each."""
        lengths = (self.end - self.start)[chosen]
        shape = (len(chosen), int(lengths.max()))
        x = np.zeros((*shape, self.x.shape[1]), np.float32)
        mask, share = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, window in enumerate(chosen):
            here = slice(self.start[window], self.end[window])
            x[row, : lengths[row]] = self.x[here]
            mask[row, : lengths[row]] = 1
            share[row, : lengths[row]] = self.injected[here] / self.tokens[here]
        labels = targets.labels[chosen]
        return Batch(
            x=x,
            mask=mask,
            labels=labels,
            weights=weights,
            block_labels=share[..., None] * labels[:, None],
            block_weights=weights * targets.located[chosen, None],
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What each window teaches, per role: arrays `(windows, roles)`.

    `counts` is how much a window teaches beside others of its source, 0 for nothing;
    `located` `(windows,)` says that it is known which blocks are the attack.
    """

    labels: Array
    counts: Array
    located: Mask

    @classmethod
    def of(cls, sequences: Sequences, rows: Rows) -> Targets:
        """A window is an attack if its text is one and it holds half of the known
        injection; windows that hold less of it are used for neither class, nor are the
        paragraphs of an attack whose injection is not known.

        For `tool` every attack teaches, those on users by `SHARED`: what a user must
        not ask, a document must not ask either. The reverse does not hold, since an
        ordinary request is an attack only inside a document.
        """
        attack, known = rows.attack[sequences.example], rows.known[sequences.example]
        before = np.concatenate([[0], np.cumsum(sequences.injected)])
        held = before[sequences.end] - before[sequences.start]
        most = np.zeros(len(rows.attack))
        np.maximum.at(most, sequences.example, held)
        holds = held >= 0.5 * np.maximum(most[sequences.example], 1)
        positive = attack & np.where(known, holds, ~sequences.part)
        clear = positive | ~attack | (known & (held == 0))
        role = rows.role[sequences.example]
        tool = np.where(role == "tool", 1.0, SHARED * (attack & ~sequences.part))
        return cls(
            labels=np.repeat(positive[:, None], len(ROLES), axis=1).astype(np.float32),
            counts=(np.stack([role == "user", tool], axis=1) * clear[:, None]).astype(np.float32),
            located=known | ~attack,
        )

    def weights(self, chosen: Mask, sequences: Sequences, rows: Rows) -> NDArray[np.float64]:
        """How much each of the chosen windows counts, `(windows, roles)`, 1 a role.

        Classes are equal; within a class a source counts by the square root of
        its size, and a text by the square root of its windows.
        """
        sources = np.unique(rows.source, return_inverse=True)[1][sequences.example]
        even = 1 / np.sqrt(np.bincount(sequences.example)[sequences.example])
        columns = []
        for role in range(len(ROLES)):
            counts = self.counts[:, role]
            weights = np.where((counts > 0) & chosen, even, 0.0)
            label = self.labels[:, role].astype(np.int64)
            totals = np.bincount(2 * sources + label, weights=weights)
            weights *= counts / np.sqrt(np.maximum(totals, 1e-12))[2 * sources + label]
            classes = np.bincount(label, weights=weights, minlength=2)
            columns.append(weights / np.maximum(classes, 1e-12)[label] / 2)
        return np.stack(columns, axis=1)


def read_sequences(chunks: Sequence[Chunk], basis: Basis) -> Sequences:
    """The activations on the basis, a chunk for each core in memory at a time."""
    places = [read_places(chunk) for chunk in chunks]
    ends = np.cumsum([0, *(len(place.tokens) for place in places)])
    x = np.empty((ends[-1], basis.scale.size), np.float16)

    def fill(chunk: Chunk, first: int, last: int) -> None:
        z = project(read_chunk(chunk).states.astype(np.float32), basis.vectors, basis.mean)
        x[first:last] = features(z, basis.scale)

    with workers() as pool:
        pool.starmap(fill, zip(chunks, ends[:-1], ends[1:], strict=True), chunksize=1)
    example = np.concatenate([place.example for place in places])
    window = np.concatenate([place.window for place in places])
    edges = np.flatnonzero(np.diff(example) | np.diff(window)) + 1
    start = np.concatenate([[0], edges])
    return Sequences(
        x=x,
        tokens=np.concatenate([place.tokens for place in places]),
        injected=np.concatenate([place.injected for place in places]),
        start=start,
        end=np.append(edges, len(example)),
        example=example[start],
        part=np.zeros(len(start), dtype=bool),
        surprisal=np.concatenate([place.surprisal for place in places]),
    )


def run_means(sequences: Sequences, chosen: Mask, run: int, scale: Array) -> Array:
    """The mean z of every `run` blocks of the chosen windows, side by side.

    Returns `(runs, inputs)` float32.
    """
    places = [
        (first, min(first + run, int(sequences.end[window])))
        for window in np.flatnonzero(chosen)
        for first in range(sequences.start[window], sequences.end[window], run)
    ]
    means = np.empty((len(places), scale.size), np.float32)
    for row, (first, last) in enumerate(places):
        tokens = sequences.tokens[first:last].astype(np.float32)
        means[row] = tokens @ sequences.x[first:last].astype(np.float32) / tokens.sum()
    return means * scale
