"""The middleware in agents of the real package, with a model that echoes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from alknet_firewall.errors import ScreeningError

from ..e2e.upstream import Upstream
from ..proxy.fakes import FakeFirewall
from .examples import is_shown, output_of
from .texts import ATTACK, HARMLESS

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from alknet_firewall.integrations.langchain import AlknetMiddleware

ANNOTATE = {"policy": {"default": {"dangerous": "annotate"}}}


@pytest.fixture
async def model(upstream: Upstream) -> AsyncIterator[Any]:
    url = f"{upstream.url}/v1"
    with httpx.Client() as blocking:
        async with httpx.AsyncClient() as beside:
            yield ChatOpenAI(
                model="echo",
                base_url=url,
                api_key="k",
                http_client=blocking,
                http_async_client=beside,
            )


def agent_of(model: Any, middleware: AlknetMiddleware, report: Any = None) -> Any:
    @tool
    def get_weather(city: str) -> Any:
        """The weather of a city."""
        return report

    tools = [get_weather] if report else []
    return create_agent(model, tools=tools, middleware=[middleware])


async def asked(agent: Any, text: str, beside: bool) -> list[Any]:
    """The messages of a run, by the agent's blocking or its asynchronous interface."""
    given = {"messages": [{"role": "user", "content": text}]}
    said = await agent.ainvoke(given) if beside else agent.invoke(given)
    messages: list[Any] = said["messages"]
    return messages


@pytest.mark.parametrize("beside", [False, True])
async def test_a_harmless_question_is_answered(
    upstream: Upstream, model: Any, beside: bool
) -> None:
    *_, answer = await asked(agent_of(model, AlknetMiddleware()), HARMLESS, beside)
    assert answer.content == f"echo: {HARMLESS}"


@pytest.mark.parametrize("beside", [False, True])
async def test_an_attack_ends_the_run_before_the_model_is_asked(
    upstream: Upstream, model: Any, beside: bool
) -> None:
    *_, answer = await asked(agent_of(model, AlknetMiddleware()), ATTACK, beside)
    assert "looks like an attack" in answer.content
    assert upstream.bodies == []


@pytest.mark.parametrize("beside", [False, True])
async def test_the_model_does_not_read_an_injected_tool_result(
    upstream: Upstream, model: Any, beside: bool
) -> None:
    agent = agent_of(model, AlknetMiddleware(), ATTACK)
    *_, result, answer = await asked(agent, "What is the weather in Oslo?", beside)
    assert (result.type, result.status) == ("tool", "error")
    assert "looks like an attack" in result.content
    assert "Ignore" not in str(upstream.bodies)
    assert answer.content.startswith("echo: ")


async def test_a_harmless_tool_result_is_read(upstream: Upstream, model: Any) -> None:
    agent = agent_of(model, AlknetMiddleware(), "4 degrees and light rain.")
    await asked(agent, "What is the weather in Oslo?", beside=True)
    assert upstream.bodies[-1]["messages"][-1]["content"] == "4 degrees and light rain."


async def test_an_annotated_tool_result_is_marked_as_data(upstream: Upstream, model: Any) -> None:
    agent = agent_of(model, AlknetMiddleware(ANNOTATE), ATTACK)
    await asked(agent, "What is the weather in Oslo?", beside=True)
    _, mark, text, again = upstream.bodies[-1]["messages"][-1]["content"].split("\n")
    assert (mark, text) == (again, ATTACK)


def test_a_command_of_a_tool_is_screened() -> None:
    from langchain_core.messages import ToolMessage
    from langgraph.types import Command

    call = {"id": "c", "name": "get_weather"}
    command: Any = Command(update={"messages": [ToolMessage(ATTACK, tool_call_id="c")]})
    request = type("Request", (), {"tool_call": call})()
    replaced = AlknetMiddleware().wrap_tool_call(request, lambda _: command)
    assert (replaced.type, replaced.status) == ("tool", "error")
    harmless: Any = Command(update={"messages": [ToolMessage("fine", tool_call_id="c")]})
    assert AlknetMiddleware().wrap_tool_call(request, lambda _: harmless) is harmless


@pytest.mark.parametrize("beside", [False, True])
async def test_a_failure_ends_the_run(upstream: Upstream, model: Any, beside: bool) -> None:
    broken = FakeFirewall(ValueError("x"))
    with pytest.raises(ScreeningError):
        await asked(agent_of(model, AlknetMiddleware(firewall=broken)), "hello", beside)
    opened = AlknetMiddleware({"proxy": {"fail": "open"}}, broken)
    *_, answer = await asked(agent_of(model, opened), "hello", beside)
    assert answer.content == "echo: hello"


@pytest.mark.timeout(600)
def test_the_example() -> None:
    assert is_shown("langchain.md", output_of("langchain_middleware.py"))
