"""The way of one API request: screened, then forwarded, refused or blocked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..alarm import AlarmLevel
from ..config import Config
from ..errors import ScreeningError
from .body import render_body
from .calls import Call, beside, read_json, read_raw, received, while_connected
from .content import Content, Shape, extract
from .exchange import Exchange
from .headers import to_upstream
from .logs import log_fields, log_verdict
from .policy import Verdict
from .refusals import can_refuse, refusal
from .responses import (
    block_error,
    error_response,
    failed_open_headers,
    unscreened,
    verdict_headers,
)
from .screening import Screener
from .spotlight import spotlit
from .state import State
from .telemetry import Telemetry
from .upstream import Outgoing
from .watch import Watch, watched

__all__ = ["Gateway"]

_log = logging.getLogger(__name__)

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
        call = received(request, self.state)
        if call.endpoint.shape is None:
            # Nothing is screened, because no text of it reaches a model.
            work = self._forward(call, None, await read_raw(call) or None, {})
        else:
            work = self._answer(call, await read_json(call), call.endpoint.shape)
        return await while_connected(request.receive, work)

    async def _answer(self, call: Call, body: dict[str, Any], shape: Shape) -> Response:
        proxy = call.state.config.proxy
        content = await beside(call, extract, shape, body, proxy.trusted_roles)
        try:
            verdict = await self.verdict(call, content, _model(body))
        except ScreeningError:
            if proxy.fail == "closed":
                return error_response(unscreened(), call.endpoint.api)
            return await self._forward(call, body, render_body(body), failed_open_headers())
        if verdict.stops:
            return _stopped(call, body, shape, verdict)
        return await self._admitted(call, body, verdict)

    async def _admitted(self, call: Call, body: dict[str, Any], verdict: Verdict) -> Response:
        headers = verdict_headers(verdict)
        noted = headers if verdict.action == "annotate" else {}
        if call.state.config.policy.spotlight and noted:
            body = spotlit(body, verdict)
        shown = {} if verdict.intended != verdict.action else headers
        return await self._forward(call, body, render_body(body), shown, noted)

    async def verdict(self, call: Call, content: Content, model: str | None) -> Verdict:
        """Screen what a call holds, and tell everybody who wants to know.

        Raises `ScreeningError` when it cannot be screened.
        """
        config, exchange = call.state.config, call.exchange
        context = call.context(model)
        with self._telemetry.screen_span() as span:
            try:
                verdict = await self._screener.screen(content, config, context)
            except ScreeningError as error:
                self._failed(exchange, config, error)
                raise
            self._telemetry.record_verdict(span, verdict, config.capture)
        exchange.action, exchange.would = verdict.action, verdict.intended
        _log_verdict(exchange, verdict)
        if call.state.audit:
            call.state.audit.write(exchange, model, verdict)
        if self._on_verdict:
            self._on_verdict(verdict)
        return verdict

    def _failed(self, exchange: Exchange, config: Config, error: ScreeningError) -> None:
        fail = config.proxy.fail
        exchange.action = f"failed_{fail}"
        self._telemetry.record_failure(error, fail)
        _log.error("screening failed %s: %s request=%s", fail, error, exchange.request_id)

    async def _forward(
        self,
        call: Call,
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
        watch = self._watch(call)
        headers = to_upstream(
            call.request.headers.raw,
            call.peer,
            own,
            upstream.credential,
            as_is=body is None,
            readable=watch is not None,
        )
        answer = await upstream.send(
            Outgoing(
                method=call.request.method,
                target=call.target,
                query=call.request.scope["query_string"],
                headers=headers,
                content=content,
                operation=OPERATIONS[call.endpoint.shape],
                model=model,
                api=call.endpoint.api,
            )
        )
        answer.headers.update(shown)
        return await watched(answer, watch, body or {}) if watch else answer

    def _watch(self, call: Call) -> Watch | None:
        """How the answer is screened, if it is."""
        config, shape, route = call.state.config, call.endpoint.shape, call.endpoint.path
        if config.answers.action == "off" or not shape or not can_refuse(shape, route):
            return None

        def found(level: AlarmLevel, action: str) -> None:
            self._telemetry.record_answer(route, level.name, action)
            fields = {"action": action, "level": level.name, "request": call.exchange.request_id}
            log_fields(_log, logging.WARNING, "answer", fields)

        return Watch(
            config=config.answers,
            shape=shape,
            screen=lambda texts: self._screener.alarms(texts, config, remember=False),
            found=found,
            fail_open=config.proxy.fail == "open",
        )


def _stopped(call: Call, body: Mapping[str, Any], shape: Shape, verdict: Verdict) -> Response:
    """The answer to a request that is not forwarded."""
    headers, error = verdict_headers(verdict), block_error(verdict)
    if verdict.action == "refuse" and can_refuse(shape, call.endpoint.path):
        return refusal(shape, body, error.message, headers)
    return error_response(error, call.endpoint.api, headers)


def _model(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def _model_in(target: str) -> str | None:
    return target.removeprefix("/models/") if target.startswith("/models/") else None


def _log_verdict(exchange: Exchange, verdict: Verdict) -> None:
    if verdict.action != "allow":
        log_verdict(_log, verdict, request=exchange.request_id)
