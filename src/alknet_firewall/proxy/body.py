"""Request bodies: bytes -> one JSON object -> the bytes that are forwarded.

The upstream never sees bytes that were not parsed here, so no two readers can
disagree about what a request says: duplicate keys and other encodings are
refused, and the body is written anew from what was read.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterable, Mapping
from typing import Any, NoReturn

from ..errors import RequestError

__all__ = ["check_headers", "parse_body", "read_body", "render_body"]


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `RequestError` (415) unless the body is announced as plain JSON."""
    media_type, _, parameters = headers.get("content-type", "").lower().partition(";")
    if media_type.strip() != "application/json" or not _is_utf8(parameters):
        raise RequestError(
            "the body must be JSON in UTF-8: send Content-Type: application/json",
            status=415,
            code="unsupported_media_type",
        )


def _is_utf8(parameters: str) -> bool:
    charsets = [
        value.strip(' "')
        for name, _, value in (item.partition("=") for item in parameters.split(";"))
        if name.strip() == "charset"
    ]
    return all(charset in ("utf-8", "utf8") for charset in charsets)


async def read_body(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """All of a body of at most `limit` bytes. Raises `RequestError` (413)."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise RequestError(
                f"the body is larger than {limit} bytes: send less, or raise "
                "`max_body_bytes` under [proxy]",
                status=413,
                code="body_too_large",
            )
    return bytes(body)


def parse_body(raw: bytes, max_depth: int) -> dict[str, Any]:
    """The JSON object in `raw`.

    Raises `RequestError` (400) when it is not UTF-8, not JSON, not an object,
    nested deeper than `max_depth`, or has a key twice in one object.
    """
    try:
        body = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_not_json,
            parse_float=_finite,
        )
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:
        # Not chained: the decoder's error holds the document.
        raise _invalid(_position(error)) from None
    if not isinstance(body, dict):
        raise _invalid("is not an object")
    if _depth(body) > max_depth:
        raise _too_deep(max_depth)
    return body


def render_body(body: dict[str, Any]) -> bytes:
    """The bytes to forward. ASCII, so that a lone surrogate survives too."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError(
            "the body has an object with the same key twice: send each key once",
            code="duplicate_key",
        )
    return found


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _invalid("has a number outside the range of a double")
    return number


def _not_json(constant: str) -> NoReturn:
    raise _invalid(f"has the value {constant}")


def _position(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"fails to parse at line {error.lineno} column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 at byte {error.start}"
    return "has a number with too many digits"


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while containers := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in containers for child in _children(item)]
    return depth


def _children(container: dict[str, Any] | list[Any]) -> list[Any]:
    return container if isinstance(container, list) else list(container.values())


def _invalid(problem: str) -> RequestError:
    return RequestError(f"the body {problem}: send one JSON object", code="invalid_json")


def _too_deep(limit: int) -> RequestError:
    return RequestError(
        f"the body is nested deeper than {limit} levels: flatten it, or raise "
        "`max_depth` under [proxy]",
        code="body_too_deep",
    )
