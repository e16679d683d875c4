"""What reading ordinary text for disguises costs, and how often it finds one.

    uv run benchmarks/canonical.py --data DATA/train [--limit 300]

Over the harmless rows of each file: how many texts have a reading beside the
raw one, how many more characters those readings have, and the time to find out.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from alknet_firewall.canonical import readings
from alknet_firewall.training.data_loader import load_folder, sample


def measure(texts: Sequence[str], names: Counter[str]) -> tuple[float, float, float]:
    """The share of texts with more readings, of characters more, and us per 1,000 of them."""
    found = more = 0
    started = time.perf_counter()
    for text in texts:
        others = readings(text)[1:]
        found += bool(others)
        more += sum(len(reading.text) for reading in others)
        names.update(reading.name for reading in others)
    elapsed = time.perf_counter() - started
    characters = max(1, sum(map(len, texts)))
    return found / len(texts), more / characters, elapsed / characters * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300, help="rows of each file")
    arguments = parser.parse_args()
    examples, _ = load_folder(arguments.data)
    sources: dict[str, list[str]] = defaultdict(list)
    for example in sample(examples, arguments.limit, seed=0):
        if example.label == "benign":
            sources[example.source].append(example.text)
    names: Counter[str] = Counter()
    every = [text for texts in sources.values() for text in texts]
    print(f"{'source':<38} {'texts':>6} {'read again':>10} {'characters':>10} {'us/1000':>8}")
    for source, texts in [*sources.items(), ("all", every)]:
        share, more, elapsed = measure(texts, names if source != "all" else Counter())
        print(f"{source:<38} {len(texts):>6} {share:>10.2%} {more:>10.2%} {elapsed:>8.0f}")
    print("\n".join(f"{count:>6} {name}" for name, count in names.most_common()))


if __name__ == "__main__":
    main()
