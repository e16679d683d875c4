"""Headers on their way through: what goes on, what stays, what is written anew."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Peer", "end_to_end", "is_trusted", "to_upstream"]

Pairs = Sequence[tuple[bytes, bytes]]

# RFC 9110, 7.6.1: meant for the next hop only. The connection is ours.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization "
    b"te trailer transfer-encoding upgrade".split()
)
# Written anew: the body is, and the trace context names our own span.
_REQUEST_OWN = frozenset(
    b"host content-length content-type content-encoding expect "
    b"traceparent tracestate accept-encoding x-request-id".split()
)
_CREDENTIALS = frozenset(b"authorization x-api-key api-key".split())
_ADDRESS = frozenset(
    b"forwarded x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port "
    b"x-forwarded-prefix x-real-ip true-client-ip".split()
)
_RESERVED = b"x-alknet-"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the connection, and whether its word is taken."""

    address: str
    scheme: str
    trusted: bool = False
    hidden: bool = False


def is_trusted(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is in one of the networks; a Unix socket's is in none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)


def end_to_end(
    pairs: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    """The headers that are not for this hop only, and not in `drop`.

    `x-alknet-*` go neither way: only this proxy may say what it found.
    """
    lowered = [(name.lower(), value) for name, value in pairs]
    listed = {
        token.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for token in value.split(b",")
    }
    gone = _HOP_BY_HOP | drop | listed
    return [pair for pair in lowered if pair[0] not in gone and not pair[0].startswith(_RESERVED)]


def to_upstream(
    pairs: Pairs,
    peer: Peer,
    own: Mapping[str, str],
    credential: tuple[str, str] | None = None,
    as_is: bool = False,
    readable: bool = False,
) -> list[tuple[bytes, bytes]]:
    """A client's headers as the upstream gets them, with the proxy's `own` added.

    `credential` takes the place of whatever the client sent as one; `as_is`
    keeps the headers that describe a body that was not written anew; `readable`
    asks for an answer that is not compressed.
    """
    drop = _REQUEST_OWN | _ADDRESS | (_CREDENTIALS if credential else frozenset())
    described = frozenset([b"content-type", b"content-encoding"])
    kept = end_to_end(pairs, drop - described if as_is else drop)
    accepted = [
        value for name, value in pairs if name.lower() == b"accept-encoding" and not readable
    ]
    # The answer is passed on as it comes, so only what the client takes.
    encoding = b", ".join(accepted) or b"identity"
    written = [*own.items(), *([credential] if credential else [])]
    return [
        *kept,
        (b"accept-encoding", encoding),
        *_address(pairs, peer),
        *((name.encode("ascii"), value.encode("latin-1")) for name, value in written),
    ]


def _address(pairs: Pairs, peer: Peer) -> list[tuple[bytes, bytes]]:
    """Where the request came from, as far as anybody's word for it is taken."""
    if peer.hidden:
        return []
    given = [(name.lower(), value) for name, value in pairs if name.lower() in _ADDRESS]
    address = peer.address.encode("ascii", "replace")
    chain = [value for name, value in given if name == b"x-forwarded-for" and peer.trusted]
    found = [(b"x-forwarded-for", b", ".join([*chain, address]))] if address or chain else []
    if peer.trusted and given:
        kept = [pair for pair in given if pair[0] != b"x-forwarded-for"]
        return [*found, *_with_element(kept, address)]
    hosts = [value for name, value in pairs if name.lower() == b"host"][:1]
    found.append((b"x-forwarded-proto", peer.scheme.encode("ascii")))
    return [*found, *((b"x-forwarded-host", host) for host in hosts)]


def _with_element(given: list[tuple[bytes, bytes]], address: bytes) -> list[tuple[bytes, bytes]]:
    """RFC 7239: each proxy adds an element to `Forwarded`, where there is one."""
    shown = b'"[' + address + b']"' if b":" in address else address
    chain = [value for name, value in given if name == b"forwarded"]
    rest = [pair for pair in given if pair[0] != b"forwarded"]
    return [*rest, *([(b"forwarded", b", ".join([*chain, b"for=" + shown]))] if chain else [])]
