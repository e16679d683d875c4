"""z-coordinates of a window -> scores of its places. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..alarm import DimensionSignal, Role
from .head import SequenceHead, sigmoid
from .profiles import DirectionProfile
from .projection import roll
from .results import DetectionResult
from .splines import SplineTable

__all__ = [
    "BY_PARAGRAPH",
    "EarlyExit",
    "Region",
    "View",
    "WindowShape",
    "anomalous",
    "anomaly",
    "detect",
    "distances",
    "score",
]

Array = NDArray[np.float32]

BY_PARAGRAPH: tuple[Role, ...] = ("user",)
"""Roles whose paragraphs are judged alone, too (docs/decisions/0035-paragraphs-alone.md)."""


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How text is cut, in tokens.

    The model reads `tokens` at a time, with `overlap` tokens seen twice. In
    there, every block of `block` tokens is scored, and `run` blocks together
    are what the splines describe.
    """

    tokens: int = 256
    overlap: int = 64
    block: int = 4
    run: int = 16


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """A head that reads the first layer alone, and the score per role below which a
    window is settled: its deeper layers are not computed."""

    head: SequenceHead
    below: Mapping[Role, float]


@dataclass(frozen=True, slots=True)
class Region:
    """What is known of one role's normal text, and how attacks differ.

    A run of an `anomaly` above `anomaly_limit` is like no normal text.
    """

    profile: DirectionProfile
    splines: SplineTable
    anomaly_limit: float


@dataclass(frozen=True, slots=True)
class View:
    """Blocks `[first, last)` of a window that are judged together: all of it, or one of its
    paragraphs. `words` are the log-odds of their n-grams, `(roles,)`, and `surprise` those
    of what does not follow from anything, `(roles,)`."""

    first: int
    last: int
    words: NDArray[np.float64]
    surprise: NDArray[np.float64]


def detect(
    z: Array,
    sizes: NDArray[np.intp],
    views: Sequence[View],
    head: SequenceHead,
    role: int,
    shape: WindowShape,
    odd: NDArray[np.bool_],
) -> DetectionResult:
    """Score one window and each block in it.

    z is `(blocks, layers, dimensions)`, the mean of each block of `shape.block`
    tokens (the last may be shorter), `sizes` their numbers of tokens. The window's score is
    that of its worst view, so that what stands around an attack does not dilute it, and of
    the worst blocks in there; the others have less, in proportion to how likely they are a
    part of the attack. `odd` says which blocks are `anomalous`.
    """
    found = [(view, *_judged(z, view, head, role)) for view in views]
    scores = np.zeros(len(z))
    for view, score, likely in found:
        blocks = slice(view.first, view.last)
        scores[blocks] = np.maximum(
            scores[blocks], score * np.minimum(1, 2 * likely / likely.max())
        )
    worst, _, likely = max(found, key=lambda judged: judged[1])
    rolled = roll(likely[:, None].astype(np.float32), sizes[worst.first : worst.last], shape.run)
    start = worst.first + int(np.argmax(rolled))
    run = slice(start, min(start + shape.run, worst.last))
    return DetectionResult(
        places=_places(int(sizes.sum()), len(z), shape),
        scores=scores,
        z=np.average(z[run], axis=0, weights=sizes[run]).astype(np.float32),
        odd=odd,
    )


def _judged(
    z: Array, view: View, head: SequenceHead, role: int
) -> tuple[float, NDArray[np.float64]]:
    """The score of a view, and how likely each of its blocks is a part of an attack."""
    windows, blocks = head.logits(z[view.first : view.last], view.words)
    score = float(sigmoid(windows[role] + view.surprise[role]))
    return score, np.asarray(sigmoid(blocks[:, role]), np.float64)


def anomaly(
    z: Array, sizes: NDArray[np.intp], centroid: Array, scale: Array, shape: WindowShape
) -> NDArray[np.float64]:
    """How far each run of `shape.run` blocks lies from normal text in the first layer.

    z is `(blocks, dimensions)` of that layer, `centroid` and `scale` `(dimensions,)` are the
    mean and the standard deviation of normal runs. The `distances` of each run's mean, which
    count by the share of a whole run that the text has: the mean of few tokens varies.
    """
    share = min(1.0, int(sizes.sum()) / (shape.block * shape.run))
    return share * distances(roll(z, sizes, shape.run), centroid, scale)


def distances(means: Array, centroid: Array, scale: Array) -> NDArray[np.float64]:
    """The mean square of each row's distances from the centroid, in standard deviations;
    `means` is `(rows, dimensions)`."""
    away = (means - centroid) / scale
    return np.asarray(np.square(away).mean(axis=1), dtype=np.float64)


def anomalous(
    z: Array, sizes: NDArray[np.intp], region: Region, shape: WindowShape
) -> NDArray[np.bool_]:
    """Which blocks are in a run that is like no normal text; z as in `anomaly`."""
    found = np.zeros(len(z), dtype=bool)
    centroid, scale = region.profile.centroids[0], region.profile.scale[0]
    runs = anomaly(z, sizes, centroid, scale, shape)
    for first in np.flatnonzero(runs > region.anomaly_limit):
        found[first : first + shape.run] = True
    return found


def score(
    z: Array, region: Region, layers: Sequence[int], top: int | None = None
) -> list[DimensionSignal]:
    """How rare one mean z `(layers, dimensions)` is, per direction, rarest first.

    z may be of the first layers only. `top` keeps only so many directions.

    The seeds' `1 - cdf(z)` sees one tail; a direction is odd in either, so the
    signal is the two-sided tail probability and the side is kept beside it.
    """
    flat = z.reshape(-1).astype(np.float64)
    tails, high = region.splines.first(len(flat)).tail_probability(flat)
    return [
        DimensionSignal(
            layer=layers[index // z.shape[1]],
            dimension=int(index % z.shape[1]),
            z=float(flat[index]),
            probability=float(tails[index]),
            side="high" if high[index] else "low",
        )
        for index in np.argsort(tails, kind="stable")[:top]
    ]


def _places(n_tokens: int, n_blocks: int, shape: WindowShape) -> tuple[tuple[int, int], ...]:
    starts = (shape.block * index for index in range(n_blocks))
    return tuple((start, min(start + shape.block, n_tokens)) for start in starts)
