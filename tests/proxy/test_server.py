"""Listening, and running an application in a thread."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from alknet_firewall.config import Config
from alknet_firewall.errors import ConfigError
from alknet_firewall.proxy.echo import create_echo_app
from alknet_firewall.proxy.server import running, serve
from alknet_firewall.proxy.settings import with_overrides

from .fakes import config


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
            serve(with_overrides(config(), port=port))


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
