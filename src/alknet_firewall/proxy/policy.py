"""Alarms -> one verdict on a request. Pure functions of values.

Of the rules that match a text the most specific decides, level by level: one
with more conditions before one with fewer; among those `client` weighs more
than `model`, `model` more than `route`, `route` more than `role`; among equals
the first in the file. `[policy.roles]` are rules with only a role, and
`[policy.default]` is the rule that matches everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Literal, get_args

from ..alarm import Alarm, AlarmLevel, Role
from ..errors import RequestError
from .leaves import Unscreened, Untrusted
from .options import Action, Mode, PolicyConfig, RuleConfig

__all__ = [
    "Context",
    "Decision",
    "Finding",
    "Verdict",
    "action_for",
    "asked_for",
    "decide",
    "deciding_rules",
    "judge",
    "strictest",
]

_STRICTNESS: dict[Action, int] = {
    action: strictness for strictness, action in enumerate(get_args(Action))
}
_STOPPING = ("refuse", "block")


@dataclass(frozen=True, slots=True)
class Context:
    """What rules may ask of a request; `asked` is what the client asked for."""

    route: str = ""
    model: str | None = None
    client: str | None = None
    asked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says: an action, and whether to carry it out or only record it."""

    action: Action
    mode: Mode

    @property
    def effect(self) -> Action:
        """What is done: in shadow mode at most a line in the log."""
        return self.action if self.mode == "enforce" or self.action == "allow" else "log"


@dataclass(frozen=True, slots=True)
class Finding:
    """One screened string, the alarm it raised, and what the policy says to it."""

    text: Untrusted
    alarm: Alarm
    decision: Decision

    @property
    def action(self) -> Action:
        """What is done about it."""
        return self.decision.effect


@dataclass(frozen=True, slots=True)
class Verdict:
    """What screening one request came to.

    `action` is what is done, `intended` what would be done were nothing in
    shadow mode. `worst` is the finding with the strictest intended action, and
    among those with the highest level and score; None when the request held no
    untrusted text. `unscreened` is what no screening could read, and `barred`
    the first of it that the policy stops. `elapsed` is in seconds.
    """

    findings: tuple[Finding, ...]
    worst: Finding | None
    action: Action
    intended: Action
    level: AlarmLevel
    score: float
    elapsed: float
    unscreened: tuple[Unscreened, ...] = ()
    barred: Unscreened | None = None

    @property
    def would_stop(self) -> bool:
        """Whether shadow mode let through what would have been stopped."""
        return self.intended in _STOPPING and self.action not in _STOPPING

    @property
    def stops(self) -> bool:
        """Whether the request is not forwarded."""
        return self.action in _STOPPING


def action_for(level: AlarmLevel, role: Role, policy: PolicyConfig) -> Action:
    """The action for a level and a role where nothing else is known."""
    return decide(level, role, policy, Context()).action


def decide(level: AlarmLevel, role: Role, policy: PolicyConfig, context: Context) -> Decision:
    """What the most specific matching rules say, or more where the client asked for more."""
    rules = _matching(role, policy, context)
    name = level.name.lower()
    action: Action = next(
        (found for rule in rules if (found := getattr(rule, name)) is not None),
        getattr(policy.default, name),
    )
    mode = next((rule.mode for rule in rules if rule.mode is not None), policy.mode)
    wanted = context.asked.get(name)
    return Decision(
        strictest([action, *([_action(wanted)] if wanted else [])]),
        "enforce" if context.asked.get("mode") == "enforce" else mode,
    )


def _matching(role: Role, policy: PolicyConfig, context: Context) -> list[RuleConfig]:
    """The rules that match, the most specific first."""
    rules = [rule for rule in _rules(policy) if _matches(rule, role, context)]
    return sorted(rules, key=_specificity, reverse=True)  # equals stay in the file's order


def deciding_rules(role: Role, policy: PolicyConfig, context: Context) -> list[str]:
    """The rules that match as they could be written, the most specific first."""
    written = []
    for rule in _matching(role, policy, context):
        given = {item.name: getattr(rule, item.name) for item in fields(rule)}
        named = (f"{name} = {value!r}" for name, value in given.items() if value is not None)
        written.append(", ".join(named))
    return written


