"""The four files of a codebook: reading with every check, and writing.

    basis.safetensors    basis_vectors, mean; surprisal
    regions.safetensors  per role: profile arrays; the heads'; n-gram weights
    splines.json         per role: knots, coefficients, tail_decay
    config.json          model binding, windows, thresholds, provenance

docs/codebook.md describes them. Nothing here runs code from a file: tensors
are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..config import Thresholds
from ..errors import CodebookError, CodebookFormatError
from ..model.protocol import ModelIdentity
from ..model.repository import sha256
from .codebook import Codebook
from .detection import EarlyExit, Region, WindowShape
from .head import ROLES, WIDTH, HeadMember, SequenceHead
from .lexical import BUCKETS, LexicalTable
from .profiles import DirectionProfile
from .splines import SplineTable
from .surprisal import Surprisal

__all__ = ["fetch", "read", "write"]

BASIS, REGIONS, SPLINES, CONFIG = (
    "basis.safetensors",
    "regions.safetensors",
    "splines.json",
    "config.json",
)
FORMAT = 7

Array = NDArray[np.float32]
_T = TypeVar("_T")
_STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class CodebookConfig:
    """`config.json`."""

    __pydantic_config__: ClassVar[Any] = _STRICT
    format: int
    model_id: str
    model_revision: str
    weights_sha256: str
    engine: str
    hidden_dim: int
    n_dimensions: int
    layers: tuple[int, ...]
    windows: WindowShape
    thresholds: dict[Role, Thresholds]
    settled_below: dict[Role, float] | None
    anomaly_limit: dict[Role, float]
    files: dict[str, str]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Format:
    format: int


@dataclass(frozen=True)
class SplineFile:
    """One role in `splines.json`; each list has one entry per dimension, layer by layer.

    `coefficients` are pairs (CDF, its slope), one pair for each knot.
    """

    __pydantic_config__: ClassVar[Any] = _STRICT
    knots: list[list[float]]
    coefficients: list[list[tuple[float, float]]]
    tail_decay: list[tuple[float, float]]


def read(path: Path) -> Codebook:
    """Read and check a codebook directory. Raises `CodebookFormatError`."""
    # Before the rest, which another format may not have.
    format_ = _parse(path / CONFIG, _Format).format
    _check(format_ == FORMAT, path / CONFIG, f"its format is {format_} and not {FORMAT}")
    config = _parse(path / CONFIG, CodebookConfig)
    _check(set(config.thresholds) == set(get_args(Role)), path / CONFIG, "a role has no thresholds")
    ascending = all(lower < upper for lower, upper in pairwise((0, *config.layers)))
    _check(ascending, path / CONFIG, "layers are not numbers above 0 in their order")
    shape = config.windows
    _check(
        0 <= shape.overlap < shape.tokens and shape.block > 0 and shape.run > 0,
        path / CONFIG,
        "its windows cannot be cut (0 <= overlap < tokens, block and run above 0)",
    )
    for name in (BASIS, REGIONS, SPLINES):
        _check(_sha256(path / name) == config.files.get(name), path / name, "its sha256 differs")
    basis, regions = _Tensors(path / BASIS), _Tensors(path / REGIONS)
    layers, dimensions, hidden = len(config.layers), config.n_dimensions, config.hidden_dim
    return Codebook(
        identity=ModelIdentity(
            config.model_id, config.model_revision, config.weights_sha256, config.engine
        ),
        layers=config.layers,
        windows=config.windows,
        basis=basis.take("basis_vectors", (layers, dimensions, hidden)),
        mean=basis.take("mean", (layers, hidden)),
        surprisal=_surprisal(basis, hidden),
        head=_head(regions, "head", layers * dimensions),
        early=_early(regions, config, path / CONFIG),
        lexical=LexicalTable(regions.take("lexical.weights", (2 * BUCKETS, len(ROLES)))),
        regions=MappingProxyType(_regions(regions, path, config)),
        thresholds=MappingProxyType(config.thresholds),
        provenance=MappingProxyType(config.provenance),
    )


def write(codebook: Codebook, path: Path) -> None:
    """Write the four files; the same codebook gives the same bytes."""
    from safetensors.numpy import save

    path.mkdir(parents=True, exist_ok=True)
    basis = {"basis_vectors": codebook.basis, "mean": codebook.mean}
    basis |= _named("surprisal", codebook.surprisal)
    # `save_file` would write them for the owner alone, and others may run what one compiled.
    (path / BASIS).write_bytes(save(_contiguous(basis)))
    (path / REGIONS).write_bytes(save(_contiguous(_region_tensors(codebook))))
    _write_json(path / SPLINES, {r: asdict(_spline_file(codebook, r)) for r in get_args(Role)})
    config = CodebookConfig(
        format=FORMAT,
        model_id=codebook.identity.model_id,
        model_revision=codebook.identity.revision,
        weights_sha256=codebook.identity.weights_sha256,
        engine=codebook.identity.engine,
        hidden_dim=codebook.mean.shape[1],
        n_dimensions=codebook.basis.shape[1],
        layers=codebook.layers,
        windows=codebook.windows,
        thresholds=dict(codebook.thresholds),
        settled_below=dict(codebook.early.below) if codebook.early else None,
        anomaly_limit={role: region.anomaly_limit for role, region in codebook.regions.items()},
        files={name: _sha256(path / name) for name in (BASIS, REGIONS, SPLINES)},
        provenance=dict(codebook.provenance),
    )
    _write_json(path / CONFIG, asdict(config))


def fetch(repo_id: str, revision: str, *, cache_dir: str | None, local_files_only: bool) -> Path:
    """Download the four files from the hub; returns their directory."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=[BASIS, REGIONS, SPLINES, CONFIG],
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CodebookError(
            f"the codebook {repo_id} at revision {revision} cannot be downloaded and is not in the "
            "cache: check the name, the network and HF_HUB_OFFLINE, or pass a local directory to "
            "Codebook.load"
        ) from error


