"""Texts cut as screening cuts them: the tokens of every window, and of its paragraphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..codebook.detection import BY_PARAGRAPH, WindowShape
from ..firewall import readable
from ..model.protocol import DetectorModel
from ..windows import paragraph_blocks, paragraph_starts, window_bounds
from .data_loader import Example

__all__ = ["Cuts", "cut"]


@dataclass(frozen=True, slots=True)
class Cuts:
    """The token ids of every window, in the order of `Sequences`, behind them those of the
    windows' paragraphs where the role is judged by them; for each paragraph the number of its
    window and, in there, its blocks `[first, last)`, `(paragraphs, 2)`."""

    ids: Sequence[Sequence[int]]
    window: NDArray[np.int64]
    blocks: NDArray[np.int64]


def cut(
    model: DetectorModel, examples: Iterable[Example], shape: WindowShape, max_tokens: int
) -> Cuts:
    """The first `max_tokens` of every text."""
    windows: list[Sequence[int]] = []
    parts: list[tuple[int, int, int]] = []
    for example in examples:
        encoding = model.encode(readable(example.text))
        known = paragraph_starts(example.text, encoding.offsets)
        starts = known if example.role in BY_PARAGRAPH else []
        length = min(len(encoding.ids), max_tokens)
        for place in window_bounds(length, shape.tokens, shape.overlap):
            blocks = paragraph_blocks(starts, place, shape.block)
            parts += [(len(windows), *ends) for ends in blocks]
            windows.append(encoding.ids[slice(*place)])
    found = np.array(parts, dtype=np.int64).reshape(-1, 3)
    of_parts = (
        windows[window][first * shape.block : last * shape.block] for window, first, last in parts
    )
    return Cuts([*windows, *of_parts], found[:, 0], found[:, 1:])
