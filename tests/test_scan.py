"""Scanning, splitting and preparing real small files: what is wrong is found, and what is killed goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests import odd_media
from tests.command_line import Cli
from tests.patience import wait_until
from tests.test_report_page import count, opened
from uniformer.checkpoints.records import BUNDLED
from uniformer.config import InputSpec
from uniformer.datasets.duplicates import near_groups, perceptual_hash
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_dataset
from uniformer.datasets.scan import ScanResult, inspect, scan
from uniformer.errors import InputError
from uniformer.reports.dataset import write_dataset_page
from uniformer.support.jobs import run_parallel
from uniformer.support.resume import Journal

DENSE = InputSpec(frames=8, stride=4, sampling="dense", fps=25.0)


def scene(seed: int, frame: int = 0, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """(H, W, 3), smooth and different for each seed, moving slowly with the frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    image = Image.fromarray(np.roll(coarse, frame // 8, 1)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image)


def clip(path: Path, seed: int, frames: int = 40, **options: object) -> Path:
    """A video of `scene(seed)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1", "g": "20", **options})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(seed, i))))
        container.mux(stream.encode())
    return path


def titles(result: ScanResult) -> dict[str, tuple[str, int]]:
    return {finding.title: (finding.level, finding.count) for finding in result.findings}


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits with every fault that a scan looks for."""
    folder = tmp_path_factory.mktemp("set")
    for i in range(3):
        clip(folder / f"train/turn left/v_Turn_g0{i}_c01.mp4", i)
        clip(folder / f"train/turn right/r{i}.mp4", 10 + i)
    clip(folder / "train/turn right/short.mp4", 20, frames=20)
    shutil.copy(folder / "train/turn right/r0.mp4", folder / "train/turn left/copy.mp4")  # another label, too
    odd_media.no_header(folder).rename(folder / "train/turn left/headless.mp4")
    odd_media.truncated(folder).rename(folder / "train/turn left/truncated.mp4")
    (folder / "train/turn left/empty.mp4").touch()
    clip(folder / "val/turn left/v_Turn_g01_c02.mp4", 30)  # the recording of one in train
    (folder / "val/turn right").mkdir()
    shutil.copy(folder / "train/turn right/r1.mp4", folder / "val/turn right/leak.mp4")
    clip(folder / "val/turn right/near.mp4", 12, crf="36")  # r2 again, encoded worse
    for left in [path for path in folder.iterdir() if path.is_file()]:
        left.unlink()
    return folder


@pytest.fixture(scope="module")
def scanned(bad_set: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    sets = {split: open_dataset(bad_set, split=split) for split in ("train", "val")}
    return scan(sets, tmp_path_factory.mktemp("out") / "scan", spec=DENSE, workers=2)


def test_every_fault_is_found(scanned: ScanResult) -> None:
    found = titles(scanned)
    assert found["unreadable"] == ("error", 2)
    assert found["damaged"] == ("warning", 1)
    assert found["short"] == ("warning", 1)
    assert found["copies across splits"] == ("error", 1)
    assert found["copies, other labels"] == ("warning", 1)
    assert found["near copies across splits"] == ("warning", 1)
    assert found["recordings across splits"] == ("error", 1)
    assert found["sides"] == ("warning", 1)
    assert "classes differ" not in found
    assert not scanned.is_fit
    assert [f.level for f in scanned.findings] == sorted(
        (f.level for f in scanned.findings), key=["error", "warning", "note"].index
    )
    examples = {f.title: " ".join(" ".join(row) for row in f.examples) for f in scanned.findings}
    assert "short.mp4 20 frames" in examples["short"]
    assert "v_Turn_g01, train" not in examples["recordings across splits"]
    assert "v_Turn_g01 train, val" in examples["recordings across splits"]
    assert "near.mp4" in examples["near copies across splits"]
    assert "r2.mp4" in examples["near copies across splits"]


def test_the_command_names_what_is_broken_and_what_to_do_next(bad_set: Path, tmp_path: Path, cli: Cli) -> None:
    ended = cli("data", "scan", bad_set, "--out", tmp_path / "my scan", "--workers", 0, "--quiet")
    assert ended.status == 1
    after = ended.out.split("error: files that cannot be read, marked in the saved manifests: 2\n")[1].splitlines()
    assert [line.split(": ")[0] for line in after[:2]] == [
        f"  {bad_set}/train/turn left/{name}" for name in ("empty.mp4", "headless.mp4")
    ]
    assert "expected a video, found an empty file" in after[0]
    assert after[-1] == "next: mend what the errors say, and scan again: only new and changed files are looked at"
    many = tmp_path / "many"
    for name in "ab":
        clip(many / name / "good.mp4", ord(name))
    for number in range(7):
        (many / "a" / f"{number}.mp4").touch()
    ended = cli("data", "scan", many, "--out", tmp_path / "my scan 2", "--workers", 0)
    lines = ended.out.splitlines()
    assert "  and 2 more in the report" in lines
    assert lines[-1] == f"next: uniformer train '{tmp_path}/my scan 2', which leaves out what cannot be read"
    for number in range(7):
        (many / "a" / f"{number}.mp4").unlink()
    ended = cli("data", "scan", many, "--out", tmp_path / "3", "--workers", 0, "--checkpoint", BUNDLED)
    assert (ended.status, ended.out.splitlines()[-1]) == (
        0,
        f"next: uniformer train {tmp_path}/3 --checkpoint {BUNDLED}",
    )


@pytest.mark.parametrize("name", [".", "../clips/", "../clips"])
def test_results_go_beside_what_was_scanned(
    name: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in "ab":
        clip(tmp_path / "clips" / label / "1.mp4", ord(label))
    monkeypatch.chdir(tmp_path / "clips")
    assert cli("data", "scan", name, "--workers", 0).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "clips.scan"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a", "b"]


def test_lengths_that_no_clip_has_are_left_out(tmp_path: Path) -> None:
    for number, frames in enumerate((12, 16, 120)):
        clip(tmp_path / "data" / "ab"[number % 2] / f"{number}.mp4", number, frames=frames)
    result = scan(open_dataset(tmp_path / "data"), tmp_path / "scan", workers=0)
    write_dataset_page(result.report, result)
    page = result.report.read_text("utf-8")
    lengths = page.split('id="lengths-all"')[1].split("</ul>")[0]
    assert re.findall(r"<li><span>(.*?)</span>.*<span>(\d+)</span></li>", lengths) == [
        ("12 to 16 frames", "2"), ("117 to 121 frames", "1")
    ]  # fmt: skip


def test_each_file_is_described(scanned: ScanResult) -> None:
    record = next(r for path, r in scanned.records.items() if path.endswith("r0.mp4"))
    assert (record.frames, record.fps, record.width, record.height, record.codec) == (40, 25.0, 96, 64, "h264")
    assert record.duration == pytest.approx(1.6)
    empty = next(r for path, r in scanned.records.items() if path.endswith("empty.mp4"))
    assert empty.error == "expected a video, found an empty file"


def test_the_saved_manifest_is_what_training_opens(scanned: ScanResult) -> None:
    train = open_dataset(scanned.report.parent, split="train")
    assert train.classes == ("turn left", "turn right")
    counts = {os.path.basename(item.path): (item.frames, item.readable) for item in train}
    assert counts["short.mp4"] == (20, True)
    assert counts["empty.mp4"] == (None, False)
    assert len(train.usable()) == len(train) - 2


def test_the_report_stands_alone(scanned: ScanResult, browser: Any) -> None:
    assert not scanned.report.exists()  # a scan looks, and the page is another's work
    write_dataset_page(scanned.report, scanned)
    text = scanned.report.read_text("utf-8")
    assert "recordings across splits" in text
    assert text.count("data:image/jpeg;base64,") >= 4
    assert not re.search(r"(src|href)\s*=\s*['\"]?(?!data:)[^'\"\s>]", text)
    assert "<script" not in text
    assert '<b class="error">error</b> unreadable: ' in text
    assert text.count('class="card"') >= 4
    opened(browser, scanned.report)
    assert count(browser, "#classes-train li") == 2
    assert count(browser, "#lengths-val li") == 1
    assert count(browser, "#sets tbody tr") == 2


def test_names_are_escaped_in_the_report(tmp_path: Path) -> None:
    for seed, name in enumerate(("<b>bold</b>", "x")):
        path = tmp_path / "set" / name.replace("/", "-") / "a&<i>.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(scene(seed)).save(path)
    (tmp_path / "set" / "x" / "<img src=x>.png").write_bytes(b"no image")
    result = scan(open_dataset(tmp_path / "set"), tmp_path / "out", workers=0)
    write_dataset_page(result.report, result)
    text = result.report.read_text("utf-8")
    assert "&lt;b&gt;bold&lt;-b&gt;" in text
    assert "<img src=x>" not in text
    assert titles(result)["unreadable"] == ("error", 1)


def test_a_scan_that_is_killed_goes_on(bad_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from uniformer.datasets.scan import scan; from uniformer.datasets.open import open_dataset\n"
        "if __name__ == '__main__':\n"
        f"    scan(open_dataset({str(bad_set)!r}, split='train'), {str(out)!r}, workers=0,\n"
        "         progress=lambda done, total: print(done, flush=True) if done < 4 else input())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert [int(process.stdout.readline()) for _ in range(3)] == [1, 2, 3]
    journal = out / "files.jsonl"
    wait_until(lambda: len(journal.read_bytes().splitlines()) == 4, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    journal.write_bytes(journal.read_bytes()[:-5])  # as if the kill had come in the middle of the line
    seen: list[tuple[int, int]] = []
    result = scan(open_dataset(bad_set, split="train"), out, workers=0, progress=lambda *n: seen.append(n))
    total = len(result.records)
    assert seen == [*((n, total) for n in range(4, total + 1)), (total, total)]
    again = scan(open_dataset(bad_set, split="train"), tmp_path / "fresh", workers=0)
    assert again.records == result.records
    assert titles(again) == titles(result)


def test_changed_files_are_looked_at_again(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(scene(ord(name))).save(tmp_path / "set" / name / "x.png")
    manifest, seen = open_dataset(tmp_path / "set"), []
    for _ in range(2):
        scan(manifest, tmp_path / "out", workers=0, progress=lambda *n: seen.append(n))
    assert seen == [(1, 2), (2, 2), (2, 2), (2, 2)]
    (tmp_path / "set" / "a" / "x.png").write_bytes(b"changed")
    result = scan(manifest, tmp_path / "out", workers=0)
    assert result.records[str(tmp_path / "set/a/x.png")].error is not None
    with_spec = scan(manifest, tmp_path / "out", workers=0, spec=DENSE, full=True)  # another question: asked again
    assert {record.looked_for for record in with_spec.records.values()} == {"dense 8x4x1, every frame"}


def test_a_full_scan_decodes_every_frame(tmp_path: Path) -> None:
    path = odd_media.h264_intra(tmp_path)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        lost = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][28:33]
    for position, size in lost:  # between the frames that the fingerprint is made of
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    assert inspect((str(path), "video")).warning is None
    assert inspect((str(path), "video"), full=True).warning == "55 of 60 frames are readable"


@pytest.mark.parametrize("make", odd_media.BAD, ids=lambda make: make.__name__)
def test_files_that_are_no_videos(make: object, tmp_path: Path) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    error = inspect((str(path), "video")).error
    assert error
    assert str(tmp_path) not in error
    assert "\n" not in error


def test_lists_that_disagree_with_the_disk(tmp_path: Path) -> None:
    for name, frames in (("one", 3), ("two", 4)):
        (tmp_path / name).mkdir()
        for i in range(frames):
            Image.fromarray(scene(frames, 8 * i)).save(tmp_path / name / f"{i:05d}.jpg")
    (tmp_path / "list.txt").write_text("one 3 0\ntwo 5 1\n")
    result = scan(open_dataset(tmp_path / "list.txt"), tmp_path / "out", workers=0)
    assert titles(result)["frame counts"] == ("warning", 1)
    assert [item.frames for item in result.sets["all"]] == [3, 4]
    clip(tmp_path / "long.mp4", 1)
    (tmp_path / "cuts.csv").write_text("long.mp4,0,1.5,a\nlong.mp4,1,9,b\n")
    result = scan(open_dataset(tmp_path / "cuts.csv"), tmp_path / "out2", workers=0)
    assert titles(result) == {"segments": ("error", 1)}
    assert len(open_dataset(tmp_path / "out2")) == 2  # the one manifest that is there


def test_classes_that_differ_or_are_empty(tmp_path: Path) -> None:
    Image.fromarray(scene(1)).save(tmp_path / "a.png")
    Image.fromarray(scene(2)).save(tmp_path / "b.png")

    def one(name: str, classes: tuple[str, ...]) -> Manifest:
        return Manifest.from_items([Item(name, (0,))], kind="image", classes=classes, root=tmp_path)

    result = scan({"train": one("a.png", ("x", "y")), "val": one("b.png", ("y", "x"))}, tmp_path / "out", workers=0)
    assert titles(result) == {
        "classes differ": ("error", 2),
        "empty classes in train": ("warning", 1),
        "empty classes in val": ("note", 1),
    }
    with pytest.raises(InputError, match="got no rows"):
        scan(result.sets["train"].select([]), tmp_path / "out", workers=0)


# ------------------------------------------------------------------------------------------------------------- parts


def test_copies_have_near_fingerprints_and_others_have_not() -> None:
    rng = np.random.default_rng(0)
    prints = []
    for seed in range(60):
        image = Image.fromarray(scene(seed, size=(240, 320)))
        for size in (image.size, (160, 120), (400, 300)):
            copy = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.int16)
            noisy = np.clip(copy + rng.normal(0, 3, copy.shape), 0, 255).astype(np.uint8)
            prints.append(np.frombuffer(perceptual_hash([noisy]) or b"", np.uint8))
    groups = near_groups(np.stack(prints))
    assert groups == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(60)]
    assert perceptual_hash([np.full((50, 50, 3), 7, np.uint8)]) is None


def test_near_groups_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (40, 32), np.uint8)
    prints = base[rng.integers(0, 40, 200)]
    for row in prints:  # up to 20 bits changed: near and not so near
        for bit in rng.integers(0, 256, rng.integers(0, 20)):
            row[bit // 8] ^= 1 << bit % 8
    bits = np.unpackbits(prints, axis=1).astype(np.int64)
    near = (bits[:, None] != bits[None]).sum(-1) <= 15
    reached = np.linalg.matrix_power(near.astype(np.float64), 64) > 0
    expected = {tuple(np.flatnonzero(row)) for row in reached if row.sum() > 1}
    assert {tuple(group) for group in near_groups(prints, 15)} == expected
    assert near_groups(np.zeros((0, 32), np.uint8)) == []
    with pytest.raises(InputError, match=r"expected near in 0 \.\. 15"):
        near_groups(prints, 16)


def crash_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def test_a_crash_costs_one_job_only() -> None:
    answers = dict(run_parallel(crash_on_three, range(9), 2))
    assert answers == {n: None if n == 3 else n * n for n in range(9)}
    assert dict(run_parallel(abs, range(-3, 1), 0)) == {-3: 3, -2: 2, -1: 1, 0: 0}


def test_a_journal_keeps_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for i in range(3):
            journal.add({"path": "ab"[i % 2], "value": i})
    path.write_bytes(path.read_bytes() + b'{"path": "c"')
    with Journal(path) as journal:
        assert {k: v["value"] for k, v in journal.entries.items()} == {"a": 2, "b": 1}
        journal.add({"path": "d", "value": 9})
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a", "b", "a", "d"]
    with Journal(path, resume=False) as journal:
        assert not journal.entries
        assert path.read_text().count("\n") == 4, "nothing goes before the first new entry"
        journal.add({"path": "e"})
    assert path.read_text() == '{"path": "e"}\n'
    path.write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1: expected an entry of a journal"):
        Journal(path)
