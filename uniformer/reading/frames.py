"""What every reader of frames shares (`VideoInfo`, `VideoReader`), and the reader of image files taken as a video."""

from __future__ import annotations

import operator
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uniformer.errors import InputError, reason, shown
from uniformer.reading.pictures import IMAGE_SUFFIXES, Pixels, load_image
from uniformer.support.closing import Closing

Picture = Callable[[], Pixels]  # converts one decoded frame to (H, W, 3) when called, so that only wanted ones are

VIDEO_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265"),
        *(".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
        *(".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm"),
        *(".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"),
    }
)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its frames are asked for."""

    path: str  #: the file, the folder or the address; the name or the type of a file object
    num_frames: int  #: as stored; in a damaged file some of them may turn out unreadable, which does not change this
    fps: float | None  #: average frames per second, None for images
    duration: float | None  #: seconds, None for images
    width: int  #: pixels, as shown: after `rotation`
    height: int
    rotation: int  #: degrees counter-clockwise (0, 90, 180, 270) that the reader turns the stored frames by
    codec: str
    container: str


@dataclass(frozen=True)
class Orientation:
    """How stored frames are turned for showing: transposed first, then flipped."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, a: int, b: int, c: int, d: int) -> Orientation:
        """From the display matrix ((a, b, u), (c, d, v), (x, y, w)) of ISO 14496-12, 8.3.2, rounded to right angles:
        a stored point (x, y) is shown at (a x + c y, b x + d y)."""
        return cls(False, a < 0, d < 0) if abs(a) >= abs(b) else cls(True, c < 0, b < 0)

    @classmethod
    def turned(cls, degrees: int) -> Orientation:
        """By the nearest right angle, counter-clockwise."""
        return (cls(), cls(True, False, True), cls(False, True, True), cls(True, True, False))[round(degrees / 90) % 4]

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise (0, 90, 180, 270); mirroring, if any, comes before it, left to right."""
        if self.transpose:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0

    def apply(self, image: Pixels) -> Pixels:
        """(H, W, 3) as stored to (H', W', 3) as shown."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


class VideoReader(Closing, ABC):
    """Frames of one video by number. A context manager; not to be shared between threads.

    A frame that cannot be decoded is replaced by the nearest one that can (the earlier of two equally near), with one
    warning per reader that says how many are readable; it is kept in `warnings` too.
    """

    def __init__(self, info: VideoInfo):
        self.info = info
        self.warnings: list[str] = []
        self.notes: list[str] = []  #: what was found odd in opening it, and mended
        self.start = 0.0  #: seconds on the file's own clock at which its first frame is shown
        self._is_damaged = False  # found out by a read that missed a frame; such a file is read from end to end

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> Pixels:
        """Frames in the order asked, repeats allowed: uint8 RGB, (N, H, W, 3), H and W as in `info`.

        Raises:
            InputError: an index is outside 0 .. num_frames - 1, or no frame at all can be decoded.
        """
        out = np.empty((len(indices), self.info.height, self.info.width, 3), np.uint8)
        for places, picture in self.each(indices):
            out[places] = picture
        return out

    def each(self, indices: Sequence[int] | NDArray[np.integer]) -> Iterator[tuple[list[int], Pixels]]:
        """Each frame of `indices` once, in no certain order, so that none has to be held: its places among them, and
        its pixels, uint8 RGB, (H, W, 3). Errors as for `read`."""
        places: dict[int, list[int]] = {}  # frame -> where it goes in the answer
        for place, number in enumerate(self._checked(indices)):
            places.setdefault(number, []).append(place)
        if places and not self._is_damaged:
            for number, picture in self._pictures(sorted(places)):
                if number in places:
                    yield places.pop(number), picture()
        if places:
            yield from self._nearest(places)

    def times(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float64]:
        """Seconds from the first frame to each of `indices`, float64, (N,).

        Raises:
            InputError: an index is outside 0 .. num_frames - 1, or the video is made of images, which carry no time.
        """
        return self._times()[self._checked(indices)]

    def pictures(self, first: int, last: int) -> Iterator[tuple[int, Picture]]:
        """Every readable frame from number `first` to before `last`, rising."""
        if (first, last) == (0, self.info.num_frames):
            yield from self.all_pictures()
            return
        reached = first - 1
        for number, picture in self._pictures(range(first, last)):
            if reached < number < last:
                reached = number
                yield number, picture

    @abstractmethod
    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """At least every readable frame among `wanted` (rising, unique), as fast as the file allows."""

    @abstractmethod
    def all_pictures(self) -> Iterator[tuple[int, Picture]]:
        """Every readable frame, rising, whatever state the file is in."""

    @abstractmethod
    def _times(self) -> NDArray[np.float64]:
        """Seconds from the first frame to every frame."""

    def _checked(self, indices: Sequence[int] | NDArray[np.integer]) -> list[int]:
        try:
            numbers = [operator.index(i) for i in indices]
        except TypeError:
            got = " ".join(repr(indices).split())[:100]  # arrays print themselves over many lines
            raise InputError(f"{self.info.path}: expected frame numbers, got {got}") from None
        for number in numbers:
            if not 0 <= number < self.info.num_frames:
                raise InputError(
                    f"{self.info.path}: expected frames in 0 .. {self.info.num_frames - 1}, asked for frame {number}"
                )
        return numbers

    def _nearest(self, places: dict[int, list[int]]) -> Iterator[tuple[list[int], Pixels]]:
        """As `each`, by a pass over the file that serves every wanted frame from the nearest readable one; the first
        time to its end, to count those."""
        wanted = sorted(places, reverse=True)
        readable = 0
        before: tuple[int, Picture] | None = None  # holds a decoded frame, never more than one
        for number, picture in self.all_pictures():
            readable += 1
            while wanted and wanted[-1] <= number:
                asked = wanted.pop()
                is_nearer_before = before is not None and asked - before[0] <= number - asked
                yield places[asked], before[1]() if before is not None and is_nearer_before else picture()
            before = (number, picture)
            if self._is_damaged and not wanted:  # counted before
                return
        if before is None:
            raise InputError(f"{self.info.path}: expected a video, found no frame that can be decoded")
        for asked in wanted:
            yield places[asked], before[1]()
        self._is_damaged = True
        if not self.warnings and readable < self.info.num_frames:
            message = (
                f"{self.info.path}: {readable} of {self.info.num_frames} frames are readable; "
                "the nearest readable frame stands in for each of the others"
            )
            self.warnings.append(message)
            warnings.warn(message, stacklevel=4)


