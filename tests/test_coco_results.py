"""COCO's result files of whole runs: what its evaluation code reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.test_results import HEIGHT, WIDTH, contract_of, detections, equal, poses, segmentation
from tests.tiny import refused
from uniformer.inference.recorded import Recorded
from uniformer.support.texts import to_json_line
from uniformer.tasks.coco_results import image_ids, write_results
from uniformer.tasks.detections import Detections


def test_pictures_have_the_numbers_of_their_names() -> None:
    ids = {
        "val2017/000000000139.jpg": 139, "7.png": 7, "a street.jpg": "a street.jpg", "x/٣.jpg": "٣.jpg",
        "1" * 18 + ".jpg": int("1" * 18), "1" * 19 + ".jpg": "1" * 19 + ".jpg", ("x/12.mp4", 3): "12.mp4#3",
    }  # fmt: skip
    assert image_ids(list(ids)) == tuple(ids.values())


def test_no_two_pictures_have_the_same_id() -> None:
    pictures = ["a/7.png", "b/07.png", "8.png", "a.jpg", "b/a.jpg", ("a/7.mp4", 8), ("b/7.mp4", 8), ("b/7.mp4", 9)]
    assert image_ids(pictures) == (
        "a/7.png", "b/07.png", 8, "a.jpg", "b/a.jpg", "a/7.mp4#8", "b/7.mp4#8", "7.mp4#9",
    )  # fmt: skip


def test_a_file_of_answers_becomes_one_of_results(tmp_path: Path) -> None:
    answers, out = tmp_path / "found.jsonl", tmp_path / "found.json"
    some = [detections(source=f"{number:012}.jpg") for number in (7, 9)]
    lines = [to_json_line(result.to_dict() | {"weights": "abc"}) for result in [*some, detections(0)]]
    broken = to_json_line({"source": "b.jpg", "error": "broken"})
    answers.write_text(lines[0] + broken + lines[2] + lines[1] + lines[1][:99], encoding="utf-8")  # cut by a kill
    with Recorded(answers, Detections, contract_of(some[0])) as recorded:
        assert list(recorded) == ["000000000007.jpg", "street.jpg", "000000000009.jpg"]
        equal(recorded[some[1].source], some[1])
        answers.unlink()
        found = zip(recorded.values(), image_ids(list(recorded)), strict=True)  # type: ignore[arg-type]
        assert write_results((row for result, number in found for row in result.to_coco(number)), out) == 6
    rows = json.loads(out.read_text())
    assert [row["image_id"] for row in rows] == [7, 7, 7, 9, 9, 9]
    assert rows[0]["bbox"] == [20.0, 10.0, 20.0, 20.0]
    answers.write_text("[]\n")
    with refused(r"found\.jsonl, line 1: expected an answer"):
        Recorded(answers, Detections, contract_of(some[0]))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_cocos_own_code_reads_and_scores_them(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = detections(source="000000000042.jpg")
    truth = [
        {**row, "id": place, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for place, row in enumerate(result.to_coco(42), start=1)
    ]
    categories = [{"id": number} for number in {row["category_id"] for row in truth}]
    images = [{"id": 42, "height": HEIGHT, "width": WIDTH}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": truth, "categories": categories}))
    write_results(result.to_coco(42), tmp_path / "found.json")
    coco = COCO(str(tmp_path / "truth.json"))
    scores = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), kind)
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_every_task_has_results(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    results = [poses(), segmentation(), poses(0), detections(0)]
    assert write_results((row for result in results for row in result.to_coco(1)), path) == 5
    assert [sorted(row.keys() - {"image_id", "category_id"}) for row in json.loads(path.read_text())] == [
        *[["keypoints", "score"]] * 2, *[["segmentation"]] * 3
    ]  # fmt: skip
    assert write_results([], path) == 0
    assert json.loads(path.read_text()) == []
