"""What holds when in a video, as a picture, as a film with its sound, or as text, by the ending of a name."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from PIL import Image

from uniformer.tasks.drawing import Entry, Stretch, draw_stretches
from uniformer.tasks.drawn_film import FILMS, write_captioned
from uniformer.tasks.pictured import DRAWN, save_as, save_picture, text_writer

EARLY = 1e-6  # seconds by which times may be off


class OverTime(ABC):
    """Stretches of a video of `duration` seconds; `source` is its file."""

    source: str
    duration: float

    TEXTS: ClassVar[Mapping[str, str]] = {}  #: by an ending: the method that gives such a text

    @abstractmethod
    def stretches(self) -> list[Stretch]:
        """In the order of their starts; they do not overlap."""

    def plot(self) -> Image.Image:
        """What is seen when, as a picture."""
        return draw_stretches(self.stretches(), self.duration)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a text (of a timeline .json, .csv, .srt), as a picture (.jpg, .png, .webp), or as a film (.mp4,
        .mkv, .mov, .webm): the video, with its sound, and over it what is seen while it is.

        Raises `InputError` for another ending, a file that cannot be read or written, and the source itself.
        """
        ways: dict[str, Callable[[Path], None]] = {
            e: text_writer(getattr(self, name)) for e, name in self.TEXTS.items()
        }
        ways |= dict.fromkeys(DRAWN, lambda path: save_picture(self.plot(), path))
        ways |= dict.fromkeys(FILMS, self._film)
        save_as(path, ways, [self.source])

    def _film(self, path: Path) -> None:
        stretches = self.stretches()

        def entries_at(seconds: float) -> list[Entry]:
            last = bisect_right(stretches, seconds + EARLY, key=lambda one: one.start)
            return [Entry(s.text, s.share, s.colour) for s in stretches[max(0, last - 1) : last] if seconds < s.end]

        write_captioned(self.source, path, entries_at)
