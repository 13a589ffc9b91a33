"""What the answers to whole pictures share: their size, a picture of them, files by the ending of a name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image

from uniformer.config import did_you_mean
from uniformer.errors import InputError, cannot_write, load_extra, shown
from uniformer.labels import match_names, whole_number
from uniformer.reading.pictures import Pixels, open_picture, to_pixels, upright_size
from uniformer.support.files import atomic_path, check_outputs, write_whole
from uniformer.tasks.coco_results import Id
from uniformer.tasks.task import Result, class_names, moment_of

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract

PLACES = ("frame", "time", "rank", "count")  #: columns of every task's table
DRAWN = (".jpg", ".jpeg", ".png", ".webp")  #: endings of pictures that are written


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureResult(Result):
    """What a network says of a whole picture, in pixels of the picture as shown."""

    height: int  #: of the picture, pixels
    width: int
    frame: int | None = None  #: of a video: its number, from 0
    time: float | None = None  #: of a video with a clock: seconds from its first frame

    COLUMNS: ClassVar[tuple[str, ...]] = ()  #: of `rows`
    WRITERS: ClassVar[Mapping[str, str]] = {}  #: by an ending: the method that writes such a file

    def title(self) -> str:
        if self.frame is None:
            return self.source
        return f"{self.source}, frame {self.frame}" + ("" if self.time is None else f", {self.time:.2f} s")

    def draw(self, pixels: Pixels) -> Image.Image:
        """The answer drawn onto its picture, uint8 RGB (H, W, 3)."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], contract: Contract) -> Self:
        """What `to_dict` wrote, read back: names and colours come from the checkpoint's contract.

        Raises `InputError` for anything else.
        """
        raise NotImplementedError

    def to_coco(self, image_id: Id) -> list[dict[str, Any]]:
        """The answer as COCO's result files have it, for an image of that number."""
        raise NotImplementedError

    def rows(self) -> list[tuple[Any, ...]]:
        """The answer as a table of `COLUMNS`, the best first."""
        raise NotImplementedError

    def csv_rows(self) -> list[tuple[Any, ...]]:
        """The rows, each with its number and how many there are; where nothing was found one row of rank 0."""
        moment = ("", "") if self.frame is None else (self.frame, "" if self.time is None else round(self.time, 3))
        rows = self.rows()
        if not rows:
            return [(*moment, 0, 0, *[""] * len(self.COLUMNS))]
        return [(*moment, rank, len(rows), *row) for rank, row in enumerate(rows, start=1)]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Frame and time are of videos only."""
        return {
            "source": self.source,
            "checkpoint": self.checkpoint,
            **moment_of(self.frame, self.time),
            "height": self.height,
            "width": self.width,
            **self.answer(),
            "notes": list(self.notes),
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
        }

    def plot(self, picture: Any = None) -> Image.Image:
        """The answer drawn onto a picture: a path, a PIL image, pixels (H, W, 3); by default the source.

        Raises `InputError` for one of another size than the network saw.
        """
        if picture is None and (not self.source or self.frame is not None):
            raise InputError("expected the picture to draw on: the answer is not of a picture's file")
        opened = open_picture(self.source if picture is None else picture)
        height, width = upright_size(opened)
        if (height, width) != (self.height, self.width):
            raise InputError(
                f"expected the picture that the answer is of, {self.width}x{self.height}, got {width}x{height}"
            )
        pixels = to_pixels(opened)
        if pixels.shape[:2] != (height, width):  # a smaller copy, as huge ones are read
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
        return self.draw(pixels)

    def save(self, path: str | os.PathLike[str], picture: Any = None) -> None:
        """Write the answer, as JSON (.json) or drawn onto its picture (.jpg, .png, .webp); `picture` as for `plot`.

        Raises `InputError` for another ending, a file that cannot be written, and the source itself.
        """
        own = {ending: getattr(self, name) for ending, name in self.WRITERS.items()}
        drawn = dict.fromkeys(DRAWN, lambda path: save_picture(self.plot(picture), path))
        save_as(path, {".json": text_writer(lambda: as_json(self)), **drawn, **own}, [self.source, picture])


def save_as(path: str | os.PathLike[str], ways: Mapping[str, Callable[[Path], None]], inputs: Iterable[object]) -> None:
    """Write an answer in the way of the ending of its name.

    Raises `InputError` for another ending, a file that cannot be written, and one of `inputs`.
    """
    path = Path(path)
    check_outputs([path], inputs, overwrite=True)
    if (write := ways.get(path.suffix.lower())) is None:
        first, *others = ways
        raise InputError(f"{path}: expected a name that ends in {first} or {', '.join(others)}")
    write(path)


def as_json(result: Result) -> str:
    """An answer as one line of JSON."""
    return json.dumps(result.to_dict(), ensure_ascii=False) + "\n"


def text_writer(text: Callable[[], str]) -> Callable[[Path], None]:
    """Writes a text; names of files, which need not be UTF-8, keep their bytes."""

    def write(path: Path) -> None:
        write_whole(path, text(), "surrogateescape")

    return write


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of its name. Raises `InputError` where it cannot be written."""
    form = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(path.suffix.lower(), "PNG")
    with atomic_path(path) as temporary:
        try:
            image.save(temporary, form, **({"quality": 92} if form != "PNG" else {}))
        except ValueError as error:  # WebP's encoder, of a picture that is too large for it
            raise cannot_write(path, error) from None


