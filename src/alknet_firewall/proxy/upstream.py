"""Forwarding to the upstream, and its answer back to the client as it comes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import anyio
import httpx
from opentelemetry.trace import Span
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..config import ProxyConfig
from ..errors import ConfigError, RequestError, UpstreamError
from .body import render_body
from .responses import error_body
from .telemetry import HTTP_STATUS, Telemetry, fail_span, name_chat, trace_headers

__all__ = ["Upstream", "forwarded_headers"]

_Pairs = Iterable[tuple[bytes, bytes]]

# RFC 9110, 7.6.1: meant for the next hop only. The connection is ours.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"te trailer transfer-encoding upgrade".split()
)
# Written anew: the body is, and the trace context names our own span.
_REQUEST_OWN = frozenset(
    b"host content-length content-type content-encoding expect "
    b"traceparent tracestate accept-encoding x-request-id".split()
)
_RESPONSE_OWN = frozenset([b"date"])
_RESERVED = b"x-alknet-"


def forwarded_headers(headers: _Pairs, own: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """The end-to-end headers without those that the proxy writes itself.

    `x-alknet-*` go neither way: only this proxy may say what it found.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    listed = {
        token.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for token in value.split(b",")
    }
    drop = _HOP_BY_HOP | own | listed
    return [pair for pair in pairs if pair[0] not in drop and not pair[0].startswith(_RESERVED)]


class Upstream:
    """One upstream API and the connections to it."""

    def __init__(
        self,
        config: ProxyConfig,
        telemetry: Telemetry,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base = _base_url(config.upstream)
        self._telemetry = telemetry
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(config.read_timeout, connect=config.connect_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            # HTTPS_PROXY and the like, but never on the way to this machine.
            trust_env=self._base.host not in ("127.0.0.1", "localhost", "::1"),
        )

    async def send(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: _Pairs,
        *,
        extra: Mapping[str, str],
        body: dict[str, Any] | None = None,
    ) -> Relay:
        """Forward a request and return its answer, of which nothing is read yet.

        `path` begins with `/v1`, which the base URL holds already; `extra` are
        headers of the proxy's own. Raises `UpstreamError` when no answer
        begins, and `RequestError` for a query that no URL can have.
        """
        port = self._base.port or _PORTS[self._base.scheme]
        span = self._telemetry.start_upstream_span(method, self._base.host, port)
        if body is not None:
            name_chat(span, body.get("model"))
        try:
            request = self._request(
                method, self._target(path, query), headers, {**extra, **trace_headers(span)}, body
            )
            response = await self._answer(request)
        except BaseException as error:
            fail_span(span, getattr(error, "code", None) or type(error).__name__)
            span.end()
            raise
        span.set_attribute(HTTP_STATUS, response.status_code)
        if response.is_error:
            fail_span(span, str(response.status_code))
        return Relay(response, span)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        started = time.monotonic()
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _as_upstream_error(error) from error
        self._telemetry.record_upstream(time.monotonic() - started)
        return response

    def _target(self, path: str, query: bytes) -> httpx.URL:
        target = self._base.raw_path.rstrip(b"/") + path.removeprefix("/v1").encode("ascii")
        try:
            return self._base.copy_with(raw_path=target + (b"?" + query if query else b""))
        except httpx.InvalidURL:
            raise RequestError("the query is not valid: escape it", code="bad_query") from None

    def _request(
        self,
        method: str,
        target: httpx.URL,
        headers: _Pairs,
        extra: Mapping[str, str],
        body: dict[str, Any] | None,
    ) -> httpx.Request:
        pairs = [*headers]
        accepted = [value for name, value in pairs if name.lower() == b"accept-encoding"]
        own = {
            # The answer is passed on as it comes, so only what the client takes.
            "accept-encoding": b", ".join(accepted).decode("latin-1") or "identity",
            **({} if body is None else {"content-type": "application/json"}),
            **extra,
        }
        return httpx.Request(
            method,
            target,
            headers=[
                *forwarded_headers(pairs, _REQUEST_OWN),
                *((name.encode("ascii"), value.encode("latin-1")) for name, value in own.items()),
            ],
            content=None if body is None else render_body(body),
            extensions={"timeout": self._client.timeout.as_dict()},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


class Relay(StreamingResponse):
    """The upstream's answer, byte for byte, each byte as it comes.

    When the client goes away the connection to the upstream is closed.
    """

    def __init__(self, response: httpx.Response, span: Span) -> None:
        super().__init__(self._chunks(), status_code=response.status_code)
        self._response = response
        self._span = span
        self.raw_headers = forwarded_headers(response.headers.raw, _RESPONSE_OWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back, or close it when the answer was not read whole."""
        with anyio.CancelScope(shield=True):
            await self._response.aclose()
        self._span.end()

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            fail_span(self._span, type(error).__name__)
            failure = _as_upstream_error(error)
            if not self._is_event_stream():
                raise failure from error
            # The status is sent, but a client of a stream can still be told.
            yield _error_event(failure)

    def _is_event_stream(self) -> bool:
        headers = self._response.headers
        return (
            headers.get("content-type", "").startswith("text/event-stream")
            and "content-encoding" not in headers
        )


_PORTS = {"http": 80, "https": 443}


def _base_url(upstream: str | None) -> httpx.URL:
    try:
        url = httpx.URL(upstream or "")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in _PORTS or not url.host or url.query or url.fragment:
        raise ConfigError(
            "proxy.upstream must be the http(s) base URL of an OpenAI-compatible API, "
            "such as https://api.openai.com/v1: pass --upstream URL, or set it in the file"
        )
    return url


def _as_upstream_error(error: httpx.HTTPError) -> UpstreamError:
    # Not the error's own words: they may hold the URL, and a URL credentials.
    if isinstance(error, httpx.TimeoutException):
        return UpstreamError(
            "The upstream took too long to answer: try again, or raise `read_timeout` "
            "under [proxy].",
            status=504,
            code="upstream_timeout",
        )
    return UpstreamError(
        f"The upstream cannot be reached ({type(error).__name__}): check `upstream` under [proxy].",
        status=502,
        code="upstream_unreachable",
    )


def _error_event(error: UpstreamError) -> bytes:
    body = error_body(error.message, type=error.type, code=error.code)
    # The blank line ends an event that was cut in the middle.
    return b"\n\ndata: " + json.dumps(body).encode("ascii") + b"\n\n"
