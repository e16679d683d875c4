"""A request that has come in: who sends it, on which route, and what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from ..config import Config
from ..errors import RequestError
from .body import check_headers, parse_body, read_body
from .clients import identify, unknown_client
from .encoding import decompressed
from .exchange import Exchange, exchange_of
from .headers import Peer, is_trusted
from .policy import Context, asked_for
from .responses import POLICY_HEADER
from .routes import Endpoint, find, websocket_refused
from .state import State

__all__ = ["Call", "beside", "cancel", "read_json", "read_raw", "received", "while_connected"]

_T = TypeVar("_T")

_LARGE = 100_000
"""Bytes from which on reading a body takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and everything that was settled when it came in."""

    request: Request
    exchange: Exchange
    state: State
    endpoint: Endpoint
    target: str
    peer: Peer

    def context(self, model: str | None) -> Context:
        """What rules of the policy may ask. Raises `RequestError` for a bad wish."""
        return Context(
            route=self.endpoint.path,
            model=model,
            client=self.exchange.client,
            asked=asked_for(self.request.headers.get(POLICY_HEADER, "")),
        )


def received(request: Request, state: State, own: Endpoint | None = None) -> Call:
    """The call that a request is, on an endpoint of our `own` or the one it names.

    Raises `RequestError` when it is on none, wants a WebSocket, or comes from
    nobody known where somebody must be.
    """
    exchange = exchange_of(request.scope)
    if "websocket" in request.headers.get("upgrade", "").lower():
        raise websocket_refused()
    written: bytes = request.scope.get("raw_path") or b""
    endpoint, target = (own, "") if own else find(state.endpoints, request.method, written)
    exchange.route, exchange.api = endpoint.path, endpoint.api
    peer = _peer(request, state.config)
    exchange.client = identify(state.config.client, request.headers, peer.trusted)
    if state.client_required and exchange.client is None:
        raise unknown_client()
    return Call(request, exchange, state, endpoint, target, peer)


def _peer(request: Request, config: Config) -> Peer:
    address = request.client.host if request.client else ""
    return Peer(
        address=address,
        scheme=request.url.scheme,
        trusted=is_trusted(address, config.proxy.trusted_proxies),
        hidden=config.proxy.client_address == "hide",
    )


async def read_raw(call: Call) -> bytes:
    """The body as it came. Raises `RequestError` past the limits of size (413) and time (408)."""
    proxy = call.state.config.proxy
    try:
        with anyio.fail_after(proxy.body_timeout):
            return await read_body(call.request.stream(), proxy.max_body_bytes)
    except TimeoutError:
        raise RequestError(
            f"the body was not there after {proxy.body_timeout:g} seconds: send it faster, or "
            "raise `body_timeout` under [proxy]",
            status=408,
            code="body_timeout",
        ) from None


async def read_json(call: Call) -> dict[str, Any]:
    """The body as the one JSON object it must be. Raises `RequestError` otherwise."""
    headers, proxy = call.request.headers, call.state.config.proxy
    check_headers(headers)
    encoding = ", ".join(headers.getlist("content-encoding"))
    raw = decompressed(await read_raw(call), encoding, proxy.max_body_bytes)
    call.exchange.body_bytes = len(raw)
    return await beside(call, parse_body, raw, proxy.max_depth)


async def beside(call: Call, work: Callable[..., _T], *arguments: Any) -> _T:
    """The result of `work`: in a thread where a large body would hold up the others."""
    if call.exchange.body_bytes < _LARGE:
        return work(*arguments)
    return await anyio.to_thread.run_sync(work, *arguments)


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
