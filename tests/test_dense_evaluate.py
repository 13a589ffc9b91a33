"""Detectors, segmenters and pose networks on annotated data: `uniformer eval` and `uniformer.evaluate`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import uniformer
from tests.annotated_sets import JOINTS, pose_set, values_of
from tests.command_line import Cli, Ended
from tests.dense_nets import COUNT, ORDER, TASKS, evaluate_all, evaluated, make_nets, make_sets, save_dense
from tests.made_objects import SIGMAS, made, write_set
from tests.scored import evaluate_model
from tests.tiny import refused
from tests.training_processes import ended, kill, places, said, start_command, start_work
from uniformer.checkpoints.load import load_model
from uniformer.datasets.annotated import open_annotated
from uniformer.evaluation.learnt import trained_on
from uniformer.tasks import task_of
from uniformer.tasks.object_scores import ObjectScores
from uniformer.tasks.segmentation_scores import SegmentationScores

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_sets(tmp_path_factory.mktemp("sets"))


def asked(task: str, nets: dict[str, Path], sets: dict[str, Path]) -> list[str]:
    """The words of a command."""
    words = ["eval", str(nets[task]), str(sets[task]), "--device", "cpu", "--workers", "0"]
    return [*words, "--classes", str(sets[task].parent / "names.txt")] if task == "segmentation" else words


def loaded(task: str, folder: Path) -> Any:
    kind = SegmentationScores if task == "segmentation" else ObjectScores
    return kind.load(folder / "scores.npz")


MEASURES = {"detection": "box_ap", "segmentation": "miou", "pose": "ap"}


@pytest.mark.parametrize("task", TASKS)
def test_the_command_scores_and_writes(task: str, nets: Any, sets: Any, cli: Cli, tmp_path: Path) -> None:
    ended = cli(*asked(task, nets, sets), "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert f"tiny.{Path(nets[task]).stem}" not in ended.err
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["metrics"] == loaded(task, tmp_path / "out").metrics()
    assert MEASURES[task] in metrics["metrics"]
    assert (metrics["metrics"]["items"], metrics["metrics"]["failed"]) == (COUNT, 0)
    assert {"detection": "mask AP 50", "segmentation": "mean IoU", "pose": "AP 50"}[task] in ended.out
    assert f"wrote scores, metrics.json and report.html and the answers to {tmp_path / 'out'}" in ended.out
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/jpeg") >= 2
    if task == "segmentation":
        assert "labels matched to the checkpoint's classes by name: 2 of the data's 3" in ended.out
        assert sorted(p.name for p in (tmp_path / "out/predictions").iterdir()) == [f"{i}.png" for i in range(COUNT)]
    if task == "detection":
        assert "labels matched to the checkpoint's classes by name: 5 of the data's 5" in ended.out
    again = cli(*asked(task, nets, sets), "--out", tmp_path / "out", "--class-order", "names")  # nothing is left to do
    assert again.status == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics


def test_a_network_with_masks_is_scored_on_boxes_alone(nets: Any, sets: Any, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sets["detection"], tmp_path / "boxes")
    for file in (tmp_path / "boxes").rglob("*.json"):
        table = json.loads(file.read_text())
        for one in table["annotations"]:
            one.pop("segmentation", None)
        file.write_text(json.dumps(table))
    ended = cli(
        "eval", nets["detection"], tmp_path / "boxes", "--device", "cpu", "--workers", "0", "--out", tmp_path / "out"
    )
    assert ended.status == 0, ended.err
    assert "no figures of masks: the data have boxes alone" in ended.out
    assert (tmp_path / "out/report.html").read_text().count("data:image/jpeg") >= 2


def test_mirrored_pairs_are_the_checkpoint_s_or_the_data_s(cli: Cli, tmp_path: Path) -> None:
    """And where neither knows them nothing is read, unless nothing is to be mirrored."""
    data = pose_set(tmp_path / "set")
    bare = save_dense(tmp_path / "bare.safetensors", "topdown", tuple(JOINTS))
    told = save_dense(tmp_path / "told.safetensors", "topdown", tuple(JOINTS), flip_pairs=[[1, 2]])
    other = save_dense(tmp_path / "other.safetensors", "topdown", ("a", "b", "c"))
    ended = cli("eval", bare, data, "--device", "cpu", "--workers", "0", "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    line = "data: which key points a mirror swaps is taken from the data: the checkpoint does not say"
    assert line in ended.out.splitlines()
    assert ended.out.index(line) < ended.out.index("tiny.topdown on set")
    with_pairs = uniformer.evaluate(told, data, device="cpu", workers=0)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["metrics"] == with_pairs.metrics
    assert not any("mirror" in note for note in with_pairs.about.notes)
    ended = cli("eval", other, data, "--class-order", "numbers", "--device", "cpu", "--out", tmp_path / "none")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "expected a contract with flip_pairs for flip=True, got one without (flip=False, --no-flip)" in ended.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_answers_are_what_pycocotools_measures(task: str, nets: Any, sets: Any, tmp_path: Path) -> None:
    """The files of results, with the data set's own file of annotations, whose classes have other numbers."""
    options = {"score": 0.01} if task == "detection" else {"flip": False}
    found = uniformer.evaluate(nets[task], sets[task], device="cpu", workers=0, out=tmp_path, **options)
    name = "instances" if task == "detection" else "person_keypoints"
    gt = COCO(str(sets[task] / f"annotations/{name}_val2017.json"))
    for kind, path in found.paths.items():
        if not kind.startswith("predictions"):
            continue
        results = json.loads(path.read_text())
        assert len(results) >= COUNT
        measure = {"box": "bbox", "mask": "segm"}.get(kind.partition("-")[2], "keypoints")
        run = COCOeval(gt, gt.loadRes(results), measure)
        if task == "pose":
            run.params.kpt_oks_sigmas = SIGMAS
        run.evaluate(), run.accumulate(), run.summarize()
        prefix = {"bbox": "box_", "segm": "mask_"}.get(measure, "")
        assert [found.metrics[f"{prefix}{name}"] for name in ("ap", "ap50", "ap75")] == pytest.approx(
            run.stats[:3].tolist(), abs=1e-6
        )


