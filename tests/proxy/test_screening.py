"""Beside the event loop: batches, and work that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from alknet_firewall.errors import RequestError, ScreeningError
from alknet_firewall.proxy.content import Content
from alknet_firewall.proxy.leaves import Untrusted
from alknet_firewall.proxy.policy import Context, Verdict
from alknet_firewall.proxy.screening import Screener
from alknet_firewall.proxy.telemetry import Telemetry

from .fakes import ATTACK, FakeFirewall, config


def texts(count: int, length: int = 5) -> list[Untrusted]:
    return [Untrusted("user", f"messages[{n}].content", "x" * length) for n in range(count)]


async def screen(screener: Screener, items: list[Untrusted], **proxy: Any) -> Verdict:
    return await screener.screen(Content(tuple(items), ()), config(**proxy), Context())


async def prepared(firewall: FakeFirewall, **proxy: Any) -> Screener:
    screener = Screener(firewall, config(**proxy), Telemetry())
    await screener.prepare()
    return screener


async def test_alarms_come_in_the_order_of_the_texts() -> None:
    screener = await prepared(FakeFirewall())
    many = [*texts(50), Untrusted("tool", "messages[50].content", ATTACK), *texts(50)]
    verdict = await screen(screener, many)
    assert [finding.text for finding in verdict.findings] == many
    assert verdict.worst is not None
    assert verdict.worst.text == many[50]


async def test_the_loop_runs_on_meanwhile() -> None:
    screener = await prepared(FakeFirewall(delay=0.2))
    screening = asyncio.create_task(screen(screener, texts(1)))
    started = time.monotonic()
    await anyio.sleep(0.01)
    assert time.monotonic() - started < 0.15
    await screening


@pytest.mark.parametrize("length", [5, 30_000])
async def test_abandoned_work_stops_at_the_next_batch(length: int) -> None:
    slow = FakeFirewall(delay=0.02)
    screener = await prepared(slow, screen_timeout=0.1)
    with pytest.raises(ScreeningError, match=r"longer than 0\.1 s"):
        await screen(screener, texts(100, length), screen_timeout=0.1)
    await anyio.sleep(1)
    assert len(slow.seen) < 70


class Counting(FakeFirewall):
    """A token for each character."""

    def count_tokens(self, text: str) -> int:
        if self.error:
            raise self.error
        return len(text)


async def test_too_many_tokens_are_refused_before_any_is_screened() -> None:
    counting = Counting()
    screener = await prepared(counting)
    with pytest.raises(RequestError, match="limit is 100") as caught:
        await screen(screener, texts(3, length=40), max_request_tokens=100)
    assert (caught.value.status, caught.value.code) == (413, "too_many_tokens")
    assert counting.seen == []
    await screen(screener, texts(3, length=33), max_request_tokens=100)
    assert len(counting.seen) == 3


async def test_what_is_remembered_counts_as_well() -> None:
    counting = Counting()
    screener = await prepared(counting)
    await screen(screener, texts(40, length=1))  # 3 tokens each, says the alarm
    more = [*texts(40, length=1), Untrusted("tool", "messages[40].content", "yyyyy")]
    with pytest.raises(RequestError, match="125 tokens or more"):
        await screen(screener, more, max_request_tokens=124)
    assert ("yyyyy", "tool") not in counting.seen


async def test_a_text_that_cannot_be_counted_is_not_screened() -> None:
    screener = await prepared(Counting(error=ValueError("hush hush")))
    with pytest.raises(ScreeningError, match="unexpected ValueError"):
        await screen(screener, texts(3, length=40), max_request_tokens=100)


async def test_a_request_waits_until_the_detector_is_loaded() -> None:
    screener = Screener(FakeFirewall(), config(), Telemetry())
    waiting = asyncio.create_task(screen(screener, texts(1)))
    await anyio.sleep(0.01)
    assert not waiting.done()
    await screener.prepare()
    assert (await waiting).action == "allow"
