"""The connections to an upstream: who is trusted, how long they may take, who shares them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from typing import Protocol, cast
from urllib.request import getproxies

import anyio
import httpx

from ..errors import ConfigError
from .options import ProxyConfig, UpstreamConfig

__all__ = ["WHOLE", "Client", "connect", "timeouts"]

WHOLE = "alknet_whole"
"""Of an answer's extensions: says whether all of its body is here already."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_KEPT = 100
"""Connections that stay open for the next call."""


class Client(Protocol):
    """What is asked of `httpx.AsyncClient`."""

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response: ...
    async def aclose(self) -> None: ...


def connect(
    config: UpstreamConfig,
    proxy: ProxyConfig,
    base: httpx.URL,
    transport: httpx.AsyncBaseTransport | None,
) -> Client:
    """A client of an upstream. Raises `ConfigError` when it cannot be one."""
    # HTTPS_PROXY and the like, but never on the way to this machine.
    environment = base.host not in _LOOPBACK
    trusted = _authorities(config, environment)

    # What the fast transport cannot do: another protocol, a proxy on the way, a password.
    special = config.http2 or base.userinfo or (environment and getproxies())
    if not (transport or special) and (wire := _wire(base, trusted)):
        return Direct(wire)

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=transport,
            verify=trusted,
            http2=config.http2,
            timeout=timeouts(proxy),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT),
            trust_env=environment,
        )

    try:
        return OneCallEach(client) if config.http2 else client()
    except ImportError:
        raise ConfigError(
            f"upstream.{config.name}.http2: needs the package h2: "
            "pip install 'alknet-firewall[http2]'"
        ) from None


def _wire(base: httpx.URL, trusted: ssl.SSLContext) -> httpx.AsyncBaseTransport | None:
    """The fast transport, where what it is made of is installed."""
    try:
        from .wire import Wire
    except ImportError:
        return None
    return Wire(base, trusted)


def timeouts(proxy: ProxyConfig) -> httpx.Timeout:
    """Of connecting and writing. Reading is timed by us: the first byte and the others differ."""
    return httpx.Timeout(proxy.read_timeout, connect=proxy.connect_timeout, read=None)


def _authorities(config: UpstreamConfig, environment: bool) -> ssl.SSLContext:
    if config.ca_file is None:
        return httpx.create_ssl_context(trust_env=environment)
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"upstream.{config.name}.ca_file: {config.ca_file} cannot be read as certificates "
            f"({error.strerror or type(error).__name__})"
        ) from error


class Direct:
    """A transport by itself: no cookies, no redirects, and nothing that looks for them."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        if not stream:
            await response.aread()
        return response

    async def aclose(self) -> None:
        """Close every connection now."""
        await self._transport.aclose()


class OneCallEach:
    """Connections that carry one call at a time, however many HTTP/2 would allow.

    httpcore never resets a stream, so on a shared connection a call that nobody
    waits for runs on, and a client that does not read fills the window of all
    (docs/decisions/0025). One whose answer was read whole is kept for the next call.
    """

    def __init__(self, open_client: Callable[[], httpx.AsyncClient]) -> None:
        self._open = open_client
        self._idle = [open_client()]
        self._busy: set[httpx.AsyncClient] = set()

    async def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        client = self._idle.pop() if self._idle else self._open()
        self._busy.add(client)
        try:
            response = await client.send(request, stream=True)
        except BaseException:
            await self.ended(client, whole=False)
            raise
        response.stream = _Lent(self, client, cast(httpx.AsyncByteStream, response.stream))
        if not stream:
            await response.aread()
        return response

    async def ended(self, client: httpx.AsyncClient, whole: bool) -> None:
        """Keep the connection of a call for the next one, or close it."""
        self._busy.discard(client)
        if whole and len(self._idle) < _KEPT:
            self._idle.append(client)
            return
        with anyio.CancelScope(shield=True):
            await client.aclose()

    async def aclose(self) -> None:
        """Close every connection now."""
        for client in (*self._idle, *self._busy):
            await client.aclose()


class _Lent(httpx.AsyncByteStream):
    """The body of an answer, which gives its connection back when it is closed."""

    def __init__(
        self, owner: OneCallEach, client: httpx.AsyncClient, body: httpx.AsyncByteStream
    ) -> None:
        self._owner = owner
        self._client = client
        self._body = body
        self._whole = self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk
        self._whole = True

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._body.aclose()
        finally:
            await self._owner.ended(self._client, self._whole)
