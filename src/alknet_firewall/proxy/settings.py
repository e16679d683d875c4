"""Settings given on the command line, on top of a configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import Config
from ..errors import ConfigError

__all__ = ["with_overrides"]


def with_overrides(config: Config, **settings: Any) -> Config:
    """`config` with each `[proxy]` setting that is not None in its place.

    Raises `ConfigError` when a value is out of bounds.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return replace(config, proxy=replace(config.proxy, **given))
    except ValueError as error:
        raise ConfigError(f"proxy: {error}") from error
