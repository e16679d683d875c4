"""Words spelled so that no tokenizer has them: l33t, MiXeD."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from .language import frequent_pairs, is_word, looks_written
from .reading import Edit, in_company

__all__ = ["leetspeak", "mixed_case"]

_ENOUGH = 3  # words; fewer are chance, or a name
_WITHIN = 100  # characters

_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "+": "t",
}  # fmt: skip
_TOUCHING = re.compile(r"[A-Za-z](?=[0-9@$!+])|[0-9@$!+](?=[A-Za-z])")
_LEET_WORD = re.compile(r"(?<![\w@$!+])[A-Za-z0-9@$!+]{1,20}+(?!\w)")
_ORDINAL = re.compile(r"\d*(?:1st|2nd|3rd|[04-9]th)", re.I)
_CHOICES = 3  # signs with two meanings of which all combinations are tried

_CHANGE = re.compile("[a-z][A-Z]|[A-Z][A-Z][a-z]")
_CAMEL = re.compile("[a-z]*(?:[A-Z]+[a-z]{2,})*[A-Z]*")
_BEGINNING = re.compile(r"""(?:(?<=\S)[.!?]\s|\n)[\s"'(\[*#>-]*$""")
_BEFORE = 8  # characters in which a sentence is seen to end
_LATIN_WORD = re.compile(r"(?<![^\W\d_])[A-Za-z]{2,20}+(?![^\W\d_])")


def leetspeak(text: str) -> list[Edit]:
    """Digits and signs in the place of letters, where that makes words, and several."""
    if not _TOUCHING.search(text):
        return []
    edits = [edit for match in _LEET_WORD.finditer(text) if (edit := _unleet(match))]
    return _begun(text, in_company(edits, _ENOUGH, _WITHIN))


def mixed_case(text: str) -> list[Edit]:
    """Words with capitals anywhere, where there are several, in lower case."""
    if not _CHANGE.search(text):
        return []
    edits = [
        Edit(*match.span(), match[0].lower(), telling=_is_mixed(match[0]))
        for match in _LATIN_WORD.finditer(text)
        if not match[0].islower() and not match[0].istitle()
    ]
    return _begun(text, in_company(edits, _ENOUGH, _WITHIN))


def _begun(text: str, edits: Sequence[Edit]) -> list[Edit]:
    """With the capitals that sentences begin with."""
    return [
        edit._replace(text=edit.text[0].upper() + edit.text[1:]) if _begins(text, edit) else edit
        for edit in edits
    ]


def _begins(text: str, edit: Edit) -> bool:
    first = max(0, edit.start - _BEFORE)
    before = text[first : edit.start] if first else f"\n{text[: edit.start]}"
    return bool(_BEGINNING.search(before))


def _is_mixed(word: str) -> bool:
    return bool(_CHANGE.search(word)) and (is_word(word) or _alternates(word) or _is_random(word))


def _unleet(match: re.Match[str]) -> Edit | None:
    body = match[0].rstrip("!") or match[0]  # an exclamation, more likely than an i
    if body.isalpha() or _ORDINAL.fullmatch(body):
        return None
    lettered = any(map(str.isalpha, body))
    plain = _most_likely(body)
    if not (is_word(plain) or (lettered and plain.isalpha() and _is_likely(body, plain))):
        return None
    telling = lettered and ((len(plain) > 2 and is_word(plain)) or _is_disguise(body, plain))
    shown = plain.upper() if body.isupper() else plain
    return Edit(match.start(), match.start() + len(body), shown, telling=telling)


def _is_likely(body: str, plain: str) -> bool:
    return looks_written(plain) or _switches(body) > 1


def _is_disguise(body: str, plain: str) -> bool:
    """Whether a word that is not a frequent one is too mixed to be a name or a number."""
    return len(plain) > 4 and _switches(body) > 1 and looks_written(plain)


def _switches(body: str) -> int:
    """How often letters and signs take turns."""
    return len(_TOUCHING.findall(body))


def _most_likely(body: str) -> str:
    """A frequent word if the signs can stand for one, or else what is most like language."""
    options = [_LEET.get(letter, letter) for letter in body]
    if sum(len(option) > 1 for option in options) > _CHOICES:
        options = [option[0] for option in options]
    candidates = ["".join(letters) for letters in product(*options)]
    return next(filter(is_word, candidates), None) or max(candidates, key=frequent_pairs)


def _alternates(word: str) -> bool:
    odd, even = word[::2], word[1::2]
    strict = (odd.isupper() and even.islower()) or (odd.islower() and even.isupper())
    return strict and len(word) > 3 and looks_written(word)


def _is_random(word: str) -> bool:
    """Whether its capitals follow no way that names of things in code are written."""
    return len(word) > 4 and not _CAMEL.fullmatch(word) and looks_written(word)
