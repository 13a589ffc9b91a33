"""One conversion of pictures: by every door the same pixels, and what is not understood is refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.tiny import IMAGES, refused
from uniformer.datasets.scan import inspect
from uniformer.reading.pictures import load_image, open_image, open_picture, to_pixels, upright_size
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views, open_clip
from uniformer.reports.pictures import thumbnail

COLOURS = odd_media.picture(5, 80, 60)  # (60, 80, 3)
GREY = COLOURS[:, :, 0]
IN_GREY = np.repeat(GREY[:, :, None], 3, axis=2)


def through_every_door(path: Path) -> list[np.ndarray]:
    """A picture as a network of images gets it, as a frame of a folder and of lists, and from Pillow."""
    with open_video(path.parent) as folder, open_clip([path]) as listed:
        frames = [folder.read([0])[0], listed.read([0])[0]]
    with open_clip([path.read_bytes()]) as encoded, Image.open(path) as image, open_clip([image]) as pil:
        frames += [encoded.read([0])[0], pil.read([0])[0], to_pixels(image)]
    return [*frames, to_pixels(open_picture(path)), to_pixels(open_picture(path.read_bytes()))]


def transparent() -> Image.Image:
    image = Image.fromarray(COLOURS)
    image.putalpha(Image.fromarray(GREY))
    return image


PICTURES: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
    "1.png": (lambda: Image.fromarray(GREY > 128), np.where(IN_GREY > 128, 255, 0)),
    "grey.png": (lambda: Image.fromarray(GREY), IN_GREY),
    "grey_and_alpha.png": (lambda: transparent().convert("LA"), None),
    "rgba.png": (transparent, COLOURS),
    "rgba.webp": (transparent, None),
    "16_bits.png": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), IN_GREY),
    "16_bits.tif": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), IN_GREY),
    "16_bits.pgm": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), IN_GREY),
    "floats.tif": (lambda: Image.fromarray(GREY.astype(np.float32) / 255), IN_GREY),
    "palette.png": (lambda: Image.fromarray(COLOURS).quantize(200), None),
    "cmyk.tif": (lambda: Image.fromarray(COLOURS).convert("CMYK"), COLOURS),
    "bmp.bmp": (lambda: Image.fromarray(COLOURS), COLOURS),
    "lossless.avif": (lambda: Image.fromarray(COLOURS), None),
    "jpeg_2000.jp2": (lambda: Image.fromarray(COLOURS), COLOURS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_door_gives_the_same_pixels(name: str, tmp_path: Path) -> None:
    make, expected = PICTURES[name]
    make().save(path := tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, *others = through_every_door(path)
    assert first.dtype == np.uint8
    assert all(np.array_equal(first, other) for other in others)
    if expected is not None:
        np.testing.assert_array_equal(first, expected)
    assert abs(first.astype(int) - (IN_GREY if "grey" in name else COLOURS)).mean() < (60 if name[0] in "1f" else 12)


def test_a_palette_with_transparency_shows_the_colours_beneath(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(200)
    expected = np.asarray(image.convert("RGB"))
    image.save(path := tmp_path / "a.png", transparency=bytes(range(200)))
    for got in through_every_door(path):
        np.testing.assert_array_equal(got, expected)


def test_a_still_gif_is_a_picture_too_and_a_moving_one_is_not(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(200)
    image.save(path := tmp_path / "still.gif")
    np.testing.assert_array_equal(load_image(path), np.asarray(image.convert("RGB")))
    image.save(path, save_all=True, append_images=[image.rotate(90)])
    with refused("still.gif: expected an image, found a file that does not open as one: it moves"):
        open_image(path)


ARRAYS: dict[str, tuple[np.ndarray | torch.Tensor, np.ndarray]] = {
    "uint8": (COLOURS, COLOURS),
    "channels first": (COLOURS.transpose(2, 0, 1), COLOURS),
    "uint16": (COLOURS.astype(np.uint16) * 257, COLOURS),
    "uint16 of the other order": ((COLOURS.astype(np.uint16) * 257).astype(">u2"), COLOURS),
    "float64": (COLOURS / 255, COLOURS),
    "float16": ((COLOURS / 255).astype(np.float16), COLOURS),
    "bool": (COLOURS > 128, np.where(COLOURS > 128, 255, 0)),
    "grey": (GREY, IN_GREY),
    "three rows of grey": (GREY[:3], IN_GREY[:3]),
    "grey with an axis": (GREY[:, :, None], IN_GREY),
    "grey with an axis first": (GREY[None], IN_GREY),
    "grey floats": (GREY / 255, IN_GREY),
    "a tensor": (torch.from_numpy(COLOURS.copy()), COLOURS),
    "a tensor of floats": (torch.from_numpy(COLOURS.copy()).permute(2, 0, 1) / 255, COLOURS),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_every_kind(case: str) -> None:
    array, expected = ARRAYS[case]
    np.testing.assert_array_equal(to_pixels(array), expected)
    with open_clip([array, array]) as reader:
        np.testing.assert_array_equal(reader.read([1])[0], expected)
    if array.ndim == 3:
        stacked = torch.stack([array] * 2) if isinstance(array, torch.Tensor) else np.stack([array] * 2)
        with open_clip(stacked) as reader:
            np.testing.assert_array_equal(reader.read([1])[0], expected)


def floats(value: float) -> np.ndarray:
    array = COLOURS / 255
    array[3, 4, 1] = value
    return array


NOT_UNDERSTOOD: dict[str, tuple[Any, str]] = {
    "above 1": (floats(1.01), r"^expected floats in 0 \.\. 1, got 0[.0-9]* \.\. 1\.01$"),
    "below 0": (floats(-0.5), r"^expected floats in 0 \.\. 1, got -0\.5 \.\. "),
    "up to 255": (COLOURS.astype(np.float32), r"^expected floats in 0 \.\. 1"),
    "not a number": (floats(np.nan), r"^expected floats in 0 \.\. 1, got nan"),
    "infinite": (floats(np.inf), r"^expected floats in 0 \.\. 1"),
    "int64": (COLOURS.astype(np.int64), "^expected pixels as uint8, uint16, bool or floats in 0 .. 1, got int64"),
    "complex": (COLOURS.astype(complex), "got complex128"),
    "words": (np.full((4, 4, 3), "a"), "expected pixels as uint8"),
    "two channels": (COLOURS[:, :, :2], r"expected uint8 RGB of shape \(H, W, 3\), got uint8 of shape \(60, 80, 2\)"),
    "four channels": (np.zeros((9, 9, 4), np.uint8), r"of shape \(9, 9, 4\)"),
    "no pixels": (np.zeros((0, 9, 3), np.uint8), r"of shape \(0, 9, 3\)"),
    "one axis": (GREY[0], r"of shape \(80,\)"),
    "five axes": (COLOURS[None, None], r"of shape \(1, 1, 60, 80, 3\)"),
    "floats of Pillow": (Image.fromarray(COLOURS[:, :, 0].astype(np.float32)), r"^expected floats in 0 \.\. 1"),
    "32 bits of Pillow": (Image.fromarray(COLOURS[:, :, 0].astype(np.int32)), "8 or 16 bits per channel"),
    "grey that is multiplied": (Image.new("La", (9, 9)), "can be shown as RGB, got PIL mode 'La'"),
}


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_what_is_not_understood(case: str, tmp_path: Path) -> None:
    source, said = NOT_UNDERSTOOD[case]
    with refused(said):
        to_pixels(source)
    with refused("expected"):
        load_views(source, IMAGES)
    if isinstance(source, Image.Image) and source.mode != "La":
        source.save(path := tmp_path / "frame.tif")
        for read in (load_image, lambda path: load_views(path, IMAGES), lambda path: open_video(path.parent)):
            with refused(f"^{path}: .*{said.lstrip('^')}"):
                read(path)


# ---- EXIF ------------------------------------------------------------------------------------------------------------


def exif(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block with the orientation alone."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, count) + value[:4].ljust(4, b"\0") + bytes(4)


SIXES = {  # orientation 6, stored as whatever type
    "short": (3, 1, b"\6"), "byte": (1, 1, b"\6"), "text": (2, 2, b"6\0"), "long": (4, 1, b"\6"),
    "signed byte": (6, 1, b"\6"), "undefined": (7, 1, b"\6"), "signed short": (8, 1, b"\6"),
    "float": (11, 1, struct.pack("<f", 6)), "two": (3, 2, b"\6\0\6"),
}  # fmt: skip
NOTHING = {
    "none": (3, 1, b"\0"), "nine": (3, 1, b"\x09"), "huge": (4, 1, b"\xff\xff\xff\x7f"),
    "negative": (9, 1, b"\xff" * 4),
    "a word": (2, 4, b"up\0"), "not a number": (11, 1, struct.pack("<f", np.nan)), "no values": (3, 0, b""),
    "many values": (3, 0x7FFFFFFF, b"\6"), "a fraction outside": (5, 1, b"\xff\xff\xff\x0f"),
    "no such type": (99, 1, b"\6"),
}  # fmt: skip
DAMAGED = {
    "empty": b"Exif\0\0", "garbage": b"Exif\0\0garbage!", "cut": b"Exif\0\0II*",
    "outside": b"Exif\0\0II*\0\xff\xff\0\0",
    "big": b"Exif\0\0II+\0\x08\0\0\0" + bytes(8), "all": exif(3, 1, b"\6")[:20], "itself": b"Exif\0\0II*\0\0\0\0\0",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
@pytest.mark.parametrize("case", [*SIXES, *NOTHING, *DAMAGED])
def test_exif_of_any_type_and_damaged(case: str, suffix: str, tmp_path: Path) -> None:
    block = DAMAGED.get(case) or exif(*(SIXES.get(case) or NOTHING[case]))
    if suffix == "avif":  # whose encoder reads the block, so that it is put in afterwards
        sound = Image.Exif()
        sound[0x010F] = "a maker of cameras with a name of fifty letters ..."
        Image.fromarray(COLOURS).save(path := tmp_path / "a.avif", exif=sound)
        data = bytearray(path.read_bytes())
        start = data.index(sound.tobytes()[6:14])
        data[start : start + 40] = block[6:].ljust(40, b"\0")
        path.write_bytes(data)
    else:
        Image.fromarray(COLOURS).save(path := tmp_path / f"a.{suffix}", exif=block)
    views = load_views(path, IMAGES)
    if suffix != "avif" or case not in SIXES:  # an AVIF says it otherwise, and Pillow of few types
        assert (views.height, views.width) == ((80, 60) if case in SIXES else (60, 80))
    pixels = load_image(path)
    assert pixels is not None
    assert pixels.shape[:2] == (views.height, views.width)
    assert upright_size(open_image(path)) == (views.height, views.width)


# ---- damage that can be read past ------------------------------------------------------------------------------------


def photo(**options: Any) -> bytes:
    """A picture with something in every part of it, as a JPEG of 640 x 480."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(out := io.BytesIO(), "JPEG", quality=90, **options)
    return out.getvalue()


