"""Fixtures with the real parts: the bundled codebook and the real weights."""

import pytest

from alknet_firewall import Firewall


@pytest.fixture(scope="session")
def firewall() -> Firewall:
    """The firewall as a user gets it: loaded once for the whole run."""
    loaded = Firewall()
    loaded.preload()
    return loaded
