"""A few threads, a bounded queue, batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from alknet_firewall.alarm import Alarm, AlarmLevel
from alknet_firewall.errors import RequestError, ScreeningError
from alknet_firewall.proxy.leaves import Untrusted
from alknet_firewall.proxy.pool import Pool

from .fakes import alarm


def texts(*said: str) -> list[Untrusted]:
    return [Untrusted("user", "a", text) for text in said]


class Gate:
    """Work that waits until it is let go, and notes its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, batch: Sequence[Untrusted]) -> list[Alarm]:
        self.batches.append([item.text for item in batch])
        assert self.open.wait(10)
        if any(item.text == "bad" for item in batch):
            raise ScreeningError("on purpose")
        return [alarm(AlarmLevel.CLEAR, score=len(item.text) / 100) for item in batch]


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0.01)


async def test_small_requests_that_wait_are_screened_together() -> None:
    gate = Gate()
    pool = Pool(gate, threads=1, max_queue=10)
    requests = [asyncio.create_task(pool.screen(texts("x" * n, "y"))) for n in (1, 2, 3)]
    await settled()
    assert pool.depth == 2
    gate.open.set()
    results = await asyncio.gather(*requests)
    assert [[item.score for item in result] for result in results] == [
        [0.01, 0.01],
        [0.02, 0.01],
        [0.03, 0.01],
    ]
    assert gate.batches == [["x", "y"], ["xx", "y", "xxx", "y"]]


async def test_one_requests_failure_is_not_anothers() -> None:
    gate = Gate()
    pool = Pool(gate, threads=1, max_queue=10)
    requests = [asyncio.create_task(pool.screen(texts(said))) for said in ("a", "bad", "good")]
    await settled()
    gate.open.set()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(results[1], ScreeningError)
    assert isinstance(results[0], list)
    assert isinstance(results[2], list)


async def test_a_full_queue_says_come_back() -> None:
    gate = Gate()
    pool = Pool(gate, threads=1, max_queue=2)
    waiting = [asyncio.create_task(pool.screen(texts("a"))) for _ in range(3)]
    await settled()
    with pytest.raises(RequestError) as caught:
        await pool.screen(texts("b"))
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert caught.value.headers["retry-after"] == "1"
    gate.open.set()
    await asyncio.gather(*waiting)
    assert len(await pool.screen(texts("c"))) == 1


async def test_what_nobody_waits_for_is_not_screened() -> None:
    gate = Gate()
    pool = Pool(gate, threads=1, max_queue=5)
    first, second = (asyncio.create_task(pool.screen(texts(said))) for said in ("a", "b"))
    await settled()
    second.cancel()
    await settled()
    gate.open.set()
    await first
    await pool.screen(texts("c"))
    assert gate.batches == [["a"], ["c"]]


async def test_a_large_request_lets_others_in_between() -> None:
    gate = Gate()
    pool = Pool(gate, threads=1, max_queue=5)
    large = asyncio.create_task(pool.screen(texts(*["x" * 15_000] * 3)))
    await settled()
    small = asyncio.create_task(pool.screen(texts("small")))
    await settled()
    gate.open.set()
    await asyncio.gather(large, small)
    assert [len(batch[0]) for batch in gate.batches] == [15_000, 5, 15_000, 15_000]


async def test_nothing_to_screen() -> None:
    assert await Pool(Gate(), threads=1, max_queue=1).screen([]) == []
