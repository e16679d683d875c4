"""How fast other detectors' architectures judge the same number of tokens, beside ours.

    uv run benchmarks/peers.py [--threads 1 2] [--tokens 16 64 128 512] [--json OUT]

Most open detectors are classifiers of a few published architectures. Their weights
do not change their speed, so random ones are used, in each of four runtimes: ONNX
Runtime with int8 (dynamic, by channel) and with fp32, torch with fp32 and with
bf16; `best` marks the fastest of a model. They get token ids, so that their
tokenizers' time is left out, in their favour; ours is `Firewall.screen`, from text
to alarm. Every contender is a process of its own, and all are timed in turn, again
and again; `times_ours` is the ratio of the p50s.

The first run makes an environment for them in --folder (PyPI's torch for Linux is
the large CUDA build; `UV_FIND_LINKS` or `UV_INDEX` can offer uv a smaller one for
the CPU, which computes the same) and exports the models, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from measuring import percentiles, report
from peer_models import CONFIGS, OURS, RUNTIMES

REQUIREMENTS = ("torch==2.13.0", "transformers==5.23.0", "onnx==1.23.2", "onnxruntime==1.31.1")
FOLDER = Path(__file__).parents[1] / ".venv-peers"
LENGTHS = (16, 64, 128, 512)
_CALLS = 3  # counted calls in a row, after one that is not
_PROGRAM = Path(__file__).with_name("peer_models.py")


@dataclass(frozen=True)
class Contender:
    """A model in a runtime."""

    model: str
    runtime: str


@dataclass
class Timer:
    """A process that times one contender."""

    contender: Contender
    process: subprocess.Popen[str]
    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[int, int] = field(default_factory=dict)
    peak: int | None = None

    @classmethod
    def started(cls, python: Path, folder: Path, contender: Contender, threads: int) -> Self:
        said = (str(folder), contender.model, contender.runtime, str(threads))
        process = subprocess.Popen(
            [str(python), str(_PROGRAM), "time", *said],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return cls(contender, process)

    def ask(self, tokens: int, seed: int) -> list[float]:
        """The seconds of a few calls with so many tokens."""
        assert self.process.stdin
        assert self.process.stdout
        print(tokens, seed, _CALLS, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender}: its process ended, see above")
        reply = json.loads(line)
        self.tokens[tokens], self.peak = reply["tokens"], reply["peak"]
        return list(reply["seconds"])

    def end(self) -> None:
        self.process.communicate()  # it ends with its input


def prepared(folder: Path, models: Sequence[str]) -> Path:
    """The interpreter of the environment, which is made, with the models, if it is not there."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", folder], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS]
    subprocess.run(install, check=True)
    for model in models:
        command = [str(python), str(_PROGRAM), "build", str(folder / "models"), model]
        subprocess.run(command, check=True)
    return python


def compared(
    timers: Sequence[Timer], threads: int, lengths: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Time all in turn; one row for each contender and length. The first is ours."""
    for turn in range(rounds + 1):
        for tokens in lengths:
            for timer in timers:
                seconds = timer.ask(tokens, seed=1000 * turn + tokens)
                if turn:  # the first warms up
                    timer.seconds[tokens] += seconds
    return [row for tokens in lengths for row in rows_of(timers, threads, tokens)]


def rows_of(timers: Sequence[Timer], threads: int, tokens: int) -> list[dict[str, Any]]:
    times = {timer.contender: percentiles(timer.seconds[tokens]) for timer in timers}
    best = fastest({contender: found["p50_ms"] for contender, found in times.items()})
    ours = times[timers[0].contender]["p50_ms"]
    return [
        {
            "threads": threads,
            "tokens": timer.tokens[tokens],
            "model": timer.contender.model,
            "runtime": timer.contender.runtime,
            **times[timer.contender],
            "times_ours": times[timer.contender]["p50_ms"] / ours,
            "best": "best" if timer.contender in best else "",
            "peak_mb": None if timer.peak is None else timer.peak / 1e6,
        }
        for timer in timers
    ]


def fastest(times: Mapping[Contender, float]) -> set[Contender]:
    """The fastest runtime of each model but ours."""
    models = {contender.model for contender in times} - {OURS}
    return {min((c for c in times if c.model == model), key=times.__getitem__) for model in models}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--models", nargs="*", choices=[*CONFIGS], default=[*CONFIGS])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    python = prepared(arguments.folder, arguments.models) if arguments.models else FOLDER
    others = [Contender(m, r) for m in arguments.models for r in arguments.runtimes]
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        with ExitStack() as stack:
            models = arguments.folder / "models"
            timers = [Timer.started(Path(sys.executable), models, Contender(OURS, ""), threads)]
            timers += [Timer.started(python, models, other, threads) for other in others]
            for timer in timers:
                stack.callback(timer.end)
            rows += compared(timers, threads, arguments.tokens, arguments.rounds)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
