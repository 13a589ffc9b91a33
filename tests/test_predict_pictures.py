"""`uniformer predict` with networks for whole pictures: answers, drawings and maps of pictures and videos, gone on with
after a kill; one line for what is wrong."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import odd_media
from tests.command_line import Cli, Ended, one_line, spawn, without_progress
from tests.test_dense_predict import network
from tests.test_drawn_film import BEEP, beep_in, with_sound
from tests.tiny import refused
from uniformer.checkpoints.save import save_checkpoint
from uniformer.inference.people import people_from
from uniformer.inference.predictor import Predictor
from uniformer.labels import load_classes
from uniformer.reading.tiles import tiles_of
from uniformer.reading.video import open_video
from uniformer.tasks.person_boxes import people_found_by
from uniformer.tasks.task import Failure

CLASSES = {"mask_rcnn": load_classes("COCO 2017"), "semantic_fpn": load_classes("ADE20K"), "topdown": ()}
Predict = Callable[..., Ended]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, a segmenter and a pose network with random weights."""
    folder = tmp_path_factory.mktemp("nets")
    for head, classes in CLASSES.items():
        model, contract = network(head)
        contract = replace(contract, classes=classes or contract.classes, id=f"tiny.{head}")
        save_checkpoint(model, folder / f"{head}.safetensors", contract)
    return folder


