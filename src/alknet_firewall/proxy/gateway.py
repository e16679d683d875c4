"""The way of one API request: screened, then forwarded, refused or blocked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from ..config import Config
from ..errors import ScreeningError
from .body import check_headers, parse_body, read_body, render_body
from .clients import identify, unknown_client
from .content import Shape, extract
from .encoding import decompressed
from .exchange import Exchange, exchange_of
from .headers import Peer, is_trusted, to_upstream
from .policy import Context, Verdict, asked_for
from .refusals import can_refuse, refusal
from .responses import (
    POLICY_HEADER,
    block_error,
    error_response,
    failed_open_headers,
    unscreened,
    verdict_headers,
)
from .routes import Endpoint, find, websocket_refused
from .screening import Screener
from .spotlight import spotlit
from .state import State
from .telemetry import Telemetry
from .upstream import Outgoing

__all__ = ["Gateway", "while_connected"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

OPERATIONS: dict[Shape | None, str | None] = {
    None: None,
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
    "embeddings": "embeddings",
    "strings": "forward",
}
"""What each shape asks for, in the words of the GenAI conventions."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, and everything that was settled when it came in."""

    request: Request
    exchange: Exchange
    state: State
    endpoint: Endpoint
    target: str
    peer: Peer


class Gateway:
    """Answers every request of the API. Holds nothing of any of them."""

    def __init__(
        self,
        state: State,
        screener: Screener,
        telemetry: Telemetry,
        on_verdict: Callable[[Verdict], None] | None = None,
    ) -> None:
        self.state = state
        """What the configuration amounts to; may be replaced between requests."""
        self._screener = screener
        self._telemetry = telemetry
        self._on_verdict = on_verdict

    async def handle(self, request: Request) -> Response:
        """Serve one request. Raises `RequestError` or `UpstreamError` where it cannot."""
        call = self._received(request)
        if call.endpoint.shape is None:
            return await self._passed(call)
        check_headers(request.headers)
        proxy = call.state.config.proxy
        raw = await read_body(request.stream(), proxy.max_body_bytes)
        encoding = ", ".join(request.headers.getlist("content-encoding"))
        raw = decompressed(raw, encoding, proxy.max_body_bytes)
        body = parse_body(raw, proxy.max_depth)
        return await while_connected(request.receive, self._answer(call, body))

    def _received(self, request: Request) -> _Call:
        state, exchange = self.state, exchange_of(request.scope)
        if "websocket" in request.headers.get("upgrade", "").lower():
            raise websocket_refused()
        written: bytes = request.scope.get("raw_path") or b""
        endpoint, target = find(state.endpoints, request.method, written)
        exchange.route, exchange.api = endpoint.path, endpoint.api
        peer = _peer(request, state.config)
        exchange.client = identify(state.config.client, request.headers, peer.trusted)
        if state.client_required and exchange.client is None:
            raise unknown_client()
        return _Call(request, exchange, state, endpoint, target, peer)

    async def _passed(self, call: _Call) -> Response:
        """A request of which nothing is screened, because no text of it reaches a model."""
        limit = call.state.config.proxy.max_body_bytes
        raw = await read_body(call.request.stream(), limit) or None
        work = self._forward(call, None, raw, {})
        return await while_connected(call.request.receive, work)

    async def _answer(self, call: _Call, body: dict[str, Any]) -> Response:
        proxy = call.state.config.proxy
        try:
            verdict = await self._screen(call, body)
        except ScreeningError:
            call.exchange.action = f"failed_{proxy.fail}"
            if proxy.fail == "closed":
                return error_response(unscreened(), call.endpoint.api)
            return await self._forward(call, body, render_body(body), failed_open_headers())
        if verdict.stops:
            return _stopped(call, body, verdict)
        return await self._admitted(call, body, verdict)

    async def _admitted(self, call: _Call, body: dict[str, Any], verdict: Verdict) -> Response:
        policy = call.state.config.policy
        headers = verdict_headers(verdict)
        noted = headers if verdict.action == "annotate" else {}
        if policy.spotlight and noted:
            body = spotlit(body, verdict)
        shown = {} if verdict.intended != verdict.action else headers
        return await self._forward(call, body, render_body(body), shown, noted)

    async def _screen(self, call: _Call, body: dict[str, Any]) -> Verdict:
        config, exchange, shape = call.state.config, call.exchange, call.endpoint.shape
        context = Context(
            route=call.endpoint.path,
            model=_model(body),
            client=exchange.client,
            asked=asked_for(call.request.headers.get(POLICY_HEADER, "")),
        )
        with self._telemetry.screen_span() as span:
            try:
                content = extract(shape or "strings", body, config.proxy.trusted_roles)
                verdict = await self._screener.screen(content, config, context)
            except ScreeningError as error:
                fail = config.proxy.fail
                self._telemetry.record_failure(error, fail)
                _log.error("screening failed %s: %s request=%s", fail, error, exchange.request_id)
                raise
            self._telemetry.record_verdict(span, verdict)
        exchange.action, exchange.would = verdict.action, verdict.intended
        _log_verdict(exchange, verdict)
        if self._on_verdict:
            self._on_verdict(verdict)
        return verdict

    async def _forward(
        self,
        call: _Call,
        body: Mapping[str, Any] | None,
        content: bytes | None,
        shown: Mapping[str, str],
        noted: Mapping[str, str] | None = None,
    ) -> Response:
        """The upstream's answer with the headers `shown`, after telling it those `noted`."""
        model = _model(body or {}) or _model_in(call.target)
        upstream = call.state.upstreams.choose(model)
        own = {"x-request-id": call.exchange.request_id, **(noted or {})}
        if body is not None:
            own["content-type"] = "application/json"
        answer = await upstream.send(
            Outgoing(
                method=call.request.method,
                target=call.target,
                query=call.request.scope["query_string"],
                headers=to_upstream(
                    call.request.headers.raw,
                    call.peer,
                    own,
                    upstream.credential,
                    as_is=body is None,
                ),
                content=content,
                operation=OPERATIONS[call.endpoint.shape],
                model=model,
                api=call.endpoint.api,
            )
        )
        answer.headers.update(shown)
        return answer


def _stopped(call: _Call, body: Mapping[str, Any], verdict: Verdict) -> Response:
    """The answer to a request that is not forwarded."""
    headers, shape = verdict_headers(verdict), call.endpoint.shape
    error = block_error(verdict)
    if verdict.action == "refuse" and shape and can_refuse(shape, call.endpoint.path):
        return refusal(shape, body, error.message, headers)
    return error_response(error, call.endpoint.api, headers)


def _peer(request: Request, config: Config) -> Peer:
    address = request.client.host if request.client else ""
    return Peer(
        address=address,
        scheme=request.url.scheme,
        trusted=is_trusted(address, config.proxy.trusted_proxies),
        hidden=config.proxy.client_address == "hide",
    )


def _model(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def _model_in(target: str) -> str | None:
    return target.removeprefix("/models/") if target.startswith("/models/") else None


def _log_verdict(exchange: Exchange, verdict: Verdict) -> None:
    if (worst := verdict.worst) is None or verdict.action == "allow":
        return
    _log.warning(
        "action=%s would=%s level=%s score=%.4f role=%s path=%s texts=%d request=%s",
        verdict.action,
        verdict.intended,
        worst.alarm.level.name,
        worst.alarm.score,
        worst.text.role,
        worst.text.json_path,
        len(verdict.findings),
        exchange.request_id,
    )


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
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
        await cancel(task)
        await cancel(gone)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended, however it ends."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # seen, so that asyncio does not complain of it
