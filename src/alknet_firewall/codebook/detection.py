"""z-coordinates of a window -> scores of its places. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..alarm import DimensionSignal
from .classifiers import DirectionClassifier, direction_features, sigmoid
from .profiles import DirectionProfile
from .projection import roll
from .results import DetectionResult
from .splines import SplineTable

__all__ = ["Region", "WindowShape", "detect", "score"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How text is cut, in tokens.

    The model reads `tokens` at a time, with `overlap` tokens seen twice. In
    there, the mean of every run of `run` blocks of `block` tokens is scored.
    """

    tokens: int = 256
    overlap: int = 64
    block: int = 16
    run: int = 4


@dataclass(frozen=True, slots=True)
class Region:
    """What is known of one role: its normal text, and how attacks differ."""

    profile: DirectionProfile
    splines: SplineTable
    classifier: DirectionClassifier


def detect(
    z: Array, sizes: NDArray[np.intp], region: Region, shape: WindowShape
) -> DetectionResult:
    """Score every run of blocks in one window.

    z is `(blocks, layers, dimensions)`, the mean of each block of `shape.block`
    tokens (the last may be shorter), and `sizes` their numbers of tokens.
    """
    means = roll(z, sizes, shape.run)
    profile = region.profile
    features = direction_features(means, profile.centroids, profile.scale)
    scores = sigmoid(region.classifier.logits(features))
    return DetectionResult(
        places=_places(int(sizes.sum()), len(means), shape),
        scores=np.asarray(scores, dtype=np.float64),
        z=means[int(np.argmax(scores))],
    )


def score(
    z: Array, region: Region, layers: Sequence[int], top: int | None = None
) -> list[DimensionSignal]:
    """How rare one mean z `(layers, dimensions)` is, per direction, rarest first.

    `top` keeps only so many directions.

    The seeds' `1 - cdf(z)` sees one tail; a direction is odd in either, so the
    signal is the two-sided tail probability and the side is kept beside it.
    """
    flat = z.reshape(-1).astype(np.float64)
    tails = region.splines.tail_probability(flat)
    high = region.splines.cdf(flat) > 0.5
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


def _places(n_tokens: int, n_runs: int, shape: WindowShape) -> tuple[tuple[int, int], ...]:
    starts = (shape.block * index for index in range(n_runs))
    return tuple((start, min(start + shape.block * shape.run, n_tokens)) for start in starts)