@pytest.fixture
def predict(cli: Cli, nets: Path) -> Predict:
    def run(head: str, *args: object) -> Ended:
        ended = cli("predict", "--checkpoint", nets / f"{head}.safetensors", *args)
        return ended._replace(err=without_progress(ended.err))

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a new user has them: in the folder one is in, with spaces, one broken, two of one name."""
    (tmp_path / "my pictures" / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a street.jpg", "7.png", "more/7.jpg"):
        Image.fromarray(rng.integers(0, 256, (60, 100, 3), np.uint8)).save(tmp_path / "my pictures" / name)
    (tmp_path / "my pictures" / "broken.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def rows_of(path: str | Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def told_in(path: Path) -> list[Any]:
    """What a file of answers says, but for how long they took."""
    return rows_of(path) if path.suffix == ".csv" else [{**answer, "timings": None} for answer in lines_of(path)]


def inputs(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "my pictures").rglob("*") if path.is_file()}


def same_pixels(one: Path, other: Path) -> bool:
    with Image.open(one) as a, Image.open(other) as b:
        return np.array_equal(np.asarray(a), np.asarray(b))


SOURCES = ["my pictures/7.png", "my pictures/a street.jpg", "my pictures/more/7.jpg"]
FOUND = ("--score", 0.012, "--most", 3)

# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures(predict: Predict, folder: Path) -> None:
    before = inputs(folder)
    ended = predict("mask_rcnn", "my pictures", *FOUND, "--out", "found.jsonl", "--draw", "drawn here")
    assert (ended.status, ended.out) == (1, "")
    broken, summary, name = ended.err.splitlines()
    assert "my pictures/broken.jpg: expected an image" in broken
    assert (summary, name) == ("1 of 4 files failed:", "  my pictures/broken.jpg")
    answers = {answer["source"]: answer for answer in lines_of("found.jsonl")}
    assert sorted(answers) == sorted([*SOURCES, "my pictures/broken.jpg"])
    assert all(len(answers[source]["objects"]) == 3 for source in SOURCES)
    drawn = sorted(path.name for path in Path("drawn here").iterdir())
    assert drawn == ["7.2.jpg", "7.png", "a street.jpg"]
    assert not same_pixels(folder / "drawn here/7.png", folder / "my pictures/7.png")
    assert inputs(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["drawn here", "found.jsonl", "my pictures"]


def test_table_and_csv(predict: Predict, folder: Path) -> None:
    ended = predict("mask_rcnn", SOURCES[0], *FOUND)
    title, *lines = ended.out.splitlines()
    assert (ended.status, title, len(lines)) == (0, SOURCES[0], 3)
    ended = predict("mask_rcnn", SOURCES[0], SOURCES[2], "--out", "none.csv")  # with random weights nothing is sure
    assert ended.status == 0
    rows = rows_of("none.csv")
    assert [(row["source"], row["rank"], row["count"]) for row in rows] == [
        (SOURCES[0], "0", "0"),
        (SOURCES[2], "0", "0"),
    ]
    assert predict("mask_rcnn", SOURCES[0], *FOUND, "--keep", "cat, Dog", "--out", "kept.csv").status == 0
    kept = rows_of("kept.csv")
    assert {row["name"] for row in kept} <= {"cat", "dog"}


def test_maps_are_the_classes_of_pixels(predict: Predict, folder: Path) -> None:
    assert predict("semantic_fpn", *SOURCES, "--maps", "maps", "--draw", "drawn", "--out", "found.jsonl").status == 0
    answer = lines_of("found.jsonl")[1]
    with Image.open("maps/a street.png") as image:
        labels = np.asarray(image)
    assert (labels.shape, labels.dtype) == ((60, 100), np.uint8)
    shares = {region["label"]: region["share"] for region in answer["regions"]}
    assert shares == {label: round(float((labels == label).mean()), 6) for label in np.unique(labels).tolist()}
    with Image.open("drawn/7.png") as image:
        assert image.mode == "RGB"  # drawn, not a map
        assert image.width > 100


def test_coco_is_one_file_of_all(predict: Predict, folder: Path) -> None:
    ended = predict("mask_rcnn", "my pictures", *FOUND, "--format", "coco", "--out", "results.json")
    assert "results.json: 9 results; the answers as JSON lines: results.json.jsonl" in ended.err
    results = json.loads(Path("results.json").read_text())
    pictures = ("my pictures/7.png", "a street.jpg", "my pictures/more/7.jpg")  # two would be 7
    assert [row["image_id"] for row in results] == [name for name in pictures for _ in range(3)]
    assert results[0]["category_id"] > 0
    answers = Path("results.json.jsonl").read_bytes().splitlines(keepends=True)
    Path("results.json.jsonl").write_bytes(b"".join(answers[:2]) + answers[2][:50])  # as a kill leaves it
    ended = predict("mask_rcnn", "my pictures", *FOUND, "--format", "coco", "--out", "results.json", "--resume")
    assert "had a result already" in ended.err
    again = json.loads(Path("results.json").read_text())
    assert sorted(map(json.dumps, again)) == sorted(map(json.dumps, results))
    one_line(predict("mask_rcnn", SOURCES[0], "--format", "coco"), "--format coco needs --out")
    Path("mine.json").write_text("[]")
    ended = predict("mask_rcnn", SOURCES[0], "--format", "coco", "--out", "mine.json", "--resume")
    one_line(ended, "mine.json: expected mine.json.jsonl beside it to go on with")
    assert Path("mine.json").read_text() == "[]"


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_run_that_was_killed_goes_on(form: str, predict: Predict, folder: Path) -> None:
    out = Path(f"found.{form}")
    assert predict("semantic_fpn", *SOURCES, "--out", out).status == 0
    whole, told = out.read_bytes(), told_in(out)
    for cut in (-3, len(whole) // 2):
        out.write_bytes(whole[:cut])
        assert predict("semantic_fpn", *SOURCES, "--out", out, "--resume").status == 0
        assert told_in(out) == told
    other = predict("semantic_fpn", *SOURCES, "--flip", "--out", out, "--resume")
    one_line(other, f"{out}: line", "of a checkpoint with other weights or options")


def test_answers_without_the_mirror_are_others(predict: Predict, folder: Path) -> None:
    """Pose networks look at the mirrored crop too: `--no-flip` changes the answers, as `--flip` does elsewhere."""
    assert predict("topdown", *SOURCES, "--no-flip", "--out", "found.jsonl").status == 0
    for other in ((), ("--flip",)):
        ended = predict("topdown", *SOURCES, *other, "--out", "found.jsonl", "--resume")
        assert (ended.status, "of a checkpoint with other weights or options" in ended.err) == (2, True)
    same = predict("topdown", *SOURCES, "--no-flip", "--out", "found.jsonl", "--resume")
    assert (same.status, "3 files had a result already" in same.err) == (0, True)


def test_drawings_that_are_missing_are_made_of_the_answers(predict: Predict, folder: Path) -> None:
    command = ("semantic_fpn", *SOURCES, "--out", "found.jsonl", "--draw", "drawn", "--maps", "maps")
    assert predict(*command).status == 0
    shutil.copytree("drawn", "before")
    shutil.copytree("maps", "maps before")
    answers = Path("found.jsonl").read_bytes()
    Path("drawn/7.png").unlink()
    Path("maps/7.2.png").unlink()
    ended = predict(*command, "--resume")
    assert (ended.status, ended.err) == (0, "3 files had a result already\n")
    assert Path("found.jsonl").read_bytes() == answers  # and not seen again
    for place, was in (("drawn", "before"), ("maps", "maps before")):
        assert sorted(path.name for path in Path(place).iterdir()) == sorted(path.name for path in Path(was).iterdir())
        assert all(same_pixels(path, Path(was, path.name)) for path in Path(place).iterdir())


# ---- videos ----------------------------------------------------------------------------------------------------------


def test_every_frame_of_a_video_has_a_line_and_is_drawn(predict: Predict, folder: Path) -> None:
    with_sound(folder / "my film.mp4", frames=20, start=0.2)
    ended = predict("semantic_fpn", "my film.mp4", SOURCES[0], "--every", 4, "--out", "found.jsonl", "--draw", "drawn")
    assert (ended.status, ended.err) == (0, "")
    *frames, picture = lines_of("found.jsonl")
    assert [(answer["source"], answer["frame"]) for answer in frames] == [("my film.mp4", n) for n in range(0, 20, 4)]
    assert [answer["time"] for answer in frames] == pytest.approx([n / 25 for n in range(0, 20, 4)])
    assert "frame" not in picture
    with open_video("drawn/my film.mp4") as reader:
        assert reader.times(range(5)) == pytest.approx([n / 25 for n in range(0, 20, 4)], abs=1e-3)
        assert reader.info.width > 200  # with the legend
    assert beep_in(folder / "drawn/my film.mp4") == pytest.approx(BEEP - 0.2, abs=0.03)
    table = predict("semantic_fpn", "my film.mp4", "--every", 10).out
    assert "my film.mp4, frame 10, 0.40 s\n" in table


def test_a_film_that_was_cut_short_goes_on(predict: Predict, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_sound(folder / "a.mp4", frames=12)
    command = ("topdown", "a.mp4", "--out", "found.jsonl", "--draw", "drawn.mp4")
    assert predict(*command).status == 0
    whole, film = told_in(Path("found.jsonl")), Path("drawn.mp4")
    with open_video(film) as reader:
        pixels = reader.read(range(12))
    text = Path("found.jsonl").read_bytes().splitlines(keepends=True)
    Path("found.jsonl").write_bytes(b"".join(text[:7]) + text[7][:99])
    film.unlink()
    seen = list[int]()
    answered = Predictor.answers

    def counting(self: Predictor, items: Any, *args: Any) -> Any:
        return answered(self, (seen.append(item.number) or item for item in items), *args)

    monkeypatch.setattr(Predictor, "answers", counting)
    assert predict(*command, "--resume").status == 0
    assert seen == [7, 8, 9, 10, 11]
    assert told_in(Path("found.jsonl")) == whole
    with open_video(film) as reader:
        again = reader.read(range(12))
    with open_video("a.mp4") as reader:
        drawn = np.abs(reader.read(range(12)).astype(int) - pixels).mean(axis=(1, 2, 3))
    assert (np.abs(again.astype(int) - pixels).mean(axis=(1, 2, 3)) < drawn / 4).all()  # H.264 varies from run to run
    ended = predict(*command, "--resume")
    assert ended.status == 0
    assert "1 file had a result already\n" in ended.err
    assert len(seen) == 5


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_frames_that_cannot_be_decoded_are_told(form: str, predict: Predict, folder: Path) -> None:
    broken = odd_media.broken_middle(folder)
    out = Path(f"found.{form}")
    ended = predict("semantic_fpn", broken, "--every", 3, "--out", out, "--draw", "drawn.mp4")
    with open_video(broken) as reader:
        readable = {number for number, _ in reader.all_pictures()}
        count = reader.info.num_frames
    numbers = list(range(0, count, 3))
    lost = [number for number in numbers if number not in readable]
    assert 0 < len(lost) < len(numbers)
    assert (ended.status, ended.err) == (0, f"{broken}: {len(lost)} of {len(numbers)} frames cannot be decoded\n")
    answers = lines_of(out) if form == "jsonl" else rows_of(out)
    assert sorted({int(answer["frame"]) for answer in answers}) == numbers
    assert [int(answer["frame"]) for answer in answers if answer.get("error")] == lost
    with open_video("drawn.mp4") as reader:
        assert reader.info.num_frames == len(numbers) - len(lost)
    before = out.read_bytes()
    again = predict("semantic_fpn", broken, "--every", 3, "--out", out, "--resume")
    assert (again.status, again.err) == (0, "1 file had a result already\n")
    assert out.read_bytes() == before


def test_a_broken_video_does_not_end_the_others(predict: Predict, folder: Path) -> None:
    Path("a.mp4").write_bytes(b"no video" * 99)
    ended = predict("semantic_fpn", "a.mp4", SOURCES[0], "--format", "jsonl", "--draw", "drawn")
    assert ended.status == 1
    first, second = map(json.loads, ended.out.splitlines())
    assert "a.mp4: expected a video" in first["error"]
    assert second["regions"]
    assert [path.name for path in Path("drawn").iterdir()] == ["7.png"]


def test_a_video_whose_frames_have_no_answer_failed_once(predict: Predict, folder: Path) -> None:
    with_sound(folder / "thin.mp4", frames=4, size=(640, 16))  # too narrow for the network
    ended = predict("semantic_fpn", "thin.mp4", SOURCES[0], "--format", "jsonl")
    assert (ended.status, ended.err.splitlines()[-2:]) == (1, ["1 of 2 files failed:", "  thin.mp4"])
    assert [("error" in answer) for answer in map(json.loads, ended.out.splitlines())] == [True] * 4 + [False]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_frames_that_have_no_answer_are_tried_again(form: str, predict: Predict, folder: Path) -> None:
    """Unlike those that cannot be decoded: memory may have been short."""
    with_sound(folder / "thin.mp4", frames=2, size=(640, 16))
    out = Path(f"found.{form}")
    assert predict("semantic_fpn", "thin.mp4", "--out", out).status == 1
    again = predict("semantic_fpn", "thin.mp4", "--out", out, "--resume")
    assert (again.status, again.err.splitlines()[-2:]) == (1, ["1 of 1 file failed:", "  thin.mp4"])
    answers = lines_of(out) if form == "jsonl" else rows_of(out)
    assert [int(answer["frame"]) for answer in answers if answer["error"]] == [0, 1]


def test_frames_in_python_are_pictures(nets: Path, folder: Path) -> None:
    video = odd_media.h264(folder)
    predictor = Predictor(nets / "semantic_fpn.safetensors")
    with open_video(video) as reader:
        pixels = reader.read(range(0, 60, 25))
    found = list(predictor.frames(video, every=25))
    assert [(result.frame, result.time, result.source) for result in found] == [
        (n, pytest.approx(n / 25), str(video)) for n in (0, 25, 50)
    ]
    for result, picture in zip(found, pixels, strict=True):
        assert np.array_equal(result.labels, predictor(picture).labels)
        assert result.plot(picture).height == picture.shape[0]
        with refused("expected the picture to draw on"):
            result.plot()
    lost = [result for result in predictor.frames(odd_media.broken_middle(folder)) if isinstance(result, Failure)]
    assert lost
    with refused("expected every of at least 1, got 0"):
        list(predictor.frames(video, every=0))


FLAT = """
import sys
from itertools import islice
from tests.memory import peak_kilobytes
from uniformer.inference.predictor import Predictor
from uniformer.inference.frames import see_frames
from uniformer.reading.video import open_video
from uniformer.tasks.drawn_film import film_of
net, film, out = sys.argv[1:]
predictor = Predictor(net)
with open_video(film) as reader, film_of(film, out, start=0, rate=25) as drawn:
    for seen in see_frames(predictor, reader, film):
        drawn.add(seen.answer.draw(seen.picture()), seen.time)
        if seen.number == 40:
            first = peak_kilobytes()
