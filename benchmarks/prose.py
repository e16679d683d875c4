"""Texts to time: English prose of an exact number of tokens, the same on every machine.

Words of Python's own language reference, in their order, from a place that a
seed chooses: prose is what the detector mostly reads, and two texts share no
more than any two texts do. What is no word (code, markup) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from random import Random

__all__ = ["text_of"]


@cache
def _words() -> list[str]:
    from pydoc_data.topics import topics

    prose = " ".join(topics[name] for name in sorted(topics))
    return re.findall(r"(?<!\S)[A-Za-z]+[,.;:]?(?!\S)", prose)


def text_of(tokens: int, seed: int, count: Callable[[str], int]) -> str:
    """A text of exactly `tokens` tokens, as `count` (`Firewall.count_tokens`) counts them."""
    words = _words()
    start = Random(seed).randrange(len(words))
    taken = [words[(start + place) % len(words)] for place in range(tokens)]
    while (surplus := count(" ".join(taken)) - tokens) > 0:
        del taken[-(surplus + 1) // 2 :]  # most words are one token, few are more than two
    return " ".join([*taken, *["and"] * -surplus])
