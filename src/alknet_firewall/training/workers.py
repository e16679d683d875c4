"""Threads for work that takes minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool

from threadpoolctl import threadpool_limits

__all__ = ["workers"]

_MOST = 8  # each holds a chunk of activations in memory, half a gigabyte at worst


@contextmanager
def workers() -> Iterator[ThreadPool]:
    """One for each core, up to eight, and one thread for the products of matrices in each:
    two heads are trained side by side in less time than one after the other with two
    threads each, and no sum depends on how many cores there are.

    Unlike those of an executor, they do not keep an interrupted program waiting.
    """
    with threadpool_limits(1), ThreadPool(min(os.cpu_count() or 1, _MOST)) as pool:
        yield pool
