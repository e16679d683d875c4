"""Guardrails for agents of the OpenAI Agents SDK.

screening = Screening()
agent = Agent(name=..., input_guardrails=[screening.input_guardrail()])

@function_tool(tool_output_guardrails=[screening.tool_output_guardrail()])
def fetch(url: str) -> str: ...
"""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    RunContextWrapper,
    ToolGuardrailFunctionOutput,
    ToolOutputGuardrail,
    ToolOutputGuardrailData,
    TResponseInputItem,
)

from ..proxy.screening import Detector
from ..proxy.spotlight import marked, new_mark
from ._guard import Guard, Settings, said

__all__ = ["Screening"]


class Screening:
    """One detector and one policy for the guardrails of any number of agents.

    `settings` is a configuration, the path of a TOML file, or its tables. A
    guardrail raises `ScreeningError` where screening fails, which ends the run,
    unless `proxy.fail` is "open".
    """

    def __init__(self, settings: Settings = None, firewall: Detector | None = None) -> None:
        self._guard = Guard(settings, firewall)

    def input_guardrail(self, *, run_in_parallel: bool = False) -> InputGuardrail[Any]:
        """What an agent is asked. By default the model hears of it only afterwards.

        An annotation only shows in the guardrail's `output_info`.
        """
        return InputGuardrail(self._check_input, "alknet-firewall", run_in_parallel)

    def tool_output_guardrail(self) -> ToolOutputGuardrail[Any]:
        """What a tool returned: the model gets the reason in its place, or the text marked."""
        return ToolOutputGuardrail(self._check_output, "alknet-firewall")

    async def _check_input(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        asked: str | list[TResponseInputItem],
    ) -> GuardrailFunctionOutput:
        ruling = await self._guard.beside(self._guard.body, "responses", {"input": asked})
        info = {**ruling.info, "reason": ruling.message}
        return GuardrailFunctionOutput(info, tripwire_triggered=ruling.stops)

    async def _check_output(self, data: ToolOutputGuardrailData) -> ToolGuardrailFunctionOutput:
        ruling = await self._guard.beside(self._guard.output, data.output)
        if ruling.stops:
            return ToolGuardrailFunctionOutput.reject_content(ruling.message, ruling.info)
        if ruling.advice:
            text = marked(said(data.output), new_mark())
            return ToolGuardrailFunctionOutput.reject_content(text, ruling.info)
        return ToolGuardrailFunctionOutput.allow(ruling.info)
