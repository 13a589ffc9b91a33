"""COCO's result files of whole runs: what its evaluation code reads."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.test_results import HEIGHT, WIDTH, contract_of, detections, equal, poses, segmentation
from tests.tiny import refused
from uniformer.inference.coco_results import image_id, write_coco_file, write_rows
from uniformer.inference.recorded import Recorded
from uniformer.support.texts import to_json_line
from uniformer.tasks.detections import Detections


def test_pictures_have_the_numbers_of_their_names() -> None:
    for source, number in (
        ("val2017/000000000139.jpg", 139), ("7.png", 7), ("a street.jpg", "a street.jpg"), ("x/٣.jpg", "٣.jpg")
    ):  # fmt: skip
        assert image_id(detections(source=source)) == number
    assert image_id(detections(source="x/12.mp4", frame=3)) == "12.mp4#3"


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
        assert write_coco_file(recorded.values(), out) == 6
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
    with open(tmp_path / "found.json", "w", encoding="utf-8") as file:
        write_rows([result], file)
    coco = COCO(str(tmp_path / "truth.json"))
    scores = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), kind)
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_every_task_has_results() -> None:
    file = io.StringIO()
    assert write_rows([poses(), segmentation(), replace(poses(0), source="1.jpg")], file) == 5
    assert len(json.loads(file.getvalue())) == 5
    empty = io.StringIO()
    assert write_rows([], empty) == 0
    assert json.loads(empty.getvalue()) == []
