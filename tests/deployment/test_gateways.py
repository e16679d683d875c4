"""nginx and Envoy in front of the proxy and behind it, run with the examples' configurations."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from alknet_firewall.config import Config, ProxyConfig
from alknet_firewall.firewall import Firewall
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.echo import create_echo_app
from alknet_firewall.proxy.server import running

from ..e2e.test_openai_client import INJECTION, QUESTION, agent_turn, asking
from ..e2e.upstream import Upstream
from ..ports import free_port
from .conftest import with_health
from .gateways import envoy_command, moved, nginx_command, started

CHAT = "/v1/chat/completions"


@dataclass
class Front:
    """A gateway's URL, and whom to trust there."""

    url: str
    trust: ssl.SSLContext | bool

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.trust, trust_env=False, timeout=60)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="sk-x", max_retries=0, http_client=self.client()
        )

    def raw(self, target: str) -> int:
        """The status of a request whose target is sent as it is written here."""
        at = urlsplit(self.url).netloc
        connection = (
            http.client.HTTPSConnection(at, timeout=30, context=self.trust)
            if isinstance(self.trust, ssl.SSLContext)
            else http.client.HTTPConnection(at, timeout=30)
        )
        body = json.dumps({"model": "echo", "messages": asking(INJECTION)})
        connection.request("POST", target, body, {"content-type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        return status


@contextmanager
def nginx_front(proxy: str, folder: Path) -> Iterator[Front]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (folder / "tls").mkdir()
    certificate.cert_chain_pems[0].write_to_path(str(folder / "tls/cert.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "tls/key.pem"))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    port = free_port()
    changes = {"127.0.0.1:8080": urlsplit(proxy).netloc, "8443": f"127.0.0.1:{port}"}
    command = nginx_command(moved("nginx/in-front.conf", changes, folder))
    front = Front(f"https://127.0.0.1:{port}", trust)
    with started(command, lambda: _answers(front)):
        yield front


@contextmanager
def envoy_front(proxy: str, folder: Path) -> Iterator[Front]:
    port = free_port()
    changes = {
        "port_value: 8080": f"port_value: {urlsplit(proxy).port}",
        "port_value: 10000": f"port_value: {port}",
    }
    command = envoy_command(moved("envoy/in-front.yaml", changes, folder))
    front = Front(f"http://127.0.0.1:{port}", True)
    with started(command, lambda: _answers(front)):
        yield front


def _answers(front: Front) -> bool:
    with front.client() as client:
        return client.get("/v1/models").is_success


FRONTS: dict[str, Callable[[str, Path], Any]] = {"nginx": nginx_front, "envoy": envoy_front}


@pytest.fixture(params=[*FRONTS])
def front(request: pytest.FixtureRequest, proxy: str, tmp_path: Path) -> Iterator[Front]:
    with FRONTS[request.param](proxy, tmp_path) as opened:
        yield opened


def test_in_front(front: Front, upstream: Upstream) -> None:
    """One start for all of it: what is asked arrives, and what is not to arrive does not."""
    with front.openai() as client:
        answer = client.chat.completions.create(model="echo", messages=asking())
        assert answer.choices[0].message.content == f"echo: {QUESTION}"
        _streams_as_it_is_made(client, upstream)
        _stops_an_injection(client, upstream)
    _tells_who_asked(front, upstream)
    _keeps_the_inside_in(front, upstream)


def _streams_as_it_is_made(client: openai.OpenAI, upstream: Upstream) -> None:
    # The stream never ends, so its first events can only have come unbuffered.
    with client.chat.completions.create(model="endless", messages=asking(), stream=True) as stream:
        events = iter(stream)
        assert next(events).choices[0].delta.content == "tick "
        assert next(events).choices[0].delta.content == "tick "
    assert upstream.cancelled.wait(10), "the upstream went on after the client had left"


def _stops_an_injection(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.reset()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=agent_turn(INJECTION), stream=True)
    assert caught.value.code == "content_filter"
    assert caught.value.response.headers["x-alknet-firewall-level"] == "DANGEROUS"
    assert upstream.bodies == []


def _tells_who_asked(front: Front, upstream: Upstream) -> None:
    upstream.reset()
    long = {"model": "echo", "messages": asking(), "padding": [0] * 500_000}
    claimed = {"x-forwarded-for": "6.6.6.6", "forwarded": "for=6.6.6.6"}
    with front.client() as client:
        assert client.post(CHAT, json=long, headers=claimed).is_success
        body = {"model": "echo", "messages": asking()}
        assert client.post(CHAT, json=body, headers=claimed).is_success
    headers = upstream.headers[-1]
    assert headers["x-forwarded-for"].startswith("127.0.0.1")
    assert "6.6.6.6" not in str(headers)


def _keeps_the_inside_in(front: Front, upstream: Upstream) -> None:
    upstream.reset()
    with front.client() as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 404
    for target in ("/v1//chat/completions", "/v1/x/../chat/completions", "/v1/chat%2fcompletions"):
        assert front.raw(target) in (400, 404)
    assert upstream.bodies == []


@contextmanager
def nginx_behind(ports: list[int | None], folder: Path) -> Iterator[str]:
    port = free_port()
    changes = {
        "listen 127.0.0.1:8000": f"listen 127.0.0.1:{port}",
        "server 127.0.0.1:8001": f"server 127.0.0.1:{ports[0]}",
        "server 127.0.0.1:8002": f"server 127.0.0.1:{ports[1]}",
    }
    command = nginx_command(moved("nginx/behind.conf", changes, folder))
    front = Front(f"http://127.0.0.1:{port}", True)
    with started(command, lambda: _answers(front)):
        yield front.url


@contextmanager
def envoy_behind(ports: list[int | None], folder: Path) -> Iterator[str]:
    port = free_port()
    changes = {
        "port_value: 8000": f"port_value: {port}",
        "port_value: 8001": f"port_value: {ports[0]}",
        "port_value: 8002": f"port_value: {ports[1]}",
    }
    command = envoy_command(moved("envoy/behind.yaml", changes, folder))
    front = Front(f"http://127.0.0.1:{port}", True)
    with started(command, lambda: _answers(front)):
        yield front.url


def test_envoy_finds_a_firewall_that_was_not_ready_at_first(tmp_path: Path) -> None:
    """By default it looks once a minute at what had no request yet: `started` waits no longer."""
    statuses = iter([503])

    async def readyz(request: Request) -> Response:
        return Response(status_code=next(statuses, 200))

    app = Starlette(routes=[Route("/readyz", readyz), Mount("/", create_echo_app())])
    with running(app) as url, envoy_front(url, tmp_path):
        assert next(statuses, None) is None


BEHINDS: dict[str, Callable[[list[int | None], Path], Any]] = {
    "nginx": nginx_behind,
    "envoy": envoy_behind,
}


@pytest.mark.parametrize("behind", [*BEHINDS])
def test_behind(behind: str, firewall: Firewall, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = [Upstream(), Upstream()]
        urls = [stack.enter_context(running(with_health(server))) for server in servers]
        ports = [urlsplit(url).port for url in urls]
        url = stack.enter_context(BEHINDS[behind](ports, tmp_path))
        config = Config(proxy=ProxyConfig(upstream=f"{url}/v1"))
        proxy = stack.enter_context(running(create_app(config, firewall)))
        with Front(proxy, True).openai() as client:
            _reaches_both(client, servers)
            _stops_an_injection(client, servers[0])


def _reaches_both(client: openai.OpenAI, servers: list[Upstream]) -> None:
    for _ in range(40):
        answer = client.chat.completions.create(model="echo", messages=asking())
        assert answer.choices[0].message.content == f"echo: {QUESTION}"
        if all(server.bodies for server in servers):
            break
    assert all(server.bodies for server in servers)
    with client.chat.completions.create(model="endless", messages=asking(), stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.content == "tick "
    assert any(server.cancelled.wait(5) for server in servers)
