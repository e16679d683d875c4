"""How many threads to compute with."""

from __future__ import annotations

import os

__all__ = ["thread_count"]

_MOST = 4  # more cores add nothing to windows of a few hundred tokens


def thread_count(wanted: int) -> int:
    """`wanted`, or if that is 0 as many as there are cores, up to four."""
    return wanted or min(os.cpu_count() or 1, _MOST)
