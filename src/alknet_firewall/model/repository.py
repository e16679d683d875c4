"""A Hugging Face model's folder: where it is, what in it may be opened, its checksum.

Only safetensors are ever opened (ADR-0005), and only files that are named
here are downloaded: no pickle and no Python file reaches the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import (
    CacheError,
    ConfigError,
    ModelError,
    UnsafeWeightsError,
    UnsupportedModelError,
    WeightsNotFoundError,
    WeightsVerificationError,
)

__all__ = [
    "check_revision",
    "check_sha256",
    "combined_sha256",
    "find_folder",
    "hub_errors",
    "safetensors_files",
    "sha256",
]

_DOWNLOADED = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
]
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_COMMIT = re.compile("[0-9a-f]{40}")


def check_revision(model_id: str, revision: str) -> None:
    """Raise `ConfigError` unless a hub repository is pinned to one commit."""
    if not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{model_id}: there is no such folder, and a repository on the hub must be pinned by a "
            f"full commit hash (40 hex digits), not {revision!r}: copy the hash of the commit that "
            "you checked from the repository's history"
        )


def find_folder(
    model_id: str, commit: str | None, *, cache_dir: str | None, local_files_only: bool
) -> Path:
    """The folder of a model: from the hub, at a commit; without one, `model_id` itself.

    Raises `WeightsNotFoundError`, `UnsafeWeightsError` if the repository holds
    pickled weights only, `CacheError` if the download cannot be written.
    """
    if commit is None:
        return Path(model_id)
    from huggingface_hub import snapshot_download

    with hub_errors(_how_to_get(model_id, commit)):
        folder = Path(
            snapshot_download(
                model_id,
                revision=commit,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=_DOWNLOADED,
            )
        )
        if not _has_weights(folder):
            _refuse_pickle(model_id, _listed(model_id, commit, local_files_only))
            raise WeightsNotFoundError(_how_to_get(model_id, commit))
    return folder


def safetensors_files(folder: Path) -> list[Path]:
    """The weights files that will be opened: one, or the shards of the index.

    Raises `UnsafeWeightsError` or `WeightsNotFoundError` where there are none.
    """
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        _refuse_pickle(str(folder), [path.name for path in folder.iterdir()])
        raise WeightsNotFoundError(
            f"{folder}: there is neither {_SINGLE} nor {_INDEX} in it: pass the folder of a model "
            "saved as safetensors"
        )
    return [_shard(folder, name) for name in _shard_names(folder / _INDEX)]


def sha256(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined_sha256(files: Sequence[Path]) -> str:
    """One checksum for weights in one or many files.

    One file: its own sha256. Shards: the sha256 of the text that `sha256sum`
    prints for them, in the order of their names.
    """
    if len(files) == 1:
        return sha256(files[0])
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_sha256(what: str | Path, actual: str, expected: str) -> None:
    """Raise `WeightsVerificationError` unless the two are equal."""
    if actual != expected:
        raise WeightsVerificationError(
            f"{what}: its sha256 is {actual} and must be {expected}: delete the file and let it "
            "be fetched again"
        )


@contextmanager
def hub_errors(how_to_get: str) -> Iterator[None]:
    """Turn what downloading may raise into `WeightsNotFoundError` or `CacheError`.

    The original error is neither quoted nor chained: HTTP libraries quote the
    header they reject, and the token is one.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001  whatever it was, there are no weights
        if isinstance(error, OSError) and _is_of_the_disk(error):
            place = error.filename or "the hub's cache"
            raise CacheError(
                f"{place}: the download cannot be written ({error.strerror}): free space or "
                "permissions there, or set HF_HOME (or `cache_dir`) to another directory"
            ) from None
        raise WeightsNotFoundError(f"{how_to_get} ({_reason(error)})") from None


def _is_of_the_disk(error: OSError) -> bool:
    """The hub's own errors are OSErrors too: those have no errno, or are about a
    connection, or say that a file is not in the cache."""
    network = isinstance(error, (ConnectionError, TimeoutError, FileNotFoundError))
    return bool(error.errno) and not network


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub answered HTTP {status}: the repository needs a valid HF_TOKEN"
    return f"the hub answered HTTP {status}" if status else type(error).__name__


def _how_to_get(model_id: str, revision: str) -> str:
    return (
        f"the model {model_id} at revision {revision} is neither a local folder, nor in the cache, "
        "nor can it be downloaded now. Get it in one of these ways: load it once where the "
        "Hugging Face Hub can be reached (unset HF_HUB_OFFLINE and `local_files_only`); copy the "
        "cache of a machine that has it and set HF_HOME or `cache_dir` to it; or pass a local "
        "folder with its config.json, tokenizer.json and model.safetensors"
    )


def _has_weights(folder: Path) -> bool:
    return (folder / _SINGLE).exists() or (folder / _INDEX).exists()


def _listed(model_id: str, revision: str, local_files_only: bool) -> list[str]:
    """The names of a repository's files, for saying why there are no weights."""
    if local_files_only:
        return []
    from huggingface_hub import list_repo_files

    return list(list_repo_files(model_id, revision=revision))


def _refuse_pickle(where: str, names: Sequence[str]) -> None:
    pickled = sorted(name for name in names if name.endswith(_PICKLED))
    if pickled:
        raise UnsafeWeightsError(
            f"{where}: its weights are pickled ({pickled[0]}), which can run code when opened, so "
            "they never are: use a model, or a revision of this one, saved as safetensors"
        )


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{index}: is not an index of safetensors: fetch the model again"
        ) from error
    return [str(name) for name in names]


def _shard(folder: Path, name: str) -> Path:
    # The loader opens what the index names, by its ending: a pickle or a file
    # outside the folder must not get there.
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise UnsafeWeightsError(
            f"{folder / _INDEX}: it names {name!r}, which is not a safetensors file of this "
            "folder: use a model saved as safetensors"
        )
    if not (folder / name).is_file():
        raise WeightsNotFoundError(
            f"{folder}: {name}, named by {_INDEX}, is missing: fetch the model again"
        )
    return folder / name
