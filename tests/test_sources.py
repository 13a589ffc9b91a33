"""Every layout of a data set, made on disk, is recognised; and what is wrong with one is said in one clear line."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from uniformer.data.classes import load_classes
from uniformer.data.manifest import Item, Manifest, Strings
from uniformer.data.sources import find_splits, open_source
from uniformer.errors import InputError, MissingExtra


def touch(folder: Path, *names: str) -> None:
    """Files to be found: nothing here opens them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def rows(manifest: Manifest) -> list[tuple[str, str]]:
    """(path relative to the root, class name) of each row."""
    return [(os.path.relpath(item.path, manifest.root), manifest.classes[item.labels[0]]) for item in manifest]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------------------------------------------ the manifest


def some_items(count: int) -> list[Item]:
    return [
        Item(
            path=f"a/clip {i} ü.mp4",
            labels=(i % 3,),
            start=None if i % 2 else i / 2,
            end=None if i % 2 else i / 2 + 1,
            frames=None if i % 5 else i + 1,
            group=None if i % 4 == 3 else f"g{i // 4}",
            readable=i != 7,
        )
        for i in range(count)
    ]


def make(items: list[Item], **options: object) -> Manifest:
    return Manifest.from_items(iter(items), kind="video", classes=("x", "y", "z"), **options)  # type: ignore[arg-type]


def test_rows_come_back_as_they_went_in() -> None:
    items = some_items(40)
    manifest = make(items)
    assert list(manifest) == items
    assert manifest[-1] == items[-1]
    assert manifest.class_counts().tolist() == [14, 13, 13]
    with pytest.raises(IndexError):
        manifest[40]
    assert len(manifest.usable()) == 39
    draw = np.random.default_rng(0).permutation(40)
    assert list(manifest.select(draw)) == [items[i] for i in draw]
    assert list(manifest.select(np.arange(40) % 3 == 1)) == items[1::3]
    assert list(manifest.select([])) == []


def test_several_labels_a_row() -> None:
    items = [Item("a", (0, 2)), Item("b", ()), Item("c", (1,)), Item("d", (2, 1, 0))]
    manifest = make(items, multi_label=True)
    assert list(manifest) == items
    assert list(manifest.select([3, 1, 0])) == [items[3], items[1], items[0]]
    assert manifest.class_counts().tolist() == [2, 2, 2]
    assert "expected one label" in message(lambda: make(items))


def test_labels_outside_the_classes_are_refused() -> None:
    assert "labels in 0 .. 2, got labels in 1 .. 3" in message(lambda: make([Item("a", (1,)), Item("b", (3,))]))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_saved_manifest_is_mapped_and_travels_by_its_name(multi_label: bool, tmp_path: Path) -> None:
    manifest = make(some_items(500), multi_label=multi_label, root=tmp_path / "files\udcff", origin="a test")
    manifest.save(tmp_path / "m.manifest")
    loaded = Manifest.load(tmp_path / "m.manifest")
    assert list(loaded) == list(manifest)
    assert (loaded.kind, loaded.classes, loaded.root, loaded.origin) == (
        *("video", manifest.classes, manifest.root, "a test"),
    )
    assert not loaded.labels.flags.owndata
    assert len(pickle.dumps(loaded)) < 1000 < len(pickle.dumps(manifest))
    for one in (loaded, manifest, loaded.select([3, 4])):
        assert list(pickle.loads(pickle.dumps(one))) == list(one)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(len, (loaded,)) == 500


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.manifest"
    make(some_items(20)).save(path)
    data = path.read_bytes()
    for cut in (0, 5, 8, 40, len(data) - 1):
        path.write_bytes(data[:cut])
        assert "expected a saved manifest" in message(lambda: Manifest.load(path))
    assert "expected a saved manifest" in message(lambda: Manifest.load(tmp_path / "none"))


