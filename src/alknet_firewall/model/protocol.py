"""What a detector model is, for the codebook and the firewall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Activations",
    "DetectorModel",
    "Encoding",
    "Extraction",
    "LayerStates",
    "ModelIdentity",
    "infer_by_layer",
]

Extraction = Literal["per_token", "last_token"]
"""`per_token`: hidden states of shape `(tokens, hidden_dim)` per layer;
`last_token`: of shape `(hidden_dim,)`, the last position only."""

if TYPE_CHECKING:
    Activations = Mapping[int, NDArray[np.float32]]
    LayerStates = tuple[int, NDArray[np.float32]]
else:
    Activations, LayerStates = Mapping, tuple


@dataclass(frozen=True, slots=True)
class Encoding:
    """A tokenized text: token ids, and the characters `[start, end)` of each."""

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a codebook is bound to: the weights, to the byte, and the numerics.

    `weights_sha256` is of the file the weights came from. `engine` names what
    computes the hidden states, because int8 and fp32 differ a little.
    """

    model_id: str
    revision: str
    weights_sha256: str
    engine: str


@runtime_checkable
class DetectorModel(Protocol):
    """A language model whose hidden states can be read.

    Layer `n` means the residual stream after `n` transformer blocks; 0 is the
    embedding. All methods are safe to call from several threads.
    """

    model_id: str
    revision: str

    @property
    def hidden_dim(self) -> int:
        """Numbers in one hidden state."""
        ...

    @property
    def n_layers(self) -> int:
        """Transformer blocks, so the deepest layer that can be read."""
        ...

    @property
    def extraction_layers(self) -> list[int]:
        """The layers `infer` returns."""
        ...

    @property
    def identity(self) -> ModelIdentity:
        """What a codebook compiled with this model is bound to."""
        ...

    @property
    def bos_id(self) -> int:
        """The token to put before every window: it takes the attention sink."""
        ...

    def load(self, device: str | None = None) -> None:
        """Make the model ready. Raises `ModelError`. Calling it again is free."""
        ...

    def is_loaded(self) -> bool: ...

    def encode(self, text: str) -> Encoding:
        """Token ids without any added special token."""
        ...

    def infer(
        self, input_ids: Sequence[int], *, extraction: Extraction = "per_token"
    ) -> Activations:
        """Hidden states (float32) at the extraction layers, loading if needed.

        Raises `ScreeningError` for no ids, too many, or ids the model lacks.
        """
        ...


def infer_by_layer(model: DetectorModel, input_ids: Sequence[int]) -> Iterator[LayerStates]:
    """What `model.infer` gives, as pairs of layer and states `(tokens, hidden_dim)`.

    A model that has a method `infer_by_layer`, as `EmbeddedModel` has, computes a
    layer only when it is asked for, so whoever has seen enough saves the rest.
    """
    staged = getattr(model, "infer_by_layer", None)
    yield from staged(input_ids) if staged else model.infer(input_ids).items()
