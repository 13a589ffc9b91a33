"""Every layout of a data set, made on disk, is recognised; and what is wrong with one is said in one clear line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_files import make, message, rows, some_items, touch, written
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import find_splits, open_dataset
from uniformer.errors import InputError, MissingExtra
from uniformer.labels import load_classes

# ------------------------------------------------------------------------------------------------ a folder per class


def test_a_folder_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "dog/2.JPG", "dog/1.jpg", "cat/deep/3.png", "cat/.hidden.png", "cat/notes.txt", ".git/x.png")
    manifest = open_dataset(tmp_path)
    assert manifest.kind == "image"
    assert rows(manifest) == [("cat/deep/3.png", "cat"), ("dog/1.jpg", "dog"), ("dog/2.JPG", "dog")]
    assert "a folder per class" in manifest.origin
    assert "\n" not in manifest.origin


def test_split_folders_share_their_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.mp4", "train/c/2.mp4", "validation/a/3.mp4", "validation/c/v_x_g01_c02.avi")
    train, val = (open_dataset(tmp_path, split=split) for split in ("train", "val"))
    assert train.classes == val.classes == ("a", "b", "c")
    assert rows(val) == [("a/3.mp4", "a"), ("c/v_x_g01_c02.avi", "c")]
    assert val[1].group == "v_x_g01"
    assert find_splits(tmp_path) == ["train", "val"]
    assert "expected one of its splits (train, val), got split=None" in message(lambda: open_dataset(tmp_path))
    assert "got split='test'" in message(lambda: open_dataset(tmp_path, split="test"))


def test_the_folder_of_one_split_is_that_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/b/1.mp4", "train/c/2.mp4", "validation/a/3.mp4", "mine/a/4.mp4")
    for split in ("train", None):
        train = open_dataset(tmp_path / "train", split=split)
        assert rows(train) == [("b/1.mp4", "b"), ("c/2.mp4", "c")]
        assert "a folder per class (train/ alone: 2 classes)" in train.origin
    assert rows(open_dataset(tmp_path / "validation", split="val")) == [("a/3.mp4", "a")]
    assert (find_splits(tmp_path / "validation"), find_splits(tmp_path / "mine")) == (["val"], [])
    for folder, split in (("train", "val"), ("mine", "train")):
        said = message(lambda folder=folder, split=split: open_dataset(tmp_path / folder, split=split))
        assert f"{folder}: expected several splits to choose {split!r} from, found one set" in said


def test_folders_named_by_numbers_are_names_not_labels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/x.png" for i in range(1, 11)))
    manifest = open_dataset(tmp_path)
    assert manifest.classes == ("1", "10", "2", "3", "4", "5", "6", "7", "8", "9")
    assert rows(manifest)[1] == ("10/x.png", "10")


def test_a_folder_per_class_of_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/clip{k}/img_{i:05d}.jpg" for c in "ab" for k in (1, 2) for i in (1, 2, 3)))
    manifest = open_dataset(tmp_path)
    assert manifest.kind == "frames"
    assert rows(manifest) == [("a/clip1", "a"), ("a/clip2", "a"), ("b/clip1", "b"), ("b/clip2", "b")]


def test_imagenet_folders_get_their_names(tmp_path: Path) -> None:
    ids = [f"n{i:08d}" for i in range(1000)]
    touch(tmp_path, *(f"{split}/{name}/x.JPEG" for split in ("train", "val") for name in ids))
    manifest = open_dataset(tmp_path, split="val")
    assert manifest.classes == load_classes("ImageNet-1K")
    assert manifest.labels.tolist() == list(range(1000))
    assert "ImageNet folders" in manifest.origin


def test_images_among_videos_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.jpg")
    assert "b/2.jpg: expected video files only" in message(lambda: open_dataset(tmp_path))


def test_folders_of_a_whole_data_set_take_its_published_order(tmp_path: Path) -> None:
    names = load_classes("Kinetics-400")
    touch(tmp_path, *(f"{name}/x.mp4" for name in names))
    manifest = open_dataset(tmp_path)
    assert manifest.classes == names
    assert "as Kinetics-400 orders them" in manifest.origin
    assert open_dataset(tmp_path, classes=sorted(names)).classes == tuple(sorted(names))


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
    manifest = open_dataset(written(tmp_path / "list.csv", text))
    assert rows(manifest) == [("a.mp4", "1"), ("b c.mp4", "0")]
    assert manifest.classes == ("0", "1")
    assert (manifest.kind, manifest.frames, manifest.start) == ("video", None, None)


def test_the_files_of_a_list_are_looked_for_around_it(tmp_path: Path) -> None:
    touch(tmp_path, "videos/x/a.mp4", "elsewhere/far/x/a.mp4")
    path = written(tmp_path / "lists" / "train.csv", "x/a.mp4,0\n")
    assert open_dataset(path).root == str(tmp_path / "videos")
    assert open_dataset(path, root=tmp_path / "elsewhere").root == str(tmp_path / "elsewhere" / "far")
    text = message(lambda: open_dataset(path, root=tmp_path / "lists"))
    assert "expected files such as x/a.mp4" in text
    assert "found none of the first 1" in text


def test_names_for_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.txt", "a.mp4 walk\nb.mp4 run\nc.mp4 walk\n")
    assert open_dataset(path).classes == ("run", "walk")
    assert open_dataset(path, classes=("walk", "sit", "run")).labels.tolist() == [0, 2, 0]
    text = message(lambda: open_dataset(path, classes=("walks", "run")))
    assert text == f"{path}, line 1: expected one of the 2 classes, got 'walk' (did you mean 'walks'?)"
    names = written(tmp_path / "names.txt", "walk\nrun\n")
    assert open_dataset(path, classes=str(names)).labels.tolist() == [0, 1, 0]
    assert "no class names for the data set 'Kinetics400'" in message(lambda: open_dataset(path, classes="Kinetics400"))


def test_numbers_take_their_names_from_a_file_beside_the_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,1\nb.mp4,0\n")
    written(tmp_path / "classes.txt", "run\nwalk\nsit\n")
    assert open_dataset(path).classes == ("run", "walk", "sit")
    assert "from classes.txt" in open_dataset(path).origin


def test_labels_that_count_from_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,1\nb.mp4,2\nc.mp4,3\n")
    for classes in (None, ("x", "y", "z")):
        text = message(lambda classes=classes: open_dataset(path, classes=classes))  # type: ignore[misc]
        assert "expected labels 0 .. 2, found 1 .. 3" in text
        assert "label_base=1" in text
    assert open_dataset(path, label_base=1).labels.tolist() == [0, 1, 2]
    assert open_dataset(path, classes=("w", "x", "y", "z")).labels.tolist() == [1, 2, 3]


def test_labels_out_of_range(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,5\n")
    text = message(lambda: open_dataset(path, classes=("x", "y")))
    assert text == f"{path}, line 2: expected a label in 0 .. 1, got 5 (all labels: 0 .. 5)"
    written(path, "a.mp4,0\nb.mp4,-1\n")
    assert "line 2: expected a label in 0" in message(lambda: open_dataset(path))
    written(path, f"a.mp4,0\nb.mp4,{10**30}\n")
    assert "line 2: expected a label in 0" in message(lambda: open_dataset(path))


def test_duplicate_rows(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,1\na.mp4,0\n")
    assert "the same row twice: rows 1 and 3, a.mp4" in message(lambda: open_dataset(path))
    assert len(open_dataset(path, allow_duplicates=True)) == 3
    written(path, "a.mp4,0\nb.mp4,1\na.mp4,1\n")
    assert "labels (0,) and (1,) for one row" in message(lambda: open_dataset(path))


def test_a_wrong_separator(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    path = written(tmp_path / "list.csv", "a.mp4,0\nb.mp4,1\n")
    assert open_dataset(path, separator="comma").labels.tolist() == [0, 1]
    for wrong in ("space", " ", "tab"):
        text = message(lambda wrong=wrong: open_dataset(path, separator=wrong))  # type: ignore[misc]
        assert "found 'a.mp4,0'; it looks separated by comma" in text
    assert "expected a separator of comma, tab" in message(lambda: open_dataset(path, separator="|"))


def test_an_odd_line_is_named(tmp_path: Path) -> None:
    lines = [f"v{i}.mp4,{i % 2}" for i in range(100)]
    touch(tmp_path, *(line.split(",")[0] for line in lines))
    lines[80] = "v80.mp4"
    path = written(tmp_path / "list.csv", "\n".join(lines))
    assert "line 81: expected 2 fields (path, label) separated by comma, found 1" in message(lambda: open_dataset(path))
    lines[80] = "v80.mp4,"
    written(path, "\n".join(lines))
    assert "line 81: expected a label, found an empty one" in message(lambda: open_dataset(path))


def test_frame_folder_lists(tmp_path: Path) -> None:
    touch(tmp_path, *(f"rgb/{name}/00001.jpg" for name in ("clip one", "2")))
    manifest = open_dataset(written(tmp_path / "list.txt", "clip one 30 1\n2 17 0\n"))
    assert manifest.kind == "frames"
    assert [(item.frames, item.labels) for item in manifest] == [(30, (1,)), (17, (0,))]
    assert manifest.root == str(tmp_path / "rgb")
    for wrong in ("0", "9" * 20):
        path = written(tmp_path / "list.txt", f"clip one 30 1\n2 {wrong} 0\n")
        assert "line 2: expected a positive number of frames, got" in message(lambda path=path: open_dataset(path))  # type: ignore[misc]


def test_segments_of_long_files(tmp_path: Path) -> None:
    touch(tmp_path, "long.mkv")
    path = written(tmp_path / "list.csv", "long.mkv,0,2.5,run\nlong.mkv,2.5,7,sit\nlong.mkv,9,11,run\n")
    manifest = open_dataset(path)
    assert [(item.start, item.end, item.group) for item in manifest] == [
        *((0, 2.5, "long.mkv"), (2.5, 7, "long.mkv"), (9, 11, "long.mkv")),
    ]
    assert manifest.labels.tolist() == [0, 1, 0]
    written(path, "long.mkv,0,2.5,run\nlong.mkv,7,2.5,sit\n")
    assert "line 2: expected a segment with 0 <= start < end seconds, got 7.0 to 2.5" in message(
        lambda: open_dataset(path)
    )
    written(path, "video,start,end,label\nlong.mkv,0,two,run\n")
    assert "line 2: expected a number for end, got 'two'" in message(lambda: open_dataset(path))


def test_several_labels_in_a_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    expected = [("run", "sit"), ("run",), ("sit", "eat")]
    for text in (
        "a.mp4,run|sit\nb.mp4,run\nc.mp4,sit | eat\n",
        'a.mp4\t["run", "sit"]\nb.mp4\trun\nc.mp4\t["sit","eat"]\n',
    ):
        manifest = open_dataset(written(tmp_path / "list.csv", text))
        assert manifest.is_multi_label
        assert [tuple(manifest.classes[i] for i in item.labels) for item in manifest] == expected
    path = written(tmp_path / "list.csv", "a.mp4,run|sit\nb.mp4,run\n")
    assert open_dataset(path, multi_label=False).classes == ("run", "run|sit")
    written(path, "a.mp4,run\nb.mp4,sit\n")
    assert open_dataset(path, multi_label=True).is_multi_label
    written(path, "a.mp4,run|run\nb.mp4,run\n")
    assert "line 1: expected each label once" in message(lambda: open_dataset(path))


def test_lists_that_say_their_split(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    path = written(tmp_path / "list.csv", "path,label,split\na.mp4,x,train\nb.mp4,y,validate\nc.mp4,z,train\n")
    val = open_dataset(path, split="val")
    assert rows(val) == [("b.mp4", "y")]
    assert val.classes == ("x", "y", "z")
    assert len(open_dataset(path)) == 3
    assert "expected one of its splits (train, val), got split='test'" in message(
        lambda: open_dataset(path, split="test")
    )
    plain = written(tmp_path / "all.csv", "a.mp4,0\nb.mp4,1\n")
    assert "expected several splits to choose 'val' from" in message(lambda: open_dataset(plain, split="val"))


def test_a_folder_of_lists(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    written(tmp_path / "my_train_list.csv", "a.mp4,run\nb.mp4,sit\n")
    written(tmp_path / "my_val_list.csv", "c.mp4,sit\n")
    written(tmp_path / "test.csv", "path\nx.mp4\n")  # without labels, as is usual
    assert open_dataset(tmp_path, split="val").classes == ("run", "sit")
    assert find_splits(tmp_path) == ["train", "val"]
    written(tmp_path / "val2.csv", "c.mp4,sit\n")
    assert "expected one list of split val, found my_val_list.csv, val2.csv" in message(
        lambda: open_dataset(tmp_path, split="val")
    )


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    records = [{"video": "a.mp4", "label": "run", "fps": 3}, {"video": "b.mp4", "label": ["run", "sit"]}]
    for name, text in (("x.jsonl", "\n".join(map(json.dumps, records))), ("x.json", json.dumps(records))):
        manifest = open_dataset(written(tmp_path / name, text))
        assert [item.labels for item in manifest] == [(0,), (0, 1)]
    broken = written(tmp_path / "x.jsonl", '{"video": "a.mp4", "label": 0}\n{"video": \n')
    assert "x.jsonl, line 2: expected JSON" in message(lambda: open_dataset(broken))
    other = written(tmp_path / "y.jsonl", '{"caption": "a"}\n')
    assert "line 1: expected a path and a label, found 'caption'" in message(lambda: open_dataset(other))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    touch(tmp_path, "a.mp4", "b.mp4")
    table = pyarrow.table({"file_name": ["a.mp4", "b.mp4"], "label": [1, 0], "num_frames": [10, None]})
    parquet.write_table(table, tmp_path / "list.parquet")
    manifest = open_dataset(tmp_path / "list.parquet")
    assert [(item.labels, item.frames) for item in manifest] == [((1,), 10), ((0,), None)]
    inside = pyarrow.table({"image": [{"bytes": b"x", "path": "a.png"}], "label": [0]})
    parquet.write_table(inside, tmp_path / "inside.parquet")
    assert "found the file's content inside" in message(lambda: open_dataset(tmp_path / "inside.parquet"))
    assert "found a header only" in message(lambda: open_dataset(written(tmp_path / "header.csv", "path,label\n")))
    broken = written(tmp_path / "broken.parquet", "PAR1 no")
    assert "expected a Parquet file, found a damaged one" in message(lambda: open_dataset(broken))


def test_parquet_without_its_package(tmp_path: Path) -> None:
    """In a process of its own, where the package cannot be found."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from uniformer.datasets.open import open_dataset\n"
        f"open_dataset({str(written(tmp_path / 'x.parquet', 'PAR1'))!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: reading Parquet lists needs the package 'pyarrow'" in done.stderr
    assert issubclass(MissingExtra, InputError)


