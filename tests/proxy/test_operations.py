"""Beside the requests: metrics, readiness, reloading, logs, the audit log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from alknet_firewall.config import (
    AuditConfig,
    CaptureConfig,
    Config,
    PolicyConfig,
    load_config,
)
from alknet_firewall.errors import ConfigError
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.capture import captured
from alknet_firewall.proxy.exporters import telemetry_from_environment
from alknet_firewall.proxy.logs import JsonFormatter, log_fields
from alknet_firewall.proxy.settings import Source, from_environment

from .conftest import proxy_client
from .fakes import ATTACK, DOUBTFUL, FakeFirewall, Recorder, config

CHAT = "/v1/chat/completions"


def chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


# --- /metrics ----------------------------------------------------------------


async def test_metrics(firewall: FakeFirewall, upstream: Recorder) -> None:
    telemetry = telemetry_from_environment({}, prometheus=True)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}}
    async with proxy_client(config(), firewall, upstream, telemetry=telemetry) as client:
        for text in ("hello", "hello", ATTACK):
            await client.post(CHAT, json=chat(text))
        await client.post(CHAT, json={"messages": [{"role": "user", "content": [image]}]})
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    text = answer.text
    assert re.search(r'requests_total\{[^}]*action="block"[^}]*\} 1\.0', text)
    assert re.search(r'alarms_total\{[^}]*level="CLEAR"[^}]*role="user"[^}]*\} 2\.0', text)
    assert re.search(r'cache_lookups_total\{[^}]*result="hit"[^}]*\} 1\.0', text)
    assert re.search(r'not_screened_total\{[^}]*kind="image"[^}]*\} 1\.0', text)
    for name in (
        "screen_queue",
        "screen_tokens",
        "screen_duration",
        "upstream_first_byte_duration",
    ):
        assert f"alknet_firewall_{name}" in text
    assert ATTACK not in text


async def test_no_metrics_where_nobody_wants_them(
    firewall: FakeFirewall, upstream: Recorder
) -> None:
    telemetry = telemetry_from_environment({"OTEL_SDK_DISABLED": "true"}, prometheus=True)
    async with proxy_client(config(), firewall, upstream, telemetry=telemetry) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 404
    assert upstream.requests == []


# --- reloading ---------------------------------------------------------------

FILE = """
[proxy]
upstream = "http://upstream.test/v1"
[policy.default]
dangerous = "{action}"
"""


def write(path: Path, action: str) -> None:
    # As editors and deployments do it: another file in its place.
    new = path.with_suffix(".new")
    new.write_text(FILE.format(action=action), encoding="utf-8")
    os.replace(new, path)


async def test_a_changed_file_is_taken_into_use(
    firewall: FakeFirewall, upstream: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alknet_firewall.proxy import reload

    monkeypatch.setattr(reload.Reloader.__init__, "__defaults__", (0.02,))
    path = tmp_path / "proxy.toml"
    write(path, "block")
    async with proxy_client(load_config(path), firewall, upstream, source=Source(path)) as client:
        assert (await client.post(CHAT, json=chat(ATTACK))).status_code == 400
        write(path, "log")
        await until(client, lambda said: said["configuration"]["error"] is None, 200)
        write(path, "explode")
        state = await until(client, lambda said: said["configuration"]["error"], 200)
        assert "policy.default.dangerous" in state["configuration"]["error"]
        assert "explode" in state["configuration"]["error"]
        write(path, "refuse")
        await until(client, lambda said: not said["configuration"]["error"], 200)
        answer = await client.post(CHAT, json=chat(ATTACK))
        assert answer.json()["choices"][0]["finish_reason"] == "content_filter"


async def until(client: httpx.AsyncClient, met: Any, status: int) -> dict[str, Any]:
    for _ in range(200):
        await asyncio.sleep(0.02)
        state: dict[str, Any] = (await client.get("/readyz?verbose")).json()
        answer = await client.post(CHAT, json=chat(ATTACK))
        if met(state) and answer.status_code == status:
            return state
    raise AssertionError(state)


async def test_only_a_restart_changes_the_detector(
    firewall: FakeFirewall, upstream: Recorder, tmp_path: Path
) -> None:
    from alknet_firewall.proxy.reload import Reloader

    path = tmp_path / "proxy.toml"
    write(path, "block")
    first = load_config(path)
    applied: list[Config] = []

    async def apply(changed: Config) -> None:
        applied.append(changed)

    reloader = Reloader(Source(path), first, apply)
    text = FILE.format(action="block") + "[firewall]\nthreads = 1\n[cache]\nmax_bytes = 0\n"
    path.write_text(text, encoding="utf-8")
    await reloader.reload()
    assert applied[0].firewall.threads == 1
    assert reloader.describe()["restart_needed"] == ["firewall", "cache"]


async def test_requests_on_the_way_keep_their_connections(firewall: FakeFirewall) -> None:
    from alknet_firewall.proxy.telemetry import Telemetry
    from alknet_firewall.proxy.upstream import Outgoing, Upstreams

    closed: list[bool] = []

    class Closing(Recorder):
        async def aclose(self) -> None:
            closed.append(True)

    upstreams = Upstreams(config(), Telemetry(), Closing())
    relay = await upstreams.choose(None).send(Outgoing("GET", "/models", b"", []))
    await upstreams.retire()
    assert not closed
    await relay.aclose()
    assert closed


# --- settings ----------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    write(path, "block")
    environ = {
        "ALKNET_FIREWALL__PROXY__PORT": "9000",
        "ALKNET_FIREWALL__PROXY__HOST": "0.0.0.0",
        "ALKNET_FIREWALL__POLICY__MODE": "shadow",
        "ALKNET_FIREWALL__POLICY__ROLES__TOOL__SUSPICIOUS": "block",
        "ALKNET_FIREWALL__PROXY__TRUSTED_ROLES": '["system"]',
        "OTHER": "x",
    }
    loaded = Source(path, {"port": 9001}).load(environ)
    assert (loaded.proxy.host, loaded.proxy.port) == ("0.0.0.0", 9001)
    assert loaded.policy.mode == "shadow"
    assert loaded.policy.roles["tool"].suspicious == "block"
    assert loaded.policy.default.dangerous == "block"
    assert loaded.proxy.trusted_roles == ("system",)


def test_a_wrong_setting_of_the_environment_is_named() -> None:
    with pytest.raises(ConfigError, match=r"proxy\.prot: there is no such key, did you mean port"):
        Source().load({"ALKNET_FIREWALL__PROXY__PROT": "1"})
    with pytest.raises(ConfigError, match="as a value and as a table"):
        from_environment({"ALKNET_FIREWALL__PROXY": "1", "ALKNET_FIREWALL__PROXY__PORT": "1"})


# --- the audit log -----------------------------------------------------------


async def audited(
    path: Path, firewall: FakeFirewall, upstream: Recorder, capture: CaptureConfig
) -> list[dict[str, Any]]:
    settings = replace(config(), audit=AuditConfig(str(path)), capture=capture)
    async with proxy_client(settings, firewall, upstream) as client:
        await client.post(CHAT, json=chat("hello"))
        await client.post(CHAT, json=chat(f"{ATTACK} mail bob@example.com"))
        os.rename(path, path.with_suffix(".1"))
        await client.post(CHAT, json=chat(DOUBTFUL))
    files = (path.with_suffix(".1"), path)
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def test_each_verdict_that_is_not_clear_is_written_down(
    firewall: FakeFirewall, upstream: Recorder, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    blocked, noted = await audited(path, firewall, upstream, CaptureConfig())
    assert (blocked["action"], blocked["level"], blocked["model"]) == ("block", "DANGEROUS", "m")
    assert blocked["request"].startswith("req_")
    assert blocked["findings"][0]["path"] == "messages[0].content"
    assert blocked["findings"][0]["spans"] == [[0, 6]]
    assert noted["action"] == "annotate"
    assert "ATTACK" not in json.dumps(blocked)
    assert path.stat().st_mode & 0o077 == 0


async def test_content_is_written_down_where_it_is_asked_for(
    firewall: FakeFirewall, upstream: Recorder, tmp_path: Path
) -> None:
    capture = CaptureConfig(audit=True)
    blocked, _ = await audited(tmp_path / "audit.jsonl", firewall, upstream, capture)
    assert blocked["findings"][0]["content"] == f"{ATTACK} mail [redacted]"


def test_an_audit_log_that_cannot_be_written_is_named(firewall: FakeFirewall) -> None:
    settings = replace(config(), audit=AuditConfig("/no/such/folder/audit.jsonl"))
    with pytest.raises(ConfigError, match=r"audit\.path: /no/such/folder"):
        create_app(settings, firewall)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("key sk-abcdefghijklmnop1234 end", "key [redacted] end"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("password = hunter2!", "[redacted]"),
        ("write to a.b+c@example.co.uk", "write to [redacted]"),
        ("card 4111 1111 1111 1111 ok", "card [redacted] ok"),
        ("ticket ABC-123 and 42", "[redacted] and 42"),
        ("x" * 30, "x" * 25 + "…"),
    ],
)
def test_secrets_are_taken_out(text: str, kept: str) -> None:
    assert captured(text, CaptureConfig(max_characters=25, redact=(r"ticket \S+",))) == kept


# --- logs --------------------------------------------------------------------


def test_json_logs(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test")
    with caplog.at_level(logging.INFO):
        log_fields(logger, logging.INFO, "request", {"status": 200, "request": "r1"})
        logger.warning("plain %s", "words")
    first, second = (json.loads(JsonFormatter().format(record)) for record in caplog.records)
    assert (first["message"], first["status"], first["request"]) == ("request", 200, "r1")
    assert (second["message"], second["level"]) == ("plain words", "warning")
    assert caplog.records[0].getMessage() == "status=200 request=r1"


async def test_each_request_has_a_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await client.post(CHAT, json=chat("hush hush"), headers={"x-request-id": "r-1"})
    assert f"method=POST route={CHAT} status=200 action=allow" in caplog.text
    assert "request=r-1" in caplog.text
    assert "hush" not in caplog.text


# --- the firewall over HTTP --------------------------------------------------


async def test_one_text(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/firewall/screen", json={"text": ATTACK, "role": "tool"})
    assert answer.status_code == 200
    assert (answer.json()["level"], answer.json()["role"]) == ("DANGEROUS", "tool")


async def test_several_texts_in_order(client: httpx.AsyncClient) -> None:
    texts = ["hello", {"text": ATTACK, "role": "tool"}, "hello", {"text": DOUBTFUL}]
    answer = await client.post("/v1/firewall/screen", json={"texts": texts})
    levels = [alarm["level"] for alarm in answer.json()["alarms"]]
    assert levels == ["CLEAR", "DANGEROUS", "CLEAR", "SUSPICIOUS"]


@pytest.mark.parametrize(
    "body", [{}, {"text": 1}, {"text": "a", "role": "system"}, {"texts": [{"text": None}]}]
)
async def test_what_is_no_text(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post("/v1/firewall/screen", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_text"


GUARDRAIL = "/beta/litellm_basic_guardrail_api"


@pytest.mark.parametrize(
    ("body", "action"),
    [
        ({"texts": ["hello"]}, "NONE"),
        ({"texts": ["hello", ATTACK]}, "BLOCKED"),
        ({"texts": [], "structured_messages": [{"role": "tool", "content": ATTACK}]}, "BLOCKED"),
        ({"texts": [], "tool_calls": [{"function": {"arguments": ATTACK}}]}, "BLOCKED"),
        ({"texts": [], "tools": [{"function": {"description": ATTACK}}]}, "BLOCKED"),
        (
            {
                "texts": [ATTACK],
                "structured_messages": [{"role": "system", "content": ATTACK}],
            },
            "NONE",
        ),
        ({"texts": None, "structured_messages": None, "images": ["http://x/a.png"]}, "NONE"),
        ({"texts": [ATTACK], "input_type": "response"}, "BLOCKED"),
    ],
)
async def test_litellms_guardrail(
    client: httpx.AsyncClient, body: dict[str, Any], action: str
) -> None:
    answer = await client.post(GUARDRAIL, json={"input_type": "request", **body})
    assert answer.status_code == 200
    assert answer.json()["action"] == action
    assert ("blocked_reason" in answer.json()) == (action == "BLOCKED")
    assert "ATTACK" not in answer.text


@pytest.mark.parametrize("spotlight", [True, False])
async def test_litellms_guardrail_can_mark_what_it_annotates(
    firewall: FakeFirewall, upstream: Recorder, spotlight: bool
) -> None:
    parts = [{"type": "text", "text": text} for text in ("a DOUBT", "FUL part")]
    texts = ["hello", DOUBTFUL, "a DOUBT", "FUL part"]
    asked = {
        "texts": texts,
        "structured_messages": [
            {"role": "user", "content": "hello"},
            {"role": "tool", "content": DOUBTFUL},
            {"role": "tool", "content": parts},
        ],
    }
    async with proxy_client(
        config(PolicyConfig(spotlight=spotlight)), firewall, upstream
    ) as client:
        answer = (await client.post(GUARDRAIL, json=asked)).json()
    if not spotlight:
        assert answer == {"action": "NONE"}
        return
    assert answer["action"] == "GUARDRAIL_INTERVENED"
    harmless, *marked = answer["texts"]
    assert harmless == "hello"
    assert [text.split("\n")[2] for text in marked] == texts[1:]


async def test_a_guardrail_that_fails_is_an_error(upstream: Recorder) -> None:
    broken = FakeFirewall(error=ValueError("x"))
    async with proxy_client(config(), broken, upstream) as client:
        assert (await client.post(GUARDRAIL, json={"texts": ["a"]})).status_code == 503
        assert (await client.post("/v1/firewall/screen", json={"text": "a"})).status_code == 503
