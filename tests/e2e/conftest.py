"""Real servers on loopback around the real detector, once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alknet_firewall.config import Config, ProxyConfig
from alknet_firewall.firewall import Firewall
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.server import running

from .upstream import Upstream, serving


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(scope="session")
def proxy(firewall: Firewall, upstream: Upstream) -> Iterator[str]:
    """The URL of a proxy in front of `upstream`."""
    config = Config(proxy=ProxyConfig(upstream=f"{upstream.url}/v1"))
    with running(create_app(config, firewall)) as url:
        yield url


@pytest.fixture(autouse=True)
def _fresh(upstream: Upstream) -> None:
    upstream.reset()
