from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import httpx
from opentelemetry.trace import INVALID_SPAN

from alknet_firewall.proxy.relay import Relay

TURNS = 10_000


class Always(httpx.AsyncByteStream):
    """A body of which more has come whenever the event loop turns."""

    def __init__(self) -> None:
        self.turns = 0
        self._wait: asyncio.Future[None] | None = None

    def feed(self) -> None:
        self.turns += 1
        if self._wait and not self._wait.done():
            self._wait.set_result(None)
        if self.turns < TURNS:
            asyncio.get_running_loop().call_soon(self.feed)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.turns < TURNS:
            self._wait = asyncio.get_running_loop().create_future()
            await self._wait
            yield b"more"


async def _nothing() -> None:
    pass


def test_a_relay_ends_when_it_is_cancelled_however_fast_more_comes() -> None:
    async def relayed() -> int:
        body = Always()
        relay = Relay(httpx.Response(200, stream=body), INVALID_SPAN, 30.0, _nothing)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in relay.chunks:
                    pass

            group.start_soon(read)
            asyncio.get_running_loop().call_soon(body.feed)
            while body.turns < 5:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return body.turns

    assert asyncio.run(relayed()) < 50
