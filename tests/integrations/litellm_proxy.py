"""LiteLLM's proxy as its users run it: a process with a configuration file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from ..ports import free_port

KEY = "sk-test-master-key-0123456789abcdef"

# LiteLLM's entry point, and the same where none of this project can be imported.
WITH_US = "from litellm import run_server; run_server()"
WITHOUT_US = f"import sys; sys.modules['alknet_firewall'] = None; {WITH_US}"

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks nobody for prices
_ENVIRONMENT = {
    "LITELLM_MASTER_KEY": KEY,
    "NO_PROXY": "127.0.0.1",
}


def models(upstream: str) -> list[dict[str, Any]]:
    """`echo` speaks OpenAI's APIs and `claude` Anthropic's, both at one upstream."""
    openai = {"model": "openai/echo", "api_base": f"{upstream}/v1", "api_key": "k"}
    anthropic = {"model": "anthropic/echo", "api_base": upstream, "api_key": "k"}
    return [
        {"model_name": "echo", "litellm_params": openai},
        {"model_name": "claude", "litellm_params": anthropic},
    ]


def write_config(folder: Path, upstream: str, guardrails: list[dict[str, Any]]) -> Path:
    """A configuration file; JSON is YAML."""
    path = folder / "config.yaml"
    path.write_text(json.dumps({"model_list": models(upstream), "guardrails": guardrails}))
    return path


def _start(config: Path, port: int, program: str = WITH_US) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, "--config", str(config), "--port", str(port)]
    with (config.parent / "litellm.log").open("w") as log:
        return subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--telemetry", "False"],
            env={**os.environ, **_ENVIRONMENT},
            cwd=config.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def litellm_proxy(config: Path, program: str = WITH_US) -> Iterator[httpx.Client]:
    """A client of the running proxy."""
    port = free_port()
    process = _start(config, port, program)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_alive(process, url, config.parent / "litellm.log")
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_alive(process: subprocess.Popen[str], url: str, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health/liveliness", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def request(path: str, text: str, **more: Any) -> tuple[str, Mapping[str, Any]]:
    """A path and a body of its shape in which the user says `text`."""
    said = [{"role": "user", "content": text}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": said},
        "/v1/responses": {"input": text},
        "/v1/messages": {"messages": said, "max_tokens": 9, "model": "claude"},
        "/v1/completions": {"prompt": text},
        "/v1/embeddings": {"input": text},
    }
    return path, {"model": "echo", **bodies[path], **more}
