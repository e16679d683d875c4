"""Models of a few kilobytes, for tests about files rather than about numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from tokenizers import Tokenizer, models, pre_tokenizers

from alknet_firewall.model.repository import sha256
from alknet_firewall.model.weights import WeightsSource

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 3
MERGES = ["t h", "Ġ a"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def vocabulary() -> list[str]:
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]


def write_gguf(path: Path, architecture: str = "llama") -> WeightsSource:
    """A random Llama in Q4_1, as a source that no package holds."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = vocabulary()
    kinds = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in _tensors(len(tokens)).items():
        _add(writer, name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return WeightsSource(
        model_id="tests/tiny",
        revision="0123456789abcdef0123456789abcdef01234567",
        filename=path.name,
        sha256=sha256(path),
        package="no_such_package",
        package_file=path.name,
    )


def _tensors(tokens: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (tokens, HIDDEN),
        "output_norm": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm": (HIDDEN,),
            f"blk.{layer}.attn_q": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k": (kv, HIDDEN),
            f"blk.{layer}.attn_v": (kv, HIDDEN),
            f"blk.{layer}.attn_output": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm": (HIDDEN,),
            f"blk.{layer}.ffn_gate": (INNER, HIDDEN),
            f"blk.{layer}.ffn_up": (INNER, HIDDEN),
            f"blk.{layer}.ffn_down": (HIDDEN, INNER),
        }
    return {
        f"{name}.weight": rng.normal(size=shape, scale=0.2).astype(np.float32)
        for name, shape in shapes.items()
    }


def _add(writer: GGUFWriter, name: str, array: Any) -> None:
    if array.ndim == 1:
        writer.add_tensor(name, array)
        return
    kind = GGMLQuantizationType.Q4_1
    writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: one token for each byte."""
    vocab = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
