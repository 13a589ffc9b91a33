"""Where the people of a data set are that a pose network is tested on: as annotated, or as a detector says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.errors import InputError, counted
from uniformer.reading.people import clipped_boxes
from uniformer.tasks.person_boxes import Boxes, PersonBoxes

NOBODY = Boxes(np.zeros((0, 4), np.float32), np.zeros(0))


@dataclass(frozen=True, repr=False)
class KnownPeople:
    """The people of each picture, by its path: what `PoseOptions.people` asks. As text it is a sum of all boxes."""

    pictures: Mapping[str, Boxes]
    origin: str  #: where they are known from, in words
    notes: list[str] = field(default_factory=list)  #: what a reader must know

    def __call__(self, source: object, height: int, width: int) -> Boxes:
        return self.pictures.get(str(source), NOBODY)

    def __repr__(self) -> str:
        whole = hashlib.sha256()
        for path, people in sorted(self.pictures.items()):
            for part in (path.encode("utf-8", "surrogateescape"), people.boxes.tobytes(), people.scores.tobytes()):
                whole.update(len(part).to_bytes(8, "little") + part)
        return f"people {whole.hexdigest()}"


def people_of(data: AnnotatedSet, boxes: PersonBoxes | None = None) -> KnownPeople:
    """The people of a set: as annotated, those with a marked key point that are no crowd, or as `boxes` say.

    Boxes of annotations are those that the published networks were tested with (mmpose, `use_gt_bbox`): in the picture
    and a pixel less wide and high. Pictures that `boxes` do not list have nobody in them, which the notes say.
    """
    paths = [data.path(row) for row in range(len(data))]
    if boxes is None:
        return KnownPeople(
            dict(zip(paths, (annotated_people(data, row) for row in range(len(data))), strict=True)), "annotated boxes"
        )
    listed = {path: boxes.of(path) for path in paths}
    lost = [path for path, people in listed.items() if people is None]
    if len(lost) == len(paths):
        raise InputError(f"{boxes.origin}: expected boxes of the pictures of {data.root}, found none of them listed")
    notes = [f"{boxes.origin} lists nobody in {counted(len(lost), 'picture')}, such as {lost[0]}"] if lost else []
    known = {path: people for path, people in listed.items() if people is not None}
    return KnownPeople(known, f"boxes of {boxes.origin}", [*boxes.notes, *notes])


def annotated_people(data: AnnotatedSet, row: int) -> Boxes:
    """Those of one picture; nobody where its size is not known."""
    found = data.annotations(row)
    try:
        height, width = data.size(row)
    except InputError:  # it is not there: whoever reads it says so
        return NOBODY
    corners = clipped_boxes(found.boxes, height, width).astype(np.float32)
    kept = ~found.crowd & (found.areas > 0) & (corners[:, :2] < corners[:, 2:]).all(axis=1)
    if found.keypoints is not None:
        kept &= (found.keypoints[..., 2] > 0).any(axis=1)
    return Boxes(corners[kept], np.ones(int(kept.sum())))
