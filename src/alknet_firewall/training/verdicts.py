"""Screened rows: what a detector said of labelled texts, in memory and as JSON Lines.

The file is what `alknet-firewall screen --jsonl` writes for labelled rows, so
that rows screened by either command, or by another program, are measured alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..alarm import Alarm, AlarmLevel
from ..errors import DataError
from .data_loader import Example, read_examples

__all__ = ["Verdict", "read_verdicts", "write_verdicts"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score in [0, 1], a level, the spans as character ranges, and what it took.

    `elapsed` is in seconds and None where it was not recorded; of the `windows`,
    `settled` needed only the first layer.
    """

    score: float
    level: AlarmLevel
    spans: tuple[tuple[int, int], ...] = ()
    tokens: int = 0
    elapsed: float | None = None
    windows: int = 0
    settled: int = 0

    @classmethod
    def of(cls, alarm: Alarm) -> Verdict:
        spans = tuple((span.start, span.end) for span in alarm.spans)
        return cls(
            alarm.score,
            alarm.level,
            spans,
            alarm.tokens,
            alarm.elapsed,
            alarm.windows,
            alarm.settled,
        )

    @classmethod
    def of_score(cls, score: float, flagged: bool) -> Verdict:
        """Of a detector that knows no spans and one level: SUSPICIOUS where it flags."""
        return cls(score, AlarmLevel.SUSPICIOUS if flagged else AlarmLevel.CLEAR)


def write_verdicts(path: Path, examples: Iterable[Example], verdicts: Iterable[Verdict]) -> None:
    """One JSON object a line. Raises `DataError` for a file that cannot be written."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            for example, verdict in zip(examples, verdicts, strict=True):
                file.write(json.dumps(_row(example, verdict)) + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _row(example: Example, verdict: Verdict) -> dict[str, Any]:
    elapsed = verdict.elapsed
    return {
        "text": example.text,
        "role": example.role,
        "label": example.label,
        "kind": example.kind,
        "source": example.source,
        "injection": example.injection,
        "score": verdict.score,
        "level": verdict.level.name,
        "spans": [list(span) for span in verdict.spans],
        "tokens": verdict.tokens,
        "windows": verdict.windows,
        "settled": verdict.settled,
        **({} if elapsed is None else {"elapsed_ms": elapsed * 1000}),
    }


def read_verdicts(path: Path) -> tuple[list[Example], list[Verdict]]:
    """The rows of one file and what was said of them, in order.

    A row's `source` is its field of that name, the file's name without one.
    Raises `DataError` naming the bad line.
    """
    try:
        examples = list(read_examples(path))
        lines = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    rows = [json.loads(line) for line in lines]
    sources = (str(row.get("source") or path.stem) for row in rows)
    named = [replace(e, source=source) for e, source in zip(examples, sources, strict=True)]
    return named, _verdicts(rows, path)


def _verdicts(rows: Sequence[dict[str, Any]], path: Path) -> list[Verdict]:
    verdicts = []
    for number, row in enumerate(rows, start=1):
        try:
            verdicts.append(_verdict(row))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, row {number}: needs a `score`, a `level` and `spans` as "
                "`alknet-firewall screen --jsonl` writes them"
            ) from error
    return verdicts


def _verdict(row: dict[str, Any]) -> Verdict:
    elapsed = row.get("elapsed_ms")
    return Verdict(
        score=float(row["score"]),
        level=AlarmLevel[row["level"]],
        spans=tuple((int(start), int(end)) for start, end in row.get("spans", ())),
        tokens=int(row.get("tokens", 0)),
        elapsed=None if elapsed is None else float(elapsed) / 1000,
        windows=int(row.get("windows", 0)),
        settled=int(row.get("settled", 0)),
    )
