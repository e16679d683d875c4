"""Bodies: what is refused, and that the rest is forwarded as it was meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alknet_firewall.errors import RequestError
from alknet_firewall.proxy.body import check_headers, parse_body, read_body, render_body

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
)
_text = st.text(st.characters(exclude_categories=()), max_size=10)
_values = st.recursive(
    _scalars | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_text, _values, max_size=4))
def test_what_is_forwarded_says_what_was_received(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    assert parse_body(render_body(parse_body(raw, 64)), 64) == body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":123456789012345678901234567890}',
        b'{"a":0.1}',
        b'{"a":1.0}',
        b'{"a":-0.0}',
        b'{"a":1e-300}',
        b'{"unknown":[null,true,{"x":[]}]}',
        rb'{"a":"\ud800"}',
    ],
)
def test_numbers_and_unknown_fields_stay_as_they_are(raw: bytes) -> None:
    assert render_body(parse_body(raw, 64)) == raw


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":1e999}', "invalid_json"),
        (b'{"a":' + b"9" * 5000 + b"}", "invalid_json"),
        (b"{}{}", "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        ("{}".encode("utf-16"), "invalid_json"),
        (b'{"a":"\xff"}', "invalid_json"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_json"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (rb'{"a":1,"\u0061":2}', "duplicate_key"),
        (b'{"m":[{"x":1,"x":2}]}', "duplicate_key"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "body_too_deep"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body_too_deep"),
    ],
)
def test_refused(raw: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(raw, 64)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_an_error_shows_no_content() -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(b'{"secret": secret}', 64)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_depth_at_the_limit_passes() -> None:
    parse_body(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", 64)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=UTF-8"},
        {"content-type": 'application/json; charset="utf-8"'},
    ],
)
def test_plain_json_is_accepted(headers: dict[str, str]) -> None:
    check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/json"},
        {"content-type": "application/json-patch+json"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json; charset=utf-8; charset=utf-7"},
    ],
)
def test_anything_else_is_not(headers: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        check_headers(headers)
    assert caught.value.status == 415


async def _chunks(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


async def test_a_body_of_the_limit_is_read() -> None:
    assert len(await read_body(_chunks(5, 5), 10)) == 10


async def test_a_larger_body_is_not() -> None:
    with pytest.raises(RequestError) as caught:
        await read_body(_chunks(5, 6), 10)
    assert caught.value.status == 413
