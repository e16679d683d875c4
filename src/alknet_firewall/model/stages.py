"""The engine's graphs, one from each extraction layer to the next, built from the weights.

Quantising them takes a second and several hundred megabytes, so those of int8
are kept in the cache.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Precision
from .cache import cached_folder
from .smoothing import Tensors, largest_seen, smoothed
from .weights import WeightsSource

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["build_stages", "kept_stages", "stage_files"]

_BESIDE = ("config.json", "tokenizer.json")
_MAKERS = ("graph.py", "smoothing.py", "stages.py")


def kept_stages(
    weights: Callable[[], Path],
    source: WeightsSource,
    layers: Sequence[int],
    cache_dir: Path | None,
) -> Path:
    """The folder of the int8 graphs, with the tokenizer and the model's config.

    `weights` gives the folder of the prepared weights, and is called only if the
    graphs are not there. Raises what it raises, and `CacheError`.
    """

    def write(folder: Path) -> None:
        prepared = weights()
        for number, graph in enumerate(build_stages(prepared, layers, "int8", source.smoothing)):
            (folder / f"stage-{number}.onnx").write_bytes(graph.SerializeToString())
        for name in _BESIDE:
            shutil.copy(prepared / name, folder / name)

    stages = {f"stage-{number}.onnx" for number in range(len(layers))}
    name = f"{Path(source.filename).stem}-{source.sha256[:12]}-int8-{_recipe(source, layers)}"
    return cached_folder(cache_dir, name, {*_BESIDE, *stages}, write)


def stage_files(folder: Path) -> list[Path]:
    """The graphs in their order."""
    return sorted(folder.glob("stage-*.onnx"), key=lambda path: int(path.stem.rpartition("-")[2]))


def build_stages(
    weights: Path, layers: Sequence[int], precision: Precision, smoothing: str
) -> Iterator[ModelProto]:
    """The graphs of a folder of prepared weights; `smoothing` is for int8 and may be empty."""
    # Imported here: onnx takes a tenth of a second, and kept graphs do not need it.
    from .graph import LlamaShape, build_graph

    config = json.loads((weights / "config.json").read_text("utf-8"))
    shape, tensors = LlamaShape.from_config(config), _tensors(weights, precision, smoothing)
    for number, blocks in enumerate(itertools.pairwise([0, *layers])):
        yield build_graph(tensors, shape, range(*blocks), precision, embedding=number == 0)


def _tensors(weights: Path, precision: Precision, smoothing: str) -> Tensors:
    from safetensors.numpy import load_file

    tensors = load_file(weights / "model.safetensors")
    if precision == "fp32" or not smoothing:
        return tensors
    return smoothed(tensors, largest_seen(smoothing))


def _recipe(source: WeightsSource, layers: Sequence[int]) -> str:
    """What the graphs are made from besides the weights: the code that makes them, too, or
    a change to it would go on with the old ones."""
    package = resources.files(__package__)
    parts = [*_MAKERS, *([source.smoothing] if source.smoothing else [])]
    content = b"".join(package.joinpath(part).read_bytes() for part in parts)
    return hashlib.sha256(repr(list(layers)).encode() + content).hexdigest()[:12]
