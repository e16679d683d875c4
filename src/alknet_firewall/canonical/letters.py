"""Letters of other alphabets that stand for Latin ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from .language import is_word
from .reading import Edit, clustered

__all__ = ["look_alikes", "styled", "tidied"]

# Alphabets that style the Latin one: fullwidth, mathematical, enclosed, raised,
# lowered, small capitals. Ligatures, numerals and signs such as TM are not in it.
_STYLED = re.compile(
    "[\u0262\u026a\u0274\u0276\u0280\u0299\u029c\u029f\u02b0-\u02b8\u02e0-\u02e4\u1d00-\u1d6a"
    "\u2071\u207f\u2090-\u209c\u2102\u210a-\u2115\u2119-\u211d\u2124\u2128\u212a\u212c-\u2134"
    "\u2139\u2145-\u2149\u249c-\u24e9\ua730\ua731\uff21-\uff3a\uff41-\uff5a"
    "\U0001d400-\U0001d7ff\U0001f110-\U0001f189]"
)
_BESIDE = re.compile("[A-Za-z]")
_NAMED = re.compile(r"(?:.* )?LATIN (?:.* )?(?:CAPITAL|SMALL)(?: LETTER)?(?: CAPITAL)? ([A-Z])")

_FOREIGN = re.compile(
    "[\u0250-\u02af\u0370-\u058f\u13a0-\u13ff\u2c80-\u2cff\ua4d0-\ua4ff\uab70-\uabbf]"
)
_WORD = re.compile(r"[^\W\d_]+")
# Look-alikes that homoglyph generators use and Unicode does not list.
_MORE = dict(zip("ктпвнмӏτηωκ", "ktnbhmltnwk", strict=True))

_ODD = re.compile("[\u00a0\u2000-\u2bff\u3000-\u303f\ufb00-\ufb06\uff01-\uff60]")


def styled(text: str) -> list[Edit]:
    """Fullwidth, mathematical, enclosed and other dressed-up letters, where there are several."""
    if text.isascii():
        return []
    edits = [
        Edit(*match.span(), letter)
        for match in _STYLED.finditer(text)
        if (letter := _plain(match[0]))
    ]
    mixed = [edit for edit in edits if _BESIDE.search(text[max(0, edit.start - 1) : edit.end + 1])]
    return sorted({*clustered(edits, 8, 80), *clustered(mixed, 3, 80)})


def look_alikes(text: str) -> list[Edit]:
    """Foreign letters in Latin words, and foreign words that could be Latin among such.

    A word is left alone if any of its foreign letters looks like no Latin one,
    and where other foreign words stand beside it: that is another language.
    """
    if text.isascii() or not _FOREIGN.search(text):
        return []
    words = list(_WORD.finditer(text))
    edits = [
        Edit(*match.span(), folded, telling=_is_disguise(words, index, folded))
        for index, match in enumerate(words)
        if _FOREIGN.search(match[0])
        and (folded := _latin(match[0]))
        and (_is_mixed(match[0]) or is_word(folded))
    ]
    return edits if any(edit.telling for edit in edits) else []


def tidied(text: str) -> list[Edit]:
    """Compatibility forms of punctuation and ligatures, where they are one or two characters."""
    if text.isascii():
        return []
    return [
        Edit(*match.span(), plain)
        for match in _ODD.finditer(text)
        if (plain := unicodedata.normalize("NFKC", match[0])) != match[0] and 1 <= len(plain) <= 2
    ]


@lru_cache(maxsize=4096)
def _plain(letter: str) -> str:
    """The ASCII letter or digit that a styled one stands for; empty if none."""
    plain = unicodedata.normalize("NFKC", letter).strip("()")
    if len(plain) == 1 and plain.isascii():
        return plain
    named = _NAMED.fullmatch(unicodedata.name(letter, ""))
    if not named:
        return ""
    # A capital in shape only: text set in small capitals is lower case.
    return named[1].lower() if "SMALL" in unicodedata.name(letter) else named[1]


def _latin(word: str) -> str:
    """The word in Latin letters; empty if one of its letters looks like none."""
    letters = [c if _is_latin(c) else _look_alike(c) for c in word]
    return "".join(letters) if all(letters) else ""


@lru_cache(maxsize=4096)
def _look_alike(letter: str) -> str:
    """The ASCII letter that a foreign one looks like, by Unicode's list; empty if none."""
    # Imported here: it reads a list of some 10,000 characters.
    from confusable_homoglyphs.confusables import confusables_data

    if letter in _MORE:
        return _MORE[letter]
    candidates = [entry["c"] for entry in confusables_data.get(letter, [])]
    found = next((c for c in candidates if len(c) == 1 and c.isascii() and c.isalpha()), "")
    return "I" if found == "l" and letter.isupper() else found


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    if "\u0250" <= letter <= "\u02af":
        return "IPA"  # Latin by name, and no letters of any Latin orthography
    return unicodedata.name(letter, "").partition(" ")[0]


def _is_latin(letter: str) -> bool:
    return letter.isascii() or _script(letter) == "LATIN"


def _is_disguise(words: Sequence[re.Match[str]], index: int, folded: str) -> bool:
    """Whether a word of look-alikes is one on purpose: a symbol such as kΩ is not."""
    if _is_mixed(words[index][0]):
        return len(folded) > 3 or (len(folded) > 1 and is_word(folded))
    return is_word(folded) and _among_latin(words, index)


def _is_mixed(word: str) -> bool:
    return len({_script(c) for c in word}) > 1


def _among_latin(words: Sequence[re.Match[str]], index: int) -> bool:
    around = [*words[max(0, index - 2) : index], *words[index + 1 : index + 3]]
    return len(around) > 1 and all(any(map(_is_latin, word[0])) for word in around)
