"""The proxy's tables of a configuration, as frozen dataclasses.

Plain, like those of `alknet_firewall.config`, which reads and checks them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..alarm import Role
from .opaque import Kind

__all__ = [
    "Action",
    "AnswersConfig",
    "AuditConfig",
    "CacheConfig",
    "CaptureConfig",
    "ClientConfig",
    "LevelActions",
    "Mode",
    "PolicyConfig",
    "ProxyConfig",
    "RoleActions",
    "RouteConfig",
    "RuleConfig",
    "TelemetryConfig",
    "UpstreamConfig",
]

Action = Literal["allow", "log", "annotate", "refuse", "block"]
Mode = Literal["enforce", "shadow"]

# Read by pydantic: a key that is not a field is an error, not a silent no-op.
_STRICT = {"extra": "forbid", "strict": True}


# --- [policy] ----------------------------------------------------------------


@dataclass(frozen=True)
class LevelActions:
    """What to do at each alarm level."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    clear: Action = "allow"
    suspicious: Action = "annotate"
    dangerous: Action = "block"


@dataclass(frozen=True)
class RoleActions:
    """Where one role differs from the default actions."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    clear: Action | None = None
    suspicious: Action | None = None
    dangerous: Action | None = None


@dataclass(frozen=True)
class RuleConfig:
    """`[[policy.rule]]`: where requests that match differ; what is absent matches all."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    client: str | None = None
    """The `name` of a `[[client]]`."""
    model: str | None = None
    """A pattern such as `gpt-4*`."""
    route: str | None = None
    """A path such as `/v1/embeddings`."""
    role: Role | None = None
    clear: Action | None = None
    suspicious: Action | None = None
    dangerous: Action | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        if all(value is None for value in (self.clear, self.suspicious, self.dangerous, self.mode)):
            raise ValueError("a rule must say one of clear, suspicious, dangerous, mode")


@dataclass(frozen=True)
class PolicyConfig:
    """`[policy]`: actions per level, and where they differ."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    mode: Mode = "enforce"
    """`shadow` records what would be done, and does nothing."""
    spotlight: bool = False
    """With `annotate`: mark the alarming text in the request as data, for the model."""
    default: LevelActions = LevelActions()
    roles: dict[Role, RoleActions] = field(default_factory=dict)
    rule: tuple[RuleConfig, ...] = ()
    not_screened: dict[Kind, Action] = field(default_factory=dict)
    """What to do with what no screening can read; `allow` where nothing is said."""


# --- [proxy] -----------------------------------------------------------------

_POSITIVE = (
    "screen_timeout",
    "max_body_bytes",
    "max_depth",
    "max_texts",
    "max_request_tokens",
    "max_queue",
    "body_timeout",
    "connect_timeout",
    "first_byte_timeout",
    "read_timeout",
)
_PATH = re.compile(r"(/[A-Za-z0-9_.:@-]+)*")


@dataclass(frozen=True)
class ProxyConfig:
    """`[proxy]`: where to listen, where to forward, and what bounds a request."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    host: str = "127.0.0.1"
    """An address, or `unix:` and the path of a socket."""
    port: int = 8080
    upstream: str | None = None
    """Base URL of an OpenAI-compatible API, with its `/v1`; short for one `[[upstream]]`."""
    prefixes: tuple[str, ...] = ("/v1",)
    """Paths that the API is served under; the upstream's is in its base URL."""
    trusted_roles: tuple[str, ...] = ("system", "developer")
    """Messages of these roles are not screened; nor are `instructions` and `tools`."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose word on the client's address, and on who it is, is taken."""
    client_address: Literal["forward", "hide"] = "forward"
    """Whether the upstream is told who asked, in `X-Forwarded-For`."""
    require_client: bool | None = None
    """Serve only the keys under `[[client]]`; by default when an upstream has a key."""
    fail: Literal["closed", "open"] = "closed"
    """What happens to a request whose screening fails."""
    screen_timeout: float = 30.0
    """Seconds that screening one request may take."""
    max_body_bytes: int = 10_000_000
    max_depth: int = 64
    """Levels of arrays and objects in a request body, at most 200."""
    max_texts: int = 5_000
    """Strings to screen in one request."""
    max_request_tokens: int = 1_000_000
    """Tokens of all the strings of one request."""
    max_queue: int = 128
    """Requests that may wait for a thread; the next one is told to come back."""
    screen_threads: int = 0
    """Threads that screen; 0 means one for each core."""
    body_timeout: float = 60.0
    """Seconds that a client may take to send a request's body."""
    connect_timeout: float = 5.0
    first_byte_timeout: float = 300.0
    """Seconds until the upstream's answer begins."""
    read_timeout: float = 300.0
    """Seconds to wait for the upstream's next byte."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("port must be between 0 and 65535")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.screen_threads < 0:
            raise ValueError("screen_threads must be 0 or more")
        if self.max_depth > 200:
            raise ValueError("max_depth must be at most 200")
        if not all(_PATH.fullmatch(prefix) for prefix in self.prefixes):
            raise ValueError('prefixes must be paths such as "/v1", without a slash at the end')
        for network in self.trusted_proxies:
            _check_network(network)


def _check_network(network: str) -> None:
    try:
        ipaddress.ip_network(network, strict=False)
    except ValueError:
        raise ValueError(
            f'trusted_proxies takes networks such as "10.0.0.0/8", not {network!r}'
        ) from None


@dataclass(frozen=True)
class RouteConfig:
    """`[[route]]`: one more path to serve, or a known one served otherwise."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    path: str
    screen: Literal["chat", "completions", "responses", "embeddings", "messages", "strings", "none"]
    """The shape of the body; `strings` screens each string in it, `none` nothing."""
    method: Literal["GET", "POST", "DELETE"] = "POST"

    def __post_init__(self) -> None:
        if not self.path or not _PATH.fullmatch(self.path):
            raise ValueError('path must be a plain path such as "/v1/rerank"')
        if self.method != "POST" and self.screen != "none":
            raise ValueError(f'a {self.method} route has no body to screen: say screen = "none"')


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class UpstreamConfig:
    """`[[upstream]]`: an API to forward to."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: str
    base_url: str
    models: tuple[str, ...] = ("*",)
    """Patterns of the models it serves; the first upstream that matches is taken."""
    api_key_env: str | None = None
    """The environment variable with the key to use in place of the client's."""
    api_key_header: Literal["authorization", "x-api-key", "api-key"] = "authorization"
    ca_file: str | None = None
    """Certificates of the authorities to trust, instead of the system's."""
    http2: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name must be 1 to 64 letters, digits, dots, dashes")


