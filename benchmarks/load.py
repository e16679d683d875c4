"""The load tool: sends requests over a few connections and times each.

    python benchmarks/load.py URL CONCURRENCY < BODIES

One JSON body a line, taken in order by whichever connection is free. Prints
`{"elapsed": s, "seconds": [s, ...]}`, a time for each body in their order, and ends
with an error unless each answer is a 200. Nothing but the standard library and as
little of it as will do, because it shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

# What OpenAI's own client sends: a proxy has to deal with each of them.
_HEADERS = """accept: application/json
accept-encoding: gzip, deflate
authorization: Bearer sk-benchmark
content-type: application/json
user-agent: OpenAI/Python 2.0.0
x-stainless-arch: x64
x-stainless-async: false
x-stainless-lang: python
x-stainless-os: Linux
x-stainless-package-version: 2.0.0
x-stainless-read-timeout: 600
x-stainless-retry-count: 0
x-stainless-runtime: CPython
x-stainless-runtime-version: 3.11.0
"""


class Connection(asyncio.Protocol):
    """Sends the next request when the last one has been answered."""

    def __init__(self, requests: Iterator[tuple[int, bytes]], seconds: list[float]) -> None:
        self._requests = requests
        self._seconds = seconds
        self._read = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        index, request = next(self._requests, (-1, b""))
        if index < 0:
            self._transport.close()
            return
        self._index, self._started = index, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head = self._read.find(b"\r\n\r\n")
        length = _LENGTH.search(self._read, 0, head + 2) if head >= 0 else None
        if not length or len(self._read) < head + 4 + int(length[1]):
            return
        self._seconds[self._index] = time.perf_counter() - self._started
        if not self._read.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(self._read.decode("utf-8", "replace")[:2000])
        self._read = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _request(path: str, host: str, body: bytes) -> bytes:
    written = _HEADERS.replace("\n", "\r\n").encode()
    start = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n".encode()
    return start + written + b"\r\n" + body


def _same(connection: Connection) -> Connection:
    return connection


async def load(url: str, concurrency: int, bodies: Sequence[bytes]) -> dict[str, object]:
    """The seconds that each request took, and all of them."""
    to = urlsplit(url)
    host, port = to.hostname or "", to.port or 80
    written = [_request(to.path, to.netloc, body) for body in bodies]
    requests, seconds = iter(enumerate(written)), [0.0] * len(bodies)
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    connections = [Connection(requests, seconds) for _ in range(concurrency)]
    for item in connections:
        await loop.create_connection(functools.partial(_same, item), host, port)
    await asyncio.gather(*(item.ended for item in connections))
    if not all(seconds):
        raise SystemExit(f"{url} hung up before each request was answered")
    return {"elapsed": time.perf_counter() - started, "seconds": seconds}


if __name__ == "__main__":
    lines = sys.stdin.buffer.read().splitlines()
    print(json.dumps(asyncio.run(load(sys.argv[1], int(sys.argv[2]), lines))))
