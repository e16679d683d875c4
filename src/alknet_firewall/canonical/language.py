"""Whether letters look like language, by frequent words and pairs of letters.

A rough and cheap test: it only has to tell a word from the same word enciphered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

__all__ = ["frequent_pairs", "is_clean", "is_word", "looks_written", "split_words"]

# The most frequent words of English, and those that instructions to a model are
# made of; some of the most frequent of German, French and Spanish.
_WORDS = frozenset(resources.files(__package__).joinpath("words.txt").read_text("utf-8").split())

# Half of all pairs of letters in English text, more than a third in German,
# French and Spanish, and about a tenth in enciphered text.
_FREQUENT_PAIRS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se "
    "le sa si ar ve ra ld ur me ne io ro co ll ri ic li om ch el la ma us ec ss pr em rs no"
)
_PAIRS = frozenset(_FREQUENT_PAIRS.split())

_LONGEST_WORD = max(map(len, _WORDS))
_ALONE = {"a", "i"}
_UNCLEAN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")


def is_word(word: str) -> bool:
    """Whether it is a frequent word, in any case."""
    return word.lower() in _WORDS


def is_clean(text: str) -> bool:
    """Whether it holds nothing that no text holds, such as most control characters."""
    return not _UNCLEAN.search(text)


def looks_written(text: str) -> bool:
    """Whether the letters of a text follow each other as in a Latin-script language.

    Letters of other scripts than Latin count as written: nobody gets whole
    words of them by undoing a cipher that was not there.
    """
    letters = [c for c in text.lower() if c.isalpha()]
    if len(letters) < 4:
        return False
    if sum(ord(c) > 0x24F for c in letters) > len(letters) / 2:
        return True
    return frequent_pairs(text) >= 0.3


def frequent_pairs(text: str) -> float:
    """The share of its pairs of ASCII letters that are frequent ones."""
    pairs = re.findall(r"(?=([a-z]{2}))", text.lower())
    return sum(pair in _PAIRS for pair in pairs) / max(len(pairs), 1)


@lru_cache(maxsize=1024)
def split_words(letters: str) -> str:
    """Letters without spaces -> words, where frequent words cover most of them.

    The cheapest cover is taken: a frequent word costs 1, any other letter 2.
    A string that is mostly not covered is given back as it is.
    """
    lower = letters.lower()
    best: list[tuple[int, int]] = [(0, 0)]  # cost of each prefix, and where its last piece starts
    for end in range(1, len(lower) + 1):
        options = [(best[end - 1][0] + 2, end - 1)]
        for start in range(max(0, end - _LONGEST_WORD), end):
            word = lower[start:end]
            if word in _WORDS and (len(word) > 1 or word in _ALONE):
                options.append((best[start][0] + 1, start))
        best.append(min(options))
    return _spaced(letters, best) if best[-1][0] <= 0.6 * len(letters) else letters


def _spaced(letters: str, best: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    end = len(letters)
    known = False
    while end:
        start = best[end][1]
        piece = letters[start:end]
        if is_word(piece):
            pieces.append(piece)
            known = True
        else:  # letters outside every word stay together
            pieces.append(piece if known or not pieces else piece + pieces.pop())
            known = False
        end = start
    return " ".join(reversed(pieces))
