"""One conversion of pictures: a file, bytes, a PIL image, an array or a tensor becomes upright uint8 RGB, (H, W, 3).

Everything that shows the network, a report or a scan a picture comes through here; what is not understood is refused,
never guessed. NumPy and Pillow only.
"""

from __future__ import annotations

import io
import math
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from uniformer.errors import InputError, first_line
from uniformer.reading.limits import MAX_PIXELS, check_pixels, most_passes
from uniformer.reading.sources import Media, encoded, head, is_media, name_of_source, path_of

if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]
AnyPixels: TypeAlias = "Pixels | Tensor"

MAX_PHOTO = 7 * MAX_PIXELS  #: of a single picture: 234 million. One of more than `MAX_PIXELS` is shrunk as it is read
# No other formats: for some, Pillow runs programs. The last three are decoded by libraries that hold several copies.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")
MOST_PIXELS = dict.fromkeys(("WEBP", "AVIF", "JPEG2000"), 2 * MAX_PIXELS)
IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".j2k", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
IMAGE_STARTS = (
    *(b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),  # JPEG 2000, as a file and bare
)
AVIF_BRANDS = (b"avif", b"avis")
END_OF_JPEG = b"\xff\xd9"
STRIP = 1 << 22  # pixels of a large picture that are converted at once
FULL_SIZE = "full size"  # in a PIL image's `info`: (width, height) of the upright picture that it is a smaller copy of


class Undecodable(InputError):
    """A file that is there, but holds no picture that can be decoded."""


def is_image(source: Any) -> bool:
    """Whether a source is one picture rather than a clip: by the shape of an array, the name of a path or an address,
    the first bytes of what is in memory or open. A GIF is a clip, and so is what cannot be told."""
    if isinstance(source, np.ndarray) or is_tensor(source):
        return source.ndim in (2, 3)
    if isinstance(source, str | os.PathLike):
        name = path_of(os.fspath(source))
        return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return isinstance(source, Image.Image) or starts_as_image(head(source))


def starts_as_image(start: bytes) -> bool:
    """Whether a file that begins so is one picture of `IMAGE_FORMATS`. A raw MJPEG stream looks like one."""
    is_ppm = start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace()
    is_avif = start[4:8] == b"ftyp" and start[8:12] in AVIF_BRANDS
    return start.startswith(IMAGE_STARTS) or is_ppm or is_avif or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")


# ---- files -----------------------------------------------------------------------------------------------------------


def open_image(source: Media, most: int = MAX_PHOTO, least: int | None = None, *, whole: bool = False) -> Image.Image:
    """A picture decoded here, so that what is wrong with the file is said here. One of more than `MAX_PIXELS` comes as
    `shrunk` makes it, but with `whole` as it is: for values that are no colours. A JPEG may come at a fraction of its
    size where it keeps `least` pixels along both sides.

    Raises:
        InputError: it is missing, or has more than `most` pixels or than its format allows; `Undecodable`: it is
            damaged or no picture.
    """
    with closing(encoded(source, "an image")) as medium, _explained(medium.name), medium.opened() as file:
        return _read(file, medium.name, most, least, whole)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever is raised on the way as an `InputError`: Pillow's plugins let struct, index, value and syntax errors out
    on damaged files."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _undecodable(name, first_line(error, 120)) from None


def _undecodable(name: str, why: str) -> Undecodable:
    return Undecodable(f"{name}: expected an image, found a file that does not open as one: {why}")


def _read(file: IO[bytes], name: str, most: int, least: int | None, whole: bool) -> Image.Image:
    """The picture in a file, whatever of its text and colour profile cannot be read."""
    try:
        image = _opened(file)
        if image is None:
            raise _undecodable(name, "not a format that is read")
        _check(image, file, name, most)
        return _loaded(image, file, least, whole)
    except InputError:
        raise
    except Exception:
        bare = _without_metadata(file)
        image = None if bare is None else _opened(bare)
        if bare is None or image is None:
            raise
        _check(image, bare, name, most)
        return _loaded(image, bare, least, whole)


