"""Where people are: boxes from files of several forms, matched to pictures, and from detectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.dense_nets import SMALL
from tests.tiny import refused
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import create_model
from uniformer.config import PersonCrop
from uniformer.inference.predictor import Predictor
from uniformer.labels import load_details
from uniformer.tasks.detections import Detections
from uniformer.tasks.person_boxes import PersonBoxes, people_found_by, read_person_boxes, whole_picture

ANNOTATED = {
    "images": [
        {"id": 139, "file_name": "val/a.jpg", "height": 100, "width": 120},
        {"id": 7, "file_name": "val/empty.jpg", "height": 100, "width": 120},
    ],
    "categories": [{"id": 3, "name": "person"}, {"id": 1, "name": "dog"}],
    "annotations": [
        {"image_id": 139, "category_id": 3, "bbox": [10, 20, 30, 40], "iscrowd": 0},
        {"image_id": 139, "category_id": 3, "bbox": [90, 90, 60, 60]},
        {"image_id": 139, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"image_id": 139, "category_id": 3, "bbox": [1, 1, 50, 50], "iscrowd": 1},
        {"image_id": 7, "category_id": 3, "bbox": [130, 1, 5, 5]},
    ],
}
RESULTS = [
    {"image_id": 139, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9},
    {"image_id": 139, "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.8},
    {"image_id": 0, "category_id": 1, "bbox": [0.5, 1, 2, 3], "score": 0.25},
    {"image_id": 0, "category_id": 1, "bbox": [0.5, 1, 2, 0], "score": 0.25},
]


def read(folder: Path, content: Any, name: str = "people.json") -> PersonBoxes:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_person_boxes(file)


def boxes_of(people: PersonBoxes, picture: str) -> list[list[float]]:
    found = people.of(picture)
    assert found is not None
    assert len(found.boxes) == len(found.scores)
    return found.boxes.tolist()


def test_boxes_of_annotations(tmp_path: Path) -> None:
    """As they were trained: in the picture, a pixel smaller; no crowds, no other classes, and that is said."""
    people = read(tmp_path, ANNOTATED)
    assert boxes_of(people, "/data/val/a.jpg") == [[10, 20, 39, 59], [90, 90, 119, 99]]
    assert boxes_of(people, "val/empty.jpg") == []
    assert people.of("val/b.jpg") is None
    assert [note.split("people.json: ")[1] for note in people.notes] == [
        "left out boxes of other classes: 1, crowds: 1",
        "boxes outside their picture, left out: 1",
    ]


def test_boxes_of_a_detector_that_were_written_as_results(tmp_path: Path) -> None:
    """They have numbers for names; COCO's pictures are called by them."""
    people = read(tmp_path, RESULTS)
    assert boxes_of(people, "coco/val2017/000000000139.jpg") == [[10, 20, 40, 60]]
    assert boxes_of(people, "0000.png") == [[0.5, 1, 2.5, 4]]
    found = people.of("139.jpg")
    assert found is not None
    assert found.scores.tolist() == [0.9]
    assert people.of("a139.jpg") is None
    assert [note.split(": ", 1)[1] for note in people.notes] == [
        "left out boxes of other classes: 1, boxes without an area: 1"
    ]


def test_one_bad_annotation_leaves_the_others_and_is_said(tmp_path: Path) -> None:
    """The file is read as a data set's is: by element, however large, and what is odd is left out and counted."""
    bad = [{"image_id": 5, "category_id": 3, "bbox": [1, 1, 5, 5]}, {"image_id": 139, "category_id": 3, "bbox": [1, 2]}]
    people = read(tmp_path, {**ANNOTATED, "annotations": [*bad, *ANNOTATED["annotations"]]})
    assert boxes_of(people, "val/a.jpg") == [[10, 20, 39, 59], [90, 90, 119, 99]]
    assert [note.split("people.json: ")[1] for note in people.notes] == [
        "left out boxes of other classes: 1, crowds: 1",
        "annotations of pictures that are not listed, left out: 1",
        "boxes without an area, or that are none, left out: 1",
        "boxes outside their picture, left out: 1",
    ]


