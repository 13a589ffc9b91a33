"""Splitting keeps its promises, lists read back, and re-encoded videos show what the old ones showed."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from tests import odd_media
from tests.patience import wait_until
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_dataset
from uniformer.datasets.prepare import PrepareResult, reencode, split, write_list
from uniformer.errors import InputError
from uniformer.reading.video import open_video

# ------------------------------------------------------------------------------------------------------------- split


def labelled(labels: list[int], groups: list[str] | None = None, classes: int = 0) -> Manifest:
    names = groups or [None] * len(labels)
    items = [Item(f"{i}.mp4", (label,), group=name) for i, (label, name) in enumerate(zip(labels, names, strict=True))]
    return Manifest.from_items(items, kind="video", classes=[str(i) for i in range(classes or max(labels) + 1)])


@pytest.mark.parametrize(
    "fractions", [{"train": 0.9, "val": 0.1}, {"a": 0.5, "b": 0.5}, {"x": 0.2, "y": 0.7, "z": 0.1}]
)
def test_every_split_gets_its_share_of_every_class(fractions: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, 40)
    manifest = labelled(rng.permutation(np.repeat(np.arange(40), sizes)).tolist())
    parts = split(manifest, fractions, seed=3)
    paths = [item.path for part in parts.values() for item in part]
    assert sorted(paths) == sorted(item.path for item in manifest)  # each row once
    for name, share in fractions.items():
        assert abs(len(parts[name]) - share * len(manifest)) <= 1
        assert np.abs(parts[name].class_counts() - share * sizes).max() <= 2
    largest = max(fractions, key=lambda name: fractions[name])
    assert parts[largest].class_counts().min() >= 1


def test_few_rows_a_class_still_give_a_validation_set() -> None:
    parts = split(labelled([i // 3 for i in range(300)]), {"train": 0.9, "val": 0.1}, seed=0)
    assert len(parts["val"]) == 30


def test_rows_of_one_recording_stay_together() -> None:
    rng = np.random.default_rng(1)
    groups = [f"g{i}" for i in rng.integers(0, 150, 1200)]
    labels = [int(name[1:]) % 10 for name in groups]
    parts = split(labelled(labels, groups), {"train": 0.8, "val": 0.2}, seed=0)
    train, val = ({item.group for item in part} for part in parts.values())
    assert not train & val
    largest = max(groups.count(name) for name in set(groups))
    assert abs(len(parts["val"]) - 0.2 * 1200) <= largest
    assert np.abs(parts["val"].class_counts() - 0.2 * np.bincount(labels)).max() <= 2 * largest


def test_a_seed_names_a_division() -> None:
    manifest = labelled([i % 5 for i in range(100)])

    def val(seed: int) -> list[Item]:
        return list(split(manifest, {"train": 0.8, "val": 0.2}, seed=seed)["val"])

    assert val(1) == val(1)
    assert val(1) != val(2)


def test_fractions_that_do_not_divide() -> None:
    for fractions in ({"train": 1.0}, {"train": 0.5, "val": 0.4}, {"train": 1.2, "val": -0.2}):
        with pytest.raises(InputError, match="expected at least two positive fractions that add up to 1"):
            split(labelled([0, 1]), fractions, seed=0)


def test_lists_are_read_back(tmp_path: Path) -> None:
    names = ["a, b.mp4", 'c "d".mp4', "e|f\udcff.mp4"]
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).touch()
    single = Manifest.from_items(
        [Item(f"x/{n}", (i,), float(i), i + 0.5, 10 + i, "g") for i, n in enumerate(names)],
        kind="video", classes=("p", "q", "r", "never"), root=tmp_path,
    )  # fmt: skip
    write_list(single, tmp_path / "train.csv")
    assert list(open_dataset(tmp_path / "train.csv")) == list(single)
    assert open_dataset(tmp_path / "train.csv").classes == single.classes
    with open(tmp_path / "train.csv", errors="surrogateescape", newline="") as f:
        assert [row[0] for row in csv.reader(f)][1:] == [f"x/{name}" for name in names]
    (tmp_path / "lists").mkdir()
    several = Manifest.from_items(
        [Item(f"x/{n}", (0, i + 1)) for i, n in enumerate(names)],
        kind="video", classes=single.classes, root=tmp_path, multi_label=True,
    )  # fmt: skip
    write_list(several, tmp_path / "lists" / "all.csv")
    assert list(open_dataset(tmp_path / "lists" / "all.csv")) == list(several)
    other = Manifest.from_items([Item("x", (0,))], kind="video", classes=("z",), root=tmp_path)
    with pytest.raises(InputError, match=r"classes.txt: expected the names of the 1 classes"):
        write_list(other, tmp_path / "val.csv")


# ----------------------------------------------------------------------------------------------------------- prepare

MAKERS = (
    odd_media.h264_long_gop_b_frames, odd_media.variable_rate, odd_media.edit_list, odd_media.avi_packed_b_frames,
    odd_media.h264_odd_size, odd_media.same_times, odd_media.vp8_hidden_frames, odd_media.one_frame,
    odd_media.raw_h264, odd_media.late_start, odd_media.rotated,
)  # fmt: skip


def of_files(paths: list[Path], root: Path) -> Manifest:
    items = [Item(str(path.relative_to(root)), (i % 2,)) for i, path in enumerate(paths)]
    return Manifest.from_items(items, kind="video", classes=("x", "y"), root=root, origin="a test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, PrepareResult]:
    folder = tmp_path_factory.mktemp("prepare")
    paths = []
    for make in (*MAKERS, odd_media.broken_middle, odd_media.empty, odd_media.text):
        (folder / "old" / make.__name__).mkdir(parents=True)
        paths.append(make(folder / "old" / make.__name__))
    manifest = of_files(paths, folder / "old")
    return manifest, reencode(manifest, folder / "new", short_side=64, gop=4, workers=1)


def test_frames_and_times_stay(prepared: tuple[Manifest, PrepareResult]) -> None:
    old, result = prepared
    new = {os.path.dirname(item.path).rsplit("/", 1)[1]: item for item in result.manifest}
    assert len(new) == len(MAKERS) + 1
    for item in old:
        name = os.path.dirname(item.path).rsplit("/", 1)[1]
        if name not in new or name == "broken_middle":
            continue
        with open_video(item.path) as before, open_video(new[name].path) as after:
            count = before.info.num_frames
            assert after.info.num_frames == count == new[name].frames, name
            numbers = [odd_media.number_in(image) for image in before.read(range(count))]
            assert [odd_media.number_in(image) for image in after.read(range(count))] == numbers, name
            if name != "same_times":
                assert np.abs(after.times(range(count)) - before.times(range(count))).max() < 1e-4, name
            assert min(after.info.width, after.info.height) == 64
            ratio = before.info.width / before.info.height
            assert after.info.width / after.info.height == pytest.approx(ratio, rel=0.03)
            assert (after.info.rotation, after.info.codec) == (0, "h264")
            shift = before.read([0]).mean((0, 1, 2)) - after.read([0]).mean((0, 1, 2))
            assert np.abs(shift).max() < 3


def test_bad_files_are_listed_and_left_out(prepared: tuple[Manifest, PrepareResult]) -> None:
    old, result = prepared
    failed = {os.path.basename(path): why for path, why in result.failed.items()}
    assert failed.keys() == {"empty.mp4", "text.mp4"}
    assert failed["empty.mp4"] == "expected a video, found an empty file"
    assert failed["text.mp4"].startswith("expected a video, found a file that does not open as one: ")
    broken = next(item for item in result.manifest if "broken_middle" in item.path)
    with warnings.catch_warnings(), open_video(broken.path) as reader:
        warnings.simplefilter("error")
        assert reader.info.num_frames == 60
        shown = [odd_media.number_in(image) for image in reader.read(range(60))]
    assert shown == [19 if 20 <= i < 25 else i for i in range(60)]
    labels = {os.path.dirname(item.path).rsplit("/", 1)[1]: item.labels for item in old}
    assert all(labels[os.path.dirname(item.path).rsplit("/", 1)[1]] == item.labels for item in result.manifest)


def test_keyframes_are_close_and_the_gain_is_stated(prepared: tuple[Manifest, PrepareResult]) -> None:
    _, result = prepared
    item = next(item for item in result.manifest if "long_gop" in item.path)
    with av.open(item.path) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert all(any(keys[i : i + 4]) for i in range(len(keys) - 3))
    pattern = r"[\d.]+ MB became [\d.]+ MB; .* in \d+ instead of \d+ ms; 2 files could not be read"
    assert re.fullmatch(pattern, str(result))
    assert list(open_dataset(result.path)) == list(result.manifest)
    assert open_dataset(result.path).origin == f"{result.path.parent}: re-encoded from a test"


def test_pictures_that_stand_alone(prepared: tuple[Manifest, PrepareResult], tmp_path: Path) -> None:
    """MJPEG: every frame and its time again, each a keyframe, and about the same pixels."""
    old, small = prepared
    result = reencode(old, tmp_path, short_side=64, codec="mjpeg", workers=0)
    assert len(result.manifest) == len(small.manifest)
    for item, twin in zip(result.manifest, small.manifest, strict=True):
        with open_video(item.path) as reader, open_video(twin.path) as h264:
            assert (reader.info.codec, reader.info.num_frames) == ("mjpeg", h264.info.num_frames)
            everything, asked = range(h264.info.num_frames), range(0, h264.info.num_frames, 3)
            assert np.abs(reader.times(everything) - h264.times(everything)).max() < 1e-4
            assert np.array_equal(reader.read(asked), reader.read(everything)[asked.start :: asked.step])
            difference = reader.read(everything).astype(float) - h264.read(everything)
            assert np.abs(difference).mean() < 4
    assert list(reencode(old, tmp_path, short_side=64, codec="mjpeg", workers=0).manifest) == list(result.manifest)
    with pytest.raises(InputError, match=r"expected the codec h264 or mjpeg, got 'jpeg' \(did you mean 'mjpeg'\?\)"):
        reencode(old, tmp_path, codec="jpeg")


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for i in range(4):
        odd_media.encode(tmp_path / "old" / f"{i}.mp4", frames=20)
    code = (
        "from uniformer.datasets.prepare import reencode; from uniformer.datasets.manifest import Manifest\n"
        f"reencode(Manifest.load({str(tmp_path / 'm.manifest')!r}), {str(tmp_path / 'new')!r}, workers=0,\n"
        "        progress=lambda done, total: input() if done == 2 else None)"
    )
    manifest = of_files(sorted((tmp_path / "old").iterdir()), tmp_path / "old")
    manifest.save(tmp_path / "m.manifest")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    journal = tmp_path / "new" / "prepared.jsonl"
    wait_until(lambda: journal.exists() and len(journal.read_bytes().splitlines()) == 2, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").glob("*.mp4")}
    (tmp_path / "new" / "1.mp4").unlink()  # lost since: made again
    seen: list[tuple[int, int]] = []
    result = reencode(manifest, tmp_path / "new", workers=0, progress=lambda *n: seen.append(n))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert (tmp_path / "new" / "0.mp4").stat().st_mtime_ns == done[tmp_path / "new" / "0.mp4"]
    assert [item.frames for item in result.manifest] == [20] * 4
    again = reencode(manifest, tmp_path / "new", workers=0, gop=2, progress=lambda *n: seen.append(n))
    assert len(seen) == 7  # another setting: all four anew
    assert list(again.manifest) == list(result.manifest)


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    paths = [
        odd_media.encode(tmp_path / "old" / "a.avi", "mpeg4", frames=3),
        odd_media.encode(tmp_path / "old" / "a.mp4", frames=4),
        odd_media.encode(tmp_path / "b.mp4", frames=5),  # outside the root
    ]
    items = [Item(p, (0,)) for p in ("a.avi", "a.mp4", str(paths[2]))]
    manifest = Manifest.from_items(items, kind="video", classes=("x",), root=tmp_path / "old")
    result = reencode(manifest, tmp_path / "new", workers=0)
    assert [item.frames for item in result.manifest] == [3, 4, 5]
    assert len({item.path for item in result.manifest}) == 3
    assert all(item.path.startswith(str(tmp_path / "new")) for item in result.manifest)


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    images = Manifest.from_items([Item("a.png", (0,))], kind="image", classes=("x",), root=tmp_path)
    with pytest.raises(InputError, match="expected a set of video files"):
        reencode(images, tmp_path / "new")
    manifest = of_files([odd_media.text(tmp_path)], tmp_path)
    with pytest.raises(InputError, match="found none of 1 readable: expected a video"):
        reencode(manifest, tmp_path / "new", workers=0)
    with pytest.raises(InputError, match="expected short_side of 2 up"):
        reencode(manifest, tmp_path / "new", short_side=0)


def test_a_disk_that_refuses_is_not_the_fault_of_a_file(tmp_path: Path) -> None:
    """Or all the files would be left out as unreadable, the next time too."""
    path = odd_media.encode(tmp_path / "a.mp4", frames=3)
    (tmp_path / "new" / "a.mp4").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*a\.mp4: it is a folder"):
        reencode(of_files([path], tmp_path), tmp_path / "new", workers=0)
    (tmp_path / "new" / "a.mp4").rmdir()
    assert not reencode(of_files([path], tmp_path), tmp_path / "new", workers=0).failed
