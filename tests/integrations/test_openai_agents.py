"""The guardrails in agents of the real SDK, with a model that echoes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from alknet_firewall.errors import ScreeningError

from ..e2e.upstream import Upstream
from ..proxy.fakes import FakeFirewall
from .examples import is_shown, output_of
from .texts import ATTACK, HARMLESS

agents = pytest.importorskip("agents")

from alknet_firewall.integrations.openai_agents import Screening  # noqa: E402

agents.set_tracing_disabled(True)


@pytest.fixture
async def model(upstream: Upstream) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="k") as client:
        yield agents.OpenAIChatCompletionsModel(model="echo", openai_client=client)


def agent_of(model: Any, screening: Screening, report: Any = None) -> Any:
    @agents.function_tool(tool_output_guardrails=[screening.tool_output_guardrail()])
    def get_weather(city: str) -> Any:
        return report

    return agents.Agent(
        name="weather",
        model=model,
        tools=[get_weather] if report else [],
        input_guardrails=[screening.input_guardrail()],
    )


def read_by_the_model(upstream: Upstream) -> str:
    """What came back from the tool, as the model was told."""
    last = upstream.bodies[-1]["messages"][-1]
    assert last["role"] == "tool"
    content: str = last["content"]
    return content


async def test_a_harmless_question_is_answered(upstream: Upstream, model: Any) -> None:
    result = await agents.Runner.run(agent_of(model, Screening()), HARMLESS)
    assert result.final_output == f"echo: {HARMLESS}"
    [checked] = result.input_guardrail_results
    assert checked.output.output_info["level"] == "CLEAR"


@pytest.mark.parametrize("asked", [ATTACK, [{"role": "user", "content": ATTACK}]])
async def test_an_attack_stops_the_run_before_the_model_is_asked(
    upstream: Upstream, model: Any, asked: Any
) -> None:
    with pytest.raises(agents.InputGuardrailTripwireTriggered) as caught:
        await agents.Runner.run(agent_of(model, Screening()), asked)
    info = caught.value.guardrail_result.output.output_info
    assert (info["level"], info["action"]) == ("DANGEROUS", "block")
    assert "Ignore" not in info["reason"]
    assert upstream.bodies == []


@pytest.mark.parametrize("report", [ATTACK, {"city": "Oslo", "notes": [ATTACK]}])
async def test_the_model_does_not_read_an_injected_tool_result(
    upstream: Upstream, model: Any, report: Any
) -> None:
    agent = agent_of(model, Screening(), report)
    await agents.Runner.run(agent, "What is the weather in Oslo?")
    assert "looks like an attack" in read_by_the_model(upstream)
    assert "Ignore" not in str(upstream.bodies)


async def test_a_harmless_tool_result_is_read(upstream: Upstream, model: Any) -> None:
    agent = agent_of(model, Screening(), "4 degrees and light rain.")
    await agents.Runner.run(agent, "What is the weather in Oslo?")
    assert read_by_the_model(upstream) == "4 degrees and light rain."


async def test_an_annotated_tool_result_is_marked_as_data(upstream: Upstream, model: Any) -> None:
    screening = Screening({"policy": {"default": {"dangerous": "annotate"}}})
    agent = agent_of(model, screening, ATTACK)
    await agents.Runner.run(agent, "What is the weather in Oslo?")
    _, mark, text, again = read_by_the_model(upstream).split("\n")
    assert (mark, text) == (again, ATTACK)
    result = await agents.Runner.run(agent_of(model, screening), ATTACK)
    assert result.input_guardrail_results[0].output.output_info["action"] == "annotate"


async def test_a_failure_ends_the_run_and_is_no_tripwire(upstream: Upstream, model: Any) -> None:
    broken = FakeFirewall(ValueError("x"))
    with pytest.raises(ScreeningError):
        await agents.Runner.run(agent_of(model, Screening(firewall=broken)), "hello")
    opened = Screening({"proxy": {"fail": "open"}}, broken)
    assert (await agents.Runner.run(agent_of(model, opened), "hello")).final_output


async def test_parallel_where_it_is_asked_for() -> None:
    screening = Screening(firewall=FakeFirewall())
    assert screening.input_guardrail().run_in_parallel is False
    assert screening.input_guardrail(run_in_parallel=True).run_in_parallel is True


@pytest.mark.timeout(600)
def test_the_example() -> None:
    assert is_shown("openai-agents.md", output_of("openai_agents_guardrails.py"))
