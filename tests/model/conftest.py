"""The real weights, and a hub in memory.

Models use the default cache (ALKNET_FIREWALL_CACHE, where it is set), so that
the weights are prepared once and not in every run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.weights import PreparedWeights, WeightsSource, prepare

from .hub import COMMIT, FakeHub
from .tiny import write_gguf

LAYERS = tuple(range(9))

StartHub = Callable[..., FakeHub]


@pytest.fixture(scope="session")
def prepared() -> PreparedWeights:
    """The folder of the first 8 blocks."""
    return prepare(LAYERS[-1], progress=False)


@pytest.fixture(scope="session")
def fp32(prepared: PreparedWeights) -> EmbeddedModel:
    return _loaded("fp32")


@pytest.fixture(scope="session")
def int8(prepared: PreparedWeights) -> EmbeddedModel:
    return _loaded("int8")


def _loaded(precision: str) -> EmbeddedModel:
    model = EmbeddedModel(LAYERS, precision="fp32" if precision == "fp32" else "int8")
    model.load()
    return model


@pytest.fixture
def tiny_source(tmp_path: Path) -> WeightsSource:
    """A tiny GGUF file, `tmp_path / "tiny.gguf"`, which must be downloaded."""
    return write_gguf(tmp_path / "tiny.gguf")


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
