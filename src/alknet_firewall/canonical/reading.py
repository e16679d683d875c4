"""A text, or a part of it read in another way, with its map to the original."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Edit", "Reading", "clustered", "edited", "in_company", "raw"]

_WORDS_AND_GAPS = re.compile(r"\w+|\W+")


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a text.

    Character `i` of `text` stands for `original[starts[i]:ends[i]]`; both
    sequences never decrease. `name` says what was undone, and is "raw" for the
    text as it was given.
    """

    name: str
    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The range of the original that `text[start:end]`, not empty, stands for."""
        return self.starts[start], self.ends[end - 1]

    def undone(self, original: str) -> Iterator[tuple[int, int]]:
        """The ranges of the original that this does not have as they stand, word by word."""
        position = self.starts[0]
        for match in _WORDS_AND_GAPS.finditer(self.text):
            start, end = self.original(*match.span())
            if original[start:end] == match[0]:
                yield position, start
                position = end
        yield position, self.ends[-1]


class Edit(NamedTuple):
    """Put `text` in place of `[start, end)`.

    `ordered` says that its letters follow the order of what they replace, so
    that a part of it can be mapped to a part. `telling` says that the edit is
    a reason for a reading; others are only made where there is one.
    """

    start: int
    end: int
    text: str
    ordered: bool = True
    telling: bool = True


def raw(text: str) -> Reading:
    """The text as it is."""
    return Reading("raw", text, range(len(text)), range(1, len(text) + 1))


def edited(reading: Reading, edits: Sequence[Edit]) -> Reading:
    """The reading after edits, given in order and without overlap."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    for edit in edits:
        pieces += [reading.text[position : edit.start], edit.text]
        starts += reading.starts[position : edit.start]
        ends += reading.ends[position : edit.start]
        for first, last in _shares(edit):
            starts.append(reading.starts[first])
            ends.append(reading.ends[last - 1])
        position = edit.end
    pieces.append(reading.text[position:])
    starts += reading.starts[position:]
    ends += reading.ends[position:]
    return Reading(reading.name, "".join(pieces), starts, ends)


def clustered(edits: Sequence[Edit], count: int, within: int) -> list[Edit]:
    """The edits that have company: `count` of them in `within` characters."""
    company = [False] * len(edits)
    for first in range(len(edits) - count + 1):
        if edits[first + count - 1].end - edits[first].start <= within:
            company[first : first + count] = [True] * count
    return [edit for edit, together in zip(edits, company, strict=True) if together]


def in_company(edits: Sequence[Edit], count: int, within: int) -> list[Edit]:
    """All of the edits if `count` telling ones are close together, else none.

    Those that have no company are not telling any more.
    """
    company = clustered([edit for edit in edits if edit.telling], count, within)
    places = {edit.start for edit in company}
    return [edit._replace(telling=edit.start in places) for edit in edits] if company else []


def _shares(edit: Edit) -> Iterable[tuple[int, int]]:
    """For each character of the new text the range of the old that it stands for."""
    old, new = edit.end - edit.start, len(edit.text)
    if not edit.ordered:
        return [(edit.start, edit.end)] * new
    if old == new:
        return pairwise(range(edit.start, edit.end + 1))
    return [
        (edit.start + index * old // new, edit.start - (-(index + 1) * old // new))
        for index in range(new)
    ]