def open_frames(paths: Sequence[str | os.PathLike[str]]) -> VideoReader:
    """A video made of image files, in the order given; messages call it by the first path.

    Raises:
        InputError: no path is given, or none of the files can be read as an image.
    """
    files = [Path(p) for p in paths]
    if not files:
        raise InputError("frames: expected at least one image file, found none")
    return FrameReader(files, str(files[0]))


def open_folder(folder: Path) -> VideoReader:
    """A video made of the images in a folder, numbers in their names compared as numbers. Hidden files are left out.

    Raises:
        InputError: the folder holds no image, none that can be read, or several series of them: optical flow beside
            the frames.
    """
    try:
        files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: expected a folder of frames, found none to list: {reason(error)}") from None
    if not files:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{folder}: expected a folder of frames ({kinds}), found no image in it")
    _check_one_series(files, folder)
    return FrameReader(sorted(files, key=natural_order), str(folder))


def _check_one_series(files: Sequence[Path], folder: Path) -> None:
    """Raises `InputError` where images of different names have the same numbers: img_1, flow_x_1, flow_y_1."""
    first: dict[tuple[str, ...], str] = {}  # the numbers in a name -> the rest of the name that has them first
    for file in files:
        rest = re.sub(r"\d+", "*", file.name.lower())
        numbers = tuple(number.lstrip("0") for number in re.findall(r"\d+", file.stem))
        if numbers and (other := first.setdefault(numbers, rest)) != rest:
            found = f"{shown(other)} and {shown(rest)}"
            raise InputError(f"{folder}: expected the frames of one clip, found several series of images: {found}")


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """A sorting key under which img_2 comes before img_10; equal numbers (img_1, img_01) fall back on the name."""
    parts = re.split(r"(\d+)", path.name.lower())
    # Text sorts as (0, text) and digits as (value, ""): split alternates the two, so like always meets like.
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


class FrameReader(VideoReader):
    """Image files as frames. EXIF orientation is applied; all must have the size of the first readable one."""

    def __init__(self, files: Sequence[Path], name: str):
        self._files = list(files)
        loaded = ((file, load_image(file)) for file in self._files)
        first = next(((file, image) for file, image in loaded if image is not None), None)
        if first is None:
            raise InputError(f"{name}: expected images, found {len(self._files)} files of which none can be read")
        self._size_from, (height, width, _) = first[0], first[1].shape
        codec = self._files[0].suffix.lower().lstrip(".")
        super().__init__(VideoInfo(name, len(self._files), None, None, width, height, 0, codec, "images"))

    def _pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        for number in wanted:
            image = load_image(self._files[number])
            if image is None:
                continue
            height, width, _ = image.shape
            if (width, height) != (self.info.width, self.info.height):
                raise InputError(
                    f"{self._files[number]}: expected {self.info.width}x{self.info.height} as {self._size_from}, "
                    f"found {width}x{height}"
                )
            yield number, partial(np.asarray, image)

    def all_pictures(self) -> Iterator[tuple[int, Picture]]:
        return self._pictures(range(self.info.num_frames))

    def _times(self) -> NDArray[np.float64]:
        raise InputError(f"{self.info.path}: expected a video with a clock, found image files")
