"""Several processes on one listening socket, each with a detector of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import ConfigError
from .logs import configure_logging
from .server import work
from .settings import Source

__all__ = ["supervise"]

_log = logging.getLogger(__name__)
# A worker that ends this soon has not served anybody.
_TOO_SOON = 5.0
_TRIES = 5


def supervise(source: Source, listener: socket.socket, workers: int) -> None:
    """Keep `workers` processes at work until a signal ends them.

    SIGTERM and SIGINT end each gracefully, SIGHUP lets each read its
    configuration again. Raises `ConfigError` when they keep ending at once.
    """
    # Not forked: threads and inference sessions do not survive it.
    context = multiprocessing.get_context("spawn")
    started: dict[BaseProcess, float] = {}
    failures = 0

    def start() -> None:
        process = context.Process(target=_run, args=(source, listener), name="worker")
        process.start()
        started[process] = time.monotonic()

    with _signals(started) as stopping:
        for _ in range(workers):
            start()
        while started:
            wait([process.sentinel for process in started], timeout=1)
            for process in [item for item in started if not item.is_alive()]:
                age = time.monotonic() - started.pop(process)
                if stopping:
                    continue
                failures = failures + 1 if age < _TOO_SOON else 0
                _log.error("worker %s ended with %s", process.pid, process.exitcode)
                if failures < _TRIES:
                    start()
    if failures >= _TRIES:
        raise ConfigError("the workers end as soon as they start: see the log for the reason")


def _run(source: Source, listener: socket.socket) -> None:
    config = source.load()
    configure_logging(config.telemetry.log_format, config.telemetry.log_level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(source, listener)


def _end_with_parent() -> None:
    """End gracefully when the parent has been killed, so that another can have its address."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals(processes: dict[BaseProcess, float]) -> Iterator[list[int]]:
    """Pass signals on to the workers; the list yielded fills when they are to end."""
    stopping: list[int] = []

    def end(number: int, frame: Any) -> None:
        stopping.append(number)
        for process in list(processes):
            process.terminate()

    def reload(number: int, frame: Any) -> None:
        for process in list(processes):
            if process.pid and process.is_alive():
                os.kill(process.pid, number)

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: reload}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
