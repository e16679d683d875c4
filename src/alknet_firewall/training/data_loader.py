"""JSON Lines of labelled text -> examples."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..alarm import Role
from ..errors import DataError
from ..model.repository import sha256

__all__ = ["DataFile", "Example", "load_folder", "read_examples", "sample", "screened_role"]

Label = Literal["benign", "attack"]

# Kinds of text that reach a model as data, whatever role the row states.
_TOOL_KINDS = frozenset({"benign_document", "benign_tool_output", "indirect_injection"})


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text. `injection` is the injected string inside `text`, if known.

    A composed text has the kind of composition as its source, in parentheses;
    `origins` names what it was made from, so that this can be held out. From a
    standalone text nothing is composed, and surprisal is not fitted to it.
    """

    text: str
    label: Label
    kind: str
    role: Role
    source: str
    injection: str | None = None
    origins: tuple[str, ...] = ()
    composed: bool = False
    standalone: bool = False


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was read, as recorded in a codebook's provenance."""

    name: str
    sha256: str
    rows: int


def load_folder(folder: str | Path) -> tuple[list[Example], list[DataFile]]:
    """Every `*.jsonl` file of a folder, in name order.

    The source of an example is its file's name. Raises `DataError` naming the
    file and line of the first bad row, or a folder without data.
    """
    paths = sorted(Path(folder).glob("*.jsonl"))
    if not paths:
        raise DataError(f"{folder}: holds no .jsonl files")
    examples: list[Example] = []
    files = []
    for path in paths:
        rows = list(read_examples(path))
        examples += rows
        files.append(DataFile(path.name, sha256(path), len(rows)))
    return examples, files


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of one file. Raises `DataError` naming the bad line."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _example(line, path, number)


def screened_role(row: dict[str, Any]) -> Role:
    """The role a row is screened as: `tool` for anything a model reads as data."""
    return "tool" if row.get("role") == "tool" or row.get("kind") in _TOOL_KINDS else "user"


def sample(examples: Iterable[Example], limit: int, seed: int) -> list[Example]:
    """At most `limit` examples of each (source, label, role), chosen by `seed`."""
    groups: dict[tuple[str, str, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[(example.source, example.label, example.role)].append(example)
    chosen = []
    for key in sorted(groups):
        # Seeded by the group's name: a new file changes no other file's sample.
        rng = random.Random(f"{seed}:{key}")  # noqa: S311  not for secrets
        rows = groups[key]
        chosen += rows if len(rows) <= limit else rng.sample(rows, limit)
    return chosen


def _example(line: str, path: Path, number: int) -> Example:
    try:
        row = json.loads(line)
        text, label = row["text"], row["label"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}, line {number}: needs a JSON object with at least `text` and `label`"
        ) from error
    if not isinstance(text, str) or label not in ("benign", "attack"):
        raise DataError(
            f"{path}, line {number}: `text` must be a string and `label` 'benign' or 'attack'"
        )
    injection = row.get("injection")
    return Example(
        text=text,
        label=cast(Label, label),
        kind=str(row.get("kind", label)),
        role=screened_role(row),
        source=path.stem,
        injection=injection if isinstance(injection, str) and injection else None,
    )
