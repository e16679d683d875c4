"""A scanner for LlamaFirewall.

register()
firewall = LlamaFirewall(scanners={Role.USER: ["alknet"], Role.TOOL: ["alknet"]})
"""

from __future__ import annotations

from typing import Any

from llamafirewall import (
    Message,
    Role,
    ScanDecision,
    Scanner,
    ScanResult,
    register_llamafirewall_scanner,
)

from ..proxy.screening import Detector
from ._guard import Guard, Ruling, Settings

__all__ = ["register"]

_SPEAKERS = (Role.USER, Role.ASSISTANT)


def register(
    settings: Settings = None, firewall: Detector | None = None, name: str = "alknet"
) -> str:
    """Make the scanner known to LlamaFirewall under `name`, which is returned.

    LlamaFirewall makes a scanner anew for each scan; the detector is loaded here,
    once. A text of the role USER or ASSISTANT is screened as what is said in a
    conversation, all others as what a tool says. Annotations ask for a person.
    `ScreeningError` is raised where screening fails, unless `proxy.fail` is "open".
    """
    guard = Guard(settings, firewall)

    @register_llamafirewall_scanner(name)
    class AlknetScanner(Scanner):
        def __init__(self) -> None:
            super().__init__(name)

        async def scan(self, message: Message, past_trace: Any = None) -> ScanResult:
            # Whatever is scanned is untrusted, also what stands where a system prompt does.
            role = message.role.value if message.role in _SPEAKERS else "tool"
            body = {"messages": [{"role": role, "content": message.content}]}
            if message.tool_calls:
                body["messages"][0]["tool_calls"] = message.tool_calls
            return _result(await guard.beside(guard.body, "chat", body))

    return name


def _result(ruling: Ruling) -> ScanResult:
    decision = ScanDecision.ALLOW
    if ruling.stops:
        decision = ScanDecision.BLOCK
    elif ruling.advice:
        decision = ScanDecision.HUMAN_IN_THE_LOOP_REQUIRED
    return ScanResult(decision, ruling.message or "nothing found", ruling.score)
