"""Llama GGUF -> the tensors, tokenizer and config of a Hugging Face folder.

GGUF holds arrays and metadata, no code; it is read once, by the `gguf`
package, and never again after the safetensors are written (ADR-0005).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType, dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ..errors import UnsupportedModelError

__all__ = ["convert_gguf"]

Progress = Callable[[int, int], None]

# GGUF name -> Hugging Face name, inside one block.
_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(source: Path, folder: Path, n_layers: int, progress: Progress) -> None:
    """Write `model.safetensors`, `tokenizer.json`, `config.json` into `folder`.

    Only the embedding, the first `n_layers` blocks and the final norm are
    written, dequantised to float32. `progress` is called with (done, total).
    Raises `UnsupportedModelError` for an architecture other than llama.
    """
    reader = GGUFReader(source)
    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise UnsupportedModelError(
            f"{source.name}: the architecture is {architecture!r} and the embedded engine knows "
            "only 'llama': use HFDetectorModel for other models"
        )
    config = _config(reader, n_layers)
    save_file(_tensors(reader, config, progress), folder / "model.safetensors")
    _tokenizer(reader).save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def _field(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise UnsupportedModelError(f"the GGUF file has no {key!r}: it is not a usable model")
    return field.contents()


def _config(reader: GGUFReader, n_layers: int) -> dict[str, Any]:
    available = _field(reader, "llama.block_count")
    if n_layers > available:
        raise UnsupportedModelError(f"layer {n_layers} was asked for and the model has {available}")
    heads = _field(reader, "llama.attention.head_count")
    hidden = _field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": n_layers,
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "rms_norm_eps": float(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": float(_field(reader, "llama.rope.freq_base")),
        "tie_word_embeddings": True,
        "vocab_size": len(_field(reader, "tokenizer.ggml.tokens")),
        "torch_dtype": "float32",
    }


def _tensors(
    reader: GGUFReader, config: dict[str, Any], progress: Progress
) -> dict[str, NDArray[np.float32]]:
    wanted = _wanted(config["num_hidden_layers"])
    tensors = {}
    found = [tensor for tensor in reader.tensors if tensor.name in wanted]
    for done, tensor in enumerate(found, start=1):
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        tensors[wanted[tensor.name]] = np.ascontiguousarray(_layout(tensor.name, array, config))
        progress(done, len(found))
    missing = sorted(set(wanted.values()) - set(tensors))
    if missing:
        raise UnsupportedModelError(f"the GGUF file has no tensor for {missing[0]!r}")
    return tensors


def _wanted(n_layers: int) -> dict[str, str]:
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for layer in range(n_layers):
        for theirs, ours in _BLOCK_TENSORS.items():
            names[f"blk.{layer}.{theirs}.weight"] = f"model.layers.{layer}.{ours}.weight"
    return names


def _layout(name: str, array: NDArray[np.float32], config: dict[str, Any]) -> NDArray[np.float32]:
    """Undo llama.cpp's interleaving of the rotary halves in Q and K."""
    heads = {
        "attn_q.weight": config["num_attention_heads"],
        "attn_k.weight": config["num_key_value_heads"],
    }.get(name.partition(".")[2].partition(".")[2])
    if heads is None:
        return array
    rows, columns = array.shape
    split = array.reshape(heads, rows // heads // 2, 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    """A byte-level BPE tokenizer, digits apart, as SmolLM's own."""
    if _field(reader, "tokenizer.ggml.pre") != "smollm":
        raise UnsupportedModelError("the GGUF file's tokenizer is not the one of SmolLM")
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = _field(reader, "tokenizer.ggml.token_type")
    special = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
