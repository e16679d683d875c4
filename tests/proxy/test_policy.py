"""From alarms to a verdict."""

from __future__ import annotations

import pytest

from alknet_firewall.alarm import AlarmLevel, Role
from alknet_firewall.config import Action, LevelActions, PolicyConfig, RoleActions
from alknet_firewall.proxy.leaves import Untrusted
from alknet_firewall.proxy.policy import action_for, judge, strictest

from .fakes import alarm

CLEAR, SUSPICIOUS, DANGEROUS = AlarmLevel


@pytest.mark.parametrize(
    ("level", "action"), [(CLEAR, "allow"), (SUSPICIOUS, "annotate"), (DANGEROUS, "block")]
)
def test_default_actions(level: AlarmLevel, action: Action) -> None:
    assert action_for(level, "user", PolicyConfig()) == action


def test_a_role_overrides_field_by_field() -> None:
    policy = PolicyConfig(
        default=LevelActions(suspicious="log"), roles={"tool": RoleActions(suspicious="block")}
    )
    assert action_for(SUSPICIOUS, "tool", policy) == "block"
    assert action_for(SUSPICIOUS, "user", policy) == "log"
    assert action_for(DANGEROUS, "tool", policy) == "block"
    assert action_for(CLEAR, "tool", policy) == "allow"


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([], "allow"),
        (["allow", "log"], "log"),
        (["annotate", "log"], "annotate"),
        (["block", "annotate", "allow"], "block"),
    ],
)
def test_strictest(actions: list[Action], expected: Action) -> None:
    assert strictest(actions) == expected


def text(role: Role, path: str) -> Untrusted:
    return Untrusted(role, path, "words")


def test_nothing_to_screen() -> None:
    verdict = judge([], [], PolicyConfig(), 0.5)
    assert (verdict.action, verdict.level, verdict.score) == ("allow", CLEAR, 0.0)
    assert verdict.worst is None
    assert verdict.elapsed == 0.5


def test_the_worst_text_decides() -> None:
    verdict = judge(
        [text("user", "a"), text("user", "b"), text("tool", "c")],
        [alarm(CLEAR), alarm(DANGEROUS, score=0.8), alarm(SUSPICIOUS, "tool", score=0.95)],
        PolicyConfig(),
        0,
    )
    assert verdict.worst is not None
    assert verdict.worst.text.json_path == "b"
    assert (verdict.action, verdict.level, verdict.score) == ("block", DANGEROUS, 0.8)


def test_the_strictest_action_names_its_text_even_when_another_is_worse() -> None:
    policy = PolicyConfig(
        roles={"user": RoleActions(dangerous="log"), "tool": RoleActions(suspicious="block")}
    )
    verdict = judge(
        [text("user", "a"), text("tool", "b")],
        [alarm(DANGEROUS), alarm(SUSPICIOUS, "tool")],
        policy,
        0,
    )
    assert verdict.worst is not None
    assert verdict.worst.text.json_path == "b"
    assert (verdict.action, verdict.level) == ("block", DANGEROUS)


def test_each_text_has_one_alarm() -> None:
    with pytest.raises(ValueError, match="shorter"):
        judge([text("user", "a")], [], PolicyConfig(), 0)
