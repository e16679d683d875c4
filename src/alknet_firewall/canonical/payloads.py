"""Whole messages in an encoding: base64, base32, hex, binary, rot13, backwards."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable, Iterator

from .language import frequent_pairs, is_clean, is_word, looks_written
from .reading import Edit

__all__ = ["backwards", "decoded", "rot13"]

_CODES = re.compile(
    # base64, also broken into lines as in mail, and base32, which is part of its alphabet
    r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{40,}+(?:\r?\n[ \t]*+[A-Za-z0-9+/]{4,}+)++"
    r"|[A-Za-z0-9+/_-]{16,}+)={0,6}"
    # hex and binary with gaps; without them they are found above
    r"|(?<![0-9A-Za-z])(?:0x|\\x)?[0-9A-Fa-f]{2}(?![0-9A-Za-z])"
    r"(?:[ \t,:;]{1,2}(?:0x|\\x)?[0-9A-Fa-f]{2}(?![0-9A-Za-z])){7,}+"
    r"|(?<![0-9])[01]{8}(?![0-9])(?:[ \t,]{1,2}[01]{8}(?![0-9])){3,}+"
)
_CHANCE = 16  # printable characters in a row, which decoded noise does not have
_TYPICAL = 6  # letters of a word whose pairs show whether it is one
_PRINTABLE = re.compile(rb"[\t\n\r -~]{10,}+")
_LETTERS = re.compile(r"[^\W\d_]+")

_Cipher = Callable[[str], str]
# Frequent words, of which one is in nearly every sentence.
_TRIGGERS = (
    "the and you your all this that with have from are for not must ignore previous instructions "
    "instruction system prompt forget reveal password show tell print answer now "
    "me my to of in is it do what"
)


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def _reversed(text: str) -> str:
    return text[::-1]


def _trigger(cipher: _Cipher) -> re.Pattern[str]:
    words = (cipher(word) for word in _TRIGGERS.split())
    return re.compile(rf"\b(?:{'|'.join(word for word in words if not is_word(word))})\b")


_ROT13_TRIGGER = _trigger(_rot13)
_REVERSED_TRIGGER = _trigger(_reversed)


def decoded(text: str) -> list[Edit]:
    """Runs of base64, base32, hex or binary digits that are text inside."""
    return [
        Edit(*match.span(), message)
        for match in _CODES.finditer(text)
        if (message := _message(match[0]))
    ]


def rot13(text: str) -> list[Edit]:
    """Words shifted by 13 letters, where that makes words of them."""
    return list(_enciphered(text, _rot13, _ROT13_TRIGGER, ordered=True))


def backwards(text: str) -> list[Edit]:
    """Words written from their end, where that makes words of them."""
    return list(_enciphered(text, _reversed, _REVERSED_TRIGGER, ordered=False))


def _enciphered(
    text: str, cipher: _Cipher, trigger: re.Pattern[str], *, ordered: bool
) -> Iterator[Edit]:
    """Runs of words none of which is a word as it stands, and many are under the cipher."""
    if not trigger.search(text.lower()):
        return
    run: list[re.Match[str]] = []
    for match in [*_LETTERS.finditer(text), None]:
        if match and not (is_word(match[0]) and not is_word(cipher(match[0]))):
            run.append(match)
            continue
        found = sum(_is_undone(word[0], cipher(word[0])) for word in run)
        if found >= max(2, 0.4 * len(run)):
            start, end = run[0].start(), run[-1].end()
            yield Edit(start, end, cipher(text[start:end]), ordered)
        run = []


def _is_undone(word: str, plain: str) -> bool:
    """Whether a word that looked like none is one, or has the letters of one."""
    if len(word) < _TYPICAL or is_word(plain):
        return is_word(plain) and not is_word(word)
    return frequent_pairs(word) < 0.2 and frequent_pairs(plain) >= 0.5


def _message(run: str) -> str:
    """The text in a run of one of the encodings; empty if there is none."""
    compact = re.sub(r"0x|\\x|[\s,:;]", "", run)
    return next(filter(None, (decode(compact) for decode in _DECODERS)), "")


def _hex(run: str) -> str:
    if len(run) % 2 or not re.fullmatch("[0-9A-Fa-f]+", run):
        return ""
    return _readable(bytes.fromhex(run))


def _binary(run: str) -> str:
    if len(run) % 8 or not re.fullmatch("[01]+", run):
        return ""
    return _readable(int(run, 2).to_bytes(len(run) // 8, "big"))


def _base32(run: str) -> str:
    if not re.fullmatch("[A-Z2-7]+=*", run):
        return ""
    bare = run.rstrip("=")
    try:
        return _readable(base64.b32decode(bare + "=" * (-len(bare) % 8)))
    except binascii.Error:
        return ""


def _base64(run: str) -> str:
    """Base64 of either alphabet; also behind letters that only look like it, such as a path."""
    if run.isdigit() or run.islower() or run.isupper():
        return ""
    bare = run.rstrip("=").replace("-", "+").replace("_", "/")
    for skip in range(4):
        usable = bare[skip:]
        usable = usable[: len(usable) - (len(usable) % 4 == 1)]
        message = _readable(binascii.a2b_base64(usable + "=" * (-len(usable) % 4)))
        if message:
            return message
    return ""


def _readable(data: bytes) -> str:
    """What bytes say in UTF-8 or UTF-16, or the ASCII in them if it is half; else nothing."""
    wide = 3 * data[1::2].count(0) > len(data)  # every other byte is 0 in UTF-16 of Latin letters
    message = data.decode("utf-16-le" if wide else "utf-8", "replace")
    if is_clean(message) and (len(message) >= _CHANCE or looks_written(message)):
        return message
    runs = [match.decode() for match in _PRINTABLE.findall(data)]
    longest = max(runs, key=len, default="")
    return longest if 2 * len(longest) >= len(data) and looks_written(longest) else ""


_DECODERS = (_binary, _hex, _base32, _base64)
