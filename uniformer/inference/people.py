"""Where the people are that a pose network looks at, by what a user names: a file of boxes, or a detector."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from uniformer.errors import InputError
from uniformer.reading.views import Source
from uniformer.reading.whole import People
from uniformer.support.files import content_sum
from uniformer.tasks.detections import Detections
from uniformer.tasks.person_boxes import FILES, PERSON, PersonBoxes, people_found_by, read_person_boxes

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import CheckpointSource


class Finder(NamedTuple):
    """What says where people are."""

    people: Callable[[Source, int, int], People]  #: of a pose network's options
    told_apart: str  #: from all others, in records of answers
    notes: tuple[str, ...] = ()  #: what was left out

    @property
    def is_of_pictures(self) -> bool:
        """Whether it is a file, which lists pictures by name: frames of videos have none."""
        return isinstance(self.people, PersonBoxes)

    def unmatched(self, pictures: Iterable[str]) -> list[str]:
        """Sentences on pictures that a file does not list, and on those it lists that are not among them."""
        return self.people.unmatched(pictures) if isinstance(self.people, PersonBoxes) else []


def people_from(told: CheckpointSource, **options: Any) -> Finder:
    """A file of boxes, by its ending, else a detector's checkpoint, which `Predictor` loads with these `options`.

        uniformer.Predictor("topdown.uniformer_small.coco_256x192", people=people_from("boxes.json").people)

    Raises `InputError` for what is neither.
    """
    if isinstance(told, str | os.PathLike) and Path(told).suffix.lower() in FILES:
        boxes = read_person_boxes(told)
        return Finder(boxes, f"{content_sum(told):x}", boxes.notes)
    from uniformer.inference.predictor import Predictor

    detector = Predictor(told, **options)
    if detector.task.result is not Detections:
        raise InputError(f"{told}: expected a detector to find people with, got a network for {detector.task.name}")
    if PERSON not in detector.contract.classes:
        raise InputError(f"{told}: expected a detector that finds the class {PERSON!r}, it has none of that name")
    detector.answer_with(masks=False, keep=(PERSON,))
    lock = threading.Lock()  # pictures are read ahead by several threads

    def seen(source: Source) -> Detections:
        with lock:
            return detector(source)

    return Finder(people_found_by(seen), f"{detector.network.weights} {detector.network.exact_form}")
