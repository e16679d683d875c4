"""From alarms to a verdict."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.alarm import AlarmLevel, Role
from alknet_firewall.config import Action, LevelActions, PolicyConfig, RoleActions, RuleConfig
from alknet_firewall.errors import RequestError
from alknet_firewall.proxy.leaves import Unscreened, Untrusted
from alknet_firewall.proxy.options import Mode
from alknet_firewall.proxy.policy import (
    Context,
    action_for,
    asked_for,
    decide,
    judge,
    strictest,
)

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


# --- rules -------------------------------------------------------------------


def decided(policy: PolicyConfig, role: Role = "user", **given: Any) -> tuple[str, str]:
    decision = decide(DANGEROUS, role, policy, Context(**given))
    return decision.action, decision.mode


def test_the_most_specific_rule_decides() -> None:
    policy = PolicyConfig(
        rule=(
            RuleConfig(route="/v1/embeddings", dangerous="log"),
            RuleConfig(client="a", dangerous="annotate"),
            RuleConfig(client="a", route="/v1/embeddings", dangerous="refuse"),
        ),
    )
    assert decided(policy)[0] == "block"
    assert decided(policy, route="/v1/embeddings")[0] == "log"
    assert decided(policy, client="a")[0] == "annotate"
    assert decided(policy, client="a", route="/v1/embeddings")[0] == "refuse"
    assert decided(policy, client="b", route="/v1/embeddings")[0] == "log"


def test_a_client_weighs_more_than_a_model_than_a_route_than_a_role() -> None:
    rules = [
        RuleConfig(role="user", dangerous="allow"),
        RuleConfig(route="/r", dangerous="log"),
        RuleConfig(model="m*", dangerous="annotate"),
        RuleConfig(client="c", dangerous="refuse"),
    ]
    for count, expected in enumerate(("allow", "log", "annotate", "refuse"), 1):
        policy = PolicyConfig(rule=tuple(rules[:count]))
        assert decided(policy, client="c", model="m1", route="/r")[0] == expected


def test_levels_and_mode_come_from_rules_of_their_own() -> None:
    policy = PolicyConfig(
        rule=(RuleConfig(client="c", suspicious="log"), RuleConfig(route="/r", mode="shadow"))
    )
    assert decided(policy, client="c", route="/r") == ("block", "shadow")


def test_the_first_of_equals_decides() -> None:
    policy = PolicyConfig(
        rule=(
            RuleConfig(model="gpt-*", dangerous="log"),
            RuleConfig(model="gpt-4*", dangerous="block"),
        )
    )
    assert decided(policy, model="gpt-4o")[0] == "log"


def test_shadow_records_and_does_nothing() -> None:
    policy = PolicyConfig(mode="shadow")
    verdict = judge([text("user", "a")], [alarm(DANGEROUS)], policy, 0)
    assert (verdict.action, verdict.intended) == ("log", "block")
    assert verdict.would_stop
    assert not verdict.stops


@given(
    st.sampled_from(get_args(Action)),
    st.sampled_from(get_args(Action)),
    st.sampled_from(["enforce", "shadow"]),
)
def test_a_client_can_only_ask_for_more(own: Action, asked: Action, mode: Mode) -> None:
    policy = PolicyConfig(mode=mode, default=LevelActions(dangerous=own))
    plain = decide(DANGEROUS, "user", policy, Context())
    wished = decide(DANGEROUS, "user", policy, Context(asked={"dangerous": asked}))
    assert strictest([plain.action, wished.action]) == wished.action
    assert strictest([plain.effect, wished.effect]) == wished.effect
    assert wished.mode == plain.mode


def test_wishes_are_read() -> None:
    assert asked_for("Suspicious=block, mode = enforce,") == {
        "suspicious": "block",
        "mode": "enforce",
    }
    assert asked_for("") == {}


@pytest.mark.parametrize("wish", ["off", "dangerous=nothing", "mode=shadow", "tool=block", "a=b=c"])
def test_a_wish_that_is_not_understood_is_refused(wish: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked_for(wish)
    assert caught.value.code == "bad_policy"


def test_what_cannot_be_screened_passes_unless_it_is_barred() -> None:
    seen = [Unscreened("image", "messages[0].content[0]"), Unscreened("file", "b")]
    assert judge([], [], PolicyConfig(), 0, unscreened=seen).action == "allow"
    verdict = judge([], [], PolicyConfig(not_screened={"file": "block"}), 0, unscreened=seen)
    assert verdict.stops
    assert verdict.barred == seen[1]
