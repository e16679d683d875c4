"""HTTP/1.1 to one upstream, read by llhttp: a transport for httpx, many times as fast.

A connection carries one call at a time. One whose answer was read whole is kept for the
next call; one that was left early is closed at once. Nothing is ever asked twice.

Imported only where httptools is installed (docs/decisions/0029).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import cast

import anyio
import httptools
import httpx
from aiohappyeyeballs import start_connection

from .connections import WHOLE

__all__ = ["Wire"]

Headers = list[tuple[bytes, bytes]]

_MAX_HEAD = 131_072
"""Bytes of an answer before its body; llhttp itself has no limit."""
_MOST_WAITING = 65_536
"""Bytes of a body that wait for whoever reads it, before the upstream is held back."""
_IDLE = 5.0
"""Seconds that a connection is kept for the next call."""
_KEPT = 100
_NEXT_ADDRESS = 0.25
"""Seconds until a host's next address is tried beside the first (RFC 8305)."""


class Wire(httpx.AsyncBaseTransport):
    """Connections to the host of `base`. Their errors are those of httpx."""

    def __init__(self, base: httpx.URL, trusted: ssl.SSLContext) -> None:
        secure = base.scheme == "https"
        self._host = base.raw_host.decode("ascii")
        self._port = base.port or (443 if secure else 80)
        self._trusted = trusted if secure else None
        if secure:
            trusted.set_alpn_protocols(["http/1.1"])
        self._idle: deque[tuple[Connection, float]] = deque()
        self._busy: set[Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, of which the head has come."""
        written = _written(request)
        connection = self._kept()
        if connection is None:
            connection = await self._made(request.extensions["timeout"]["connect"])
        self._busy.add(connection)
        try:
            status, headers = await connection.ask(written)
        except BaseException:
            self.ended(connection)
            raise
        body = _Body(self, connection)
        return httpx.Response(
            status, headers=headers, stream=body, extensions={WHOLE: body.is_whole}
        )

    def _kept(self) -> Connection | None:
        """The connection that was used last, unless the upstream has closed it since."""
        oldest = asyncio.get_running_loop().time() - _IDLE
        while self._idle:
            connection, since = self._idle.pop()
            if since > oldest and connection.is_silent():
                return connection
            connection.abort()
        return None

    async def _made(self, within: float) -> Connection:
        try:
            with anyio.fail_after(within):
                return await self._connected()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("") from error
        except OSError as error:
            raise httpx.ConnectError("") from error

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        connected = await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = self._host if self._trusted else None
        _, connection = await loop.create_connection(
            Connection, sock=connected, ssl=self._trusted, server_hostname=name
        )
        return connection

    def ended(self, connection: Connection) -> None:
        """Keep the connection of a call for the next one, or close it."""
        self._busy.discard(connection)
        if connection.is_reusable() and len(self._idle) < _KEPT:
            self._idle.append((connection, asyncio.get_running_loop().time()))
        else:
            connection.abort()

    async def aclose(self) -> None:
        """Close every connection now."""
        for connection in (*self._busy, *(item for item, _ in self._idle)):
            connection.abort()
        self._idle.clear()


def _written(request: httpx.Request) -> bytes:
    """A request as it goes over the wire. Raises `LocalProtocolError` for one that is none."""
    lines = [request.method.encode("ascii") + b" " + request.url.raw_path + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers.raw]
    head = b"\r\n".join(lines)
    # A line break inside a header would begin another one.
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx.LocalProtocolError("a header with a line break")
    return head + b"\r\n\r\n" + request.content


class Connection(asyncio.Protocol):
    """One connection: asked once at a time, and read no faster than its answer is taken."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._gone: httpx.TransportError | None = None
        self._changed = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        self._headers: Headers = []
        self._chunks: deque[bytes] = deque()
        self._waiting = self._head_bytes = 0
        self._status: int | None = None
        self._complete = self._surplus = self._kept_alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    # --- what is asked of it ---------------------------------------------------

    async def ask(self, written: bytes) -> tuple[int, Headers]:
        """Send a request and wait for the head of its answer."""
        self._begin()
        self._transport.write(written)
        while self._status is None:
            await self._change()
        return self._status, self._headers

    async def chunk(self) -> bytes:
        """What has come of the body, at least a byte, or nothing at its end."""
        while not self._chunks:
            if self._complete:
                return b""
            await self._change()
        found = b"".join(self._chunks)
        self._chunks.clear()
        if self._waiting >= _MOST_WAITING:
            self._transport.resume_reading()
        self._waiting = 0
        return found

    async def _change(self) -> None:
        if self._gone:
            raise self._gone
        self._changed.clear()
        await self._changed.wait()

    def is_whole(self) -> bool:
        """Whether all of the answer has come."""
        return self._complete

    def is_silent(self) -> bool:
        """Whether nothing has come since the last answer, not even its end."""
        return self._gone is None and not self._surplus and not self._poll.poll(0)

    def is_reusable(self) -> bool:
        """Whether it may be asked again: all is written, all is read, and it stays open."""
        return (
            self._complete
            and self._kept_alive
            and not self._surplus
            and not self._gone
            and not self._transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        """Close it now, whatever is still on its way."""
        self._fail(httpx.ReadError("closed"))
        self._transport.abort()

    # --- what the event loop tells ---------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self._surplus = True
            return
        if self._status is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx.RemoteProtocolError("no HTTP"))
        if self._status is None and self._head_bytes > _MAX_HEAD:
            self._fail(httpx.RemoteProtocolError("a head without end"))
        if self._gone:
            self._transport.abort()
        elif self._waiting >= _MOST_WAITING:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._status is not None and not error and not _is_framed(self._headers):
            self._complete = True  # such a body ends where the connection does
        self._fail(httpx.RemoteProtocolError("it hung up"))

    def _fail(self, error: httpx.TransportError) -> None:
        self._gone = self._gone or error
        self._changed.set()

    # --- what the parser tells --------------------------------------------------

    def on_message_begin(self) -> None:
        self._surplus = self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._status is None:  # what comes later is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._complete:
            self._status = status
            self._changed.set()

    def on_body(self, body: bytes) -> None:
        if not self._surplus:
            self._chunks.append(body)
            self._waiting += len(body)
            self._changed.set()

    def on_message_complete(self) -> None:
        if self._status is None:  # 100 Continue and its kin: the answer is still to come
            self._headers = []
            return
        self._kept_alive = self._parser.should_keep_alive()
        self._complete = True
        self._changed.set()


def _is_framed(headers: Headers) -> bool:
    """Whether an answer says itself where it ends."""
    named = {name.lower(): value.lower() for name, value in headers}
    return b"content-length" in named or named.get(b"transfer-encoding", b"").endswith(b"chunked")


class _Body(httpx.AsyncByteStream):
    """The body of an answer, which gives its connection back when it is closed."""

    def __init__(self, owner: Wire, connection: Connection) -> None:
        self._owner = owner
        self._connection: Connection | None = connection

    def is_whole(self) -> bool:
        """Whether all of it is here, so that taking it waits for nobody."""
        return self._connection is not None and self._connection.is_whole()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._connection and (chunk := await self._connection.chunk()):
            yield chunk

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            self._owner.ended(connection)
