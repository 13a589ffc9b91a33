"""Where the people are that a pose network looks at: boxes from a file, from a detector, or the whole picture.

A file is COCO JSON, of annotations or of a detector's results, what `predict` wrote of a detector as JSON lines, or a
table with the columns path, x1, y1, x2, y2 and maybe score. No torch here.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uniformer.datasets.coco import kind_of, read_boxes
from uniformer.datasets.records import json_lines, text_of
from uniformer.errors import InputError, counted, shown
from uniformer.labels import PERSON_ID
from uniformer.reading.people import FURTHEST, clipped_boxes
from uniformer.reading.sources import name_of_source
from uniformer.reading.views import Source
from uniformer.support.csv_text import plain_cell
from uniformer.support.texts import parse_json, read_text
from uniformer.tasks.detections import Detections

EXPECTED = "boxes of people: COCO JSON, a detector's JSON lines, or lines path,x1,y1,x2,y2[,score]"
PERSON = "person"
FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")  #: their endings
PATH_NAMES = ("path", "file", "file_name", "filename", "image")  #: of a table's first column
CORNERS = ("x1", "y1", "x2", "y2")


class Boxes(NamedTuple):
    """The people of one picture."""

    boxes: npt.NDArray[np.float32]  #: (P, 4), x1, y1, x2, y2 in pixels
    scores: npt.NDArray[np.float64]  #: (P,), how sure a detector was; 1 where nobody says


def whole_picture(height: int, width: int) -> Boxes:
    """One person, who fills the picture."""
    return Boxes(np.array([[0, 0, width, height]], np.float32), np.ones(1))


def people_found_by(detector: Callable[[Source], Detections]) -> Callable[[Source, int, int], Boxes]:
    """The people of a picture by a detector, such as a `Predictor` of one: what it calls a person, and has an area.

    To be given to a pose network as `people`, like a `PersonBoxes`. Raises `InputError` where no class is `person`.
    """

    def people(source: Source, height: int, width: int) -> Boxes:
        found = detector(source).only((PERSON,))
        has_area = (found.boxes[:, :2] < found.boxes[:, 2:]).all(1)
        return Boxes(found.boxes[has_area], found.scores[has_area].astype(np.float64))

    return people


@dataclass(frozen=True)
class PersonBoxes:
    """The people of many pictures, as a file says: `people` of a pose network."""

    origin: str
    pictures: Mapping[str, Boxes]  #: by name as in the file, or by number, where it has no names
    notes: tuple[str, ...] = ()  #: what was left out of it
    _ends: dict[str, list[str]] = field(default_factory=dict, repr=False)  # last part of a name -> the names

    def __post_init__(self) -> None:
        for name in self.pictures:
            self._ends.setdefault(_parts(name)[-1], []).append(name)

    def __len__(self) -> int:
        return len(self.pictures)

    def __call__(self, source: Source, height: int = 0, width: int = 0) -> Boxes:
        """`of` a picture. Raises `InputError` where the file does not list it, or it has no path."""
        found = self.of(source) if isinstance(source, str | os.PathLike) else None
        if found is None:
            raise InputError(f"{self.origin}: lists no people of {shown(name_of_source(source))}")
        return found

    def of(self, picture: str | os.PathLike[str]) -> Boxes | None:
        """The people of a picture; none of them, where the file lists it without a box; None where it does not list it.

        It is listed under its path, or the end of it, or an end that is its path: whole folders, whichever fits. Where
        only numbers are listed, its name is a number. Raises `InputError` where two that differ fit.
        """
        name = self._name(picture)
        return None if name is None else self.pictures[name]

    def _name(self, picture: str | os.PathLike[str]) -> str | None:
        parts = _parts(os.fspath(picture))
        found = [name for name in self._ends.get(parts[-1], ()) if _same_end(parts, _parts(name))]
        if len(found) > 1:
            found = [name for name in found if _parts(name) == parts] or found
        if len(found) > 1:
            raise InputError(f"{self.origin}: expected one picture {shown(picture)}, found {shown(', '.join(found))}")
        if found:
            return found[0]
        number = os.path.splitext(parts[-1])[0].lstrip("0") or "0"
        return number if number.isdecimal() and number in self.pictures else None

    def unmatched(self, pictures: Iterable[str | os.PathLike[str]]) -> list[str]:
        """Sentences on pictures that the file does not list, and on those it lists that are not among them."""
        names = {os.fspath(picture): self._name(picture) for picture in pictures}
        unlisted = [picture for picture, name in names.items() if name is None]
        used = set(names.values())
        unused = [name for name in self.pictures if name not in used]
        lines = []
        if unlisted:
            lines.append(f"{self.origin}: lists no people of {_some(unlisted)}")
        if unused:
            lines.append(f"{self.origin}: lists {_some(unused)} that nobody asked for")
        return lines


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [name]


def _same_end(some: list[str], others: list[str]) -> bool:
    length = min(len(some), len(others))
    return some[-length:] == others[-length:]


def _some(names: list[str]) -> str:
    return f"{counted(len(names), 'picture')} ({shown(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''})"


def read_person_boxes(path: str | os.PathLike[str]) -> PersonBoxes:
    """The people a file lists, by picture. Boxes of annotations are as networks were trained: see `clipped_boxes`.

    Raises `InputError`, with the place in the file, for what is no such file or no box.
    """
    path = Path(path)
    if path.suffix.lower() not in FILES:
        more = "where a detector says, `uniformer predict --out FILE.jsonl` with it writes one"
        raise InputError(f"{path}: expected a file of boxes of people that ends in {', '.join(FILES)}; {more}")
    if path.suffix.lower() == ".json":
        if kind_of(path) is not None:
            return _from_annotations(path)
        content = parse_json(read_text(path, EXPECTED), str(path), EXPECTED)
        if isinstance(content, list):
            return _from_results(content, path)
        raise InputError(f"{path}: expected {EXPECTED}, found {type(content).__name__}")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _from_answers(path)
    return PersonBoxes(str(path), _gathered(_table_rows(path), path))


class _Row(NamedTuple):
    """A box in a file."""

    place: str
    picture: str
    box: tuple[float, float, float, float]
    score: float

    def has_area(self) -> bool:
        """Detectors and annotators write some without."""
        x1, y1, x2, y2 = self.box
        return not (x1 >= x2 or y1 >= y2)


def _gathered(rows: Iterable[_Row], path: Path, without: Iterable[str] = ()) -> dict[str, Boxes]:
    """By picture, in the order of the file, those `without` boxes too."""
    found: dict[str, list[_Row]] = {name: [] for name in without}
    for row in rows:
        if not (row.has_area() and all(abs(side) <= FURTHEST for side in row.box)):
            raise InputError(f"{path}, {row.place}: expected a box x1 < x2, y1 < y2 in pixels, found {list(row.box)}")
        found.setdefault(row.picture, []).append(row)
    if not found:
        raise InputError(f"{path}: expected {EXPECTED}, found none")
    return {
        name: Boxes(
            np.array([r.box for r in mine], np.float32).reshape(-1, 4), np.array([r.score for r in mine], float)
        )
        for name, mine in found.items()
    }


def _made(
    path: Path, rows: Sequence[_Row], pictures: Iterable[str], counts: Mapping[str, int], odd: Sequence[str] = ()
) -> PersonBoxes:
    """Of boxes that a program wrote: those without an area are left out, as what `counts` counts was, and are said, as
    is what else was `odd`."""
    kept = [row for row in rows if row.has_area()]
    left_out = {**counts, "boxes without an area": len(rows) - len(kept)}
    said = ", ".join(f"{what}: {count}" for what, count in left_out.items() if count)
    lines = [*([f"left out {said}"] if said else []), *odd]
    return PersonBoxes(str(path), _gathered(kept, path, pictures), tuple(f"{path}: {line}" for line in lines))


# ---- tables ----------------------------------------------------------------------------------------------------------


def _table_rows(path: Path) -> Iterator[_Row]:
    first = next((line for line in text_of(path) if line.strip()), "")
    reader = csv.reader(text_of(path, newline=""), delimiter=max(",;\t", key=first.count))
    columns = dict(zip(("path", *CORNERS, "score"), range(6), strict=True))
    try:
        for number, cells in enumerate(row for row in reader if any(cell.strip() for cell in row)):
            place = f"line {reader.line_num}"
            names = [cell.strip().lower().lstrip("# ") for cell in cells]
            if number == 0 and set(CORNERS) <= set(names):
                columns = _columns(names, f"{path}, {place}")
            else:
                yield _row([plain_cell(cell) for cell in cells], columns, path, place)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected {EXPECTED}, found {shown(error)}") from None


def _columns(names: list[str], where: str) -> dict[str, int]:
    paths = [name for name in names if name in PATH_NAMES]
    if len(paths) != 1:
        raise InputError(f"{where}: expected one column of {', '.join(PATH_NAMES)}, found {shown(', '.join(names))}")
    columns = {name: names.index(name) for name in (*CORNERS, "score") if name in names}
    return {"path": names.index(paths[0]), **columns}


def _row(cells: list[str], columns: Mapping[str, int], path: Path, place: str) -> _Row:
    try:
        x1, y1, x2, y2 = (float(cells[columns[name]]) for name in CORNERS)
        at = columns.get("score", len(cells))
        score = float(cells[at]) if at < len(cells) else 1.0
        name = cells[columns["path"]].strip()
    except (ValueError, IndexError):
        raise InputError(f"{path}, {place}: expected {EXPECTED}, found {shown(','.join(cells))!r}") from None
    if not name or not math.isfinite(score):
        raise InputError(f"{path}, {place}: expected a picture and a finite score, found {shown(','.join(cells))!r}")
    return _Row(place, name, (x1, y1, x2, y2), score)


# ---- a detector's answers --------------------------------------------------------------------------------------------


def _from_answers(path: Path) -> PersonBoxes:
    """The people among the objects of each picture that has an answer."""
    rows, pictures, failures = [], [], 0
    for place, answer in json_lines(path):
        try:
            picture = str(answer["source"])
            if "error" in answer:
                failures += 1
                continue
            pictures.append(picture)
            for thing in answer["objects"]:
                if str(thing["name"]).lower() == PERSON:
                    x1, y1, x2, y2 = map(float, thing["box"])
                    rows.append(_Row(place, picture, (x1, y1, x2, y2), float(thing["score"])))
        except (TypeError, ValueError, KeyError):
            raise InputError(f"{path}, {place}: expected {EXPECTED}, found {shown(answer)}") from None
    return _made(path, rows, pictures, {"pictures without an answer": failures})


# ---- COCO ------------------------------------------------------------------------------------------------------------


def _from_annotations(path: Path) -> PersonBoxes:
    """Pictures by name, and the boxes of people who are no crowd, clipped to their pictures; where the file does not
    tell a picture's size, by its left and upper edge alone."""
    listed = read_boxes(path)
    found = listed.instances
    is_person = found.labels == _person(listed.classes, path)
    kept = is_person & ~found.crowd
    sizes = np.where(listed.sizes > 0, listed.sizes, int(FURTHEST))
    rows = []
    for name, (height, width), (begin, end) in zip(listed.names, sizes, pairwise(found.offsets), strict=True):
        boxes = clipped_boxes(found.boxes[begin:end][kept[begin:end]], height, width)
        rows += [_Row(name, name, (x1, y1, x2, y2), 1.0) for x1, y1, x2, y2 in boxes.tolist()]
    counts = {"boxes of other classes": int((~is_person).sum()), "crowds": int((found.crowd & is_person).sum())}
    odd = [finding.text for finding in listed.findings if finding.level != "note"]
    return _made(path, rows, listed.names, counts, odd)


