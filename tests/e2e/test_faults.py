"""When the upstream, or the client, does the worst at the worst time.

The upstream is a socket that says what it is told to and counts what it is
asked: nothing may be asked twice, and every answer must have an end.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest

from alknet_firewall.config import Config, ProxyConfig
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.server import running

from ..proxy.fakes import FakeFirewall

STREAMS = int(os.environ.get("ALKNET_STREAMS", "100"))
# How long an upstream that stalls says nothing. ALKNET_STALL=30 is what may
# happen in earnest; the time-outs that notice it are as much shorter here.
STALL = float(os.environ.get("ALKNET_STALL", "1"))
CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "tick"}}]}\n\n'

Script = Callable[[socket.socket], None]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Rude:
    """An upstream that reads a request and then does as the script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.requests = 0
        self.open = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if not _read_request(connection):
                return
            self._count(requests=1, opened=1)
            try:
                self._script(connection)
            except OSError:
                pass
            finally:
                self._count(opened=-1)

    def _count(self, requests: int = 0, opened: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.open += opened

    def close(self) -> None:
        self._listener.close()


def _read_request(connection: socket.socket) -> bool:
    read = b""
    while b"\r\n\r\n" not in read:
        if not (more := connection.recv(65536)):
            return False
        read += more
    head, _, body = read.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return True


@contextmanager
def between(script: Script, **proxy: float) -> Iterator[tuple[str, Rude]]:
    upstream = Rude(script)
    settings = ProxyConfig(upstream=upstream.url, **proxy)  # type: ignore[arg-type]
    with running(create_app(Config(proxy=settings), FakeFirewall())) as url:
        yield url, upstream
    upstream.close()


def ask(url: str, timeout: float = 30) -> httpx.Response:
    return httpx.post(url + CHAT, json=BODY, timeout=timeout, trust_env=False)


def _stalls(connection: socket.socket) -> None:
    time.sleep(STALL)
    connection.sendall(SSE + chunk(EVENT))
    time.sleep(STALL)
    connection.sendall(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


# --- before the answer -------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200", b"garbage garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"]
)
def test_an_answer_that_never_begins(said: bytes) -> None:
    with between(lambda connection: connection.sendall(said)) as (url, upstream):
        answer = ask(url)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_unreachable"
        assert upstream.requests == 1


def test_a_stall_before_the_answer() -> None:
    with between(_stalls, first_byte_timeout=STALL / 3) as (url, upstream):
        answer = ask(url, timeout=STALL + 30)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "upstream_timeout"
        assert upstream.requests == 1


# --- in the middle of it -----------------------------------------------------


@pytest.mark.parametrize("half", [b"", EVENT[:20], EVENT[:-1]])
def test_a_stream_that_breaks_off(half: bytes) -> None:
    said = SSE + chunk(EVENT) + (chunk(half) if half else b"")
    with between(lambda connection: connection.sendall(said)) as (url, upstream):
        answer = ask(url)
        *_, last = answer.text.strip().split("\n\n")
        assert (
            json.loads(last.strip().removeprefix("data: "))["error"]["code"]
            == "upstream_unreachable"
        )
        assert answer.content.startswith(EVENT)
        assert upstream.requests == 1


def test_the_official_client_is_told_that_a_stream_broke_off() -> None:
    with (
        between(lambda connection: connection.sendall(SSE + chunk(EVENT))) as (url, upstream),
        openai.OpenAI(
            base_url=f"{url}/v1", api_key="k", http_client=httpx.Client(trust_env=False)
        ) as client,
    ):
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError):
            for _ in stream:
                pass
        assert upstream.requests == 1


def test_a_stall_in_a_stream() -> None:
    patience = {"first_byte_timeout": STALL + 20, "read_timeout": STALL / 3}
    with between(_stalls, **patience) as (url, upstream):
        answer = ask(url, timeout=STALL + 30)
        assert answer.content.startswith(EVENT)
        assert "upstream_timeout" in answer.text
        assert "[DONE]" not in answer.text
        assert upstream.requests == 1


def test_a_stall_that_may_be() -> None:
    with between(_stalls) as (url, upstream):
        answer = ask(url, timeout=STALL + 30)
        assert answer.content == EVENT + b"data: [DONE]\n\n"
        assert upstream.requests == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_body_that_breaks_off_is_no_whole_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with between(lambda connection: connection.sendall(head + b'{"a":')) as (url, upstream):
        with pytest.raises(httpx.RemoteProtocolError):
            ask(url)
        assert upstream.requests == 1


def test_garbage_is_the_upstreams_own() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{garbage"
    with between(lambda connection: connection.sendall(said)) as (url, _):
        answer = ask(url)
        assert (answer.status_code, answer.content) == (200, b"{garbage")


# --- slow, and many ----------------------------------------------------------


def test_a_client_that_does_not_read_holds_the_upstream_back() -> None:
    sent, endless = 0, 1_000_000_000  # bytes: more than any kernel keeps

    def script(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(SSE)
        block = chunk(EVENT * 1_000)
        while sent < endless:
            connection.sendall(block)
            sent += len(block)

    with (
        between(script) as (url, _),
        httpx.stream("POST", url + CHAT, json=BODY, timeout=60) as answer,
    ):
        events = answer.iter_raw()  # kept: to drop it is to leave
        read = len(next(events))
        held = -1
        while held != sent:  # until it stands still
            held = sent
            time.sleep(0.5)
        assert held < endless
        while read <= held:  # and goes on when the client does
            read += len(next(events))


def test_a_body_that_never_ends_is_not_waited_for() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: proxy\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with between(lambda connection: None, body_timeout=0.2) as (url, upstream):
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port), timeout=30) as client:
            client.sendall(head + b'{"model"')
            answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body_timeout" in answer
        assert upstream.requests == 0


def test_many_streams_at_once() -> None:
    barrier = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(SSE + chunk(EVENT))
        barrier.wait(250)
        connection.sendall(chunk(EVENT) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    patient = {"read_timeout": 250.0, "screen_timeout": 250.0, "max_queue": STREAMS}
    with between(script, **patient) as (url, upstream):
        limits = httpx.Limits(max_connections=None)
        with (
            httpx.Client(trust_env=False, timeout=250, limits=limits) as client,
            ThreadPoolExecutor(STREAMS) as pool,
        ):
            asked = [pool.submit(client.post, url + CHAT, json=BODY) for _ in range(STREAMS)]
            _until(lambda: upstream.open == STREAMS)
            barrier.set()
            answers = [item.result() for item in asked]
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
        assert upstream.requests == STREAMS
        _until(lambda: upstream.open == 0)


def test_a_client_that_leaves_frees_the_upstream() -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(SSE)
        while True:
            connection.sendall(chunk(EVENT))
            time.sleep(0.02)

    with between(script) as (url, upstream), httpx.Client(trust_env=False) as client:
        with client.stream("POST", url + CHAT, json=BODY) as answer:
            next(answer.iter_raw())
            assert upstream.open == 1
        _until(lambda: upstream.open == 0)


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)
