"""What is not understood of a data set is said, with its place, and what is left out is counted: nothing is guessed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_files import message, rows, touch, written
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import find_splits, open_dataset, open_for_evaluation, open_for_training
from uniformer.datasets.statement import statement

FILES = [f"{name}/{i}.mp4" for name in ("apple", "pear") for i in range(3)]


def labelled(head: str, row: str = "{path},{label}\n") -> str:
    return head + "".join(row.format(path=path, label=path.split("/")[0]) for path in FILES)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    touch(tmp_path, *FILES)
    return tmp_path


def opened(media: Path, text: str, name: str = "list.csv") -> Callable[[], Manifest]:
    path = written(media / name, text)
    return lambda: open_dataset(path)


# ---- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["name,label", "clip_name,tag", "Datei,Klasse", "file,what", "# clips,and classes"])
def test_a_header_of_unknown_names_is_no_row(head: str, media: Path) -> None:
    said = message(opened(media, labelled(f"{head}\n")))
    assert "list.csv, line 1: expected a path and a label, or their names (path, label), found" in said
    assert head.replace(",", ", ") in said


def test_an_unknown_header_of_frame_counts_or_of_folders(media: Path) -> None:
    text = "clip length number\n" + "".join(f"{path} 3 {i % 2}\n" for i, path in enumerate(("apple", "pear")))
    assert "line 1: expected a path and a label" in message(opened(media, text, "list.txt"))
    folders = "thing,tag\napple,fruit\npear,fruit\n"  # by their form these could be three rows
    assert "line 1: expected a path and a label" in message(opened(media, folders))
    assert len(opened(media, "apple,red\npear,fruit\n")()) == 2


@pytest.mark.parametrize("head", ["# path,label", "video_file,activity", "#clip_name,label"])
def test_a_header_may_be_a_comment(head: str, media: Path) -> None:
    manifest = opened(media, labelled(f"{head}\n"))()
    assert (len(manifest), manifest.classes) == (6, ("apple", "pear"))


PARTS = [
    *("start_frame,end_frame", "start_ms,end_ms", "startFrame,endFrame", "begin,stop", "frame_start,frame_end"),
    *(
        "t0,t1",
        "start(s),end(s)",
        "onset,offset",
        "first_frame,last_frame",
        "from_sec,to_sec",
        "t_begin,t_stop",
        "start,end_frame",
    ),
]


@pytest.mark.parametrize("names", PARTS)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_part_of_a_file_in_another_unit_is_refused(names: str, form: str, media: Path) -> None:
    path, (a, b) = media / f"list.{form}", names.split(",")
    records = [{"path": file, a: 4, b: 12, "label": file.split("/")[0]} for file in FILES]
    if form == "csv":
        written(path, labelled(f"path,{names},label\n", "{path},4,12,{label}\n"))
    elif form == "jsonl":
        written(path, "\n".join(map(json.dumps, records)))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(records), path)
    said = message(lambda: open_dataset(path))
    assert "expected the part of a file as columns start and end, in seconds, found " in said
    assert b in said


def test_columns_of_no_use_are_named(media: Path) -> None:
    row = "{path},4,12,0,9,{label},x\n"
    manifest = opened(media, labelled("path,start,end,start_frame,weight,label,friend\n", row))()
    assert "columns not used: start_frame, weight, friend" in manifest.origin
    assert manifest[0].span == (4, 12)
    records = [{"path": file, "label": "x", "fps\x1b[2J": 3} for file in FILES]
    said = opened(media, json.dumps(records), "list.json")().origin
    assert "columns not used: fps\\x1b[2J" in said


@pytest.mark.parametrize("name", ["is_train", "isVal", "for_testing", "train_flag"])
def test_a_split_said_otherwise_is_refused(name: str, media: Path) -> None:
    said = message(opened(media, labelled(f"path,label,{name}\n", "{path},{label},1\n")))
    assert f"list.csv: expected the split of a file as a column split, found {name}" in said
    assert len(opened(media, labelled(f"path,label,{name},split\n", "{path},{label},1,train\n"))()) == 6


# ---- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "split"), [("dev", "val"), ("Held-Out", "test"), ("evaluation", "val")])
def test_other_words_for_splits(word: str, split: str, media: Path) -> None:
    text = "path,label,split\n" + "".join(f"{p},{p[:4]},{'train' if '0' in p else word}\n" for p in FILES)
    path = written(media / "list.csv", text)
    assert find_splits(path) == ["train", split]
    assert len(open_dataset(path, split=word)) == 4
    train, val, left = open_for_training(path)
    assert (len(train), len(val or []), left) == (2, 4, [])
    assert len(open_for_evaluation(path)) == 4


def test_rows_of_unknown_splits_are_neither_trained_nor_scored_unless_asked(media: Path) -> None:
    part = {"0": "train", "1": "fold_b", "2": ""}
    path = written(media / "l.csv", "path,label,split\n" + "".join(f"{p},{p[:4]},{part[p[-5]]}\n" for p in FILES))
    assert find_splits(path) == ["train", "fold_b"]
    train, val, left = open_for_training(path)
    assert (rows(train), val) == ([("apple/0.mp4", "appl"), ("pear/0.mp4", "pear")], None)
    assert left == ["neither trained nor validated on: fold_b"]
    assert "left out: rows of split fold_b: 2 (apple/1.mp4, pear/1.mp4); rows of no split: 2" in train.origin
    assert "expected a split val or test, found train, fold_b" in message(lambda: open_for_evaluation(path))
    assert len(open_for_evaluation(path, "fold_b")) == 2
    written(path, labelled("path,label,split\n", "{path},{label},{label}\n"))
    for call in (open_for_training, open_for_evaluation):
        assert "found apple, pear: name the one to use" in message(lambda call=call: call(path))  # type: ignore[misc]


def test_two_folders_or_lists_of_one_split_are_refused(tmp_path: Path) -> None:
    for folder, ending in (("media", "a/1.mp4"), ("meta", "metadata.csv"), ("lists", None)):
        for part in ("train1", "train2", "val"):
            path = tmp_path / folder / (f"{part}/{ending}" if ending else f"{part}.csv")
            written(path, "" if ending == "a/1.mp4" else "file_name,label\n1.mp4,a\n")
            touch(path.parent, "1.mp4" if ending != "a/1.mp4" else "2.mp4")
        said = message(lambda folder=folder: open_dataset(tmp_path / folder, split="train"))  # type: ignore[misc]
        assert "of split train, found train1" in said
        assert "train2" in said
        assert len(open_dataset(tmp_path / folder, split="val")) >= 1
    manifest = open_dataset(tmp_path / "media" / "val")
    (tmp_path / "saved").mkdir()
    for part in ("train1", "train2"):
        manifest.save(tmp_path / "saved" / f"{part}.manifest")
    assert "found train1.manifest, train2.manifest" in message(lambda: open_dataset(tmp_path / "saved", split="train"))
    for folder in ("media", "meta", "lists"):  # and nothing else is trained on in their place
        assert find_splits(tmp_path / folder) == ["train", "val"]
        assert "found train1" in message(lambda folder=folder: open_for_training(tmp_path / folder))  # type: ignore[misc]


def test_a_split_that_cannot_be_opened_is_not_replaced_by_another(media: Path) -> None:
    for name, text in (("train.csv", "what,tag\n"), ("val.csv", "path,label\n"), ("test.csv", "")):
        written(media / "lists" / name, labelled(text) if text else "a.mp4\n")
    assert find_splits(media / "lists") == ["train", "val"]
    assert "train.csv, line 1: expected a path" in message(lambda: open_for_training(media / "lists"))


def test_lists_beside_folders_are_not_chosen_between(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "val/a/2.mp4")
    for part, number in (("train", 1), ("val", 2)):
        written(tmp_path / f"{part}.csv", f"{part}/a/{number}.mp4,a\n")
    for call in (open_dataset, open_for_training, open_for_evaluation):
        said = message(lambda call=call: call(tmp_path))  # type: ignore[misc]
        assert "found 2, the lists train.csv, val.csv and a folder per class: name the list or the folder" in said
    train, val, _ = open_for_training(tmp_path / "train.csv", tmp_path / "val.csv")
    assert (rows(train), rows(val or train)) == ([("train/a/1.mp4", "a")], [("val/a/2.mp4", "a")])


# ---- files -----------------------------------------------------------------------------------------------------------


def test_what_lies_about_in_folders_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.mp4", "train/a/notes.txt", "train/a/deep/x\x1b.doc", "train/a/.hidden", "train/README")
    touch(tmp_path, "val/b/2.mp4", "more/c/3.mp4", "about.pdf", "val/none/4.txt")
    train, val = (open_dataset(tmp_path, split=split) for split in ("train", "val"))
    assert train.origin.endswith(
        "left out: beside the splits: 2 (about.pdf, more); beside the classes: 1 (README); "
        "files that are no media: 2 (a/notes.txt, a/deep/x\\x1b.doc)"
    )
    assert "folders without videos: 1 (none)" in val.origin
    lines = list(statement({"train": train, "val": val}))
    assert lines[0] == f"train: {train.origin}"
    assert "train: of 2 classes without a sample: 1 (b)" in lines
    os.unlink(tmp_path / "train" / "a" / "1.mp4")
    assert list(statement({"train": train}))[-1] == (
        "train: files not there, of 1 looked for: 1 (a/1.mp4); classes of which no file is there: 1 (a)"
    )


def test_links_multiply_no_rows(tmp_path: Path) -> None:
    touch(tmp_path, "set/a/1.mp4", "set/b/2.mp4", "far/c/3.mp4", "far/c/deep/4.mp4")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "b" / "self").symlink_to(".")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "far" / "c")
    (tmp_path / "far" / "c" / "twice").symlink_to("deep")
    manifest = open_dataset(tmp_path / "set")
    assert rows(manifest) == [("a/1.mp4", "a"), ("b/2.mp4", "b"), ("c/3.mp4", "c"), ("c/deep/4.mp4", "c")]
    assert "links to folders searched already: 3 (" in manifest.origin


def test_files_are_looked_for_all_over_a_list(media: Path) -> None:
    gone = "".join(f"gone/{i}.mp4,apple\n" for i in range(9000))
    manifest = opened(media, labelled(f"path,label\n{gone}"))()
    assert (manifest.root, len(manifest)) == (str(media), 9006)
    assert (
        "files not there, of 9006 looked for: 9000 (gone/0.mp4, gone/1.mp4, gone/2.mp4, ...)"
        in list(statement({"data": manifest}))[-1]
    )


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_in_the_encodings_of_spreadsheets(encoding: str, media: Path) -> None:
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    for name, text in (
        ("list.csv", labelled("path,label\n")),
        ("list.jsonl", '{"path": "apple/0.mp4", "label": "apple"}'),
    ):
        manifest = open_dataset(written(media / name, mark + text, encoding))
        assert manifest.classes[0] == "apple"
    written(media / "classes.txt", f"{mark}pear\napple\n", encoding)
    assert open_dataset(media / "list.csv").classes == ("pear", "apple")


def test_no_text_is_no_list(media: Path) -> None:
    path = written(media / "list.csv", labelled("path,label\n"), "utf-16-le")
    assert "list.csv: expected a list of files, found no text (UTF-16" in message(lambda: open_dataset(path))
    path.write_bytes(b"\xff\xfe" + path.read_bytes()[:-1])
    assert "found damaged text" in message(lambda: open_dataset(path))


@pytest.mark.parametrize("quoted", [True, False])
def test_a_cell_beyond_what_csv_takes(quoted: bool, media: Path) -> None:
    text = labelled("path,label\n") + ('"' if quoted else "") + "x" * 200_000 + ",apple\n"
    said = message(opened(media, text))
    assert "list.csv, line 8: expected a list of files, found a damaged one: field larger" in said


@pytest.mark.parametrize(
    "record",
    [
        '{"path": ["a.mp4"], "label": "x"}',
        '{"path": "apple/0.mp4", "label": {"a": 1}}',
        '{"path": "apple/0.mp4", "label": [["a"]]}',
        '{"path": "apple/0.mp4", "label": "x", "group": {}}',
        '{"path": "apple/0.mp4", "label": "x", "frames": [1]}',
        '{"path": "apple/0.mp4", "label": "' + "9" * 5000 + '"}',
        '{"path": "apple/0.mp4", "label": ' + "9" * 5000 + "}",
        '{"path": "apple/0.mp4", "label": "' + "x" * 5000 + '"}',
        '{"path": "apple/0.mp4", "label": "a\\nb"}',
        '{"path": "apple/0.mp4", "label": "\\ud800"}',
        '{"path": "apple/0.mp4", "label": ' + "[" * 100_000,
        '{"path": "' + "x" * 100_000 + '", "label": "x"}',
        '{"path": "a\\u0000b.mp4", "label": "x"}',
        '{"path": "\\ud800.mp4", "label": "x"}',
        '{"path": "apple/0.mp4", "label": "x", "group": "\\ud800"}',
    ],
)
def test_odd_values_are_refused_in_a_short_line(record: str, media: Path) -> None:
    said = message(opened(media, record, "list.jsonl"))
    assert "list.jsonl" in said
    assert len(said) < 600
    assert said.isprintable()


def test_rows_without_any_label(media: Path) -> None:
    for name, text in (("list.csv", "apple/0.mp4,[]\n"), ("list.jsonl", '{"path": "apple/0.mp4", "label": []}\n')):
        assert f"{name}: expected labels, found none in any row" in message(opened(media, text, name))


def test_deep_labels_in_a_cell(media: Path) -> None:
    deep = "[" * 900 + "]" * 900
    assert "line 2: expected the name of a class, found a name of 1800 characters" in message(
        opened(media, f"path,label\napple/0.mp4,{deep}\n")
    )


def test_names_of_classes_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    touch(tmp_path, "list/a.mp4", "lines/a\nb/1.mp4", "lines/c/2.mp4")
    path = tmp_path / "list" / "l.csv"
    path.write_bytes("path,label\na.mp4,pâté\n".encode("cp1252"))
    assert "l.csv, line 2: expected the name of a class, found a name that is not UTF-8: 'p\\udce2t\\udce9'" in message(
        lambda: open_dataset(path)
    )
    assert "found a name of several lines: 'a\\nb'" in message(lambda: open_dataset(tmp_path / "lines"))
    folder = os.path.join(os.fsencode(tmp_path), b"bytes", b"p\xe2t\xe9")
    os.makedirs(folder)
    Path(os.fsdecode(folder), "1.mp4").touch()
    assert "found a name that is not UTF-8" in message(lambda: open_dataset(tmp_path / "bytes"))
    (tmp_path / "list" / "classes.txt").write_bytes(b"p\xe2t\xe9\n")
    written(path, "path,label\na.mp4,0\n")
    assert "classes.txt: expected names of classes, found no UTF-8 at byte 1" in message(lambda: open_dataset(path))


def test_lists_of_names_that_are_none(media: Path) -> None:
    for text in ('["a", ["b"]]', '["a", null]', '{"a": 1}', "[" * 100_000, "\0\0"):
        names = written(media / "names.json", text)
        said = message(lambda names=names: open_dataset(media, classes=str(names)))  # type: ignore[misc]
        assert "names.json" in said
        assert len(said) < 300
