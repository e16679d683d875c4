"""Labelled text -> codebook: the one offline step.

    sample and compose ─▶ hidden states ─▶ SVD basis of normal text ─▶ z of every place
      ─▶ per role: splines, profile, classifier, thresholds ─▶ four files

Compiling the same files with the same options twice gives the same bytes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook import Codebook
from ..codebook.classifiers import DirectionClassifier, direction_features, sigmoid
from ..codebook.detection import Region, WindowShape
from ..codebook.files import write
from ..codebook.profiles import DirectionProfile
from ..codebook.projection import project, roll
from ..codebook.splines import N_KNOTS, fit_splines
from ..config import FirewallConfig, Thresholds
from ..errors import DataError
from ..model.embedded import DEFAULT_LAYERS, EmbeddedModel
from ..model.protocol import DetectorModel
from . import stats
from .activations import Blocks, extract
from .compose import SOURCE as COMPOSED
from .compose import compose
from .data_loader import DataFile, Example, load_folder, sample
from .heads import HeadOptions, fit_classifier, platt

__all__ = ["CompileOptions", "build", "open_model"]

Array = NDArray[np.float32]

SUSPICIOUS_RATE, DANGEROUS_RATE = 0.01, 0.001


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
    folds: int = 5
    """Groups of sources that are held out in turn to set scores and thresholds."""
    svd_rows: int = 60_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """Every scored place of every text: its mean z and where it is from.

    `z` is `(places, layers, dimensions)`; `injected` and `tokens` count tokens.
    """

    z: Array
    tokens: NDArray[np.float64]
    injected: NDArray[np.float64]
    example: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples as arrays."""

    attack: NDArray[np.bool_]
    role: NDArray[np.str_]
    source: NDArray[np.str_]
    known: NDArray[np.bool_]
    """The injected string of this attack is known."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        return cls(
            attack=np.array([example.label == "attack" for example in examples]),
            role=np.array([example.role for example in examples]),
            source=np.array([example.source for example in examples]),
            known=np.array([example.injection is not None for example in examples]),
        )


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
    return HFDetectorModel(name, revision, extraction_layers=layers)


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
    everything, files = load_folder(data)
    chosen = sample(everything, options.rows_per_group, options.seed)
    chosen += compose(chosen, options.poisoned, options.mixed, options.seed)
    rows = Rows.of(chosen)
    _check_classes(rows, data)
    blocks = extract(model, chosen, options.windows, options.max_tokens, cache)
    basis, mean = fit_basis(blocks, rows, options)
    places = place_means(blocks, basis, mean, options.windows)
    fitted = {
        role: _fit_role(role, places, rows, options)
        for role in tqdm(get_args(Role), desc="fitting", unit="role")
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


def place_means(blocks: Blocks, basis: Array, mean: Array, shape: WindowShape) -> Places:
    """The mean z of every run of blocks, as detection will see it."""
    sums = project(blocks.states.astype(np.float32), basis, mean) * blocks.tokens[:, None, None]
    edges = np.flatnonzero(np.diff(blocks.example) | np.diff(blocks.window)) + 1
    pieces = []
    for start, end in zip([0, *edges], [*edges, len(sums)], strict=True):
        sizes, injected = blocks.tokens[start:end], blocks.injected[start:end]
        run = min(shape.run, end - start)
        count = np.convolve(sizes, np.ones(run), "valid")
        hit = np.convolve(injected, np.ones(run), "valid")
        means = roll(sums[start:end], sizes.astype(np.intp), run)
        pieces.append((means, count, hit, np.repeat(blocks.example[start], len(means))))
    return Places(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


@dataclass(frozen=True, slots=True)
class _Task:
    """One role's classification task: a feature row and a label for every place."""

    role: Role
    features: Array
    labels: Array
    usable: NDArray[np.bool_]
    places: Places
    rows: Rows
    options: CompileOptions

    def fit(self, chosen: NDArray[np.bool_]) -> DirectionClassifier:
        index = np.flatnonzero(chosen)
        weights = place_weights(self.labels[index], self.places.example[index], self.rows)
        return fit_classifier(
            self.features[index], self.labels[index], weights, self.options.head, self.options.seed
        )


def _fit_role(
    role: Role, places: Places, rows: Rows, options: CompileOptions
) -> tuple[Region, Thresholds]:
    labels, usable = place_labels(role, places, rows)
    normal = places.z[(rows.role == role)[places.example] & ~rows.attack[places.example]]
    profile = _profile(normal, places.z[usable & (labels > 0)])
    features = direction_features(places.z, profile.centroids, profile.scale)
    task = _Task(role, features, labels, usable, places, rows, options)
    held_out = _held_out_logits(task)
    mine = (rows.role == role) & np.isfinite(held_out)
    slope, offset = platt(held_out[mine], rows.attack[mine])
    splines = fit_splines(normal.reshape(len(normal), -1).astype(np.float64))
    region = Region(profile, splines, task.fit(usable).rescaled(slope, offset))
    return region, _thresholds(sigmoid(slope * held_out[mine] + offset), rows, mine)


