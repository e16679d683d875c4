"""What is recorded of alarming text where that is asked for, with secrets taken out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .options import CaptureConfig

__all__ = ["captured"]

_SECRETS = (
    # API keys and tokens by their prefixes, and anything after "Bearer".
    r"\b(?:sk|pk|rk|ghp|gho|ghs|xox[abprs]|AKIA|AIza|eyJ)[-_A-Za-z0-9]{12,}[-_.A-Za-z0-9]*",
    r"(?i)\bbearer\s+[-_.~+/=A-Za-z0-9]+",
    r"(?i)\b(?:password|passwd|secret|token|api[_-]?key)\b\s*[:=]\s*\S+",
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",  # e-mail addresses
    r"\b\d(?:[ -]?\d){11,18}\b",  # cards, accounts, telephone numbers
)
_REPLACEMENT = "[redacted]"


def captured(text: str, config: CaptureConfig) -> str:
    """The text without secrets, and without what is longer than `max_characters`."""
    for pattern in _patterns(config.redact):
        text = pattern.sub(_REPLACEMENT, text)
    short = text[: config.max_characters]
    return short if len(text) <= config.max_characters else f"{short}…"


def _patterns(more: Sequence[str]) -> list[re.Pattern[str]]:
    return [re.compile(pattern) for pattern in (*_SECRETS, *more)]
