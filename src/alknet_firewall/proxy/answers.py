"""What a model's answer says, streamed or whole, in each API's shape. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .content import Shape
from .leaves import Place, Untrusted, is_identifier, json_path, member

__all__ = ["Events", "Piece", "cut_events", "pieces", "read_event", "whole_texts"]

Piece = tuple[Place, str]
"""A bit of text, and which of the texts that are streamed side by side it continues."""


class Events:
    """Cuts a stream of server-sent events into events, byte for byte."""

    def __init__(self) -> None:
        self.rest = b""
        """What has come of an event that is not whole yet."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that are whole with this chunk, each with the blank line that ends it."""
        self.rest += chunk
        while (end := _end_of_event(self.rest)) is not None:
            event, self.rest = self.rest[:end], self.rest[end:]
            yield event


def _end_of_event(data: bytes) -> int | None:
    ends = [
        at + len(mark) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r") if (at := data.find(mark)) >= 0
    ]
    return min(ends, default=None)


def read_event(event: bytes) -> dict[str, Any] | None:
    """The JSON object that an event carries, or None where it carries none."""
    lines = event.decode("utf-8", "replace").splitlines()
    data = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# --- what an event adds ------------------------------------------------------

_NAMES = ("role", "id", "type", "finish_reason", "index", "signature", "obfuscation")


def pieces(event: Mapping[str, Any]) -> Iterator[Piece]:
    """The text that an event of any of the APIs adds."""
    kind = event.get("type")
    for choice in _list(event.get("choices")):
        number = choice.get("index", 0)
        yield from _strings(choice.get("delta"), ("choices", number, "delta"))
        yield from _strings(choice.get("text"), ("choices", number, "text"))
    if kind in ("content_block_delta", "content_block_start"):
        added = event.get("delta") or event.get("content_block")
        yield from _strings(added, ("content", event.get("index", 0)))
    elif isinstance(kind, str) and kind.endswith(".delta"):
        place = (kind, event.get("output_index", 0), event.get("content_index", 0))
        yield from _strings(event.get("delta"), place)


def _list(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _strings(value: object, place: Place) -> Iterator[Piece]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            at = item.get("index", number) if isinstance(item, dict) else number
            yield from _strings(item, (*place, at))
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NAMES:
                yield from _strings(item, (*place, key))


# --- a whole answer ----------------------------------------------------------

_SAID = ("choices", "output", "content")


def whole_texts(answer: Mapping[str, Any]) -> tuple[Untrusted, ...]:
    """Every string that the model wrote in an answer that was not streamed."""
    return tuple(
        Untrusted("tool", f"answer.{item.json_path}", item.text)
        for key in _SAID
        for item in member(key, answer.get(key), "tool", (), is_identifier)
        if isinstance(item, Untrusted)
    )


def piece_path(place: Place) -> str:
    """The place of a streamed text as a JSON path."""
    return f"answer.{json_path(place)}"


# --- the end of an answer that is cut ----------------------------------------


def cut_events(shape: Shape, last: Mapping[str, Any], seen: set[Place]) -> list[bytes]:
    """The events that end a stream here, as each API says it: the content was filtered.

    `last` is the last event with an object in it, `seen` the places that text
    was streamed to.
    """
    if shape == "messages":
        return [*_cut_message(seen)]
    if shape == "responses":
        return [_cut_response(last)]
    numbers = sorted({int(place[1]) for place in seen if len(place) > 1}) or [0]
    rest: dict[str, Any] = {"text": ""} if shape == "completions" else {"delta": {}}
    choices = [{"index": n, **rest, "finish_reason": "content_filter"} for n in numbers]
    return [_event({**last, "choices": choices}), b"data: [DONE]\n\n"]


def _cut_message(seen: set[Place]) -> Iterator[bytes]:
    blocks = {int(place[1]) for place in seen if len(place) > 1}
    if blocks:
        yield _event({"type": "content_block_stop", "index": max(blocks)})
    ended = {"stop_reason": "refusal", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 0}})
    yield _event({"type": "message_stop"})


def _cut_response(last: Mapping[str, Any]) -> bytes:
    began = last.get("response")
    response = {
        **(began if isinstance(began, dict) else {}),
        "status": "incomplete",
        "incomplete_details": {"reason": "content_filter"},
    }
    number = last.get("sequence_number", -1)
    return _event(
        {"type": "response.incomplete", "response": response, "sequence_number": number + 1}
    )


def _event(data: Mapping[str, Any]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode("ascii")
