"""Compressed request bodies, undone within a bound."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from ..errors import RequestError

__all__ = ["decompressed"]

# A body that was compressed twice is nothing that a client sends by accident.
_Decoder = Callable[[bytes, int], bytes | None]


def decompressed(raw: bytes, encoding: str, limit: int) -> bytes:
    """The body behind a `Content-Encoding`, of at most `limit` bytes.

    Raises `RequestError`: 415 for an encoding that is not known or not
    installed, 413 past the limit, 400 for data that is not what it says.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return raw
    decoder = _decoder(name)
    try:
        body = decoder(raw, limit)
    except RequestError:
        raise
    except Exception as error:
        raise _broken(name) from error
    if body is None:
        raise RequestError(
            f"the body is larger than {limit} bytes once it is decompressed: send less, or raise "
            "`max_body_bytes` under [proxy]",
            status=413,
            code="body_too_large",
        )
    return body


def _decoder(name: str) -> _Decoder:
    decoder = {"gzip": _gzip, "x-gzip": _gzip, "br": _brotli, "zstd": _zstd}.get(name)
    if decoder is None:
        raise _unsupported("the body's Content-Encoding is not known: use gzip, br, zstd or none")
    return decoder


def _gzip(raw: bytes, limit: int) -> bytes | None:
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    body = stream.decompress(raw, limit + 1)
    if len(body) > limit:
        return None
    # A second member or trailing bytes would be read by some and not by others.
    if not stream.eof or stream.unused_data:
        raise _broken("gzip")
    return body


def _brotli(raw: bytes, limit: int) -> bytes | None:
    try:
        import brotli  # type: ignore[import-untyped]
    except ImportError:
        raise _missing("br") from None
    stream = brotli.Decompressor()
    body: bytes = stream.process(raw, output_buffer_limit=limit + 1)
    # The limit may be passed by a little, and what is held back counts as well.
    if len(body) > limit or not stream.can_accept_more_data():
        return None
    if not stream.is_finished():
        raise _broken("br")
    return body


def _zstd(raw: bytes, limit: int) -> bytes | None:
    try:
        import zstandard
    except ImportError:
        raise _missing("zstd") from None
    # 8 MiB, the window that RFC 9659 allows on the web.
    context = zstandard.ZstdDecompressor(max_window_size=2**23)
    with context.stream_reader(raw, read_across_frames=False) as reader:
        body = reader.read(limit + 1)
        whole = len(body) > limit or reader.read(1) == b""
    if not whole or (not body and raw):
        raise _broken("zstd")
    return body if len(body) <= limit else None


def _broken(name: str) -> RequestError:
    return RequestError(
        f"the body is not one whole {name} stream, as its Content-Encoding says",
        code="bad_content_encoding",
    )


def _missing(name: str) -> RequestError:
    return _unsupported(
        f"bodies in {name} need an optional package on the proxy: "
        "pip install 'alknet-firewall[compression]', or send gzip"
    )


def _unsupported(message: str) -> RequestError:
    return RequestError(message, status=415, code="unsupported_content_encoding")
