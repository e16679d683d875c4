"""The proxy as it is run: the command, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


def _ask(url: str, role: str, text: str) -> int:
    body = {"model": "echo", "messages": [{"role": role, "content": text}]}
    return httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).status_code


def test_workers_are_replaced_and_read_the_configuration_again(
    upstream: Upstream, tmp_path: Path
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(f'[proxy]\nupstream = "{upstream.url}/v1"\n', encoding="utf-8")
    with _serving("--config", str(file), "--workers", "2") as (url, process):
        _wait_until_ready(url)
        assert _ask(url, "tool", INJECTION) == 400
        workers = _children(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        _until(lambda: len({*_children(process.pid)} - {workers[0]}) == 2)
        _wait_until_ready(url)
        assert _ask(url, "user", QUESTION) == 200
        with file.open("a", encoding="utf-8") as more:
            more.write('[policy]\nmode = "shadow"\n')
        process.send_signal(signal.SIGHUP)
        _until(lambda: _ask(url, "tool", INJECTION) == 200)
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "worker" in logged
    assert "Traceback" not in logged


def _children(pid: int) -> list[int]:
    """The workers of a process; the helper that multiprocessing starts is none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
            command = entry.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z" and b"spawn_main" in command:
            found.append(int(entry.parent.name))
    return found


def _until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_serve_without_an_upstream_says_what_to_do() -> None:
    with _serving() as (_, process):
        _, logged = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "--upstream" in logged
    assert "Traceback" not in logged
