"""The real weights.

Models use the default cache (ALKNET_FIREWALL_CACHE, where it is set), so that
the weights are prepared once and not in every run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.weights import PreparedWeights, WeightsSource, prepare

from .tiny import write_gguf

LAYERS = tuple(range(9))


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
