"""Which requests are served, and how each is screened. Exact paths decide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError
from .content import Shape
from .options import ProxyConfig, RouteConfig

__all__ = ["Api", "Endpoint", "endpoints", "find", "not_found", "websocket_refused"]

Api = Literal["openai", "anthropic"]
"""Whose error shape a client of the route expects."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One served path.

    `path` is as clients write it and names the route in policies and metrics,
    `target` what follows the upstream's base URL. `shape` says how the body is
    screened; None passes the request on as it is.
    """

    method: str
    path: str
    target: str
    shape: Shape | None
    api: Api = "openai"


_KNOWN: tuple[tuple[str, str, Shape | None], ...] = (
    ("POST", "/chat/completions", "chat"),
    ("POST", "/completions", "completions"),
    ("POST", "/responses", "responses"),
    ("POST", "/embeddings", "embeddings"),
    ("POST", "/messages", "messages"),
    ("POST", "/messages/count_tokens", "messages"),
    ("GET", "/models", None),
    ("GET", "/models/{model}", None),
)


def endpoints(proxy: ProxyConfig, routes: Iterable[RouteConfig] = ()) -> tuple[Endpoint, ...]:
    """Every served path: the known ones under each prefix, and `[[route]]`s in their place."""
    known = (
        Endpoint(method, prefix + path, path, shape, _api(shape))
        for prefix in proxy.prefixes
        for method, path, shape in _KNOWN
    )
    own = (_configured(route, proxy.prefixes) for route in routes)
    return tuple({(item.method, item.path): item for item in (*known, *own)}.values())


def _api(shape: Shape | None) -> Api:
    return "anthropic" if shape == "messages" else "openai"


def _configured(route: RouteConfig, prefixes: Sequence[str]) -> Endpoint:
    shape = None if route.screen == "none" else route.screen
    under = [prefix for prefix in prefixes if route.path.startswith(f"{prefix}/")]
    target = route.path.removeprefix(max(under, key=len, default=""))
    return Endpoint(route.method, route.path, target, shape, _api(shape))


# A model's name may have slashes, but no escape, no empty and no dotted part.
PLAIN_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.:@-]+)+")


def find(served: Iterable[Endpoint], method: str, raw_path: bytes) -> tuple[Endpoint, str]:
    """The endpoint of a request, and what follows the upstream's base URL.

    Raises `RequestError`, 404 for a path that is not served or is written in
    another way than plainly, 405 for another method. Two ways to write one path
    are one way for two readers to disagree about it.
    """
    path = raw_path.decode("latin-1")
    if not PLAIN_PATH.fullmatch(path):
        raise not_found(method)
    served = [item for item in served if _matches(item, path)]
    for item in served:
        if item.method == method:
            return item, item.target.replace("{model}", _model(item, path))
    if served and method != "POST":
        raise _wrong_method(served[0].method)
    raise not_found(method)


def _matches(item: Endpoint, path: str) -> bool:
    fixed, variable, _ = item.path.partition("{model}")
    return path.startswith(fixed) and len(path) > len(fixed) if variable else path == item.path


def _model(item: Endpoint, path: str) -> str:
    return path.removeprefix(item.path.partition("{model}")[0])


def not_found(method: str) -> RequestError:
    """A path that the proxy does not serve. The path is not repeated."""
    return RequestError(
        f"this {method} path is not served by alknet-firewall, which forwards only what it "
        "screens: see the endpoints in its documentation, or add a [[route]]",
        status=404,
        code="not_found",
    )


def _wrong_method(allowed: str) -> RequestError:
    return RequestError(
        f"this path takes the method {allowed}",
        status=405,
        code="method_not_allowed",
        headers={"allow": allowed},
    )


def websocket_refused() -> RequestError:
    """A WebSocket upgrade, which would carry text that nobody screens."""
    return RequestError(
        "alknet-firewall does not forward WebSocket connections, because it cannot screen them: "
        "use the HTTP API, with stream=true",
        code="websocket_not_supported",
    )
