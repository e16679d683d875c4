"""The transport to an upstream, against sockets that say what they are told to."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("httptools")

from alknet_firewall.proxy.wire import Wire

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Upstream:
    """Counts the connections that were made to it, and what it was asked."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.connections = 0
        self.asked: list[bytes] = []
        self.reached, self.closed = asyncio.Event(), asyncio.Event()
        self.url = httpx.URL()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        self.reached.set()
        return head


@asynccontextmanager
async def wired(talk: Callable[[Upstream], Talk]) -> AsyncIterator[tuple[Upstream, Wire]]:
    upstream = Upstream(lambda reader, writer: talk(upstream)(reader, writer))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream.url = httpx.URL(f"http://127.0.0.1:{port}/v1/x?q=1")
    wire = Wire(upstream.url, ssl.create_default_context())
    try:
        yield upstream, wire
    finally:
        await wire.aclose()
        server.close()


def saying(*answers: bytes, then_close: bool = False) -> Callable[[Upstream], Talk]:
    """An upstream that gives these answers, the last one again and again."""

    def talk(upstream: Upstream) -> Talk:
        async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await upstream.read(reader)
                writer.write(answers[min(len(upstream.asked), len(answers)) - 1])
                await writer.drain()
                if then_close:
                    return

        return told

    return talk


def asking(upstream: Upstream, headers: list[tuple[bytes, bytes]] | None = None) -> httpx.Request:
    timeout = {"timeout": {"connect": 10.0}}
    return httpx.Request("GET", upstream.url, headers=headers or [], extensions=timeout)


async def answer(wire: Wire, upstream: Upstream) -> tuple[int, bytes]:
    response = await wire.handle_async_request(asking(upstream))
    try:
        return response.status_code, b"".join([chunk async for chunk in response.aiter_raw()])
    finally:
        await response.aclose()


async def test_a_connection_is_kept_for_the_next_call() -> None:
    async with wired(saying(OK)) as (upstream, wire):
        assert [await answer(wire, upstream) for _ in range(3)] == [(200, b"ok")] * 3
        assert upstream.connections == 1
        assert all(head.startswith(b"GET /v1/x?q=1 HTTP/1.1\r\n") for head in upstream.asked)


async def test_calls_at_once_do_not_share_a_connection() -> None:
    async with wired(saying(OK)) as (upstream, wire):
        await asyncio.gather(*(answer(wire, upstream) for _ in range(5)))
        assert upstream.connections == 5
        await answer(wire, upstream)
        assert upstream.connections == 5


@pytest.mark.parametrize(
    "said",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother",
        OK + b"more",
    ],
    ids=["close", "1.0", "an answer too many", "too many bytes"],
)
async def test_a_connection_that_is_not_to_be_trusted_again_is_closed(said: bytes) -> None:
    async with wired(saying(said)) as (upstream, wire):
        assert [await answer(wire, upstream) for _ in range(2)] == [(200, b"ok")] * 2
        assert upstream.connections == 2


async def test_a_connection_that_the_upstream_has_closed_is_not_used() -> None:
    async with wired(saying(OK, then_close=True)) as (upstream, wire):
        for _ in range(5):
            assert await answer(wire, upstream) == (200, b"ok")
            await upstream.closed.wait()
        assert (upstream.connections, len(upstream.asked)) == (5, 5)


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\nX-Late: 1\r\n\r\n",
            b"ok",
        ),
    ],
    ids=["100", "103", "closed at its end", "204", "trailers"],
)
async def test_each_way_to_frame_an_answer(said: bytes, body: bytes) -> None:
    async with wired(saying(said, then_close=True)) as (upstream, wire):
        response = await wire.handle_async_request(asking(upstream))
        found = b"".join([chunk async for chunk in response.aiter_raw()])
        await response.aclose()
        assert (response.status_code, found) == (int(said.split(b" 20")[1][:1]) + 200, body)
        assert not {"x-early", "x-late", "link"} & {*response.headers}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000,
    ],
    ids=["nothing", "half a head", "garbage", "101", "two framings", "two lengths", "endless"],
)
async def test_what_is_no_answer_is_an_error(said: bytes) -> None:
    async with wired(saying(said, then_close=True)) as (upstream, wire):
        with pytest.raises(httpx.TransportError):
            await wire.handle_async_request(asking(upstream))
        assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
    ],
)
async def test_half_an_answer_is_an_error(said: bytes) -> None:
    async with wired(saying(said, then_close=True)) as (upstream, wire):
        with pytest.raises(httpx.TransportError):
            await answer(wire, upstream)


async def test_nobody_there_is_a_connection_that_could_not_be_made() -> None:
    async with wired(saying(OK)) as (upstream, _):
        pass
    nobody = Wire(upstream.url, ssl.create_default_context())
    with pytest.raises(httpx.ConnectError):
        await nobody.handle_async_request(asking(upstream))


async def test_an_answer_that_is_left_early_closes_its_connection() -> None:
    async with wired(saying(OK.replace(b": 2", b": 9"))) as (upstream, wire):
        response = await wire.handle_async_request(asking(upstream))
        await response.aclose()
        await asyncio.wait_for(upstream.closed.wait(), 30)


async def test_a_call_that_nobody_waits_for_closes_its_connection() -> None:
    async with wired(saying(b"")) as (upstream, wire):
        call = asyncio.create_task(wire.handle_async_request(asking(upstream)))
        await asyncio.wait_for(upstream.reached.wait(), 30)
        call.cancel()
        await asyncio.wait_for(upstream.closed.wait(), 30)


async def test_an_answer_that_nobody_reads_holds_the_upstream_back() -> None:
    total, sent = 200 << 20, 0

    def talk(upstream: Upstream) -> Talk:
        async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await upstream.read(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            while sent < total:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16

        return pour

    async with wired(talk) as (upstream, wire):
        response = await wire.handle_async_request(asking(upstream))
        before = -1
        while before != sent:  # until nothing more is taken
            before = sent
            await asyncio.sleep(0.3)
        assert sent < total // 4
        assert sum([len(chunk) async for chunk in response.aiter_raw()]) == total
        await response.aclose()


@pytest.mark.parametrize(
    "value", [b"a\r\nx-alknet-firewall-level: CLEAR", b"a\nb", b"a\rb", b"a\0"]
)
async def test_a_header_cannot_become_two(value: bytes) -> None:
    async with wired(saying(OK)) as (upstream, wire):
        with pytest.raises(httpx.LocalProtocolError):
            await wire.handle_async_request(asking(upstream, [(b"x-key", value)]))
        assert not upstream.connections


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
)
async def test_an_answer_is_the_same_however_it_is_cut(
    chunks: list[bytes], cuts: list[int]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: \xe9\r\n\r\n"
    said = head + b"".join(b"%x\r\n%s\r\n" % (len(item), item) for item in chunks) + b"0\r\n\r\n"

    def talk(upstream: Upstream) -> Talk:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await upstream.read(reader)
                at = 0
                for size in cuts:
                    writer.write(said[at : at + size])
                    at += size
                    await asyncio.sleep(0)
                writer.write(said[at:])

        return drip

    async with wired(talk) as (upstream, wire):
        for _ in range(2):
            response = await wire.handle_async_request(asking(upstream))
            assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"".join(chunks)
            assert (b"X-A", b"\xe9") in response.headers.raw
            await response.aclose()
        assert upstream.connections == 1
