"""Labelled text -> codebook: the one offline step.

    sample and compose ─▶ hidden states ─▶ SVD basis of normal text ─▶ z along every window
      ─▶ one head; per role: thresholds, splines, profile ─▶ four files

Compiling the same files with the same options twice gives the same bytes.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np

from ..alarm import Role
from ..codebook import Codebook
from ..codebook.detection import Region, WindowShape
from ..codebook.files import write
from ..codebook.splines import N_KNOTS, fit_splines
from ..codebook.surprisal import Surprisal
from ..config import FirewallConfig
from ..errors import DataError, UnsupportedModelError
from ..model.embedded import DEFAULT_LAYERS, EmbeddedModel
from ..model.protocol import DetectorModel
from .activations import LONGEST, extract, read_layers
from .anomalies import anomaly_limit
from .basis import Basis, fit_basis
from .compose import ComposeOptions, compose
from .cuts import cut
from .data_loader import DataFile, Example, load_folder, sample
from .fitting import Task, fit
from .heads import HeadOptions
from .held_out import held_out_figures
from .lexical import read_buckets
from .sequences import Rows, Targets, read_sequences, run_means
from .stats import fit_profile
from .surprisal import SurprisalOptions, fit_surprisal, limited, window_peaks

__all__ = ["CompileOptions", "build", "cache_folder", "chosen_examples", "open_model", "prepare"]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a compilation depends on, besides the data and the model."""

    n_dimensions: int = 256
    rows_per_group: int = 500
    """Harmless rows of each source and role; of attacks, which are fewer, twice as many."""
    composed: ComposeOptions = field(default_factory=ComposeOptions)
    max_tokens: int = LONGEST
    windows: WindowShape = field(default_factory=WindowShape)
    head: HeadOptions = field(default_factory=HeadOptions)
    svd_blocks: int = 60_000
    surprisal: SurprisalOptions = field(default_factory=SurprisalOptions)
    seed: int = 0


def open_model(
    model_id: str | None, layers: tuple[int, ...] | None, config: FirewallConfig
) -> DetectorModel:
    """The embedded model, or the Hugging Face one named `ID@REVISION` or by its folder."""
    layers = (0, *(layers or DEFAULT_LAYERS))  # surprisal reads the embedding
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
    with cache_folder(cache) as folder:
        prepared = prepare(model, chosen, rows, options, folder)
    task, basis = prepared.task, prepared.basis
    fitted = fit(task, options.n_dimensions)
    codebook = Codebook(
        identity=model.identity,
        layers=tuple(read_layers(model)),
        windows=options.windows,
        basis=basis.vectors,
        mean=basis.mean,
        surprisal=prepared.surprisal,
        head=fitted.head,
        early=fitted.early,
        lexical=fitted.lexical,
        regions={role: _region(role, task, options) for role in get_args(Role)},
        thresholds=fitted.thresholds,
        provenance={
            **_provenance(files, chosen, options, licences or {}),
            "held_out": held_out_figures(chosen, fitted.held_out),
        },
    )
    write(codebook, out)
    return codebook


@dataclass(frozen=True, slots=True)
class Prepared:
    """What heads are trained from, and what hidden states are read with."""

    task: Task
    basis: Basis
    surprisal: Surprisal


def prepare(
    model: DetectorModel,
    chosen: Sequence[Example],
    rows: Rows,
    options: CompileOptions,
    cache: Path,
) -> Prepared:
    """Texts to the sequences a head is trained from. Raises `UnsupportedModelError` for a
    model that does not give layer 0, the embedding."""
    if 0 not in model.extraction_layers:
        layers = [0, *model.extraction_layers]
        raise UnsupportedModelError(
            f"{model.model_id}: surprisal needs the embedding, which is layer 0: construct the "
            f"model with extraction_layers={layers}"
        )
    model.load()
    surprisal = fit_surprisal(model, chosen, options.surprisal, options.seed)
    chunks = extract(model, chosen, options.windows, options.max_tokens, cache, surprisal)
    basis = fit_basis(
        chunks, ~rows.attack, options.n_dimensions, blocks=options.svd_blocks, seed=options.seed
    )
    cuts = cut(model, chosen, options.windows, options.max_tokens)
    sequences = read_sequences(chunks, basis).with_parts(cuts.window, cuts.blocks)
    words = read_buckets(cuts.wordings)
    targets = Targets.of(sequences, rows)
    peaks = window_peaks(sequences)
    surprisal = limited(surprisal, peaks, sequences, rows)
    surprise = surprisal.log_odds(peaks)
    task = Task(sequences, words, surprise, rows, targets, basis.scale, options.head, options.seed)
    return Prepared(task, basis, surprisal)


@contextmanager
def cache_folder(cache: Path | None) -> Iterator[Path]:
    """The cache directory, or one that is gone afterwards."""
    if cache:
        yield cache
    else:
        with TemporaryDirectory(prefix="alknet-firewall-") as folder:
            yield Path(folder)


def _region(role: Role, task: Task, options: CompileOptions) -> Region:
    """Splines and profile of the role's normal text, over runs of blocks."""
    rows, example = task.rows, task.sequences.example
    mine = (rows.role == role)[example] & ~task.sequences.part
    attack = task.targets.labels[:, 0] > 0
    normal, hostile = (
        run_means(task.sequences, mine & chosen, options.windows.run, task.scale)
        for chosen in (~rows.attack[example], attack)
    )
    profile = fit_profile(normal, hostile, options.n_dimensions)
    limit = anomaly_limit(task.first(options.n_dimensions), role, options.windows)
    return Region(profile, fit_splines(normal.astype(np.float64)), limit)


def chosen_examples(data: Path, options: CompileOptions) -> tuple[list[Example], list[DataFile]]:
    """The sampled and composed texts to compile from, and the files they are from."""
    everything, files = load_folder(data)
    limits = {"benign": options.rows_per_group, "attack": 2 * options.rows_per_group}
    sampled = [
        example
        for label, limit in limits.items()
        for example in sample((e for e in everything if e.label == label), limit, options.seed)
    ]
    composed = compose(sampled, options.composed, options.seed)
    return sampled + composed, files


def _check_classes(rows: Rows, data: Path) -> None:
    for role in get_args(Role):
        for attack in (False, True):
            if ((rows.role == role) & (rows.attack == attack)).sum() < N_KNOTS:
                name = "attack" if attack else "benign"
                raise DataError(
                    f"{data}: holds fewer than {N_KNOTS} {name} rows of role {role!r}: add some"
                )


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
