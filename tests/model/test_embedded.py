"""The default engine on the real weights."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from alknet_firewall.errors import ScreeningError, UnsupportedModelError
from alknet_firewall.model import embedded
from alknet_firewall.model.cache import default_cache_dir
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.protocol import DetectorModel, infer_by_layer
from alknet_firewall.model.session import open_session
from alknet_firewall.model.weights import EMBEDDED, PreparedWeights

from .conftest import LAYERS
from .numbers import cosines
from .texts import TEXTS


@pytest.fixture(params=["fp32", "int8"])
def model(request: pytest.FixtureRequest) -> EmbeddedModel:
    loaded: EmbeddedModel = request.getfixturevalue(request.param)
    return loaded


def test_per_token_states_have_a_row_for_each_token(model: EmbeddedModel) -> None:
    states = model.infer([1, 2, 3, 4, 5])
    assert list(states) == list(LAYERS) == model.extraction_layers
    for state in states.values():
        assert state.shape == (5, model.hidden_dim)
        assert state.dtype == np.float32
        assert np.isfinite(state).all()


def test_last_token_is_the_last_row(model: EmbeddedModel) -> None:
    ids = [1, *model.encode(TEXTS[0]).ids]
    every, last = model.infer(ids), model.infer(ids, extraction="last_token")
    for layer in LAYERS:
        assert last[layer].shape == (model.hidden_dim,)
        np.testing.assert_array_equal(last[layer], every[layer][-1])


def test_a_layer_is_computed_when_it_is_asked_for(model: EmbeddedModel) -> None:
    ids = [1, *model.encode(TEXTS[0]).ids]
    whole, by_layer = model.infer(ids), model.infer_by_layer(ids)
    for layer in LAYERS:
        found, states = next(by_layer)
        assert found == layer
        np.testing.assert_array_equal(states, whole[layer])
    assert next(by_layer, None) is None


def test_a_model_that_knows_no_layers_by_turns_is_read_whole(model: EmbeddedModel) -> None:
    class Whole:
        infer = model.infer

    found = dict(infer_by_layer(cast(DetectorModel, Whole()), [1, 500]))
    assert list(found) == list(LAYERS)


def test_one_token_is_enough(model: EmbeddedModel) -> None:
    assert model.infer([model.bos_id])[8].shape == (1, 576)


def test_layers_come_in_order_whatever_was_asked_for() -> None:
    assert EmbeddedModel([4, 2, 2]).extraction_layers == [2, 4]


def test_a_prefix_does_not_depend_on_what_follows(fp32: EmbeddedModel) -> None:
    ids = [1, *fp32.encode(TEXTS[-1]).ids]
    whole, prefix = fp32.infer(ids), fp32.infer(ids[:20])
    for layer in LAYERS:
        scale = np.abs(whole[layer][:20]).max()
        np.testing.assert_allclose(whole[layer][:20] / scale, prefix[layer] / scale, atol=1e-5)


def test_a_shallower_model_has_the_same_states(fp32: EmbeddedModel) -> None:
    shallow = EmbeddedModel([0, 2], precision="fp32")
    deep = fp32.infer([1, 500, 600, 700])
    for layer, state in shallow.infer([1, 500, 600, 700]).items():
        np.testing.assert_allclose(state, deep[layer], rtol=1e-4, atol=1e-4)


def test_int8_points_where_fp32_points(fp32: EmbeddedModel, int8: EmbeddedModel) -> None:
    for layer, values in cosines(fp32, int8, TEXTS).items():
        assert values.mean() >= 0.98, f"layer {layer}"


def test_threads_do_not_disturb_each_other(model: EmbeddedModel) -> None:
    texts = [[1, *model.encode(text).ids] for text in TEXTS * 4]
    alone = [model.infer(ids)[8] for ids in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda ids: model.infer(ids)[8], texts))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_threads_load_it_once(monkeypatch: pytest.MonkeyPatch, prepared: PreparedWeights) -> None:
    starts: list[None] = []

    def counted(*args: Any) -> object:
        starts.append(None)
        return open_session(*args)

    monkeypatch.setattr(embedded, "open_session", counted)
    model = EmbeddedModel(LAYERS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.infer([1, 2]), range(4)))
    assert len(starts) == len(LAYERS)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    model = EmbeddedModel()
    assert not model.is_loaded()
    assert model.identity.weights_sha256 == EMBEDDED.sha256
    assert model.identity.engine == "embedded-int8"
    assert not model.is_loaded()
    assert model.encode("hello").ids
    assert model.is_loaded()


def test_importing_it_imports_no_engine() -> None:
    script = (
        "import sys, alknet_firewall.model.embedded\n"
        "print([name for name in ('onnx', 'onnxruntime', 'torch', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_is_kept_about_the_machine(prepared: PreparedWeights, tmp_path: Path) -> None:
    script = "from alknet_firewall import Firewall; Firewall().screen('hello')"
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "ALKNET_FIREWALL_CACHE": str(default_cache_dir()),
    }
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("layers", [[], [-1], [31]])
def test_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"are not all in 0\.\.30"):
        EmbeddedModel(layers)


def test_other_devices(fp32: EmbeddedModel) -> None:
    fp32.load("cpu")
    with pytest.raises(UnsupportedModelError, match="runs on 'cpu', not on 'cuda'"):
        fp32.load("cuda")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "0 tokens were given to the model and it reads 1 to 8192"),
        ([1] * 8193, "8193 tokens"),
        ([1, -1], "not in 0..49151"),
        ([49152], "not in 0..49151"),
    ],
)
def test_ids_that_cannot_be_read(model: EmbeddedModel, ids: list[int], message: str) -> None:
    with pytest.raises(ScreeningError, match=message):
        model.infer(ids)
