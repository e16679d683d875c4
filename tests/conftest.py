"""Fixtures with the real parts, and a model hub in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

from alknet_firewall import Firewall

from .hub import COMMIT, FakeHub

# A busy machine is no bug.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

StartHub = Callable[..., FakeHub]


@pytest.fixture(scope="session")
def firewall() -> Firewall:
    """The firewall as a user gets it: loaded once for the whole run."""
    loaded = Firewall()
    loaded.preload()
    return loaded


@pytest.fixture
def start_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartHub]:
    """Puts a fake hub in the place of the real one, with an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's retries

    def start(repo: str, files: Mapping[str, bytes], commit: str = COMMIT) -> FakeHub:
        hub = FakeHub(repo, files, commit)
        _http.set_client_factory(hub.client)
        return hub

    yield start
    _http.set_client_factory(functools.partial(_http.default_client_factory))
