"""Refusals: answers that look like a model's, in each API's shape, streamed or not.

For clients that must not see an error. Each says `content_filter`, or
Anthropic's `refusal`, where a model's own answer would.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from .content import Shape

__all__ = ["can_refuse", "refusal"]

_Event = tuple[str | None, dict[str, Any] | str]


def can_refuse(shape: Shape, path: str) -> bool:
    """Whether an answer of this shape can be a refusal: an embedding cannot."""
    return shape in _MAKERS and not path.endswith("/count_tokens")


def refusal(
    shape: Shape, body: Mapping[str, Any], message: str, headers: Mapping[str, str]
) -> Response:
    """The answer 200 with `message` as the model's words, streamed if the client streams."""
    whole, events = _MAKERS[shape]
    model = body.get("model") if isinstance(body.get("model"), str) else "unknown"
    if not body.get("stream"):
        return JSONResponse(whole(model, message), headers=dict(headers))
    written = "".join(_written(name, data) for name, data in events(model, message))
    return Response(written, media_type="text/event-stream", headers=dict(headers))


def _written(name: str | None, data: dict[str, Any] | str) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


def _id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


# --- chat and completions ----------------------------------------------------


def _chat(model: str, message: str) -> dict[str, Any]:
    said = {"role": "assistant", "content": message, "refusal": message}
    choice = {"index": 0, "message": said, "finish_reason": "content_filter", "logprobs": None}
    return _completion("chat.completion", model, _id("chatcmpl-"), [choice])


def _chat_events(model: str, message: str) -> Iterator[_Event]:
    name = _id("chatcmpl-")
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": message, "refusal": message}, None),
        ({}, "content_filter"),
    ]
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        yield None, _completion("chat.completion.chunk", model, name, [choice], usage=False)
    yield None, "[DONE]"


def _text(model: str, message: str) -> dict[str, Any]:
    choice = {"index": 0, "text": message, "finish_reason": "content_filter", "logprobs": None}
    return _completion("text_completion", model, _id("cmpl-"), [choice])


def _text_events(model: str, message: str) -> Iterator[_Event]:
    yield None, _text(model, message)
    yield None, "[DONE]"


def _completion(
    kind: str, model: str, name: str, choices: list[dict[str, Any]], usage: bool = True
) -> dict[str, Any]:
    counts = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {
        "id": name,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        **({"usage": counts} if usage else {}),
    }


# --- responses ---------------------------------------------------------------


def _response(model: str, message: str) -> dict[str, Any]:
    return _response_object(_id("resp_"), model, [_refused_item(_id("msg_"), message)])


def _response_object(name: str, model: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    done = bool(output)
    return {
        "id": name,
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if done else "in_progress",
        "incomplete_details": {"reason": "content_filter"} if done else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": output,
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "temperature": None,
        "top_p": None,
        "usage": None,
    }


def _refused_item(name: str, message: str) -> dict[str, Any]:
    part = {"type": "refusal", "refusal": message}
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "status": "incomplete",
        "content": [part],
    }


def _response_events(model: str, message: str) -> Iterator[_Event]:
    name, item_id = _id("resp_"), _id("msg_")
    item = _refused_item(item_id, message)
    started, finished = _response_object(name, model, []), _response_object(name, model, [item])
    opened = {**item, "status": "in_progress", "content": []}
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
        {"type": "response.output_item.added", "output_index": 0, "item": opened},
        {
            "type": "response.content_part.added",
            **place,
            "part": {"type": "refusal", "refusal": ""},
        },
        {"type": "response.refusal.delta", **place, "delta": message},
        {"type": "response.refusal.done", **place, "refusal": message},
        {"type": "response.content_part.done", **place, "part": item["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.incomplete", "response": finished},
    ]
    for number, event in enumerate(events):
        yield event["type"], {**event, "sequence_number": number}


# --- messages ----------------------------------------------------------------


def _message(model: str, message: str) -> dict[str, Any]:
    return {
        "id": _id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": message}],
        "stop_reason": "refusal",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _message_events(model: str, message: str) -> Iterator[_Event]:
    whole = _message(model, message)
    started = {**whole, "content": [], "stop_reason": None}
    ended = {"stop_reason": "refusal", "stop_sequence": None}
    events: Iterable[dict[str, Any]] = (
        {"type": "message_start", "message": started},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": message},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 0}},
        {"type": "message_stop"},
    )
    for event in events:
        yield event["type"], event


_MAKERS: dict[str, Any] = {
    "chat": (_chat, _chat_events),
    "completions": (_text, _text_events),
    "responses": (_response, _response_events),
    "messages": (_message, _message_events),
}
