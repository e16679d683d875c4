"""The benchmarks of the detector, small: that they run, add up, and name what they timed."""

import os
import subprocess
import sys
from pathlib import Path

import latency
import pytest
import startup
import throughput
from hypothesis import given
from hypothesis import strategies as st
from peer_models import OURS
from peers import Contender, Timer, compared, fastest
from prose import text_of

from alknet_firewall import AlarmLevel, Firewall


@pytest.mark.parametrize("tokens", [0, 1, 16, 64, 1000])
def test_a_text_has_exactly_so_many_tokens(firewall: Firewall, tokens: int) -> None:
    texts = [text_of(tokens, seed, firewall.count_tokens) for seed in range(5)]
    assert {firewall.count_tokens(text) for text in texts} == {tokens}
    assert tokens < 2 or len({*texts}) == 5
    assert text_of(tokens, 3, firewall.count_tokens) == texts[3]


def test_a_text_to_time_is_ordinary(firewall: Firewall) -> None:
    alarm = firewall.screen(text_of(64, 1, firewall.count_tokens))
    assert (alarm.level, alarm.reading) == (AlarmLevel.CLEAR, "raw")


def test_latency_names_the_stages_of_one_window_and_their_sum() -> None:
    short, whole, long, _ = latency.measured(threads=2, lengths=[16, 600], rounds=2)
    assert (short["tokens"], short["windows"]) == (16, 1)
    assert [row["read"] for row in (short, whole)] == ["as shipped", "every layer"]
    assert (short["settled_%"] > 0, whole["settled_%"]) == (True, 0)
    stages = ["readings_%", "tokenizer_%", "engine_%", "codebook_%", "rest_%"]
    assert all(0 <= short[name] <= 100 for name in stages)
    assert short["not_engine_%"] == pytest.approx(100 - short["engine_%"])
    assert 0 < short["p50_ms"] <= short["p99_ms"]
    assert long["windows"] > 1
    assert "engine_%" not in long  # windows side by side: their times overlap


def test_a_profile_covers_nearly_all_of_a_call(firewall: Firewall) -> None:
    shares = latency.profiled(firewall, text_of(128, 7, firewall.count_tokens))
    assert 0.5 < sum(shares.values()) <= 1
    assert min(shares.values()) > 0


def test_throughput_screens_every_text_in_each_case() -> None:
    rows = throughput.measured(threads=1, lengths=[600], callers=[1, 2], texts=3, rounds=1)
    assert [(row["case"], row["callers"], row["texts"], row["tokens"]) for row in rows] == [
        ("at once", 1, 3, 768),
        ("at once", 2, 3, 768),
        ("screen_many", 1, 3, 768),
        ("one text", 1, 1, 600),
    ]
    assert rows[-1]["windows"] > 1
    assert all(row["tokens_s"] == row["tokens"] / row["p50_ms"] * 1000 for row in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of other processes")
def test_a_started_proxy_says_when_it_was_ready_and_what_it_held() -> None:
    found = startup.proxied(Path(sys.executable), os.environ)
    assert (found["seconds"] or 0) > 0
    assert 10 < (found["ready_mb"] or 0) <= (found["ready_peak_mb"] or 0)
    assert (found["screened_mb"] or 0) <= (found["screened_peak_mb"] or 0)


def test_sizes_add_up_and_bytecode_is_apart(tmp_path: Path) -> None:
    for name, length in (("a/x.py", 3), ("a/__pycache__/x.pyc", 5), ("b/y.so", 11), ("z.py", 2)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"." * length * 1_000_000)
    rows = [tuple(row.values()) for row in startup.sizes(tmp_path, largest=2)]
    assert rows == [("b", 11, 0), ("a", 3, 5), ("all others", 2, 0), ("all", 16, 5)]


ECHO = """
import json, sys
for line in sys.stdin:
    tokens, seed, calls = map(int, line.split())
    reply = {"seconds": [tokens * FACTOR] * calls, "tokens": tokens, "peak": 7}
    print(json.dumps(reply), flush=True)
"""


def stand_in(model: str, runtime: str, factor: float) -> Timer:
    code = ECHO.replace("FACTOR", str(factor))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return Timer(Contender(model, runtime), process)


def test_contenders_are_compared_with_ours_and_the_fastest_runtime_is_marked() -> None:
    timers = [stand_in(OURS, "", 1), stand_in("big", "slow", 8), stand_in("big", "fast", 4)]
    try:
        rows = compared(timers, threads=2, lengths=[16, 64], rounds=2)
    finally:
        for timer in timers:
            timer.end()
    assert [(row["tokens"], row["times_ours"], row["best"]) for row in rows] == [
        (16, 1, ""),
        (16, 8, ""),
        (16, 4, "best"),
        (64, 1, ""),
        (64, 8, ""),
        (64, 4, "best"),
    ]


def test_our_own_timer_answers_with_the_tokens_it_read(tmp_path: Path) -> None:
    timer = Timer.started(Path(sys.executable), tmp_path, Contender(OURS, ""), threads=1)
    try:
        seconds = timer.ask(16, seed=1)
    finally:
        timer.end()
    assert min(seconds) > 0
    assert timer.tokens == {16: 16}


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.text()), st.floats(0, 1)))
def test_each_model_has_one_fastest_runtime(times: dict[tuple[str, str], float]) -> None:
    contenders = {Contender(*names): seconds for names, seconds in times.items()}
    found = fastest(contenders)
    assert {one.model for one in found} == {one.model for one in contenders}
    assert len(found) == len({one.model for one in found})
    for one in found:
        assert all(contenders[one] <= s for c, s in contenders.items() if c.model == one.model)
