"""Labelled text -> codebook: the one offline step.

    sample and compose ─▶ hidden states ─▶ SVD basis of normal text ─▶ z of every place
      ─▶ per role: splines, profile, classifier, thresholds ─▶ four files

Compiling the same files with the same options twice gives the same bytes.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..codebook import Codebook
from ..codebook.detection import WindowShape
from ..codebook.files import write
from ..codebook.splines import N_KNOTS
from ..config import FirewallConfig
from ..errors import DataError
from ..model.embedded import DEFAULT_LAYERS, EmbeddedModel
from ..model.protocol import DetectorModel
from .activations import Blocks, extract
from .compose import compose
from .data_loader import DataFile, Example, load_folder, sample
from .fitting import fit_role
from .heads import HeadOptions
from .places import Rows, place_means

__all__ = ["CompileOptions", "build", "chosen_examples", "fit_basis", "open_model"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a compilation depends on, besides the data and the model."""

    n_dimensions: int = 256
    rows_per_group: int = 500
    """Rows of each (source, label, role)."""
    poisoned: int = 5000
    mixed: int = 2500
    """Composed documents, with and without an injection."""
    max_tokens: int = 512
    """Of each training text; screening has no such limit."""
    windows: WindowShape = field(default_factory=WindowShape)
    head: HeadOptions = field(default_factory=HeadOptions)
    svd_rows: int = 60_000
    seed: int = 0


def open_model(
    model_id: str | None, layers: tuple[int, ...] | None, config: FirewallConfig
) -> DetectorModel:
    """The embedded model, or the Hugging Face one named `ID@REVISION` or by its folder."""
    layers = layers or DEFAULT_LAYERS
    if model_id is None:
        return EmbeddedModel(
            layers,
            precision=config.precision,
            threads=1,  # texts run side by side instead
            cache_dir=config.cache_dir,
            local_files_only=config.local_files_only,
            progress=True,
        )
    from ..model.huggingface import HFDetectorModel

    name, _, revision = model_id.partition("@")
    return HFDetectorModel(
        name,
        revision,
        cache_dir=config.cache_dir,
        extraction_layers=layers,
        local_files_only=config.local_files_only,
    )


def build(
    data: Path,
    out: Path,
    model: DetectorModel,
    options: CompileOptions,
    licences: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> Codebook:
    """Compile the texts of `data` with `model` and write the codebook to `out`.

    `licences` says where each file comes from, by file name; it is recorded.
    `cache` is a directory that keeps activations for a run that is resumed.
    Raises `DataError` for data that cannot be read or that lacks a class, and
    `ModelError` for the model.
    """
    chosen, files = chosen_examples(data, options)
    rows = Rows.of(chosen)
    _check_classes(rows, data)
    blocks = extract(model, chosen, options.windows, options.max_tokens, cache)
    basis, mean = fit_basis(blocks, rows, options)
    places = place_means(blocks, basis, mean, options.windows)
    fitted = {
        role: fit_role(role, places, rows, options.head, options.seed) for role in get_args(Role)
    }
    codebook = Codebook(
        identity=model.identity,
        layers=tuple(model.extraction_layers),
        windows=options.windows,
        basis=basis,
        mean=mean,
        regions={role: region for role, (region, _) in fitted.items()},
        thresholds={role: thresholds for role, (_, thresholds) in fitted.items()},
        provenance=_provenance(files, chosen, options, licences or {}),
    )
    write(codebook, out)
    return codebook


def chosen_examples(data: Path, options: CompileOptions) -> tuple[list[Example], list[DataFile]]:
    """The sampled and composed texts to compile from, and the files they are from."""
    everything, files = load_folder(data)
    sampled = sample(everything, options.rows_per_group, options.seed)
    composed = compose(sampled, options.poisoned, options.mixed, options.seed)
    return sampled + composed, files


def _check_classes(rows: Rows, data: Path) -> None:
    for role in get_args(Role):
        for attack in (False, True):
            if ((rows.role == role) & (rows.attack == attack)).sum() < N_KNOTS:
                name = "attack" if attack else "benign"
                raise DataError(
                    f"{data}: holds fewer than {N_KNOTS} {name} rows of role {role!r}: add some"
                )


def fit_basis(blocks: Blocks, rows: Rows, options: CompileOptions) -> tuple[Array, Array]:
    """SVD of normal text only: `(layers, dimensions, hidden)` and the mean.

    The sign of each direction is fixed by making its largest entry positive.
    """
    from scipy.linalg import svd

    normal = np.flatnonzero(~rows.attack[blocks.example])
    rng = np.random.default_rng(options.seed)
    chosen = np.sort(rng.permutation(normal)[: options.svd_rows])
    bases, means = [], []
    for layer in range(blocks.states.shape[1]):
        states = blocks.states[chosen, layer].astype(np.float64)
        mean = states.mean(axis=0)
        _, _, directions = svd(states - mean, full_matrices=False)
        directions = directions[: options.n_dimensions]
        largest = np.abs(directions).argmax(axis=1)
        signs = np.sign(directions[np.arange(len(directions)), largest])
        bases.append(directions * signs[:, None])
        means.append(mean)
    return np.stack(bases).astype(np.float32), np.stack(means).astype(np.float32)


def _provenance(
    files: Sequence[DataFile],
    chosen: Sequence[Example],
    options: CompileOptions,
    licences: Mapping[str, Any],
) -> dict[str, Any]:
    counts = Counter(example.source for example in chosen if not example.composed)
    return {
        "files": [
            {
                "name": file.name,
                "sha256": file.sha256,
                "rows": file.rows,
                "rows_used": counts[Path(file.name).stem],
                **licences.get(file.name, {"origin": "not stated", "licence": "not stated"}),
            }
            for file in files
        ],
        "composed": sum(example.composed for example in chosen),
        "options": asdict(options),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "onnxruntime", "tokenizers")},
            "alknet-firewall": version("alknet-firewall"),
        },
    }
