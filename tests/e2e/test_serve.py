"""The proxy as it is run: the command, in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from .test_openai_client import INJECTION, QUESTION
from .upstream import Upstream


@contextmanager
def _serving(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "alknet_firewall", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the proxy did not become ready")


def test_serve_command(upstream: Upstream) -> None:
    with _serving("--upstream", f"{upstream.url}/v1") as (url, process):
        _wait_until_ready(url)
        statuses = [
            httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": "echo", "messages": [{"role": role, "content": text}]},
                headers={"authorization": "Bearer sk-secret"},
                trust_env=False,
            ).status_code
            for role, text in (("user", QUESTION), ("tool", INJECTION))
        ]
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=20)
    assert statuses == [200, 400]
    assert len(upstream.bodies) == 1
    assert f"listening on {url}" in logged
    assert "action=block would=block level=DANGEROUS" in logged
    assert "sk-secret" not in logged
    assert "password" not in logged


def test_serve_without_an_upstream_says_what_to_do() -> None:
    with _serving() as (_, process):
        _, logged = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "--upstream" in logged
    assert "Traceback" not in logged
