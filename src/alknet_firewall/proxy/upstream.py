"""Forwarding: the upstream that serves a model, and one call to it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import anyio
import httpx

from ..config import Config
from ..errors import ConfigError, RequestError
from .connections import connect, timeouts
from .options import ProxyConfig, UpstreamConfig
from .relay import Relay, as_upstream_error
from .routes import Api
from .telemetry import HTTP_STATUS, Telemetry, fail_span, name_call, trace_headers

__all__ = ["Outgoing", "Upstream", "Upstreams"]

# A connection that could not be made has carried nothing, so another try
# cannot make the upstream do anything twice. Nothing else is ever tried again.
_CONNECT_TRIES = 2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request to forward. `target` is what follows the base URL."""

    method: str
    target: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    content: bytes | None = field(default=None, repr=False)
    operation: str | None = None
    """What the call does, in the words of the GenAI conventions; None for a read."""
    model: str | None = None
    api: Api = "openai"


class Upstreams:
    """The upstreams of a configuration. Raises `ConfigError` when one is unusable."""

    def __init__(
        self,
        config: Config,
        telemetry: Telemetry,
        transport: httpx.AsyncBaseTransport | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._all = [
            Upstream(item, config.proxy, telemetry, transport, environ)
            for item in configured(config)
        ]

    def choose(self, model: str | None) -> Upstream:
        """The first upstream for a model; the first of all where none is named.

        Raises `RequestError` (404) when no upstream serves the model.
        """
        if model is None:
            return self._all[0]
        for upstream in self._all:
            if any(fnmatchcase(model, pattern) for pattern in upstream.models):
                return upstream
        raise RequestError(
            "no upstream serves this model: see `models` under [[upstream]]",
            status=404,
            code="model_not_found",
            param="model",
        )

    async def retire(self) -> None:
        """Take no more requests, and close each upstream when its last answer has ended."""
        for upstream in self._all:
            await upstream.retire()

    async def aclose(self) -> None:
        """Close every connection now."""
        for upstream in self._all:
            await upstream.aclose()


def configured(config: Config) -> tuple[UpstreamConfig, ...]:
    """The upstreams in a configuration. Raises `ConfigError` when there is none."""
    short = config.proxy.upstream
    if short is not None and config.upstream:
        raise ConfigError("proxy.upstream and [[upstream]] exclude each other: keep one of them")
    if config.upstream:
        return config.upstream
    return (UpstreamConfig("default", short or ""),)


class Upstream:
    """One upstream API and the connections to it."""

    def __init__(
        self,
        config: UpstreamConfig,
        proxy: ProxyConfig,
        telemetry: Telemetry,
        transport: httpx.AsyncBaseTransport | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.name = config.name
        self.models = config.models
        self.credential = _credential(config, environ)
        self._base = _base_url(config)
        self._proxy = proxy
        self._telemetry = telemetry
        self._client = connect(config, proxy, self._base, transport)
        self._url = functools.lru_cache(64)(self._target)  # httpx takes longer than the wire
        self._calls = 0
        self._retired = False

    async def send(self, request: Outgoing) -> Relay:
        """Forward a request and return its answer, of which nothing is read yet.

        Raises `UpstreamError` when no answer begins, and `RequestError` for a
        query that no URL can have.
        """
        port = self._base.port or _PORTS[self._base.scheme]
        span = self._telemetry.start_upstream_span(request.method, self._base.host, port)
        if request.operation:
            name_call(span, request.operation, request.api, request.model)
        self._calls += 1
        try:
            response = await self._answer(self._written(request, trace_headers(span)))
        except BaseException as error:
            fail_span(span, getattr(error, "code", None) or type(error).__name__)
            span.end()
            await self._ended()
            raise
        span.set_attribute(HTTP_STATUS, response.status_code)
        if response.is_error:
            fail_span(span, str(response.status_code))
        return Relay(response, span, self._proxy.read_timeout, self._ended, request.api)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        started = time.monotonic()
        try:
            with anyio.fail_after(self._proxy.first_byte_timeout):
                response = await self._sent(request)
        except (httpx.HTTPError, TimeoutError) as error:
            raise as_upstream_error(error) from error
        self._telemetry.record_upstream(self.name, time.monotonic() - started)
        return response

    async def _sent(self, request: httpx.Request) -> httpx.Response:
        for _ in range(_CONNECT_TRIES - 1):
            try:
                return await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._client.send(request, stream=True)

    def _written(self, request: Outgoing, trace: Mapping[str, str]) -> httpx.Request:
        traced = ((name.encode(), value.encode()) for name, value in trace.items())
        return httpx.Request(
            request.method,
            self._url(request.target, request.query),
            headers=[*request.headers, *traced],
            content=request.content,
            extensions={"timeout": timeouts(self._proxy).as_dict()},
        )

    def _target(self, target: str, query: bytes) -> httpx.URL:
        path = self._base.raw_path.rstrip(b"/") + target.encode("ascii")
        try:
            return self._base.copy_with(raw_path=path + (b"?" + query if query else b""))
        except httpx.InvalidURL:
            raise RequestError("the query is not valid: escape it", code="bad_query") from None

    async def _ended(self) -> None:
        self._calls -= 1
        if self._retired and not self._calls:
            await self.aclose()

    async def retire(self) -> None:
        """Close when the last answer has ended, which may be now."""
        self._retired = True
        if not self._calls:
            await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


_PORTS = {"http": 80, "https": 443}


def _credential(config: UpstreamConfig, environ: Mapping[str, str]) -> tuple[str, str] | None:
    if config.api_key_env is None:
        return None
    if not (key := environ.get(config.api_key_env, "").strip()):
        raise ConfigError(
            f"upstream.{config.name}.api_key_env: the environment variable "
            f"{config.api_key_env} is not set"
        )
    bearer = config.api_key_header == "authorization"
    return config.api_key_header, f"Bearer {key}" if bearer else key


def _base_url(config: UpstreamConfig) -> httpx.URL:
    try:
        url = httpx.URL(config.base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in _PORTS or not url.host or url.query or url.fragment:
        key = "proxy.upstream" if config.name == "default" else f"upstream.{config.name}.base_url"
        raise ConfigError(
            f"{key} must be the http(s) base URL of an OpenAI-compatible API, "
            "such as https://api.openai.com/v1: pass --upstream URL, set it in the file, or set "
            "OPENAI_BASE_URL"
        )
    return url
