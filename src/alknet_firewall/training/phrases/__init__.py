"""The project's own phrases for training texts, one TOML file a subject (CC0)."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["load"]


@cache
def load(subject: str) -> dict[str, Any]:
    """The tables of `phrases/<subject>.toml`."""
    return tomllib.loads(
        resources.files(__package__).joinpath(f"{subject}.toml").read_text("utf-8")
    )
