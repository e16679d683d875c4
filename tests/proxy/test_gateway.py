"""What the proxy makes of a request on each route, by each policy, for each client."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest

from alknet_firewall.config import (
    ClientConfig,
    Config,
    LevelActions,
    PolicyConfig,
    ProxyConfig,
    RouteConfig,
    RuleConfig,
    UpstreamConfig,
)
from alknet_firewall.errors import ConfigError
from alknet_firewall.proxy.app import create_app

from .conftest import proxy_client
from .fakes import ATTACK, DOUBTFUL, FakeFirewall, Recorder, config

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "tool", "content": "TEXT"}]},
    "/v1/completions": {"prompt": ["a", "TEXT"]},
    "/v1/responses": {"input": [{"type": "function_call_output", "output": "TEXT"}]},
    "/v1/embeddings": {"input": "TEXT"},
    "/v1/messages": {
        "messages": [{"role": "user", "content": [{"type": "tool_result", "content": "TEXT"}]}]
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "TEXT"}]},
}
ROUTES = pytest.mark.parametrize("path", [*BODIES])


def body(path: str, text: str, **fields: object) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(BODIES[path]).replace("TEXT", text))
    return {"model": "m", **written, **fields}


@ROUTES
async def test_harmless_text_is_forwarded(
    client: httpx.AsyncClient, upstream: Recorder, path: str
) -> None:
    sent = body(path, "hello", unknown={"n": 1.50, "big": 2**80})
    answer = await client.post(path, json=sent)
    assert answer.status_code == 200
    assert answer.headers["x-alknet-firewall-level"] == "CLEAR"
    assert upstream.requests[0].url.path == path
    assert json.loads(upstream.requests[0].content) == sent


@ROUTES
async def test_an_attack_is_blocked(
    client: httpx.AsyncClient, upstream: Recorder, path: str
) -> None:
    answer = await client.post(path, json=body(path, ATTACK))
    assert answer.status_code == 400
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert "blocked" in error["message"]
    if path.startswith("/v1/messages"):
        assert answer.json()["type"] == "error"
        assert error["type"] == "invalid_request_error"
    else:
        assert error["code"] == "content_filter"
    assert upstream.requests == []


REFUSE = PolicyConfig(default=LevelActions(dangerous="refuse"))


@ROUTES
@pytest.mark.parametrize("stream", [False, True])
async def test_an_attack_is_refused(
    firewall: FakeFirewall, upstream: Recorder, path: str, stream: bool
) -> None:
    async with proxy_client(config(REFUSE), firewall, upstream) as client:
        answer = await client.post(path, json=body(path, ATTACK, stream=stream))
    assert upstream.requests == []
    if path.endswith(("embeddings", "count_tokens")):
        assert answer.status_code == 400  # nothing a model could say there
        return
    assert answer.status_code == 200
    assert answer.headers["x-alknet-firewall-level"] == "DANGEROUS"
    assert ("refusal" if path == "/v1/messages" else "content_filter") in answer.text
    kind = "text/event-stream" if stream else "application/json"
    assert answer.headers["content-type"].startswith(kind)


async def test_shadow_mode_changes_nothing(
    firewall: FakeFirewall, upstream: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_client(config(PolicyConfig(mode="shadow")), firewall, upstream) as client:
        with caplog.at_level(logging.INFO):
            answer = await client.post("/v1/responses", json=body("/v1/responses", ATTACK))
    assert answer.status_code == 200
    assert "action=log would=block" in caplog.text
    assert not [name for name in answer.headers if name.startswith("x-alknet")]
    assert not [name for name in upstream.requests[0].headers if name.startswith("x-alknet")]


@pytest.mark.parametrize("wish", ["suspicious=block", "mode=enforce, suspicious=refuse"])
async def test_a_client_may_ask_for_more(
    client: httpx.AsyncClient, upstream: Recorder, wish: str
) -> None:
    path = "/v1/chat/completions"
    headers = {"x-alknet-firewall-policy": wish}
    answer = await client.post(path, json=body(path, DOUBTFUL), headers=headers)
    assert "blocked" in answer.text
    assert upstream.requests == []


@pytest.mark.parametrize("wish", ["dangerous=allow", "dangerous=log, suspicious=allow"])
async def test_a_client_never_gets_less(
    client: httpx.AsyncClient, upstream: Recorder, wish: str
) -> None:
    path = "/v1/chat/completions"
    headers = {"x-alknet-firewall-policy": wish}
    answer = await client.post(path, json=body(path, ATTACK), headers=headers)
    assert answer.status_code == 400
    assert upstream.requests == []


async def test_spotlighting_marks_the_text_as_data(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    path, policy = "/v1/chat/completions", PolicyConfig(spotlight=True)
    async with proxy_client(config(policy), firewall, upstream) as client:
        sent = body(path, DOUBTFUL)
        sent["messages"].append({"role": "user", "content": [{"type": "text", "text": "hello"}]})
        await client.post(path, json=sent)
    doubtful, harmless = json.loads(upstream.requests[0].content)["messages"]
    first, mark, text, again = doubtful["content"].split("\n")
    assert "data" in first
    assert mark == again
    assert mark.startswith("DATA-")
    assert text == DOUBTFUL
    assert harmless["content"][0]["text"] == "hello"


async def test_what_was_not_screened_is_told(client: httpx.AsyncClient) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}}
    message = {
        "role": "user",
        "content": [image, image, {"type": "file", "file": {"file_id": "f"}}],
    }
    answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": [message]})
    assert answer.status_code == 200
    assert answer.headers["x-alknet-firewall-not-screened"] == "file=1, image=2"


async def test_what_cannot_be_screened_may_be_barred(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    policy = PolicyConfig(not_screened={"history": "block"})
    async with proxy_client(config(policy), firewall, upstream) as client:
        sent = {"model": "m", "input": "hi", "previous_response_id": "resp_1"}
        answer = await client.post("/v1/responses", json=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "not_screened"
    assert answer.json()["error"]["param"] == "previous_response_id"
    assert upstream.requests == []


async def test_errors_have_the_shape_of_the_route(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/messages", content=b"{", headers=JSON)
    assert answer.json()["type"] == "error"
    answer = await client.post("/v1/responses", content=b"{", headers=JSON)
    assert answer.json()["error"]["code"] == "invalid_json"


JSON = {"content-type": "application/json"}


async def test_a_compressed_body_is_screened(client: httpx.AsyncClient, upstream: Recorder) -> None:
    path = "/v1/chat/completions"
    headers = {**JSON, "content-encoding": "gzip"}
    for text, status in ((ATTACK, 400), ("hello", 200)):
        raw = gzip.compress(json.dumps(body(path, text)).encode())
        assert (await client.post(path, content=raw, headers=headers)).status_code == status
    [sent] = upstream.requests
    assert "content-encoding" not in sent.headers
    assert json.loads(sent.content) == body(path, "hello")


async def test_two_encodings_are_two_too_many(client: httpx.AsyncClient) -> None:
    headers = [("content-type", "application/json"), ("content-encoding", "identity")]
    headers.append(("content-encoding", "gzip"))
    answer = await client.post("/v1/responses", content=b"{}", headers=headers)
    assert answer.status_code == 415


async def test_a_routes_screening_is_configuration(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    settings = replace(
        config(),
        route=(
            RouteConfig("/v1/rerank", "strings"),
            RouteConfig("/v1/audio/transcriptions", "none"),
            RouteConfig("/v1/files", "none", method="GET"),
        ),
    )
    async with proxy_client(settings, firewall, upstream) as client:
        blocked = await client.post("/v1/rerank", json={"documents": ["a", {"x": ATTACK}]})
        form = {"content-type": "multipart/form-data; boundary=x"}
        passed = await client.post("/v1/audio/transcriptions", content=b"--x--", headers=form)
        listed = await client.get("/v1/files")
    assert blocked.status_code == 400
    assert blocked.json()["error"]["param"] == "documents[1].x"
    assert (passed.status_code, listed.status_code) == (200, 200)
    assert upstream.requests[0].content == b"--x--"
    assert upstream.requests[0].headers["content-type"] == form["content-type"]
    assert "x-alknet-firewall-level" not in passed.headers


async def test_the_model_chooses_the_upstream(firewall: FakeFirewall, upstream: Recorder) -> None:
    settings = Config(
        upstream=(
            UpstreamConfig("one", "http://one.test/v1", models=("gpt-*",)),
            UpstreamConfig("two", "http://two.test/api", models=("claude-*", "llama")),
        )
    )
    path = "/v1/chat/completions"
    async with proxy_client(settings, firewall, upstream) as client:
        for model in ("gpt-4o", "llama"):
            await client.post(path, json=body(path, "hi", model=model))
        await client.get("/v1/models")
        await client.get("/v1/models/claude-x")
        missing = await client.post(path, json=body(path, "hi", model="other"))
    assert [str(sent.url) for sent in upstream.requests] == [
        "http://one.test/v1/chat/completions",
        "http://two.test/api/chat/completions",
        "http://one.test/v1/models",
        "http://two.test/api/models/claude-x",
    ]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


# --- clients -----------------------------------------------------------------


def keyed(monkeypatch: pytest.MonkeyPatch, **policy: Any) -> Config:
    monkeypatch.setenv("OWN_KEY", "sk-own")
    digest = hashlib.sha256(b"key-of-search").hexdigest()
    return Config(
        upstream=(UpstreamConfig("one", "http://one.test/v1", api_key_env="OWN_KEY"),),
        client=(
            ClientConfig("search", key_sha256=digest),
            ClientConfig("batch", header="x-team: batch"),
        ),
        policy=PolicyConfig(**policy),
        proxy=ProxyConfig(trusted_proxies=("127.0.0.1",)),
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer key-of-search"}, 200),
        ({"x-api-key": "key-of-search"}, 200),
        ({"x-team": "batch"}, 200),
        ({"authorization": "Bearer key-of-nobody"}, 401),
        ({"x-team": "other"}, 401),
        ({}, 401),
    ],
)
async def test_the_upstreams_key_is_for_known_clients(
    firewall: FakeFirewall,
    upstream: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    status: int,
) -> None:
    path = "/v1/chat/completions"
    async with proxy_client(keyed(monkeypatch), firewall, upstream) as client:
        answer = await client.post(path, json=body(path, "hi"), headers=headers)
    assert answer.status_code == status
    if status == 200:
        assert upstream.requests[0].headers["authorization"] == "Bearer sk-own"
        assert "key-of-search" not in str(upstream.requests[0].headers)
    else:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert upstream.requests == []


async def test_a_rule_may_name_a_client(
    firewall: FakeFirewall, upstream: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = keyed(monkeypatch, rule=(RuleConfig(client="search", dangerous="log"),))
    path = "/v1/chat/completions"
    statuses = []
    async with proxy_client(settings, firewall, upstream) as client:
        for headers in ({"x-api-key": "key-of-search"}, {"x-team": "batch"}):
            answer = await client.post(path, json=body(path, ATTACK), headers=headers)
            statuses.append(answer.status_code)
    assert statuses == [200, 400]


def test_a_key_for_everybody_must_be_meant(
    firewall: FakeFirewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(keyed(monkeypatch), client=())
    with pytest.raises(ConfigError, match=r"\[\[client\]\]"):
        create_app(settings, firewall)
    create_app(replace(settings, proxy=ProxyConfig(require_client=False)), firewall)


def test_an_unset_key_is_named(firewall: FakeFirewall) -> None:
    settings = Config(upstream=(UpstreamConfig("one", "http://u/v1", api_key_env="NOT_THERE"),))
    with pytest.raises(ConfigError, match="NOT_THERE is not set"):
        create_app(settings, firewall)


def test_an_unreadable_authority_is_named(firewall: FakeFirewall) -> None:
    settings = Config(upstream=(UpstreamConfig("one", "https://u/v1", ca_file="/no/ca.pem"),))
    with pytest.raises(ConfigError, match=r"one\.ca_file: /no/ca\.pem cannot be read"):
        create_app(settings, firewall)


# --- retries -----------------------------------------------------------------


class Refusing(Recorder):
    """Refuses the first connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.requests:
            self.requests.append(request)
            raise httpx.ConnectError("refused")
        return await super().handle_async_request(request)


async def test_a_connection_that_could_not_be_made_is_tried_again(firewall: FakeFirewall) -> None:
    upstream = Refusing()
    path = "/v1/chat/completions"
    async with proxy_client(config(), firewall, upstream) as client:
        assert (await client.post(path, json=body(path, "hi"))).status_code == 200
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("error", [httpx.ReadError("x"), httpx.RemoteProtocolError("x")])
async def test_nothing_else_is_tried_again(firewall: FakeFirewall, error: Exception) -> None:
    upstream = Recorder(error=error)
    path = "/v1/chat/completions"
    async with proxy_client(config(), firewall, upstream) as client:
        assert (await client.post(path, json=body(path, "hi"))).status_code == 502
    assert len(upstream.requests) == 1


async def test_a_large_body_is_read_beside_the_loop(
    client: httpx.AsyncClient, upstream: Recorder
) -> None:
    path = "/v1/chat/completions"
    for text, status in (("x " * 100_000 + ATTACK, 400), ("x " * 100_000, 200)):
        assert (await client.post(path, json=body(path, text))).status_code == status
    raw = b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}"
    answer = await client.post(path, content=raw, headers=JSON)
    assert answer.json()["error"]["code"] == "body_too_deep"
    assert len(upstream.requests) == 1