@pytest.mark.parametrize("missing", [1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_without_its_last_bytes(options: dict[str, bool], missing: int, tmp_path: Path) -> None:
    data = photo(**options)
    (path := tmp_path / "a.jpg").write_bytes(data[:-missing])
    whole, cut = to_pixels(Image.open(io.BytesIO(data))), load_image(path)
    assert cut is not None
    np.testing.assert_array_equal(cut[:400], whole[:400])
    if missing <= 2:
        np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_half_a_jpeg_is_refused(options: dict[str, bool]) -> None:
    data = photo(**options)
    for share in (0.1, 0.3, 0.5, 0.7, 0.8):
        with refused("expected an image, found a file that does not open as one: image file is truncated"):
            open_image(data[: int(len(data) * share)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


LARGE = zlib.compress(bytes(20_000_000))
CHUNKS = {
    "text": chunk(b"tEXt", b"k\0" + b"a" * 3_000_000),
    "compressed text": chunk(b"zTXt", b"k\0\0" + LARGE),
    "international text": chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE),
    "a profile": chunk(b"iCCP", b"k\0\0" + LARGE),
    "much text": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 80,
    "a damaged text": chunk(b"zTXt", b"k\0\0" + b"nonsense"),
    "a damaged profile": chunk(b"iCCP", b"k\0\0" + b"nonsense"),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_a_png_with_large_text_or_profile(case: str) -> None:
    Image.fromarray(COLOURS).save(out := io.BytesIO(), "PNG")
    data = out.getvalue()
    np.testing.assert_array_equal(to_pixels(open_image(data[:33] + CHUNKS[case] + data[33:])), COLOURS)


# ---- large pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photo_of_48_megapixels(suffix: str, tmp_path: Path) -> None:
    small = Image.fromarray(odd_media.picture(3, 504, 378))
    small.resize((8064, 6048), Image.Resampling.NEAREST).save(
        path := tmp_path / f"phone.{suffix}", exif=exif(3, 1, b"\6"), compress_level=1
    )
    views, expected = load_views(path, IMAGES), load_views(small.rotate(-90, expand=True), IMAGES)
    assert (views.height, views.width) == (8064, 6048)
    assert np.abs(views.array - expected.array).max() < 0.2
    record = inspect((str(path), "image"))
    assert (record.width, record.height, record.error) == (6048, 8064, None)
    assert thumbnail(str(path), "image")
    with refused(f"{path}: expected at most 33554432 pixels a frame, found 8064x6048"):
        open_video(tmp_path)
