"""Cutting a long text into overlapping windows of tokens."""

from __future__ import annotations

__all__ = ["window_bounds"]


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
