"""A small OpenAI-compatible upstream that echoes: for the demo and for tests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["ECHO_MODEL", "create_echo_app", "echo_chat"]

ECHO_MODEL = "echo"


def create_echo_app() -> Starlette:
    """An upstream whose model answers with the last message it was sent.

    Where a user may have a tool called, it calls the first, without arguments.
    """
    return Starlette(
        routes=[
            Route("/v1/chat/completions", echo_chat, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{model:path}", _model),
        ]
    )


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_describe(ECHO_MODEL)]})


async def _model(request: Request) -> Response:
    return JSONResponse(_describe(request.path_params["model"]))


async def echo_chat(request: Request) -> Response:
    """`/v1/chat/completions`, streaming where the client asks for it."""
    body = await request.json()
    messages = body.get("messages") or []
    answer = f"echo: {_last_text(messages)}"
    if body.get("tools") and messages[-1].get("role") == "user" and not body.get("stream"):
        return JSONResponse({**_calling(body), "usage": _usage(body, "")})
    if body.get("stream"):
        return StreamingResponse(_events(body, answer), media_type="text/event-stream")
    message = {"role": "assistant", "content": answer}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    completion = _envelope(body, "chat.completion", [choice])
    return JSONResponse({**completion, "usage": _usage(body, answer)})


def _calling(body: dict[str, Any]) -> dict[str, Any]:
    function = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
    call = {"id": "call_echo", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    return _envelope(body, "chat.completion", [choice])


def _events(body: dict[str, Any], answer: str) -> Iterator[str]:
    """A word for each event, as server-sent events."""
    words = [word + " " for word in answer.split(" ")]
    deltas: list[dict[str, str]] = [
        {"role": "assistant", "content": ""},
        *({"content": word} for word in words),
    ]
    for delta in deltas:
        yield _event(body, [{"index": 0, "delta": delta, "finish_reason": None}])
    yield _event(body, [{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event(body, [], usage=_usage(body, answer))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any], choices: list[dict[str, Any]], **more: object) -> str:
    chunk = {**_envelope(body, "chat.completion.chunk", choices), **more}
    return f"data: {json.dumps(chunk)}\n\n"


def _envelope(body: dict[str, Any], kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-echo",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model", ECHO_MODEL),
        "choices": choices,
    }


def _usage(body: dict[str, Any], answer: str) -> dict[str, int]:
    """Words for tokens: near enough for an echo."""
    sent, said = len(str(body.get("messages")).split()), len(answer.split())
    return {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}


def _last_text(messages: list[dict[str, Any]]) -> str:
    content = messages[-1].get("content") if messages else None
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _describe(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "alknet-firewall"}