def _opened(file: IO[bytes]) -> ImageFile.ImageFile | None:
    """As `Image.open` opens a file, less its own limit on pixels, which is one for the whole process."""
    Image.preinit()  # the common formats; all take longer
    file.seek(0)
    start = file.read(16)
    for form in IMAGE_FORMATS:
        if form not in Image.OPEN:
            Image.init()
        if form not in Image.OPEN:  # a Pillow that was built without it
            continue
        factory, accept = Image.OPEN[form]
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # what Pillow takes for another format too
            if accept is None or accept(start) is True:
                file.seek(0)
                return factory(file, "")
    return None


def _check(image: ImageFile.ImageFile, file: IO[bytes], name: str, most: int) -> None:
    """Raises `InputError` for a picture that is too large, asks for too much, or moves."""
    check_pixels(name, *image.size, min(most, MOST_PIXELS.get(image.format or "", MAX_PHOTO)))
    if image.format == "GIF" and getattr(image, "is_animated", False):
        raise _undecodable(name, "it moves: a video, or frames for a network of clips")
    if image.format in ("JPEG", "MPO"):
        place = file.tell()
        file.seek(0)
        passes = sum(scans_in(part) for part in iter(lambda: file.read(1 << 24), b""))
        file.seek(place)
        if passes > most_passes(image.width * image.height):
            raise InputError(f"{name}: expected a JPEG of a few passes over the picture, found {passes}")


def scans_in(data: bytes) -> int:
    """Passes over the picture that a JPEG makes; in its compressed data the marker of one cannot occur."""
    return data.count(b"\xff\xda")


def _loaded(image: ImageFile.ImageFile, file: IO[bytes], least: int | None, is_whole: bool) -> Image.Image:
    full, factor = image.size, 1 if is_whole else _factor(image)
    if least is not None:  # a JPEG decodes at a half, a quarter or an eighth; for other formats it means nothing
        image.draft("RGB", (least, least))
    elif factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    if _factor(image) > 1 and image.format == "TIFF":  # whose plugin makes room up to a limit of its own
        from PIL import TiffImagePlugin

        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        stored = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        image.im = Image.new(image.mode, stored).im
    try:
        image.load()  # which turns a TIFF upright
    except OSError as error:
        if image.format != "JPEG" or "truncated" not in str(error):
            raise
        whole = _with_end(file) if factor == 1 else None
        if whole is None:
            raise
        image = whole
    if factor == 1 or (least is not None and _factor(image) == 1):
        return image
    return shrunk(image, full if image.format == "JPEG" else image.size)


def _with_end(file: IO[bytes]) -> ImageFile.ImageFile | None:
    """A JPEG that lacks its last bytes, where no more than a tenth of the picture can have been in them: what its last
    bytes that are there change lies below, and of several passes over it the last one has begun."""
    file.seek(0)
    data = file.read()
    if scans_in(data) > 1 and not _is_last_pass(data):
        return None
    whole, less = (_opened(io.BytesIO(part + END_OF_JPEG)) for part in (data, data[:-64]))
    if whole is None or less is None:
        return None
    changed = np.flatnonzero((np.asarray(whole) != np.asarray(less)).reshape(whole.height, -1).any(axis=1))
    return whole if changed.size and changed[0] >= 0.9 * whole.height else None


def _is_last_pass(data: bytes) -> bool:
    """Whether the last pass that a progressive JPEG begins is the one that encoders make last: the lowest bit of the
    first component. Its header has its size, the count of components, their tables, first and last frequency, bits."""
    start = data.rindex(b"\xff\xda") + 4
    header = data[start : start + 6]
    return len(header) == 6 and header[0] == 1 and header[1] in (0, 1) and header[3] > 0 and header[5] == 0x10


