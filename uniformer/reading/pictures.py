"""One conversion of pictures: a file, bytes, a PIL image, an array or a tensor becomes upright uint8 RGB, (H, W, 3).

Everything that shows the network, a report or a scan a picture comes through here. NumPy and Pillow only.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from uniformer.errors import InputError, first_line
from uniformer.reading.sources import Media, encoded, head, is_media, is_url

if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]
AnyPixels: TypeAlias = "Pixels | Tensor"

MAX_PIXELS = 1 << 25  #: of one picture or frame: 8K UHD (7680 x 4320) fits. More is refused before it is allocated
IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: for some, Pillow runs programs
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGE_STARTS = (b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Undecodable(InputError):
    """A file that is there, but holds no picture that can be decoded."""


def is_image(source: Any) -> bool:
    """Whether a source is one picture rather than a clip: by the shape of an array, the name of a path or an address,
    the first bytes of what is in memory or open. A GIF is a clip, and so is what cannot be told."""
    if isinstance(source, np.ndarray) or is_tensor(source):
        return source.ndim == 3
    if isinstance(source, str | os.PathLike):
        name = urlsplit(source).path if is_url(source) else os.fspath(source)
        return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return isinstance(source, Image.Image) or starts_as_image(head(source))


def starts_as_image(start: bytes) -> bool:
    """Whether a file that begins so is one picture of `IMAGE_FORMATS`. A raw MJPEG stream looks like one."""
    is_ppm = start[:1] == b"P" and start[1:2] in b"123456" and start[2:3].isspace()
    return start.startswith(IMAGE_STARTS) or is_ppm or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")


def open_image(source: Media) -> Image.Image:
    """A picture decoded here, so that what is wrong with the file is said here.

    Raises:
        InputError: it is missing, or has more than `MAX_PIXELS`; `Undecodable`: it is damaged or no picture.
    """
    with closing(encoded(source, "an image")) as medium:
        try:
            with Image.open(medium.from_start(), formats=IMAGE_FORMATS) as image:
                check_pixels(medium.name, *image.size)
                image.load()
                return image
        except Image.DecompressionBombError:
            raise InputError(f"{medium.name}: expected at most {MAX_PIXELS} pixels a frame, found far more") from None
        except InputError:
            raise
        except Exception as error:  # Pillow's plugins let struct, index, value and syntax errors out on damaged files
            unknown = isinstance(error, UnidentifiedImageError)
            why = "not a format that is read" if unknown else first_line(error, 120)
            raise Undecodable(
                f"{medium.name}: expected an image, found a file that does not open as one: {why}"
            ) from None


def open_picture(source: Any) -> Image.Image | Pixels:
    """Anything that is one picture, decoded: a file as `open_image` takes it, a PIL image, an array, a tensor."""
    if is_media(source):
        return open_image(source)
    if isinstance(source, np.ndarray) or is_tensor(source):
        return channels_last(source, 3, "(H, W, 3)")
    if isinstance(source, Image.Image):
        return decoded(source)
    raise InputError(f"expected one image for a network of images, got {type(source).__name__}")


def load_image(path: Path) -> Pixels | None:
    """One image file as RGB, (H, W, 3); None if it is there but broken. Raises `InputError` as `open_image` does."""
    try:
        return np.asarray(to_rgb(open_image(path)))
    except Undecodable:
        return None


def decoded(image: Image.Image) -> Image.Image:
    """A PIL image with its pixels read, which Pillow leaves until they are needed."""
    try:
        image.load()
    except Exception as error:  # as in `open_image`
        raise InputError(f"expected an image that can be decoded: {first_line(error, 120)}") from None
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB copy of any image whose range of values is known.

    It is turned as its EXIF orientation says. Grey, palette and CMYK images become RGB, 16-bit grey loses its low byte,
    and transparency is dropped, showing the colours beneath (as in the reference). Raises `InputError` for pixels of
    unknown range (floats, 32-bit integers).
    """
    if image.mode in ("I", "F"):
        raise InputError(f"expected an image of 8 or 16 bits per channel, got PIL mode {image.mode!r}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB does the same but warns
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"expected an image that can be shown as RGB, got PIL mode {image.mode!r}") from error


def to_pixels(picture: Image.Image | AnyPixels) -> Pixels:
    """A picture in memory as uint8 RGB, (H, W, 3); arrays and tensors may have the channels first, (3, H, W).

    Raises `InputError` for arrays of another form, and as `to_rgb` does.
    """
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(decoded(picture)))
    return channels_last(picture, 3, "(H, W, 3)")


def channels_last(pixels: np.ndarray | Tensor, ndim: int, form: str) -> Pixels:
    """uint8 with the channels last; from (..., 3, H, W) where the last axis is not the channels."""
    array: NDArray[Any] = np.asarray(pixels.detach().cpu() if is_tensor(pixels) else pixels)
    if array.dtype == np.uint8 and array.ndim == ndim and array.shape[-1] != 3 and array.shape[-3] == 3:
        array = np.moveaxis(array, -3, -1)
    return np.ascontiguousarray(checked_pixels(array, ndim, form))


def checked_pixels(pixels: np.ndarray | Tensor, ndim: int, form: str) -> Pixels:
    array: NDArray[Any] = np.asarray(pixels.detach().cpu() if is_tensor(pixels) else pixels)
    if array.dtype != np.uint8 or array.ndim != ndim or array.shape[-1] != 3 or 0 in array.shape:
        raise InputError(f"expected uint8 RGB of shape {form}, got {array.dtype} of shape {array.shape}")
    return array


def upright_size(picture: Image.Image | Pixels) -> tuple[int, int]:
    """(height, width) as shown: EXIF orientations 5 to 8 lie on their side."""
    if not isinstance(picture, Image.Image):
        return picture.shape[0], picture.shape[1]
    lies = picture.getexif().get(0x0112, 1) >= 5
    return (picture.width, picture.height) if lies else (picture.height, picture.width)


def check_pixels(name: object, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: expected at most {MAX_PIXELS} pixels a frame, found {width}x{height}")


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether it is one of torch's, which nobody can have made before torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
