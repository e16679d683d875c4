"""Characters that a person does not see: messages in them, and noise made of them."""

from __future__ import annotations

import re
import unicodedata

from .language import is_clean, is_word, looks_written
from .reading import Edit, clustered, in_company

__all__ = ["invisible", "marks", "messages", "noise"]

# Emoji flags of England, Scotland and Wales are made of tags.
_FLAGS = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in name) for name in ("gbeng", "gbsct", "gbwls")
)
_TAGS = re.compile(f"\U0001f3f4(?:{_FLAGS})\U000e007f|([\U000e0020-\U000e007e]+)")

_SELECTOR = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_SELECTORS = re.compile(f"[{_SELECTOR}]{{2,}}")
_LETTERS_ALONE = 8  # more are a message, and no chance
# Alone, such a selector is normal only after an ideograph.
_STRAY_SELECTOR = re.compile(
    "(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]"
)

# What draws nothing, or is dropped by the tokenizer: controls, soft hyphen,
# fillers, joiners, direction marks, deprecated format characters, noncharacters.
_INVISIBLE = (
    "\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U0001d173-\U0001d17a\U00040000-\U000bffff\U000e0000-\U000e0fff"
)
_INVISIBLE_RUN = f"(?:[{_INVISIBLE}]|\x1b\\[[\\d;]*m)+"
# Elsewhere joiners and direction marks are part of how a script is written.
_LETTER = "A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f"
_NOISE = re.compile(f"(?<![^\\s!-~{_LETTER}]){_INVISIBLE_RUN}(?![^\\s!-~{_LETTER}])")
_WORD_BEFORE = re.compile(f"[{_LETTER}]*\\Z")
_WORD_AFTER = re.compile(f"[{_LETTER}]*")

_MARK = (
    "\u0300-\u034e\u0350-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
_MARKED = re.compile(f"([ -~]|[^\\W\\d_])[{_MARK}]+")
# Marks that strike through or enclose a letter are part of no orthography.
_STRIKING = re.compile("[\u0334-\u0338\u0483-\u0489\u20d0-\u20ff]")


def messages(text: str) -> list[Edit]:
    """Text in tag characters, and bytes in variation selectors."""
    if text.isascii():
        return []
    tags = [
        _apart(text, match, "".join(chr(ord(c) - 0xE0000) for c in match[1]))
        for match in _TAGS.finditer(text)
        if match[1]
    ]
    selectors = [
        _apart(text, match, message)
        for match in _SELECTORS.finditer(text)
        if (message := _selected(match[0]))
    ]
    return sorted(tags + selectors) or _scattered(text)


def _apart(text: str, match: re.Match[str], message: str) -> Edit:
    """The message in place of the match, and not a part of the visible word before it."""
    glued = len(message) > _LETTERS_ALONE and match.start() and text[match.start() - 1] > " "
    return Edit(*match.span(), f" {message}" if glued else message)


def noise(text: str) -> list[Edit]:
    """Invisible characters inside words, and in numbers elsewhere."""
    inside: list[Edit] = []
    outside: list[Edit] = []
    for match in _NOISE.finditer(text):
        before = _WORD_BEFORE.search(text, max(0, match.start() - 30), match.start())
        words = [before[0] if before else "", _word_at(text, match.end())]
        edit = Edit(*match.span(), " " if _are_two(*words) else "")
        if all(words):
            inside.append(edit)
        elif not match[0].startswith("\x1b"):  # colours are normal between words
            outside.append(edit)
    return sorted(inside + clustered(outside, 3, 60))


def _word_at(text: str, start: int) -> str:
    """The letters there; empty if there are none."""
    found = _WORD_AFTER.match(text, start)
    return found[0] if found else ""


def _are_two(before: str, after: str) -> bool:
    """Whether letters that nothing visible separates are two words."""
    parted = min(len(before), len(after)) > 1 and is_word(before) and is_word(after)
    return parted and not is_word(before + after)


def invisible(text: str) -> list[Edit]:
    """Every invisible character that is not part of how a script is written."""
    return [Edit(*match.span(), "") for match in _NOISE.finditer(text)]


def marks(text: str) -> list[Edit]:
    """Heaps of combining marks on letters that do not have them."""
    if text.isascii():
        return []
    edits = [
        Edit(*match.span(), match[1], telling=_is_heap(match[0]))
        for match in _MARKED.finditer(text)
        if len(match[0]) > 2 or _is_heap(match[0])
    ]
    return in_company(edits, 3, 100)


def _is_heap(marked: str) -> bool:
    """Whether more marks are left than a letter has, once it is composed with one."""
    left = unicodedata.normalize("NFC", marked)[1:]
    return len(left) > 1 or bool(_STRIKING.search(left))


def _scattered(text: str) -> list[Edit]:
    """A message of one selector here and one there, put behind the word with the last one.

    The text between them stays: it may be what the message is to hide.
    """
    found = list(_STRAY_SELECTOR.finditer(text))
    message = _selected("".join(match[0] for match in found)) if len(found) > 3 else ""
    if not message:
        return []
    *others, last = found
    rest = _word_at(text, last.end())
    behind = Edit(last.start(), last.end() + len(rest), f"{rest} {message} ", ordered=False)
    return [*(Edit(*match.span(), "") for match in others), behind]


def _selected(run: str) -> str:
    """The text whose bytes, or half bytes, a run of selectors stands for; empty if none."""
    values = [ord(c) - 0xFE00 if c < "\ufe10" else ord(c) - 0xE0100 + 16 for c in run]
    halves = [
        16 * high + low
        for high, low in zip(values[::2], values[1::2], strict=False)
        if high < 16 and low < 16
    ]
    for data in (values, halves):
        message = bytes(data).decode("utf-8", "ignore")
        if is_clean(message) and (looks_written(message) or len(message) > _LETTERS_ALONE):
            return message
    return ""
