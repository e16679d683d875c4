"""A Hugging Face folder -> a torch model, its tokenizer, its blocks.

Imports torch and transformers only when called. No code of the folder is run,
no pickle is opened, and nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedModelError, WeightsVerificationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "check_layers",
    "find_blocks",
    "find_bos_id",
    "move",
    "read_config",
    "read_model",
    "read_tokenizer",
]


def read_config(folder: Path) -> Any:
    """Its config.json. Raises `UnsupportedModelError` for an unknown architecture."""
    from transformers import AutoConfig

    with _unsupported(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config.use_cache = False  # every text is read once, so no keys or values are kept
    return config


def check_layers(model_id: str, config: Any, layers: Sequence[int]) -> int:
    """The number of blocks. Raises `UnsupportedModelError` if a layer is not there."""
    blocks: int | None = getattr(config, "num_hidden_layers", None)
    if blocks is None or config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{model_id}: {config.model_type!r} is not one stack of transformer blocks: use a "
            "decoder-only or an encoder-only language model"
        )
    if not layers or not 0 <= layers[0] <= layers[-1] <= blocks:
        raise UnsupportedModelError(
            f"{model_id}: extraction layers {list(layers)} are not all in 0..{blocks}"
        )
    return blocks


def read_tokenizer(folder: Path) -> Tokenizer:
    """Its tokenizer.json. Raises `UnsupportedModelError` where there is none."""
    from tokenizers import Tokenizer

    # Straight from the repository's file: it gives offsets, and the classes of
    # transformers rebuild the tokenizer by rules of their own.
    with _unsupported(folder):
        return Tokenizer.from_file(str(folder / "tokenizer.json"))


def read_model(folder: Path, config: Any) -> Any:
    """Its weights in float32, in evaluation mode, every tensor from the file.

    Raises `UnsupportedModelError`, or `WeightsVerificationError` if tensors are missing.
    """
    import torch
    from transformers import AutoModel

    if (folder / "adapter_config.json").exists():
        raise UnsupportedModelError(
            f"{folder}: it holds an adapter, which would load other weights beside the verified "
            "ones: merge the adapter into the model and save that"
        )
    with _unsupported(folder):
        model, report = AutoModel.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    _check_complete(folder, report)
    return model.eval()


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    # transformers fills what the file lacks with random numbers. A pooler comes
    # after the blocks and is often not there.
    lacking = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    lacking = sorted(key for key in lacking if "pooler" not in key)
    if lacking:
        raise WeightsVerificationError(
            f"{folder}: the weights lack {lacking[0]!r} in the shape that config.json calls for: "
            "fetch the model again"
        )


def find_blocks(model: Any, count: int) -> Any:
    """The outermost list of `count` modules: the transformer blocks."""
    from torch.nn import ModuleList

    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__}: its {count} transformer blocks cannot be found: use another model"
    )


def find_bos_id(folder: Path, config: Any, tokenizer: Tokenizer) -> int:
    """The token that texts begin with: BOS, or CLS, or where there is neither, EOS."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        named = {}
    tokens = [named.get(key) for key in ("bos_token", "cls_token", "eos_token")]
    texts = [token["content"] if isinstance(token, dict) else token for token in tokens if token]
    ids = [getattr(config, "bos_token_id", None), *map(tokenizer.token_to_id, texts)]
    ids.append(getattr(config, "eos_token_id", None))
    for token_id in ids:
        if isinstance(token_id, int):
            return token_id
    raise UnsupportedModelError(
        f"{folder}: neither config.json nor tokenizer_config.json names a token that texts begin "
        "with: add bos_token_id to config.json"
    )


def move(model: Any, device: str | None) -> str:
    """Move a model to a device. Raises `UnsupportedModelError` if it cannot be used."""
    try:
        model.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UnsupportedModelError(
            f"the device {device!r} cannot be used ({_first_line(error)}): use 'cpu'"
        ) from error
    return str(device)


@contextmanager
def _unsupported(folder: Path) -> Iterator[None]:
    """What the libraries say about files they cannot use, as one sentence."""
    try:
        yield
    except Exception as error:
        raise UnsupportedModelError(
            f"{folder}: the model cannot be loaded ({_first_line(error)}): use a model whose "
            "architecture the installed transformers knows, with a tokenizer.json"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
