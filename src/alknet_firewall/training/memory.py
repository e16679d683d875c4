"""Keeping freed memory for the next array."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed"]

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30  # bytes


@cache
def keep_freed() -> None:
    """Tell glibc not to give the memory of freed arrays back to the system.

    A step of training makes and drops dozens of arrays of up to 20 MB; getting their
    pages anew is half of its time. Elsewhere than on glibc this does nothing,
    and after the first call neither.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        libc.mallopt(option, _LARGEST)
