"""Which transport a configuration gets."""

from __future__ import annotations

import sys

import httpx
import pytest

from alknet_firewall.config import ProxyConfig, UpstreamConfig
from alknet_firewall.proxy.connections import Direct, OneCallEach, connect

REMOTE = "https://api.example.com/v1"


def kind(url: str = REMOTE, **settings: bool) -> type:
    config = UpstreamConfig("one", url, **settings)  # type: ignore[arg-type]
    return type(connect(config, ProxyConfig(), httpx.URL(url), None))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_a_plain_upstream_gets_the_fast_transport() -> None:
    pytest.importorskip("httptools")
    assert kind() is Direct
    assert kind("http://127.0.0.1:8000/v1") is Direct


def test_what_only_httpx_can_do_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind(http2=True) is OneCallEach
    assert kind("https://user:password@api.example.com/v1") is httpx.AsyncClient
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    assert kind() is httpx.AsyncClient


def test_without_its_parser_httpx_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "alknet_firewall.proxy.wire", raising=False)
    monkeypatch.setitem(sys.modules, "httptools", None)
    assert kind() is httpx.AsyncClient
