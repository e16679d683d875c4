"""The reference engine, on tiny models of several architectures."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alknet_firewall.errors import (
    ConfigError,
    MissingExtraError,
    ScreeningError,
    UnsafeWeightsError,
    UnsupportedModelError,
    WeightsNotFoundError,
    WeightsVerificationError,
)
from alknet_firewall.model.huggingface import HFDetectorModel
from alknet_firewall.model.repository import sha256

from ..conftest import StartHub
from ..hub import COMMIT
from .tiny import vocabulary, write_tokenizer

IDS = [1, 60, 70, 80, 90]
LAYERS = [0, 1, 2, 3]

Save = Callable[..., Path]


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, package: str, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None if package == "torch" else os)
    monkeypatch.setitem(sys.modules, "transformers", None)
    model = HFDetectorModel(str(tmp_path))
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*alknet-firewall\[torch\]"):
        model.load()


def test_constructing_it_loads_nothing() -> None:
    model = HFDetectorModel()
    assert not model.is_loaded()
    assert model.model_id == "HuggingFaceTB/SmolLM2-135M"
    assert model.revision == HFDetectorModel.DEFAULT_REVISION
    assert model.extraction_layers == [2, 6, 8]


@pytest.mark.parametrize("revision", ["main", "", HFDetectorModel.DEFAULT_REVISION])
def test_a_hub_model_needs_a_commit_of_its_own(revision: str) -> None:
    with pytest.raises(ConfigError, match="example/detector: there is no such folder"):
        HFDetectorModel("example/detector", revision)


def test_a_folder_with_the_name_of_a_hub_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "HuggingFaceTB/SmolLM2-135M").mkdir(parents=True)
    (tmp_path / "example/detector").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert HFDetectorModel().revision == HFDetectorModel.DEFAULT_REVISION
    assert HFDetectorModel("example/detector").revision == "local"
    assert HFDetectorModel("example/detector", COMMIT).revision == COMMIT


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a tiny random model of a transformers class, with a tokenizer."""
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    torch = pytest.importorskip("torch", reason="needs the torch extra")

    def write(name: str = "Llama", shard: str = "1GB", **overrides: Any) -> Path:
        settings = {
            "vocab_size": len(vocabulary()),
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "bos_token_id": 1,
        }
        config = getattr(transformers, f"{name}Config")(**(settings | overrides))
        torch.manual_seed(0)
        folder = tmp_path / name
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder, max_shard_size=shard)
        write_tokenizer(folder)
        return folder

    return write


def open_folder(folder: Path, **options: Any) -> HFDetectorModel:
    options.setdefault("extraction_layers", LAYERS)
    return HFDetectorModel(str(folder), **options)


