"""Pictures with boxes, masks, key points or label maps: an `AnnotatedSet`, and `open_annotated` that recognises one.

It has what training, evaluation and scanning use of a `Manifest`: rows that are pictures, and for each what is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.config import DenseTask
from uniformer.datasets.annotated_layouts import Labels, Layout, Parsed, Recognised, is_image_name
from uniformer.datasets.class_names import given_names
from uniformer.datasets.coco import coco
from uniformer.datasets.findings import EXAMPLES, Finding, Found
from uniformer.datasets.instances import Instances, Shape
from uniformer.datasets.label_maps import label_maps, read_labels
from uniformer.datasets.layouts import SPLITS, choose, is_part, one_set
from uniformer.datasets.manifest import Kind
from uniformer.datasets.polygons import mask_of
from uniformer.datasets.strings import Strings
from uniformer.datasets.voc import voc
from uniformer.datasets.yolo import yolo
from uniformer.errors import InputError, check_word, counted, shown
from uniformer.reading.pictures import open_header, open_image, upright_size
from uniformer.reading.run_lengths import decode_mask

_LAYOUTS: tuple[Layout, ...] = (coco, yolo, voc, label_maps)  # the first that recognises a source counts


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is in one picture, in pixels of the upright picture: M instances."""

    boxes: npt.NDArray[np.float32]  #: (M, 4) x1, y1, x2, y2
    labels: npt.NDArray[np.int64]  #: (M,)
    crowd: npt.NDArray[np.bool_]  #: (M,): neither learnt from nor counted
    areas: npt.NDArray[np.float64]  #: (M,) of the mask where the file tells it, else of the box
    shapes: tuple[Shape, ...] | None = None  #: (M,): none has polygons where it has no mask; None: a set without masks
    keypoints: npt.NDArray[np.float32] | None = None  #: (M, K, 3): x, y, and 0 not labelled, 1 hidden, 2 seen

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def masked(self) -> npt.NDArray[np.bool_]:
        """(M,): which instances have a mask."""
        return np.array([bool(shape) for shape in self.shapes or [()] * len(self)], bool)

    def masks(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """(M, H, W), as COCO's own code draws them; all False where an instance has no mask.

        Raises `InputError` where the set has no masks, or runs are of another size, and `MissingExtra` for polygons.
        """
        if self.shapes is None:
            raise InputError("expected annotations with masks, found boxes only")
        masks = np.zeros((len(self), height, width), bool)
        for mask, shape in zip(masks, self.shapes, strict=True):
            mask[:] = decode_mask(mask_of(shape, height, width))
        return masks


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """A data set of pictures with annotations; `annotations(i)` or `label_map(i)` is what is in picture i."""

    task: DenseTask
    classes: tuple[str, ...]  #: position = label; of a pose set the key points
    paths: Strings  #: (N,) relative to `root`
    sizes: npt.NDArray[np.int32]  #: (N, 2) height, width of the upright pictures as annotated; -1 where not known
    instances: Instances
    details: Mapping[str, Any] = field(default_factory=dict)  #: palette; or skeleton, sigmas, flip_pairs
    box_classes: tuple[str, ...] = ()  #: of a pose set: what the boxes are of, which the labels count
    image_ids: tuple[int | str, ...] = ()  #: (N,): the source's own, of COCO's JSON; else none
    category_ids: tuple[int | str | None, ...] = ()  #: of `classes`, or of a pose set `box_classes`; same
    maps: Labels | None = None
    findings: tuple[Finding, ...] = ()  #: what was odd, the worst first
    readable: npt.NDArray[np.bool_] | None = None  #: (N,): False where a picture or its label map is missing or broken
    root: str = ""
    origin: str = ""  #: one line that says how the source was understood

    kind: ClassVar[Kind] = "image"
    is_multi_label: ClassVar[bool] = False
    start: ClassVar[None] = None  # pictures are whole files, and classes have names
    end: ClassVar[None] = None
    numbers_from: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Where picture `index` lies."""
        return os.path.join(self.root, self.paths[index])

    def item_names(self) -> tuple[str, ...]:
        """The path of every picture as it stands here."""
        return tuple(self.paths)

    def labels_of(self, index: int) -> tuple[int, ...]:
        """The classes of the instances in picture `index`, each once."""
        return tuple(np.unique(self.labels[self._instances_in(index)]).tolist())

    @property
    def has_masks(self) -> bool:
        return self.instances.shapes is not None

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """(M,): of all instances."""
        return self.instances.labels

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Instances of each class, (K,); of a pose set those with each key point. Zeros where labels are maps."""
        if self.instances.keypoints is not None:
            return (self.instances.keypoints[..., 2] > 0).sum(0)
        return np.bincount(self.labels, minlength=len(self.classes))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright picture. Raises `InputError` where only its file could tell, and does not."""
        height, width = self.sizes[index].tolist()
        return (height, width) if min(height, width) > 0 else open_header(Path(self.path(index)))

    def picture(self, index: int) -> Image.Image:
        """The picture decoded, as `reading.pictures.open_image` does; upright it has the size that was annotated.

        Raises `InputError` where it cannot be read, or has another size: boxes would then lie anywhere.
        """
        image = open_image(self.path(index))
        found, said = upright_size(image), tuple(self.sizes[index].tolist())
        if min(said) > 0 and found != said:
            raise InputError(
                f"{self.path(index)}: expected a picture of {said[1]}x{said[0]}, as annotated, found "
                f"{found[1]}x{found[0]}" + (", as it is turned" if found == said[::-1] else "")
            )
        return image

    def annotations(self, index: int) -> Annotations:
        """What is in picture `index`; of a set whose labels are maps nothing."""
        rows, all_of = self._instances_in(index), self.instances
        return Annotations(
            all_of.boxes[rows],
            all_of.labels[rows].astype(np.int64),
            all_of.crowd[rows],
            all_of.areas[rows],
            None if all_of.shapes is None else tuple(map(all_of.shapes.__getitem__, range(rows.start, rows.stop))),
            None if all_of.keypoints is None else all_of.keypoints[rows],
        )

    def _instances_in(self, index: int) -> slice:
        index = range(len(self))[index]
        return slice(*self.instances.offsets[index : index + 2].tolist())

    def label_map(self, index: int) -> npt.NDArray[np.uint8]:
        """(H, W): the class of each pixel, 255 for none.

        Raises `InputError` for a set of instances, a picture without a map, and a map that cannot be read, is of
        another size than its picture, or has values beyond the classes.
        """
        if self.maps is None:
            raise InputError(f"expected label maps, found a set for {self.task}")
        name = self.maps.paths[index]
        if not name:
            raise InputError(f"{self.path(index)}: expected a label map of the same name, found none")
        zero = self.maps.zero_is_unlabelled
        return read_labels(Path(self.root, name), self.size(index), len(self.classes), zero)

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> AnnotatedSet:
        """The given pictures, in the order given: numbers (from the end where negative) or a mask of all."""
        rows = np.asarray(indices)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.arange(len(self))[rows.astype(np.int64)]
        return replace(
            self,
            paths=self.paths.take(rows),
            sizes=self.sizes[rows],
            instances=self.instances.take(rows),
            image_ids=tuple(self.image_ids[row] for row in rows.tolist()) if self.image_ids else (),
            maps=None if self.maps is None else self.maps.take(rows),
            readable=None if self.readable is None else self.readable[rows],
        )

    def usable(self) -> AnnotatedSet:
        """The pictures that are there, and of which a scan found no fault."""
        return self if self.readable is None or self.readable.all() else self.select(self.readable)


# ---- from a source ---------------------------------------------------------------------------------------------------


def annotated_kind(source: str | os.PathLike[str]) -> DenseTask | None:
    """What a source is annotated for, by a look at names and the ends of files; None for another kind of set.

    Raises `InputError` for one that is annotated in two ways, or whose settings are malformed.
    """
    found = _recognise(Path(source), None)
    return None if found is None else found.task


def find_annotated_splits(source: str | os.PathLike[str], *, task: DenseTask | None = None) -> list[str]:
    """The splits that `open_annotated` can choose from, as `open.find_splits`; none where the source is one set."""
    found = _recognise(Path(source), task)
    names = [] if found is None else [name for name in found.splits if name]
    return sorted(names, key=lambda name: list(SPLITS).index(name) if name in SPLITS else len(SPLITS))


def open_annotated(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    task: DenseTask | None = None,
    classes: Sequence[str] | str | None = None,
) -> AnnotatedSet:
    """A data set with boxes, masks, key points or label maps. What it was taken for is in `origin`, one line.

    Recognised: COCO's JSON (COCO's own folders, Roboflow's, a file alone), YOLO's folders (with or without
    `data.yaml`), Pascal VOC's XML, and pictures beside label maps (ADE20K's folders among them).

    Args:
        source: a folder, a JSON file of COCO's kind, or a `data.yaml`.
        split: "train", "val" or "test", where the source holds several.
        task: "detection", "segmentation" or "pose"; None: what it is annotated for, boxes where it has several.
        classes: as `open_dataset` takes them: the names in the order of the labels. None: as the source orders them,
            COCO's and ADE20K's as published. Of a pose set they are its key points, and can be no others.

    Raises:
        InputError: nothing is recognised, the split is not there (`NoSuchSplit`), or a file is malformed: the message
            has its place. Single instances and pictures that cannot be used are in `findings`.
    """
    path = Path(source)
    if task is not None:
        check_word("task", task, DenseTask)
    found = _recognise(path, task)
    if found is None:
        what = "boxes, key points or label maps" if task is None else f"annotations for {task}"
        other = None if task is None else _recognise(path, None)
        there = f"some for {other.task}" if other else "none of these" if path.exists() else "nothing there"
        raise InputError(
            f"{path}: expected {what}, in COCO's JSON, YOLO's folders, Pascal VOC's XML or as pictures beside label "
            f"maps, found {there}"
        )
    chosen = _choose(path, found, split)
    names = given_names(classes)
    parsed = found.splits[chosen](None if found.task == "pose" else names)
    if parsed.keypoints is not None and names not in (None, parsed.keypoints):
        there = shown(", ".join(parsed.keypoints))
        raise InputError(
            f"{path}: expected its own key points as classes, {there}, got {shown(', '.join(names or ()))}"
        )
    return _build(path, found, chosen, parsed)


def _recognise(path: Path, task: DenseTask | None) -> Recognised | None:
    if not path.exists():
        return None
    return next((found for layout in _LAYOUTS if (found := layout(path, task)) is not None), None)


def _choose(path: Path, found: Recognised, split: str | None) -> str:
    named = [name for name in found.splits if name]
    if named:
        return choose(split, named, path)
    if not is_part(path.stem if path.is_file() else path.name, split):
        raise one_set(path, split)
    return ""


def _build(source: Path, found: Recognised, split: str, parsed: Parsed) -> AnnotatedSet:
    columns = parsed.columns
    if parsed.labels is None:
        count = None if parsed.keypoints is None else len(parsed.keypoints)
        instances = columns.instances(len(parsed.classes), count, masks=found.task == "detection")
        inside = counted(len(instances.labels), "instance")
    else:
        instances, inside = Instances.none(len(columns.paths)), "label maps"
    paths = Strings.pack(columns.paths)
    readable = _looked_for(columns.paths, parsed, columns.found)
    noun = "key point" if parsed.keypoints else "class"
    classes = parsed.keypoints or parsed.classes
    parts = (
        f"{source}: {found.form}{f', {split}' if split else ''} for {found.task}; {counted(len(paths), 'picture')}",
        f"{inside}, {counted(len(classes), noun)} {'' if parsed.keypoints else parsed.how}".strip(),
        f"files in {parsed.root}",
    )
    left_out = f"left out: {', '.join(found.left_out)}" if found.left_out else ""
    return AnnotatedSet(
        task=found.task,
        classes=classes,
        paths=paths,
        sizes=np.frombuffer(columns.sizes, np.int32).reshape(-1, 2),
        instances=instances,
        details=dict(parsed.details),
        box_classes=parsed.classes if parsed.keypoints else (),
        image_ids=parsed.image_ids,
        category_ids=parsed.category_ids,
        maps=parsed.labels,
        findings=columns.found.findings(),
        readable=None if readable.all() else readable,
        root=os.path.abspath(parsed.root),
        origin=shown("; ".join([", ".join(parts), *filter(None, [parsed.notes, left_out])]), 1000),
    )


def _looked_for(paths: Sequence[str], parsed: Parsed, found: Found) -> npt.NDArray[np.bool_]:
    """Which pictures are there, by the names in their folders; those missing, and those not listed, are said."""
    folders = {os.path.dirname(path) for path in paths}
    there = {os.path.join(folder, name) for folder in folders for name in _names_in(parsed.root / folder)}
    readable = np.array([path in there for path in paths], bool)
    missing = np.flatnonzero(~readable).tolist()
    found.add_all(
        "error", "missing", "pictures that are listed and not there",
        [(paths[row],) for row in missing[:EXAMPLES]], len(missing), (),
    )  # fmt: skip
    if parsed.labels is not None:
        readable &= np.diff(parsed.labels.paths.offsets) > 0
    readable &= (np.frombuffer(parsed.columns.sizes, np.int32).reshape(-1, 2) > 0).all(1)
    others = sorted(path for path in there - set(paths) if is_image_name(path) and os.path.basename(path)[0] != ".")
    what = "pictures in the same folders that it does not list"
    found.add_all("note", "not listed", what, [(path,) for path in others[:EXAMPLES]], len(others), others[:EXAMPLES])
    return readable


def _names_in(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    except OSError:
        return
