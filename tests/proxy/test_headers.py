"""What the upstream is told of the request's headers."""

from __future__ import annotations

import pytest

from alknet_firewall.proxy.headers import Peer, is_trusted, to_upstream

HOST = (b"host", b"proxy.test")
SPOOFED = [
    HOST,
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"front.test"),
    (b"Forwarded", b"for=6.6.6.6"),
    (b"X-Real-IP", b"6.6.6.6"),
]


def sent(pairs: list[tuple[bytes, bytes]], peer: Peer) -> dict[bytes, bytes]:
    return dict(to_upstream(pairs, peer, {}))


def test_a_strangers_word_on_its_address_is_not_taken() -> None:
    headers = sent(SPOOFED, Peer("9.9.9.9", "http"))
    assert headers == {
        b"accept-encoding": b"identity",
        b"x-forwarded-for": b"9.9.9.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"proxy.test",
    }


def test_a_trusted_proxys_word_is_passed_on() -> None:
    headers = sent(SPOOFED, Peer("10.0.0.1", "http", trusted=True))
    assert headers[b"x-forwarded-for"] == b"6.6.6.6, 10.0.0.1"
    assert headers[b"x-forwarded-proto"] == b"https"
    assert headers[b"x-forwarded-host"] == b"front.test"
    assert headers[b"forwarded"] == b"for=6.6.6.6, for=10.0.0.1"


def test_a_trusted_proxy_that_says_nothing() -> None:
    headers = sent([HOST], Peer("::1", "http", trusted=True))
    assert headers[b"x-forwarded-for"] == b"::1"
    assert headers[b"x-forwarded-host"] == b"proxy.test"


def test_addresses_may_be_hidden() -> None:
    assert sent(SPOOFED, Peer("9.9.9.9", "http", trusted=True, hidden=True)) == {
        b"accept-encoding": b"identity"
    }


def test_the_proxys_credential_replaces_every_other() -> None:
    pairs = [(b"Authorization", b"Bearer a"), (b"x-api-key", b"b"), (b"api-key", b"c")]
    headers = dict(to_upstream(pairs, Peer("", "http"), {}, ("authorization", "Bearer own")))
    assert headers[b"authorization"] == b"Bearer own"
    assert b"x-api-key" not in headers
    assert b"api-key" not in headers


def test_a_body_as_it_is_keeps_its_description() -> None:
    pairs = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"3")]
    peer = Peer("", "http", hidden=True)
    assert (b"content-type", pairs[0][1]) in to_upstream(pairs, peer, {}, as_is=True)
    assert not [name for name, _ in to_upstream(pairs, peer, {}) if name.startswith(b"content")]


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("::1", True), ("11.0.0.1", False), ("", False), ("testclient", False)],
)
def test_networks(address: str, expected: bool) -> None:
    assert is_trusted(address, ["10.0.0.0/8", "::1"]) is expected
