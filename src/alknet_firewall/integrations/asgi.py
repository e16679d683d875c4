"""Middleware for ASGI applications of one's own: FastAPI, Starlette and others.

app.add_middleware(ScreeningMiddleware, paths={"/ask": "user", "/v1/chat/completions": "chat"})
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import FirewallError, RequestError, ScreeningError
from ..proxy.body import check_headers, parse_body, read_body, render_body
from ..proxy.content import Shape
from ..proxy.responses import error_response, unscreened
from ..proxy.screening import Detector
from ._guard import Guard, Ruling, Settings

__all__ = ["How", "ScreeningMiddleware"]

How = Shape | Literal["user", "tool"]
"""A shape of an API, or who wrote every string of the body."""


class ScreeningMiddleware:
    """Screens the JSON that is sent to some paths, before the application sees it.

    `paths` says how the bodies that are sent to a path, or to a pattern such as
    `/chats/*`, are read; others are not screened. What is stopped is answered
    with 400, what cannot be screened with 503, in OpenAI's error shape. The
    application finds the ruling as `request.state.alknet`. `settings` is a
    configuration, the path of a TOML file, or its tables. Wrong settings, or a
    detector that cannot be loaded, keep the application from starting; where the
    server does not tell it of its start, every request raises the error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Mapping[str, How],
        settings: Settings = None,
        firewall: Detector | None = None,
    ) -> None:
        self.app = app
        self._paths = dict(paths)
        self._problem: FirewallError | None = None
        try:
            self._guard = Guard(settings, firewall)
        except FirewallError as error:  # servers believe in no lifespan if it is raised here
            self._problem = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._problem:
            return await _fail(self._problem, scope, receive, send)
        how = self._how(scope)
        if how is None:
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(Request(scope, receive))
            ruling = await self._guard.beside(self._rule, how, body)
            if ruling.stops:
                raise RequestError(ruling.message, code="content_filter")
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        except ScreeningError:
            await error_response(unscreened())(scope, receive, send)
        else:
            scope.setdefault("state", {})["alknet"] = ruling
            await self.app(*_again(scope, receive, render_body(body)), send)

    def _how(self, scope: Scope) -> How | None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        path = scope["path"]
        return next((how for known, how in self._paths.items() if fnmatchcase(path, known)), None)

    async def _read(self, request: Request) -> dict[str, Any]:
        limits = self._guard.config.proxy
        check_headers(request.headers)
        return parse_body(
            await read_body(request.stream(), limits.max_body_bytes), limits.max_depth
        )

    def _rule(self, how: How, body: dict[str, Any]) -> Ruling:
        if how == "user" or how == "tool":
            return self._guard.strings(body, how)
        return self._guard.body(how, body)


async def _fail(problem: FirewallError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        raise problem
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(problem)})


def _again(scope: Scope, receive: Receive, body: bytes) -> tuple[Scope, Receive]:
    """A scope and its body as the application would have got them."""
    headers = MutableHeaders(raw=[*scope["headers"]])
    headers["content-length"] = str(len(body))
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return {**scope, "headers": headers.raw}, receive_again
