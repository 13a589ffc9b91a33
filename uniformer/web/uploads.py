"""Files that the page was given: they stay as long as an open page shows them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path


class Uploads:
    """The folders with what each open page shows; one that no page shows any more is deleted."""

    def __init__(self) -> None:
        self._of: dict[str | None, set[Path]] = {}
        self._left: set[str | None] = set()
        self._lock = threading.Lock()

    def keep(self, page: str | None, folders: Iterable[Path]) -> None:
        """From now on a page, by its session, shows these. Pages that were given the same file share its folder."""
        with self._lock:
            old = self._of.pop(page, set())
            new = set(folders)
            if page in self._left:  # nobody sees it any more
                old, new = old | new, set()
            self._of[page] = new
            for folder in old.difference(*self._of.values()):
                shutil.rmtree(folder, ignore_errors=True)

    def leave(self, page: str | None) -> None:
        """The page is closed for good."""
        self._left.add(page)
        self.keep(page, ())

    def has_left(self, page: str | None) -> bool:
        return page in self._left