def of_supervision(found: Any, name: str, *shape: int) -> np.ndarray[Any, Any]:
    """An array of supervision's results, (N, *shape). Raises `InputError` where they lack it or it has another."""
    values = getattr(found, name, None)
    if values is None:
        raise InputError(f"expected results of supervision with {name}, got {type(found).__name__} without")
    values = np.asarray(values)
    if values.shape != (len(found), *shape):
        raise InputError(f"expected {name} of shape {(len(found), *shape)}, got {values.shape}")
    return values


def rows_of_classifier(found: Any, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """The classes of supervision's results, (N,). Raises `InputError` for one beyond `names`, where there are any."""
    labels = of_supervision(found, "class_id").astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < (len(names) or np.inf):
        raise InputError(f"expected class_id in 0 .. {len(names) - 1 if names else '...'}, got {labels.tolist()[:8]}")
    return labels


def load_supervision() -> Any:
    """The package supervision, or `MissingExtra`."""
    return load_extra("supervision", "supervision", "supervision", "its form of results")


def field_of(plain: Any, name: str, kind: type) -> Any:
    """A field of an answer, or of a part of one, that was written. Raises `InputError` where it is missing or of
    another type."""
    value = plain.get(name) if isinstance(plain, Mapping) else None
    if not isinstance(value, kind):
        raise InputError(f"expected an answer with {name}, as `uniformer predict` writes it")
    return value


def label_of(plain: Any, contract: Contract) -> int:
    """The field `label`. Raises `InputError` where it is none of the contract's classes."""
    label: int = field_of(plain, "label", int)
    if not 0 <= label < contract.config.num_classes:
        raise InputError(f"expected labels of an answer up to {contract.config.num_classes - 1}, got {shown(label)}")
    return label


def array_of(rows: Any, *shape: int) -> np.ndarray[Any, Any]:
    """Rows of numbers as float32 (N, *shape). Raises `InputError` for anything else."""
    try:
        return np.array(rows, np.float32).reshape(-1, *shape)
    except (TypeError, ValueError):
        raise InputError("expected numbers in an answer, as `uniformer predict` writes it") from None


def where_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `PictureResult.to_dict` wrote of the answers of all tasks."""
    return {
        "source": field_of(plain, "source", str),
        "checkpoint": str(plain.get("checkpoint", "")),
        "height": field_of(plain, "height", int),
        "width": field_of(plain, "width", int),
        "frame": plain.get("frame"),
        "time": plain.get("time"),
        "notes": tuple(plain.get("notes", ())),
    }


def palette_of(contract: Contract) -> tuple[tuple[int, int, int], ...]:
    """The colours of the classes; none where the contract has none."""
    return tuple((int(r), int(g), int(b)) for r, g, b in contract.details.get("palette", ()))


def skeleton_of(contract: Contract) -> tuple[tuple[int, int], ...]:
    """Pairs of key points with a limb between them."""
    return tuple((int(a), int(b)) for a, b in contract.details.get("skeleton", ()))


def label_named(target: str, contract: Contract) -> int:
    """The row of a class by its name in any spelling, or by its number where the checkpoint has no names.

    Raises `InputError` for what is none of them.
    """
    count = contract.config.num_classes
    if not contract.classes and (place := whole_number(target)) is not None and 0 <= place < count:
        return place
    return labels_of([target], class_names(contract))[0]


def labels_of(wanted: Collection[str], names: Sequence[str]) -> list[int]:
    """The rows of classes by their names, in any spelling. Raises `InputError` for a name that is none of them."""
    if wanted and not names:
        asked = ", ".join(wanted)
        raise InputError(
            f"expected class names to keep {asked} by, the checkpoint has none: classes= (--classes) tells"
        )
    places = match_names(wanted, names)
    for name, place in zip(wanted, places, strict=True):
        if place is None:
            raise InputError(f"expected classes of the checkpoint, got {name!r}{did_you_mean(name, names)}")
    return [place for place in places if place is not None]
