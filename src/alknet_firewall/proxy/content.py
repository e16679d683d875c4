"""Request bodies -> every untrusted string in them. Pure functions, one per API shape.

A shape only says who wrote what; what counts as text is decided in `leaves`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from ..alarm import Role
from .escapes import decoded
from .leaves import (
    Found,
    Place,
    Unscreened,
    Untrusted,
    is_identifier,
    is_label,
    json_path,
    member,
    walk,
)
from .opaque import Kind, is_hosted_tool, is_tokens

__all__ = [
    "EXTRACTORS",
    "Content",
    "Shape",
    "chat_texts",
    "completion_texts",
    "embedding_texts",
    "extract",
    "message_texts",
    "response_texts",
    "string_texts",
]

Shape = Literal["chat", "completions", "responses", "embeddings", "messages", "strings"]

_CLIPPED = 1_000
"""Characters of a message that take part in a joined reading of several."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a body: texts to screen, each once, and what cannot be screened."""

    texts: tuple[Untrusted, ...]
    unscreened: tuple[Unscreened, ...]


def extract(shape: Shape, body: dict[str, Any], trusted: Collection[str]) -> Content:
    """Everything in a body of this shape that the firewall has to know of.

    `trusted` holds roles of messages, and `instructions` and `tools`; what they
    cover is left out.
    """
    found = [*EXTRACTORS[shape](body, trusted)]
    first: dict[tuple[Role, str], Untrusted] = {}
    for item in found:
        if isinstance(item, Untrusted):
            for reading in _readings(item):
                first.setdefault((reading.role, reading.text), reading)
    return Content(
        tuple(first.values()),
        tuple(item for item in found if isinstance(item, Unscreened)),
    )


def _readings(item: Untrusted) -> Iterator[Untrusted]:
    yield item
    if (inner := decoded(item.text)) is not None:
        yield Untrusted(item.role, item.json_path, inner, item.places)


# --- one function for each shape ---------------------------------------------


def chat_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """`/v1/chat/completions`: who wrote a message is its role."""
    yield from _conversation(body.get("messages"), ("messages",), trusted)
    yield from _others(body, ("messages",), trusted)


def completion_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """`/v1/completions`: the user wrote the prompt, or all of them, and the suffix."""
    for key in ("prompt", "suffix"):
        yield from _prompt(body.get(key), "user", (key,))
    yield from _others(body, ("prompt", "suffix"), trusted)


def embedding_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """`/v1/embeddings`: documents, and also what users ask of them.

    An embedding follows no instruction, and a question must be free to be embedded, so
    the role is `user`; a document is screened as `tool` once it comes back as context.
    """
    yield from _prompt(body.get("input"), "user", ("input",))
    yield from _others(body, ("input",), trusted)


def response_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """`/v1/responses`: a string or a list of items, instructions, a stored prompt."""
    given = body.get("input")
    if isinstance(given, list):
        yield from _conversation(given, ("input",), trusted)
    else:
        yield from walk(given, "user", ("input",), is_identifier)
    if "instructions" not in trusted:
        yield from walk(body.get("instructions"), "user", ("instructions",), is_identifier)
    yield from _stored(body)
    yield from _others(body, ("input", "instructions", "prompt"), trusted)


def message_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """Anthropic's `/v1/messages`: the system prompt is a field, tool results are parts."""
    if "system" not in trusted:
        yield from _parts(body.get("system"), "tool", ("system",))
    yield from _conversation(body.get("messages"), ("messages",), trusted)
    yield from _others(body, ("system", "messages"), trusted)


def string_texts(body: dict[str, Any], trusted: Collection[str]) -> Iterator[Found]:
    """Any other body: every string is data."""
    for key, value in body.items():
        yield from member(key, value, "tool", (), _is_never_a_name)


def _is_never_a_name(key: str, value: str) -> bool:
    return False


EXTRACTORS: dict[Shape, Callable[[dict[str, Any], Collection[str]], Iterator[Found]]] = {
    "chat": chat_texts,
    "completions": completion_texts,
    "responses": response_texts,
    "embeddings": embedding_texts,
    "messages": message_texts,
    "strings": string_texts,
}


# Fields that let the upstream put something before the model by itself.
_ELSEWHERE: dict[str, Kind] = {
    "previous_response_id": "history",
    "conversation": "history",
    "mcp_servers": "hosted_tool",
    "web_search_options": "hosted_tool",
}


# --- their parts -------------------------------------------------------------


def _others(
    body: dict[str, Any], done: Collection[str], trusted: Collection[str]
) -> Iterator[Found]:
    """The fields that a shape does not know, tool definitions among them."""
    for key, value in body.items():
        if key in ("tools", "functions"):
            yield from _tools(value, key, trusted)
        elif key not in done:
            yield from member(key, value, "tool", (), is_label)
    for key, kind in _ELSEWHERE.items():
        if body.get(key):
            yield Unscreened(kind, key)