# --------------------------------------------------------------------------------------------- nothing, or too much


def test_nothing_recognised(tmp_path: Path) -> None:
    assert "found nothing there" in message(lambda: open_dataset(tmp_path / "none"))
    assert "found 0 entries" in message(lambda: open_dataset(tmp_path))
    touch(tmp_path, "a.mp4", "b.mp4")
    assert "found 2 media files without classes, such as a.mp4" in message(lambda: open_dataset(tmp_path))
    assert "found one video" in message(lambda: open_dataset(tmp_path / "a.mp4"))
    written(tmp_path / "list.csv", "a.mp4,0\n")
    assert "found the lists list.csv: name the one to use" in message(lambda: open_dataset(tmp_path))
    assert "found an empty file" in message(lambda: open_dataset(written(tmp_path / "empty.csv", "\n\n")))
    prose = written(tmp_path / "prose.txt", "This is a text.\nIt is no list of files at all, as it seems.\n")
    assert "expected lines 'path label'" in message(lambda: open_dataset(prose))


SOUND = {
    ".csv": b"path,label,split,start,end\na.mp4,x,train,0,1.5\nb.mp4,y,val,1,2\n",
    ".txt": b"a 12 1\nb 3 0\n",
    ".json": b'[{"id": "a", "template": "x [y]"}, {"id": "b", "template": "z"}]',
    ".jsonl": b'{"file_name": "a.mp4", "label": [0, 1]}\n{"file_name": "b.mp4", "label": 2}\n',
}


