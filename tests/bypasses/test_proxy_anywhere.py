"""An attack at any string of any valid request: the upstream never sees it.

The requests are made from the types of the official clients, so every route,
every kind of part and every field is tried. ALKNET_CASES=10000 tries as many.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alknet_firewall.proxy.app import create_app

from ..proxy.fakes import ATTACK, FakeFirewall, Recorder, config
from ..proxy.test_sdk_types import CASES, Sampler

CASES_TO_TRY = int(os.environ.get("ALKNET_CASES", "150"))
PATHS = {
    "chat": ["/v1/chat/completions"],
    "completions": ["/v1/completions"],
    "embeddings": ["/v1/embeddings"],
    "responses": ["/v1/responses"],
    "messages": ["/v1/messages", "/v1/messages/count_tokens"],
}
Place = tuple[str | int, ...]


@functools.cache
def samples() -> list[tuple[str, dict[str, Any], list[Place]]]:
    """Paths, bodies, and the places of all free strings in each body."""
    bodies = ((shape, body) for shape, kind in CASES for body in Sampler().samples(kind))
    return [
        (path, body, [*_places(body)])
        for shape, body in bodies
        for path in PATHS[shape]
        if len(json.dumps(body)) < 200_000
    ]


def _places(value: object, *at: str | int) -> Iterator[Place]:
    if isinstance(value, str) and value.startswith("leaf number"):
        yield at
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, *at, key)


def _poisoned(body: dict[str, Any], place: Place, text: str) -> dict[str, Any]:
    poisoned = copy.deepcopy(body)
    *way, last = place
    holder: Any = poisoned
    for step in way:
        holder = holder[step]
    holder[last] = text
    return poisoned


_WRITTEN: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in JSON": lambda text: json.dumps({"note": text}),
    "in escaped JSON": lambda text: '{"note": "' + "".join(f"\\u{ord(c):04x}" for c in text) + '"}',
    "between words": lambda text: f"some words before {text} and after",
}


class _Proxy:
    """One proxy for all examples: starting it for each would take too long."""

    def __init__(self) -> None:
        self.upstream = Recorder()
        # Nothing is trusted, because the attack may be put into a system prompt.
        app = create_app(config(trusted_roles=()), FakeFirewall(), transport=self.upstream)
        transport = httpx.ASGITransport(app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://proxy.test")
        self.lifespan = app.router.lifespan_context(app)
        self.runner = asyncio.Runner()

    def __enter__(self) -> _Proxy:
        self.runner.run(self.lifespan.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.run(self.client.aclose())
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.runner.run(self.client.post(path, json=body))


@pytest.fixture(scope="module")
def proxy() -> Iterator[_Proxy]:
    with _Proxy() as started:
        yield started


def test_the_same_requests_pass_without_the_attack(proxy: _Proxy) -> None:
    for path, body, _ in samples()[::25]:
        assert proxy.post(path, body).status_code == 200
    proxy.upstream.requests.clear()


@pytest.mark.timeout(3600)
@given(data=st.data())
@settings(max_examples=CASES_TO_TRY, suppress_health_check=[*HealthCheck], database=None)
def test_an_attack_anywhere_never_reaches_the_upstream(proxy: _Proxy, data: st.DataObject) -> None:
    path, body, places = data.draw(st.sampled_from(samples()))
    place = data.draw(st.sampled_from(places))
    written = _WRITTEN[data.draw(st.sampled_from([*_WRITTEN]))](ATTACK)
    sent = _poisoned(body, place, written)
    if data.draw(st.booleans()):
        sent["stream"] = True
    assert proxy.post(path, sent).status_code == 400, (path, place)
    assert proxy.upstream.requests == []
