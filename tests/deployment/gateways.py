"""nginx and Envoy as processes, with the configurations of `examples/` at other addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def program(name: str, how: str) -> str:
    """The path of a program; skips the test, and says how to get it, where it is absent."""
    if found := shutil.which(name):
        return found
    pytest.skip(f"{name} is not installed: {how}")


def nginx() -> str:
    return program("nginx", "apt-get install nginx-light")


def envoy() -> str:
    return program("envoy", "scripts/check-deployment installs it")


def moved(example: str, changes: Mapping[str, str], folder: Path) -> Path:
    """A copy of an example with other addresses in it. Each must be there once."""
    text = (EXAMPLES / example).read_text("utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    copy = folder / Path(example).name
    copy.write_text(text, "utf-8")
    return copy


def nginx_command(config: Path) -> list[str]:
    # The folder of a test is its owner's alone.
    user = "user root;" if os.geteuid() == 0 else ""
    prefix = ["-e", "stderr", "-p", str(config.parent), "-g", f"daemon off; {user}"]
    return [nginx(), *prefix, "-c", str(config)]


def envoy_command(config: Path) -> list[str]:
    quiet = ["--log-level", "warning", "--concurrency", "1", "--disable-hot-restart"]
    return [envoy(), *quiet, "-c", str(config)]


@contextmanager
def started(command: list[str], ready: Callable[[], bool]) -> Iterator[None]:
    """A process that runs while the block does, and has become ready before."""
    with subprocess.Popen(command) as process:
        try:
            deadline = time.monotonic() + 60
            while not _is(ready):
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < deadline, "it did not become ready"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def _is(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except httpx.TransportError:
        return False
