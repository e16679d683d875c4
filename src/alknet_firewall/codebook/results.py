"""What detection returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["DetectionResult"]


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """Scores of the places of one window of the model.

    `places` are token ranges `[start, end)`, `scores` (float64, in [0, 1]) one
    for each; `z` is the mean z-coordinates `(layers, dimensions)` of the run of
    places that is most likely a part of an attack; `odd` says which places are like no
    normal text.
    """

    places: tuple[tuple[int, int], ...]
    scores: NDArray[np.float64]
    z: NDArray[np.float32]
    odd: NDArray[np.bool_]

    @property
    def score(self) -> float:
        """The worst place decides: a benign remainder must not dilute it."""
        return float(self.scores.max())

    def shifted(self, tokens: int) -> DetectionResult:
        """The same, with every place moved by a number of tokens."""
        return replace(self, places=tuple((a + tokens, b + tokens) for a, b in self.places))
