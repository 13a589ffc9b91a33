"""Environment variables that libraries go by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def usual(name: str, value: str) -> Iterator[None]:
    """`value` for a variable that is not set, as long as the block runs: for libraries that read it then."""
    with changed(name, os.environ.get(name, value)):
        yield


@contextmanager
def changed(name: str, value: str) -> Iterator[None]:
    """`value` for a variable, set or not, as long as the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