def place_labels(role: Role, places: Places, rows: Rows) -> tuple[Array, NDArray[np.bool_]]:
    """(1 for attack, which places to train on) for one role.

    A place is an attack if it holds half of a known injection, or is half
    filled by it. Places that hold less of one are used for neither class.
    """
    attack, known = rows.attack[places.example], rows.known[places.example]
    total = np.zeros(len(rows.attack))
    np.maximum.at(total, places.example, places.injected)
    holds = places.injected >= 0.5 * np.maximum(total[places.example], 1)
    filled = places.injected >= 0.5 * places.tokens
    positive = attack & (~known | holds | filled)
    unclear = attack & ~positive & (places.injected > 0)
    return positive.astype(np.float32), _relevant(role, rows)[places.example] & ~unclear


def _relevant(role: Role, rows: Rows) -> NDArray[np.bool_]:
    """The texts that teach about a role: its own, and for `tool` every attack.

    What a user must not ask, a document must not ask either; the reverse does
    not hold, since an ordinary request is an attack only inside a document.
    """
    mine: NDArray[np.bool_] = rows.role == role
    return mine | rows.attack if role == "tool" else mine


def _profile(normal: Array, attacks: Array) -> DirectionProfile:
    shape = normal.shape[1:]
    a, b = attacks.reshape(len(attacks), -1), normal.reshape(len(normal), -1)
    columns = a.astype(np.float64), b.astype(np.float64)
    arrays = (
        columns[1].mean(axis=0),
        np.maximum(columns[1].std(axis=0), 1e-6),
        columns[0].mean(axis=0),
        stats.cohen_d(*columns),
        stats.silhouette(*columns),
    )
    return DirectionProfile(*(array.reshape(shape).astype(np.float32) for array in arrays))


def place_weights(labels: Array, example: NDArray[np.int32], rows: Rows) -> NDArray[np.float64]:
    """How often each place is drawn: classes equal; within a class, a source by
    the square root of its size, and a text by the square root of its places."""
    weights = 1 / np.sqrt(np.bincount(example, minlength=len(rows.attack))[example])
    groups = np.unique(
        np.stack([labels.astype(np.str_), rows.source[example]]), axis=1, return_inverse=True
    )[1]
    weights /= np.sqrt(np.bincount(groups, weights=weights))[groups]
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    return weights


def _held_out_logits(task: _Task) -> NDArray[np.float64]:
    """For each text of the role, its highest logit from a classifier that saw
    nothing of its source; -inf where there is none."""
    places, rows = task.places, task.rows
    logits = np.full(len(rows.attack), -np.inf)
    for held_out in _folds(task):
        outside = np.isin(rows.source, held_out)[places.example]
        classifier = task.fit(task.usable & ~outside)
        judged = np.flatnonzero(outside & (rows.role == task.role)[places.example])
        found = classifier.logits(task.features[judged])
        np.maximum.at(logits, places.example[judged], found)
    return logits


def _folds(task: _Task) -> list[list[str]]:
    """The sources of a role dealt out so that each fold gets its share of attacks.

    Composed documents are in no fold: their carriers come from every source.
    """
    rows, folds = task.rows, task.options.folds
    mine = rows.role == task.role
    attacked = set(rows.source[mine & rows.attack])
    sources = sorted(set(rows.source[mine]) - {COMPOSED}, key=lambda s: (s not in attacked, s))
    return [[str(s) for s in sources[start::folds]] for start in range(min(folds, len(sources)))]


def _thresholds(scores: NDArray[np.floating], rows: Rows, mine: NDArray[np.bool_]) -> Thresholds:
    """Scores that 1 % and 0.1 % of held-out normal texts exceed, sources equal."""
    normal = ~rows.attack[mine]
    benign = np.asarray(scores[normal], dtype=np.float64)
    weights = stats.equal_source_weights(rows.source[mine][normal], rows.attack[mine][normal])
    suspicious, dangerous = (
        stats.threshold_at(benign, weights, rate) for rate in (SUSPICIOUS_RATE, DANGEROUS_RATE)
    )
    return Thresholds(suspicious, dangerous)


def _provenance(
    files: Sequence[DataFile],
    chosen: Sequence[Example],
    options: CompileOptions,
    licences: Mapping[str, Any],
) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for example in chosen:
        counts[example.source] = counts.get(example.source, 0) + 1
    return {
        "files": [
            {
                "name": file.name,
                "sha256": file.sha256,
                "rows": file.rows,
                "rows_used": counts.get(Path(file.name).stem, 0),
                **licences.get(file.name, {"origin": "not stated", "licence": "not stated"}),
            }
            for file in files
        ],
        "composed": counts.get(COMPOSED, 0),
        "options": asdict(options),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "onnxruntime", "tokenizers")},
            "alknet-firewall": version("alknet-firewall"),
        },
    }
