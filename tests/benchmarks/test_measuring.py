"""What every benchmark says beside its times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measuring import cpu_seconds, machine, peak_resident, percentile, percentiles, report


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100))
def test_a_percentile_is_a_value_that_so_many_are_not_above(
    values: list[float], per_cent: int
) -> None:
    found = percentile(values, per_cent / 100)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= per_cent * len(values)
    assert sum(value < found for value in values) * 100 <= per_cent * len(values)


def test_percentiles_of_seconds_are_in_milliseconds() -> None:
    assert percentiles([0.001, 0.002, 0.003]) == {"p50_ms": 2.0, "p99_ms": 3.0}


def test_the_machine_has_a_processor_and_cores() -> None:
    found = machine()
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_that_of_a_process_and_does_not_shrink() -> None:
    before = peak_resident() or 0
    block = bytearray(64 << 20)
    del block
    after = peak_resident() or 0
    assert after >= before > 1 << 20


def test_processor_time_of_a_process_grows_with_its_work_only() -> None:
    own = cpu_seconds()
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sleeper:
        other = cpu_seconds(sleeper.pid)
        sleeper.kill()
    assert own is not None
    assert 0 < own <= (cpu_seconds() or 0)
    assert other is None or 0 <= other < 10


def test_a_report_is_a_table_and_the_same_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [
        {"what": "a", "p50_ms": 1.234},
        {"what": "bcd", "p50_ms": None},
    ]
    report(rows, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"] == rows
    assert written["machine"] == machine()
    assert capsys.readouterr().out.splitlines()[1:] == [
        "what  p50_ms",
        "a       1.23",
        "bcd        -",
    ]
