"""The guardrail in LiteLLM's proxy process, by LiteLLM's own configuration."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alknet_firewall.config import Config, PolicyConfig, ProxyConfig
from alknet_firewall.errors import ConfigError
from alknet_firewall.firewall import Firewall
from alknet_firewall.proxy.app import create_app
from alknet_firewall.proxy.options import LevelActions
from alknet_firewall.proxy.server import running

from ..e2e.upstream import TOOL_CALL, Upstream
from .examples import FOLDER, is_shown, output_of
from .litellm_proxy import (
    WITHOUT_US,
    litellm_proxy,
    request,
    write_config,
)
from .texts import ATTACK, HARMLESS

litellm = pytest.importorskip("litellm")
yaml = pytest.importorskip("yaml")

from litellm.exceptions import GuardrailRaisedException  # noqa: E402

from alknet_firewall.integrations.litellm import AlknetGuardrail  # noqa: E402

# Two starts of LiteLLM, each many seconds; its own models warn of its own types.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]
AGENT_TURN = [
    {"role": "user", "content": "What does the page say?"},
    {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
    {"role": "tool", "tool_call_id": TOOL_CALL["id"], "content": ATTACK},
]
ANTHROPIC_TURN = [
    {"role": "user", "content": "What does the page say?"},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t1", "name": "page", "input": {}}],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "t1", "content": ATTACK}],
    },
]


def guardrail(name: str, mode: str | list[str] = "pre_call", **more: Any) -> dict[str, Any]:
    ours = "alknet_firewall.integrations.litellm.AlknetGuardrail"
    return {
        "guardrail_name": name,
        "litellm_params": {"guardrail": ours, "mode": mode, **more},
    }


def of_the_example(file: str, name: str, **changed: Any) -> dict[str, Any]:
    """The guardrail that the documentation shows, under another name."""
    [shown] = yaml.safe_load((FOLDER / "litellm" / file).read_text())["guardrails"]
    params = {**shown["litellm_params"], "default_on": False, **changed}
    return {"guardrail_name": name, "litellm_params": params}


def policy(**actions: str) -> dict[str, Any]:
    return {"settings": {"policy": {"default": actions}}}


HURRIED = {"screen_timeout": 0.0001}
GUARDRAILS = [
    guardrail("always", default_on=True, **policy(dangerous="log")),
    of_the_example("config.yaml", "block"),
    guardrail("during", "during_call"),
    guardrail("both", ["pre_call", "during_call"]),
    guardrail("annotate", **policy(dangerous="annotate")),
    guardrail("annotate-during", "during_call", **policy(dangerous="annotate")),
    guardrail("refuse", **policy(dangerous="refuse")),
    guardrail("worded", violation_message_template="no: {default_message}"),
    guardrail("hurried", settings={"proxy": HURRIED}),
    guardrail("hurried-open", settings={"proxy": {**HURRIED, "fail": "open"}}),
    guardrail("narrow", settings={"proxy": {"max_texts": 1, "fail": "open"}}),
]


@pytest.fixture(scope="module")
def proxy(
    tmp_path_factory: pytest.TempPathFactory, served_upstream: Upstream
) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("litellm")
    with litellm_proxy(write_config(folder, served_upstream.url, GUARDRAILS)) as client:
        yield client


def ask(proxy: httpx.Client, path: str, text: str, *guardrails: str, **more: Any) -> httpx.Response:
    path, body = request(path, text, guardrails=list(guardrails), **more)
    return proxy.post(path, json=body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_harmless_request_passes(
    proxy: httpx.Client, upstream: Upstream, path: str, stream: bool
) -> None:
    answer = ask(proxy, path, HARMLESS, "block", stream=stream)
    assert answer.status_code == 200
    assert set(answer.headers["x-litellm-applied-guardrails"].split(",")) == {"always", "block"}
    assert len(upstream.bodies) == 1
    assert answer.headers["content-type"].startswith("text/event-stream") == stream


def test_a_stream_is_the_upstreams(proxy: httpx.Client, upstream: Upstream) -> None:
    answer = ask(proxy, PATHS[0], HARMLESS, "block", stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    said = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert "".join(filter(None, said)).strip() == f"echo: {HARMLESS}"


@pytest.mark.parametrize("path", [*PATHS, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_attack_is_blocked(
    proxy: httpx.Client, upstream: Upstream, path: str, stream: bool
) -> None:
    answer = ask(proxy, path, ATTACK, "block", stream=stream)
    assert answer.status_code == 400
    assert "looks like an attack" in answer.json()["error"]["message"]
    assert is_shown("litellm.md", answer.text) == (path == PATHS[0])
    assert "Ignore" not in answer.text
    assert upstream.bodies == []


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (PATHS[0], {"messages": AGENT_TURN}, "messages[2].content"),
        (PATHS[2], {"messages": ANTHROPIC_TURN}, "messages[2].content[0].content"),
        (
            PATHS[1],
            {"input": [{"type": "function_call_output", "call_id": "c", "output": ATTACK}]},
            "input[0].output",
        ),
    ],
)
def test_a_tool_result_is_screened_as_what_a_tool_says(
    proxy: httpx.Client, upstream: Upstream, path: str, body: dict[str, Any], place: str
) -> None:
    answer = ask(proxy, path, "", "block", **body)
    assert answer.status_code == 400
    assert place in answer.json()["error"]["message"]
    assert upstream.bodies == []


def test_a_name_is_screened_too(proxy: httpx.Client) -> None:
    message = {"role": "user", "content": "hello", "name": ATTACK}
    assert ask(proxy, PATHS[0], "", "block", messages=[message]).status_code == 400


def test_the_system_prompt_is_trusted(proxy: httpx.Client) -> None:
    messages = [{"role": "system", "content": ATTACK}, {"role": "user", "content": HARMLESS}]
    assert ask(proxy, PATHS[0], "", "block", messages=messages).status_code == 200


@pytest.mark.parametrize("name", ["during", "both"])
def test_during_the_call(proxy: httpx.Client, name: str) -> None:
    assert ask(proxy, PATHS[0], HARMLESS, name).status_code == 200
    blocked = ask(proxy, PATHS[0], ATTACK, name)
    assert blocked.status_code == 400
    assert "looks like an attack" in blocked.json()["error"]["message"]


def test_only_where_it_is_asked_for_or_on_by_default(
    proxy: httpx.Client, upstream: Upstream
) -> None:
    answer = ask(proxy, PATHS[0], ATTACK)
    assert answer.status_code == 200
    assert answer.headers["x-litellm-applied-guardrails"] == "always"
    assert upstream.bodies[0]["messages"][0]["content"] == ATTACK


def test_an_annotation_is_a_message_to_the_model(proxy: httpx.Client, upstream: Upstream) -> None:
    assert ask(proxy, PATHS[0], ATTACK, "annotate").status_code == 200
    first, advice = upstream.bodies[0]["messages"]
    assert first["content"] == ATTACK
    assert (advice["role"], "messages[0].content" in advice["content"]) == ("system", True)


def test_an_annotation_of_a_response(proxy: httpx.Client, upstream: Upstream) -> None:
    assert ask(proxy, PATHS[1], ATTACK, "annotate").status_code == 200
    assert ask(proxy, PATHS[1], ATTACK, "annotate", instructions="Be kind.").status_code == 200
    plain, instructed = upstream.bodies
    assert plain["input"].count("A security filter") == 1
    assert "A security filter" in instructed["instructions"]


@pytest.mark.parametrize("system", [None, "Be kind.", [{"type": "text", "text": "Be kind."}]])
def test_an_annotation_in_anthropics_shape(
    proxy: httpx.Client, upstream: Upstream, system: object
) -> None:
    more = {} if system is None else {"system": system}
    assert ask(proxy, PATHS[2], ATTACK, "annotate", **more).status_code == 200
    [sent] = upstream.bodies
    assert [message["role"] for message in sent["messages"]] == ["user"]
    *before, advice = sent["system"]
    assert [part["text"] for part in before] == ([] if system is None else ["Be kind."])
    assert "A security filter" in advice["text"]


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        (PATHS[1], "annotate", {"input": [{"role": "user", "content": ATTACK}]}),
        ("/v1/embeddings", "annotate", {}),
        ("/v1/completions", "annotate", {}),
        (PATHS[0], "annotate-during", {}),
    ],
)
def test_an_annotation_that_cannot_be_delivered_is_a_block(
    proxy: httpx.Client, path: str, name: str, body: dict[str, Any]
) -> None:
    assert ask(proxy, path, ATTACK, name, **body).status_code == 400


def test_refuse_is_an_answer(proxy: httpx.Client, upstream: Upstream) -> None:
    answer = ask(proxy, PATHS[0], ATTACK, "refuse")
    [choice] = answer.json()["choices"]
    assert (answer.status_code, choice["finish_reason"]) == (200, "content_filter")
    assert upstream.bodies == []


def test_the_message_can_be_worded(proxy: httpx.Client) -> None:
    message = ask(proxy, PATHS[0], ATTACK, "worded").json()["error"]["message"]
    assert message.startswith("no: The request was blocked")


def test_a_failure_is_no_block(proxy: httpx.Client, upstream: Upstream) -> None:
    closed = ask(proxy, PATHS[0], HARMLESS + " Please.", "hurried")
    assert closed.status_code == 503
    assert upstream.bodies == []
    assert ask(proxy, PATHS[0], HARMLESS + " Please.", "hurried-open").status_code == 200


def test_a_limit_holds_where_failures_pass(proxy: httpx.Client, upstream: Upstream) -> None:
    assert ask(proxy, PATHS[0], "", "narrow", messages=AGENT_TURN).status_code == 413
    assert upstream.bodies == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mode": "post_call"}, "not in the supported event hooks"),
        ({"settings": {"policy": {"default": {"dangerous": "blok"}}}}, "policy.default.dangerous"),
    ],
)
def test_a_wrong_configuration_does_not_start(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    """LiteLLM goes on without a guardrail that raises a ValueError or a TypeError."""
    from litellm.proxy.guardrails.init_guardrails import init_guardrails_v2

    with pytest.raises(ConfigError, match=re.escape(said)):
        init_guardrails_v2([guardrail("wrong", **more)], str(tmp_path / "config.yaml"))


# --- the generic guardrail API -----------------------------------------------


def generic(name: str, firewall: str, **more: Any) -> dict[str, Any]:
    return of_the_example("generic.yaml", name, api_base=firewall, **more)


@pytest.fixture(scope="module")
def asking_us(
    tmp_path_factory: pytest.TempPathFactory, served_upstream: Upstream
) -> Iterator[httpx.Client]:
    """LiteLLM without a line of this project, and the firewall in another process's place."""
    spotlit = PolicyConfig(default=LevelActions(dangerous="annotate"), spotlight=True)
    proxied = ProxyConfig(upstream=f"{served_upstream.url}/v1")
    firewall = Firewall()
    folder = tmp_path_factory.mktemp("generic")
    with (
        running(create_app(Config(proxy=proxied), firewall)) as blocks,
        running(create_app(Config(proxy=proxied, policy=spotlit), firewall)) as marks,
        socket.create_server(("127.0.0.1", 0)) as closed,
    ):
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        guardrails = [
            generic("block", blocks),
            generic("mark", marks, mode="pre_call"),
            generic("gone", nobody),
            generic("gone-open", nobody, unreachable_fallback="fail_open"),
        ]
        config = write_config(folder, served_upstream.url, guardrails)
        with litellm_proxy(config, WITHOUT_US) as client:
            yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_over_http(asking_us: httpx.Client, upstream: Upstream, path: str, stream: bool) -> None:
    assert ask(asking_us, path, HARMLESS, "block", stream=stream).status_code == 200
    assert len(upstream.bodies) == 1
    blocked = ask(asking_us, path, ATTACK, "block", stream=stream)
    assert blocked.status_code == 400
    assert "looks like an attack" in blocked.json()["error"]["message"]
    assert len(upstream.bodies) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [(PATHS[0], {"messages": AGENT_TURN}), (PATHS[2], {"messages": ANTHROPIC_TURN})],
)
def test_a_tool_result_over_http(
    asking_us: httpx.Client, upstream: Upstream, path: str, body: dict[str, Any]
) -> None:
    answer = ask(asking_us, path, "", "block", **body)
    assert answer.status_code == 400
    assert upstream.bodies == []