@dataclass(frozen=True)
class ClientConfig:
    """`[[client]]`: somebody who sends requests, known by a key or by a header."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    name: str
    key_sha256: str | None = None
    """The sha256 of the key that it sends, in hex."""
    header: str | None = None
    """`name: value`, as a proxy in `trusted_proxies` sets it."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("name must be 1 to 64 letters, digits, dots, dashes")
        if (self.key_sha256 is None) == (self.header is None):
            raise ValueError("a client needs key_sha256 or header, not both")
        if self.key_sha256 is not None and not _SHA256.fullmatch(self.key_sha256):
            raise ValueError("key_sha256 must be 64 hexadecimal digits, in lower case")
        if self.header is not None and ":" not in self.header:
            raise ValueError('header must be written "name: value"')


@dataclass(frozen=True)
class CacheConfig:
    """`[cache]`: where alarms are remembered."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    max_bytes: int = 64_000_000
    """In memory; 0 remembers nothing."""
    url: str | None = None
    """Of a Valkey or Redis to use instead, such as `redis://localhost:6379/0`."""
    key_env: str | None = None
    """The environment variable with the secret that the keys are made with."""
    ttl: float = 86_400.0
    """Seconds that Valkey or Redis remembers."""
    timeout: float = 0.1
    """Seconds to wait for Valkey or Redis."""

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError("max_bytes must be 0 or more")
        if self.ttl <= 0 or self.timeout <= 0:
            raise ValueError("ttl and timeout must be more than 0")
        if self.url is not None and self.key_env is None:
            raise ValueError("url needs key_env")


@dataclass(frozen=True)
class TelemetryConfig:
    """`[telemetry]`: what is told beside traces and metrics over OTLP."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    prometheus: bool = True
    """Serve the metrics at `/metrics`."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True)
class AuditConfig:
    """`[audit]`: a file with a line for each verdict that is not CLEAR."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    path: str | None = None


@dataclass(frozen=True)
class CaptureConfig:
    """`[capture]`: where alarming text itself is recorded."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    audit: bool = False
    spans: bool = False
    max_characters: int = 500
    redact: tuple[str, ...] = ()
    """Regular expressions of what is taken out, besides keys, addresses and numbers."""

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise ValueError("max_characters must be 1 or more")
        for pattern in self.redact:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"redact: {pattern!r} is no regular expression ({error})"
                ) from None


@dataclass(frozen=True)
class AnswersConfig:
    """`[answers]`: whether what the model says is screened too."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    action: Literal["off", "annotate", "cut"] = "off"
    level: Literal["suspicious", "dangerous"] = "dangerous"
    """The level from which on something is done."""
    window: int = 2_000
    """Characters that are looked at together."""
    stride: int = 400
    """New characters after which they are looked at again, and held back with `cut`."""
    max_bytes: int = 4_000_000
    """Of an answer that is not streamed; a longer one is not screened, or cut off."""

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window:
            raise ValueError("needs 0 < stride <= window")
        if self.max_bytes < 1:
            raise ValueError("max_bytes must be 1 or more")
