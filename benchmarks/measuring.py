"""What every benchmark says beside its times: the machine, percentiles, memory, a table.

Nothing here but the standard library, so that a benchmark's own imports are all it pays for.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "cpu_seconds",
    "machine",
    "peak_resident",
    "percentile",
    "percentiles",
    "print_table",
    "report",
]

Row = Mapping[str, Any]

# The instructions that int8 and bf16 engines differ by, as Linux spells them.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",  # Arm: int8 dot products
    "i8mm",
    "bf16",
    "sve",
)


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, their instructions, and Python."""
    info = _cpuinfo()
    flags = {*info.get("flags", "").split(), *info.get("features", "").split()}
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cores() -> int:
    # Not os.cpu_count(): a container may have fewer than the machine.
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(encoding="utf-8").split("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (in [0, 1]) of all are not above."""
    # Rounded, because 0.07 * 100 is a little more than 7.
    rank = math.ceil(round(share * len(values), 9))
    return sorted(values)[max(rank, 1) - 1]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`p50_ms` and `p99_ms` of times in seconds."""
    return {f"p{share}_ms": percentile(seconds, share / 100) * 1000 for share in (50, 99)}


def peak_resident(pid: int | None = None) -> int | None:
    """The most bytes of memory that a process has held so far, of this one by default.

    None where the system does not tell: of other processes only Linux does.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line[:6] == "VmHWM:"), None)
    return _own_peak() if pid in (None, os.getpid()) else None


def cpu_seconds(pid: int | None = None) -> float | None:
    """The seconds of processor time that all threads of a process have used, this one's by default.

    Unlike a time on the wall it does not grow when others use the machine. None where the
    system does not tell: of other processes only Linux does, in hundredths of a second.
    """
    if pid in (None, os.getpid()):
        return time.process_time()
    status = Path(f"/proc/{pid}/stat")
    if not status.exists():
        return None
    # After the name, which may hold anything: user and system time are fields 14 and 15.
    fields = status.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_peak() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None

    # Bytes on macOS, KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def print_table(rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
    """Rows as plain text: the machine first, then the columns (of the first row by default)."""
    found = machine()
    flags = " ".join(found["instructions"]) or "no vector instructions known"
    print(f"{found['cpu']}, {found['cores']} cores ({flags}), {found['python']}")
    names = columns or list(rows[0])
    cells = [[*names], *([_shown(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [any(_is_number(row.get(name)) for row in rows) for name in names]
    for line in cells:
        aligned = zip(line, widths, right, strict=True)
        print("  ".join(f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in aligned).rstrip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def report(rows: Sequence[Row], path: Path | None, columns: Sequence[str] = ()) -> None:
    """Print the table, and write the same with the machine to `path` as JSON, if there is one."""
    print_table(rows, columns)
    if path:
        text = json.dumps({"machine": machine(), "rows": [*rows]}, indent=2)
        path.write_text(f"{text}\n", encoding="utf-8")
