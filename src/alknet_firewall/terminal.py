"""How verdicts look in a terminal."""

from __future__ import annotations

from .alarm import AlarmLevel

__all__ = ["LEVEL_COLOURS"]

LEVEL_COLOURS = {
    AlarmLevel.CLEAR: "green",
    AlarmLevel.SUSPICIOUS: "yellow",
    AlarmLevel.DANGEROUS: "red",
}
