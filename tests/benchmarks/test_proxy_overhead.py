"""The benchmark of the proxy, small and without LiteLLM: that it runs and adds up."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from measuring import machine
from proxy_overhead import load
from proxy_requests import TURNS, body, chat, message
from proxy_servers import direct

from alknet_firewall import Firewall

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "proxy_overhead.py"


def test_messages_have_64_tokens_and_alarm_nobody() -> None:
    firewall, chance = Firewall(), random.Random(1)
    texts = [message(chance) for _ in range(5)]
    assert len({*texts}) == 5
    assert {firewall.count_tokens(text) for text in texts} == {64}
    assert {
        alarm.level.name for alarm in firewall.screen_many((text, "user") for text in texts)
    } == {"CLEAR"}


@pytest.mark.parametrize("long_answers", [False, True])
def test_a_chat_grows_by_a_turn_and_keeps_what_was_said(long_answers: bool) -> None:
    said = [json.loads(item)["messages"] for item in chat(random.Random(1), long_answers)]
    assert [len(messages) for messages in said] == [2 * turn + 1 for turn in range(TURNS)]
    assert all(later[: len(item)] == item for item, later in itertools.pairwise(said))
    assert {message["role"] for message in said[-1][::2]} == {"user"}
    assert len({message["content"] for message in said[-1][1::2]}) == (19 if long_answers else 1)


def test_the_load_tool_times_each_request_and_says_what_was_not_answered() -> None:
    with direct() as upstream:
        seconds, rate = load(upstream, 3, [body("Hello.")] * 10)
        assert len(seconds) == 10
        assert min(seconds) > 0
        assert rate > 0
    with pytest.raises(subprocess.CalledProcessError):
        load(upstream, 1, [body("Hello.")])


def test_one_command_compares_the_upstream_with_the_proxy(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    tiny = ["--rounds", "1", "--requests", "4", "--chats", "1", "--no-litellm"]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *tiny, "--json", str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    written = json.loads(out.read_text())
    assert written["machine"] == machine()
    rows = {row["what"]: row for row in written["rows"]}
    assert {"upstream", "screening off", "screening on"} <= {*rows}
    assert all(row["what"] in done.stdout for row in written["rows"])
    assert rows["upstream"]["hop_ms"] == 0 < rows["screening on"]["requests_s"]
    assert {row["requests"] for row in written["rows"]} == {1, 4}
