"""Which codecs are read here: a film of each, made on the spot in memory, through each decoder."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import av
import numpy as np

from uniformer.errors import InputError
from uniformer.reading.video import open_video
from uniformer.support.checks import Check, attempt
from uniformer.support.environment import usual

PART = "decoders"
FRAMES, SIZE = 8, (48, 64)  #: of a film, and height and width
ASKED = (6, 1, 3)  #: frames, in no order: to be sought
OFF = 8  #: by which a grey level may change through coding, of 255


class Film(NamedTuple):
    """How a film is made of a codec."""

    encoder: str  #: FFmpeg's name
    container: str
    options: dict[str, str]
    pixels: str = "yuv420p"


FILMS = {
    "h264": Film("libx264", "mp4", {}),
    "hevc": Film("libx265", "mp4", {"x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "vp9": Film("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": Film("libsvtav1", "mp4", {"preset": "11", "svtav1-params": "lp=1"}),
    "mpeg4": Film("mpeg4", "avi", {}),
    "mjpeg": Film("mjpeg", "avi", {}, "yuvj420p"),
}
NEEDED = "h264"  #: of most videos there are
BY_TORCHCODEC = ("h264", "hevc", "vp9", "av1")  #: in containers that it is asked to read


def try_decoders(films: Mapping[str, Film] = FILMS) -> Iterator[Check]:
    """A check of each codec and decoder. Nothing is written, and nothing printed."""
    for codec, film in films.items():
        try:
            coded = encode(film)
        except Exception as error:  # an FFmpeg of one's own may lack an encoder, and read all the same
            yield _without_film(codec, film, error)
            continue
        yield try_decoder(codec, film, coded, "pyav")
        if codec in BY_TORCHCODEC and importlib.util.find_spec("torchcodec") is not None:
            yield try_decoder(codec, film, coded, "torchcodec")


def try_decoder(codec: str, film: Film, coded: bytes, backend: Literal["pyav", "torchcodec"]) -> Check:
    """Whether some frames of a film by `encode` come out as they went in."""
    tried = f"frames {', '.join(map(str, ASKED))} of a film by {film.encoder}"
    work = partial(_read, coded, backend)
    if backend == "torchcodec":
        return attempt(PART, f"{codec} by torchcodec", tried, work, remedy="use the backend 'pyav'")
    return attempt(PART, codec, tried, work, remedy="pip install --force-reinstall av", needed=codec == NEEDED)


def encode(film: Film) -> bytes:
    """A film whose frame of number i is grey of level 30 + 25 i."""
    out = io.BytesIO()
    # SVT-AV1 talks on standard error unless it is told to say no more than errors
    with usual("SVT_LOG", "1"), av.open(out, "w", format=film.container) as container:
        stream: Any = container.add_stream(film.encoder, rate=25, options=film.options)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.thread_count = film.pixels, 1
        for number in range(FRAMES):
            picture = np.full((*SIZE, 3), _level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _read(coded: bytes, backend: Literal["pyav", "torchcodec"]) -> str:
    with open_video(coded, backend=backend) as reader:
        levels = reader.read(ASKED).mean((1, 2, 3)).round().astype(int).tolist()
    wanted = [_level(number) for number in ASKED]
    if any(abs(level - true) > OFF for level, true in zip(levels, wanted, strict=True)):
        raise InputError(f"expected frames of the levels {wanted}, got {levels}")
    return "as coded"


def _level(number: int) -> int:
    return 30 + 25 * number


def _without_film(codec: str, film: Film, error: Exception) -> Check:
    try:
        av.codec.Codec(codec, "r")
    except ValueError:  # PyAV's for an unknown codec
        remedy = "pip install --force-reinstall av"
        return Check(PART, codec, "looked for in FFmpeg", "no decoder", "bad", remedy, needed=codec == NEEDED)
    return Check(PART, codec, f"no film by {film.encoder}: {type(error).__name__}", "a decoder is there, not tried")
