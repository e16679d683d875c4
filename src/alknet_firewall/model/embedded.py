"""The default engine: ONNX Runtime on the CPU, no torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import Precision
from ..errors import CacheError, UnsupportedModelError
from ..threads import thread_count
from .inputs import check_ids
from .protocol import Activations, Encoding, Extraction, LayerStates, ModelIdentity
from .saturation import products_saturate, unsigned
from .session import open_session
from .stages import build_stages, kept_stages, stage_files
from .weights import EMBEDDED, WeightsSource, prepare

if TYPE_CHECKING:
    import onnxruntime as ort
    from tokenizers import Tokenizer

__all__ = ["DEFAULT_LAYERS", "EmbeddedModel"]

DEFAULT_LAYERS = (2, 6, 8)


class EmbeddedModel:
    """A Llama-family model, truncated after the last extraction layer.

    Loading prepares the weights if the cache does not hold them (see
    `weights.prepare` for what it may raise), builds the graph and starts one
    ONNX Runtime session. `infer` may be called from several threads.
    """

    hidden_dim: int = 576
    n_layers: int = 30

    def __init__(
        self,
        extraction_layers: Sequence[int] = DEFAULT_LAYERS,
        *,
        precision: Precision = "int8",
        threads: int = 0,
        source: WeightsSource = EMBEDDED,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        progress: bool = False,
    ) -> None:
        self.model_id = source.model_id
        self.revision = source.revision
        self._layers = sorted(set(extraction_layers))
        if not self._layers or not 0 <= self._layers[0] <= self._layers[-1] <= self.n_layers:
            raise UnsupportedModelError(
                f"extraction layers {list(extraction_layers)} are not all in 0..{self.n_layers}"
            )
        self._precision = precision
        self._threads = thread_count(threads)
        self._source = source
        self._cache_dir = Path(cache_dir) if cache_dir else None
        self._local_files_only = local_files_only
        self._progress = progress
        self._lock = threading.Lock()
        self._sessions: list[ort.InferenceSession] = []  # from each layer to the next
        self._tokenizer: Tokenizer | None = None
        self._bos_id = 1
        self._limits = (0, 0)  # size of the vocabulary, and positions

    @property
    def extraction_layers(self) -> list[int]:
        return list(self._layers)

    @property
    def identity(self) -> ModelIdentity:
        engine = f"embedded-{self._precision}"
        return ModelIdentity(self.model_id, self.revision, self._source.sha256, engine)

    @property
    def bos_id(self) -> int:
        return self._bos_id

    def is_loaded(self) -> bool:
        return bool(self._sessions)

    def load(self, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise UnsupportedModelError(
                f"the embedded engine runs on 'cpu', not on {device!r}: use HFDetectorModel"
            )
        with self._lock:
            if not self._sessions:
                self._load()

    def prepare(self) -> Path:
        """Make sure the cache holds what the engine starts from; returns that folder."""
        if self._precision == "fp32":
            return self._weights()
        return kept_stages(self._weights, self._source, self._layers, self._cache_dir)

    def encode(self, text: str) -> Encoding:
        self.load()
        assert self._tokenizer is not None  # noqa: S101  load() sets it or raises
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def infer(
        self, input_ids: Sequence[int], *, extraction: Extraction = "per_token"
    ) -> Activations:
        states = self.infer_by_layer(input_ids)
        return {n: state if extraction == "per_token" else state[-1] for n, state in states}

    def infer_by_layer(self, input_ids: Sequence[int]) -> Iterator[LayerStates]:
        """`infer` layer by layer; each is computed when it is asked for."""
        self.load()
        check_ids(input_ids, *self._limits)
        lengths = _lengths(len(input_ids))
        stream = {"input_ids": np.asarray(input_ids, dtype=np.int64)[None, :]}
        for layer, session in zip(self._layers, self._sessions, strict=True):
            (states,) = session.run(None, stream | lengths)
            stream = {"before": states}
            yield layer, states[0]

    def _load(self) -> None:
        from tokenizers import Tokenizer

        folder, stages = self._stages()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self._bos_id = config["bos_token_id"]
        self._limits = (config["vocab_size"], config["max_position_embeddings"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if self._precision == "int8" and products_saturate():
            stages = map(unsigned, stages)
        self._sessions = [open_session(stage, self._threads) for stage in stages]

    def _stages(self) -> tuple[Path, Iterable[Path | bytes]]:
        """A folder with config and tokenizer, and the graphs in order."""
        if self._precision == "int8":
            # A cache that cannot be written may still hold the weights.
            with suppress(CacheError):
                folder = self.prepare()
                return folder, stage_files(folder)
        folder = self._weights()
        graphs = build_stages(folder, self._layers, self._precision, self._source.smoothing)
        return folder, (graph.SerializeToString() for graph in graphs)

    def _weights(self) -> Path:
        return prepare(
            max(1, self._layers[-1]),
            source=self._source,
            cache_dir=self._cache_dir,
            local_files_only=self._local_files_only,
            progress=self._progress,
        ).folder


def _lengths(tokens: int) -> dict[str, NDArray[Any]]:
    return {
        "last": np.array([tokens - 1], dtype=np.int32),
        "total": np.array(tokens, dtype=np.int32),
    }
