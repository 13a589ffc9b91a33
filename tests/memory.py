"""The largest memory that a process has had.

The kernel's `VmHWM` begins anew with a program; `ru_maxrss` begins with what the process had that started it, and the
test suite's own is large.
"""

from __future__ import annotations

import re
from pathlib import Path


def peak_kilobytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])
