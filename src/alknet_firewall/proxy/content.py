"""Request bodies -> every untrusted string in them. Pure functions.

Nothing is looked for by name: every string of a request is screened unless a
rule here says why it need not be. A field or a content part that did not exist
when this was written is therefore screened, not forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..alarm import Role

__all__ = ["Untrusted", "chat_texts"]


@dataclass(frozen=True, slots=True)
class Untrusted:
    """One string to screen: who wrote it, where it stands, and what it says.

    `json_path` never holds content: a key that could carry some is shown as `*`.
    """

    role: Role
    json_path: str
    text: str = field(repr=False)


def chat_texts(body: dict[str, Any], trusted_roles: Collection[str]) -> tuple[Untrusted, ...]:
    """Every untrusted string of a `/v1/chat/completions` body, each once.

    Messages whose role is in `trusted_roles` are left out. What the user wrote
    has the role `user`; everything else (tool results, the assistant's history,
    tool definitions, fields not known here) has the role `tool`.
    """
    found = [*_messages(body.get("messages"), trusted_roles)]
    for key, value in body.items():
        if key != "messages":
            found += _member(key, value, "tool", "", _is_label)
    first: dict[tuple[Role, str], Untrusted] = {}
    for item in found:
        for reading in _readings(item):
            first.setdefault((reading.role, reading.text), reading)
    return tuple(first.values())


def _messages(messages: object, trusted_roles: Collection[str]) -> Iterator[Untrusted]:
    if not isinstance(messages, list):
        yield from _leaves(messages, "tool", "messages", _is_identifier)
        return
    for index, message in enumerate(messages):
        yield from _message(message, f"messages[{index}]", trusted_roles)


def _message(message: object, path: str, trusted_roles: Collection[str]) -> Iterator[Untrusted]:
    if not isinstance(message, dict):
        yield from _leaves(message, "user", path, _is_identifier)
        return
    author = message.get("role")
    if isinstance(author, str) and author in trusted_roles:
        return
    role: Role = "user" if author == "user" else "tool"
    for key, value in message.items():
        if key == "content" and isinstance(value, list):
            yield from _parts(value, role, f"{path}.content")
        else:
            skip = _is_label if key in ("tool_calls", "function_call") else _is_identifier
            yield from _member(key, value, role, path, skip)


def _parts(parts: list[Any], role: Role, path: str) -> Iterator[Untrusted]:
    """The strings of each part, then all of them joined.

    A model reads the parts as one text, so an attack may be split over them.
    """
    texts = [
        leaf
        for index, part in enumerate(parts)
        for leaf in _leaves(_without_media(part), role, f"{path}[{index}]", _is_identifier)
    ]
    yield from texts
    if len(texts) > 1:
        yield Untrusted(role, path, "".join(leaf.text for leaf in texts))


_Skip = Callable[[str, str], bool]
"""Says of a key and its string value that it is no text."""


def _leaves(value: object, role: Role, path: str, skip: _Skip) -> Iterator[Untrusted]:
    if isinstance(value, str):
        if value:
            yield Untrusted(role, path, value)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            # An item of a list stands under the list's key ("required", "enum").
            if not (isinstance(item, str) and skip("", item)):
                yield from _leaves(item, role, f"{path}[{index}]", skip)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _member(key, item, role, path, skip)


def _member(key: str, value: object, role: Role, path: str, skip: _Skip) -> Iterator[Untrusted]:
    plain = _LABEL.fullmatch(key) is not None
    place = f"{path}.{key if plain else '*'}".removeprefix(".")
    if not plain:
        yield Untrusted(role, place, key)
    if not (isinstance(value, str) and skip(key, value)):
        yield from _leaves(value, role, place, skip)


# --- what is no text ---------------------------------------------------------

# Fields that name things and do not reach the model as words.
_IDENTIFIER_KEYS = frozenset(
    [
        "id",
        "type",
        "role",
        "model",
        "tool_call_id",
        "call_id",
        "file_id",
        "format",
        "detail",
        "object",
        "status",
        "user",
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


def _is_identifier(key: str, value: str) -> bool:
    return key in _IDENTIFIER_KEYS and _IDENTIFIER.fullmatch(value) is not None


def _is_label(key: str, value: str) -> bool:
    return _is_identifier(key, value) or _LABEL.fullmatch(value) is not None


# The one field of each known part type that holds pixels, samples or pages.
_MEDIA_FIELDS = {
    "image_url": "url",
    "video_url": "url",
    "audio_url": "url",
    "input_audio": "data",
    "file": "file_data",
}
_MEDIA = re.compile(
    r"(?:data:(?:(?:image|audio|video)/[\w.+-]+|application/pdf);base64,)"
    r"(?:[A-Za-z0-9+/]+={0,2})?"
)
_BARE_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def _without_media(part: object) -> object:
    """The part without its binary payload, which no text screening can read."""
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return part
    name, holder = _MEDIA_FIELDS.get(kind), part.get(kind)
    if name is None or not isinstance(holder, dict) or not _is_media(name, holder.get(name)):
        return part
    return {**part, kind: {key: value for key, value in holder.items() if key != name}}


def _is_media(name: str, value: object) -> bool:
    if not isinstance(value, str):
        return False
    bare = name != "url" and _BARE_BASE64.fullmatch(value) is not None
    return bare or _MEDIA.fullmatch(value) is not None


# --- JSON inside strings -----------------------------------------------------


def _readings(item: Untrusted) -> Iterator[Untrusted]:
    yield item
    if (decoded := _decoded(item.text)) is not None:
        yield Untrusted(item.role, item.json_path, decoded)


def _decoded(text: str) -> str | None:
    """The strings inside `text` when it is JSON with escapes, else None.

    Without a backslash every string of a JSON document stands in it literally,
    and screening the document has screened them.
    """
    if "\\" not in text or text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        # Pairs, not a dict: a key given twice must not hide its first value.
        value = json.loads(text, strict=False, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    return "\n".join(_strings(value))


def _strings(value: object) -> Iterator[str]:
    """All strings in a parsed document, in order; JSON in them is parsed too."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            # Each round removes one level of escapes, so this ends.
            yield item if (inner := _decoded(item)) is None else inner
        elif isinstance(item, Iterable):
            stack.extend(reversed([*item]))
