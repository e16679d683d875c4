"""Characters written as numbers: %69, &#105;, \\u0069, \\x69."""

from __future__ import annotations

import html
import re
from urllib.parse import unquote

from .language import is_word, looks_written
from .reading import Edit, in_company

__all__ = ["backslashes", "entities", "percent"]

_TOKEN = re.compile(r"[^\s\"'<>&?=]+")
_LETTER_PERCENT = re.compile(r"%(?:[46][1-9A-Fa-f]|[57][0-9Aa]|[C-Fc-f][0-9A-Fa-f])")
_ENTITY = re.compile(r"&(?:#(?:[0-9]{1,7}|[xX][0-9a-fA-F]{1,6})|[A-Za-z][A-Za-z0-9]{1,31});?")
_BACKSLASH = re.compile(
    r"\\+(?:u[dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})"
    r"|([0-7]{3}))|\b[uU]\+([0-9a-fA-F]{4,6})\b[ ,]?"
)
_UNIT = re.compile("u([0-9a-fA-F]{4})")
_FEWEST = 3  # signs of it in one word, or frequent words in a sentence
_ENOUGH = 4  # letters, or gaps between words; fewer are a stray escape, not a text
_WITHIN = 120  # characters


def percent(text: str) -> list[Edit]:
    """Percent-encoded letters, and percent-encoded sentences."""
    if "%" not in text and text.count("+") < _FEWEST:
        return []
    return [
        Edit(*match.span(), plain)
        for match in _TOKEN.finditer(text)
        if max(match[0].count("%"), match[0].count("+")) >= _FEWEST
        and (plain := _unquoted(match[0]))
    ]


def entities(text: str) -> list[Edit]:
    """HTML entities for letters, and with them those between."""
    if "&" not in text:
        return []
    edits = []
    for match in _ENTITY.finditer(text):
        plain = html.unescape(match[0])
        if plain != match[0] and len(plain) == 1:
            edits.append(Edit(*match.span(), plain, telling=plain.isalpha()))
    return in_company(edits, _ENOUGH, _WITHIN)


def backslashes(text: str) -> list[Edit]:
    r"""Escapes of JSON, C and JavaScript for letters, and with them those between."""
    if "\\" not in text and "+" not in text:
        return []
    edits = [
        Edit(*match.span(), plain, telling=plain.isalpha())
        for match in _BACKSLASH.finditer(text)
        if (plain := _character(match))
    ]
    return in_company(edits, _ENOUGH, _WITHIN)


def _unquoted(token: str) -> str:
    """A token without percent-encoding; empty if that hid no letters and no sentence."""
    plain = unquote(token, errors="replace")
    if "\ufffd" in plain:
        return ""
    if token.count("+") >= _FEWEST and " " not in plain:
        plain = plain.replace("+", " ")
    hidden = len(_LETTER_PERCENT.findall(token)) >= _ENOUGH
    return plain if hidden or _is_sentence(plain) else ""


def _is_sentence(plain: str) -> bool:
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", plain)}
    frequent, gaps = sum(map(is_word, words)), plain.count(" ")
    return (gaps > _ENOUGH or (gaps > _FEWEST and frequent >= _FEWEST)) and looks_written(plain)


def _character(match: re.Match[str]) -> str:
    """The character that an escape stands for; empty if there is none such."""
    digits = next((group for group in match.groups() if group), None)
    if digits is None:
        return _paired(*_UNIT.findall(match[0]))
    code = int(digits, 8 if match[5] else 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def _paired(high: str, low: str) -> str:
    """The character that two units of UTF-16, in hex, stand for."""
    return (bytes.fromhex(high) + bytes.fromhex(low)).decode("utf-16-be")