def test_label_maps_are_those_of_the_predictor(nets: Any, sets: Any, tmp_path: Path) -> None:
    found = uniformer.evaluate(
        nets["segmentation"], sets["segmentation"], classes=str(sets["segmentation"].parent / "names.txt"),
        device="cpu", workers=0, out=tmp_path,
    )  # fmt: skip
    predictor = uniformer.Predictor(nets["segmentation"], device="cpu")
    for i in range(COUNT):
        said = predictor(sets["segmentation"] / f"images/val/{i}.jpg")
        assert np.array_equal(np.asarray(Image.open(found.paths["predictions"] / f"{i}.png")), said.labels)
    true = np.concatenate([2 - values_of(i)[1:].reshape(-1) for i in range(COUNT)])
    answers = [np.asarray(Image.open(tmp_path / f"predictions/{i}.png"))[1:].reshape(-1) for i in range(COUNT)]
    assert found.metrics["aacc"] == pytest.approx((true == np.concatenate(answers)).mean())


def test_a_pose_network_looks_where_people_are_annotated_or_where_a_file_says(
    nets: Any, sets: Any, cli: Cli, tmp_path: Path
) -> None:
    found = uniformer.evaluate(nets["pose"], sets["pose"], device="cpu", workers=0)
    assert "people by annotated boxes" in found.about.notes
    data = open_annotated(sets["pose"], split="val", task="pose")
    people = [
        (data.annotations(i).keypoints[..., 2] > 0).any(axis=1) & ~data.annotations(i).crowd  # type: ignore[index]
        for i in range(COUNT)
    ]
    assert len(found.scores.found) <= sum(int(each.sum()) for each in people)
    boxes = [
        {"image_id": 100 + i, "category_id": 1, "bbox": [5, 5, 60, 90], "score": score}
        for i in range(COUNT - 1) for score in (0.9, 0.3)
    ]  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(boxes))
    words = asked("pose", nets, sets)
    ended = cli(*words, "--boxes", tmp_path / "found.json", "--out", tmp_path / "out")
    assert ended.status == 0
    assert f"people by boxes of {tmp_path / 'found.json'}" in ended.out
    assert "lists nobody in 1 picture, such as" in ended.out
    kept = loaded("pose", tmp_path / "out").found
    assert set(kept.item.tolist()) == set(range(COUNT - 1))
    assert len(kept) == COUNT - 1  # of two people at one place the better one stays
    assert "holds answers of another run (views differ)" in refusal(cli(*words, "--out", tmp_path / "out"))
    ended = cli(*asked("detection", nets, sets), "--boxes", tmp_path / "found.json")
    assert "expected no boxes of people" in refusal(ended)


