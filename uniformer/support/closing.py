"""What is let go of at the end of a `with`."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that is closed at its end."""

    def close(self) -> None:
        """Let go of what is held, if anything is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