def _from_results(content: list[Any], path: Path) -> PersonBoxes:
    """What a detector found: pictures by number, as results have no names."""
    rows, others = [], 0
    for number, entry in enumerate(content, 1):
        row = _entry(entry, path, f"entry {number}")
        if entry.get("category_id", PERSON_ID) == PERSON_ID:
            rows.append(row)
        else:
            others += 1
    return _made(path, rows, [], {"boxes of other classes": others})


def _entry(entry: Any, path: Path, place: str) -> _Row:
    """One box of COCO's, x, y, width, height, with its score."""
    try:
        x, y, width, height = map(float, entry["bbox"])
        score = float(entry["score"])
        picture = str(entry["image_id"])
    except (TypeError, ValueError, KeyError, OverflowError):
        raise InputError(f"{path}, {place}: expected image_id, bbox and score, found {shown(entry)}") from None
    if not math.isfinite(score):
        raise InputError(f"{path}, {place}: expected a finite score, found {score}")
    return _Row(place, picture, (x, y, x + width, y + height), score)


def _person(classes: Sequence[str], path: Path) -> int:
    """The class of people: the one of that name, or the only one."""
    people = [label for label, name in enumerate(classes) if name.lower() == PERSON] or [*range(len(classes))]
    if len(people) != 1:
        raise InputError(f"{path}: expected a category {PERSON!r}, found {shown(', '.join(classes))}")
    return people[0]
