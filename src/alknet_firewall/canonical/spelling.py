"""Words spelled so that no tokenizer has them: s p a c e d, l33t, MiXeD."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, product

from .language import is_word, looks_written, split_words
from .reading import Edit, in_company

__all__ = ["joined", "leetspeak", "mixed_case"]

_ONE = "[A-Za-z\u00c0-\u024f\u0400-\u04ff0-9@$!]"
_SPACED = re.compile(rf"(?<!\w){_ONE}(?:(?:[ \t.\-_*|/~+·•,:]{{1,5}}|\n){_ONE}){{4,}}(?!\w)")
_GAP = re.compile(r"[^\w@$!]+|_+")
_ENOUGH = 3  # words; fewer are chance, or a name
_WITHIN = 100  # characters
_LONG = 10  # letters; a longer run without a wider gap is likely several words

_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "+": "t",
}  # fmt: skip
_TOUCHING = re.compile(r"[A-Za-z][0-9@$!+]|[0-9@$!+][A-Za-z]")
_LEET_WORD = re.compile(r"(?<![\w@$!+])[A-Za-z0-9@$!+]{2,20}+(?!\w)")
_ORDINAL = re.compile(r"\d*(?:1st|2nd|3rd|[04-9]th)", re.I)
_CHOICES = 3  # signs with two meanings of which all combinations are tried

_CHANGE = re.compile("[a-z][A-Z]|[A-Z][A-Z][a-z]")
_LATIN_WORD = re.compile(r"(?<![^\W\d_])[A-Za-z]{2,20}+(?![^\W\d_])")


def joined(text: str) -> list[Edit]:
    """Letters with a gap after each, joined to words."""
    return [edit for match in _SPACED.finditer(text) for edit in _join(match)]


def leetspeak(text: str) -> list[Edit]:
    """Digits and signs in the place of letters, where that makes words, and several."""
    if not _TOUCHING.search(text):
        return []
    edits = [edit for match in _LEET_WORD.finditer(text) if (edit := _unleet(match))]
    return in_company(edits, _ENOUGH, _WITHIN)


def mixed_case(text: str) -> list[Edit]:
    """Words with capitals anywhere, where there are several, in lower case."""
    if not _CHANGE.search(text):
        return []
    edits = [
        Edit(*match.span(), match[0].lower(), telling=_is_mixed(match[0]))
        for match in _LATIN_WORD.finditer(text)
        if not match[0].islower() and not match[0].istitle()
    ]
    return in_company(edits, _ENOUGH, _WITHIN)


def _is_mixed(word: str) -> bool:
    return bool(_CHANGE.search(word)) and (is_word(word) or _alternates(word))


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
    return looks_written(words) and (known >= 0.3 * letters or letters >= 20)


def _unleet(match: re.Match[str]) -> Edit | None:
    body = match[0].rstrip("!")  # an exclamation, more likely than an i
    if not body or body.isalpha() or _ORDINAL.fullmatch(body):
        return None
    options = [_LEET.get(letter, letter) for letter in body]
    if sum(len(option) > 1 for option in options) > _CHOICES:
        options = [option[0] for option in options]
    candidates = ["".join(letters) for letters in product(*options)]
    plain = next(filter(is_word, candidates), candidates[0])
    lettered = any(map(str.isalpha, body))
    if not (is_word(plain) or (lettered and plain.isalpha() and looks_written(plain))):
        return None
    telling = lettered and len(plain) > 2 and is_word(plain)
    shown = plain.upper() if body.isupper() else plain
    return Edit(match.start(), match.start() + len(body), shown, telling=telling)


def _alternates(word: str) -> bool:
    odd, even = word[::2], word[1::2]
    strict = (odd.isupper() and even.islower()) or (odd.islower() and even.isupper())
    return strict and len(word) > 3 and looks_written(word)
