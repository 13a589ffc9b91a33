"""The reader against a plain sequential decode, over odd files that PyAV encodes and real clips out of packages."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import odd_media
from tests.odd_media import Maker
from uniformer.errors import InputError, MissingExtra, shown
from uniformer.reading.video import VideoInfo, open_frames, open_video, probe

NOT_FROM_ZERO = (odd_media.edit_list, odd_media.mpeg_ts_cut, odd_media.one_frame, odd_media.still, odd_media.rotated)
IN_ORDER = [make for make in odd_media.GOOD if make not in NOT_FROM_ZERO]


def by_name(makers: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize("make", makers, ids=lambda make: make.__name__)  # type: ignore[arg-type]


def in_sequence(path: Path) -> Iterator[NDArray[np.uint8]]:
    """The oracle: every frame of a file from the start on, as stored, at the first one's size."""
    with av.open(str(path), metadata_errors="ignore") as container:
        size = {}
        for frame in container.decode(video=0):
            size = size or {"width": frame.width, "height": frame.height}
            yield np.rot90(frame.to_ndarray(format="rgb24", **size), frame.rotation // 90)


def some_numbers(count: int, seed: int) -> list[int]:
    """Frame numbers in no order, some twice, the first and the last among them."""
    draw = random.Random(seed)
    return draw.sample([0, count - 1, *(draw.randrange(count) for _ in range(4))] * 2, 8)


@by_name(odd_media.GOOD)
def test_any_subset_is_what_a_sequential_decode_gives(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    truth = list(in_sequence(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(6):  # a fresh reader each time, and a second reading from wherever the first one ended
            with open_video(path) as reader:
                assert reader.info.num_frames == len(truth)
                assert (reader.info.height, reader.info.width) == truth[0].shape[:2]
                for numbers in (some_numbers(len(truth), seed), some_numbers(len(truth), seed + 100)):
                    frames = reader.read(numbers)
                    assert frames.dtype == np.uint8
                    assert [np.array_equal(a, truth[i]) for a, i in zip(frames, numbers, strict=True)] == [True] * 8
                assert reader.warnings == []


@by_name([odd_media.h264_open_gop, odd_media.hevc, odd_media.vp8_hidden_frames, odd_media.edit_list])
def test_every_frame_alone(make: Maker, tmp_path: Path) -> None:
    """One seek for each, so that frames stored after a keyframe but shown before it are asked for first."""
    path = make(tmp_path)
    with open_video(path) as reader:
        assert reader._index.is_seekable
        for number, truth in enumerate(in_sequence(path)):
            assert np.array_equal(reader.read([number])[0], truth), number
        assert not reader._is_damaged


@by_name(IN_ORDER)
def test_frames_carry_their_numbers(make: Maker, tmp_path: Path) -> None:
    with open_video(make(tmp_path)) as reader:
        frames = reader.read(range(reader.info.num_frames))
    assert [odd_media.number_in(frame) for frame in frames] == list(range(odd_media.FRAMES))


@pytest.mark.parametrize("path", odd_media.real_clips(), ids=lambda path: path.stem)
def test_real_clips(path: Path) -> None:
    truth = [zlib.crc32(np.ascontiguousarray(frame)) for frame in in_sequence(path)]
    numbers = some_numbers(len(truth), seed=1)
    with open_video(path) as reader:
        assert reader.info.num_frames == len(truth)
        assert [zlib.crc32(frame) for frame in reader.read(numbers)] == [truth[i] for i in numbers]


def test_info() -> None:
    path = next(clip for clip in odd_media.real_clips() if clip.stem == "bikes")
    assert probe(path) == VideoInfo(str(path), 250, 25.0, 10.0, 640, 272, 0, "h264", "mov,mp4,m4a,3gp,3g2,mj2")


def test_recording_cut_between_keyframes(tmp_path: Path) -> None:
    """More packets than frames: only decoding tells how many there are."""
    path = odd_media.mpeg_ts_cut(tmp_path)
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    with open_video(path) as reader:
        count = reader.info.num_frames
        assert 20 < count < packets
        numbers = [odd_media.number_in(frame) for frame in reader.read(range(count))]
    assert numbers == list(range(60 - count, 60))


def test_packed_file_is_packed(tmp_path: Path) -> None:
    """Holds the maker to its word: half of the packets are empty VOPs, and decoding still gives every frame."""
    with av.open(str(odd_media.avi_packed_b_frames(tmp_path))) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    assert sum(size < 10 for size in sizes) >= odd_media.FRAMES // 2 - 4


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("vflip", [False, True])
def test_orientation(degrees: int, hflip: bool, vflip: bool, tmp_path: Path) -> None:
    stored = list(in_sequence(odd_media.encode(tmp_path / "upright.mp4", frames=12)))
    with open_video(odd_media.rotated(tmp_path, degrees, hflip, vflip)) as reader:
        shown = reader.read([0, 7])
        assert shown.shape[1:3] == (reader.info.height, reader.info.width)
        if not hflip and not vflip:
            assert reader.info.rotation == degrees
    for frame, source in zip(shown, (stored[0], stored[7]), strict=True):
        expected = np.rot90(source, degrees // 90)  # counter-clockwise, as `set_display_rotation`; flips come after
        expected = expected[:, ::-1] if hflip else expected
        assert np.array_equal(frame, expected[::-1] if vflip else expected)


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    with open_video(odd_media.variable_rate(tmp_path)) as reader:
        times = reader.times(range(reader.info.num_frames))
        steps = [20 + 90 * (i % 7 == 3) + 400 * (i == 31) for i in range(odd_media.FRAMES - 1)]
        assert np.allclose(times, np.cumsum([0, *steps]) / 1000, atol=1e-9)
        assert reader.info.fps == pytest.approx(59 / (sum(steps) / 1000))
        assert reader.times([5, 5, 0]).tolist() == [times[5], times[5], 0.0]


@by_name([odd_media.late_start, odd_media.mpeg_ts, odd_media.avi_h264_b_frames, odd_media.edit_list])
def test_times_count_from_the_first_frame(make: Maker, tmp_path: Path) -> None:
    with open_video(make(tmp_path)) as reader:
        assert np.allclose(reader.times([0, 1, 40]), [0, 0.04, 1.6], atol=1e-6)
        assert reader.info.fps == pytest.approx(25)
        assert reader.info.duration == pytest.approx(reader.info.num_frames / 25)


def test_edit_list_hides_what_was_cut_off(tmp_path: Path) -> None:
    with open_video(odd_media.edit_list(tmp_path)) as reader:
        numbers = [odd_media.number_in(frame) for frame in reader.read(range(reader.info.num_frames))]
    assert numbers == list(range(17, odd_media.FRAMES))


@by_name([odd_media.h264, odd_media.h264_open_gop, odd_media.vp9])
def test_far_gaps_are_not_decoded(make: Maker, tmp_path: Path) -> None:
    """Four clips of a file with keyframes: few frames beside the wanted ones are decoded (all those are offered)."""
    with open_video(make(tmp_path)) as reader:
        wanted = [0, 1, 2, 54, 55, 56]
        decoded = [number for number, _ in reader._pictures(wanted)]
    assert set(wanted) <= set(decoded)
    assert len(decoded) <= 30  # of 60


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its largest memory")
def test_memory_follows_what_is_asked() -> None:
    """Two frames out of 132 (365 MB as RGB): the rest are decoded on the way, but not kept.

    The decoder's own memory grows with the cores that it uses, and is the same for all frames.
    """
    path = next(clip for clip in odd_media.real_clips() if clip.stem == "bigbuckbunny")
    code = (
        "import sys; from tests.memory import peak_kilobytes; from uniformer.reading.video import open_video\n"
        "frames = open_video(sys.argv[1]).read(range(0, 132, int(sys.argv[2])))\n"
        "print(peak_kilobytes() >> 10, frames.nbytes >> 20)"
    )
    peak, size = {}, {}
    for step in (131, 1):
        command = [sys.executable, "-c", code, str(path), str(step)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak[step], size[step] = map(int, done.stdout.split())
    assert peak[1] - peak[131] > 0.9 * (size[1] - size[131])


def one_line(error: pytest.ExceptionInfo[InputError], path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{shown(path, 1000)}: expected ")
    assert "found " in message
    return message


@by_name(odd_media.BAD)
def test_what_is_no_video_is_refused_in_one_line(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        open_video(path)
    one_line(error, path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    fifo, folder = tmp_path / "fifo.mp4", tmp_path / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (fifo, folder, Path("/dev/zero"), tmp_path / "missing.mp4", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError) as error:
            open_video(path)
        one_line(error, path)
    with pytest.raises(InputError, match="backend 'pyav' or 'torchcodec', got 'decord'"):
        open_video(tmp_path, backend="decord")  # type: ignore[arg-type]


def test_no_permission(tmp_path: Path) -> None:
    path = odd_media.one_frame(tmp_path)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # permissions do not bind root
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="permission denied") as error:
            open_video(path)
    finally:
        os.seteuid(user)
    one_line(error, path)


@pytest.mark.parametrize(
    "name", ["http:x.mp4", "a%03d.mp4", "-i.mp4", "naïve 影片.mp4", os.fsdecode(b"latin\xe4.mp4"), "none"]
)
def test_odd_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = odd_media.one_frame(tmp_path).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (path, name, Path(name)):
        with open_video(source) as reader:
            assert odd_media.number_in(reader.read([0])[0]) == 77


@pytest.mark.parametrize("numbers", [[-1], [60], [0, 1000], [0.5], ["1"], np.eye(30)])
def test_numbers_that_are_no_frames(numbers: list[int], tmp_path: Path) -> None:
    with open_video(odd_media.h264(tmp_path)) as reader:
        for ask in (reader.read, reader.times):
            with pytest.raises(InputError, match="expected frame") as error:
                ask(numbers)
            assert "\n" not in str(error.value)
        assert reader.read([]).shape == (0, odd_media.HEIGHT, odd_media.WIDTH, 3)
        assert reader.read(np.array([3, 2])).shape[0] == 2


def test_broken_frames_are_replaced_by_the_nearest(tmp_path: Path) -> None:
    """Frames 20 to 24 are zeros in the file."""
    path = odd_media.broken_middle(tmp_path)
    with open_video(path) as reader:
        with pytest.warns(UserWarning, match=r"55 of 60 frames are readable") as caught:
            frames = reader.read([23, 19, 20, 21, 24, 59, 22])
        assert [odd_media.number_in(frame) for frame in frames] == [25, 19, 19, 19, 25, 59, 19]
        assert [str(w.message) for w in caught] == reader.warnings
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one warning a reader
            assert [odd_media.number_in(frame) for frame in reader.read([30, 24, 0])] == [30, 25, 0]
        assert len(reader.warnings) == 1


def test_broken_frames_that_nobody_wants_do_not_warn(tmp_path: Path) -> None:
    with warnings.catch_warnings(), open_video(odd_media.broken_middle(tmp_path)) as reader:
        warnings.simplefilter("error")
        assert [odd_media.number_in(frame) for frame in reader.read([3, 40])] == [3, 40]


def test_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    with open_video(odd_media.truncated(tmp_path)) as reader:
        count = reader.info.num_frames
        assert 20 < count < odd_media.FRAMES
        with pytest.warns(UserWarning, match=f"{count - 1} of {count} frames are readable"):
            frames = reader.read(range(count))
    assert [odd_media.number_in(frame) for frame in frames] == [*range(count - 1), count - 2]


def folder_of_frames(folder: Path, numbers: list[int], pattern: str = "img_%05d.jpg") -> Path:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(odd_media.picture(number)).save(folder / (pattern % number), quality=95)
    return folder


@pytest.mark.parametrize("pattern", ["img_%05d.jpg", "%d.png", "clip2_%d.JPEG", "frame%d.webp", "%03d_x.ppm", "%d.bmp"])
def test_folder_in_the_order_of_its_numbers(pattern: str, tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "clip", [100, 9, 10, 11, 1, 2], pattern)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.jpg").write_text("nor this one")
    with open_video(folder) as reader:
        frames = reader.read([0, 1, 2, 3, 4, 5, 0])
        assert [odd_media.number_in(frame) for frame in frames] == [1, 2, 9, 10, 11, 100, 1]
        info = reader.info
        assert (info.num_frames, info.width, info.height, info.fps, info.duration) == (6, 128, 96, None, None)
        with pytest.raises(InputError, match="a clock"):
            reader.times([0])


def test_list_of_images_in_the_order_given(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "clip", [5, 3, 8])
    with open_frames([folder / "img_00008.jpg", str(folder / "img_00003.jpg")]) as reader:
        assert [odd_media.number_in(frame) for frame in reader.read([1, 0])] == [3, 8]
    with pytest.raises(InputError, match="at least one"):
        open_frames([])
    with pytest.raises(InputError, match=r"no readable file"):
        open_frames([folder / "missing.jpg"])


def test_images_of_a_turned_camera_are_turned_back(tmp_path: Path) -> None:
    image = Image.fromarray(odd_media.picture(44))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.jpg", exif=exif, quality=95)
    with open_video(tmp_path) as reader:
        assert (reader.info.width, reader.info.height) == (128, 96)
        assert odd_media.number_in(reader.read([0])[0]) == 44


def test_images_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "clip", [1, 2])
    Image.new("RGB", (64, 48)).save(folder / "img_00003.jpg")
    with open_video(folder) as reader:
        assert reader.read([0, 1]).shape == (2, 96, 128, 3)
        with pytest.raises(InputError, match=r"img_00003.jpg: expected 128x96 as .*img_00001.jpg, found 64x48"):
            reader.read([0, 2])


def test_broken_images_are_replaced_by_the_nearest(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "clip", list(range(1, 9)))
    for number in (1, 4, 5):
        path = folder / f"img_{number:05d}.jpg"
        path.write_bytes(path.read_bytes()[: 200 if number == 4 else 2000])
    with open_video(folder) as reader:
        with pytest.warns(UserWarning, match="5 of 8 frames are readable") as caught:
            frames = reader.read(range(8))
        assert [odd_media.number_in(frame) for frame in frames] == [2, 2, 3, 3, 6, 6, 7, 8]
        assert len(caught) == 1
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="8 files of which none can be read"):
        open_video(folder)


def test_huge_image_is_refused(tmp_path: Path) -> None:
    header = b"P6 60000 60000 255\n"  # a PPM whose pixels would take 10 GB
    (tmp_path / "1.ppm").write_bytes(header + bytes(100))
    with pytest.raises(InputError, match="pixels a frame"):
        open_video(tmp_path)


def test_one_thread_in_a_loader_worker_and_no_torch_before(tmp_path: Path) -> None:
    path = odd_media.h264(tmp_path)
    code = """
import os, sys
from uniformer.reading.video import open_video

class Threads:
    def __len__(self): return 1
    def __getitem__(self, _):
        with open_video(sys.argv[1]) as reader:
            return reader._stream.thread_count, int(reader.read([30])[0].sum())

here = Threads()[0]
assert "torch" not in sys.modules and "torchvision" not in sys.modules
import torch.utils.data
there = next(iter(torch.utils.data.DataLoader(Threads(), batch_size=None, num_workers=1)))
assert there[1] == here[1]
print(here[0] == min(os.cpu_count(), 8), there[0])
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1"]


@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is not None, reason="torchcodec is installed")
def test_torchcodec_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"uniformer\[torchcodec\]"):
        open_video(odd_media.h264(tmp_path), backend="torchcodec")


@by_name(odd_media.GOOD)
def test_torchcodec_gives_the_same_frames_or_refuses(make: Maker, tmp_path: Path) -> None:
    pytest.importorskip("torchcodec")
    path = make(tmp_path)
    with open_video(path) as plain:
        truth, info = plain.read(range(plain.info.num_frames)), plain.info
        is_seekable = plain._index.is_seekable
    if not is_seekable or make is odd_media.vp8_hidden_frames:  # it takes hidden frames for shown ones
        with pytest.raises(InputError, match="pyav"):
            open_video(path, backend="torchcodec")
        return
    with open_video(path, backend="torchcodec") as reader:
        numbers = some_numbers(info.num_frames, seed=3)
        difference = np.abs(reader.read(numbers).astype(int) - truth[numbers])
        assert reader.info == info
        assert difference.mean() <= (0.5 if "10_bit" in make.__name__ else 0)  # 10 bit: another dithering


def test_torchcodec_without_ffmpeg_or_on_damage_says_so_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torchcodec")
    path = odd_media.broken_middle(tmp_path)
    with pytest.raises(InputError) as error, open_video(path, backend="torchcodec") as reader:
        reader.read([22])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
