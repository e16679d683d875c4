"""Texts -> hidden states, averaged over blocks of tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..codebook.detection import WindowShape
from ..firewall import readable
from ..model.protocol import DetectorModel, Encoding
from ..windows import window_bounds
from .data_loader import Example

__all__ = ["Blocks", "extract"]


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
    model: DetectorModel, examples: Sequence[Example], shape: WindowShape, max_tokens: int
) -> Blocks:
    """Run the model over the first `max_tokens` of every text.

    The same examples give the same arrays: texts are run one window at a time,
    so that no text's numbers depend on its neighbours.
    """
    model.load()

    def run(numbered: tuple[int, Example]) -> Blocks:
        return _blocks_of(model, *numbered, shape, max_tokens)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = list(
            tqdm(
                pool.map(run, enumerate(examples)),
                desc="extracting activations",
                unit="text",
                total=len(examples),
            )
        )
    return Blocks(*(np.concatenate(arrays) for arrays in zip(*map(_fields, parts), strict=True)))


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
        for at in _starts(start, end, shape.block):
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


def _starts(start: int, end: int, block: int) -> Iterator[int]:
    return iter(range(start, end, block))


def _block_means(model: DetectorModel, ids: Sequence[int], block: int) -> NDArray[np.float16]:
    activations = model.infer([model.bos_id, *ids])
    states = np.stack([activations[layer][1:] for layer in model.extraction_layers], axis=1)
    starts = np.arange(0, len(states), block)
    sizes = np.diff(np.append(starts, len(states)))
    means = np.add.reduceat(states, starts, axis=0) / sizes[:, None, None]
    return np.asarray(means, dtype=np.float16)


def _inside_injection(example: Example, encoding: Encoding) -> NDArray[np.bool_]:
    """Which tokens lie in the injected string; none if it is not known."""
    start = example.text.find(example.injection) if example.injection else -1
    if start < 0 or not encoding.offsets:
        return np.zeros(len(encoding.ids), dtype=bool)
    offsets = np.array(encoding.offsets)
    end = start + len(example.injection or "")
    return np.asarray((offsets[:, 0] < end) & (offsets[:, 1] > start))
