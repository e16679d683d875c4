"""The proxy as an ASGI application: its routes, and the way of a request."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import anyio.to_thread
import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive

from ..config import Config
from ..errors import ProxyError, RequestError, ScreeningError
from .body import check_headers, parse_body, read_body
from .content import chat_texts
from .exchange import Exchange, Observed, exchange_of
from .policy import Verdict
from .responses import (
    blocked,
    error_response,
    failed_open_headers,
    not_found,
    unscreened,
    verdict_headers,
)
from .screening import Detector, Screener
from .telemetry import Telemetry, telemetry_from_environment
from .upstream import Upstream

__all__ = ["create_app"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
MODEL = "/v1/models/{model}"


def create_app(
    config: Config,
    firewall: Detector,
    *,
    telemetry: Telemetry | None = None,
    on_verdict: Callable[[Verdict], None] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Starlette:
    """The proxy, ready to be run by an ASGI server.

    `on_verdict` is called in the event loop with the verdict on each screened
    request, before it is forwarded or refused; it holds the screened texts, so
    it is for looking on in the same process, as the demo does. `telemetry` and
    `transport` replace what the environment configures. Raises `ConfigError`
    when no usable upstream is configured.
    """
    telemetry = telemetry or telemetry_from_environment()
    proxy = _Proxy(config, firewall, telemetry, on_verdict, transport)
    app = Starlette(
        routes=[
            Route(CHAT, proxy.chat, methods=["POST"]),
            Route(MODELS, proxy.models, methods=["GET"]),
            Route("/v1/models/{model:path}", proxy.models, methods=["GET"]),
            Route("/healthz", proxy.healthz),
            Route("/readyz", proxy.readyz),
        ],
        middleware=[Middleware(Observed, telemetry=telemetry)],
        exception_handlers={
            ProxyError: _refuse,
            HTTPException: _refuse_http,
            ClientDisconnect: _nobody_listens,
        },
        lifespan=proxy.lifespan,
    )
    # A path that is almost right is wrong: it gets a 404, not a redirect.
    app.router.redirect_slashes = False
    return app


class _Proxy:
    """The routes, and what they share for as long as the application runs."""

    def __init__(
        self,
        config: Config,
        firewall: Detector,
        telemetry: Telemetry,
        on_verdict: Callable[[Verdict], None] | None,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._on_verdict = on_verdict
        self._screener = Screener(firewall, config)
        self._upstream = Upstream(config.proxy, telemetry, transport)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the detector while /healthz and /readyz answer already."""
        preparing = asyncio.create_task(self._screener.prepare())
        yield
        await _cancel(preparing)
        await self._upstream.aclose()
        await anyio.to_thread.run_sync(self._telemetry.shutdown)

    async def healthz(self, request: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """The detector is loaded and told a known attack from a known harmless text."""
        screener = self._screener
        body = {"status": screener.status, "problem": screener.problem}
        return JSONResponse(body, status_code=200 if screener.status == "ready" else 503)

    async def models(self, request: Request) -> Response:
        """Passed through: no text goes to a model."""
        _check_path(request, MODEL if request.path_params else MODELS)
        return await _while_connected(request.receive, self._forward(request, {}))

    async def chat(self, request: Request) -> Response:
        """Screened, then forwarded or refused."""
        exchange = _check_path(request, CHAT)
        check_headers(request.headers)
        limits = self._config.proxy
        raw = await read_body(request.stream(), limits.max_body_bytes)
        body = parse_body(raw, limits.max_depth)
        return await _while_connected(request.receive, self._answer(request, exchange, body))

    async def _answer(self, request: Request, exchange: Exchange, body: dict[str, Any]) -> Response:
        try:
            verdict = await self._screen(exchange, body)
        except ScreeningError:
            exchange.action = f"failed_{self._config.proxy.fail}"
            if self._config.proxy.fail == "closed":
                return unscreened()
            return await self._forward(request, failed_open_headers(), body=body)
        if verdict.action == "block" and verdict.worst:
            return blocked(verdict, verdict.worst)
        headers = verdict_headers(verdict)
        noted = headers if verdict.action == "annotate" else {}
        return await self._forward(request, headers, body=body, to_upstream=noted)

    async def _screen(self, exchange: Exchange, body: dict[str, Any]) -> Verdict:
        with self._telemetry.screen_span() as span:
            try:
                texts = chat_texts(body, self._config.proxy.trusted_roles)
                verdict = await self._screener.screen(texts)
            except ScreeningError as error:
                fail = self._config.proxy.fail
                self._telemetry.record_failure(error, fail)
                _log.error("screening failed %s: %s request=%s", fail, error, exchange.request_id)
                raise
            self._telemetry.record_verdict(span, verdict)
        exchange.action = verdict.action
        _log_verdict(exchange, verdict)
        if self._on_verdict:
            self._on_verdict(verdict)
        return verdict

    async def _forward(
        self,
        request: Request,
        headers: Mapping[str, str],
        *,
        body: dict[str, Any] | None = None,
        to_upstream: Mapping[str, str] | None = None,
    ) -> Response:
        answer = await self._upstream.send(
            request.method,
            request.scope["path"],
            request.scope["query_string"],
            request.headers.raw,
            extra={**(to_upstream or {}), "x-request-id": exchange_of(request.scope).request_id},
            body=body,
        )
        answer.headers.update(headers)
        return answer


# A model's name may have slashes, but no escape, no empty and no dotted part.
_PLAIN_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.:@-]+)+")


def _check_path(request: Request, route: str) -> Exchange:
    """Note the route. Raises `RequestError` (404) unless the path is written plainly.

    The router matches the decoded path; two ways to write one path are one way
    for two readers to disagree about it.
    """
    written: bytes = request.scope.get("raw_path") or b""
    if not _PLAIN_PATH.fullmatch(written.decode("latin-1")):
        raise not_found(request.method)
    exchange = exchange_of(request.scope)
    exchange.route = route
    return exchange


def _log_verdict(exchange: Exchange, verdict: Verdict) -> None:
    if (worst := verdict.worst) is None or verdict.action == "allow":
        return
    _log.warning(
        "action=%s level=%s score=%.4f role=%s path=%s texts=%d request=%s",
        verdict.action,
        worst.alarm.level.name,
        worst.alarm.score,
        worst.text.role,
        worst.text.json_path,
        len(verdict.findings),
        exchange.request_id,
    )


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, which is cancelled when the client goes away.

    Raises `ClientDisconnect` then. The request's body must have been read.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancel(task)
        await _cancel(gone)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # seen, so that asyncio does not complain of it


async def _refuse(request: Request, error: Exception) -> Response:
    return error_response(cast(ProxyError, error))


async def _refuse_http(request: Request, error: Exception) -> Response:
    """The router's own refusals. WebSocket upgrades end here too, as plain GETs."""
    refusal = cast(HTTPException, error)
    if refusal.status_code != 405 or request.method == "POST":
        return error_response(not_found(request.method))
    problem = RequestError(
        "this path does not take this method", status=405, code="method_not_allowed"
    )
    return error_response(problem, refusal.headers)


async def _nobody_listens(request: Request, error: Exception) -> Response:
    # Never seen by anyone; nginx's number for it keeps the metrics honest.
    return Response(status_code=499)
