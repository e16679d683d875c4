"""What the proxy adds to a request, beside a LiteLLM proxy without any guardrail.

    uv run benchmarks/proxy_overhead.py [--rounds 5] [--json OUT]

Non-streaming chat completions, one fresh message of 64 tokens each, sent to an upstream
that answers at once: directly, through our proxy with screening off and on, and through
LiteLLM's, which is installed at a pinned version into an environment of its own
(`--cache`, kept for the next run; `--no-litellm` leaves it out). Each server is a process
with one worker. They are measured in turn, again and again, so that noise of the machine
meets all; one request at a time for the times, 16 at a time for the requests per second.

`chat` is a conversation that grows by a turn with each request: what the user says is
fresh, what the upstream has answered is always the same. In `long chat` the answers are
fresh too, and as long, so that from turn 2 on there are two texts to screen.

`--also NAME=SRC` runs the `src` folder of another checkout beside this one.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import platformdirs
from measuring import percentiles, report
from proxy_requests import TURNS, body, chat, message
from proxy_servers import LITELLM, Server, direct, installed_litellm, litellm, ours

from alknet_firewall import Firewall

_LOAD = Path(__file__).with_name("load.py")
CONCURRENCY = 16
PEER = f"LiteLLM {LITELLM}"


def load(server: Server, concurrency: int, bodies: Sequence[bytes]) -> tuple[list[float], float]:
    """The seconds that each request took, and the requests per second."""
    command = [sys.executable, str(_LOAD), server.url, str(concurrency)]
    done = subprocess.run(command, input=b"\n".join(bodies), stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    return found["seconds"], len(bodies) / found["elapsed"]


@dataclass
class Taken:
    """What was measured of one server, round by round."""

    seconds: list[float] = field(default_factory=list)
    """Of each request that was sent alone."""
    rates: list[float] = field(default_factory=list)
    """Requests per second."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of the server's processor time for each of those requests."""


def measure(
    servers: Mapping[str, Server], rounds: int, count: int, chance: random.Random
) -> dict[str, Taken]:
    """What each server took, after a first round that only warms up."""
    taken = {name: Taken() for name in servers}
    for turn in range(-1, rounds):
        for name, server in servers.items():
            measured = _measure_once(server, count, chance)
            if turn >= 0:
                taken[name].seconds += measured.seconds
                taken[name].rates += measured.rates
                taken[name].cpu += measured.cpu
    return taken


def _measure_once(server: Server, count: int, chance: random.Random) -> Taken:
    seconds, _ = load(server, 1, [body(message(chance)) for _ in range(count)])
    before = server.cpu() or 0.0
    _, rate = load(server, CONCURRENCY, [body(message(chance)) for _ in range(2 * count)])
    return Taken(seconds, [rate], [((server.cpu() or 0.0) - before) / (2 * count)])


def row(what: str, seconds: Sequence[float], **more: Any) -> dict[str, Any]:
    return {"what": what, "requests": len(seconds), **percentiles(seconds), **more}


def compared(
    servers: Mapping[str, Server], taken: Mapping[str, Taken], tokens: int
) -> Iterator[dict[str, Any]]:
    """A row for each server, with what it adds to the upstream and its pace against LiteLLM's."""
    base = percentiles(taken["upstream"].seconds)["p50_ms"]
    peer = median(taken[PEER].rates) if PEER in taken else None
    for name, server in servers.items():
        found, peak = taken[name], server.peak()
        rate = median(found.rates)
        yield row(
            name,
            found.seconds,
            tokens=tokens,
            hop_ms=percentiles(found.seconds)["p50_ms"] - base,
            requests_s=rate,
            times_litellm=rate / peer if peer else None,
            cpu_ms=median(found.cpu) * 1000,
            peak_MiB=peak / 2**20 if peak else None,
        )


def chats(name: str, server: Server, count: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """A row for some turns of conversations, with the time of each against the first."""
    for kind, long_answers in (("chat", False), ("long chat", True)):
        bodies = [item for _ in range(count) for item in chat(chance, long_answers)]
        seconds, _ = load(server, 1, bodies)
        first = percentiles(seconds[0::TURNS])["p50_ms"]
        for turn in (1, 2, TURNS):
            times = seconds[turn - 1 :: TURNS]
            ratio = percentiles(times)["p50_ms"] / first
            yield row(f"{name}, {kind}, turn {turn}", times, times_turn_1=ratio)


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    tokens = Firewall().count_tokens(message(random.Random(0)))
    chance = random.Random()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = _started(stack, folder, arguments)
        taken = measure(servers, arguments.rounds, arguments.requests, chance)
        rows = [*compared(servers, taken, tokens)]
        for name in servers:
            if name.startswith("screening on"):
                rows += chats(name, servers[name], arguments.chats, chance)
    print(
        "The servers, one worker each, and the load tool share all cores. p50 and p99: one\n"
        f"request at a time; hop: p50 less the upstream's; requests/s: {CONCURRENCY} at a time;\n"
        "cpu: the server's processor time for each of these."
    )
    report(rows, arguments.json, [*dict.fromkeys(key for item in rows for key in item)])


def _started(stack: ExitStack, folder: Path, arguments: argparse.Namespace) -> dict[str, Server]:
    """The servers by name, each running until the stack is closed."""
    upstream = stack.enter_context(direct())
    servers = {"upstream": upstream}
    sources = {"": None, **{f", {name}": source for name, source in arguments.also}}
    for label, source in sources.items():
        for name, screening in (("screening off", False), ("screening on", True)):
            started = ours(upstream, folder, screening=screening, source=source)
            servers[name + label] = stack.enter_context(started)
    if arguments.litellm:
        python = installed_litellm(arguments.cache)
        servers[PEER] = stack.enter_context(litellm(upstream, folder, python))
    return servers


def _checkout(written: str) -> tuple[str, Path]:
    name, _, source = written.partition("=")
    return name, Path(source).resolve()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="alone, in a round")
    parser.add_argument("--chats", type=int, default=20)
    parser.add_argument("--no-litellm", dest="litellm", action="store_false")
    parser.add_argument("--cache", type=Path, default=platformdirs.user_cache_path("alknet-bench"))
    parser.add_argument("--also", type=_checkout, nargs="+", default=[], metavar="NAME=SRC")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