def refusal(ended: Ended) -> str:
    """The line that a command ends with, after what it made of the data."""
    assert ended.status == 2, ended
    (line,) = ended.err.splitlines()
    assert all(said.startswith("data: ") for said in ended.out.splitlines())
    return line


@pytest.mark.parametrize("task", TASKS)
def test_pictures_that_cannot_be_read_are_said_and_counted(
    task: str, nets: Any, sets: Any, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    shutil.copytree(sets[task], root)
    shutil.copy(sets[task].parent / "names.txt", tmp_path / "names.txt")
    pictures = sorted(root.rglob("*.jpg"))
    pictures[0].write_bytes(b"no picture")
    Image.new("RGB", (33, 44)).save(pictures[1])  # not as annotated
    words = asked(task, nets, {task: root})
    ended = cli(*words, "--out", tmp_path / "out")
    assert ended.status == 1
    assert f"row 1: {pictures[0]}" in ended.err
    assert f"row 2: {pictures[1]}: expected a picture of" in ended.err or task == "segmentation"
    scores = loaded(task, tmp_path / "out")
    assert scores.metrics()["failed"] == 2
    assert scores.metrics("skip")["items"] == COUNT - 2
    monkeypatch.chdir(tmp_path)  # called as the user calls them
    ended = cli(*[root.name if word == str(root) else word for word in words], "--out", "out")
    assert f"row 1: {pictures[0].relative_to(tmp_path)}: " in ended.err
    assert cli(*words, "--out", tmp_path / "out", "--missing", "skip").status == 0
    for place in pictures[:2]:
        shutil.copy(sets[task] / place.relative_to(root), place)
    assert cli(*words, "--out", tmp_path / "out").status == 0  # the others are not computed again
    assert loaded(task, tmp_path / "out").metrics()["failed"] == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_run_cut_short_goes_on_with_the_same_digits(
    task: str, nets: Any, sets: Any, cli: Cli, tmp_path: Path
) -> None:
    words = asked(task, nets, sets)
    assert cli(*words, "--out", tmp_path / "whole").status == 0
    shutil.copytree(tmp_path / "whole/answers", tmp_path / "cut/answers")
    (rows,) = (tmp_path / "cut/answers").glob("rows-*.bin")
    rows.write_bytes(rows.read_bytes()[: rows.stat().st_size // 2])
    before = rows.stat().st_size
    assert cli(*words, "--out", tmp_path / "cut").status == 0
    assert rows.stat().st_size > before
    assert same_files(tmp_path / "whole", tmp_path / "cut")


def same_files(one: Path, other: Path) -> bool:
    """Scores, measures and answers, to the byte."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file() and "answers" not in path.parts}
    assert len(names) >= 4
    texts = [{name: (root / name).read_bytes() for name in names - {Path("scores.npz")}} for root in (one, other)]
    arrays = [dict(np.load(root / "scores.npz")) for root in (one, other)]
    return texts[0] == texts[1] and all(np.array_equal(value, arrays[1][name]) for name, value in arrays[0].items())


def test_what_does_not_fit_is_refused_before_the_work(nets: Any, sets: Any, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "predictions-box.json").write_text("mine")
    for words, line in (
        (asked("detection", nets, {"detection": sets["segmentation"]}), "expected annotations for detection"),
        (asked("pose", nets, {"pose": sets["detection"]}), "expected annotations for pose"),
        ([*asked("detection", nets, sets), "--clips", "2"], "expected no clips and crops for detection"),
        ([*asked("detection", nets, sets), "--form", "parquet", "--out", str(tmp_path)], "expected form npz"),
        ([*asked("detection", nets, sets), "--class-order", "fix"], "expected labels by 'names' or 'numbers'"),
        ([*asked("detection", nets, sets), "--out", str(tmp_path)], "predictions-box.json: it is there already"),
    ):
        assert line in refusal(cli(*words)), words
    assert (tmp_path / "predictions-box.json").read_text() == "mine"
    assert not (tmp_path / "answers").exists()
    data = open_annotated(sets["detection"], split="val")
    with refused("expected data annotated for pose, as the checkpoint is for it, got some for detection"):
        uniformer.evaluate(nets["pose"], data, device="cpu", workers=0)


def test_what_was_trained_on_is_said_and_left_out(nets: Any, sets: Any, tmp_path: Path) -> None:
    model, contract, _ = load_model(nets["detection"])
    data = open_annotated(sets["detection"], split="val")
    learnt = replace(contract, trained_on=trained_on(data.select([0, 2])))
    whole = uniformer.evaluate((model, learnt), data, device="cpu", workers=0)
    assert any("2 of 5 items were trained on, box AP" in note for note in whole.about.notes)
    assert whole.facts["held_out"]["items"] == 3
    others = uniformer.evaluate((model, learnt), data, device="cpu", workers=0, split="held-out")
    assert others.scores.paths == tuple(data.item_names()[i] for i in (1, 3, 4))
    assert others.metrics["box_ap"] == whole.facts["held_out"]["box_ap"]


def test_how_answers_are_made_can_be_said(nets: Any, sets: Any, cli: Cli, tmp_path: Path) -> None:
    words = [*asked("segmentation", nets, sets), "--out", tmp_path]
    ended = cli(*words, "--mode", "multi-scale", "--no-flip")
    assert ended.status == 0
    assert ", flip=False, mode=multi-scale, float32\n" in ended.out
    assert any("mode=multi-scale" in line for line in json.loads((tmp_path / "metrics.json").read_text())["lines"])
    assert "holds answers of another run (views differ)" in refusal(cli(*words))
    assert "expected mode whole, slide, multi-scale, got 'all'" in refusal(cli(*words, "--mode", "all"))
    predictor = uniformer.Predictor(nets["segmentation"], device="cpu", mode="multi-scale", flip=False)
    said = predictor(sets["segmentation"] / "images/val/0.jpg").labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "predictions/0.png")), said)
    assert "unknown option 'mode' of pose" in refusal(cli(*asked("pose", nets, sets), "--mode", "slide"))


def test_a_model_at_hand_is_scored_as_its_file_is(nets: Any, sets: Any) -> None:
    """As in the middle of a training: in training mode before and after."""
    model, contract, _ = load_model(nets["pose"])
    data = open_annotated(sets["pose"], split="val", task="pose")
    model.train()
    scores = evaluate_model(model, data, task_of(contract), workers=0)
    assert model.training
    assert scores.metrics() == uniformer.evaluate(nets["pose"], data, device="cpu", workers=0).metrics
    with refused("expected data annotated for pose, as the checkpoint is for it, got some for detection"):
        evaluate_model(model, open_annotated(sets["detection"], split="val"), task_of(contract), workers=0)


def test_reading_by_processes_gives_the_same(nets: Any, sets: Any) -> None:
    one, two = (uniformer.evaluate(nets["pose"], sets["pose"], device="cpu", workers=n) for n in (0, 1))
    assert one.metrics == two.metrics


# ---- several processes, and kills ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_and_two_processes_give_the_same_digits(nets: Any, sets: Any, tmp_path: Path) -> None:
    two = tmp_path / "two"
    assert ended(*(start_work(two, evaluate_all, nets, sets, two, **place) for place in places(2))) == 0, said(two)
    for task in TASKS:
        evaluated(task, nets[task], sets[task], tmp_path / "one" / task)
        assert len(list((two / task / "answers").glob("rows-*.bin"))) == 2
        assert same_files(tmp_path / "one" / task, two / task)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(nets: Any, sets: Any, tmp_path: Path, cli: Cli) -> None:
    truths, _, sizes = made(12, 30)  # enough that it is killed long before the end
    many = write_set(tmp_path / "many", truths, sizes, ORDER)
    words = [*asked("detection", nets, {**sets, "detection": many}), "--out"]
    rows = tmp_path / "cut/answers/rows-0.bin"
    child = start_command([*words, str(tmp_path / "cut")], tmp_path)
    assert kill(child, lambda: rows.exists() and rows.stat().st_size > 0), said(tmp_path)
    before = rows.read_bytes()
    assert cli(*words, tmp_path / "cut").status == 0
    assert rows.read_bytes().startswith(before[:100])
    assert len(rows.read_bytes()) > len(before)
    assert cli(*words, tmp_path / "whole").status == 0
    assert same_files(tmp_path / "whole", tmp_path / "cut")
