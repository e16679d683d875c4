"""Exact paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.config import ProxyConfig, RouteConfig
from alknet_firewall.errors import RequestError
from alknet_firewall.proxy.routes import endpoints, find

KNOWN = endpoints(ProxyConfig())


@pytest.mark.parametrize(
    ("path", "shape", "api"),
    [
        ("/v1/chat/completions", "chat", "openai"),
        ("/v1/completions", "completions", "openai"),
        ("/v1/responses", "responses", "openai"),
        ("/v1/embeddings", "embeddings", "openai"),
        ("/v1/messages", "messages", "anthropic"),
        ("/v1/messages/count_tokens", "messages", "anthropic"),
    ],
)
def test_known_paths(path: str, shape: str, api: str) -> None:
    endpoint, target = find(KNOWN, "POST", path.encode())
    assert (endpoint.shape, endpoint.api) == (shape, api)
    assert target == path.removeprefix("/v1")


def test_models_carry_their_name() -> None:
    assert find(KNOWN, "GET", b"/v1/models")[1] == "/models"
    endpoint, target = find(KNOWN, "GET", b"/v1/models/org/model:tag")
    assert (endpoint.path, target) == ("/v1/models/{model}", "/models/org/model:tag")


def test_prefixes() -> None:
    served = endpoints(ProxyConfig(prefixes=("/openai/v1", "")))
    assert find(served, "POST", b"/openai/v1/responses")[1] == "/responses"
    assert find(served, "POST", b"/responses")[1] == "/responses"
    with pytest.raises(RequestError):
        find(served, "POST", b"/v1/responses")


def test_routes_add_and_replace() -> None:
    served = endpoints(
        ProxyConfig(),
        [RouteConfig("/v1/rerank", "strings"), RouteConfig("/v1/embeddings", "none")],
    )
    assert find(served, "POST", b"/v1/rerank")[0].shape == "strings"
    assert find(served, "POST", b"/v1/rerank")[1] == "/rerank"
    assert find(served, "POST", b"/v1/embeddings")[0].shape is None


def test_another_method_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        find(KNOWN, "GET", b"/v1/responses")
    assert (caught.value.status, caught.value.headers) == (405, {"allow": "POST"})


_twist = st.sampled_from(
    ["/", "//", "/./", "/../", "%2f", "%2F", ";", "?", "#", "\\", " ", "%00", "\t", "http://x"]
)


@given(twist=_twist, data=st.data())
def test_a_path_with_anything_more_in_it_is_not_served(twist: str, data: st.DataObject) -> None:
    path = "/v1/messages/count_tokens"
    at = data.draw(st.integers(0, len(path)))
    twisted = path[:at] + twist + path[at:]
    with pytest.raises(RequestError) as caught:
        find(KNOWN, "POST", twisted.encode())
    assert caught.value.status == 404


@given(st.text(max_size=30))
def test_only_served_paths_are_found(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        find(KNOWN, "POST", b"/v1/" + path.encode())
    assert caught.value.status == 404