def ask_for_an_attack(proxy: httpx.Client, upstream: Upstream, path: str, **more: Any) -> Any:
    """A harmless question that the model answers with an attack."""
    upstream.says = ATTACK
    if path == PATHS[0]:  # it echoes the last message, and the system's are trusted
        said = [{"role": "user", "content": HARMLESS}, {"role": "system", "content": ATTACK}]
        more["messages"] = said
    return ask(proxy, path, HARMLESS, "block", **more)


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_over_http(asking_us: httpx.Client, upstream: Upstream, path: str) -> None:
    answer = ask_for_an_attack(asking_us, upstream, path)
    assert answer.status_code == 400
    assert "looks like an attack" in answer.json()["error"]["message"]
    assert "Ignore" not in answer.text
    assert len(upstream.bodies) == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_streamed_answer_has_been_passed_on(
    asking_us: httpx.Client, upstream: Upstream, path: str
) -> None:
    """As the documentation says: nobody should learn it by accident."""
    answer = ask_for_an_attack(asking_us, upstream, path, stream=True)
    assert answer.status_code == 200
    assert "Ignore" in answer.text
    ends_with_the_reason = "looks like an attack" in answer.text.splitlines()[-2]
    assert ends_with_the_reason == (path != PATHS[1])


def test_an_annotation_over_http_marks_the_text(
    asking_us: httpx.Client, upstream: Upstream
) -> None:
    messages = [{"role": "user", "content": HARMLESS}, {"role": "user", "content": ATTACK}]
    assert ask(asking_us, PATHS[0], "", "mark", messages=messages).status_code == 200
    harmless, marked = (message["content"] for message in upstream.bodies[0]["messages"])
    assert harmless == HARMLESS
    assert marked.split("\n")[2] == ATTACK


