"""How long screening one fresh text takes, by its length.

    uv run benchmarks/latency.py [--threads 1 2] [--json OUT]

Everything is included: tokenizer, model, codebook, alarm. The lengths are
measured in turn, again and again, so that noise of the machine meets all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from alknet_firewall import Firewall, FirewallConfig

LENGTHS = (16, 64, 128, 256, 1024, 4096)
SENTENCE = (
    "the harbour office opens at nine and closes when the last boat is in ; visitors sign a list , "
    "leave their keys , and are shown to the small room with maps on every wall"
)


def text_of(tokens: int, seed: int) -> str:
    """A text of about so many tokens that no other call has seen."""
    return " ".join(np.random.default_rng(seed).choice(SENTENCE.split(), tokens))


def measure(threads: int, rounds: int) -> dict[int, list[float]]:
    firewall = Firewall(FirewallConfig(threads=threads))
    firewall.preload()
    times: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for turn in range(-3, rounds):
        for length in LENGTHS:
            text = text_of(length, seed=1000 * turn + length + 10_000)
            started = time.perf_counter()
            firewall.screen(text)
            if turn >= 0:  # the first turns warm up
                times[length].append((time.perf_counter() - started) * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(f"{'threads':>7} {'tokens':>7} {'p50 ms':>8} {'p99 ms':>8} {'tokens/s':>9}")
    rows = []
    for threads in arguments.threads:
        for length, times in measure(threads, arguments.rounds).items():
            p50, p99 = np.percentile(times, [50, 99])
            rows.append({"threads": threads, "tokens": length, "p50_ms": p50, "p99_ms": p99})
            rate = length / p50 * 1000
            print(f"{threads:>7} {length:>7} {p50:>8.1f} {p99:>8.1f} {rate:>9.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
