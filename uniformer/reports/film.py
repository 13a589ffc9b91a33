"""The page of the demo's own film: a timeline beside what was filmed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from uniformer.camera_motion.film import CREDITS, Verdict
from uniformer.reports.page import write_page
from uniformer.reports.timeline import Truth, content
from uniformer.timelines.timeline import Timeline


def write_film_page(
    path: str | os.PathLike[str], timeline: Timeline, film: Path, verdicts: Sequence[Verdict], *, title: str
) -> None:
    """Write the page. `film` is read once more for its pictures. Raises `InputError` where it cannot be written."""
    shown = content(timeline, film, [Truth(v.take.motion, v.take.start, v.take.end, v.row) for v in verdicts])
    right, directions = sum(v.is_right for v in verdicts), sum(v.goes_right for v in verdicts)
    tiles = [(f"{right} of {len(verdicts)}", "right"), (f"{directions} of {len(verdicts)}", "right in direction")]
    told = "on a film made on the spot: its shots were cut apart and named without being told"
    shown |= {
        "title": title,
        "lines": [f"{timeline.checkpoint} {told}"],
        "tiles": [*tiles, *shown["tiles"]],
        "credits": CREDITS,
    }
    write_page(path, "film.html", shown)
