"""Texts -> hidden states, averaged over blocks of tokens."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from ..codebook.detection import WindowShape
from ..codebook.projection import pool_blocks
from ..firewall import readable
from ..model.protocol import DetectorModel, Encoding
from ..windows import window_bounds
from .data_loader import Example

__all__ = ["Blocks", "extract"]

_CHUNK = 1000  # texts stored together


@dataclass(frozen=True, slots=True)
class Blocks:
    """One entry for each block of tokens of each text, in order.

    `states` is `(blocks, layers, hidden)` float16, the mean over the block's
    tokens; `tokens` how many those are, `injected` how many of them lie in the
    known injection; `example` and `window` say where the block comes from.
    """

    states: NDArray[np.float16]
    tokens: NDArray[np.int32]
    injected: NDArray[np.int32]
    example: NDArray[np.int32]
    window: NDArray[np.int32]


def extract(
    model: DetectorModel,
    examples: Sequence[Example],
    shape: WindowShape,
    max_tokens: int,
    cache: Path | None = None,
) -> Blocks:
    """Run the model over the first `max_tokens` of every text.

    The same examples give the same arrays: texts are run one window at a time,
    so that no text's numbers depend on its neighbours. With a `cache`
    directory, finished chunks are kept there, and an interrupted run goes on
    where it stopped.
    """
    model.load()
    parts: list[Blocks] = []
    with tqdm(desc="extracting activations", unit="text", total=len(examples)) as bar:
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            path = cache / _key(model, chunk, shape, max_tokens) if cache else None
            blocks = _stored(path) if path else None
            if blocks is None:
                blocks = _run(model, chunk, shape, max_tokens, bar)
                if path:
                    _store(blocks, path)
            parts.append(replace(blocks, example=blocks.example + np.int32(start)))
            bar.update(start + len(chunk) - bar.n)
    return _joined(parts)


def _run(
    model: DetectorModel,
    examples: Sequence[Example],
    shape: WindowShape,
    max_tokens: int,
    bar: tqdm[NoReturn],
) -> Blocks:
    def run(numbered: tuple[int, Example]) -> Blocks:
        blocks = _blocks_of(model, *numbered, shape, max_tokens)
        bar.update()
        return blocks

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return _joined(list(pool.map(run, enumerate(examples))))


def _joined(parts: Sequence[Blocks]) -> Blocks:
    return Blocks(*(np.concatenate(arrays) for arrays in zip(*map(_fields, parts), strict=True)))


def _key(
    model: DetectorModel, examples: Sequence[Example], shape: WindowShape, max_tokens: int
) -> str:
    """A file name that changes with anything the activations depend on."""
    inputs = (
        asdict(model.identity),
        model.extraction_layers,
        asdict(shape),
        max_tokens,
        [(example.text, example.injection) for example in examples],
    )
    return f"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()}.safetensors"


def _stored(path: Path) -> Blocks | None:
    try:
        return Blocks(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        return None


def _store(blocks: Blocks, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(asdict(blocks), partial)
    partial.replace(path)


def _fields(blocks: Blocks) -> tuple[NDArray[np.generic], ...]:
    return blocks.states, blocks.tokens, blocks.injected, blocks.example, blocks.window


def _blocks_of(
    model: DetectorModel, index: int, example: Example, shape: WindowShape, max_tokens: int
) -> Blocks:
    encoding = model.encode(readable(example.text))
    inside = _inside_injection(example, encoding)
    layers, hidden = len(model.extraction_layers), model.hidden_dim
    states, tokens, injected, window = [np.zeros((0, layers, hidden), np.float16)], [0], [0], [0]
    bounds = window_bounds(min(len(encoding.ids), max_tokens), shape.tokens, shape.overlap)
    for number, (start, end) in enumerate(bounds):
        states.append(_block_means(model, encoding.ids[start:end], shape.block))
        for at in range(start, end, shape.block):
            tokens.append(min(shape.block, end - at))
            injected.append(int(inside[at : at + tokens[-1]].sum()))
            window.append(number)
    return Blocks(
        np.concatenate(states),
        np.array(tokens[1:], np.int32),
        np.array(injected[1:], np.int32),
        np.full(len(tokens) - 1, index, np.int32),
        np.array(window[1:], np.int32),
    )


def _block_means(model: DetectorModel, ids: Sequence[int], block: int) -> NDArray[np.float16]:
    activations = model.infer([model.bos_id, *ids])
    states = np.stack([activations[layer][1:] for layer in model.extraction_layers], axis=1)
    return pool_blocks(states, block)[0].astype(np.float16)


def _inside_injection(example: Example, encoding: Encoding) -> NDArray[np.bool_]:
    """Which tokens lie in the injected string; none if it is not known."""
    start = example.text.find(example.injection) if example.injection else -1
    if start < 0 or not encoding.offsets:
        return np.zeros(len(encoding.ids), dtype=bool)
    offsets = np.array(encoding.offsets)
    end = start + len(example.injection or "")
    return np.asarray((offsets[:, 0] < end) & (offsets[:, 1] > start))
