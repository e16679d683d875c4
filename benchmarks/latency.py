"""How long screening one fresh text takes, by its length, and where the time goes.

    uv run benchmarks/latency.py [--threads 1 2] [--tokens 16 64 128 256 1024 4096] [--json OUT]

Everything is included: canonicalisation, tokenizer, engine, codebook, alarm. The
lengths are measured in turn, again and again, so that noise of the machine meets
all, and each number of threads in a process of its own, whose peak memory is told.
Each length is measured as shipped, where the first layer settles most texts, and
reading every layer of each. Tokens are those of the alarm. The stages' shares come
from further calls, timed from outside around the library's own functions; they are
left out (-) where the windows of a text run side by side.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from measuring import peak_resident, percentiles, report
from onnxruntime import InferenceSession
from prose import text_of

from alknet_firewall import Alarm, Firewall, FirewallConfig, firewall
from alknet_firewall.codebook import Codebook, codebook, detection
from alknet_firewall.codebook.lexical import LexicalTable
from alknet_firewall.model.embedded import EmbeddedModel

LENGTHS = (16, 64, 128, 256, 1024, 4096)
_WARM_UP = 3  # rounds that are not counted

_STAGES: tuple[tuple[str, Any, str], ...] = (
    ("readings", firewall, "readings"),
    ("readings", firewall, "readable"),
    ("tokenizer", EmbeddedModel, "encode"),
    ("engine", InferenceSession, "run"),
    ("codebook", codebook, "pool_blocks"),
    ("codebook", codebook, "project_layer"),
    ("codebook", detection, "detect"),
    ("codebook", LexicalTable, "logits"),
    ("codebook", Codebook, "score"),
)
"""Which function's time is which stage; none of them calls another."""

_NAMES = tuple(dict.fromkeys(name for name, _, _ in _STAGES))


def measured(threads: int, lengths: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Two rows for each length, in this process: as shipped, and reading every layer."""
    config = FirewallConfig(threads=threads)
    book = Codebook.bundled()
    model = EmbeddedModel(book.reads, threads=threads)
    ways = [replace(config, early_exit=early) for early in (True, False)]
    screeners = [Firewall(way, model=model, codebook=book) for way in ways]
    cases = [(length, screener) for length in lengths for screener in screeners]
    alarms: dict[int, list[Alarm]] = defaultdict(list)
    shares: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    peaks: dict[int, int | None] = {}
    for turn in range(rounds + _WARM_UP):
        for case, (length, screener) in enumerate(cases):
            one, other = _fresh(screener, length, turn)
            alarm, profile = screener.screen(one), profiled(screener, other)
            peaks.setdefault(case, peak_resident())
            if turn >= _WARM_UP:
                alarms[case].append(alarm)
                shares[case].append(profile)
    return [
        _row(threads, screener, alarms[case], shares[case], peaks[case])
        for case, (_, screener) in enumerate(cases)
    ]


def _fresh(screener: Firewall, length: int, turn: int) -> tuple[str, str]:
    """Two texts that no other call has seen."""
    seeds = (2 * turn, 2 * turn + 1)
    one, other = (text_of(length, 10_000 * length + s, screener.count_tokens) for s in seeds)
    return one, other


def profiled(screener: Firewall, text: str) -> dict[str, float]:
    """The share of each stage in the time of one call, in [0, 1]."""
    with _timed() as seconds:
        alarm = screener.screen(text)
    return {name: seconds[name] / alarm.elapsed for name in _NAMES}


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Adds up the seconds in each stage while it lasts."""
    seconds: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for name, owner, attribute in _STAGES:
            watched = _watched(getattr(owner, attribute), name, seconds)
            stack.enter_context(patch.object(owner, attribute, watched))
        yield seconds


def _watched(
    function: Callable[..., Any], name: str, seconds: dict[str, float]
) -> Callable[..., Any]:
    def watched(*arguments: Any, **keywords: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[name] += time.perf_counter() - started

    return watched


def _row(
    threads: int,
    screener: Firewall,
    alarms: Sequence[Alarm],
    shares: Sequence[Mapping[str, float]],
    peak: int | None,
) -> dict[str, Any]:
    times = percentiles([alarm.elapsed for alarm in alarms])
    tokens, windows = alarms[0].tokens, alarms[0].windows
    settled = sum(alarm.settled for alarm in alarms) / sum(alarm.windows for alarm in alarms)
    read = "as shipped" if screener.config.early_exit else "every layer"
    row = {"threads": threads, "tokens": tokens, "windows": windows, "read": read}
    row |= {"settled_%": 100 * settled, **times}
    row["tokens_s"] = tokens / times["p50_ms"] * 1000
    if threads < 2 or windows < 2:
        row |= _percent(shares)
    return row | {"peak_mb": None if peak is None else peak / 1e6}


def _percent(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median share of each stage in per cent, of the rest, and of all but the engine."""
    found = {name: 100 * median(share[name] for share in shares) for name in _NAMES}
    rest = 100 * median(1 - sum(share.values()) for share in shares)
    return {
        **{f"{name}_%": value for name, value in found.items()},
        "rest_%": rest,
        "not_engine_%": 100 - found["engine"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows += alone.submit(measured, threads, arguments.tokens, arguments.rounds).result()
    report(rows, arguments.json, [*max(rows, key=lambda row: len(row))])


if __name__ == "__main__":
    main()
