"""The proxy in memory, between a fake detector and a recording upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from alknet_firewall.config import Config
from alknet_firewall.proxy.app import create_app

from .fakes import FakeFirewall, Recorder, config


@pytest.fixture
def firewall() -> FakeFirewall:
    return FakeFirewall()


@pytest.fixture
def upstream() -> Recorder:
    return Recorder()


@asynccontextmanager
async def proxy_client(
    settings: Config, firewall: FakeFirewall, upstream: Recorder, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a proxy that has started."""
    app = create_app(settings, firewall, transport=upstream, **options)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://proxy.test") as client,
    ):
        yield client


@pytest.fixture
async def client(firewall: FakeFirewall, upstream: Recorder) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a proxy with the default configuration."""
    async with proxy_client(config(), firewall, upstream) as opened:
        yield opened
