import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from alknet_firewall.training.memory import keep_freed

keep_freed()
array = np.ones(5_000_000)
del array
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    array = np.ones(5_000_000)
    del array
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is one of glibc")
def test_freed_arrays_leave_their_pages_to_the_next() -> None:
    found = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 1000  # ten arrays of 40 MB have 97,000 pages
