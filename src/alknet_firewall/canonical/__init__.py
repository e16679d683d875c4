"""The readings that a model could make of a text.

A model reads through spellings that hide a text from a detector: invisible
characters, look-alike letters, encodings. Here they are undone, and what comes
out is screened beside the text as it was given. Everything in here is a pure
function of the text; docs/canonicalisation.md says what is undone and when.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import escapes, hidden, letters, payloads, spacing, spelling
from .reading import Edit, Reading, edited, raw

__all__ = ["Reading", "readings"]

_DEPTH = 3  # an encoding may lie in an encoding, and so on
_CONTEXT = 240  # characters read on either side of what was undone: a place of 64 tokens

_Step = Callable[[str], list[Edit]]

_STEPS: tuple[tuple[str, _Step], ...] = (
    ("hidden-message", hidden.messages),
    ("invisible", hidden.noise),
    ("marks", hidden.marks),
    ("styled", letters.styled),
    ("look-alikes", letters.look_alikes),
    ("percent", escapes.percent),
    ("entities", escapes.entities),
    ("escapes", escapes.backslashes),
    ("encoded", payloads.decoded),
    ("spaced", spacing.joined),
    ("mixed-case", spelling.mixed_case),
    ("leetspeak", spelling.leetspeak),
    ("rot13", payloads.rot13),
    ("backwards", payloads.backwards),
)
_TIDYING: tuple[_Step, ...] = (hidden.invisible, letters.tidied)


class _Mark(NamedTuple):
    """A range of the original text in which something was undone."""

    start: int
    end: int
    name: str


def readings(text: str) -> list[Reading]:
    """The text as it is, and each part of it that reads otherwise once undone.

    The first reading is the text itself, named "raw", and an ordinary text has
    no other. The name of another says what was undone, such as
    "invisible+look-alikes"; it holds what was undone with some context, so that
    a stray character in a long text does not double the work. All together the
    other readings have at most twice as many characters as the text.
    """
    first = raw(text)
    undone, marks = _undone(first)
    return [first, *_parts(_tidied(undone), marks)] if marks else [first]


def _undone(reading: Reading) -> tuple[Reading, list[_Mark]]:
    marks: list[_Mark] = []
    for _ in range(_DEPTH):
        before = len(marks)
        for name, step in _STEPS:
            edits = step(reading.text)
            found = [_Mark(*reading.original(e.start, e.end), name) for e in edits if e.telling]
            if found:
                marks += found
                reading = edited(reading, edits)
        if len(marks) == before:
            break
    return reading, marks


def _tidied(reading: Reading) -> Reading:
    for step in _TIDYING:
        reading = edited(reading, step(reading.text))
    return reading


def _parts(reading: Reading, marks: Sequence[_Mark]) -> Iterator[Reading]:
    """The parts of a reading around the marks, neighbours in one."""
    for start, end, name in _neighbourhoods(marks):
        first = bisect_left(reading.starts, start)
        last = max(first, bisect_right(reading.ends, end))
        if reading.text[first:last].strip():
            yield Reading(
                name,
                reading.text[first:last],
                reading.starts[first:last],
                reading.ends[first:last],
            )


def _neighbourhoods(marks: Sequence[_Mark]) -> Iterator[tuple[int, int, str]]:
    """Ranges of the original that hold all marks, with what was undone in each."""
    group: list[_Mark] = []
    reach = 0
    for mark in sorted(marks):
        if group and mark.start - reach > 2 * _CONTEXT:
            yield _around(group, reach)
            group, reach = [], 0
        group.append(mark)
        reach = max(reach, mark.end)
    if group:
        yield _around(group, reach)


def _around(group: Sequence[_Mark], reach: int) -> tuple[int, int, str]:
    names = {mark.name for mark in group}
    name = "+".join(step for step, _ in _STEPS if step in names)
    return group[0].start - _CONTEXT, reach + _CONTEXT, name
