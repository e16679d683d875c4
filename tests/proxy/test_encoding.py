"""Compressed bodies."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.errors import RequestError
from alknet_firewall.proxy.encoding import decompressed

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": lambda raw: bytes(brotli.compress(raw)),
    "zstd": zstandard.compress,
}
ENCODINGS = pytest.mark.parametrize("name", [*CODECS])


@ENCODINGS
@given(raw=st.binary(min_size=1, max_size=300))
def test_what_was_compressed_comes_back(name: str, raw: bytes) -> None:
    assert decompressed(CODECS[name](raw), name, 300) == raw


@ENCODINGS
def test_a_bomb_is_refused(name: str) -> None:
    bomb = CODECS[name](b"\0" * 5_000_000)
    with pytest.raises(RequestError) as caught:
        decompressed(bomb, name, 10_000)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")
    assert "max_body_bytes" in caught.value.message


@ENCODINGS
def test_a_body_of_just_the_limit_passes(name: str) -> None:
    raw = bytes(range(256)) * 4
    assert decompressed(CODECS[name](raw), name, len(raw)) == raw
    with pytest.raises(RequestError):
        decompressed(CODECS[name](raw), name, len(raw) - 1)


@ENCODINGS
@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:5],
        lambda raw: raw + b"x",
        lambda raw: raw + raw,
        lambda raw: b"plain",
    ],
)
def test_anything_but_one_whole_stream_is_refused(
    name: str, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(RequestError) as caught:
        decompressed(spoil(CODECS[name](b'{"a": 1}' * 50)), name, 10_000)
    assert (caught.value.status, caught.value.code) == (400, "bad_content_encoding")


@pytest.mark.parametrize("name", ["deflate", "compress", "gzip, br", "utf-8"])
def test_other_encodings_are_refused(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        decompressed(b"{}", name, 10)
    assert caught.value.status == 415
    assert caught.value.code == "unsupported_content_encoding"


@pytest.mark.parametrize("name", ["", "identity", " Identity "])
def test_no_encoding_changes_nothing(name: str) -> None:
    assert decompressed(b"{}", name, 10) == b"{}"
