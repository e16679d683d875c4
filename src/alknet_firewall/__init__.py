"""Screens untrusted text on its way into a large language model.

    from alknet_firewall import Firewall

    alarm = Firewall().screen(text, role="tool")
    if alarm.level >= AlarmLevel.SUSPICIOUS: ...

Importing this package imports nothing heavy: every name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alarm import Alarm, AlarmLevel, DimensionSignal, Role, Span
    from .codebook import Codebook
    from .config import Config, FirewallConfig, Thresholds, load_config
    from .errors import FirewallError
    from .firewall import Firewall
    from .model.embedded import EmbeddedModel
    from .model.huggingface import HFDetectorModel
    from .model.protocol import DetectorModel

__version__ = "0.1.0"

_HOMES = {
    "Alarm": "alarm",
    "AlarmLevel": "alarm",
    "Codebook": "codebook",
    "Config": "config",
    "DetectorModel": "model.protocol",
    "DimensionSignal": "alarm",
    "EmbeddedModel": "model.embedded",
    "Firewall": "firewall",
    "FirewallConfig": "config",
    "FirewallError": "errors",
    "HFDetectorModel": "model.huggingface",
    "Role": "alarm",
    "Span": "alarm",
    "Thresholds": "config",
    "load_config": "config",
}

__all__ = [
    "Alarm",
    "AlarmLevel",
    "Codebook",
    "Config",
    "DetectorModel",
    "DimensionSignal",
    "EmbeddedModel",
    "Firewall",
    "FirewallConfig",
    "FirewallError",
    "HFDetectorModel",
    "Role",
    "Span",
    "Thresholds",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
