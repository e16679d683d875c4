"""Remembers alarms, so that a conversation costs only its new turns.

The key is a keyed hash of the detector, the role and the text, the value an
alarm, which holds no text: neither tells whoever reads the cache what was
screened. Values are signed, so that whoever can write to a shared cache cannot
call an attack harmless. A cache that fails is a cache that remembers nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from ..alarm import Alarm
from ..errors import ConfigError
from .leaves import Untrusted
from .options import CacheConfig

__all__ = ["AlarmCache", "MemoryStore", "RedisStore", "Store", "digest", "open_cache"]

_log = logging.getLogger(__name__)
_SIGNATURE = 16


class Store(Protocol):
    """Bytes by key. Neither method raises: what fails is missing."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    async def put(self, items: Mapping[bytes, bytes]) -> None: ...
    async def aclose(self) -> None: ...


class AlarmCache:
    """Alarms by role and text, of one detector with one configuration."""

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store = store
        self._secret = hashlib.sha256(secret).digest()
        self._detector = b""

    def bind(self, detector: str) -> None:
        """Say which detector the alarms are of: they are not those of another."""
        self._detector = f"{version('alknet-firewall')} {detector}".encode()

    async def get(self, texts: Sequence[Untrusted]) -> list[Alarm | None]:
        """The alarm of each text, or None where it is not known."""
        keys = [self._key(item) for item in texts]
        values = await self._store.get(keys)
        return [self._read(key, value) for key, value in zip(keys, values, strict=True)]

    async def put(self, texts: Sequence[Untrusted], alarms: Sequence[Alarm]) -> None:
        """Remember the alarm of each text."""
        pairs = ((self._key(item), alarm) for item, alarm in zip(texts, alarms, strict=True))
        await self._store.put({key: self._written(key, alarm) for key, alarm in pairs})

    async def aclose(self) -> None:
        """Let go of the store."""
        await self._store.aclose()

    def _key(self, item: Untrusted) -> bytes:
        hashed = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (
            self._detector,
            item.role.encode(),
            item.text.encode("utf-8", "surrogatepass"),
        ):
            hashed.update(len(part).to_bytes(8, "big") + part)
        return hashed.digest()

    def _written(self, key: bytes, alarm: Alarm) -> bytes:
        value: bytes = _codec().dump_json(alarm)
        return self._signature(key, value) + value

    def _read(self, key: bytes, signed: bytes | None) -> Alarm | None:
        if signed is None:
            return None
        signature, value = signed[:_SIGNATURE], signed[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._signature(key, value)):
            return None
        alarm: Alarm = _codec().validate_json(value)
        return alarm

    def _signature(self, key: bytes, value: bytes) -> bytes:
        return hmac.digest(self._secret, key + value, "sha256")[:_SIGNATURE]


@functools.cache
def _codec() -> Any:
    from pydantic import TypeAdapter  # a slow import, for the proxy alone

    return TypeAdapter(Alarm)


class MemoryStore:
    """In this process; the least recently used goes when `max_bytes` are passed."""

    _OVERHEAD = 200
    """What Python keeps for an entry besides its bytes, about."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes = 0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._get(key) for key in keys]

    def _get(self, key: bytes) -> bytes | None:
        if (value := self._entries.get(key)) is not None:
            self._entries.move_to_end(key)
        return value

    async def put(self, items: Mapping[bytes, bytes]) -> None:
        for key, value in items.items():
            self._drop(key)
            self._entries[key] = value
            self.bytes += self._size(key, value)
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        if (value := self._entries.pop(key, None)) is not None:
            self.bytes -= self._size(key, value)

    def _size(self, key: bytes, value: bytes) -> int:
        return len(key) + len(value) + self._OVERHEAD

    async def aclose(self) -> None:
        self._entries.clear()


class RedisStore:
    """In Valkey or Redis, for several proxies. After a failure it rests a little."""

    _REST = 5.0

    def __init__(self, url: str, ttl: float, timeout: float) -> None:
        try:
            from redis.asyncio import Redis
        except ImportError:
            raise ConfigError(
                "cache.url: needs the package redis: pip install 'alknet-firewall[cache]'"
            ) from None
        try:
            self._client = Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout
            )
        except ValueError as error:
            raise ConfigError(
                "cache.url: must be redis://, rediss:// or unix://, such as redis://localhost:6379/0"
            ) from error
        self._ttl = round(ttl * 1000)
        self._resting_until = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        nothing: list[bytes | None] = [None] * len(keys)
        if not keys or time.monotonic() < self._resting_until:
            return nothing
        try:
            found = await self._client.mget([_named(key) for key in keys])
            return [value if isinstance(value, bytes) else None for value in found]
        except Exception as error:  # noqa: BLE001 - whatever it is, the cache is of no use
            self._rest(error)
            return nothing

    async def put(self, items: Mapping[bytes, bytes]) -> None:
        if not items or time.monotonic() < self._resting_until:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key, value in items.items():
                    pipeline.set(_named(key), value, px=self._ttl)
                await pipeline.execute()
        except Exception as error:  # noqa: BLE001 - the same
            self._rest(error)

    def _rest(self, error: Exception) -> None:
        self._resting_until = time.monotonic() + self._REST
        _log.warning("the verdict cache is not used for %g s: %s", self._REST, type(error).__name__)

    async def aclose(self) -> None:
        await self._client.aclose()


def _named(key: bytes) -> bytes:
    return b"alknet:alarm:" + key.hex().encode("ascii")


def open_cache(config: CacheConfig, environ: Mapping[str, str] = os.environ) -> AlarmCache:
    """The cache that is configured. Raises `ConfigError` when it cannot be used."""
    if config.url is None:
        return AlarmCache(MemoryStore(config.max_bytes), secrets.token_bytes(32))
    secret = environ.get(config.key_env or "", "")
    if len(secret) < 16:
        raise ConfigError(
            "cache.key_env: must name an environment variable that holds a secret of at least "
            "16 characters, the same for every proxy that shares the cache"
        )
    return AlarmCache(RedisStore(config.url, config.ttl, config.timeout), secret.encode())


def digest(value: object) -> str:
    """A hash of arrays, dataclasses, mappings and plain values, through and through."""
    hashed = hashlib.sha256()
    _feed(hashed, value)
    return hashed.hexdigest()


def _feed(hashed: Any, value: Any) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        value = sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0])
    if isinstance(value, list | tuple):
        hashed.update(f"[{len(value)}".encode())
        for item in value:
            _feed(hashed, item)
    elif hasattr(value, "tobytes"):
        hashed.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    else:
        hashed.update(f"{type(value).__name__}:{value!r};".encode())
