"""The scanner in the real package."""

from __future__ import annotations

from typing import Any

import pytest

from alknet_firewall.errors import ScreeningError

from ..proxy.fakes import ATTACK as FAKE_ATTACK
from ..proxy.fakes import DOUBTFUL, FakeFirewall
from .examples import is_shown, output_of
from .texts import ATTACK, DOCUMENT, HARMLESS

llamafirewall = pytest.importorskip("llamafirewall")

from llamafirewall import (  # noqa: E402
    AssistantMessage,
    LlamaFirewall,
    Role,
    ScanDecision,
    SystemMessage,
    ToolMessage,
    UserMessage,
)

from alknet_firewall.integrations.llamafirewall import register  # noqa: E402


def firewall_with(name: str) -> Any:
    return LlamaFirewall(scanners={role: [name] for role in Role})


@pytest.mark.parametrize("message", [UserMessage(ATTACK), ToolMessage(ATTACK)])
def test_an_attack_is_blocked(message: Any) -> None:
    result = firewall_with(register()).scan(message)
    assert result.decision is ScanDecision.BLOCK
    assert result.score > 0.5
    assert "Ignore" not in result.reason


def test_a_harmless_message_is_allowed() -> None:
    result = firewall_with(register()).scan(UserMessage(HARMLESS))
    assert result.decision is ScanDecision.ALLOW


async def test_by_the_asynchronous_interface() -> None:
    firewall = firewall_with(register())
    assert (await firewall.scan_async(ToolMessage(ATTACK))).decision is ScanDecision.BLOCK
    assert (await firewall.scan_async(ToolMessage(DOCUMENT))).decision is ScanDecision.ALLOW


def test_a_conversation_stops_at_the_injected_result() -> None:
    trace = [UserMessage(HARMLESS), ToolMessage(ATTACK), UserMessage("Thank you.")]
    result = firewall_with(register()).scan_replay(trace)
    assert result.decision is ScanDecision.BLOCK


def test_roles_tool_calls_and_annotations() -> None:
    seen = FakeFirewall()
    firewall = firewall_with(register(firewall=seen, name="fake"))
    doubtful = firewall.scan(UserMessage(DOUBTFUL))
    assert doubtful.decision is ScanDecision.HUMAN_IN_THE_LOOP_REQUIRED
    calls = [{"function": {"name": "send", "arguments": FAKE_ATTACK}}]
    called = firewall.scan(AssistantMessage("Of course.", tool_calls=calls))
    assert called.decision is ScanDecision.BLOCK
    firewall.scan(SystemMessage("Be kind."))
    said = dict(seen.seen)
    assert said["Of course."] == said[DOUBTFUL] == "user"
    assert said["Be kind."] == "tool"


def test_a_failure_is_no_decision() -> None:
    broken = FakeFirewall(ValueError("x"))
    with pytest.raises(ScreeningError):
        firewall_with(register(firewall=broken, name="broken")).scan(UserMessage("hello"))


@pytest.mark.timeout(600)
def test_the_example() -> None:
    assert is_shown("llamafirewall.md", output_of("llamafirewall_scanner.py"))
