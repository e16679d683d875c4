"""What the policy does to a text, in words, for whoever wrote the configuration."""

from __future__ import annotations

import os

from ..alarm import AlarmLevel, Role
from ..config import Config
from ..errors import ConfigError
from .clients import identify
from .policy import Context, decide, deciding_rules

__all__ = ["explain"]


def explain(
    config: Config,
    role: Role,
    route: str,
    model: str | None,
    client: str | None,
    key_env: str | None,
) -> str:
    """A few lines: each level, its action and mode, and the rules in order of weight.

    Raises `ConfigError` for a client that is not configured.
    """
    name = _client(config, client, key_env)
    context = Context(route=route, model=model, client=name)
    lines = [f"role {role}, route {route}, model {model or 'any'}, client {name or 'nobody known'}"]
    for level in AlarmLevel:
        decision = decide(level, role, config.policy, context)
        shown = "" if decision.mode == "enforce" else f", in shadow mode: {decision.effect}"
        lines.append(f"  {level.name:<11}{decision.action}{shown}")
    rules = deciding_rules(role, config.policy, context)
    lines += ["rules that match, the first one wins:", *(f"  {rule}" for rule in rules)]
    return "\n".join([*lines, "  [policy.default]"])


def _client(config: Config, client: str | None, key_env: str | None) -> str | None:
    if key_env:
        key = os.environ.get(key_env, "")
        return identify(config.client, {"authorization": f"Bearer {key}"}, trusted=False)
    if client is not None and client not in [item.name for item in config.client]:
        raise ConfigError(f"client: no [[client]] has the name {client!r}")
    return client