@pytest.mark.parametrize(
    "head", ["", "path,x1,y1,x2,y2,score\n", "# x1,y1,path,x2,y2\n", "\n,,\npath,x1,y1,x2,y2,score\n"]
)
def test_boxes_of_a_table(tmp_path: Path, head: str) -> None:
    cells = "1,2,a b.jpg,30,40.5" if head.startswith("#") else "a b.jpg,1,2,30,40.5"
    other = cells.replace("a b", "c/d") + ("" if head.startswith("#") else ",0.5")
    people = read(tmp_path, f"{head}{cells}\n\n{other}\n", "people.csv")
    assert boxes_of(people, "x/a b.jpg") == [[1, 2, 30, 40.5]]
    found = people.of("c/d.jpg")
    assert found is not None
    assert found.scores.tolist() == [1.0 if head.startswith("#") else 0.5]


@pytest.mark.parametrize(("name", "separator"), [("people.tsv", "\t"), ("people.csv", ";"), ("people.txt", ",")])
def test_tables_of_other_separators(tmp_path: Path, name: str, separator: str) -> None:
    lines = "path,x1,y1,x2,y2\na.jpg,1,2,30,40.5\n".replace(",", separator)
    assert boxes_of(read(tmp_path, lines, name), "a.jpg") == [[1, 2, 30, 40.5]]


def test_boxes_of_a_detector_as_predict_writes_them(tmp_path: Path) -> None:
    thing = {"name": "person", "label": 0, "score": 0.75, "box": [1, 2, 30, 40]}
    answers = [
        {"source": "d/a.jpg", "checkpoint": "c", "objects": [thing, {**thing, "name": "dog"}]},
        {"source": "d/b.jpg", "checkpoint": "c", "objects": []},
        {"source": "d/c.jpg", "error": "no picture"},
    ]
    people = read(tmp_path, "".join(json.dumps(answer) + "\n" for answer in answers), "found.jsonl")
    assert boxes_of(people, "d/a.jpg") == [[1, 2, 30, 40]]
    assert boxes_of(people, "d/b.jpg") == []
    assert people.of("d/c.jpg") is None
    assert [note.split(": ", 1)[1] for note in people.notes] == ["left out pictures without an answer: 1"]


def test_pictures_are_matched_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    people = read(tmp_path, "one/a.jpg,0,0,1,1\ntwo/a.jpg,0,0,2,2\n/far/away/c.jpg,0,0,3,3\n", "people.csv")
    assert boxes_of(people, "two/a.jpg") == boxes_of(people, str(tmp_path / "two" / "a.jpg")) == [[0, 0, 2, 2]]
    assert boxes_of(people, "c.jpg") == boxes_of(people, "./away/c.jpg") == [[0, 0, 3, 3]]
    assert people.of("near/c.jpg") is people.of("xa.jpg") is None
    with refused("people.csv: expected one picture a.jpg, found one/a.jpg, two/a.jpg"):
        people.of("a.jpg")