def test_a_million_rows_are_tens_of_megabytes() -> None:
    count = 100_000
    names = (f"class_{i % 400:03d}/abcdefghijk_{i:06d}_{i:06d}.mp4" for i in range(count))
    tracemalloc.start()
    manifest = Manifest.from_items(
        (Item(name, (i % 400,)) for i, name in enumerate(names)), kind="video", classes=[str(i) for i in range(400)]
    )
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 65 * count  # 41 bytes of path
    assert peak < 160 * count
    assert len(pickle.dumps(manifest)) < 65 * count


def test_packed_strings_keep_any_file_name() -> None:
    texts = ["", "ä", "日本", "\udcff\udcfe latin", "a" * 1000]
    packed = Strings.pack(texts)
    assert list(packed) == texts
    assert list(packed.take(np.array([4, 0, 3]))) == [texts[4], texts[0], texts[3]]


# ------------------------------------------------------------------------------------------------ a folder per class


def test_a_folder_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "dog/2.JPG", "dog/1.jpg", "cat/deep/3.png", "cat/.hidden.png", "cat/notes.txt", ".git/x.png")
    manifest = open_source(tmp_path)
    assert manifest.kind == "image"
    assert rows(manifest) == [("cat/deep/3.png", "cat"), ("dog/1.jpg", "dog"), ("dog/2.JPG", "dog")]
    assert "a folder per class" in manifest.origin
    assert "\n" not in manifest.origin


def test_split_folders_share_their_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.mp4", "train/c/2.mp4", "validation/a/3.mp4", "validation/c/v_x_g01_c02.avi")
    train, val = (open_source(tmp_path, split=split) for split in ("train", "val"))
    assert train.classes == val.classes == ("a", "b", "c")
    assert rows(val) == [("a/3.mp4", "a"), ("c/v_x_g01_c02.avi", "c")]
    assert val[1].group == "v_x_g01"
    assert find_splits(tmp_path) == ["train", "val"]
    assert "expected one of its splits (train, val), got split=None" in message(lambda: open_source(tmp_path))
    assert "got split='test'" in message(lambda: open_source(tmp_path, split="test"))


def test_folders_named_by_numbers_are_names_not_labels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/x.png" for i in range(1, 11)))
    manifest = open_source(tmp_path)
    assert manifest.classes == ("1", "10", "2", "3", "4", "5", "6", "7", "8", "9")
    assert rows(manifest)[1] == ("10/x.png", "10")


def test_a_folder_per_class_of_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/clip{k}/img_{i:05d}.jpg" for c in "ab" for k in (1, 2) for i in (1, 2, 3)))
    manifest = open_source(tmp_path)
    assert manifest.kind == "frames"
    assert rows(manifest) == [("a/clip1", "a"), ("a/clip2", "a"), ("b/clip1", "b"), ("b/clip2", "b")]


def test_imagenet_folders_get_their_names(tmp_path: Path) -> None:
    ids = [f"n{i:08d}" for i in range(1000)]
    touch(tmp_path, *(f"{split}/{name}/x.JPEG" for split in ("train", "val") for name in ids))
    manifest = open_source(tmp_path, split="val")
    assert manifest.classes == load_classes("ImageNet-1K")
    assert manifest.labels.tolist() == list(range(1000))
    assert "ImageNet folders" in manifest.origin


def test_images_among_videos_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.jpg")
    assert "b/2.jpg: expected video files only" in message(lambda: open_source(tmp_path))


def test_folders_of_a_whole_data_set_take_its_published_order(tmp_path: Path) -> None:
    names = load_classes("Kinetics-400")
    touch(tmp_path, *(f"{name}/x.mp4" for name in names))
    manifest = open_source(tmp_path)
    assert manifest.classes == names
    assert "as Kinetics-400 orders them" in manifest.origin
    assert open_source(tmp_path, classes=sorted(names)).classes == tuple(sorted(names))


# ------------------------------------------------------------------------------------------------------------- lists

