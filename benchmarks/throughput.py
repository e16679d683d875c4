"""How the cost of screening grows with tokens, windows, texts at once, and threads.

    uv run benchmarks/throughput.py [--threads 1 2] [--rounds 5] [--json OUT]

`one text`: the rate of a single text of 256 to 32,000 tokens; a cost that grows
linearly shows as a steady rate. `at once`: that of several texts of 256 tokens,
screened by so many callers of `Firewall.screen`; `screen_many`: by one call of it.
The cases are measured in turn, again and again, each number of threads in a process
of its own. `peak_mb` is that process's peak memory when the case had run for the
first time, so it holds the rows above it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from measuring import peak_resident, percentiles, report
from prose import text_of

from alknet_firewall import Alarm, Firewall, FirewallConfig

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16_000, 32_000)
CALLERS = (1, 2, 4, 8)
TOGETHER = 32  # texts of one measurement of several at once
TOGETHER_TOKENS = 256


@dataclass(frozen=True)
class Case:
    """Something to time: what it is, on which texts, and how they are screened."""

    what: str
    tokens: int
    texts: int
    screened: Callable[[Firewall, Sequence[str]], list[Alarm]]
    callers: int = 1


def one_by_one(firewall: Firewall, texts: Sequence[str]) -> list[Alarm]:
    return [firewall.screen(text) for text in texts]


def many(firewall: Firewall, texts: Sequence[str]) -> list[Alarm]:
    return firewall.screen_many([(text, "user") for text in texts])


def by_callers(callers: int) -> Callable[[Firewall, Sequence[str]], list[Alarm]]:
    """So many threads, each of which screens one text after the other."""

    def screened(firewall: Firewall, texts: Sequence[str]) -> list[Alarm]:
        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(firewall.screen, texts))

    return screened


def cases(lengths: Sequence[int], callers: Sequence[int], texts: int) -> list[Case]:
    """All that is timed, from little memory to much."""
    together = [Case("at once", TOGETHER_TOKENS, texts, by_callers(n), n) for n in callers]
    together.append(Case("screen_many", TOGETHER_TOKENS, texts, many))
    return [*together, *(Case("one text", n, 1, one_by_one) for n in lengths)]


def measured(
    threads: int, lengths: Sequence[int], callers: Sequence[int], texts: int, rounds: int
) -> list[dict[str, Any]]:
    """One row for each case, in this process."""
    firewall = Firewall(FirewallConfig(threads=threads))
    firewall.preload()
    all_cases = cases(lengths, callers, texts)
    seconds: dict[Case, list[float]] = defaultdict(list)
    alarms: dict[Case, list[Alarm]] = {}
    peaks: dict[Case, int | None] = {}
    for turn in range(rounds + 1):
        for number, case in enumerate(all_cases):
            batch = _fresh(firewall, case, seed=100_000 * turn + 1000 * number)
            started = time.perf_counter()
            alarms[case] = case.screened(firewall, batch)
            if turn:  # the first warms up
                seconds[case].append(time.perf_counter() - started)
            peaks.setdefault(case, peak_resident())
    return [_row(threads, case, seconds[case], alarms[case], peaks[case]) for case in all_cases]


def _fresh(firewall: Firewall, case: Case, seed: int) -> list[str]:
    """Texts that no other measurement has seen."""
    numbers = range(seed, seed + case.texts)
    return [text_of(case.tokens, number, firewall.count_tokens) for number in numbers]


def _row(
    threads: int, case: Case, seconds: Sequence[float], alarms: Sequence[Alarm], peak: int | None
) -> dict[str, Any]:
    times = percentiles(seconds)
    tokens = sum(alarm.tokens for alarm in alarms)
    return {
        "threads": threads,
        "case": case.what,
        "callers": case.callers,
        "texts": len(alarms),
        "tokens": tokens,
        "windows": sum(alarm.windows for alarm in alarms),
        **times,
        "tokens_s": tokens / times["p50_ms"] * 1000,
        "peak_mb": None if peak is None else peak / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    parser.add_argument("--texts", type=int, default=TOGETHER, help="of several at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = (arguments.tokens, arguments.callers, arguments.texts, arguments.rounds)
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            rows += alone.submit(measured, threads, *options).result()
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
