"""The reference engine: any Hugging Face transformer, on torch (extra `torch`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..extras import require_extra
from .checkpoint import (
    check_layers,
    find_blocks,
    find_bos_id,
    move,
    read_config,
    read_model,
    read_tokenizer,
)
from .embedded import DEFAULT_LAYERS
from .inputs import check_ids
from .protocol import Activations, Encoding, Extraction, ModelIdentity
from .repository import (
    check_revision,
    check_sha256,
    combined_sha256,
    find_folder,
    safetensors_files,
)
from .residual import hidden_states

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["HFDetectorModel"]

_DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M"
_DEFAULT_REVISION = "93efa2f097d58c2a74874c7e644dbc9b0cee75a2"

# (model, revision) -> sha256 of model.safetensors
_PINS = {
    (_DEFAULT_MODEL, _DEFAULT_REVISION): (
        "80521b40281d6ce74e35c9282c22539e75aa0ac8578892b2a59955ef78d55da1"
    ),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac"): (
        "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
    ),
}


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model ready to run. `blocks` are its transformer blocks, in order."""

    model: Any
    blocks: Any
    tokenizer: Tokenizer
    device: str
    bos_id: int
    hidden_dim: int
    n_layers: int
    vocabulary: int
    positions: int | None
    weights_sha256: str


class HFDetectorModel:
    """A Hugging Face transformer in float32; slow, general, exact.

    `model_id` is a repository on the hub, which `revision` pins to one commit,
    or a local folder, which needs no revision. The weights are safetensors and
    no code of the repository is run. Without the `torch` extra, loading raises
    `MissingExtraError`.

    Reading `identity`, `bos_id`, `hidden_dim` or `n_layers` loads the model,
    because only its files can tell. `identity.weights_sha256` is of
    model.safetensors; where the weights are in shards, see
    `repository.combined_sha256`. All methods may be called from several
    threads; inferences run one at a time.
    """

    DEFAULT_REVISION: ClassVar[str] = _DEFAULT_REVISION

    def __init__(
        self,
        model_id: str = _DEFAULT_MODEL,
        revision: str = _DEFAULT_REVISION,
        device: str = "cpu",
        cache_dir: str | None = None,
        *,
        extraction_layers: Sequence[int] = DEFAULT_LAYERS,
        local_files_only: bool = False,
        weights_sha256: str | None = None,
    ) -> None:
        """`weights_sha256` must be that of the weights; known models have theirs.

        `cache_dir` is the hub's cache (default: HF_HOME's). Raises
        `ConfigError` for a hub repository without a commit hash.
        """
        self._commit = _commit(model_id, revision)
        self.model_id = model_id
        self.revision = self._commit or "local"
        self._device = device
        self._cache_dir = cache_dir
        self._layers = sorted(set(extraction_layers))
        self._local_files_only = local_files_only
        self._expected = weights_sha256 or _PINS.get((model_id, self.revision))
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @property
    def extraction_layers(self) -> list[int]:
        return list(self._layers)

    @property
    def identity(self) -> ModelIdentity:
        digest = self._ready().weights_sha256
        return ModelIdentity(self.model_id, self.revision, digest, "transformers-fp32")

    @property
    def bos_id(self) -> int:
        return self._ready().bos_id

    @property
    def hidden_dim(self) -> int:
        return self._ready().hidden_dim

    @property
    def n_layers(self) -> int:
        """Blocks of the model on disk: fewer than the original's in a truncated folder."""
        return self._ready().n_layers

    def is_loaded(self) -> bool:
        return self._loaded is not None

    def load(self, device: str | None = None) -> None:
        """Find, verify and load the model, or move it to another device.

        Raises `MissingExtraError`, `WeightsNotFoundError`, `CacheError`,
        `WeightsVerificationError`, `UnsafeWeightsError`, or
        `UnsupportedModelError` for an unknown architecture, layer or device.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load(device or self._device)
            elif device not in (None, self._loaded.device):
                self._loaded = replace(self._loaded, device=move(self._loaded.model, device))

    def encode(self, text: str) -> Encoding:
        encoded = self._ready().tokenizer.encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def infer(
        self, input_ids: Sequence[int], *, extraction: Extraction = "per_token"
    ) -> Activations:
        ready = self._ready()
        check_ids(input_ids, ready.vocabulary, ready.positions)
        with self._lock:  # the hooks that collect the states sit on the shared blocks
            states = hidden_states(ready.model, ready.blocks, input_ids, self._layers)
        return {
            layer: states[layer] if extraction == "per_token" else states[layer][-1]
            for layer in self._layers
        }

    def _ready(self) -> _Loaded:
        if self._loaded is None:
            self.load()
        assert self._loaded is not None  # noqa: S101  load() sets it or raises
        return self._loaded

    def _load(self, device: str) -> _Loaded:
        require_extra("torch", "torch", "transformers")
        folder = find_folder(
            self.model_id,
            self._commit,
            cache_dir=self._cache_dir,
            local_files_only=self._local_files_only,
        )
        digest = combined_sha256(safetensors_files(folder))
        if self._expected:
            check_sha256(f"the weights of {self.model_id}", digest, self._expected)
        config = read_config(folder)
        n_layers = check_layers(self.model_id, config, self._layers)
        tokenizer = read_tokenizer(folder)
        model = read_model(folder, config)
        return _Loaded(
            model=model,
            blocks=find_blocks(model, n_layers),
            tokenizer=tokenizer,
            device=move(model, device),
            bos_id=find_bos_id(folder, config, tokenizer),
            hidden_dim=config.hidden_size,
            n_layers=n_layers,
            vocabulary=config.vocab_size,
            positions=getattr(config, "max_position_embeddings", None),
            weights_sha256=digest,
        )


def _commit(model_id: str, revision: str) -> str | None:
    """The commit on the hub, or None for a local folder.

    A commit that was given means the hub, whatever the working directory holds;
    so does the default model, whose name could be that of a folder there.
    """
    if model_id != _DEFAULT_MODEL and revision in ("", _DEFAULT_REVISION):
        if Path(model_id).is_dir():
            return None
        revision = ""  # the default commit is the default model's
    check_revision(model_id, revision)
    return revision