def _without_metadata(file: IO[bytes]) -> IO[bytes] | None:
    """A picture less what may be damaged or too large for Pillow beside it: the text and colour profile of a PNG, the
    EXIF of an AVIF, which is turned by other means. None for other formats."""
    file.seek(0)
    start = file.read(12)
    if start[4:8] == b"ftyp":
        return io.BytesIO((start + file.read(1 << 16)).replace(b"Exif", b"skip") + file.read())
    if not start.startswith(b"\x89PNG"):
        return None
    file.seek(0)
    out = io.BytesIO()
    out.write(file.read(8))
    while len(start := file.read(8)) == 8:
        size, kind = int.from_bytes(start[:4], "big"), start[4:]
        if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
            out.write(start + file.read(size + 4))
        else:
            file.seek(size + 4, os.SEEK_CUR)
    return out


def load_image(path: Path) -> Pixels | None:
    """One image file that is a frame, of up to `MAX_PIXELS`, as RGB, (H, W, 3); None if it is there but broken.

    Raises `InputError` as `open_image` does, and for pixels whose range is not known.
    """
    try:
        return file_to_pixels(open_image(path, MAX_PIXELS), path)
    except Undecodable:
        return None


def file_to_pixels(image: Image.Image, source: object) -> Pixels:
    """What `open_image` gave as RGB, (H, W, 3). Raises `InputError` that names the source."""
    try:
        return np.asarray(to_rgb(image))
    except InputError as error:
        raise InputError(f"{name_of_source(source)}: {error}") from None


# ---- pictures in memory ----------------------------------------------------------------------------------------------


def open_picture(source: Any) -> Image.Image | Pixels:
    """Anything that is one picture, decoded: a file as `open_image` takes it, a PIL image, an array, a tensor."""
    if is_media(source):
        image = open_image(source)
        return Image.fromarray(file_to_pixels(image, source)) if image.mode in ("I", "F") else image
    if isinstance(source, np.ndarray) or is_tensor(source):
        return channels_last(source, 3, "(H, W, 3)")
    if isinstance(source, Image.Image):
        return decoded(source)
    raise InputError(f"expected one image for a network of images, got {type(source).__name__}")


def decoded(image: Image.Image) -> Image.Image:
    """A PIL image with its pixels read, which Pillow leaves until they are needed; see `open_image`."""
    check_pixels("PIL image", *image.size, MAX_PHOTO)
    try:
        image.load()
    except Exception as error:  # as in `open_image`
        raise InputError(f"expected an image that can be decoded: {first_line(error, 120)}") from None
    return image if _factor(image) == 1 else shrunk(image, image.size)


def _factor(image: Image.Image) -> int:
    """By how much a picture has to be shrunk to have `MAX_PIXELS`."""
    return math.ceil(math.sqrt(image.width * image.height / MAX_PIXELS))


def shrunk(image: Image.Image, full: tuple[int, int]) -> Image.Image:
    """A large picture as upright RGB at a whole fraction of its size: means over squares, made strip by strip, so that
    it is never held as RGB as a whole. `full` (width, height) is what it has in the file, for `upright_size`."""
    factor = _factor(image)
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, STRIP // (image.width * factor))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(_as_rgb(strip, _is_of_16_bits(image)).reduce(factor), (0, top // factor))
    turn = orientation(image)
    small = _turned(small, turn)
    small.info[FULL_SIZE] = full[::-1] if turn >= 5 else full
    return small


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a large picture that are looked at together."""
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield slice(top, top + rows)


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB copy of any image whose range of values is known.

    It is turned as its EXIF orientation says. Grey, palette and CMYK images become RGB, 16-bit grey loses its low byte,
    floats in 0 .. 1 are rounded, and transparency is dropped, showing the colours beneath (as in the reference). Raises
    `InputError` for pixels of unknown range (other floats, 32-bit integers).
    """
    return _as_rgb(_turned(image, orientation(image)), _is_of_16_bits(image))


def _is_of_16_bits(image: Image.Image) -> bool:
    """Of Pillow's mode for integers of 32 bits, which says nothing of their range: a PGM's is up to 65535."""
    return image.mode == "I" and image.format == "PPM"


