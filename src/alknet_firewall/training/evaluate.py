"""What a detector is worth on labelled text, by one protocol.

Every source counts the same within its class, so that a large file decides no
more than a small one. Recall is reported at false-positive rates of 1 % and
0.1 %, next to what the shipped levels do, never alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Alarm, AlarmLevel, Role
from ..firewall import Firewall
from . import stats
from .data_loader import Example, load_folder, sample

__all__ = ["evaluate", "measure", "table"]

FALSE_POSITIVE_RATES = (0.01, 0.001)

Mask = NDArray[np.bool_]


def evaluate(firewall: Firewall, folder: Path, *, limit: int = 0, seed: int = 0) -> dict[str, Any]:
    """Screen every row of a folder and measure; a JSON-ready dict.

    `limit` bounds the rows of each (source, label, role); 0 takes all. Raises
    `DataError` for rows that cannot be read.
    """
    examples, files = load_folder(folder)
    if limit:
        examples = sample(examples, limit, seed)
    firewall.preload()
    alarms = [
        firewall.screen(example.text, example.role)
        for example in tqdm(examples, desc="screening", unit="row")
    ]
    figures = measure(examples, alarms)
    figures["files"] = [{"name": f.name, "sha256": f.sha256, "rows": f.rows} for f in files]
    figures["measured"] = time.strftime("%Y-%m-%d")
    return figures


def measure(examples: Sequence[Example], alarms: Sequence[Alarm]) -> dict[str, Any]:
    """The figures for examples and their alarms, given in the same order."""
    rows = _Columns(examples, alarms)
    return {
        "rows": len(examples),
        "roles": {role: _role(rows, rows.role == role) for role in get_args(Role)},
        "sources": _sources(rows),
        "spans": _localisation(examples, alarms),
        "latency_ms": _latency(alarms),
    }


class _Columns:
    """The rows as arrays, one entry a row."""

    def __init__(self, examples: Sequence[Example], alarms: Sequence[Alarm]) -> None:
        self.role = np.array([example.role for example in examples])
        self.kind = np.array([example.kind for example in examples])
        self.source = np.array([example.source for example in examples])
        self.attack = np.array([example.label == "attack" for example in examples], dtype=bool)
        self.score = np.array([alarm.score for alarm in alarms])
        self.level = np.array([int(alarm.level) for alarm in alarms])


def _role(rows: _Columns, mine: Mask) -> dict[str, Any]:
    attack, score = rows.attack[mine], rows.score[mine]
    weights = stats.equal_source_weights(rows.source[mine], attack)
    figures = {
        "benign": int((~attack).sum()),
        "attacks": int(attack.sum()),
        "auc": _number(stats.auc(score, attack, weights)),
        "shipped": {
            level.name.lower(): {
                "false_positives": _flagged(rows.level[mine], weights, ~attack, level),
                "recall": _flagged(rows.level[mine], weights, attack, level),
            }
            for level in (AlarmLevel.SUSPICIOUS, AlarmLevel.DANGEROUS)
        },
    }
    for rate in FALSE_POSITIVE_RATES:
        if attack.any() and not attack.all():
            threshold = stats.threshold_at(score[~attack], weights[~attack], rate)
            figures[f"at_{rate:g}"] = _recalls(rows, mine, weights, threshold)
    return figures


def _recalls(
    rows: _Columns, mine: Mask, weights: NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    attack, score, kind = rows.attack[mine], rows.score[mine], rows.kind[mine]

    def recall(chosen: Mask) -> float | None:
        return _number(stats.weighted_share_above(score[chosen], weights[chosen], threshold))

    kinds = {str(name): recall(attack & (kind == name)) for name in np.unique(kind[attack])}
    return {"threshold": threshold, "recall": recall(attack), "by_kind": kinds}


def _flagged(
    levels: NDArray[np.int_], weights: NDArray[np.float64], chosen: Mask, level: AlarmLevel
) -> float | None:
    return _number(stats.weighted_share_above(levels[chosen], weights[chosen], int(level) - 0.5))


def _sources(rows: _Columns) -> list[dict[str, Any]]:
    return [
        {
            "source": str(source),
            "role": str(role),
            "label": "attack" if attack else "benign",
            "rows": int(chosen.sum()),
            "flagged": _number((rows.level[chosen] >= AlarmLevel.SUSPICIOUS).mean()),
        }
        for source in np.unique(rows.source)
        for role in get_args(Role)
        for attack in (False, True)
        if (chosen := (rows.source == source) & (rows.role == role) & (rows.attack == attack)).any()
    ]


def _localisation(examples: Sequence[Example], alarms: Sequence[Alarm]) -> dict[str, Any]:
    """Of the caught rows whose injected string is known, how many spans meet it."""
    known = [
        _meets(example.text.index(example.injection), len(example.injection), alarm)
        for example, alarm in zip(examples, alarms, strict=True)
        if alarm.level and example.injection and example.injection in example.text
    ]
    return {"caught": len(known), "overlapping": sum(known)}


def _meets(start: int, length: int, alarm: Alarm) -> bool:
    return any(span.start < start + length and span.end > start for span in alarm.spans)


def _latency(alarms: Sequence[Alarm]) -> dict[str, Any]:
    """Milliseconds of one call, one after another, all lengths together."""
    elapsed = np.array([alarm.elapsed for alarm in alarms]) * 1000
    tokens = np.array([alarm.tokens for alarm in alarms])
    if not len(elapsed):
        return {}
    return {
        "p50": float(np.percentile(elapsed, 50)),
        "p99": float(np.percentile(elapsed, 99)),
        "tokens_p50": float(np.percentile(tokens, 50)),
        "tokens_per_second": float(tokens.sum() / (elapsed.sum() / 1000)),
    }


def _number(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def table(figures: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{figures['rows']} rows, every source counting the same", ""]
    lines += [_role_line(role, figures["roles"][role]) for role in figures["roles"]]
    lines += ["", f"{'source':<38} {'role':<5} {'label':<7} {'rows':>6} {'flagged':>8}"]
    lines += [
        f"{row['source']:<38} {row['role']:<5} {row['label']:<7} {row['rows']:>6} "
        f"{row['flagged']:>8.1%}"
        for row in figures["sources"]
    ]
    spans, latency = figures["spans"], figures["latency_ms"]
    lines += ["", f"spans meet the injected string: {spans['overlapping']} of {spans['caught']}"]
    if latency:
        lines.append(
            f"milliseconds a text: p50 {latency['p50']:.1f}, p99 {latency['p99']:.1f} "
            f"(median {latency['tokens_p50']:.0f} tokens, "
            f"{latency['tokens_per_second']:.0f} tokens/s)"
        )
    return "\n".join(lines)


def _role_line(role: str, figures: dict[str, Any]) -> str:
    shipped = figures["shipped"]["suspicious"]
    parts = [f"{role:<5} AUC {_show(figures['auc'])}"]
    for rate in FALSE_POSITIVE_RATES:
        recall = figures.get(f"at_{rate:g}", {}).get("recall")
        parts.append(f"recall at {rate:.1%} {_show(recall)}")
    parts.append(
        f"SUSPICIOUS: recall {_show(shipped['recall'])}, "
        f"false positives {_show(shipped['false_positives'])}"
    )
    return "  ".join(parts)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
