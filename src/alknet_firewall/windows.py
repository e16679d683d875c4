"""Cutting a long text into overlapping windows of tokens, and those into paragraphs."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter

__all__ = ["paragraph_blocks", "paragraph_starts", "window_bounds"]

_BLANK_LINE = re.compile(r"\n\s*\n\s*")
_SHORTEST = 8  # tokens of a paragraph; shorter ones are read with the next


def window_bounds(n_tokens: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Token ranges `[start, end)` of at most `size` that cover every token.

    Neighbours share `overlap` tokens, so that any run of up to `overlap`
    tokens lies whole in one window. The last window may be shorter; no tokens,
    no windows. Needs `0 <= overlap < size`.
    """
    stride = size - overlap
    last = max(n_tokens - overlap, 1)
    return (
        [(start, min(start + size, n_tokens)) for start in range(0, last, stride)]
        if n_tokens
        else []
    )


def paragraph_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The numbers of the tokens with which the paragraphs of a text start, but for the first.

    Paragraphs are parted by blank lines. `offsets` are the characters `[start, end)` of each
    token; without them there is one paragraph.
    """
    if not offsets:
        return []
    ends = (match.end() for match in _BLANK_LINE.finditer(text))
    return [bisect_left(offsets, end, key=itemgetter(0)) for end in ends]


def paragraph_blocks(
    starts: Sequence[int], window: tuple[int, int], block: int
) -> list[tuple[int, int]]:
    """The blocks `[first, last)` that each paragraph of a window touches, where it holds
    several; blocks of `block` tokens are counted from the window's start. `starts` are in
    order: looking at all of them for each window would take the square of a text's length."""
    first, last = window
    inside = slice(bisect_left(starts, first + _SHORTEST), bisect_right(starts, last - _SHORTEST))
    edges = [first]
    for start in starts[inside]:
        if edges[-1] + _SHORTEST <= start:
            edges.append(start)
    if len(edges) == 1:
        return []
    return [
        ((start - first) // block, -(-(end - first) // block))
        for start, end in pairwise([*edges, last])
    ]
