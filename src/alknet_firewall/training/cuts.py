"""Texts cut as screening cuts them: what every window says, and its paragraphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..codebook.detection import BY_PARAGRAPH, WindowShape
from ..codebook.lexical import Passage, Wording
from ..firewall import readable
from ..model.protocol import DetectorModel
from ..windows import paragraph_blocks, paragraph_starts, window_bounds
from .data_loader import Example

__all__ = ["Cuts", "cut"]


@dataclass(frozen=True, slots=True)
class Cuts:
    """The wording of every window, in the order of `Sequences`, behind them those of the
    windows' paragraphs where the role is judged by them; for each paragraph the number of its
    window and, in there, its blocks `[first, last)`, `(paragraphs, 2)`."""

    wordings: Sequence[Wording]
    window: NDArray[np.int64]
    blocks: NDArray[np.int64]


def cut(
    model: DetectorModel, examples: Iterable[Example], shape: WindowShape, max_tokens: int
) -> Cuts:
    """The first `max_tokens` of every text."""
    windows: list[Wording] = []
    within: list[Wording] = []
    parts: list[tuple[int, int, int]] = []
    for example in examples:
        encoding = model.encode(readable(example.text))
        passage = Passage(encoding.ids, encoding.offsets, example.text)
        known = paragraph_starts(example.text, encoding.offsets)
        starts = known if example.role in BY_PARAGRAPH else []
        length = min(len(encoding.ids), max_tokens)
        for start, end in window_bounds(length, shape.tokens, shape.overlap):
            for first, last in paragraph_blocks(starts, (start, end), shape.block):
                edges = start + first * shape.block, min(start + last * shape.block, end)
                parts.append((len(windows), first, last))
                within.append(passage.wording(*edges))
            windows.append(passage.wording(start, end))
    found = np.array(parts, dtype=np.int64).reshape(-1, 3)
    return Cuts([*windows, *within], found[:, 0], found[:, 1:])