def _regions(tensors: _Tensors, path: Path, config: CodebookConfig) -> dict[Role, Region]:
    splines = _parse(path / SPLINES, dict[Role, SplineFile])
    limits, shape = config.anomaly_limit, (len(config.layers), config.n_dimensions)
    sound = set(limits) == set(get_args(Role)) and all(limits[role] > 0 for role in limits)
    _check(sound, path / CONFIG, "anomaly_limit does not have a number above 0 for each role")
    return {
        role: Region(
            profile=_profile(tensors, role, shape),
            splines=_spline_table(splines.get(role), path / SPLINES, shape[0] * shape[1]),
            anomaly_limit=limits[role],
        )
        for role in get_args(Role)
    }


class _Tensors:
    """The tensors of one safetensors file, handed out only when they are as stated."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self._path = path
        try:
            self._tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise CodebookFormatError(f"{path}: cannot be read ({error})") from error

    def take(self, name: str, shape: tuple[int | None, ...]) -> Array:
        """A finite float32 tensor of this shape (None: any size), not writable."""
        array = self._tensors.get(name)
        if array is None:
            raise CodebookFormatError(f"{self._path}: the tensor {name!r} is missing")
        fits = len(array.shape) == len(shape) and all(
            wanted in (None, size) for size, wanted in zip(array.shape, shape, strict=True)
        )
        _check(fits, self._path, f"{name!r} has shape {array.shape} and must have {shape}")
        _check(array.size > 0, self._path, f"{name!r} is empty")
        _check(array.dtype == np.float32, self._path, f"{name!r} is {array.dtype}, not float32")
        _check(bool(np.isfinite(array).all()), self._path, f"{name!r} has values not finite")
        return _frozen(array)


def _profile(tensors: _Tensors, role: Role, shape: tuple[int, int]) -> DirectionProfile:
    arrays = {f.name: tensors.take(f"{role}.{f.name}", shape) for f in fields(DirectionProfile)}
    if not (arrays["scale"] > 0).all():
        raise CodebookFormatError(f"the tensor '{role}.scale' has values that are not above 0")
    return DirectionProfile(**arrays)


def _early(tensors: _Tensors, config: CodebookConfig, path: Path) -> EarlyExit | None:
    below = config.settled_below
    if below is None:
        return None
    sound = set(below) == set(get_args(Role)) and all(
        0 <= below[role] <= config.thresholds[role].suspicious for role in below
    )
    _check(sound, path, "settled_below does not have a score up to SUSPICIOUS for each role")
    return EarlyExit(_head(tensors, "early", config.n_dimensions), MappingProxyType(below))


def _surprisal(tensors: _Tensors, hidden: int) -> Surprisal:
    def take(name: str, *shape: int | None) -> Array:
        return tensors.take(f"surprisal.{name}", shape)

    before = take("before_weight", hidden, None)
    rank = before.shape[1]
    return Surprisal(
        before_weight=before,
        before_bias=take("before_bias", rank),
        token_weight=take("token_weight", hidden, rank),
        token_bias=take("token_bias", rank),
        offset=take("offset", 1),
        typical=take("typical", 1),
        limit=take("limit", len(ROLES)),
        slope=take("slope", len(ROLES)),
    )


def _head(tensors: _Tensors, prefix: str, inputs: int) -> SequenceHead:
    scale = tensors.take(f"{prefix}.scale", (inputs,))
    if not (scale > 0).all():
        raise CodebookFormatError(f"the tensor '{prefix}.scale' has values that are not above 0")
    words = tensors.take(f"{prefix}.words", (len(ROLES),))
    return SequenceHead(scale, _members(tensors, prefix, inputs), words)


def _members(tensors: _Tensors, prefix: str, inputs: int) -> HeadMember:
    members, _, units = tensors.take(f"{prefix}.embed_weight", (None, inputs, None)).shape
    queries = tensors.take(f"{prefix}.query_weight", (members, units, None)).shape[2]
    into_hidden = (members, (queries + 1) * units, None)
    hidden = tensors.take(f"{prefix}.hidden_weight", into_hidden).shape[2]

    def take(name: str, *shape: int) -> Array:
        return tensors.take(f"{prefix}.{name}", (members, *shape))

    sizes = {
        "embed": (inputs, units),
        "conv1": (WIDTH * units, units),
        "conv2": (WIDTH * units, units),
        "own": (units, units),
        "query": (units, queries),
        "block": (units, len(ROLES)),
        "hidden": ((queries + 1) * units, hidden),
        "output": (hidden, len(ROLES)),
    }
    arrays = {f"{name}_weight": take(f"{name}_weight", *size) for name, size in sizes.items()}
    arrays |= {f"{name}_bias": take(f"{name}_bias", 1, size[1]) for name, size in sizes.items()}
    return HeadMember(whole_weight=take("whole_weight", units, units), **arrays)


def _spline_table(stored: SplineFile | None, path: Path, dimensions: int) -> SplineTable:
    if stored is None:
        raise CodebookFormatError(f"{path}: a role has no splines")
    knots, coefficients = _matrix(stored.knots, path), _matrix(stored.coefficients, path)
    decay = _matrix(stored.tail_decay, path)
    _check(len(knots) == dimensions and knots.shape[1:] >= (2,), path, "wrong number of knots")
    _check(coefficients.shape == (*knots.shape, 2), path, "knots and coefficients do not match")
    _check(decay.shape == (dimensions, 2), path, "wrong number of tail rates")
    values, slopes = coefficients[..., 0], coefficients[..., 1]
    _check(bool((np.diff(knots) > 0).all()), path, "knots are not strictly increasing")
    _check(bool((np.diff(values) > 0).all()), path, "the CDF is not increasing at the knots")
    _check(bool(values.min() > 0 and values.max() < 1), path, "the CDF leaves (0, 1)")
    _check(_is_monotone(knots, values, slopes), path, "the slopes make the CDF decrease")
    _check(bool((decay > 0).all()), path, "a tail rate is not above 0")
    return SplineTable(_frozen(knots), _frozen(values), _frozen(slopes), _frozen(decay))


def _is_monotone(
    knots: NDArray[np.float64], values: NDArray[np.float64], slopes: NDArray[np.float64]
) -> bool:
    """Sufficient for a monotone cubic: 0 <= slope <= 3 * secant (Fritsch and Carlson, 1980)."""
    secants = np.diff(values) / np.diff(knots)
    limit = 3 * secants * (1 + 1e-9)
    return bool(
        (slopes >= 0).all() and (slopes[:, :-1] <= limit).all() and (slopes[:, 1:] <= limit).all()
    )


def _matrix(rows: list[Any], path: Path) -> NDArray[np.float64]:
    try:
        matrix = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise CodebookFormatError(f"{path}: dimensions have different numbers of knots") from error
    _check(bool(np.isfinite(matrix).all()), path, "has values that are not finite")
    return matrix


def _contiguous(tensors: dict[str, Array]) -> dict[str, Array]:
    """safetensors writes memory as it lies: another order would be read back wrong."""
    return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}


def _region_tensors(codebook: Codebook) -> dict[str, Array]:
    tensors = {"lexical.weights": codebook.lexical.weights}
    for role, region in codebook.regions.items():
        tensors |= _named(role, region.profile)
    heads = {"head": codebook.head} | ({"early": codebook.early.head} if codebook.early else {})
    for name, head in heads.items():
        tensors |= {f"{name}.scale": head.scale, f"{name}.words": head.words}
        tensors |= _named(name, head.members)
    return tensors


def _named(name: str, part: DirectionProfile | HeadMember | Surprisal) -> dict[str, Array]:
    return {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}


def _spline_file(codebook: Codebook, role: Role) -> SplineFile:
    table = codebook.regions[role].splines
    return SplineFile(
        knots=table.knots.tolist(),
        coefficients=np.stack([table.values, table.slopes], axis=-1).tolist(),
        tail_decay=table.tail_decay.tolist(),
    )


def _frozen(array: NDArray[_T]) -> NDArray[_T]:  # type: ignore[type-var]
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _parse(path: Path, shape: type[_T]) -> _T:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(shape).validate_json(path.read_bytes())
    except OSError as error:
        raise CodebookFormatError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CodebookFormatError(f"{path}: {key}: {first['msg']}") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise CodebookFormatError(f"{path}: cannot be read ({error.strerror})") from error


def _check(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise CodebookFormatError(f"{path}: {problem}: compile or download the codebook again")
