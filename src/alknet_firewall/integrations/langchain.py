"""Middleware for agents of LangChain and LangGraph.

agent = create_agent(model, tools=[...], middleware=[AlknetMiddleware()])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from langchain.agents.middleware import AgentMiddleware, hook_config
from langchain_core.messages import AIMessage, ToolMessage, convert_to_openai_messages
from langgraph.types import Command

from ..proxy.screening import Detector
from ..proxy.spotlight import marked, new_mark
from ._guard import Guard, Ruling, Settings, said

__all__ = ["AlknetMiddleware"]

_Result: TypeAlias = ToolMessage | Command[Any]


class AlknetMiddleware(AgentMiddleware):
    """Screens what an agent is asked, and what its tools return, before the model reads it.

    A conversation that is stopped ends with the reason; a tool result that is
    stopped becomes an error with the reason, and the agent goes on. `settings`
    is a configuration, the path of a TOML file, or its tables. `ScreeningError`
    is raised where screening fails, unless `proxy.fail` is "open".
    """

    def __init__(self, settings: Settings = None, firewall: Detector | None = None) -> None:
        super().__init__()
        self._guard = Guard(settings, firewall)

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The conversation so far."""
        return _ended(self._guard.body("chat", _body(state)))

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """The conversation so far."""
        return _ended(await self._guard.beside(self._guard.body, "chat", _body(state)))

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], _Result]) -> _Result:
        """What one tool returned."""
        result = handler(request)
        return _replaced(request, result, self._guard.output(_content(result)))

    async def awrap_tool_call(
        self, request: Any, handler: Callable[[Any], Awaitable[_Result]]
    ) -> _Result:
        """What one tool returned."""
        result = await handler(request)
        ruling = await self._guard.beside(self._guard.output, _content(result))
        return _replaced(request, result, ruling)


def _body(state: Any) -> dict[str, Any]:
    return {"messages": convert_to_openai_messages(state["messages"])}


def _content(result: _Result) -> object:
    return result.content if isinstance(result, ToolMessage) else result.update


def _ended(ruling: Ruling) -> dict[str, Any] | None:
    if not ruling.stops:
        return None
    return {"messages": [AIMessage(ruling.message)], "jump_to": "end"}


def _replaced(request: Any, result: _Result, ruling: Ruling) -> _Result:
    if ruling.stops:
        call = request.tool_call
        return ToolMessage(
            ruling.message, tool_call_id=call["id"], name=call["name"], status="error"
        )
    if ruling.advice and isinstance(result, ToolMessage):
        text = marked(said(result.content), new_mark())
        return result.model_copy(update={"content": text})
    return result
