"""An upstream and a proxy in front of it, as a deployment has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from alknet_firewall.config import Config, ProxyConfig
from alknet_firewall.firewall import Firewall
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.server import running

from ..e2e.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    served = Upstream()
    with running(with_health(served)) as url:
        served.url = url
        yield served


@pytest.fixture
def proxy(firewall: Firewall, upstream: Upstream) -> Iterator[str]:
    """The URL of a proxy that believes what this machine says of the client."""
    settings = ProxyConfig(upstream=f"{upstream.url}/v1", trusted_proxies=("127.0.0.1/32",))
    with running(create_app(Config(proxy=settings), firewall)) as url:
        yield url


def with_health(upstream: Upstream) -> Starlette:
    """The upstream with vLLM's health check."""
    routes = [Route("/health", _healthy), Mount("/", upstream.app)]
    return Starlette(routes=routes)


async def _healthy(request: Request) -> Response:
    return JSONResponse({})