@pytest.mark.parametrize("suffix", SOUND)
def test_damaged_lists_are_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    draw = random.Random(0)
    pieces = [
        b",",
        b"\n",
        b"\0",
        b'"',
        b"\xff",
        b"-1",
        b"9" * 25,
        b"nan",
        b"1e400",
        b"|",
        b"[",
        b"]",
        b"{",
        b"null",
        b" ",
    ]
    path, refused = tmp_path / f"list{suffix}", []
    for _ in range(200):
        data = bytearray(SOUND[suffix])
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 4)] = draw.choice(pieces) * draw.randint(0, 1)
        path.write_bytes(data)
        try:
            list(open_dataset(path))
        except InputError as error:
            refused.append(str(error))
    assert 20 < len(refused) < 200
    assert not [text for text in refused if "\n" in text]


def test_two_ways_to_read_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4")
    written(tmp_path / "train.csv", "train/a/1.mp4,0\n")
    text = message(lambda: open_dataset(tmp_path, split="train"))
    assert "expected one way to read it, found 2" in text
    assert len(open_dataset(tmp_path / "train.csv")) == 1
    assert len(open_dataset(tmp_path / "train")) == 2


def test_a_saved_manifest_is_a_source(tmp_path: Path) -> None:
    manifest = make(some_items(5), origin="five")
    manifest.save(tmp_path / "train.manifest")
    for source, split in ((tmp_path / "train.manifest", None), (tmp_path, "train")):
        assert list(open_dataset(source, split=split)) == list(Manifest.load(tmp_path / "train.manifest"))
    turned = open_dataset(tmp_path / "train.manifest", classes=("z", "y", "x"))
    assert turned.labels.tolist() == [2, 1, 0, 2, 1]
    assert "expected one of the 2 classes, got 'z'" in message(
        lambda: open_dataset(tmp_path / "train.manifest", classes=("x", "y"))
    )


def test_no_torch_is_needed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    code = (
        f"import sys; from uniformer.datasets.open import open_dataset; print(len(open_dataset({str(tmp_path)!r})))\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
