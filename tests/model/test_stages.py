"""The int8 graphs that the cache keeps."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alknet_firewall.errors import CacheError
from alknet_firewall.model import stages
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.weights import WeightsSource

from ..conftest import StartHub

IDS = [1, 5, 9, 7, 3]


@pytest.fixture
def source(start_hub: StartHub, tiny_source: WeightsSource, tmp_path: Path) -> WeightsSource:
    content = (tmp_path / "tiny.gguf").read_bytes()
    start_hub(tiny_source.model_id, {tiny_source.filename: content})
    return tiny_source


def start(source: WeightsSource, cache: Path, layers: tuple[int, ...] = (1, 2)) -> EmbeddedModel:
    model = EmbeddedModel(layers, source=source, cache_dir=cache, threads=1)
    model.load()
    return model


def test_a_start_needs_only_the_graphs(source: WeightsSource, tmp_path: Path) -> None:
    first = start(source, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*-int8-*/")
    for folder in (tmp_path / "cache").glob("*-l2-*/"):
        shutil.rmtree(folder)
    again = start(source, tmp_path / "cache")
    assert again.prepare() == kept
    for layer, states in first.infer(IDS).items():
        np.testing.assert_array_equal(states, again.infer(IDS)[layer])


def test_other_layers_and_other_recipes_have_graphs_of_their_own(
    source: WeightsSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {start(source, tmp_path / "cache").prepare()}
    found.add(start(source, tmp_path / "cache", (2,)).prepare())
    found.add(start(replace(source, sha256=source.sha256, smoothing=""), tmp_path).prepare())
    monkeypatch.setattr(stages, "_MAKERS", ("graph.py",))
    found.add(start(source, tmp_path / "cache").prepare())
    assert len(found) == 4


def test_a_damaged_graph_is_made_again(source: WeightsSource, tmp_path: Path) -> None:
    kept = start(source, tmp_path / "cache").prepare() / "stage-1.onnx"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    start(source, tmp_path / "cache")
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_may_hold_the_weights(
    source: WeightsSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = start(source, tmp_path / "cache")

    def full(*_: object) -> Path:
        raise CacheError("the disk is full")

    monkeypatch.setattr(stages, "cached_folder", full)
    in_memory = start(source, tmp_path / "cache")
    np.testing.assert_array_equal(in_memory.infer(IDS)[2], usual.infer(IDS)[2])
