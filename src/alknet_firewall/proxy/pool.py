"""Screening beside the event loop: a few threads, a bounded queue, batches.

While every thread is busy requests wait, and when one is free it takes as many
small ones as fit in a batch. Work that nobody waits for any more is dropped
between batches.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..alarm import Alarm
from .leaves import Untrusted
from .responses import overloaded

__all__ = ["Pool", "Work"]

Work = Callable[[Sequence[Untrusted]], list[Alarm]]

# A batch ends at whichever comes first.
_BATCH_TEXTS = 32
_BATCH_CHARACTERS = 20_000


@dataclass(slots=True)
class _Job:
    """A batch of one request, and where its alarms are awaited."""

    texts: Sequence[Untrusted]
    alarms: asyncio.Future[list[Alarm]]
    characters: int = field(init=False)

    def __post_init__(self) -> None:
        self.characters = sum(len(item.text) for item in self.texts)


class Pool:
    """Runs `work` on the texts of many requests at once."""

    def __init__(self, work: Work, threads: int, max_queue: int) -> None:
        self._work = work
        self._threads = threads
        self._limit = threads + max_queue
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="screening")
        self._waiting: deque[_Job] = deque()
        self._requests = 0
        self._busy = 0

    @property
    def depth(self) -> int:
        """Batches that wait for a thread."""
        return len(self._waiting)

    async def screen(self, texts: Sequence[Untrusted]) -> list[Alarm]:
        """The alarm of each text. Raises `RequestError` (503) when the queue is full."""
        if self._requests >= self._limit:
            raise overloaded()
        self._requests += 1
        try:
            return [alarm for batch in _batches(texts) for alarm in await self._submit(batch)]
        finally:
            self._requests -= 1

    def close(self) -> None:
        """Start nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _submit(self, batch: Sequence[Untrusted]) -> list[Alarm]:
        job = _Job(batch, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._start()
        return await job.alarms

    def _start(self) -> None:
        while self._busy < self._threads and (jobs := self._take()):
            self._busy += 1
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._executor, self._run, jobs)
            running.add_done_callback(functools.partial(self._finished, jobs))

    def _take(self) -> list[_Job]:
        """The jobs for one thread: the first that is waited for, and what fits beside it."""
        jobs: list[_Job] = []
        texts = characters = 0
        while self._waiting:
            job = self._waiting[0]
            texts, characters = texts + len(job.texts), characters + job.characters
            if jobs and (texts > _BATCH_TEXTS or characters > _BATCH_CHARACTERS):
                break
            self._waiting.popleft()
            if job.alarms.done():  # nobody waits for it
                texts, characters = texts - len(job.texts), characters - job.characters
            else:
                jobs.append(job)
        return jobs

    def _run(self, jobs: list[_Job]) -> list[list[Alarm] | Exception]:
        """In a thread: the alarms of each job, or why there are none."""
        together = [item for job in jobs for item in job.texts]
        try:
            alarms = iter(self._work(together))
            return [[next(alarms) for _ in job.texts] for job in jobs]
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            if len(jobs) == 1:
                return [error]
        # One request's text must not fail another's.
        return [result for job in jobs for result in self._run([job])]

    def _finished(
        self, jobs: list[_Job], running: asyncio.Future[list[list[Alarm] | Exception]]
    ) -> None:
        self._busy -= 1
        if running.cancelled():
            return
        for job, result in zip(jobs, running.result(), strict=True):
            if job.alarms.done():
                continue
            if isinstance(result, Exception):
                job.alarms.set_exception(result)
            else:
                job.alarms.set_result(result)
        self._start()


def _batches(texts: Sequence[Untrusted]) -> Iterator[list[Untrusted]]:
    batch: list[Untrusted] = []
    characters = 0
    for item in texts:
        characters += len(item.text)
        if batch and (len(batch) == _BATCH_TEXTS or characters > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], len(item.text)
        batch.append(item)
    if batch:
        yield batch
