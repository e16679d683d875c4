"""Takes a changed configuration into use while requests are served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from ..config import Config
from ..errors import ConfigError
from .settings import Source

__all__ = ["Reloader"]

_log = logging.getLogger(__name__)


class Reloader:
    """Reads the source again on SIGHUP and when its file changes.

    A configuration with a mistake in it changes nothing: the old one is kept,
    and `error` says what is wrong with the new one.
    """

    def __init__(
        self,
        source: Source,
        config: Config,
        apply: Callable[[Config], Awaitable[None]],
        poll: float = 2.0,
    ) -> None:
        self._source = source
        self._first = config
        self._apply = apply
        self._poll = poll
        self._stamp = source.stamp()
        self._asked = asyncio.Event()
        self._loaded = datetime.now(UTC)
        self.error: str | None = None
        self.restart_needed: list[str] = []

    def describe(self) -> dict[str, Any]:
        """What `/readyz?verbose` says of the configuration."""
        return {
            "file": str(self._source.path) if self._source.path else None,
            "loaded": self._loaded.isoformat(timespec="seconds"),
            "error": self.error,
            "restart_needed": self.restart_needed,
        }

    async def run(self) -> None:
        """Watch until cancelled."""
        # Only the main thread may handle signals; elsewhere the file is enough.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._asked.set)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._poll)
            stamp = self._source.stamp()
            if self._asked.is_set() or (stamp is not None and stamp != self._stamp):
                self._asked.clear()
                self._stamp = stamp
                await self.reload()

    async def reload(self) -> None:
        """Read the source now, and take it into use if it can be."""
        try:
            config = self._source.load()
            await self._apply(config)
        except ConfigError as error:
            self.error = str(error)
            _log.error("the configuration was not reloaded: %s", error)
            return
        self.error, self._loaded = None, datetime.now(UTC)
        self.restart_needed = _fixed_differences(self._first, config)
        _log.info("the configuration was reloaded")
        if self.restart_needed:
            _log.warning("only a restart changes %s", ", ".join(self.restart_needed))


_FIXED = ("firewall", "cache", "telemetry")
_FIXED_PROXY = ("host", "port", "screen_threads", "max_queue")


def _fixed_differences(old: Config, new: Config) -> list[str]:
    """The settings that differ and that are read only once."""
    tables = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    keys = [name for name in _FIXED_PROXY if getattr(old.proxy, name) != getattr(new.proxy, name)]
    return [*tables, *(f"proxy.{name}" for name in keys)]
