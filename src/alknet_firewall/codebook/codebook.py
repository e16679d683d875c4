"""The compiled detector: loading, checking, and the pure functions bound to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..alarm import DimensionSignal, Role
from ..config import Thresholds
from ..errors import CodebookMismatchError
from ..model.protocol import Activations, LayerStates, ModelIdentity
from . import detection
from .detection import EarlyExit, Region, View, WindowShape
from .head import ROLES, SequenceHead
from .lexical import LexicalTable, Passage
from .projection import pool_blocks, project, project_layer
from .results import DetectionResult

__all__ = ["Codebook"]

Array = NDArray[np.float32]

_BUNDLED = Path(__file__).parent.parent / "data" / "codebook"


@dataclass(frozen=True, slots=True)
class Codebook:
    """A basis, heads, n-gram weights, and for each role a region and thresholds.

    Nothing in it can change. `basis` is `(layers, dimensions, hidden)` and `mean`
    `(layers, hidden)`, float32. The same codebook and the same hidden states give the same scores.
    """

    identity: ModelIdentity
    layers: tuple[int, ...]
    windows: WindowShape
    basis: Array
    mean: Array
    head: SequenceHead
    early: EarlyExit | None
    lexical: LexicalTable
    regions: Mapping[Role, Region]
    thresholds: Mapping[Role, Thresholds]
    provenance: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path) -> Codebook:
        """Read and check a directory. Raises `CodebookFormatError`."""
        from .files import read

        return read(path)

    @classmethod
    def bundled(cls) -> Codebook:
        """The codebook that ships with this package, for the embedded weights."""
        return cls.load(_BUNDLED)

    @classmethod
    def from_hf_hub(
        cls,
        repo_id: str,
        revision: str = "main",
        *,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> Codebook:
        """Download a codebook's four files from the Hugging Face Hub and load them."""
        from .files import fetch

        return cls.load(
            fetch(repo_id, revision, cache_dir=cache_dir, local_files_only=local_files_only)
        )

    def check_model(self, identity: ModelIdentity, layers: Sequence[int]) -> None:
        """Raise `CodebookMismatchError` unless compiled with exactly this model."""
        for field in ("weights_sha256", "engine"):
            theirs, ours = getattr(identity, field), getattr(self.identity, field)
            if theirs != ours:
                raise CodebookMismatchError(
                    f"the codebook was compiled for {field} {ours} ({self.identity.model_id}) and "
                    f"the model has {theirs} ({identity.model_id}): use the model it was compiled "
                    "for, or compile a codebook for this one with `alknet-firewall compile`"
                )
        missing = sorted(set(self.layers) - set(layers))
        if missing:
            raise CodebookMismatchError(
                f"the codebook reads layers {list(self.layers)} and the model gives only "
                f"{list(layers)}: construct the model with extraction_layers={list(self.layers)}"
            )

    def project(self, activations: Activations) -> Array:
        """Hidden states per layer, `(tokens, hidden)` or `(hidden,)`, to z-coordinates.

        Returns float32 `(tokens, layers, dimensions)`, or `(layers, dimensions)`.
        """
        return project(self._stacked(activations), self.basis, self.mean)

    def score(self, z: Array, role: Role = "user", top: int | None = None) -> list[DimensionSignal]:
        """How rare `z` (layers, dimensions) is under normal text, rarest first."""
        return detection.score(z, self.regions[role], self.layers, top)

    def detect(self, z: Array, passage: Passage, role: Role = "user") -> DetectionResult:
        """Score every place of one window; z is `(tokens, layers, dimensions)`, and
        `passage` what stands there."""
        means, sizes = pool_blocks(z, self.windows.block)
        by_layer = [*np.moveaxis(means, -2, 0)]
        odd = self._odd(by_layer[0], sizes, role)
        return self._detect(by_layer, sizes, self._views(passage, ()), self.head, role, odd)

    def scan_by_layer(
        self,
        states: Iterable[LayerStates],
        passage: Passage,
        role: Role = "user",
        paragraphs: Sequence[tuple[int, int]] = (),
        *,
        early: bool = True,
    ) -> DetectionResult:
        """`detect` for pairs of layer and hidden states per token, in the order of layers.

        Projecting is linear, so blocks are averaged first and there are fewer tokens to
        project. `paragraphs` are ranges of blocks that are judged alone, too. Unless `early`
        is off, no more than the first layer is asked for where that shows plainly harmless
        text.
        """
        views = self._views(passage, paragraphs)
        z: list[Array] = []
        for layer, state in states:
            if layer not in self.layers:
                continue
            means, sizes = pool_blocks(state, self.windows.block)
            z.append(project_layer(means, self.basis[len(z)], self.mean[len(z)]))
            if len(z) == 1:
                odd = self._odd(z[0], sizes, role)
                if early and self.early and not odd.any():
                    found = self._detect(z, sizes, views, self.early.head, role, odd)
                    if found.score < self.early.below[role]:
                        return found
        return self._detect(z, sizes, views, self.head, role, odd)

    def _views(self, passage: Passage, paragraphs: Sequence[tuple[int, int]]) -> list[View]:
        block = self.windows.block
        ranges = [(0, -(-len(passage.ids) // block)), *paragraphs]
        return [
            View(*ends, self.lexical.logits(passage.wording(ends[0] * block, ends[1] * block)))
            for ends in ranges
        ]

    def _odd(self, z: Array, sizes: NDArray[np.intp], role: Role) -> NDArray[np.bool_]:
        return detection.anomalous(z, sizes, self.regions[role], self.windows)

    def _detect(
        self,
        z: Sequence[Array],
        sizes: NDArray[np.intp],
        views: Sequence[View],
        head: SequenceHead,
        role: Role,
        odd: NDArray[np.bool_],
    ) -> DetectionResult:
        stacked, column = np.stack(z, axis=-2), ROLES.index(role)
        return detection.detect(stacked, sizes, views, head, column, self.windows, odd)

    def _stacked(self, activations: Activations) -> Array:
        return np.stack([activations[layer] for layer in self.layers], axis=-2)