def _as_rgb(image: Image.Image, is_of_16_bits: bool) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and not is_of_16_bits:
            raise InputError(f"expected an image of 8 or 16 bits per channel, got PIL mode {image.mode!r}")
        image = Image.fromarray(eight_bits(values.astype(np.uint16) if image.mode == "I" else values))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB does the same but warns
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"expected an image that can be shown as RGB, got PIL mode {image.mode!r}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def orientation(image: Image.Image) -> int:
    """How an image is turned for showing, as EXIF counts it, 1 to 8; 1 where it says nothing that can be understood.

    Cameras and editors store it as other types than EXIF's own, a short: as text, bytes, fractions, several.
    """
    try:
        value: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
        number = int(value[0] if isinstance(value, bytes | tuple) else value)
    except Exception:  # what Pillow lets out on damaged blocks is of every kind
        return 1
    return number if number in _TURNS else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_size(picture: Image.Image | Pixels) -> tuple[int, int]:
    """(height, width) as shown: EXIF orientations 5 to 8 lie on their side. Of one that was shrunk, what it had."""
    if not isinstance(picture, Image.Image):
        return picture.shape[0], picture.shape[1]
    width, height = picture.info.get(FULL_SIZE) or picture.size
    return (width, height) if orientation(picture) >= 5 else (height, width)


def open_header(path: Path) -> tuple[int, int]:
    """(height, width), as shown, by what a picture's file begins with; its pixels are not decoded.

    Raises `InputError` as `open_image` does where that cannot be read.
    """
    with _explained(str(path)), path.open("rb") as file:
        image = _opened(file)
        if image is None:
            raise _undecodable(str(path), "not a format that is read")
        check_pixels(path, *image.size, MAX_PHOTO)
        return upright_size(image)


def to_pixels(picture: Image.Image | np.ndarray | Tensor) -> Pixels:
    """A picture in memory as uint8 RGB, (H, W, 3). Raises `InputError` as `channels_last` and `to_rgb` do."""
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(decoded(picture)))
    return channels_last(picture, 3, "(H, W, 3)")


def channels_last(pixels: np.ndarray | Tensor, ndim: int, form: str) -> Pixels:
    """uint8 RGB with the channels last, from arrays and tensors with the channels last or before height and width.

    One channel is grey; a picture may be grey without an axis for it. Values are as `eight_bits` takes them. Raises
    `InputError` for all else: two or four channels may mean anything.
    """
    array = _array(pixels)
    if array.ndim == ndim - 1 == 2:
        array = array[..., None]
    elif array.ndim == ndim:
        last, first = array.shape[-1], array.shape[-3]
        if last != 3 and (first == 3 or first == 1 != last):
            array = np.moveaxis(array, -3, -1)
    if array.ndim != ndim or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise InputError(
            f"expected uint8 RGB of shape {form}, got {array.dtype} of shape {array.shape} "
            "(uint16, bool, floats in 0 .. 1 and grey are taken too)"
        )
    return np.ascontiguousarray(np.broadcast_to(eight_bits(array), (*array.shape[:-1], 3)))


def eight_bits(values: np.ndarray) -> Pixels:
    """Values as uint8: those of 16 bits lose their low byte, true and floats of 1 become 255.

    Raises `InputError` for floats that are not in 0 .. 1, NaN too, and for other types, whose range nothing tells.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind != "f":
        raise InputError(f"expected pixels as uint8, uint16, bool or floats in 0 .. 1, got {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise InputError(f"expected floats in 0 .. 1, got {low:g} .. {high:g}")
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def checked_pixels(pixels: np.ndarray | Tensor, ndim: int, form: str) -> Pixels:
    array = _array(pixels)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"expected uint8 RGB of shape {form}, got {array.dtype} of shape {array.shape}")
    return array


def _array(pixels: np.ndarray | Tensor) -> NDArray[Any]:
    if not is_tensor(pixels):
        return np.asarray(pixels)
    tensor = pixels.detach().cpu()
    try:
        return np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"expected a tensor of pixels, got {tensor.dtype}: {first_line(error)}") from None


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether it is one of torch's, which nobody can have made before torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
