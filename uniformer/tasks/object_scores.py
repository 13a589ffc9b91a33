"""What a detector or a pose network said of a data set, and how good that is: `ObjectScores`, kept in one file.

No torch here. A picture without an answer (a missing or unreadable file) is never left out in silence: nothing was
found in it, unless the caller asks to skip it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uniformer.errors import InputError, check_word
from uniformer.labels import category_ids
from uniformer.tasks.coco import Figures, Kind, Objects, measure, run_lengths
from uniformer.tasks.coco_results import Id, image_ids, result_rows, write_results
from uniformer.tasks.score_files import facts_of, read_npz, told_by, write_npz
from uniformer.tasks.scores import Missing

FORMAT = "uniformer object scores 1"
PREFIXES: Mapping[Kind, str] = {"box": "box_", "mask": "mask_", "keypoints": ""}  #: of a kind's measures
TOLD = ("paths", "classes", "kinds", "sigmas", "points", "skeleton", "image_ids", "category_ids")  # beside the arrays
CURVES = (0.5, 0.75)  #: overlaps whose precision by recall is told


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """The objects of N pictures: those that are there, and those that a network found."""

    truths: Objects
    found: Objects
    sizes: npt.NDArray[np.int64]  #: (N, 2) of the pictures: height, width
    ok: npt.NDArray[np.bool_]  #: (N,), whether there is an answer
    paths: tuple[str, ...]  #: of the pictures
    classes: tuple[str, ...]  #: position = label
    kinds: tuple[Kind, ...]  #: what is measured: "box" and "mask", or "keypoints"
    sigmas: tuple[float, ...] = ()  #: of key points: how far each may be off, in shares of the object
    points: tuple[str, ...] = ()  #: names of key points
    skeleton: tuple[tuple[int, int], ...] = ()  #: pairs of key points with a limb between them
    image_ids: tuple[Id, ...] = ()  #: the data set's own, for COCO's files; else by the paths
    category_ids: tuple[Id, ...] = ()  #: same, by label; else by the classes
    errors: Mapping[int, str] = field(default_factory=dict)  #: why a picture has no answer

    def __post_init__(self) -> None:
        count = len(self.paths)
        if not (self.sizes.shape == (count, 2) and self.ok.shape == (count,)):
            raise InputError(
                f"expected sizes and marks of {count} pictures, got {self.sizes.shape} and {self.ok.shape}"
            )
        for part in (self.truths, self.found):
            rows, labels = part.item, part.labels
            if len(part) and not (
                0 <= rows.min() <= rows.max() < count and 0 <= labels.min() <= labels.max() < len(self.classes)
            ):
                raise InputError(f"expected objects of {count} pictures and {len(self.classes)} classes, got others")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, label: int) -> str:
        return self.classes[label]

    @cached_property
    def measured(self) -> dict[Kind, Figures]:
        """COCO's figures of each kind."""
        sigmas = self.sigmas or None
        return {
            kind: measure(self.truths, self.found, self.sizes, len(self.classes), kind, sigmas) for kind in self.kinds
        }

    def counts(self) -> npt.NDArray[np.int64]:
        """Objects of each class, (K,), crowds left out."""
        single = self.truths.labels if self.truths.crowd is None else self.truths.labels[~self.truths.crowd]
        return np.bincount(single, minlength=len(self.classes))

    def select(self, rows: npt.NDArray[Any]) -> ObjectScores:
        """The given pictures: a mask, or numbers that rise."""
        rows = np.arange(len(self))[rows]
        place = {int(old): new for new, old in enumerate(rows)}
        return replace(
            self,
            truths=self.truths.of_items(rows),
            found=self.found.of_items(rows),
            sizes=self.sizes[rows],
            ok=self.ok[rows],
            paths=tuple(self.paths[i] for i in rows),
            image_ids=tuple(self.image_ids[i] for i in rows) if self.image_ids else (),
            errors={place[i]: why for i, why in self.errors.items() if i in place},
        )

    def metrics(self, missing: Missing = "error") -> dict[str, float]:
        """Every measure by name, in 0..1: COCO's 12 of boxes as box_ap, box_ap50 ..., of masks as mask_ap ..., or its
        10 of people as ap, ap50 ... (`tasks.coco`). A figure without an object of its size is left out.
        `missing="skip"` leaves pictures without an answer out.

        Raises `InputError` when there is nothing to score, and for another word as `missing`.
        """
        check_word("missing", missing, Missing)
        counted = self if missing == "error" or self.ok.all() else self.select(self.ok)
        objects = int(counted.counts().sum())
        if not len(counted) or not objects:
            what = "item to score, got none with an answer" if not len(counted) else "object in the set, got none"
            raise InputError(f"expected at least one {what}")
        found = {"items": float(len(counted)), "failed": float((~self.ok).sum()), "objects": float(objects)}
        for kind, of in counted.measured.items():
            found |= {PREFIXES[kind] + name: value for name, value in of.figures.items()}
        return found

    def facts(self) -> dict[str, Any]:
        """What metrics.json says beside the measures: of each class its objects and precision, and the mean curves."""
        curves = {
            kind: {f"{overlap:g}": np.round(of.curve(overlap), 6).tolist() for overlap in CURVES}
            for kind, of in self.measured.items()
            if of.figures
        }
        facts: dict[str, Any] = {"precision_at_recall": curves}  # at 0, 0.01 ... 1
        if len(self.classes) > 1:
            each = {f"{PREFIXES[kind]}ap": of.per_class().tolist() for kind, of in self.measured.items()}
            facts["classes"] = [
                {"name": self.name(k), "objects": n, **{m: None if v[k] != v[k] else v[k] for m, v in each.items()}}
                for k, n in enumerate(self.counts().tolist())
            ]
        return facts

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file."""
        arrays = {"sizes": self.sizes, "ok": self.ok}
        for part in ("truths", "found"):
            arrays |= {f"{part}.{name}": value for name, value in getattr(self, part).arrays().items()}
        write_npz(path, facts_of(self, FORMAT, TOLD), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ObjectScores:
        """Read what `save` wrote. Raises `InputError` for any other file."""

        def made(facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> ObjectScores:
            told = told_by(facts, [name for name in TOLD if name in facts])
            told["skeleton"] = tuple((int(a), int(b)) for a, b in told["skeleton"])
            for part in ("truths", "found"):
                columns = {name: v for name, v in arrays.items() if name.startswith(f"{part}.")}
                told[part] = Objects.of({name.removeprefix(f"{part}."): v for name, v in columns.items()})
            return cls(sizes=arrays["sizes"], ok=arrays["ok"], **told)

        return read_npz(path, FORMAT, made)

    def save_answers(self, folder: str | os.PathLike[str]) -> dict[str, Path]:
        """Write what was found as COCO's files of results, one of each kind: their paths."""
        paths = answer_paths(folder, self.kinds)
        for kind, path in paths.items():
            write_results(self.results(kind), path)
        return {f"predictions-{kind}": path for kind, path in paths.items()}

    def results(self, kind: Kind) -> list[dict[str, Any]]:
        """COCO's results of one kind, each object with its picture, class and score."""
        found = self.found
        images = self.image_ids or image_ids(self.paths)
        categories = self.category_ids or category_ids(self.classes)
        return result_rows(
            [images[item] for item in found.item.tolist()],
            [categories[label] for label in found.labels.tolist()],
            found.scores,
            boxes=found.boxes if kind == "box" else None,
            masks=run_lengths(found, self.sizes) if kind == "mask" else None,
            keypoints=found.keypoints if kind == "keypoints" else None,
        )


def answer_paths(folder: str | os.PathLike[str], kinds: tuple[Kind, ...]) -> dict[Kind, Path]:
    """Where `save_answers` writes."""
    return {kind: Path(folder, f"predictions-{kind}.json") for kind in kinds}