LISTS = {
    "comma": "a.mp4,1\nb c.mp4,0\n",
    "carriage returns": "a.mp4,1\r\nb c.mp4,0\r\n",
    "byte order mark, blank lines": "\ufeffa.mp4,1\n\n  \nb c.mp4,0\n\n",
    "tab": "a.mp4\t1\nb c.mp4\t0\n",
    "semicolon": "a.mp4;1\nb c.mp4;0\n",
    "space": "a.mp4 1\nb c.mp4 0\n",
    "header": "label,something,path\n1,9,a.mp4\n0,8,b c.mp4\n",
    "header between tabs": "file_name\tlabel\tlabel_id\na.mp4\t1\t7\nb c.mp4\t0\t7\n",
    "quotes": '"a.mp4","1"\n"b c.mp4","0"\n',
    "no suffix": "a,1\nb c,0\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
def test_a_list_in_any_form(text: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b c.mp4")
    manifest = open_source(written(tmp_path / "list.csv", text))
    assert rows(manifest) == [("a.mp4", "1"), ("b c.mp4", "0")]
    assert manifest.classes == ("0", "1")
    assert (manifest.kind, manifest.frames, manifest.start) == ("video", None, None)


def test_the_files_of_a_list_are_looked_for_around_it(tmp_path: Path) -> None:
    touch(tmp_path, "videos/x/a.mp4", "elsewhere/far/x/a.mp4")
    path = written(tmp_path / "lists" / "train.csv", "x/a.mp4,0\n")
    assert open_source(path).root == str(tmp_path / "videos")
    assert open_source(path, root=tmp_path / "elsewhere").root == str(tmp_path / "elsewhere" / "far")
    text = message(lambda: open_source(path, root=tmp_path / "lists"))
    assert "expected files such as x/a.mp4" in text
    assert "found none of the first 1" in text


def test_names_for_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.txt", "a.mp4 walk\nb.mp4 run\nc.mp4 walk\n")
    assert open_source(path).classes == ("run", "walk")
    assert open_source(path, classes=("walk", "sit", "run")).labels.tolist() == [0, 2, 0]
    text = message(lambda: open_source(path, classes=("walks", "run")))
    assert text == f"{path}, line 1: expected one of the 2 classes, got 'walk' (did you mean 'walks'?)"
    names = written(tmp_path / "names.txt", "walk\nrun\n")
    assert open_source(path, classes=str(names)).labels.tolist() == [0, 1, 0]
    assert "no class names for the data set 'Kinetics400'" in message(lambda: open_source(path, classes="Kinetics400"))


def test_numbers_take_their_names_from_a_file_beside_the_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,1\nb.mp4,0\n")
    written(tmp_path / "classes.txt", "run\nwalk\nsit\n")
    assert open_source(path).classes == ("run", "walk", "sit")
    assert "from classes.txt" in open_source(path).origin


def test_labels_that_count_from_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,1\nb.mp4,2\nc.mp4,3\n")
    for classes in (None, ("x", "y", "z")):
        text = message(lambda classes=classes: open_source(path, classes=classes))  # type: ignore[misc]
        assert "expected labels 0 .. 2, found 1 .. 3" in text
        assert "label_base=1" in text
    assert open_source(path, label_base=1).labels.tolist() == [0, 1, 2]
    assert open_source(path, classes=("w", "x", "y", "z")).labels.tolist() == [1, 2, 3]


def test_labels_out_of_range(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,5\n")
    text = message(lambda: open_source(path, classes=("x", "y")))
    assert text == f"{path}, line 2: expected a label in 0 .. 1, got 5 (all labels: 0 .. 5)"
    written(path, "a.mp4,0\nb.mp4,-1\n")
    assert "line 2: expected a label in 0" in message(lambda: open_source(path))
    written(path, f"a.mp4,0\nb.mp4,{10**30}\n")
    assert "line 2: expected a label in 0" in message(lambda: open_source(path))


def test_duplicate_rows(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,1\na.mp4,0\n")
    assert "the same row twice: rows 1 and 3, a.mp4" in message(lambda: open_source(path))
    assert len(open_source(path, allow_duplicates=True)) == 3
    written(path, "a.mp4,0\nb.mp4,1\na.mp4,1\n")
    assert "labels (0,) and (1,) for one row" in message(lambda: open_source(path))


def test_a_wrong_separator(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,1\n")
    assert open_source(path, separator="comma").labels.tolist() == [0, 1]
    for wrong in ("space", " ", "tab"):
        text = message(lambda wrong=wrong: open_source(path, separator=wrong))  # type: ignore[misc]
        assert "found 'a.mp4,0'; it looks separated by comma" in text
    assert "expected a separator of comma, tab" in message(lambda: open_source(path, separator="|"))


def test_an_odd_line_is_named(tmp_path: Path) -> None:
    lines = [f"v{i}.mp4,{i % 2}" for i in range(100)]
    touch(tmp_path, *(line.split(",")[0] for line in lines))
    lines[80] = "v80.mp4"
    path = written(tmp_path / "list.csv", "\n".join(lines))
    assert "line 81: expected 2 fields (path, label) separated by comma, found 1" in message(lambda: open_source(path))
    lines[80] = "v80.mp4,"
    written(path, "\n".join(lines))
    assert "line 81: expected a label, found an empty one" in message(lambda: open_source(path))


def test_frame_folder_lists(tmp_path: Path) -> None:
    touch(tmp_path, *(f"rgb/{name}/00001.jpg" for name in ("clip one", "2")))
    manifest = open_source(written(tmp_path / "list.txt", "clip one 30 1\n2 17 0\n"))
    assert manifest.kind == "frames"
    assert [(item.frames, item.labels) for item in manifest] == [(30, (1,)), (17, (0,))]
    assert manifest.root == str(tmp_path / "rgb")
    path = written(tmp_path / "list.txt", "clip one 30 1\n2 0 0\n")
    assert "line 2: expected a positive number of frames, got 0" in message(lambda: open_source(path))


def test_segments_of_long_files(tmp_path: Path) -> None:
    touch(tmp_path, "long.mkv")
    path = written(tmp_path / "list.csv", "long.mkv,0,2.5,run\nlong.mkv,2.5,7,sit\nlong.mkv,9,11,run\n")
    manifest = open_source(path)
    assert [(item.start, item.end, item.group) for item in manifest] == [
        *((0, 2.5, "long.mkv"), (2.5, 7, "long.mkv"), (9, 11, "long.mkv")),
    ]
    assert manifest.labels.tolist() == [0, 1, 0]
    written(path, "long.mkv,0,2.5,run\nlong.mkv,7,2.5,sit\n")
    assert "line 2: expected a segment with 0 <= start < end seconds, got 7.0 to 2.5" in message(
        lambda: open_source(path)
    )
    written(path, "video,start,end,label\nlong.mkv,0,two,run\n")
    assert "line 2: expected a number for end, got 'two'" in message(lambda: open_source(path))


def test_several_labels_in_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    expected = [("run", "sit"), ("run",), ("sit", "eat")]
    for text in (
        "a.mp4,run|sit\nb.mp4,run\nc.mp4,sit | eat\n",
        'a.mp4\t["run", "sit"]\nb.mp4\trun\nc.mp4\t["sit","eat"]\n',
    ):
        manifest = open_source(written(tmp_path / "list.csv", text))
        assert manifest.is_multi_label
        assert [tuple(manifest.classes[i] for i in item.labels) for item in manifest] == expected
    path = written(tmp_path / "list.csv", "a.mp4,run|sit\nb.mp4,run\n")
    assert open_source(path, multi_label=False).classes == ("run", "run|sit")
    written(path, "a.mp4,run\nb.mp4,sit\n")
    assert open_source(path, multi_label=True).is_multi_label
    written(path, "a.mp4,run|run\nb.mp4,run\n")
    assert "line 1: expected each label once" in message(lambda: open_source(path))


def test_lists_that_say_their_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.csv", "path,label,split\na.mp4,x,train\nb.mp4,y,validate\nc.mp4,z,train\n")
    val = open_source(path, split="val")
    assert rows(val) == [("b.mp4", "y")]
    assert val.classes == ("x", "y", "z")
    assert len(open_source(path)) == 3
    assert "expected one of its splits (train, val), got split='test'" in message(
        lambda: open_source(path, split="test")
    )
    plain = written(tmp_path / "all.csv", "a.mp4,0\nb.mp4,1\n")
    assert "expected a list of several splits to choose 'val' from" in message(lambda: open_source(plain, split="val"))


def test_a_folder_of_lists(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    written(tmp_path / "my_train_list.csv", "a.mp4,run\nb.mp4,sit\n")
    written(tmp_path / "my_val_list.csv", "c.mp4,sit\n")
    written(tmp_path / "test.csv", "path\nx.mp4\n")  # without labels, as is usual
    assert open_source(tmp_path, split="val").classes == ("run", "sit")
    assert find_splits(tmp_path) == ["train", "val"]
    written(tmp_path / "val2.csv", "c.mp4,sit\n")
    assert "expected one list of split val, found my_val_list.csv, val2.csv" in message(
        lambda: open_source(tmp_path, split="val")
    )


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    records = [{"video": "a.mp4", "label": "run", "fps": 3}, {"video": "b.mp4", "label": ["run", "sit"]}]
    for name, text in (("x.jsonl", "\n".join(map(json.dumps, records))), ("x.json", json.dumps(records))):
        manifest = open_source(written(tmp_path / name, text))
        assert [item.labels for item in manifest] == [(0,), (0, 1)]
    broken = written(tmp_path / "x.jsonl", '{"video": "a.mp4", "label": 0}\n{"video": \n')
    assert "x.jsonl, line 2: expected JSON" in message(lambda: open_source(broken))
    other = written(tmp_path / "y.jsonl", '{"caption": "a"}\n')
    assert "line 1: expected a path and a label, found 'caption'" in message(lambda: open_source(other))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    touch(tmp_path, "a.mp4", "b.mp4")
    table = pyarrow.table({"file_name": ["a.mp4", "b.mp4"], "label": [1, 0], "num_frames": [10, None]})
    parquet.write_table(table, tmp_path / "list.parquet")
    manifest = open_source(tmp_path / "list.parquet")
    assert [(item.labels, item.frames) for item in manifest] == [((1,), 10), ((0,), None)]
    inside = pyarrow.table({"image": [{"bytes": b"x", "path": "a.png"}], "label": [0]})
    parquet.write_table(inside, tmp_path / "inside.parquet")
    assert "found the file's content inside" in message(lambda: open_source(tmp_path / "inside.parquet"))
    broken = written(tmp_path / "broken.parquet", "PAR1 no")
    assert "expected a Parquet file, found a damaged one" in message(lambda: open_source(broken))


def test_parquet_without_its_package(tmp_path: Path) -> None:
    """In a process of its own, where the package cannot be found."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from uniformer.data.sources import open_source\n"
        f"open_source({str(written(tmp_path / 'x.parquet', 'PAR1'))!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: reading Parquet lists needs the package 'pyarrow'" in done.stderr
    assert issubclass(MissingExtra, InputError)


# ---------------------------------------------------------------------------------------------- published data sets


def test_kinetics_lists_of_the_reference(tmp_path: Path) -> None:
    touch(tmp_path, "0wR5jVB-WPk.mp4", "3caPS4FHFF8.mp4")
    path = written(tmp_path / "test.csv", "0wR5jVB-WPk.mp4,341\r\n3caPS4FHFF8.mp4,370\r\n")
    manifest = open_source(path, classes="Kinetics-400")
    assert manifest.labels.tolist() == [341, 370]
    assert manifest.classes[370] == "yoga"


@pytest.mark.parametrize("place", ["", "val/", "riding a bike/", "riding_a_bike/", "val/riding a bike/"])
def test_kinetics_annotations(place: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{place}-2VXhGGnOWY_000010_000020.mp4")
    lines = ["label,youtube_id,time_start,time_end,split,is_cc", "riding a bike,-2VXhGGnOWY,10,20,val,0"]
    lines += ["yoga,abcdefghijk,3,13,train,0"]
    path = written(tmp_path / "kinetics.csv", "\n".join(lines))
    manifest = open_source(path, split="val")
    assert rows(manifest) == [(f"{place}-2VXhGGnOWY_000010_000020.mp4", "riding a bike")]
    assert (manifest[0].group, manifest[0].start) == ("-2VXhGGnOWY", None)
    assert manifest.classes == load_classes("Kinetics-400")
    assert "Kinetics annotations, split val" in manifest.origin


def test_something_something_v1(tmp_path: Path) -> None:
    names = load_classes("Something-Something V1")
    touch(tmp_path, *(f"20bn-something-something-v1/{i}/00001.jpg" for i in (100, 101, 102)))
    written(tmp_path / "something-something-v1-train.csv", f"100;{names[21]}\n102;{names[0]}\n")
    written(tmp_path / "something-something-v1-validation.csv", f"101;{names[173]}\n")
    written(tmp_path / "something-something-v1-test.csv", "1\n2\n")
    train, val = (open_source(tmp_path, split=split) for split in ("train", "val"))
    assert (train.kind, train.labels.tolist(), val.labels.tolist()) == ("frames", [21, 0], [173])
    assert train.classes == names
    assert rows(val) == [("101", names[173])]


def test_something_something_v2(tmp_path: Path) -> None:
    names = load_classes("Something-Something V2")
    touch(tmp_path, *(f"20bn-something-something-v2/{i}.webm" for i in (74225, 117478)))
    entries = [
        {"id": "74225", "label": "spinning coin", "template": names[140], "placeholders": ["coin"]},
        {"id": "117478", "label": "moving pen up", "template": names[45], "placeholders": ["pen"]},
    ]
    written(tmp_path / "labels" / "train.json", json.dumps(entries))
    written(tmp_path / "labels" / "test.json", json.dumps([{"id": "1"}]))
    written(tmp_path / "labels" / "labels.json", json.dumps({"Approaching something with your camera": "0"}))
    manifest = open_source(tmp_path / "labels", split="train")
    assert manifest.labels.tolist() == [140, 45]  # the order of names without their brackets
    assert manifest.classes == names
    assert manifest[0].path.endswith("20bn-something-something-v2/74225.webm")
    without = [{**entry, "template": entry["template"].replace("[", "").replace("]", "")} for entry in entries]  # type: ignore[attr-defined]
    written(tmp_path / "labels" / "train.json", json.dumps(without))
    assert open_source(tmp_path / "labels", split="train").labels.tolist() == [140, 45]


def test_ucf101(tmp_path: Path) -> None:
    clips = ["HammerThrow/v_HammerThrow_g08_c01.avi", "Hammering/v_Hammering_g01_c02.avi"]
    touch(tmp_path, *(f"UCF-101/{clip}" for clip in clips))
    lists = tmp_path / "ucfTrainTestlist"
    written(lists / "trainlist01.txt", f"{clips[0]} 36\r\n{clips[1]} 35\r\n")
    written(lists / "testlist01.txt", f"{clips[1]}\n")
    train, test = (open_source(lists, split=split) for split in ("train", "test"))
    assert train.classes == load_classes("UCF101")
    assert [train.classes[i] for i in train.labels] == ["HammerThrow", "Hammering"]
    assert (test.labels.tolist(), test[0].group) == ([34], "v_Hammering_g01")
    assert rows(open_source(lists / "testlist01.txt")) == rows(test)
    written(lists / "classInd.txt", "1 HammerThrow\n2 Hammering\n")
    assert open_source(lists, split="train").classes == ("HammerThrow", "Hammering")
    assert "expected one of its splits (test, train), got split='val'" in message(
        lambda: open_source(lists, split="val")
    )


def test_hmdb51(tmp_path: Path) -> None:
    touch(
        tmp_path, "hmdb51/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "hmdb51/wave/Amazing_#2_wave_f_1.avi"
    )
    lists = tmp_path / "testTrainMulti_7030_splits"
    first = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nx_brush_hair_2.avi 0 \ny_brush_hair_3.avi 2 \n"
    written(lists / "brush_hair_test_split1.txt", first)
    written(lists / "wave_test_split1.txt", "Amazing_#2_wave_f_1.avi 1 \n")
    manifest = open_source(lists, split="train")
    assert [(item.labels, item.group) for item in manifest] == [((0,), "April_09"), ((50,), "Amazing_#2")]
    assert manifest.classes == load_classes("HMDB51")
    written(lists / "wave_test_split1.txt", "Amazing_#2_wave_f_1.avi\n")
    assert "wave_test_split1.txt, line 1: expected '<clip> <0, 1 or 2>'" in message(
        lambda: open_source(lists, split="train")
    )


def test_a_folder_of_the_datasets_library(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    written(tmp_path / "train" / "metadata.csv", "file_name,label\na.png,cat\nb.png,dog\n")
    written(tmp_path / "test" / "metadata.csv", "file_name,label\nc.png,dog\n")
    assert rows(open_source(tmp_path, split="test")) == [("c.png", "dog")]
    assert open_source(tmp_path, split="test").classes == ("cat", "dog")
    touch(tmp_path / "flat", "x.mp4")
    written(tmp_path / "flat" / "metadata.jsonl", '{"file_name": "x.mp4", "label": 0}\n')
    assert rows(open_source(tmp_path / "flat")) == [("x.mp4", "0")]


def test_a_data_set_saved_by_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    touch(tmp_path, "files/a.mp4", "files/b.mp4")
    features = datasets.Features(
        {"path": datasets.Value("string"), "label": datasets.ClassLabel(names=["walk", "run"])}
    )
    data = {"path": [str(tmp_path / "files" / name) for name in ("a.mp4", "b.mp4")], "label": [1, 0]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(str(tmp_path / "saved"))
    manifest = open_source(tmp_path / "saved")
    assert [manifest.classes[i] for i in manifest.labels] == ["run", "walk"]
    assert manifest[0].path == data["path"][0]


# --------------------------------------------------------------------------------------------- nothing, or too much


def test_nothing_recognised(tmp_path: Path) -> None:
    assert "found nothing there" in message(lambda: open_source(tmp_path / "none"))
    assert "found 0 entries" in message(lambda: open_source(tmp_path))
    touch(tmp_path, "a.mp4", "b.mp4")
    assert "found 2 media files without classes, such as a.mp4" in message(lambda: open_source(tmp_path))
    assert "found one video" in message(lambda: open_source(tmp_path / "a.mp4"))
    written(tmp_path / "list.csv", "a.mp4,0\n")
    assert "found the lists list.csv: name the one to use" in message(lambda: open_source(tmp_path))
    assert "found an empty file" in message(lambda: open_source(written(tmp_path / "empty.csv", "\n\n")))
    prose = written(tmp_path / "prose.txt", "This is a text.\nIt is no list of files at all, as it seems.\n")
    assert "expected lines 'path label'" in message(lambda: open_source(prose))


def test_two_ways_to_read_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4")
    written(tmp_path / "train.csv", "train/a/1.mp4,0\n")
    text = message(lambda: open_source(tmp_path, split="train"))
    assert "expected one way to read it, found 2" in text
    assert len(open_source(tmp_path / "train.csv")) == 1
    assert len(open_source(tmp_path / "train")) == 2


def test_a_saved_manifest_is_a_source(tmp_path: Path) -> None:
    manifest = make(some_items(5), origin="five")
    manifest.save(tmp_path / "train.manifest")
    for source, split in ((tmp_path / "train.manifest", None), (tmp_path, "train")):
        assert list(open_source(source, split=split)) == list(Manifest.load(tmp_path / "train.manifest"))
    turned = open_source(tmp_path / "train.manifest", classes=("z", "y", "x"))
    assert turned.labels.tolist() == [2, 1, 0, 2, 1]
    assert "expected one of the 2 classes, got 'z'" in message(
        lambda: open_source(tmp_path / "train.manifest", classes=("x", "y"))
    )


def test_no_torch_is_needed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    code = (
        f"import sys; from uniformer.data.sources import open_source; print(len(open_source({str(tmp_path)!r})))\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
