"""What many streams and slow readers took is given back. ALKNET_MEMORY=1 runs it.

It takes minutes, and looks at the memory of a process that nothing else uses.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from .processes import resident, serving, until, wait_until_ready
from .test_faults import BODY, CHAT, EVENT, SSE, Rude, chunk

pytestmark = [
    pytest.mark.skipif("ALKNET_MEMORY" not in os.environ, reason="ALKNET_MEMORY is not set"),
    pytest.mark.timeout(900),
]
MB = 1_000_000
_BLOCK = chunk(EVENT * 1_000)  # some 65 kB


@pytest.fixture(autouse=True)
def _few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the process's log, and a pipe that is full would stop it."""
    monkeypatch.setenv("ALKNET_FIREWALL__TELEMETRY__LOG_LEVEL", "error")


def _says(blocks: int) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        connection.sendall(SSE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        for _ in range(blocks):
            connection.sendall(_BLOCK)
        connection.sendall(b"0\r\n\r\n")

    return script


def _grown(upstream: Rude, work: Callable[[httpx.Client, str], None], rounds: int) -> list[int]:
    """Bytes that the proxy holds after each round of work, less those after the first."""
    held: list[int] = []
    with serving("--upstream", upstream.url) as (url, process):
        wait_until_ready(url)
        for _ in range(rounds + 1):
            limits = httpx.Limits(max_connections=None)
            with httpx.Client(trust_env=False, timeout=300, limits=limits) as client:
                work(client, url + CHAT)
            until(lambda: upstream.open == 0)
            time.sleep(1)
            held.append(resident(process.pid))
    upstream.close()
    print("MB held after each round:", [round(item / MB, 1) for item in held])
    return [item - held[0] for item in held[1:]]


def test_memory_returns_after_many_streams() -> None:
    """200 streams of 0.7 MB each, 100 at a time, five times."""

    def many(client: httpx.Client, url: str) -> None:
        with ThreadPoolExecutor(100) as pool:
            sizes = pool.map(lambda _: len(client.post(url, json=BODY).content), range(200))
            assert {*sizes} == {10 * 1_000 * len(EVENT)}

    *_, grown = _grown(Rude(_says(10)), many, 4)
    assert grown < 20 * MB


def test_memory_returns_after_slow_readers() -> None:
    """40 readers who take a block of 130 MB each and leave, five times."""

    def slow(client: httpx.Client, url: str) -> None:
        with ExitStack() as open_streams:
            for _ in range(40):
                answer = open_streams.enter_context(client.stream("POST", url, json=BODY))
                next(answer.iter_raw())
            time.sleep(2)

    *_, grown = _grown(Rude(_says(2_000)), slow, 4)
    assert grown < 20 * MB
