"""TOML files and dicts -> frozen dataclasses. Every error names its key.

The dataclasses are plain, so that importing them is cheap; pydantic checks the
values only when a file is loaded.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from .alarm import Role
from .errors import ConfigError
from .proxy.options import (
    Action,
    AnswersConfig,
    AuditConfig,
    CacheConfig,
    CaptureConfig,
    ClientConfig,
    LevelActions,
    PolicyConfig,
    ProxyConfig,
    RoleActions,
    RouteConfig,
    RuleConfig,
    TelemetryConfig,
    UpstreamConfig,
)

__all__ = [
    "Action",
    "AnswersConfig",
    "AuditConfig",
    "CacheConfig",
    "CaptureConfig",
    "ClientConfig",
    "Config",
    "FirewallConfig",
    "LevelActions",
    "PolicyConfig",
    "Precision",
    "ProxyConfig",
    "RoleActions",
    "RouteConfig",
    "RuleConfig",
    "TelemetryConfig",
    "Thresholds",
    "UpstreamConfig",
    "load_config",
    "parse_config",
    "read_toml",
]

Precision = Literal["int8", "fp32"]

# Read by pydantic: a key that is not a field is an error, not a silent no-op.
_STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Thresholds:
    """Scores in [0, 1] at which a text becomes SUSPICIOUS and DANGEROUS."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    suspicious: float
    dangerous: float

    def __post_init__(self) -> None:
        if not 0 <= self.suspicious <= self.dangerous <= 1:
            raise ValueError("needs 0 <= suspicious <= dangerous <= 1")


@dataclass(frozen=True)
class FirewallConfig:
    """`[firewall]`: which codebook and weights, and how to run them."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    codebook: str | None = None
    """A codebook directory; the bundled one when absent."""
    cache_dir: str | None = None
    """Where prepared weights are kept; the user cache directory when absent."""
    local_files_only: bool = False
    """Never download; the same as HF_HUB_OFFLINE=1."""
    precision: Precision = "int8"
    threads: int = 0
    """Threads of one inference; 0 means one for each core, at most 4."""
    max_tokens: int = 250_000
    """A longer text is an error, never silently cut."""
    canonical: bool = True
    """Also screen what a text says once hidden and disguised characters are undone."""
    early_exit: bool = True
    """Read only the first layer of windows that it shows to be plainly harmless. Not
    done for a SUSPICIOUS threshold below the codebook's."""
    anomaly: bool = True
    """Text that is like no normal text is SUSPICIOUS, whatever else its score."""
    thresholds: dict[Role, Thresholds] = field(default_factory=dict)
    """Overrides of the codebook's thresholds, per role."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError("threads must be 0 or more")
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be 1 or more")


@dataclass(frozen=True)
class Config:
    """A whole configuration file."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    firewall: FirewallConfig = FirewallConfig()
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    route: tuple[RouteConfig, ...] = ()
    upstream: tuple[UpstreamConfig, ...] = ()
    client: tuple[ClientConfig, ...] = ()

    def __post_init__(self) -> None:
        named = [item.name for item in self.client]
        for rule in self.policy.rule:
            if rule.client is not None and rule.client not in named:
                raise ValueError(
                    f"policy.rule names the client {rule.client!r}, which no [[client]] is"
                )
        for names in (named, [item.name for item in self.upstream]):
            if len(names) != len(set(names)):
                raise ValueError("each [[client]] and each [[upstream]] needs a name of its own")


def load_config(path: str | Path) -> Config:
    """Read and check a TOML file. Raises `ConfigError` with every problem in it."""
    return parse_config(read_toml(path), source=str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file, unchecked. Raises `ConfigError` when it is none."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML ({error})") from error


def parse_config(data: dict[str, Any], source: str = "configuration") -> Config:
    """Check a parsed configuration. Raises `ConfigError` naming every wrong key."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, because strict mode then takes tables and arrays as
        # dataclasses and tuples, and still no string for a number.
        return TypeAdapter(Config).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems)) from error


def _problem(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "(top level)"
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: there is no such key{_suggestion(str(item['loc'][-1]))}"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict) else f" (it is {item['input']!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}"


def _suggestion(key: str) -> str:
    known = {item.name for table in _tables(Config) for item in fields(table)}
    close = get_close_matches(key, sorted(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _tables(table: Any) -> Iterator[Any]:
    """A table's dataclass, and those of the tables in it."""
    yield table
    for hint in get_type_hints(table).values():
        for kind in (hint, *get_args(hint)):
            if is_dataclass(kind) and kind is not table:
                yield from _tables(kind)
