"""An annotated copy of a video: pictures made of its frames as H.264, or VP9 in WebM, at the frames' times, and its
sound as it was. Of a folder of frames, which has neither times nor sound, at 25 a second."""

from __future__ import annotations

import heapq
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from PIL import Image

from uniformer.errors import InputError, cannot_write
from uniformer.reading.container import open_sound, packets_of, sound_codec
from uniformer.reading.limits import Work
from uniformer.reading.moments import moments_of
from uniformer.reading.sources import Media, download, encoded, is_path, is_url
from uniformer.reading.video import open_video
from uniformer.support.files import atomic_path, temporary_folder
from uniformer.tasks.drawing import Entry, captioned

#: Endings of films that are written, and their containers.
FILMS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
H264 = ("libx264", {"crf": "20", "preset": "veryfast"})
#: How pictures are encoded where a container takes no H.264.
ENCODERS = {"webm": ("libvpx-vp9", {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1"})}
CLOCK = Fraction(1, 90_000)  # of their times, seconds
USUAL_RATE = 25  #: frames a second, of what has no clock
BT709 = 1  # how players take the colours of a film


class Film:
    """A film that is being written; `note` says why it has no sound, where the source has some."""

    note: str | None = None

    def __init__(self, container: OutputContainer, rate: float | None, form: str):
        self._container, self._rate = container, rate
        self._encoder, self._options = ENCODERS.get(form, H264)
        self._stream: Any = None
        self._last = -1
        self._size: tuple[int, int] = (0, 0)

    def add(self, image: Image.Image, seconds: float) -> None:
        """The next picture, shown from `seconds` after the first frame of the source on; all are of one size."""
        frame = av.VideoFrame.from_ndarray(_even(np.asarray(image)), format="rgb24")
        if self._stream is None:
            self._stream, self._size = self._opened(frame), image.size
        if image.size != self._size:
            raise InputError(f"expected pictures of one size in a film, {self._size}, got {image.size}")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=1)
        frame.pts = self._last = max(self._last + 1, round(seconds / CLOCK))
        frame.time_base = CLOCK
        self._container.mux(self._stream.encode(frame))

    def _opened(self, frame: av.VideoFrame) -> Any:
        rate = Fraction(self._rate or USUAL_RATE).limit_denominator(1001)
        stream: Any = self._container.add_stream(self._encoder, rate=rate, options=dict(self._options))
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        context = stream.codec_context
        context.time_base = CLOCK
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1
        return stream

    def end(self) -> None:
        if self._stream is None:
            raise InputError("expected at least one picture for a film, got none")
        self._container.mux(self._stream.encode())


def _even(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """With its last row and column twice where their number is odd, which the colours do not allow."""
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def check_film_name(path: str | os.PathLike[str]) -> None:
    """Raises `InputError` for a name that no film can have."""
    if Path(path).suffix.lower() not in FILMS:
        raise InputError(f"{path}: expected the name of a film that ends in {', '.join(FILMS)}")


@contextmanager
def film_of(source: Media, path: str | os.PathLike[str], *, start: float, rate: float | None) -> Iterator[Film]:
    """Write an annotated copy of a video to `path`: whole, when the block ends, or not at all.

        with film_of("clip.mp4", "drawn.mp4", start=reader.start, rate=reader.info.fps) as film:
            film.add(image, seconds)

    `start` is where the first frame lies on the clock of the source, seconds, and `rate` its frames a second. Memory
    does not grow with the film. Raises `InputError` where it cannot be written.
    """
    check_film_name(path)
    path = Path(path)
    form = FILMS[path.suffix.lower()]
    with atomic_path(path) as whole:
        try:
            with temporary_folder(whole) as folder:
                silent = folder / "silent.mp4"  # which tells when packets are decoded, as Matroska does not
                with av.open(str(silent), "w", format="mp4") as container:
                    film = Film(container, rate, form)
                    yield film
                    film.end()
                film.note = _with_sound(silent, source, start, whole, form)
        except FFmpegError as error:
            raise cannot_write(path, error) from None


def write_captioned(
    source: Media, path: str | os.PathLike[str], entries_at: Callable[[float], Sequence[Entry]]
) -> None:
    """A copy of a video, or of a folder of frames, over whose pictures stands what holds at their seconds.

    A sound that cannot be copied is a warning. Raises `InputError` where it cannot be read or written.
    """
    check_film_name(path)
    with (
        download(source) if is_url(source) else nullcontext(source) as file,
        open_video(file) as reader,
        film_of(file, path, start=reader.start, rate=reader.info.fps) as film,
    ):
        for number, time, picture in moments_of(reader):
            if picture is not None:
                seconds = number / USUAL_RATE if time is None else time
                film.add(captioned(picture(), entries_at(seconds)), seconds)
    if film.note:
        warnings.warn(f"{path}: {film.note}", stacklevel=2)


def _with_sound(silent: Path, source: Media, start: float, out: Path, form: str) -> str | None:
    """The pictures and the sound of the source in one file; why there is none, where the source has some."""
    with ExitStack() as opened:
        pictures = opened.enter_context(av.open(str(silent)))
        container = opened.enter_context(av.open(str(out), "w", format=form))
        moving, note = pictures.streams.video[0], None
        streams: list[Any] = [container.add_stream_from_template(moving)]
        pieces = [_packets(pictures.demux(moving), 0, Fraction(0))]
        if not (is_path(source) and os.path.isdir(source)):
            medium = encoded(source, "a video")
            opened.callback(medium.close)
            work, sound = Work(medium.name, medium.size), open_sound(medium)
            codec = None if sound is None else sound_codec(sound[1])
            if sound is not None:
                opened.callback(sound[0].close)
            if sound is not None and codec in container.supported_codecs:
                streams.append(container.add_stream_from_template(sound[1]))
                pieces.append(_packets(packets_of(*sound, work), 1, Fraction(start).limit_denominator(10**6)))
            elif sound is not None:
                note = f"the sound is left out: {codec} does not go into {form}"
        for _, number, packet in heapq.merge(*pieces, key=itemgetter(0, 1)):
            packet.stream = streams[number]
            container.mux(packet)
    return note


def _packets(packets: Any, number: int, start: Fraction) -> Iterator[tuple[Fraction, int, Packet]]:
    """Packets of stream `number` with their times, seconds from the first picture; sound before that is left out."""
    for packet in packets:
        if packet.dts is None or packet.pts is None or not packet.size:
            continue
        shift = round(start / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        if number == 0 or packet.pts >= 0:
            yield packet.dts * packet.time_base, number, packet
