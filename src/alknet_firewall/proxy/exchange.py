"""One request and its answer: what is noted of them, around every route."""

from __future__ import annotations

import logging
import re
import time
import traceback
import uuid
from dataclasses import dataclass, field

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ProxyError
from .logs import log_fields
from .responses import error_response
from .routes import Api
from .telemetry import HTTP_ROUTE, HTTP_STATUS, REQUEST_ID, Telemetry, fail_span

__all__ = ["Exchange", "Observed", "exchange_of"]

_log = logging.getLogger(__name__)

_SCOPE_KEY = "alknet_firewall.exchange"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_PROBES = ("/healthz", "/readyz", "/metrics")


@dataclass
class Exchange:
    """What the routes note of a request while they answer it."""

    request_id: str
    span: Span = INVALID_SPAN
    route: str = "none"
    action: str = "none"
    would: str = ""
    """The action that shadow mode kept from being taken, or the same."""
    api: Api = "openai"
    client: str | None = None
    body_bytes: int = 0
    status: int | None = None
    """None until the answer begins."""
    started: float = field(default_factory=time.monotonic)


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of the request that is being answered."""
    exchange: Exchange = scope[_SCOPE_KEY]
    return exchange


class Observed:
    """ASGI middleware: a request id, a server span and metrics for each request."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(_request_id(headers.get("x-request-id", "")))
        scope[_SCOPE_KEY] = exchange
        if scope["path"] in _PROBES:  # asked every few seconds, and of no interest
            await self.app(scope, receive, send)
            return
        streams = False

        async def send_noted(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                streams = _is_event_stream(message)
                _add_request_id(message, exchange)
            elif streams and message.get("body"):
                streams = False
                elapsed = time.monotonic() - exchange.started
                self._telemetry.record_first_byte(exchange.route, elapsed)
            await send(message)

        with self._telemetry.server_span(scope["method"], headers) as exchange.span:
            try:
                await self.app(scope, receive, send_noted)
            except Exception as error:
                if exchange.status is not None:
                    raise  # too late for another answer: the server cuts this one off
                await _apologise(error, exchange.api)(scope, receive, send_noted)
            finally:
                self._note(scope["method"], exchange)

    def _note(self, method: str, exchange: Exchange) -> None:
        span, status = exchange.span, exchange.status or 500
        span.update_name(f"{method} {exchange.route}")
        span.set_attributes(
            {
                HTTP_ROUTE: exchange.route,
                HTTP_STATUS: status,
                REQUEST_ID: exchange.request_id,
            }
        )
        if status >= 500:
            fail_span(span, str(status))
        elapsed = time.monotonic() - exchange.started
        fields = {
            "method": method,
            "route": exchange.route,
            "status": status,
            "action": exchange.action,
            "client": exchange.client or "-",
            "seconds": round(elapsed, 4),
            "request": exchange.request_id,
        }
        log_fields(_log, logging.INFO, "request", fields)
        self._telemetry.record_request(
            exchange.route, exchange.action, status, elapsed, exchange.would
        )


def _apologise(error: Exception, api: Api) -> JSONResponse:
    """The answer to a request that hit a mistake of ours.

    The log says where it was, without the error's words: they may be content.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("unexpected %s at\n%s", type(error).__name__, place)
    return error_response(ProxyError("alknet-firewall failed to serve this request"), api)


def _request_id(given: str) -> str:
    """The caller's request id where it has the form of one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message["headers"]
    )


def _add_request_id(message: Message, exchange: Exchange) -> None:
    # An upstream's own id is the one its support asks for, so it stays.
    names = [b"x-request-id"] + ([b"request-id"] if exchange.api == "anthropic" else [])
    present = {name.lower() for name, _ in message["headers"]}
    written = exchange.request_id.encode("ascii")
    added = [(name, written) for name in names if name not in present]
    message["headers"] = [*message["headers"], *added]