def test_a_firewall_that_is_gone(asking_us: httpx.Client, upstream: Upstream) -> None:
    assert ask(asking_us, PATHS[0], HARMLESS, "gone").status_code >= 500
    assert upstream.bodies == []
    assert ask(asking_us, PATHS[0], HARMLESS, "gone-open").status_code == 200


# --- the SDK -----------------------------------------------------------------


@pytest.fixture
def callback() -> Iterator[AlknetGuardrail]:
    installed = AlknetGuardrail(guardrail_name="alknet", event_hook="pre_call", default_on=True)
    litellm.callbacks.append(installed)
    yield installed
    litellm.callbacks.remove(installed)


async def test_as_a_callback_of_the_sdk(callback: AlknetGuardrail, upstream: Upstream) -> None:
    there = {"model": "openai/echo", "api_base": f"{upstream.url}/v1", "api_key": "k"}
    fetched = [
        {"role": "user", "content": "What does it say?"},
        {"role": "user", "content": ATTACK},
    ]
    answer = await litellm.acompletion(messages=[{"role": "user", "content": HARMLESS}], **there)
    assert answer.choices[0].message.content == f"echo: {HARMLESS}"
    with pytest.raises(GuardrailRaisedException) as caught:
        await litellm.acompletion(messages=fetched, **there)
    assert (caught.value.status_code, caught.value.blocked_content) == (400, True)
    with pytest.raises(GuardrailRaisedException):
        await litellm.aresponses(input=ATTACK, **there)
    assert len(upstream.bodies) == 1


