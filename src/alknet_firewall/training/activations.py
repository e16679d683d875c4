"""Texts -> hidden states, averaged over blocks of tokens."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ..codebook.detection import WindowShape
from ..codebook.projection import pool_blocks
from ..codebook.surprisal import Surprisal
from ..firewall import readable
from ..model.protocol import DetectorModel, Encoding
from ..windows import window_bounds
from .data_loader import Example

__all__ = [
    "LONGEST",
    "Blocks",
    "Chunk",
    "Places",
    "extract",
    "read_chunk",
    "read_layers",
    "read_places",
]

LONGEST = 448
"""Tokens of a training text that are read, two windows; screening has no such limit."""

_CHUNK = 1000  # texts stored together


@dataclass(frozen=True, slots=True)
class Places:
    """Where each block of tokens of each text comes from, in order.

    `tokens` is how many tokens it has, `injected` how many of them lie in the
    known injection; `example` and `window` number the text and its window, and
    `surprisal` is the mean over its tokens.
    """

    tokens: NDArray[np.int32]
    injected: NDArray[np.int32]
    example: NDArray[np.int32]
    window: NDArray[np.int32]
    surprisal: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks(Places):
    """Places with their hidden states.

    `states` is `(blocks, layers, hidden)` float16, the mean over the block's tokens.
    """

    states: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A file of blocks, and the number of its first text."""

    path: Path
    first: int


def extract(
    model: DetectorModel,
    examples: Sequence[Example],
    shape: WindowShape,
    max_tokens: int,
    cache: Path,
    surprisal: Surprisal,
) -> list[Chunk]:
    """Run the model, which gives layer 0 too, over the first `max_tokens` of every text.

    The same examples give the same arrays: texts are run one window at a time,
    so that no text's numbers depend on its neighbours. Finished chunks are
    kept in `cache`, and an interrupted run goes on where it stopped. They are
    files because together they do not fit into memory.
    """
    model.load()
    cache.mkdir(parents=True, exist_ok=True)
    chunks = []
    with tqdm(desc="extracting activations", unit="text", total=len(examples)) as bar:
        for start in range(0, len(examples), _CHUNK):
            texts = examples[start : start + _CHUNK]
            chunk = Chunk(cache / _key(model, texts, shape, max_tokens, surprisal), start)
            if not _is_whole(chunk):
                _store(_run(model, texts, shape, max_tokens, surprisal, bar), chunk.path)
            chunks.append(chunk)
            bar.update(start + len(texts) - bar.n)
    return chunks


def read_layers(model: DetectorModel) -> list[int]:
    """The layers whose states are kept: those that the model gives but for the embedding,
    which only surprisal reads."""
    return [layer for layer in model.extraction_layers if layer]


def read_chunk(chunk: Chunk) -> Blocks:
    """All of a chunk, its texts numbered as in the whole."""
    blocks = Blocks(**load_file(chunk.path))
    return replace(blocks, example=blocks.example + np.int32(chunk.first))


def read_places(chunk: Chunk) -> Places:
    """A chunk without its states, which are nearly all of it."""
    with safe_open(chunk.path, framework="numpy") as file:
        places = Places(**{field.name: file.get_tensor(field.name) for field in fields(Places)})
    return replace(places, example=places.example + np.int32(chunk.first))


def _run(
    model: DetectorModel,
    examples: Sequence[Example],
    shape: WindowShape,
    max_tokens: int,
    surprisal: Surprisal,
    bar: tqdm[NoReturn],
) -> Blocks:
    def run(numbered: tuple[int, Example]) -> Blocks:
        blocks = _blocks_of(model, *numbered, shape, max_tokens, surprisal)
        bar.update()
        return blocks

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = list(pool.map(run, enumerate(examples)))
    return Blocks(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Blocks)
        }
    )


def _key(
    model: DetectorModel,
    examples: Sequence[Example],
    shape: WindowShape,
    max_tokens: int,
    surprisal: Surprisal,
) -> str:
    """A file name that changes with anything the activations depend on."""
    inputs = (
        asdict(model.identity),
        model.extraction_layers,
        (shape.tokens, shape.overlap, shape.block),
        max_tokens,
        [hashlib.sha256(array.tobytes()).hexdigest() for array in asdict(surprisal).values()],
        [(example.text, example.injection) for example in examples],
    )
    return f"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()}.safetensors"


def _is_whole(chunk: Chunk) -> bool:
    try:
        read_places(chunk)
    except (OSError, SafetensorError):
        return False
    return True


def _store(blocks: Blocks, path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(asdict(blocks), partial)
    partial.replace(path)


def _blocks_of(
    model: DetectorModel,
    index: int,
    example: Example,
    shape: WindowShape,
    max_tokens: int,
    surprisal: Surprisal,
) -> Blocks:
    encoding = model.encode(readable(example.text))
    inside = _inside_injection(example, encoding)
    layers, hidden = len(read_layers(model)), model.hidden_dim
    states, surprised = [np.zeros((0, layers, hidden), np.float16)], [np.zeros(0, np.float32)]
    tokens, injected, window = [0], [0], [0]
    bounds = window_bounds(min(len(encoding.ids), max_tokens), shape.tokens, shape.overlap)
    for number, (start, end) in enumerate(bounds):
        means = _block_means(model, encoding.ids[start:end], shape.block, surprisal)
        states.append(means[0])
        surprised.append(means[1])
        for at in range(start, end, shape.block):
            tokens.append(min(shape.block, end - at))
            injected.append(int(inside[at : at + tokens[-1]].sum()))
            window.append(number)
    return Blocks(
        tokens=np.array(tokens[1:], np.int32),
        injected=np.array(injected[1:], np.int32),
        example=np.full(len(tokens) - 1, index, np.int32),
        window=np.array(window[1:], np.int32),
        surprisal=np.concatenate(surprised),
        states=np.concatenate(states),
    )


def _block_means(
    model: DetectorModel, ids: Sequence[int], block: int, surprisal: Surprisal
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """States `(blocks, layers, hidden)` and surprisal `(blocks,)`."""
    activations = model.infer([model.bos_id, *ids])
    layers = [activations[layer][1:] for layer in read_layers(model)]
    states = pool_blocks(np.stack(layers, axis=1), block)[0].astype(np.float16)
    surprised = surprisal.of_tokens(activations[0][1:], layers[0])
    return states, pool_blocks(surprised, block)[0]


def _inside_injection(example: Example, encoding: Encoding) -> NDArray[np.bool_]:
    """Which tokens lie in the injected string; none if it is not known."""
    start = example.text.find(example.injection) if example.injection else -1
    if start < 0 or not encoding.offsets:
        return np.zeros(len(encoding.ids), dtype=bool)
    offsets = np.array(encoding.offsets)
    end = start + len(example.injection or "")
    return np.asarray((offsets[:, 0] < end) & (offsets[:, 1] > start))
