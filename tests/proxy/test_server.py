"""Listening, and running an application in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from alknet_firewall.config import Config
from alknet_firewall.errors import ConfigError
from alknet_firewall.proxy.echo import create_echo_app
from alknet_firewall.proxy.server import running, serve
from alknet_firewall.proxy.settings import Source, with_overrides


def test_an_answer_waits_for_no_acknowledgement() -> None:
    """Without TCP_NODELAY each answer on a kept connection takes 40 ms."""
    with running(create_echo_app()) as url, httpx.Client(trust_env=False) as client:
        times = []
        for _ in range(10):
            started = time.perf_counter()
            client.post(f"{url}/v1/chat/completions", json={"messages": []})
            times.append(time.perf_counter() - started)
    assert min(times) < 0.03


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"127.0.0.1 port {port} .*`port` under"),
            running(create_echo_app(), port=port),
        ):
            pass
        with pytest.raises(ConfigError, match="cannot listen"):
            serve(Source(overrides={"port": port, "upstream": "http://u.test/v1"}))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_application_that_does_not_start() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("on purpose")

    with pytest.raises(RuntimeError, match="did not start"), running(broken):
        pass


def test_overrides_replace_what_is_given() -> None:
    changed = with_overrides(Config(), port=9000, host=None, upstream="http://u/v1").proxy
    assert (changed.host, changed.port, changed.upstream) == ("127.0.0.1", 9000, "http://u/v1")


def test_overrides_are_checked() -> None:
    with pytest.raises(ConfigError, match="port must be between"):
        with_overrides(Config(), port=70000)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    for _ in range(2):  # what a killed server leaves is replaced
        with running(create_echo_app(), host=f"unix:{path}") as url:
            assert url == f"unix:{path}"
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://proxy.test") as client:
                assert client.get("/v1/models").status_code == 200
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))


def test_a_socket_in_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with (
        running(create_echo_app(), host=f"unix:{path}"),
        pytest.raises(ConfigError, match=r"cannot listen on unix:.*in use"),
        running(create_echo_app(), host=f"unix:{path}"),
    ):
        pass


def test_a_stream_is_served_to_its_end() -> None:
    """Stopping lets go of nobody who is being served."""

    async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"end"})

    read: list[bytes] = []
    began = threading.Event()

    def listen(url: str) -> None:
        with httpx.stream("GET", url, trust_env=False) as answer:
            for part in answer.iter_raw():
                read.append(part)
                began.set()

    with running(ticks) as url:
        client = threading.Thread(target=listen, args=(url,))
        client.start()
        assert began.wait(20)
    client.join(20)
    assert b"".join(read) == b"tick " * 10 + b"end"
