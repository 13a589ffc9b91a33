"""Environment variables that libraries go by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def usual(name: str, value: str) -> Iterator[None]:
    """`value` for a variable that is not set, as long as the block runs: for libraries that read it then."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
