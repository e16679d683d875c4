"""A deployment's own normal traffic: reading it, and its hidden states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook import Codebook
from ..codebook.projection import pool_blocks
from ..errors import DataError
from ..firewall import readable
from ..model.protocol import DetectorModel
from ..model.repository import sha256
from ..windows import window_bounds
from .activations import LONGEST

__all__ = ["Traffic", "place_coordinates", "read_traffic"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Normal texts of one role, each once, with the line it first stands on."""

    file: Path
    sha256: str
    rows: int
    """Lines of the role, repeated texts counted each time."""
    lines: tuple[int, ...]
    texts: tuple[str, ...]


def read_traffic(path: Path, role: Role) -> Traffic:
    """Read JSON Lines of `{"text": ...}` or of strings.

    A repeated text is taken once: repetitions tell nothing new about the rate.
    Objects of another `role` are left out. Raises `DataError` for a line that
    holds no text, for one that is labelled an attack, and for no texts at all.
    """
    first: dict[str, int] = {}
    rows = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                text = _text(line, role, f"{path}, line {number}") if line.strip() else None
                if text is not None:
                    rows += 1
                    first.setdefault(text, number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if not first:
        raise DataError(f"{path}: holds no texts of role {role!r}")
    return Traffic(path, sha256(path), rows, tuple(first.values()), tuple(first))


def _text(line: str, role: Role, place: str) -> str | None:
    """The text of one line; None if it is of another role."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{place}: needs {{"text": ...}} or a JSON string') from error
    if isinstance(row, str):
        return row
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f'{place}: needs {{"text": ...}} or a JSON string')
    if row.get("label", "benign") != "benign":
        raise DataError(f"{place}: is labelled {row['label']!r}: normal traffic holds no attacks")
    return row["text"] if row.get("role", role) == role else None


def place_coordinates(
    model: DetectorModel, codebook: Codebook, texts: Sequence[str]
) -> NDArray[np.float32]:
    """The mean z `(runs, layers, dimensions)` of every run of tokens, side by side, in
    the first `LONGEST` tokens of every text: what a codebook's splines are fitted to."""
    model.load()
    with ThreadPoolExecutor(max_workers=2) as pool:
        windows = pool.map(lambda text: list(_coordinates(model, codebook, text)), texts)
        bar = tqdm(windows, desc="reading hidden states", unit="text", total=len(texts))
        return np.concatenate([z for found in bar for z in found])


def _coordinates(
    model: DetectorModel, codebook: Codebook, text: str
) -> Iterator[NDArray[np.float32]]:
    ids = model.encode(readable(text)).ids[:LONGEST]
    shape = codebook.windows
    run = shape.block * shape.run
    for start, end in window_bounds(len(ids), shape.tokens, shape.overlap):
        states = model.infer([model.bos_id, *ids[start:end]])
        means = {layer: pool_blocks(state[1:], run)[0] for layer, state in states.items()}
        yield codebook.project(means)
