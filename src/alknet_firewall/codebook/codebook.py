"""The compiled detector: loading, checking, and the pure functions bound to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
from .surprisal import Surprisal, peak, surprise_along

__all__ = ["Codebook"]

Array = NDArray[np.float32]

_BUNDLED = Path(__file__).parent.parent / "data" / "codebook"


@dataclass(frozen=True, slots=True)
class Codebook:
    """A basis, surprisal, heads, n-gram weights, and for each role a region and thresholds.

    Nothing in it can change. `basis` is `(layers, dimensions, hidden)` and `mean`
    `(layers, hidden)`, float32. The same codebook and the same hidden states give the same scores.
    """

    identity: ModelIdentity
    layers: tuple[int, ...]
    windows: WindowShape
    basis: Array
    mean: Array
    surprisal: Surprisal
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

    @property
    def reads(self) -> tuple[int, ...]:
        """The layers that a model must give: the embedding, too."""
        return (0, *self.layers)

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
        if not set(self.reads) <= set(layers):
            raise CodebookMismatchError(
                f"the codebook reads layers {list(self.reads)} and the model gives only "
                f"{list(layers)}: construct the model with extraction_layers={list(self.reads)}"
            )

    def project(self, activations: Activations) -> Array:
        """Hidden states per layer, `(tokens, hidden)` or `(hidden,)`, to z-coordinates.

        Returns float32 `(tokens, layers, dimensions)`, or `(layers, dimensions)`.
        """
        return project(self._stacked(activations), self.basis, self.mean)

    def score(self, z: Array, role: Role = "user", top: int | None = None) -> list[DimensionSignal]:
        """How rare `z` (layers, dimensions) is under normal text, rarest first."""
        return detection.score(z, self.regions[role], self.layers, top)

    def detect(
        self, activations: Activations, passage: Passage, role: Role = "user"
    ) -> DetectionResult:
        """Score every place of one window; the hidden states are `(tokens, hidden)` for each
        layer that the codebook `reads`, and `passage` is what stands there."""
        states = ((layer, activations[layer]) for layer in self.reads)
        return self.scan_by_layer(states, passage, role, early=False)

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
        wanted = ((layer, state) for layer, state in states if layer in self.reads)
        (_, embedded), (_, first) = islice(wanted, 2)
        means, sizes = pool_blocks(first, self.windows.block)
        z = [project_layer(means, self.basis[0], self.mean[0])]
        views = self._views(passage, paragraphs, self._surprise(embedded, first, passage))
        odd = detection.anomalous(z[0], sizes, self.regions[role], self.windows)
        if early and self.early and not odd.any():
            found = self._detect(z, sizes, views, self.early.head, role, odd)
            if found.score < self.early.below[role]:
                return found
        for _, state in wanted:
            means = pool_blocks(state, self.windows.block)[0]
            z.append(project_layer(means, self.basis[len(z)], self.mean[len(z)]))
        return self._detect(z, sizes, views, self.head, role, odd)

    def _surprise(self, embedded: Array, states: Array, passage: Passage) -> Array:
        """How much surprises around each block, `(blocks,)`."""
        surprisal = self.surprisal.of_tokens(embedded, states)
        if passage.disguised is not None:
            surprisal[passage.disguised] = 0
        return surprise_along(*pool_blocks(surprisal, self.windows.block))

    def _views(
        self, passage: Passage, paragraphs: Sequence[tuple[int, int]], surprise: Array
    ) -> list[View]:
        block = self.windows.block
        ranges = [(0, len(surprise)), *paragraphs]
        peaks = np.array([peak(surprise[first:last]) for first, last in ranges])
        added = self.surprisal.log_odds(peaks)
        wordings = (passage.wording(first * block, last * block) for first, last in ranges)
        words = map(self.lexical.logits, wordings)
        return [View(*ends, *odds) for ends, *odds in zip(ranges, words, added, strict=True)]

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
