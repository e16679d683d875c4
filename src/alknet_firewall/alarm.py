"""The verdict on one text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Literal

__all__ = ["Alarm", "AlarmLevel", "DimensionSignal", "Role", "Span"]

Role = Literal["user", "tool"]
"""Who wrote the text: `user` for instructions, `tool` for data an agent fetched."""


class AlarmLevel(IntEnum):
    """How alarming a text is. Levels compare: `level >= AlarmLevel.SUSPICIOUS`."""

    CLEAR = 0
    SUSPICIOUS = 1
    DANGEROUS = 2


@dataclass(frozen=True, slots=True)
class Span:
    """Part of the screened text, `text[start:end]`, that raised the alarm."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class DimensionSignal:
    """How unusual the text is along one direction of the codebook.

    `probability` is the two-sided tail probability of `z` under normal text of
    the same role, in [0, 1]: small means rare. `side` says in which tail.
    """

    layer: int
    dimension: int
    z: float
    probability: float
    side: Literal["low", "high"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What `Firewall.screen` found in one text.

    `score` is in [0, 1]. `spans` are character offsets into the text as it was
    given; they are empty when the level is CLEAR. `signals` are the codebook's
    dimensions at the worst place of the text, the rarest first. `windows` is
    how many windows were scored and `settled` how many of them needed only the first
    layer, `tokens` how many tokens the text has, and
    `elapsed` the time it took in seconds. `reading` says how the text was read
    where it scored worst: "raw" as it is, or what had to be undone before, such
    as "invisible+look-alikes" (docs/canonicalisation.md lists the names). `anomalous`
    says that a part of the text is like no normal text however it is read, which makes
    it SUSPICIOUS at least, whatever its score (unless `anomaly` is off).
    """

    level: AlarmLevel
    score: float
    role: Role
    spans: tuple[Span, ...]
    signals: tuple[DimensionSignal, ...]
    windows: int
    tokens: int
    elapsed: float
    reading: str = "raw"
    settled: int = 0
    anomalous: bool = False

    @property
    def reason(self) -> str:
        """One sentence for a person; it holds no content of the text."""
        if self.level is AlarmLevel.CLEAR:
            return f"nothing in this {self.role} text looks like an attack (score {self.score:.3f})"
        worst = max(self.spans, key=lambda span: span.score, default=None)
        place = f" at characters {worst.start} to {worst.end}" if worst else ""
        how = "" if self.reading == "raw" else f", once {self.reading} is undone"
        what = "is like no normal text" if self.anomalous else "looks like an attack"
        return f"this {self.role} text {what}{place}{how} (score {self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with every field, the level by its name."""
        return {**asdict(self), "level": self.level.name, "reason": self.reason}
