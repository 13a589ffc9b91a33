"""The published data sets in the forms they are distributed in, small, made on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.source_files import message, rows, touch, written
from uniformer.datasets.open import find_splits, open_dataset
from uniformer.labels import load_classes


def test_kinetics_lists_of_the_reference(tmp_path: Path) -> None:
    touch(tmp_path, "0wR5jVB-WPk.mp4", "3caPS4FHFF8.mp4")
    path = written(tmp_path / "test.csv", "0wR5jVB-WPk.mp4,341\r\n3caPS4FHFF8.mp4,370\r\n")
    manifest = open_dataset(path, classes="Kinetics-400")
    assert manifest.labels.tolist() == [341, 370]
    assert manifest.classes[370] == "yoga"


@pytest.mark.parametrize("place", ["", "val/", "riding a bike/", "riding_a_bike/", "val/riding a bike/"])
def test_kinetics_annotations(place: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{place}-2VXhGGnOWY_000010_000020.mp4")
    lines = ["label,youtube_id,time_start,time_end,split,is_cc", "riding a bike,-2VXhGGnOWY,10,20,val,0"]
    lines += ["yoga,abcdefghijk,3,13,train,0"]
    path = written(tmp_path / "kinetics.csv", "\n".join(lines))
    manifest = open_dataset(path, split="val")
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
    train, val = (open_dataset(tmp_path, split=split) for split in ("train", "val"))
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
    manifest = open_dataset(tmp_path / "labels", split="train")
    assert manifest.labels.tolist() == [140, 45]  # the order of names without their brackets
    assert manifest.classes == names
    assert manifest[0].path.endswith("20bn-something-something-v2/74225.webm")
    without = [{**entry, "template": entry["template"].replace("[", "").replace("]", "")} for entry in entries]  # type: ignore[attr-defined]
    written(tmp_path / "labels" / "train.json", json.dumps(without))
    assert open_dataset(tmp_path / "labels", split="train").labels.tolist() == [140, 45]


def test_ucf101(tmp_path: Path) -> None:
    clips = ["HammerThrow/v_HammerThrow_g08_c01.avi", "Hammering/v_Hammering_g01_c02.avi"]
    touch(tmp_path, *(f"UCF-101/{clip}" for clip in clips))
    lists = tmp_path / "ucfTrainTestlist"
    written(lists / "trainlist01.txt", f"{clips[0]} 36\r\n{clips[1]} 35\r\n")
    written(lists / "testlist01.txt", f"{clips[1]}\n")
    train, test = (open_dataset(lists, split=split) for split in ("train", "test"))
    assert train.classes == load_classes("UCF101")
    assert [train.classes[i] for i in train.labels] == ["HammerThrow", "Hammering"]
    assert (test.labels.tolist(), test[0].group) == ([34], "v_Hammering_g01")
    assert rows(open_dataset(lists / "testlist01.txt")) == rows(open_dataset(lists / "testlist01.txt", split="test"))
    assert find_splits(lists / "testlist01.txt") == ["test"]
    assert "expected several splits to choose 'train' from, found one" in message(
        lambda: open_dataset(lists / "testlist01.txt", split="train")
    )
    written(lists / "classInd.txt", "1 HammerThrow\n2 Hammering\n")
    assert open_dataset(lists, split="train").classes == ("HammerThrow", "Hammering")
    assert "expected one of its splits (test, train), got split='val'" in message(
        lambda: open_dataset(lists, split="val")
    )


def test_hmdb51(tmp_path: Path) -> None:
    touch(
        tmp_path, "hmdb51/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "hmdb51/wave/Amazing_#2_wave_f_1.avi"
    )
    lists = tmp_path / "testTrainMulti_7030_splits"
    first = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nx_brush_hair_2.avi 0 \ny_brush_hair_3.avi 2 \n"
    written(lists / "brush_hair_test_split1.txt", first)
    written(lists / "wave_test_split1.txt", "Amazing_#2_wave_f_1.avi 1 \n")
    manifest = open_dataset(lists, split="train")
    assert [(item.labels, item.group) for item in manifest] == [((0,), "April_09"), ((50,), "Amazing_#2")]
    assert manifest.classes == load_classes("HMDB51")
    written(lists / "wave_test_split1.txt", "Amazing_#2_wave_f_1.avi\n")
    assert "wave_test_split1.txt, line 1: expected '<clip> <0, 1 or 2>'" in message(
        lambda: open_dataset(lists, split="train")
    )


def test_a_folder_of_the_datasets_library(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    written(tmp_path / "train" / "metadata.csv", "file_name,label\na.png,cat\nb.png,dog\n")
    written(tmp_path / "test" / "metadata.csv", "file_name,label\nc.png,dog\n")
    assert rows(open_dataset(tmp_path, split="test")) == [("c.png", "dog")]
    assert open_dataset(tmp_path, split="test").classes == ("cat", "dog")
    assert rows(open_dataset(tmp_path / "train", split="train")) == [("a.png", "cat"), ("b.png", "dog")]
    assert find_splits(tmp_path / "train") == ["train"]
    touch(tmp_path / "flat", "x.mp4")
    written(tmp_path / "flat" / "metadata.jsonl", '{"file_name": "x.mp4", "label": 0}\n')
    assert rows(open_dataset(tmp_path / "flat")) == [("x.mp4", "0")]


def test_a_data_set_saved_by_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    touch(tmp_path, "files/a.mp4", "files/b.mp4")
    features = datasets.Features(
        {"path": datasets.Value("string"), "label": datasets.ClassLabel(names=["walk", "run"])}
    )
    data = {"path": [str(tmp_path / "files" / name) for name in ("a.mp4", "b.mp4")], "label": [1, 0]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(str(tmp_path / "saved"))
    manifest = open_dataset(tmp_path / "saved")
    assert [manifest.classes[i] for i in manifest.labels] == ["run", "walk"]
    assert manifest[0].path == data["path"][0]
    assert find_splits(tmp_path / "saved") == []
    assert "found one set" in message(lambda: open_dataset(tmp_path / "saved", split="val"))


def test_a_saved_data_set_of_several_labels_or_that_is_damaged(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    touch(tmp_path, "a.mp4")
    names = datasets.Sequence(datasets.ClassLabel(names=["walk", "run"]))
    features = datasets.Features({"path": datasets.Value("string"), "label": names})
    data = {"path": [str(tmp_path / "a.mp4")], "label": [[1, 0]]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(str(tmp_path / "saved"))
    manifest = open_dataset(tmp_path / "saved")
    assert [manifest.classes[i] for i in manifest[0].labels] == ["run", "walk"]
    for text in ("{", "[]", '{"splits": ["train"]}', "[" * 100_000):
        written(tmp_path / "saved" / "state.json", text)
        assert "saved: expected a set saved by `datasets`, found a damaged one" in message(
            lambda: open_dataset(tmp_path / "saved")
        )