def reference(folder: Path) -> tuple[Any, Any]:
    """What transformers itself gives: (the model, its hidden states)."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=torch.tensor([IDS]), output_hidden_states=True)
    return model, output.hidden_states


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), "utf-8")


# Hidden states

# GPT-2 has other names for its sizes, GPT-NeoX adds attention and MLP at once,
# Qwen3 has a list of layer types and BERT reads in both directions.
ARCHITECTURES = ["Llama", "GPT2", "GPTNeoX", "Qwen3", "Bert"]


@pytest.mark.torch
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_are_those_of_transformers(save: Save, name: str) -> None:
    folder = save(name)
    model = open_folder(folder)
    _, expected = reference(folder)
    found = model.infer(IDS)
    assert list(found) == LAYERS
    for layer in LAYERS[:-1]:  # the last of transformers' is normed, in most
        assert found[layer].dtype == np.float32
        np.testing.assert_allclose(found[layer], expected[layer][0].numpy(), atol=1e-5)
    assert (model.n_layers, model.hidden_dim, model.bos_id) == (3, 32, 1)


@pytest.mark.torch
def test_the_last_layer_is_the_residual_before_the_norm(save: Save) -> None:
    import torch

    folder = save()
    model, expected = reference(folder)
    raw = torch.tensor(open_folder(folder).infer(IDS)[3])
    with torch.no_grad():
        normed = model.norm(raw)
    np.testing.assert_allclose(normed.numpy(), expected[-1][0].numpy(), atol=1e-5)
    assert not torch.allclose(raw, normed, atol=1e-2)


@pytest.mark.torch
def test_last_token_is_the_last_row(save: Save) -> None:
    model = open_folder(save())
    every, last = model.infer(IDS), model.infer(IDS, extraction="last_token")
    for layer in LAYERS:
        assert last[layer].shape == (32,)
        np.testing.assert_array_equal(last[layer], every[layer][-1])


@pytest.mark.torch
def test_blocks_past_the_last_layer_are_not_run(save: Save) -> None:
    model = open_folder(save(), extraction_layers=[1])
    model.load()
    assert model._loaded is not None
    run: list[int] = []
    for number, block in enumerate(model._loaded.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: run.append(number))
    model.infer(IDS)
    assert run == [0]


@pytest.mark.torch
def test_threads_do_not_disturb_each_other(save: Save) -> None:
    model = open_folder(save())
    texts = [IDS * times for times in range(1, 9)] * 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(model.infer, texts))
    for ids, states in zip(texts, together, strict=True):
        alone = model.infer(ids)
        for layer in LAYERS:
            np.testing.assert_allclose(states[layer], alone[layer], atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("ids", [[], [-1], [10_000], [1] * 5000])
def test_ids_that_cannot_be_read(save: Save, ids: list[int]) -> None:
    with pytest.raises(ScreeningError):
        open_folder(save()).infer(ids)


# The tokenizer


@pytest.mark.torch
def test_encoding_has_offsets_and_no_special_token(save: Save) -> None:
    encoding = open_folder(save()).encode("abé")
    assert len(encoding.ids) == 4
    assert list(encoding.offsets) == [(0, 1), (1, 2), (2, 3), (2, 3)]


@pytest.mark.torch
def test_without_a_bos_the_tokenizer_says_what_texts_begin_with(save: Save) -> None:
    folder = save("Bert", bos_token_id=None)
    settings = {"cls_token": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_folder(folder).bos_id == 2


@pytest.mark.torch
def test_nothing_says_what_texts_begin_with(save: Save) -> None:
    folder = save("Bert", bos_token_id=None)
    with pytest.raises(UnsupportedModelError, match="add bos_token_id"):
        open_folder(folder).load()


@pytest.mark.torch
def test_no_tokenizer(save: Save) -> None:
    folder = save()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"with a tokenizer\.json"):
        open_folder(folder).load()


# The weights


@pytest.mark.torch
def test_identity_is_of_the_file_that_was_loaded(save: Save) -> None:
    folder = save()
    identity = open_folder(folder).identity
    assert identity.weights_sha256 == sha256(folder / "model.safetensors")
    assert (identity.revision, identity.engine) == ("local", "transformers-fp32")


@pytest.mark.torch
def test_shards(save: Save) -> None:
    folder = save(shard="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    _, expected = reference(folder)
    model = open_folder(folder)
    np.testing.assert_allclose(model.infer(IDS)[2], expected[2][0].numpy(), atol=1e-5)
    assert len(model.identity.weights_sha256) == 64


@pytest.mark.torch
def test_expected_checksum(save: Save) -> None:
    folder = save()
    digest = sha256(folder / "model.safetensors")
    open_folder(folder, weights_sha256=digest).load()
    with pytest.raises(WeightsVerificationError, match="must be 00"):
        open_folder(folder, weights_sha256="0" * 64).load()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.torch
def test_from_the_hub(save: Save, start_hub: StartHub) -> None:
    start_hub("example/detector", files_of(save()))
    model = HFDetectorModel("example/detector", COMMIT, extraction_layers=LAYERS)
    assert model.infer(IDS)[3].shape == (5, 32)
    assert (model.identity.model_id, model.identity.revision) == ("example/detector", COMMIT)


@pytest.mark.torch
def test_the_default_model_is_pinned_to_the_byte(save: Save, start_hub: StartHub) -> None:
    start_hub("HuggingFaceTB/SmolLM2-135M", files_of(save()), HFDetectorModel.DEFAULT_REVISION)
    with pytest.raises(WeightsVerificationError, match="must be 80521b40281d6ce7"):
        HFDetectorModel().load()


@pytest.mark.torch
def test_offline_and_absent(save: Save, start_hub: StartHub) -> None:
    start_hub("example/detector", files_of(save()))
    model = HFDetectorModel("example/detector", COMMIT, local_files_only=True)
    with pytest.raises(WeightsNotFoundError, match="example/detector at revision 0123"):
        model.load()
    assert not model.is_loaded()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_is_never_opened(save: Save, name: str, tmp_path: Path) -> None:
    folder = save()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
    with pytest.raises(UnsafeWeightsError, match=name):
        open_folder(folder).load()
    assert not (tmp_path / "boom").exists()


@pytest.mark.torch
def test_a_pickle_beside_the_safetensors_is_ignored(save: Save, tmp_path: Path) -> None:
    folder = save()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
    open_folder(folder).load()
    assert not (tmp_path / "boom").exists()


@pytest.mark.torch
def test_a_missing_tensor_is_not_made_up(save: Save) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save()
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsVerificationError, match=r"lack 'layers\.1\.mlp\.up_proj\.weight'"):
        open_folder(folder).load()


@pytest.mark.torch
def test_a_tensor_of_another_shape(save: Save) -> None:
    folder = save()
    edit_config(folder, intermediate_size=50)
    with pytest.raises((WeightsVerificationError, UnsupportedModelError)):
        open_folder(folder).load()


@pytest.mark.torch
def test_a_cut_file(save: Save) -> None:
    path = save() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        open_folder(path.parent).load()


# What cannot be a detector


@pytest.mark.torch
def test_unknown_architecture(save: Save) -> None:
    folder = save()
    edit_config(folder, model_type="from_the_future")
    with pytest.raises(UnsupportedModelError, match="from_the_future"):
        open_folder(folder).load()


@pytest.mark.torch
def test_code_in_the_folder_is_not_run(save: Save, tmp_path: Path) -> None:
    folder = save()
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit_config(folder, model_type="evil", auto_map=auto_map)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')")
    with pytest.raises(UnsupportedModelError):
        open_folder(folder).load()
    assert not (tmp_path / "boom").exists()


@pytest.mark.torch
def test_an_encoder_decoder(save: Save) -> None:
    with pytest.raises(UnsupportedModelError, match="'t5' is not one stack"):
        open_folder(save("T5", d_model=32, d_kv=8, d_ff=32, num_layers=3)).load()


@pytest.mark.torch
def test_an_adapter(save: Save) -> None:
    folder = save()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="merge the adapter"):
        open_folder(folder).load()


@pytest.mark.torch
@pytest.mark.parametrize("layers", [[], [-1], [1, 4]])
def test_layers_that_are_not_there(save: Save, layers: list[int]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"are not all in 0\.\.3"):
        open_folder(save(), extraction_layers=layers).load()


@pytest.mark.torch
@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_devices(save: Save, device: str) -> None:
    model = open_folder(save())
    model.load("cpu")
    model.load()
    with pytest.raises(UnsupportedModelError, match=f"the device '{device}' cannot be used"):
        model.load(device)
    assert model.infer(IDS)[3].shape == (5, 32)
