"""Who sends a request: one of the `[[client]]`s, or nobody known."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from ..errors import RequestError
from .options import ClientConfig

__all__ = ["identify", "unknown_client"]


def identify(
    clients: Iterable[ClientConfig], headers: Mapping[str, str], trusted: bool
) -> str | None:
    """The name of the client whose key or, from a trusted peer, whose header this is.

    Every key is compared, in constant time, so that the time taken tells nothing.
    """
    digest = hashlib.sha256(_key(headers).encode()).hexdigest()
    found: str | None = None
    for client in clients:
        if client.key_sha256 is not None:
            known = hmac.compare_digest(digest, client.key_sha256)
        else:
            known = trusted and _has_header(headers, client.header or "")
        if known and found is None:
            found = client.name
    return found


def _key(headers: Mapping[str, str]) -> str:
    """The key as OpenAI's, Anthropic's or Azure's clients send it."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return headers.get("x-api-key") or headers.get("api-key") or ""


def _has_header(headers: Mapping[str, str], written: str) -> bool:
    name, _, value = written.partition(":")
    return headers.get(name.strip().lower()) == value.strip()


def unknown_client() -> RequestError:
    """A request without the key of a client, where one is required."""
    return RequestError(
        "the request has no valid key of this proxy: send the one you were given as "
        "Authorization: Bearer KEY, or as x-api-key",
        status=401,
        code="invalid_api_key",
    )
