"""Each test file here needs a package of its own: see scripts/test-integrations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alknet_firewall.integrations._guard import Guard

from ..e2e.upstream import Upstream, serving


@pytest.fixture(scope="session")
def guard() -> Guard:
    """With the policy as it comes: SUSPICIOUS is annotated, DANGEROUS blocked."""
    return Guard()


@pytest.fixture(scope="session")
def served_upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture
def upstream(served_upstream: Upstream) -> Upstream:
    """A model that says what it was sent last; `bodies` are the requests that it got."""
    served_upstream.reset()
    return served_upstream