# --- what LiteLLM is told ----------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "status"),
    [
        ({}, HARMLESS, "success"),
        ({}, ATTACK, "guardrail_intervened"),
        ({"proxy": HURRIED}, HARMLESS, "guardrail_failed_to_respond"),
    ],
)
async def test_a_failure_is_never_recorded_as_a_verdict(
    settings: dict[str, Any], text: str, status: str
) -> None:
    guardrail = AlknetGuardrail(settings, guardrail_name="alknet", event_hook="pre_call")
    data: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "metadata": {}}
    with contextlib.suppress(GuardrailRaisedException, litellm.APIError):
        await guardrail.async_pre_call_hook(
            user_api_key_dict=None, cache=None, data=data, call_type="acompletion"
        )
    [recorded] = data["metadata"]["standard_logging_guardrail_information"]
    assert recorded["guardrail_status"] == status
    assert text not in str(recorded)


async def test_extracted_texts_are_screened_too() -> None:
    guardrail = AlknetGuardrail(guardrail_name="alknet", event_hook="logging_only")
    inputs = {"texts": [HARMLESS]}
    screened = await guardrail.apply_guardrail(inputs=inputs, request_data={}, input_type="request")
    assert screened == inputs
    for asked in (
        {"texts": [ATTACK]},
        {"structured_messages": [{"role": "tool", "content": ATTACK}]},
    ):
        with pytest.raises(GuardrailRaisedException):
            await guardrail.apply_guardrail(inputs=asked, request_data={}, input_type="request")


def test_litellms_blocking_calls_run_no_guardrail(
    callback: AlknetGuardrail, upstream: Upstream
) -> None:
    """As the documentation says: nobody should learn it by accident."""
    there = {"model": "openai/echo", "api_base": f"{upstream.url}/v1", "api_key": "k"}
    answer = litellm.completion(messages=[{"role": "user", "content": ATTACK}], **there)
    assert answer.choices[0].message.content == f"echo: {ATTACK}"


def test_the_sdks_example() -> None:
    answered, blocked = output_of("litellm_sdk.py").splitlines()
    assert answered.startswith("echo: ")
    assert blocked.startswith("The request was blocked")
