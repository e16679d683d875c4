"""What a configuration amounts to while requests are served: replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from ..config import Config
from ..errors import ConfigError
from .audit import AuditLog, open_audit
from .routes import Endpoint, endpoints
from .telemetry import Telemetry
from .upstream import Upstreams, configured

__all__ = ["State", "state_of"]


@dataclass(frozen=True, slots=True)
class State:
    """A configuration with its routes, its connections and its audit log."""

    config: Config
    endpoints: tuple[Endpoint, ...]
    upstreams: Upstreams
    client_required: bool
    audit: AuditLog | None

    async def retire(self) -> None:
        """Close each thing when the last request that uses it has ended."""
        await self.upstreams.retire()

    async def aclose(self) -> None:
        """Close everything now."""
        await self.upstreams.aclose()


def state_of(
    config: Config,
    telemetry: Telemetry,
    transport: httpx.AsyncBaseTransport | None = None,
) -> State:
    """Ready to serve. Raises `ConfigError` when it cannot be."""
    return State(
        config,
        endpoints(config.proxy, config.route),
        Upstreams(config, telemetry, transport),
        _client_required(config),
        open_audit(config.audit, config.capture),
    )


def _client_required(config: Config) -> bool:
    if config.proxy.require_client is not None:
        return config.proxy.require_client
    lent = any(item.api_key_env for item in configured(config))
    if lent and not config.client:
        raise ConfigError(
            "upstream.api_key_env: would let anybody who reaches the proxy use that key; name "
            "who may under [[client]], or set proxy.require_client = false"
        )
    return lent
