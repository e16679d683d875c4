"""Runs an application: in the foreground to serve, in a thread to try things out."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..config import Config
from ..errors import ConfigError

__all__ = ["running", "serve"]

_log = logging.getLogger(__name__)


def serve(config: Config) -> None:
    """Serve the proxy until a signal ends it; streams get 30 s to finish.

    Raises `ConfigError` when the upstream is not configured or the address
    cannot be listened on.
    """
    from ..firewall import Firewall
    from .app import create_app

    _configure_logging()
    app = create_app(config, Firewall(config.firewall, progress=True))
    host, port = config.proxy.host, config.proxy.port
    with _listen(host, port) as listener:
        _log.info("listening on %s", _url(listener))
        _server(app, timeout_graceful_shutdown=30).run(sockets=[listener])


@contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run an application in a thread, and yield its URL (without a path).

    Port 0 takes a free one. Raises `ConfigError` when the address is taken,
    `RuntimeError` when the application does not start.
    """
    with _listen(host, port) as listener:
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
            log_config=None,
            access_log=False,  # it would log queries
            server_header=False,  # the upstream's is passed on
            proxy_headers=False,
            lifespan="on",
            ws="none",
            **options,
        )
    )


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the application did not start")
        time.sleep(0.005)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): "
            "choose another `host` or `port` under [proxy]"
        ) from error
    # Connections inherit it. asyncio sets it only on sockets that it made
    # itself, and without it each answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _configure_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # A line for each request to the upstream, with its whole URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)
