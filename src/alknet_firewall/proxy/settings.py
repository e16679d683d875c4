"""Where a configuration comes from: a file, the environment, the command line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..config import Config, parse_config, read_toml
from ..errors import ConfigError

__all__ = ["Source", "from_environment", "refuse_itself", "with_overrides"]

_PREFIX = "ALKNET_FIREWALL__"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Source:
    """A file and what overrides it; read again whenever it may have changed."""

    path: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """`[proxy]` settings of the command line, which win over everything."""

    def load(self, environ: Mapping[str, str] = os.environ) -> Config:
        """Read everything now. Raises `ConfigError` with every problem."""
        data = read_toml(self.path) if self.path else {}
        merged = _merged(data, from_environment(environ))
        config = parse_config(merged, source=str(self.path or "environment"))
        config = with_overrides(config, **self.overrides)
        if config.proxy.upstream is None and not config.upstream:
            # Where OpenAI's own clients would send the requests.
            return with_overrides(config, upstream=environ.get("OPENAI_BASE_URL") or None)
        return config

    def stamp(self) -> tuple[int, ...] | None:
        """Changes whenever the file does; None while there is none."""
        try:
            status = os.stat(self.path) if self.path else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings such as `ALKNET_FIREWALL__PROXY__PORT=9000`, as a file would hold them."""
    data: dict[str, Any] = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(_PREFIX):
            continue
        *tables, key = name.removeprefix(_PREFIX).lower().split("__")
        table = data
        for step in tables:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name}: {step} is set as a value and as a table")
        table[key] = _value(value)
    return data


def _value(written: str) -> Any:
    """A TOML value where it is one, else the text as it stands."""
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def with_overrides(config: Config, **settings: Any) -> Config:
    """`config` with each `[proxy]` setting that is not None in its place.

    Raises `ConfigError` when a value is out of bounds.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return replace(config, proxy=replace(config.proxy, **given))
    except ValueError as error:
        raise ConfigError(f"proxy: {error}") from error


def refuse_itself(config: Config) -> None:
    """Raise `ConfigError` when an upstream is the address that the proxy listens on."""
    urls = [config.proxy.upstream or "", *(item.base_url for item in config.upstream)]
    if any(_is_own(url, config.proxy.host, config.proxy.port) for url in urls):
        raise ConfigError(
            "an upstream is the address of this proxy itself, so requests would go in circles: "
            "pass --upstream URL, or set another port (OPENAI_BASE_URL is taken where no upstream "
            "is configured, and must not be the one that clients of the proxy use)"
        )


def _is_own(url: str, host: str, port: int) -> bool:
    hosts = _LOOPBACK if host in (*_LOOPBACK, "0.0.0.0", "::") else (host,)  # noqa: S104
    try:
        split = urlsplit(url)
        return split.hostname in hosts and _port(split) == port
    except ValueError:
        return False  # no URL at all, which is another mistake


def _port(split: SplitResult) -> int:
    return split.port or (443 if split.scheme == "https" else 80)
