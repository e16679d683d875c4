"""Every string in a JSON value, with its role and its place. Pure functions.

Nothing is looked for by name: every string is found unless a rule here says why
it need not be screened. A field or a content part that did not exist when this
was written is therefore screened, not forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..alarm import Role
from .opaque import Kind, opaque_kind, reference_kind

__all__ = [
    "Found",
    "Place",
    "Unscreened",
    "Untrusted",
    "is_identifier",
    "is_label",
    "json_path",
    "member",
    "walk",
]

Place = tuple[str | int, ...]
"""The keys and indices that lead from a body to one of its values."""


@dataclass(frozen=True, slots=True)
class Untrusted:
    """One string to screen: who wrote it, where it stands, and what it says.

    `json_path` never holds content: a key that could carry some is shown as `*`.
    `places` are the strings that `text` was read from, more than one where it
    was joined.
    """

    role: Role
    json_path: str
    text: str = field(repr=False)
    places: tuple[Place, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unscreened:
    """One thing that may reach the model and that no text screening can read."""

    kind: Kind
    json_path: str


Found = Untrusted | Unscreened
Skip = Callable[[str, str], bool]
"""Says of a key and its string value that it is no text."""


def walk(
    value: object, role: Role, place: Place, skip: Skip, parent: object = None
) -> Iterator[Found]:
    """Everything to screen, and everything that cannot be, at and under `place`.

    `parent` is the type of the object that `value` is a field of.
    """
    if isinstance(value, str):
        if value:
            yield Untrusted(role, json_path(place), value, (place,))
    elif isinstance(value, list):
        yield from _items(value, role, place, skip)
    elif isinstance(value, dict):
        own = place[-1] if place else None
        holders = (value.get("type"), own, value.get("media_type"), parent)
        for key, item in value.items():
            yield from member(key, item, role, place, skip, holders)


def member(
    key: str,
    value: object,
    role: Role,
    place: Place,
    skip: Skip,
    holders: tuple[object, ...] = (),
) -> Iterator[Found]:
    """The same for one key of the object at `place`; the key may be text itself.

    `holders` are the names that say what the object is: its type first, then
    its own key, its media type, and the type of what it is a field of.
    """
    here = (*place, key)
    if not _LABEL.fullmatch(key):
        yield Untrusted(role, json_path(here), key)
    if not _is_argument(place) and (kind := opaque_kind(holders, key, value)):
        yield Unscreened(kind, json_path(here))
        return
    if kind := reference_kind(holders, key, value):
        yield Unscreened(kind, json_path(here))
    if not (isinstance(value, str) and skip(key, value)):
        yield from walk(value, role, here, skip, holders[0] if holders else None)


def _is_argument(place: Place) -> bool:
    """Whether a place is in a tool call's input, all of which reaches the model as text."""
    return "input" in place[1:]


def _items(items: list[Any], role: Role, place: Place, skip: Skip) -> Iterator[Found]:
    """A list's items, which stand under the list's key ("required", "enum")."""
    names = []
    for index, item in enumerate(items):
        if isinstance(item, str) and skip("", item):
            names.append(index)
        else:
            yield from walk(item, role, (*place, index), skip)
    if len(names) > 1:
        # One name says nothing; a list of them can spell a sentence.
        places = tuple((*place, index) for index in names)
        yield Untrusted(role, json_path(place), " ".join(items[n] for n in names), places)


def json_path(place: Place) -> str:
    """`messages[0].content`, with `*` for a key that could carry content."""
    written = "".join(f"[{step}]" if isinstance(step, int) else _key(step) for step in place)
    return written.removeprefix(".")


def _key(key: str) -> str:
    return f".{key}" if _LABEL.fullmatch(key) else ".*"


# --- what is no text ---------------------------------------------------------

# Fields that name things and do not reach the model as words.
_IDENTIFIER_KEYS = frozenset(
    [
        "id",
        "type",
        "role",
        "model",
        "tool_call_id",
        "tool_use_id",
        "call_id",
        "file_id",
        "item_id",
        "response_id",
        "previous_response_id",
        "conversation",
        "container",
        "format",
        "media_type",
        "detail",
        "object",
        "status",
        "ttl",
        "user",
        "user_id",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    ]
)
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/@=+-]{1,128}")

# `get_current_weather`, `gpt-4o-mini`, `$ref`: at most six words of bounded
# length. Longer runs could spell a sentence or carry an encoded one.
_LABEL = re.compile(r"[$_]{0,2}[A-Za-z0-9]{1,32}(?:[_.:/@-]{1,2}[A-Za-z0-9]{1,32}){0,5}")


def is_identifier(key: str, value: str) -> bool:
    """Whether a field names something by its key, and has the form of a name."""
    return key in _IDENTIFIER_KEYS and _IDENTIFIER.fullmatch(value) is not None


def is_label(key: str, value: str) -> bool:
    """Whether a value has the form of a short name, under whatever key."""
    return is_identifier(key, value) or _LABEL.fullmatch(value) is not None
