"""Runs an application: in the foreground to serve, in a thread to try things out."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..errors import ConfigError
from .logs import configure_logging
from .settings import Source, refuse_itself

__all__ = ["listen", "running", "serve", "work"]

_log = logging.getLogger(__name__)
_GRACE = 30
"""Seconds that streams get to finish when the server stops."""


def serve(source: Source, workers: int = 1) -> None:
    """Serve the proxy until a signal ends it; streams get 30 s to finish.

    Raises `ConfigError` when the configuration is wrong or the address cannot
    be listened on.
    """
    from .state import state_of
    from .telemetry import Telemetry
    from .workers import supervise

    config = source.load()
    configure_logging(config.telemetry.log_format, config.telemetry.log_level)
    state_of(config, Telemetry())  # finds mistakes before anything is loaded
    refuse_itself(config)
    with listen(config.proxy.host, config.proxy.port) as listener:
        _log.info("listening on %s", _url(listener))
        if workers > 1:
            supervise(source, listener, workers)
        else:
            work(source, listener)


def work(source: Source, listener: socket.socket) -> None:
    """Serve in this process what comes to `listener`, until a signal ends it."""
    from ..firewall import Firewall
    from .app import create_app

    config = source.load()
    app = create_app(config, Firewall(config.firewall, progress=True), source=source)
    _server(app, timeout_graceful_shutdown=_GRACE).run(sockets=[listener])


@contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run an application in a thread, and yield its URL (without a path).

    Port 0 takes a free one. Raises `ConfigError` when the address is taken,
    `RuntimeError` when the application does not start.
    """
    with listen(host, port) as listener:
        server = _server(app, timeout_graceful_shutdown=2)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join()


def _server(app: ASGIApp, **options: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_protocol(),
            log_config=None,
            access_log=False,  # it would log queries
            server_header=False,  # the upstream's is passed on
            proxy_headers=False,
            lifespan="on",
            ws="none",
            **options,
        )
    )


def _protocol() -> Any:
    """What reads requests: llhttp where it is installed, else h11."""
    try:
        from .front import Front
    except ImportError:
        return "h11"
    return Front


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the application did not start")
        time.sleep(0.005)


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket: of an address, or of `unix:PATH`. Raises `ConfigError`."""
    path = host.removeprefix("unix:") if host.startswith("unix:") else None
    try:
        listener = _listen_unix(path) if path else _listen_tcp(host, port)
    except OSError as error:
        where = host if path else f"{host} port {port}"
        raise ConfigError(
            f"cannot listen on {where} ({error.strerror or error}): "
            "choose another `host` or `port` under [proxy]"
        ) from error
    with listener:
        try:
            yield listener
        finally:
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def _listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # Connections inherit it. asyncio sets it only on sockets that it made
    # itself, and without it each answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket that a killed server has left; one that answers stays."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _url(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