def _rules(policy: PolicyConfig) -> list[RuleConfig]:
    by_role = [
        RuleConfig(
            role=role, clear=item.clear, suspicious=item.suspicious, dangerous=item.dangerous
        )
        for role, item in policy.roles.items()
        if (item.clear, item.suspicious, item.dangerous) != (None, None, None)
    ]
    return [*policy.rule, *by_role]


def _matches(rule: RuleConfig, role: Role, context: Context) -> bool:
    return (
        rule.role in (None, role)
        and rule.route in (None, context.route)
        and rule.client in (None, context.client)
        and (rule.model is None or fnmatchcase(context.model or "", rule.model))
    )


def _specificity(rule: RuleConfig) -> tuple[int, tuple[bool, ...]]:
    given = tuple(item is not None for item in (rule.client, rule.model, rule.route, rule.role))
    return sum(given), given


def strictest(actions: Iterable[Action]) -> Action:
    """The action that does most; `allow` when there is none."""
    return max(actions, key=_STRICTNESS.__getitem__, default="allow")


_ASKED = re.compile(r"(clear|suspicious|dangerous)\s*=\s*([a-z]+)|(mode)\s*=\s*(enforce)")


def asked_for(header: str) -> dict[str, str]:
    """What a client asks for, such as `suspicious=block, mode=enforce`.

    It can only make a policy stricter. Raises `RequestError` for anything else,
    so that nobody relies on a wish that was not understood.
    """
    wishes: dict[str, str] = {}
    for item in filter(None, (part.strip().lower() for part in header.split(","))):
        found = _ASKED.fullmatch(item)
        if not found or (found[2] and found[2] not in _STRICTNESS):
            raise RequestError(
                "x-alknet-firewall-policy takes items such as suspicious=block, dangerous=refuse "
                f"and mode=enforce; the actions are {', '.join(_STRICTNESS)}",
                code="bad_policy",
            )
        wishes[found[1] or found[3]] = found[2] or found[4]
    return wishes


def _action(name: str) -> Action:
    return next(action for action in _STRICTNESS if action == name)


def judge(
    texts: Sequence[Untrusted],
    alarms: Sequence[Alarm],
    policy: PolicyConfig,
    elapsed: float,
    context: Context = Context(),
    unscreened: Sequence[Unscreened] = (),
) -> Verdict:
    """The verdict on a request, given the alarm of each of its texts in order."""
    pairs = [*zip(texts, alarms, strict=True)]
    kinds = {(alarm.level, text.role) for text, alarm in pairs}
    decided = {kind: decide(*kind, policy, context) for kind in kinds}
    findings = tuple(Finding(text, alarm, decided[alarm.level, text.role]) for text, alarm in pairs)
    # The level and score told to the client are the worst of any text, even
    # where the policy is laxer on that text than on another.
    level, score = max(
        ((alarm.level, alarm.score) for alarm in alarms), default=(AlarmLevel.CLEAR, 0.0)
    )
    passed = {item: _passing(item, policy, context) for item in unscreened}
    decisions = [*(finding.decision for finding in findings), *passed.values()]
    return Verdict(
        findings=findings,
        worst=max(findings, key=_severity, default=None),
        action=strictest(decision.effect for decision in decisions),
        intended=strictest(decision.action for decision in decisions),
        level=level,
        score=score,
        elapsed=elapsed,
        unscreened=tuple(unscreened),
        barred=next((item for item, said in passed.items() if said.effect in _STOPPING), None),
    )


def _passing(item: Unscreened, policy: PolicyConfig, context: Context) -> Decision:
    enforced: Literal["enforce"] | None = (
        "enforce" if context.asked.get("mode") == "enforce" else None
    )
    return Decision(policy.not_screened.get(item.kind, "allow"), enforced or policy.mode)


def _severity(finding: Finding) -> tuple[int, int, AlarmLevel, float]:
    return (
        _STRICTNESS[finding.action],
        _STRICTNESS[finding.decision.action],
        finding.alarm.level,
        finding.alarm.score,
    )
