"""Beside the event loop: batches, and work that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from alknet_firewall.errors import ScreeningError
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


async def test_a_request_waits_until_the_detector_is_loaded() -> None:
    screener = Screener(FakeFirewall(), config(), Telemetry())
    waiting = asyncio.create_task(screen(screener, texts(1)))
    await anyio.sleep(0.01)
    assert not waiting.done()
    await screener.prepare()
    assert (await waiting).action == "allow"
