"""The upstream's answer on its way to the client, byte for byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import httpx
from opentelemetry.trace import Span
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..errors import UpstreamError
from .connections import WHOLE
from .headers import end_to_end
from .responses import error_body
from .routes import Api
from .telemetry import fail_span

__all__ = ["Relay", "as_upstream_error", "is_event_stream"]

_RESPONSE_OWN = frozenset([b"date"])


class Relay(StreamingResponse):
    """The upstream's answer, each byte as it comes.

    The next one is asked for when the client has taken the last one, so a slow
    client slows the upstream and fills no memory. When the client goes away the
    connection to the upstream is closed.
    """

    def __init__(
        self,
        response: httpx.Response,
        span: Span,
        read_timeout: float,
        ended: Callable[[], Awaitable[None]],
        api: Api = "openai",
    ) -> None:
        super().__init__(self._told(), status_code=response.status_code)
        self.api = api
        self.upstream = response
        self._span = span
        self._read_timeout = read_timeout
        self._ended = ended
        self._closed = False
        self.raw_headers = end_to_end(response.headers.raw, _RESPONSE_OWN)
        self.chunks: AsyncIterator[bytes] = self._chunks()
        """The body; may be replaced by an iterator that looks into it."""
        self._unread = self.chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self._is_here():
                await self.stream_response(send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            await self.aclose()

    def _is_here(self) -> bool:
        """Whether nothing is waited for, so that nobody need look whether the client leaves."""
        whole = self.upstream.extensions.get(WHOLE)
        return self.chunks is self._unread and whole is not None and whole()

    async def aclose(self) -> None:
        """Give the connection back, or close it when the answer was not read whole."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self.upstream.aclose()
            await self._ended()
        self._span.end()

    async def _told(self) -> AsyncIterator[bytes]:
        """The body, and where it breaks off in an event stream, an event that says so."""
        try:
            async for chunk in self.chunks:
                yield chunk
        except UpstreamError as error:
            fail_span(self._span, error.code or "")
            if not is_event_stream(self.upstream):
                raise
            # The status is sent, but a client of a stream can still be told.
            yield error_event(error, self.api)

    async def _chunks(self) -> AsyncIterator[bytes]:
        body = self.upstream.aiter_raw()
        while True:
            try:
                with anyio.fail_after(self._read_timeout):
                    chunk = await anext(body, None)
            except (httpx.HTTPError, TimeoutError) as error:
                raise as_upstream_error(error) from error
            if chunk is None:
                return
            yield chunk
            # While more comes at every turn of the loop, anyio finds no wait that it could cancel.
            await anyio.lowlevel.checkpoint_if_cancelled()


def is_event_stream(response: httpx.Response) -> bool:
    """Whether an answer is made of server-sent events that can be read as they are."""
    kind: str = response.headers.get("content-type", "")
    plain: bool = response.headers.get("content-encoding", "identity") == "identity"
    return plain and kind.startswith("text/event-stream")


def error_event(error: UpstreamError, api: Api) -> bytes:
    """One last event of a stream. The blank line ends an event that was cut in two."""
    name = b"event: error\n" if api == "anthropic" else b""
    body = json.dumps(error_body(error, api)).encode("ascii")
    return b"\n\n" + name + b"data: " + body + b"\n\n"


def as_upstream_error(error: Exception) -> UpstreamError:
    """What the client is told of a call that failed."""
    # Not the error's own words: they may hold the URL, and a URL credentials.
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return UpstreamError(
            "The upstream took too long to answer: try again, or raise `first_byte_timeout` "
            "or `read_timeout` under [proxy].",
            status=504,
            code="upstream_timeout",
        )
    return UpstreamError(
        f"The upstream cannot be reached ({type(error).__name__}): check `upstream` under [proxy].",
        status=502,
        code="upstream_unreachable",
    )
