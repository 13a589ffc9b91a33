"""The memory of this process."""

from __future__ import annotations

import ctypes
import sys

KEPT = 1 << 30  # bytes that are free again and stay with the process, at most, for each of its heaps
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def keep_memory() -> bool:
    """From now on memory that is free again stays with this process, for the next time, where its C library knows how.

    glibc gives large blocks back to the system at once, and is given new ones page by page, each filled with zeros: of
    a request of the same size as the last one that took a tenth of its processor time (`docs/serve.md`). There is no
    way back, so it is for a process of one's own that does the same again and again. Returns whether it is so now.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all(mallopt(name, KEPT) == 1 for name in (TRIM_THRESHOLD, MMAP_THRESHOLD))
