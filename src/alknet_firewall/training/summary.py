"""The figures of an evaluation as text for a terminal."""

from __future__ import annotations

from typing import Any

from .measures import FALSE_POSITIVE_RATES

__all__ = ["table"]


def table(figures: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{figures['rows']} rows, every source counting the same", ""]
    lines += [_role_line(role, figures["roles"][role]) for role in figures["roles"]]
    lines += [
        "",
        f"{'source':<38} {'role':<5} {'label':<7} {'rows':>6} {'flagged':>8} {'at 1 %':>8}",
    ]
    lines += [
        f"{row['source']:<38} {row['role']:<5} {row['label']:<7} {row['rows']:>6} "
        f"{row['flagged']:>8.1%} {_percent(row['above_at_0.01']):>8}"
        for row in figures["sources"]
    ]
    spans, latency = figures["spans"], figures["latency_ms"]
    lines += ["", f"spans meet the injected string: {spans['overlapping']} of {spans['caught']}"]
    lines += [
        f"windows that the first layer settled: {row['settled']} of {row['windows']} "
        f"({row['role']}, {row['label']})"
        for row in figures["early_exit"]
    ]
    if latency:
        lines.append(
            f"milliseconds a text: p50 {latency['p50']:.1f}, p99 {latency['p99']:.1f} "
            f"(median {latency['tokens_p50']:.0f} tokens, "
            f"{latency['tokens_per_second']:.0f} tokens/s)"
        )
    for baseline in figures.get("baselines", []):
        lines += ["", f"{baseline['name']}: {baseline['what']}"]
        lines += [_role_line(role, baseline["roles"][role]) for role in baseline["roles"]]
    return "\n".join(lines)


def _role_line(role: str, figures: dict[str, Any]) -> str:
    """One line for a terminal: AUC, recalls, and what SUSPICIOUS does."""
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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
