"""The proxy as an ASGI application: what is served where, and from start to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio.to_thread
import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..config import Config
from ..errors import ProxyError
from .calls import cancel
from .exchange import Observed, exchange_of
from .exporters import telemetry_from_environment
from .gateway import Gateway
from .policy import Verdict
from .reload import Reloader
from .responses import error_response
from .routes import not_found
from .screening import Detector, Screener
from .service import GUARDRAIL, SCREEN, Service
from .settings import Source
from .state import state_of
from .telemetry import Telemetry

__all__ = ["create_app"]

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def create_app(
    config: Config,
    firewall: Detector,
    *,
    source: Source | None = None,
    telemetry: Telemetry | None = None,
    on_verdict: Callable[[Verdict], None] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Starlette:
    """The proxy, ready to be run by an ASGI server.

    With `source` the configuration is read again on SIGHUP and when its file
    changes. `on_verdict` is called in the event loop with the verdict on each
    screened request, before it is forwarded or refused; it holds the screened
    texts, so it is for looking on in the same process, as the demo does.
    `telemetry` and `transport` replace what the environment configures. Raises
    `ConfigError` when no usable upstream is configured.
    """
    telemetry = telemetry or telemetry_from_environment(prometheus=config.telemetry.prometheus)
    screener = Screener(firewall, config, telemetry)
    gateway = Gateway(state_of(config, telemetry, transport), screener, telemetry, on_verdict)
    proxy = _Proxy(gateway, screener, telemetry, transport)
    if source:
        proxy.reloader = Reloader(source, config, proxy.apply)
    service = Service(gateway)
    app = Starlette(
        routes=[
            Route("/healthz", proxy.healthz),
            Route("/readyz", proxy.readyz),
            *([Route("/metrics", proxy.metrics)] if telemetry.exposition else []),
            Route(SCREEN.path, service.screen, methods=[SCREEN.method]),
            Route(GUARDRAIL.path, service.guardrail, methods=[GUARDRAIL.method]),
            Route("/{path:path}", gateway.handle, methods=_METHODS),
        ],
        middleware=[Middleware(Observed, telemetry=telemetry)],
        exception_handlers={
            ProxyError: _refuse,
            HTTPException: _refuse_http,
            ClientDisconnect: _nobody_listens,
        },
        lifespan=proxy.lifespan,
    )
    # A path that is almost right is wrong: it gets a 404, not a redirect.
    app.router.redirect_slashes = False
    return app


class _Proxy:
    """What happens beside the requests."""

    def __init__(
        self,
        gateway: Gateway,
        screener: Screener,
        telemetry: Telemetry,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._gateway = gateway
        self._screener = screener
        self._telemetry = telemetry
        self._transport = transport
        self.reloader: Reloader | None = None

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Load the detector while /healthz and /readyz answer already."""
        tasks = [asyncio.create_task(self._screener.prepare())]
        if self.reloader:
            tasks.append(asyncio.create_task(self.reloader.run()))
        yield
        for task in tasks:
            await cancel(task)
        await self._gateway.state.aclose()
        await self._screener.aclose()
        await anyio.to_thread.run_sync(self._telemetry.shutdown)

    async def apply(self, config: Config) -> None:
        """Serve the next requests by another configuration. Raises `ConfigError`."""
        old = self._gateway.state
        self._gateway.state = state_of(config, self._telemetry, self._transport)
        await old.retire()

    async def healthz(self, request: Request) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """The detector is loaded and told a known attack from a known harmless text."""
        screener = self._screener
        body: dict[str, Any] = {"status": screener.status, "problem": screener.problem}
        if "verbose" in request.query_params and self.reloader:
            body["configuration"] = self.reloader.describe()
        return JSONResponse(body, status_code=200 if screener.status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """All metrics, as Prometheus reads them."""
        exposition = self._telemetry.exposition
        text = await anyio.to_thread.run_sync(exposition) if exposition else b""
        return Response(text, media_type="text/plain; version=1.0.0; charset=utf-8")


async def _refuse(request: Request, error: Exception) -> Response:
    return error_response(cast(ProxyError, error), exchange_of(request.scope).api)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """The router's own refusals: a method that nothing here takes."""
    return error_response(not_found(request.method))


async def _nobody_listens(request: Request, error: Exception) -> Response:
    # Never seen by anyone; nginx's number for it keeps the metrics honest.
    return Response(status_code=499)
