"""COCO's result files: one list of what was found in all pictures, as its evaluation code reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from uniformer.support.files import atomic_path
from uniformer.tasks.pictured import PictureResult


def image_id(result: PictureResult) -> int | str:
    """The number that its file's name is, as of COCO's pictures; else the name, of frames with their number."""
    name = os.path.basename(result.source)
    stem = os.path.splitext(name)[0]
    if result.frame is not None:
        return f"{name}#{result.frame}"
    return int(stem) if stem.isascii() and stem.isdigit() else name


def write_rows(results: Iterable[PictureResult], file: IO[str]) -> int:
    """One JSON list of what was found, written as it comes; how many there are."""
    count = 0
    file.write("[")
    for result in results:
        for row in result.to_coco(image_id(result)):
            file.write(("," if count else "") + "\n" + json.dumps(row))
            count += 1
    file.write("\n]\n")
    return count


def write_coco_file(results: Iterable[PictureResult], path: Path) -> int:
    """A result file of answers, whole or not at all; how many things are in it."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        return write_rows(results, file)