def test_what_does_not_match_is_said(tmp_path: Path) -> None:
    people = read(tmp_path, "a.jpg,0,0,1,1\nb.jpg,0,0,2,2\nc.jpg,0,0,2,2\n", "people.csv")
    assert people.unmatched(["a.jpg", "b.jpg", "c.jpg"]) == []
    lists_no, not_asked = people.unmatched(["x/a.jpg", "y.jpg", "z.jpg"])
    assert lists_no.endswith("people.csv: lists no people of 2 pictures (y.jpg, z.jpg)")
    assert not_asked.endswith("people.csv: lists 2 pictures (b.jpg, c.jpg) that nobody asked for")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "a.jpg,1,2,3\n", r"a.csv, line 1: expected boxes of people: .*found 'a.jpg,1,2,3'"),
        ("a.csv", "a.jpg,1,2,3,4\nb.jpg,1,x,3,4\n", "a.csv, line 2: expected boxes of people"),
        ("a.csv", "a.jpg,5,2,3,4\n", r"a.csv, line 1: expected a box x1 < x2, y1 < y2 in pixels, found \[5.0, 2.0"),
        ("a.csv", "a.jpg,1,2,3,nan\n", "line 1: expected a box"),
        ("a.csv", "a.jpg,1,2,3,4,inf\n", "line 1: expected a picture and a finite score"),
        ("a.csv", "name,x1,y1,x2,y2\n", "line 1: expected one column of path, file, file_name, filename, image, found"),
        ("a.csv", "path,x1,y1,x2,y2\n", "a.csv: expected boxes of people: .* found none"),
        (
            "a.jsonl",
            '{"source": "a.jpg", "objects": [{"name": "person"}]}',
            "a.jsonl, line 1: expected boxes of people",
        ),
        ("a.jsonl", '{"source": "a.jpg", "labels": []}', "a.jsonl, line 1: expected boxes of people"),
        ("a.jsonl", "[]", "a.jsonl, line 1: expected boxes of people"),
        ("a.json", "[]", "a.json: expected boxes of people: .* found none"),
        (
            "a.pth",
            "3",
            "a.pth: expected a file of boxes of people that ends in .json, .jsonl, .ndjson, .csv, .tsv, .txt",
        ),
        ("a.json", "3", "a.json: expected boxes of people: .* found int"),
        ("a.json", "{", "a.json: expected boxes of people"),
        ("a.json", [{"image_id": 1, "bbox": [1, 2, 3, 4]}], "entry 1: expected image_id, bbox and score, found"),
        ("a.json", [{"image_id": 1, "bbox": [1, 2, 3], "score": 1}], "entry 1: expected image_id, bbox and score"),
        ("a.json", [{"image_id": 1, "bbox": [1, 2, np.nan, 3], "score": 1}], "entry 1: expected a box"),
        ("a.json", [7], "entry 1: expected image_id, bbox and score, found 7"),
        ("a.json", {"images": []}, "a.json: expected boxes of people: .* found dict"),
        ("a.json", {**ANNOTATED, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}, "'person'.*a, b"),
        ("a.json", {**ANNOTATED, "images": [{"id": 1}]}, "picture 1: expected the name of a picture, found 'None'"),
        ("a.json", {**ANNOTATED, "images": []}, "a.json: expected pictures, found none listed"),
    ],
)
def test_odd_files_are_refused_with_their_place(tmp_path: Path, name: str, content: Any, words: str) -> None:
    with refused(words):
        read(tmp_path, content, name)


def test_people_of_detectors_and_of_whole_pictures() -> None:
    boxes = np.array([[0, 0, 5, 9], [1, 1, 4, 4], [3, 3, 3, 9]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 0, 1])
    found = Detections(boxes=boxes, scores=scores, labels=labels, names=("dog", "person"), height=9, width=9)
    people = people_found_by(lambda source: found)("a.jpg", 9, 9)
    assert people.boxes.tolist() == [[0, 0, 5, 9]]
    assert people.scores.tolist() == [scores[0]]
    assert whole_picture(480, 640).boxes.tolist() == [[0, 0, 640, 480]]
    with refused("expected"):
        people_found_by(lambda source: replace(found, names=("dog", "cat")))("a.jpg", 9, 9)


def test_a_pose_network_looks_where_the_file_says(tmp_path: Path) -> None:
    """A picture that is not listed is a failure of its own."""
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)).save(tmp_path / name)
    people = read(tmp_path, "a.png,1,2,30,40\na.png,50,2,90,60\nc.png,0,0,100,60\n", "people.csv")
    model = create_model("topdown.uniformer_nano", **SMALL)
    contract = Contract(model.config, input=PersonCrop((64, 64)), details=load_details("COCO 2017 keypoints"))
    predictor = Predictor((model, contract), people=people, alike=1.0)
    first, second, third = predictor.run([str(tmp_path / name) for name in ("a.png", "b.png", "c.png")])
    assert sorted(first.boxes.tolist()) == [[1, 2, 30, 40], [50, 2, 90, 60]]
    assert second.error == f"{people.origin}: lists no people of {tmp_path / 'b.png'}"
    assert third.boxes.tolist() == [[0, 0, 100, 60]]
    with refused("lists no people of ndarray"):
        predictor(np.zeros((60, 100, 3), np.uint8))
