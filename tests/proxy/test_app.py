"""The way of a request through the proxy, with fakes on both sides."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from alknet_firewall.config import LevelActions, PolicyConfig, RoleActions
from alknet_firewall.errors import ConfigError, ModelError, TextTooLongError
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.policy import Verdict

from .conftest import proxy_client
from .fakes import ATTACK, DOUBTFUL, FakeFirewall, Recorder, config

CHAT = "/v1/chat/completions"


def chat(text: str, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": text}]}


async def test_harmless_request_is_forwarded_with_its_level(
    client: httpx.AsyncClient, upstream: Recorder
) -> None:
    body = {**chat("hello"), "temperature": 0.1, "seed": 2**70, "new_field": None}
    answer = await client.post(f"{CHAT}?api-version=1", json=body)
    assert answer.status_code == 200
    assert answer.json() == {"ok": True}
    assert answer.headers["x-alknet-firewall-level"] == "CLEAR"
    assert answer.headers["x-alknet-firewall-score"] == "0.1000"
    [sent] = upstream.requests
    assert str(sent.url) == "http://upstream.test/v1/chat/completions?api-version=1"
    assert json.loads(sent.content) == body
    assert int(sent.headers["content-length"]) == len(sent.content)


async def test_attack_is_blocked_before_anything_is_sent(
    client: httpx.AsyncClient, upstream: Recorder
) -> None:
    answer = await client.post(CHAT, json=chat(ATTACK, "tool"))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "content_filter"
    assert error["param"] == "messages[0].content"
    assert "ATTACK" not in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-alknet-firewall-level"] == "DANGEROUS"
    assert answer.headers["x-request-id"].startswith("req_")
    assert upstream.requests == []


async def test_annotate_tells_the_upstream_too(
    client: httpx.AsyncClient, upstream: Recorder
) -> None:
    answer = await client.post(CHAT, json=chat(DOUBTFUL))
    assert answer.status_code == 200
    for headers in (answer.headers, upstream.requests[0].headers):
        assert headers["x-alknet-firewall-level"] == "SUSPICIOUS"
        assert headers["x-alknet-firewall-score"] == "0.6000"


async def test_log_tells_the_log_and_never_the_content(
    firewall: FakeFirewall, upstream: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    policy = PolicyConfig(default=LevelActions(dangerous="log"))
    with caplog.at_level(logging.DEBUG):
        async with proxy_client(config(policy), firewall, upstream) as client:
            answer = await client.post(
                CHAT, json=chat(ATTACK), headers={"authorization": "Bearer sk-secret"}
            )
    assert answer.status_code == 200
    assert "action=log would=log level=DANGEROUS" in caplog.text
    assert "path=messages[0].content" in caplog.text
    assert ATTACK not in caplog.text
    assert "sk-secret" not in caplog.text
    assert "x-alknet-firewall-level" not in upstream.requests[0].headers


async def test_policy_of_a_role_overrides_the_default(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    policy = PolicyConfig(roles={"tool": RoleActions(suspicious="block")})
    async with proxy_client(config(policy), firewall, upstream) as client:
        assert (await client.post(CHAT, json=chat(DOUBTFUL, "user"))).status_code == 200
        assert (await client.post(CHAT, json=chat(DOUBTFUL, "tool"))).status_code == 400


async def test_authorization_reaches_the_upstream_and_hop_headers_do_not(
    client: httpx.AsyncClient, upstream: Recorder
) -> None:
    given = {
        "authorization": "Bearer sk-1",
        "user-agent": "me/1",
        "openai-organization": "org",
        "connection": "x-hop",
        "x-hop": "1",
        "te": "trailers",
        "x-alknet-firewall-level": "CLEAR",
        "X-Alknet-Anything": "1",
        "x-request-id": "mine-1",
    }
    answer = await client.post(CHAT, json=chat("hi"), headers=given)
    sent = upstream.requests[0].headers
    assert sent["authorization"] == "Bearer sk-1"
    assert sent["user-agent"] == "me/1"
    assert sent["openai-organization"] == "org"
    assert sent["x-request-id"] == answer.headers["x-request-id"] == "mine-1"
    assert not [name for name in sent if name.startswith("x-alknet") or name in ("x-hop", "te")]


async def test_upstream_cannot_speak_for_the_firewall(firewall: FakeFirewall) -> None:
    spoofed = httpx.Response(
        200, json={}, headers={"x-alknet-firewall-level": "CLEAR", "x-request-id": "theirs"}
    )
    async with proxy_client(config(), firewall, Recorder(spoofed)) as client:
        answer = await client.post(CHAT, json=chat(DOUBTFUL))
    assert answer.headers.get_list("x-alknet-firewall-level") == ["SUSPICIOUS"]
    assert answer.headers.get_list("x-request-id") == ["theirs"]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_upstream_errors_pass_through(firewall: FakeFirewall, status: int) -> None:
    told = httpx.Response(
        status, json={"error": {"message": "theirs"}}, headers={"retry-after": "7"}
    )
    async with proxy_client(config(), firewall, Recorder(told)) as client:
        answer = await client.post(CHAT, json=chat("hi"))
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "theirs"
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (httpx.ConnectError("http://user:pw@host"), 502, "upstream_unreachable"),
        (httpx.RemoteProtocolError("x"), 502, "upstream_unreachable"),
        (httpx.ConnectTimeout("x"), 504, "upstream_timeout"),
        (httpx.ReadTimeout("x"), 504, "upstream_timeout"),
    ],
)
async def test_unreachable_upstream(
    firewall: FakeFirewall, error: Exception, status: int, code: str
) -> None:
    async with proxy_client(config(), firewall, Recorder(error=error)) as client:
        answer = await client.post(CHAT, json=chat("hi"))
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "pw" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/batches",
        "/v1/responses/resp_1/cancel",
        "/v1/audio/speech",
        "/v1/models",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/Chat/Completions",
        "/v1/chat%2fcompletions",
        "/v1/chat%2Fcompletions",
        "/v1/chat/%63ompletions",
        "/v1/chat/completions;x",
        "/",
    ],
)
async def test_every_other_post_is_refused(
    client: httpx.AsyncClient, upstream: Recorder, path: str
) -> None:
    url = httpx.URL("http://proxy.test").copy_with(raw_path=path.encode())
    answer = await client.post(url, json=chat("hi"))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert upstream.requests == []


async def test_models_pass_through(client: httpx.AsyncClient, upstream: Recorder) -> None:
    for path in ("/v1/models", "/v1/models/gpt-4o", "/v1/models/org/model:tag"):
        answer = await client.get(path, headers={"authorization": "Bearer k"})
        assert answer.status_code == 200
        assert upstream.requests[-1].url.path == path
        assert upstream.requests[-1].headers["authorization"] == "Bearer k"
        assert "content-length" not in upstream.requests[-1].headers


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models//x", "/v1/models/a%2fb", "/v1/files"])
async def test_other_reads_are_refused(
    client: httpx.AsyncClient, upstream: Recorder, path: str
) -> None:
    answer = await client.get(httpx.URL("http://proxy.test").copy_with(raw_path=path.encode()))
    assert answer.status_code == 404
    assert upstream.requests == []


async def test_wrong_method(client: httpx.AsyncClient) -> None:
    answer = await client.get(CHAT)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"a":1,"a":2}', {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-encoding": "compress"}, 415),
        (b"{}", {"content-encoding": "gzip, gzip"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 400),
        (b'{"a":"' + b"x" * 2000 + b'"}', {}, 413),
    ],
)
async def test_bodies_that_are_refused(
    firewall: FakeFirewall, upstream: Recorder, raw: bytes, headers: dict[str, str], status: int
) -> None:
    async with proxy_client(config(max_body_bytes=1000), firewall, upstream) as client:
        answer = await client.post(
            CHAT, content=raw, headers={"content-type": "application/json", **headers}
        )
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"
    assert upstream.requests == []


async def test_failed_screening_is_closed_by_default(
    upstream: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    broken = FakeFirewall(error=ValueError("it said ATTACK please"))
    async with proxy_client(config(), broken, upstream) as client:
        answer = await client.post(CHAT, json=chat("secret text"))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "screening_failed"
    assert answer.headers["x-should-retry"] == "false"
    assert "ATTACK" not in answer.text + caplog.text
    assert upstream.requests == []


async def test_failed_screening_may_be_open(upstream: Recorder) -> None:
    broken = FakeFirewall(error=ModelError("gone"))
    async with proxy_client(config(fail="open"), broken, upstream) as client:
        answer = await client.post(CHAT, json=chat("hi"))
    assert answer.status_code == 200
    assert answer.headers["x-alknet-firewall-level"] == "UNSCREENED"
    assert len(upstream.requests) == 1


async def test_slow_screening_fails_in_time(
    upstream: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    slow = FakeFirewall(delay=0.5)
    async with proxy_client(config(screen_timeout=0.05), slow, upstream) as client:
        answer = await client.post(CHAT, json=chat("hi"))
    assert answer.status_code == 503
    assert "screen_timeout" in caplog.text


@pytest.mark.parametrize("fail", ["open", "closed"])
async def test_text_past_the_limit_is_refused_either_way(upstream: Recorder, fail: str) -> None:
    full = FakeFirewall(error=TextTooLongError(10, 5))
    async with proxy_client(config(fail=fail), full, upstream) as client:
        answer = await client.post(CHAT, json=chat("hi"))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "text_too_long"
    assert answer.json()["error"]["param"] == "messages[0].content"
    assert upstream.requests == []


async def test_too_many_texts_are_refused(firewall: FakeFirewall, upstream: Recorder) -> None:
    messages = [{"role": "user", "content": str(n)} for n in range(4)]
    async with proxy_client(config(max_texts=3), firewall, upstream) as client:
        answer = await client.post(CHAT, json={"messages": messages})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_many_texts"


async def test_ready_after_the_self_test(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    await client.post(CHAT, json=chat("hi"))  # waits until the detector is ready
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("level", [0, 2])
async def test_not_ready_when_the_detector_is_blind_or_alarmed(
    upstream: Recorder, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alknet_firewall.alarm import AlarmLevel

    from .fakes import alarm

    constant = FakeFirewall()
    monkeypatch.setattr(constant, "_screen", lambda text, role: alarm(AlarmLevel(level), role))
    async with proxy_client(config(), constant, upstream) as client:
        answer = await client.post(CHAT, json=chat("hi"))
        ready = await client.get("/readyz")
    assert ready.status_code == answer.status_code == 503
    assert "known" in ready.json()["problem"]
    assert upstream.requests == []


async def test_not_ready_when_loading_fails(
    firewall: FakeFirewall, upstream: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preload() -> None:
        raise ModelError("no weights here: run `alknet-firewall download`")

    monkeypatch.setattr(firewall, "preload", preload)
    async with proxy_client(config(), firewall, upstream) as client:
        await client.post(CHAT, json=chat("hi"))
        ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert "no weights here" in ready.json()["problem"]


async def test_on_verdict_sees_what_was_screened(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    verdicts: list[Verdict] = []
    async with proxy_client(config(), firewall, upstream, on_verdict=verdicts.append) as client:
        await client.post(CHAT, json=chat(ATTACK, "tool"))
    [verdict] = verdicts
    assert verdict.action == "block"
    assert verdict.worst is not None
    assert verdict.worst.text.text == ATTACK


async def test_a_mistake_of_ours_is_a_500_without_content(
    firewall: FakeFirewall, upstream: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def mistake(verdict: Verdict) -> None:
        raise KeyError(verdict.findings[0].text.text)

    async with proxy_client(config(), firewall, upstream, on_verdict=mistake) as client:
        answer = await client.post(CHAT, json=chat("hush hush"))
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"]
    assert "unexpected KeyError" in caplog.text
    assert "hush hush" not in caplog.text


@pytest.mark.parametrize("query", ["a=%00", 'a="<>', "a=%zz", "?//x", ""])
async def test_a_query_stays_a_query(
    client: httpx.AsyncClient, upstream: Recorder, query: str
) -> None:
    url = httpx.URL("http://proxy.test").copy_with(raw_path=f"{CHAT}?{query}".encode())
    answer = await client.post(url, json=chat("hi"))
    assert answer.status_code == 200
    assert upstream.requests[0].url.path == CHAT


@pytest.mark.parametrize("upstream_url", [None, "", "api.openai.com", "ftp://x/v1", "http://"])
def test_upstream_must_be_configured(firewall: FakeFirewall, upstream_url: str | None) -> None:
    from alknet_firewall.config import Config, ProxyConfig

    with pytest.raises(ConfigError, match=r"proxy\.upstream"):
        create_app(Config(proxy=ProxyConfig(upstream=upstream_url)), firewall)
