"""Letters with a gap after each: s p a c e d, h-y-p-h-e-n-a-t-e-d."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, pairwise

from .language import is_word, looks_written, split_words
from .reading import Edit

__all__ = ["joined"]

_SIGNS = r".\-_*|/~+·•,:"
# Words with the same sign after every character, or with spaces. Each matches wherever it
# begins to, so that no part of a text is looked at more than once.
_EVEN = re.compile(
    rf"(?<!\w)\S(?P<sign>[{_SIGNS}])\S(?:(?P=sign)\S)*(?:\s{{1,3}}\S(?:(?P=sign)\S)*)*(?!\w)"
    r"|(?<!\S)\S(?:[ \n]{1,5}\S(?!\S))++"
)
_WITH_SIGNS = re.compile(r"\S+")
_WITH_SPACES = re.compile(r"\S(?: \S)*")
_ENOUGH = 4  # gaps inside words; fewer are chance
_MANY = 20  # letters; so many apart have no other reason

_ONE = "[A-Za-z\u00c0-\u024f\u0400-\u04ff0-9@$!]"
_UNEVEN = re.compile(rf"(?<!\w){_ONE}(?:(?:[ \t{_SIGNS}]{{1,5}}|\n){_ONE}){{4,}}(?!\w)")
_GAP = re.compile(r"(?:[^\w@$!]|_)+")
_LONG = 10  # letters; a longer run without a wider gap is likely several words


def joined(text: str) -> list[Edit]:
    """Letters with a gap after each, joined to words."""
    edits: list[Edit] = []
    done = 0
    for match in _EVEN.finditer(text):
        found = _closed(match)
        if found:
            edits += [*_unevenly(text, done, match.start()), *found]
            done = match.end()
    return [*edits, *_unevenly(text, done, len(text))]


def _closed(match: re.Match[str]) -> list[Edit]:
    """The gaps of an even run, closed inside words and single between them; none if no
    language comes out."""
    spelled = _WITH_SIGNS if match["sign"] else _WITH_SPACES
    words = list(spelled.finditer(match[0]))
    gaps = [at for word in words for at in range(word.start() + 1, word.end(), 2)]
    plain = " ".join(word[0][::2] for word in words)
    if len(gaps) < _ENOUGH or len(words) < 2 or not _was_spelled(plain):
        return []
    closed = [Edit(match.start() + at, match.start() + at + 1, "") for at in gaps]
    wide = [
        Edit(match.start() + word.end(), match.start() + after.start(), " ")
        for word, after in pairwise(words)
    ]
    return sorted([*closed, *wide])


def _was_spelled(words: str) -> bool:
    letters = sum(map(str.isalpha, words))
    mostly = letters >= 0.7 * len("".join(words.split()))
    return mostly and (letters >= _MANY or _is_text(words))


def _unevenly(text: str, start: int, end: int) -> Iterator[Edit]:
    for match in _UNEVEN.finditer(text, start, end):
        yield from _join(match)


def _join(match: re.Match[str]) -> Iterator[Edit]:
    gaps = list(_GAP.finditer(match[0]))
    inner = _inner_gaps([gap[0] for gap in gaps])
    plain = _GAP.sub(lambda gap: "" if gap[0] in inner else " ", match[0])
    words = " ".join(split_words(w) if len(w) >= _LONG else w for w in plain.split())
    if not _is_text(words):
        return
    ends = _word_ends(words)
    for number, gap in enumerate(gaps, start=1):
        start, end = gap.span()
        wide = _punctuation(gap[0], inner) + " " if number in ends else ""
        yield Edit(match.start() + start, match.start() + end, wide)


def _punctuation(gap: str, inner: set[str]) -> str:
    """The stop or comma in a gap between words, if it is not what spaces the letters."""
    return next((sign for sign in gap if sign in ".,:" and sign not in inner), "")


def _word_ends(words: str) -> set[int]:
    """How many letters there are up to the end of each word."""
    return set(accumulate(map(len, words.split())))


def _inner_gaps(gaps: list[str]) -> set[str]:
    """The gaps inside words: the most frequent one, or all without white space if they vary."""
    inner, count = Counter(gaps).most_common(1)[0]
    solid = {gap for gap in gaps if not any(map(str.isspace, gap))}
    return {inner} if 2 * count > len(gaps) or not solid else solid


def _is_text(words: str) -> bool:
    known = sum(len(word) for word in words.split() if len(word) > 2 and is_word(word))
    letters = sum(map(str.isalpha, words))
    return looks_written(words) and (known >= 0.3 * letters or letters >= _MANY)
