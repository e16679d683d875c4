"""Actions for NeMo Guardrails; `examples/nemo` holds the flows that call them.

rails = LLMRails(RailsConfig.from_path("config"))
register(rails)
"""

from __future__ import annotations

from typing import Any

from nemoguardrails import LLMRails
from nemoguardrails.actions import action
from nemoguardrails.actions.rail_outcome import RailOutcome, TransformTarget

from ..alarm import Role
from ..errors import RequestError, ScreeningError
from ..proxy.screening import Detector
from ..proxy.spotlight import marked, new_mark
from ._guard import Guard, Ruling, Settings

__all__ = ["register"]


def register(
    rails: LLMRails, settings: Settings = None, firewall: Detector | None = None
) -> LLMRails:
    """Give rails the actions `alknet_check_input`, `..._retrieval` and `..._tool_input`.

    `settings` is a configuration, the path of a TOML file, or its tables. Where
    screening fails the rail blocks, and says that it failed, unless `proxy.fail`
    is "open".
    """
    checks = _Checks(Guard(settings, firewall))
    for check in (checks.input, checks.retrieval, checks.tool_input):
        rails.register_action(check)
    return rails


class _Checks:
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @action(name="alknet_check_input")
    async def input(self, context: dict[str, Any] | None = None) -> RailOutcome:
        """The user's message. An annotation only shows in the outcome's metadata."""
        return await self._checked(context, "user_message", "user")

    @action(name="alknet_check_tool_input")
    async def tool_input(self, context: dict[str, Any] | None = None) -> RailOutcome:
        """What a tool returned. An annotation only shows in the outcome's metadata."""
        return await self._checked(context, "tool_message", "tool")

    @action(name="alknet_check_retrieval")
    async def retrieval(self, context: dict[str, Any] | None = None) -> RailOutcome:
        """What was retrieved: left out when it is stopped, marked when it is annotated."""
        outcome = await self._checked(context, "relevant_chunks", "tool")
        chunks = (context or {}).get("relevant_chunks") or ""
        if outcome.is_blocked or outcome.metadata.get("action") == "annotate":
            text = "" if outcome.is_blocked else marked(chunks, new_mark())
            rewrites = [(TransformTarget.RELEVANT_CHUNKS, text)]
            return RailOutcome.transform(rewrites, reason=outcome.reason, metadata=outcome.metadata)
        return outcome

    async def _checked(self, context: dict[str, Any] | None, key: str, role: Role) -> RailOutcome:
        text = (context or {}).get(key) or ""
        try:
            ruling = await self._guard.beside(self._guard.text, str(text), role, key)
        except (ScreeningError, RequestError) as error:
            return RailOutcome.failure(reason=str(error))
        return _outcome(ruling)


def _outcome(ruling: Ruling) -> RailOutcome:
    if ruling.stops:
        return RailOutcome.block(reason=ruling.message, metadata=ruling.info)
    return RailOutcome.allow(metadata=ruling.info)
