"""The proxy as it is run: the command, in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from .processes import children, connected_to, lives, serving, until, wait_until_ready
from .test_openai_client import INJECTION, QUESTION
from .upstream import Upstream


def test_serve_command(upstream: Upstream) -> None:
    with serving("--upstream", f"{upstream.url}/v1") as (url, process):
        wait_until_ready(url)
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
    with serving("--config", str(file), "--workers", "2") as (url, process):
        wait_until_ready(url)
        assert _ask(url, "tool", INJECTION) == 400
        workers = children(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        until(lambda: len({*children(process.pid)} - {workers[0]}) == 2)
        wait_until_ready(url)
        assert _ask(url, "user", QUESTION) == 200
        with file.open("a", encoding="utf-8") as more:
            more.write('[policy]\nmode = "shadow"\n')
        process.send_signal(signal.SIGHUP)
        until(lambda: _ask(url, "tool", INJECTION) == 200)
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "worker" in logged
    assert "Traceback" not in logged


def test_a_worker_that_is_killed_takes_only_its_own_streams(upstream: Upstream) -> None:
    body = {"model": "endless", "messages": [{"role": "user", "content": QUESTION}]}
    with (
        serving("--upstream", f"{upstream.url}/v1", "--workers", "2") as (url, process),
        httpx.Client(trust_env=False) as client,
        ExitStack() as open_streams,
    ):
        until(lambda: len(children(process.pid)) == 2)
        wait_until_ready(url)
        workers = children(process.pid)

        def stream() -> tuple[int, Iterator[bytes]]:
            asked = client.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60)
            answer = open_streams.enter_context(asked)
            words = answer.iter_raw()
            assert b"tick" in next(words)
            _, port = answer.extensions["network_stream"].get_extra_info("client_addr")
            return connected_to(workers, port), words

        killed, broken = stream()
        os.kill(killed, signal.SIGSTOP)  # so that the other one takes the next
        other, unbroken = stream()
        os.kill(killed, signal.SIGCONT)
        assert other != killed
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            for _ in broken:
                pass
        assert upstream.cancelled.wait(20)
        for _ in range(20):
            assert b"tick" in next(unbroken)
        assert _ask(url, "user", QUESTION) == 200
        until(lambda: len({*children(process.pid)} - {killed}) == 2)
        assert process.poll() is None


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stream_is_drained_before_the_end(upstream: Upstream, workers: str) -> None:
    body = {"model": "brief", "messages": [{"role": "user", "content": QUESTION}]}
    options = ("--upstream", f"{upstream.url}/v1", "--workers", workers)
    with serving(*options) as (url, process):
        wait_until_ready(url)
        chat = f"{url}/v1/chat/completions"
        with httpx.stream("POST", chat, json=body, timeout=60, trust_env=False) as answer:
            words = answer.iter_raw()
            first = next(words)
            process.send_signal(signal.SIGTERM)
            rest = b"".join(words)
        assert (first + rest).count(b"tick") == 50
        process.communicate(timeout=60)
    # Without workers the server raises the signal once more when it is done.
    assert process.returncode in (0, -signal.SIGTERM)


def test_workers_end_with_a_parent_that_is_killed(upstream: Upstream) -> None:
    with serving("--upstream", f"{upstream.url}/v1", "--workers", "2") as (url, process):
        until(lambda: len(children(process.pid)) == 2)
        wait_until_ready(url)
        workers = children(process.pid)
        process.kill()
        until(lambda: not any(lives(pid) for pid in workers))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", trust_env=False)


def test_serve_without_an_upstream_says_what_to_do() -> None:
    with serving() as (_, process):
        _, logged = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "--upstream" in logged
    assert "Traceback" not in logged
