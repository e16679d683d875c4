"""Alarms -> one verdict on a request. Pure functions of values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..alarm import Alarm, AlarmLevel, Role
from ..config import Action, PolicyConfig
from .content import Untrusted

__all__ = ["Finding", "Verdict", "action_for", "judge", "strictest"]

_STRICTNESS: dict[Action, int] = {"allow": 0, "log": 1, "annotate": 2, "block": 3}


@dataclass(frozen=True, slots=True)
class Finding:
    """One screened string, the alarm it raised, and what the policy says to it."""

    text: Untrusted
    alarm: Alarm
    action: Action


@dataclass(frozen=True, slots=True)
class Verdict:
    """What screening one request came to.

    `worst` is the finding with the strictest action, and among those with the
    highest level and score; None when the request held no untrusted text.
    `elapsed` is in seconds.
    """

    findings: tuple[Finding, ...]
    worst: Finding | None
    action: Action
    level: AlarmLevel
    score: float
    elapsed: float


def action_for(level: AlarmLevel, role: Role, policy: PolicyConfig) -> Action:
    """The action of `[policy.roles.<role>]` for this level, or else the default."""
    default: Action = getattr(policy.default, level.name.lower())
    if (override := policy.roles.get(role)) is None:
        return default
    return getattr(override, level.name.lower()) or default


def strictest(actions: Iterable[Action]) -> Action:
    """The action that does most; `allow` when there is none."""
    return max(actions, key=_STRICTNESS.__getitem__, default="allow")


def judge(
    texts: Sequence[Untrusted], alarms: Sequence[Alarm], policy: PolicyConfig, elapsed: float
) -> Verdict:
    """The verdict on a request, given the alarm of each of its texts in order."""
    findings = tuple(
        Finding(text, alarm, action_for(alarm.level, text.role, policy))
        for text, alarm in zip(texts, alarms, strict=True)
    )
    # The level and score told to the client are the worst of any text, even
    # where the policy is laxer on that text than on another.
    level, score = max(
        ((alarm.level, alarm.score) for alarm in alarms), default=(AlarmLevel.CLEAR, 0.0)
    )
    return Verdict(
        findings=findings,
        worst=max(findings, key=_severity, default=None),
        action=strictest(finding.action for finding in findings),
        level=level,
        score=score,
        elapsed=elapsed,
    )


def _severity(finding: Finding) -> tuple[int, AlarmLevel, float]:
    return _STRICTNESS[finding.action], finding.alarm.level, finding.alarm.score
