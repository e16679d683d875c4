"""What a client may send on its connection, whichever parser reads it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from alknet_firewall.proxy import server
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.server import running

from .fakes import FakeFirewall, Recorder, config

CHAT = "/v1/chat/completions"


@pytest.fixture(params=["llhttp", "h11"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "h11":
        monkeypatch.setattr(server, "_protocol", lambda: "h11")
    else:
        pytest.importorskip("httptools")
    name: str = request.param
    return name


@pytest.fixture
def upstream() -> Recorder:
    return Recorder()


@pytest.fixture
def proxy(parser: str, upstream: Recorder) -> Iterator[str]:
    with running(create_app(config(), FakeFirewall(), transport=upstream)) as url:
        yield url


def said(url: str, raw: bytes) -> bytes:
    """Everything that is answered to some bytes."""
    to = urlsplit(url)
    with socket.create_connection((to.hostname or "", to.port or 0), timeout=30) as connection:
        connection.sendall(raw)
        found = b""
        try:
            while more := connection.recv(65_536):
                found += more
        except ConnectionResetError:
            pass  # it has closed before it had read all
        return found


def chunked(*trailers: str) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    lines = "".join(f"{line}\r\n" for line in trailers)
    return f"{head}{len(body):x}\r\n{body}\r\n0\r\n{lines}\r\n".encode()


def test_a_trailer_is_no_header(proxy: str, upstream: Recorder) -> None:
    assert said(proxy, chunked("X-Late: 1", "Authorization: Bearer x")).startswith(b"HTTP/1.1 200")
    (request,) = upstream.requests
    assert not {"x-late", "authorization"} & {*request.headers}


@pytest.mark.parametrize(
    "target", [f"http://u{CHAT}", "http://u/healthz", f"/{CHAT}", "/%68ealthz"]
)
def test_a_target_is_taken_as_it_is_written(proxy: str, upstream: Recorder, target: str) -> None:
    raw = chunked().replace(f"POST {CHAT}".encode(), f"POST {target}".encode())
    assert said(proxy, raw).startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
    assert not upstream.requests


def test_a_head_without_end_is_refused(proxy: str, upstream: Recorder) -> None:
    raw = f"POST {CHAT} HTTP/1.1\r\n".encode() + b"x-more: 1234567890\r\n" * 30_000
    assert said(proxy, raw).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")) or not upstream.requests


def test_an_old_client_gets_its_answer(proxy: str) -> None:
    raw = chunked().replace(b"HTTP/1.1", b"HTTP/1.0")
    whole = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    head = raw.split(b"Transfer-Encoding")[0] + b"Content-Length: %d\r\n\r\n" % len(whole)
    assert said(proxy, head + whole.encode()).endswith(b'{"ok":true}')
