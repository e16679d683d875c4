"""The servers that proxy_overhead.py compares, each a process of its own on loopback."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measuring import cpu_seconds, peak_resident

__all__ = ["LITELLM", "Server", "direct", "installed_litellm", "litellm", "ours"]

LITELLM = "1.106.2"
"""The version of LiteLLM that is compared with."""

_HERE = Path(__file__).parent
_KEY = "sk-benchmark"  # the one that load.py sends
_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and its process."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where chat completions are asked for."""
        return f"http://127.0.0.1:{self.port}{_PATH}"

    @property
    def base(self) -> str:
        """What clients call the base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def peak(self) -> int | None:
        """The most bytes of memory that it has held so far."""
        return peak_resident(self.process.pid)

    def cpu(self) -> float | None:
        """The seconds of processor time that it has used so far."""
        return cpu_seconds(self.process.pid)


@contextmanager
def direct() -> Iterator[Server]:
    """The upstream itself."""
    with _running([sys.executable, str(_HERE / "plain_upstream.py")], "/") as server:
        yield server


@contextmanager
def ours(
    upstream: Server, folder: Path, *, screening: bool, source: Path | None = None
) -> Iterator[Server]:
    """Our proxy with one worker; `source` is the `src` of another checkout to run instead."""
    config = folder / f"proxy-{screening}.toml"
    route = f'[[route]]\npath = "{_PATH}"\nscreen = "none"\n'
    text = f'[proxy]\nupstream = "{upstream.base}"\n{"" if screening else route}'
    config.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "alknet_firewall", "serve", "--config", str(config), "--port"]
    environment = {"PYTHONPATH": str(source)} if source else {}
    with _running(command, "/readyz", environment, folder / "ours.log") as server:
        yield server


def installed_litellm(cache: Path) -> Path:
    """The Python of an environment with LiteLLM's proxy in it, made if it is not there."""
    home = cache / f"litellm-{LITELLM}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "installed"
    if not done.exists():
        subprocess.run(["uv", "venv", "-q", "--clear", "-p", "3.11", str(home)], check=True)
        wanted = f"litellm[proxy]=={LITELLM}"
        subprocess.run(["uv", "pip", "install", "-q", "-p", str(python), wanted], check=True)
        done.touch()
    return python


@contextmanager
def litellm(upstream: Server, folder: Path, python: Path) -> Iterator[Server]:
    """LiteLLM's proxy with one worker, no guardrail, no database, and logging errors only."""
    model = {"model": "openai/echo", "api_base": upstream.base, "api_key": _KEY}
    config = folder / "litellm.yaml"
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": [{"model_name": "echo", "litellm_params": model}]}))
    program = "from litellm import run_server; run_server()"
    command = [str(python), "-c", program, "--config", str(config), "--host", "127.0.0.1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # asks nobody for prices
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": _KEY,
        "LITELLM_MODE": "PRODUCTION",
        "NO_PROXY": "127.0.0.1",
    }
    command += ["--telemetry", "False", "--num_workers", "1", "--port"]
    with _running(command, "/health/liveliness", environment, folder / "litellm.log") as server:
        yield server


@contextmanager
def _running(
    command: Sequence[str],
    probe: str,
    environment: Mapping[str, str] = {},
    log: Path = Path(os.devnull),
) -> Iterator[Server]:
    """A command that takes a port as its last argument, until it is no longer wanted."""
    port = _free_port()
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*command, str(port)],
            env={**os.environ, **environment},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(Server(port, process), probe, log)
        yield Server(port, process)
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_ready(server: Server, probe: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        if _status(server.port, probe) == 200:
            return
        time.sleep(0.1)
    told = log.read_text(errors="replace")[-3000:] if log.is_file() else ""
    raise SystemExit(f"a server did not become ready\n{told}")


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
