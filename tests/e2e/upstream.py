"""An upstream that keeps what it was sent: the echo, plus a few tricks."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from alknet_firewall.proxy.echo import create_echo_app, echo_chat
from alknet_firewall.proxy.server import running

from .answers import STREAMS, WHOLE

TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}


class Upstream:
    """Answers as the echo does; with tools it calls one, and the model's name
    asks for a trick: `endless` streams until it is cancelled, `brief` for a second,
    `dies` breaks off. Where it cannot echo, `says` comes before " there"."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                *(Route(path, self._fixed, methods=["POST"]) for path in WHOLE),
                Mount("/", create_echo_app()),
            ]
        )

    def reset(self) -> None:
        self.says = "hello"
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = threading.Event()

    async def _fixed(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        path = request.url.path
        if not body.get("stream"):
            return Response(self._worded(json.dumps(WHOLE[path])), media_type="application/json")
        return StreamingResponse(self._slowly(STREAMS[path]), media_type="text/event-stream")

    async def _slowly(self, events: list[str]) -> AsyncIterator[str]:
        for event in events:
            yield self._worded(event)
            await asyncio.sleep(0.005)

    def _worded(self, answer: str) -> str:
        return answer.replace("hello", self.says)

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if body["model"] == "silent":
            await self._wait_for_the_end(request)
        if body["model"] in ("endless", "brief", "dies"):
            return StreamingResponse(self._events(body["model"]), media_type="text/event-stream")
        if body.get("tools") and body["messages"][-1]["role"] == "user":
            return JSONResponse(_calling(body["model"]))
        return await echo_chat(request)

    async def _wait_for_the_end(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.cancelled.set()

    async def _events(self, model: str) -> AsyncIterator[str]:
        chunk = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "delta": {"content": "tick "}, "finish_reason": None}],
        }
        try:
            for _ in range(50) if model == "brief" else itertools.count():
                yield f"data: {json.dumps(chunk)}\n\n"
                await asyncio.sleep(0.02)
                if model == "dies":
                    raise ConnectionResetError("on purpose")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def _calling(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }


@contextmanager
def serving() -> Iterator[Upstream]:
    """An upstream on a port of its own."""
    served = Upstream()
    with running(served.app) as url:
        served.url = url
        yield served