def _tools(tools: object, key: str, trusted: Collection[str]) -> Iterator[Found]:
    if "tools" not in trusted:
        yield from walk(tools, "tool", (key,), is_label)
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if is_hosted_tool(tool):
            yield Unscreened("hosted_tool", json_path((key, index)))


def _stored(body: dict[str, Any]) -> Iterator[Found]:
    """A prompt that the upstream keeps, and the variables that are put into it."""
    prompt = body.get("prompt")
    yield from walk(prompt, "user", ("prompt",), is_identifier)
    if isinstance(prompt, dict) and prompt.get("id"):
        yield Unscreened("prompt", "prompt.id")


def _prompt(value: object, role: Role, place: Place) -> Iterator[Found]:
    if is_tokens(value):
        yield Unscreened("tokens", json_path(place))
        return
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if is_tokens(item):
            yield Unscreened("tokens", json_path((*place, index)))
    yield from walk(value, role, place, is_identifier)


def _conversation(messages: object, place: Place, trusted: Collection[str]) -> Iterator[Found]:
    """Each message or item, and neighbours of one author joined."""
    if not isinstance(messages, list):
        yield from walk(messages, "tool", place, is_identifier)
        return
    numbered = enumerate(messages)
    for author, run in groupby(numbered, key=lambda pair: _author(pair[1])):
        if author in trusted and author not in ("instructions", "tools"):
            continue
        found = [(index, [*_message(item, (*place, index))]) for index, item in run]
        for _, items in found:
            yield from items
        yield from _neighbours(found, place)


def _author(message: object) -> str:
    """Who wrote a message or an item: its role, else `type:` and its type."""
    if not isinstance(message, dict):
        return ""
    author = message.get("role")
    return author if isinstance(author, str) else f"type:{message.get('type')}"


def _message(message: object, place: Place) -> Iterator[Found]:
    if not isinstance(message, dict):
        yield from walk(message, "user", place, is_identifier)
        return
    author, holders = _author(message), (message.get("type"),)
    for key, value in message.items():
        role: Role = "user" if author == "user" or _is_said(author, key) else "tool"
        if isinstance(value, list) and key in ("content", "output", "summary"):
            yield from _parts(value, role, (*place, key))
        else:
            skip = is_label if key in ("tool_calls", "function_call") else is_identifier
            yield from member(key, value, role, place, skip, holders)


def _is_said(author: str, key: str) -> bool:
    """Whether a field holds what the assistant said: a question of its own is ordinary, and
    no request to a model as it would be in a document."""
    return author == "assistant" and key in ("content", "refusal")


def _parts(parts: object, role: Role, place: Place) -> Iterator[Found]:
    """What is in each part, then all of one author's joined.

    A model reads the parts as one text, so an attack may be split over them.
    """
    found = [*_each(parts, role, place)]
    yield from found
    texts = [item for item in found if isinstance(item, Untrusted)]
    for author in ("user", "tool"):
        own = [item for item in texts if item.role == author]
        if len(own) > 1:
            yield _joined(own, "", json_path(place))


def _each(parts: object, role: Role, place: Place) -> Iterator[Found]:
    """What is in each part, and in the parts of a part, once."""
    if not isinstance(parts, list):
        yield from walk(parts, role, place, is_identifier)
        return
    for index, part in enumerate(parts):
        here = (*place, index)
        if not isinstance(part, dict):
            yield from walk(part, role, here, is_identifier)
            continue
        author: Role = "tool" if _is_data(part.get("type")) else role
        content = part.get("content")
        nested = isinstance(content, list)
        rest = {key: value for key, value in part.items() if not (nested and key == "content")}
        yield from walk(rest, author, here, is_identifier)
        if nested:
            yield from _each(content, author, (*here, "content"))


def _is_data(kind: object) -> bool:
    """Whether a part of this type holds what a tool or a document says."""
    return isinstance(kind, str) and kind.endswith(("_result", "_output", "_use", "document"))


def _neighbours(found: Sequence[tuple[int, list[Found]]], place: Place) -> Iterator[Untrusted]:
    """The beginnings and ends of several messages as one text.

    Clipped, so that a split attack is seen at the price of a few windows.
    """
    if len(found) < 2:
        return
    texts = [item for _, items in found for item in items if isinstance(item, Untrusted)]
    single = [item for item in texts if len(item.places) == 1]
    for author in ("user", "tool"):
        own = [item for item in single if item.role == author]
        if len(own) > 1:
            path = f"{json_path(place)}[{found[0][0]}:{found[-1][0] + 1}]"
            yield _joined(own, "\n", path, clip=_clipped)


def _joined(
    texts: Iterable[Untrusted], between: str, path: str, clip: Callable[[str], str] = str
) -> Untrusted:
    items = [*texts]
    places = tuple(place for item in items for place in item.places)
    return Untrusted(items[0].role, path, between.join(clip(item.text) for item in items), places)


def _clipped(text: str) -> str:
    if len(text) <= _CLIPPED:
        return text
    return f"{text[: _CLIPPED // 2]}\n{text[-_CLIPPED // 2 :]}"
