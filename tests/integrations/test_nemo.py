"""The actions in rails of the real package, by the configuration in examples/nemo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..e2e.upstream import Upstream
from ..proxy.fakes import FakeFirewall
from .examples import is_shown, output_of
from .texts import ATTACK, DOCUMENT, HARMLESS

nemoguardrails = pytest.importorskip("nemoguardrails")

from alknet_firewall.integrations.nemo import register  # noqa: E402

# Its own configuration has a field that it warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'nim_base_url':DeprecationWarning")

FOLDER = Path(__file__).parents[2] / "examples" / "nemo"
REFUSAL = "I'm sorry, I can't respond to that."
ANNOTATE = {"policy": {"default": {"dangerous": "annotate"}}}


def config(upstream: Upstream) -> Any:
    loaded = nemoguardrails.RailsConfig.from_path(str(FOLDER))
    loaded.models[0].parameters = {"base_url": f"{upstream.url}/v1", "api_key": "k"}
    return loaded


@pytest.fixture
def rails(upstream: Upstream) -> Any:
    """As `config.py` of the example sets them up."""
    return nemoguardrails.LLMRails(config(upstream))


async def answer(rails: Any, *messages: dict[str, Any]) -> str:
    said = await rails.generate_async(messages=[*messages])
    content: str = said["content"]
    return content


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def agent_turn(result: str) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": "{}"}
    call = {"id": "c", "type": "function", "function": function}
    return [
        user("What is the weather in Oslo?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "name": "get_weather", "tool_call_id": "c"},
    ]


async def test_a_harmless_question_is_answered(rails: Any) -> None:
    said = await answer(rails, user(HARMLESS))
    assert said.startswith("echo: ")
    assert HARMLESS in said


async def test_an_attack_is_refused_before_the_model_is_asked(
    rails: Any, upstream: Upstream
) -> None:
    assert await answer(rails, user(ATTACK)) == REFUSAL
    assert upstream.bodies == []


async def test_an_injected_tool_result_is_refused(rails: Any, upstream: Upstream) -> None:
    assert await answer(rails, *agent_turn(ATTACK)) == REFUSAL
    assert upstream.bodies == []
    assert await answer(rails, *agent_turn(DOCUMENT)) != REFUSAL


@pytest.mark.parametrize(
    ("settings", "chunks", "kept"),
    [
        (None, DOCUMENT, True),
        (None, ATTACK, False),
        (ANNOTATE, ATTACK, True),
    ],
)
async def test_what_was_retrieved(rails: Any, settings: Any, chunks: str, kept: bool) -> None:
    register(rails, settings)
    outcome, _ = await rails.runtime.action_dispatcher.execute_action(
        "alknet_check_retrieval", {"context": {"relevant_chunks": chunks}}
    )
    text = outcome.transform_text.get("relevant_chunks", chunks)
    assert (chunks in text) == kept
    assert ("DATA-" in text) == (settings is ANNOTATE)


async def test_a_failure_blocks_and_says_that_it_is_one(rails: Any) -> None:
    broken = FakeFirewall(ValueError("secret"))
    run = rails.runtime.action_dispatcher.execute_action
    params = {"context": {"user_message": "hello"}}
    register(rails, firewall=broken)
    outcome, _ = await run("alknet_check_input", params)
    assert (outcome.is_blocked, outcome.failed) == (True, True)
    assert "secret" not in outcome.reason
    register(rails, {"proxy": {"fail": "open"}}, broken)
    outcome, _ = await run("alknet_check_input", params)
    assert not outcome.is_blocked
    assert outcome.metadata["level"] == "UNSCREENED"


@pytest.mark.timeout(600)
def test_the_example() -> None:
    assert is_shown("nemo.md", output_of("nemo_rails.py"))
