"""The GGUF file, turned into what a Hugging Face folder holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from alknet_firewall.errors import UnsupportedModelError
from alknet_firewall.model.conversion import convert_gguf
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.graph import quantize_columns
from alknet_firewall.model.weights import PreparedWeights, WeightsSource

from . import tiny
from .texts import TEXTS


@pytest.fixture(scope="session")
def tokenizer(prepared: PreparedWeights) -> Tokenizer:
    return Tokenizer.from_file(str(prepared.folder / "tokenizer.json"))


# SmolLM2's vocabulary has no token for the bytes of these six control characters,
# nor for the first byte of the planes 4 to 11, where no character is assigned.
DROPPED = "\x04\x06\x13\x14\x16\x1d"
READABLE = st.text(
    st.characters(max_codepoint=0x3FFFF, exclude_characters=DROPPED, codec="utf-8")
    | st.characters(min_codepoint=0xC0000, codec="utf-8")
)


def _ignore(done: int, total: int) -> None:
    pass


@given(text=READABLE)
def test_every_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


@given(text=READABLE)
def test_offsets_are_ordered_and_cover_the_text(tokenizer: Tokenizer, text: str) -> None:
    end = 0
    for start, stop in tokenizer.encode(text, add_special_tokens=False).offsets:
        assert start <= end
        assert stop >= end
        end = stop
    assert end == len(text)


@given(text=st.text())
def test_offsets_of_any_text_lie_in_it(tokenizer: Tokenizer, text: str) -> None:
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    assert all(0 <= start < stop <= len(text) for start, stop in offsets)


def test_what_the_vocabulary_lacks_is_dropped_and_the_rest_stays(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"ab{DROPPED}cd", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "abcd"


@pytest.mark.parametrize(
    ("token", "index"), [("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)]
)
def test_special_tokens_are_one_token_each(tokenizer: Tokenizer, token: str, index: int) -> None:
    ids = tokenizer.encode(f"a{token}b", add_special_tokens=False).ids
    assert ids[1:-1] == [index]


def test_no_token_is_added_to_a_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("", add_special_tokens=False).ids == []
    assert len(tokenizer.encode("the", add_special_tokens=False).ids) == 1


def test_digits_are_apart(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("20260613").ids) == 8


def test_no_text_has_an_unknown_token(fp32: EmbeddedModel) -> None:
    for text in TEXTS:
        assert all(0 <= token < 49152 for token in fp32.encode(text).ids)


def test_shapes_of_the_real_tensors(prepared: PreparedWeights) -> None:
    with safe_open(prepared.folder / "model.safetensors", framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        dtypes = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    block = {
        "input_layernorm": (576,),
        "self_attn.q_proj": (576, 576),
        "self_attn.k_proj": (192, 576),
        "self_attn.v_proj": (192, 576),
        "self_attn.o_proj": (576, 576),
        "post_attention_layernorm": (576,),
        "mlp.gate_proj": (1536, 576),
        "mlp.up_proj": (1536, 576),
        "mlp.down_proj": (576, 1536),
    }
    expected = {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,)}
    for layer in range(8):
        expected |= {f"model.layers.{layer}.{n}.weight": shape for n, shape in block.items()}
    assert shapes == expected
    assert dtypes == {"F32"}


def test_config_says_what_a_hugging_face_config_says(prepared: PreparedWeights) -> None:
    config = json.loads((prepared.folder / "config.json").read_text("utf-8"))
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] == 8
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (9, 3)
    assert (config["head_dim"], config["rope_theta"]) == (64, 100_000)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def test_dequantised_values_and_the_order_of_rotary_halves(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path, 1, _ignore)
    original = tiny._tensors(len(tiny.vocabulary()))
    tensors = load_file(tmp_path / "model.safetensors")
    value = tensors["model.layers.0.self_attn.v_proj.weight"]
    # Q4_1 has 16 steps from the smallest to the largest of 32 values.
    np.testing.assert_allclose(value, original["blk.0.attn_v.weight"], atol=0.05)
    # llama.cpp puts the pairs (i, i + half) of a head side by side.
    key = original["blk.0.attn_k.weight"]
    half = tiny.HIDDEN // tiny.HEADS // 2
    head = np.concatenate([key[0 : 2 * half : 2], key[1 : 2 * half : 2]])
    found = tensors["model.layers.0.self_attn.k_proj.weight"][: 2 * half]
    np.testing.assert_allclose(found, head, atol=0.05)


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    tiny.write_gguf(tmp_path / "tiny.gguf")
    seen: list[tuple[int, int]] = []
    convert_gguf(tmp_path / "tiny.gguf", tmp_path, 2, lambda *step: seen.append(step))
    assert seen == [(done, 20) for done in range(1, 21)]


def test_more_layers_than_there_are(tmp_path: Path, tiny_source: WeightsSource) -> None:
    with pytest.raises(UnsupportedModelError, match="layer 4 was asked for and the model has 3"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path, 4, _ignore)


WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


@given(weight=WEIGHTS)
def test_quantized_columns_are_within_half_a_step(weight: NDArray[np.float32]) -> None:
    quantized, scale = quantize_columns(weight)
    assert quantized.dtype.name == "int8"
    assert scale.dtype.name == "float32"
    assert quantized.shape == weight.shape
    assert scale.shape == weight.shape[1:]
    assert (scale > 0).all()
    assert (quantized > -128).all()
    error = np.abs(weight - quantized * scale.astype(np.float64))
    step = np.abs(weight).max(axis=0) / 127
    assert (error <= step * 0.5001 + 1e-30).all()
