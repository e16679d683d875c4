"""The default engine: ONNX Runtime on the CPU, no torch."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import Precision
from ..errors import UnsupportedModelError
from ..threads import thread_count
from .inputs import check_ids
from .protocol import Activations, Encoding, Extraction, ModelIdentity
from .smoothing import Tensors, largest_seen, smoothed
from .weights import EMBEDDED, PreparedWeights, WeightsSource, prepare

if TYPE_CHECKING:
    import onnxruntime as ort
    from tokenizers import Tokenizer

__all__ = ["DEFAULT_LAYERS", "EmbeddedModel"]

DEFAULT_LAYERS = (2, 4, 6)


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
        self._session: ort.InferenceSession | None = None
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
        return self._session is not None

    def load(self, device: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise UnsupportedModelError(
                f"the embedded engine runs on 'cpu', not on {device!r}: use HFDetectorModel"
            )
        with self._lock:
            if self._session is None:
                self._load(self.prepare())

    def prepare(self) -> PreparedWeights:
        """Make sure the cache holds the weights, without starting the engine."""
        return prepare(
            max(1, self._layers[-1]),
            source=self._source,
            cache_dir=self._cache_dir,
            local_files_only=self._local_files_only,
            progress=self._progress,
        )

    def encode(self, text: str) -> Encoding:
        self.load()
        assert self._tokenizer is not None  # noqa: S101  load() sets it or raises
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(encoded.ids, encoded.offsets)

    def infer(
        self, input_ids: Sequence[int], *, extraction: Extraction = "per_token"
    ) -> Activations:
        self.load()
        assert self._session is not None  # noqa: S101  load() sets it or raises
        check_ids(input_ids, *self._limits)
        states = self._session.run(None, _feed(input_ids))
        return {
            layer: state[0] if extraction == "per_token" else state[0, -1]
            for layer, state in zip(self._layers, states, strict=True)
        }

    def _load(self, prepared: PreparedWeights) -> None:
        from tokenizers import Tokenizer

        config = json.loads((prepared.folder / "config.json").read_text("utf-8"))
        self._bos_id = config["bos_token_id"]
        self._limits = (config["vocab_size"], config["max_position_embeddings"])
        self._tokenizer = Tokenizer.from_file(str(prepared.folder / "tokenizer.json"))
        self._session = _session(
            self._tensors(prepared.folder), config, self._layers, self._precision, self._threads
        )

    def _tensors(self, folder: Path) -> Tensors:
        from safetensors.numpy import load_file

        tensors = load_file(folder / "model.safetensors")
        if self._precision == "fp32" or not self._source.smoothing:
            return tensors
        return smoothed(tensors, largest_seen(self._source.smoothing))


def _feed(input_ids: Sequence[int]) -> dict[str, NDArray[Any]]:
    tokens = len(input_ids)
    return {
        "input_ids": np.asarray(input_ids, dtype=np.int64)[None, :],
        "last": np.array([tokens - 1], dtype=np.int32),
        "total": np.array(tokens, dtype=np.int32),
    }


def _session(
    tensors: Tensors,
    config: dict[str, Any],
    layers: Sequence[int],
    precision: Precision,
    threads: int,
) -> ort.InferenceSession:
    # It would write an identifier of the machine below the user's home, for telemetry.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Imported here: onnx and onnxruntime take half a second to import.
    import onnxruntime as ort

    from .graph import LlamaShape, build_graph

    graph = build_graph(tensors, LlamaShape.from_config(config), layers, precision)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait double the time of an inference as soon
    # as anything else runs on the same cores, such as the proxy or numpy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
