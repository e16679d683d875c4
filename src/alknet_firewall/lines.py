"""Screening a file of JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from .alarm import Alarm, Role
from .errors import ScreeningError
from .firewall import Firewall

__all__ = ["screen_lines"]

_BATCH = 64  # rows in flight; bounds memory on files of any size

Complain = Callable[[int, str], None]


def screen_lines(
    firewall: Firewall, source: Path, out: Path, role: Role, complain: Complain
) -> int:
    """Screen each `{"text": ..., "role": ...}` of `source` into `out`.

    A row keeps all its fields and gains `score`, `level`, `spans`, `tokens`
    and `windows`; `role` is for rows that state none. A bad line is given to
    `complain` with its number and left out, and the rest goes on. Returns how
    many were bad.
    """

    def screened(line: tuple[int, bytes]) -> dict[str, Any] | ScreeningError:
        try:
            row = _row(line[1], role)
            return {**row, **_fields(firewall.screen(row["text"], row["role"]))}
        except ScreeningError as error:
            return error

    firewall.preload()
    total = _count(source)
    bad = 0
    with (
        open(source, "rb") as lines,
        open(out, "w", encoding="utf-8") as results,
        ThreadPoolExecutor(max_workers=2) as pool,
        tqdm(desc="screening", total=total, unit="row") as bar,
    ):
        numbered = ((n, line) for n, line in enumerate(lines, start=1) if line.strip())
        while batch := list(islice(numbered, _BATCH)):
            for (number, _), result in zip(batch, pool.map(screened, batch), strict=True):
                if isinstance(result, ScreeningError):
                    bad += 1
                    complain(number, str(result))
                else:
                    results.write(json.dumps(result) + "\n")
                bar.update()
    return bad


def _row(line: bytes, role: Role) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ScreeningError("is not a JSON object") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ScreeningError("needs a JSON object with a string `text`")
    row.setdefault("role", role)
    if row["role"] not in get_args(Role):
        raise ScreeningError("`role` must be 'user' or 'tool'")
    return row


def _fields(alarm: Alarm) -> dict[str, Any]:
    return {
        "score": alarm.score,
        "level": alarm.level.name,
        "spans": [[span.start, span.end] for span in alarm.spans],
        "tokens": alarm.tokens,
        "windows": alarm.windows,
        "settled": alarm.settled,
        "anomalous": alarm.anomalous,
    }


def _count(source: Path) -> int:
    with open(source, "rb") as file:
        return sum(1 for line in file if line.strip())