print(peak_kilobytes() - first, seen.number)
"""


def test_memory_does_not_grow_with_a_video(nets: Path, folder: Path) -> None:
    film = with_sound(folder / "long.mp4", frames=140, size=(640, 360))
    script = folder / "flat.py"
    script.write_text(FLAT)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script, nets / "topdown.safetensors", film, folder / "drawn.mp4"],
        capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    grown, last = map(int, done.stdout.split())
    assert last == 139, done.stderr
    assert grown < 30_000  # kilobytes: a hundred frames are 68 MB


# ---- people ----------------------------------------------------------------------------------------------------------


def test_people_by_a_file_and_by_a_detector(predict: Predict, nets: Path, folder: Path) -> None:
    Path("boxes.csv").write_text("path,x1,y1,x2,y2\nmy pictures/7.png,5,5,50,55\nmy pictures/7.png,40,10,90,50\n")
    ended = predict("topdown", SOURCES[0], SOURCES[1], "--boxes", "boxes.csv", "--format", "jsonl", "--draw", "drawn")
    first, second = map(json.loads, ended.out.splitlines())
    assert [person["box"] for person in first["people"]] == [[5, 5, 50, 55], [40, 10, 90, 50]]
    assert second["error"] == f"boxes.csv: lists no people of {SOURCES[1]}"
    assert f"boxes.csv: lists no people of 1 picture ({SOURCES[1]})\n" in ended.err
    assert ended.status == 1
    ended = predict("topdown", SOURCES[0], "--format", "jsonl")
    assert ended.err == "no --boxes given: one person is looked for, who fills the picture\n"
    assert [person["box"] for person in json.loads(ended.out)["people"]] == [[0, 0, 100, 60]]
    ended = predict("topdown", SOURCES[0], "--boxes", nets / "mask_rcnn.safetensors", "--format", "jsonl")
    assert (ended.status, json.loads(ended.out)["people"]) == (0, [])  # none of random weights is sure of people
    sure = Predictor(nets / "mask_rcnn.safetensors", score=0.0, most=4, keep=("person",))
    people = Predictor(nets / "topdown.safetensors", people=people_found_by(sure), alike=1.0)(SOURCES[0])
    assert np.array_equal(np.sort(people.boxes, axis=0), np.sort(sure(SOURCES[0]).boxes, axis=0))
    with refused("lists no people of ndarray"):
        people_from("boxes.csv").people(np.zeros((9, 9, 3), np.uint8), 9, 9)


# ---- tiles -----------------------------------------------------------------------------------------------------------


def test_tiles_are_seen_as_pictures_and_answer_for_their_parts(nets: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 170, 3), np.uint8)
    usual = Predictor(nets / "semantic_fpn.safetensors")
    tiled = Predictor(nets / "semantic_fpn.safetensors", tile=64)
    whole = Predictor(nets / "semantic_fpn.safetensors", tile=8192)
    assert np.array_equal(whole(pixels).labels, usual(pixels).labels)
    found = tiled(pixels).labels
    assert found.shape == (90, 170)
    for tile in list(tiles_of(90, 170, 64))[::3]:
        alone = usual(pixels[tile.rows, tile.columns]).labels
        assert np.array_equal(found[tile.kept_rows, tile.kept_columns], alone[tile.inside])


# ---- one line for what is wrong --------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, tuple[object, ...], str]] = {
    "an option of another task": ("mask_rcnn", ("--mode", "slide"), "--mode is for segmentation: tiny.mask_rcnn is"),
    "a score of pixels": ("semantic_fpn", ("--score", 0.3), "--score is for detection and pose: tiny.semantic_fpn is"),
    "boxes for a detector": ("mask_rcnn", ("--boxes", "x.json"), "--boxes is for pose"),
    "labels of a picture": ("semantic_fpn", ("--top-k", 3), "--top-k is for classification"),
    "sampling": ("topdown", ("--show-sampling", "x.png"), "--show-sampling is for classification"),
    "an unknown mode": ("semantic_fpn", ("--mode", "tiles"), "expected mode whole, slide, multi-scale, got 'tiles'"),
    "an unknown class": ("mask_rcnn", ("--keep", "persn"), "got 'persn' (did you mean 'person'?)"),
    "no class": ("mask_rcnn", ("--keep", ","), "expected names with commas between them, got none"),
    "a score above 1": ("mask_rcnn", ("--score", 2), "expected a number from 0 to 1, got 2"),
    "drawing over the input": ("mask_rcnn", ("--draw", "my pictures"), "it would replace the input my pictures/7.png"),
    "drawing into another kind of file": ("mask_rcnn", ("--draw", "x.gif"), "x.gif: expected a name that ends in .jpg"),
    "answers over the input": ("mask_rcnn", ("--out", SOURCES[0]), "it would replace the input"),
    "drawings of a table": (
        "mask_rcnn", ("--draw", "d", "--out", "x.csv", "--resume"), "--resume with --draw or --maps needs",
    ),
    "boxes that are not there": ("topdown", ("--boxes", "none.json"), "none.json: expected boxes of people"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_one_line_for_what_is_wrong(wrong: str, predict: Predict, folder: Path) -> None:
    head, options, said = WRONG[wrong]
    before = inputs(folder)
    one_line(predict(head, SOURCES[0], *options), said)
    assert inputs(folder) == before
    assert [path.name for path in folder.iterdir()] == ["my pictures"]


def test_more_that_is_wrong(predict: Predict, nets: Path, folder: Path, cli: Cli) -> None:
    one_line(predict("mask_rcnn", *SOURCES, "--draw", "x.jpg"), "expected a folder to draw 3 files into")
    odd_media.h264(folder)
    one_line(predict("semantic_fpn", "h264.mp4", "--maps", "m"), "--maps is for pictures, got the video h264.mp4")
    one_line(predict("semantic_fpn", "h264.mp4", "--draw", "x.avi"), "x.avi: expected a name that ends in .mp4")
    Path("boxes.csv").write_text("h264.mp4,5,5,50,55\n")
    one_line(
        predict("topdown", SOURCES[0], "h264.mp4", "--boxes", "boxes.csv"),
        "got the video h264.mp4: expected a detector",
    )
    one_line(
        predict("topdown", SOURCES[0], "--boxes", nets / "semantic_fpn.safetensors"),
        "expected a detector to find people",
    )
    classifier = cli("predict", SOURCES[0], "--untrained", "uniformer_nano_video", "--every", 2)
    assert classifier.status == 2
    assert (
        "--every is for detection, segmentation and pose: uniformer_nano_video is for classification" in classifier.err
    )
    one_line(cli("predict", SOURCES[0], "--every", 2), "--every is for detection", "name a checkpoint of these")
    one_line(cli("predict", SOURCES[0], "--format", "coco"), "--format coco is for detection, segmentation and pose")
    Path("drawn").mkdir()
    Path("drawn/7.png").write_bytes(b"mine")
    one_line(predict("mask_rcnn", SOURCES[0], "--draw", "drawn"), "drawn/7.png: it is there already", "--overwrite")
    assert Path("drawn/7.png").read_bytes() == b"mine"
    assert predict("mask_rcnn", SOURCES[0], "--draw", "drawn", "--overwrite").status == 0


@pytest.mark.parametrize(("head", "options"), [("mask_rcnn", ("--keep", "cat,dog")), ("upernet", ("--keep", "sky"))])
def test_names_to_keep_want_names(head: str, options: tuple[str, ...], folder: Path, cli: Cli) -> None:
    model, contract = network(head)
    save_checkpoint(model, "bare.safetensors", replace(contract, classes=()))
    ended = cli("predict", "--checkpoint", "bare.safetensors", *SOURCES, *options, "--out", "a.jsonl", "--draw", "d")
    names = ", ".join(options[1].split(","))
    one_line(ended, f"expected class names to keep {names} by, the checkpoint has none: classes= (--classes) tells")
    assert sorted(path.name for path in folder.iterdir()) == ["bare.safetensors", "my pictures"]


def test_a_pose_network_without_mirrored_pairs(folder: Path, cli: Cli) -> None:
    model, contract = network("topdown")
    save_checkpoint(model, "bare.safetensors", replace(contract, details={}))
    command = ("predict", "--checkpoint", "bare.safetensors", *SOURCES, "--out", "a.jsonl", "--draw", "drawn")
    ended = cli(*command)
    said = ended.err.replace("no --boxes given: one person is looked for, who fills the picture\n", "")
    one_line(ended._replace(err=said), "expected a contract with flip_pairs for flip=True", "--no-flip")
    assert sorted(path.name for path in folder.iterdir()) == ["bare.safetensors", "my pictures"]
    read = list[object]()
    with refused("expected a contract with flip_pairs"):
        list(Predictor("bare.safetensors").run(SOURCES, on_views=lambda source, _: read.append(source)))
    assert read == []
    assert cli(*command, "--no-flip").status == 0


def test_untrained_networks_in_a_process_of_their_own(folder: Path) -> None:
    """As in the documentation, from where the pictures are."""
    ended = spawn("predict", SOURCES[0], "--untrained", "semantic_fpn.uniformer_nano", "--draw", "out", "--quiet")
    assert ended.status == 0, ended.err
    assert ended.err == "semantic_fpn.uniformer_nano with random weights: its labels mean nothing\n"
    assert Path("out/7.png").is_file()
