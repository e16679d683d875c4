"""An upstream behind TLS, with certificates of its own authority, and over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config as Settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from alknet_firewall.config import Config, UpstreamConfig
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.echo import create_echo_app, echo_chat
from alknet_firewall.proxy.server import running

from ..proxy.fakes import ATTACK, FakeFirewall

CHAT = "/v1/chat/completions"
BLOCK = b"tick " * 10_000


@dataclass
class Secure:
    """The echo behind TLS; notes in which version of HTTP it was asked.

    The model `endless` talks until it is left, `flood` talks a lot, `long` 50 MB,
    `dies` breaks off.
    """

    port: int
    ca_file: str
    versions: list[str] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    left: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released for each answer of these that has ended."""

    def __post_init__(self) -> None:
        routes = [
            Route(CHAT, self._chat, methods=["POST"]),
            Mount("/", create_echo_app()),
        ]
        self._app = Starlette(routes=routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.versions.append(scope["http_version"])
            self.connections.add(scope["client"][1])
        await self._app(scope, receive, send)

    async def _chat(self, request: Request) -> Response:
        model = (await request.json())["model"]
        if model == "dies":
            return StreamingResponse(self._dies(), media_type="text/event-stream")
        if model not in ("endless", "flood", "long"):
            return await echo_chat(request)
        return StreamingResponse(self._said(model), media_type="text/plain")

    async def _dies(self) -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        raise ConnectionResetError("on purpose")

    async def _said(self, model: str) -> AsyncIterator[bytes]:
        try:
            for _ in range(1_000 if model == "long" else 1_000_000):
                yield b"tick " if model == "endless" else BLOCK
                await asyncio.sleep(0.02 if model == "endless" else 0)
        finally:
            self.left.release()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("localhost")
    own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    app = Secure(listener.getsockname()[1], str(folder / "ca.pem"))
    with _served(app, listener.detach(), str(folder / "own.pem")):  # it closes the socket
        yield app


@contextmanager
def _served(app: Secure, listener: int, certificate: str) -> Iterator[None]:
    settings = Settings()
    settings.bind = [f"fd://{listener}"]
    settings.certfile = settings.keyfile = certificate
    settings.errorlog = None  # it would show the handshakes that are meant to fail
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    with contextlib.closing(loop):
        serving = serve(app, settings, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        thread = threading.Thread(target=loop.run_until_complete, args=(serving,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()


@contextmanager
def between(secure: Secure, host: str = "localhost", **options: object) -> Iterator[httpx.Client]:
    """A client of a proxy in front of it."""
    upstream = UpstreamConfig("secure", f"https://{host}:{secure.port}/v1", **options)  # type: ignore[arg-type]
    secure.versions.clear()
    secure.connections.clear()
    with (
        running(create_app(Config(upstream=(upstream,)), FakeFirewall())) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):
        yield client


def asked(client: httpx.Client, text: str = "hello", stream: bool = False) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
    return client.post(CHAT, json=body)


@pytest.mark.parametrize(("http2", "version"), [(False, "1.1"), (True, "2")])
def test_an_authority_of_ones_own(secure: Secure, http2: bool, version: str) -> None:
    with between(secure, ca_file=secure.ca_file, http2=http2) as client:
        assert asked(client).json()["choices"][0]["message"]["content"] == "echo: hello"
        streamed = asked(client, stream=True)
        assert asked(client, ATTACK).status_code == 400
        assert client.get("/v1/models").status_code == 200
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert secure.versions == [version] * 3
    assert len(secure.connections) == 1  # one connection for all


@pytest.mark.parametrize("http2", [False, True])
def test_an_unknown_authority_is_not_believed(secure: Secure, http2: bool) -> None:
    with between(secure, http2=http2) as client:
        answer = asked(client)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    assert secure.versions == []


def test_another_authority_is_not_believed(secure: Secure, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with between(secure, ca_file=str(other)) as client:
        assert asked(client).status_code == 502
    assert secure.versions == []


def test_a_certificate_for_another_name_is_not_believed(secure: Secure) -> None:
    with between(secure, host="127.0.0.1", ca_file=secure.ca_file) as client:
        assert asked(client).status_code == 502
    assert secure.versions == []


def test_many_requests_at_once_over_http2(secure: Secure) -> None:
    with (
        between(secure, ca_file=secure.ca_file, http2=True) as client,
        ThreadPoolExecutor(20) as pool,
    ):
        answers = [*pool.map(lambda number: asked(client, f"number {number}"), range(150))]
    said = {answer.json()["choices"][0]["message"]["content"] for answer in answers}
    assert said == {f"echo: number {number}" for number in range(150)}
    assert secure.versions == ["2"] * 150
    assert len(secure.connections) <= 20  # they are kept for the next


def test_a_client_that_leaves_ends_its_call_over_http2(secure: Secure) -> None:
    body = {"model": "endless", "messages": [{"role": "user", "content": "hello"}]}
    with between(secure, ca_file=secure.ca_file, http2=True) as client:
        for _ in range(2):
            with client.stream("POST", CHAT, json=body) as answer:
                next(answer.iter_raw())
            assert secure.left.acquire(timeout=20)
        assert asked(client).status_code == 200


def test_a_stream_that_breaks_off_over_http2(secure: Secure) -> None:
    body = {"model": "dies", "messages": [{"role": "user", "content": "hello"}]}
    with between(secure, ca_file=secure.ca_file, http2=True) as client:
        answer = client.post(CHAT, json=body)
        assert answer.content.startswith(b"data: {}\n\n")
        assert "upstream_unreachable" in answer.text
        assert asked(client).status_code == 200
    assert secure.versions == ["2"] * 2


def test_a_client_that_does_not_read_holds_up_nobody_else_over_http2(secure: Secure) -> None:
    flood, long = (
        {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        for model in ("flood", "long")
    )
    with (
        between(secure, ca_file=secure.ca_file, http2=True) as client,
        client.stream("POST", CHAT, json=flood) as answer,
    ):
        next(answer.iter_raw())
        # More than the 16 MB that a connection takes before somebody reads them.
        assert len(client.post(CHAT, json=long).content) == 1_000 * len(BLOCK)
