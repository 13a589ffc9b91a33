"""Answers to whole pictures: their forms, files and pictures."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import TINY, refused
from uniformer.checkpoints.contract import Contract
from uniformer.labels import category_ids, load_classes, load_palette
from uniformer.reading.run_lengths import encode_mask
from uniformer.tasks import drawing
from uniformer.tasks.detections import Detections
from uniformer.tasks.pictured import PictureResult
from uniformer.tasks.poses import Poses
from uniformer.tasks.segmentations import Segmentation

HEIGHT, WIDTH = 60, 90
COCO, ADE = load_classes("COCO 2017"), load_classes("ADE20K")
POINTS = ("nose", "left_hand", "right_hand", "left_foot", "right_foot")
LIMBS = ((1, 3), (2, 4), (1, 2))


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def detections(count: int = 3, **options: Any) -> Detections:
    corners = [(10, 20, 20), (30, 50, 25), (0, 0, 8)][:count]
    boxes = [(left, top, left + side, top + side) for top, left, side in corners]
    return Detections(
        source="street.jpg", checkpoint="tiny.test", height=HEIGHT, width=WIDTH, names=COCO,
        boxes=np.array(boxes, np.float32).reshape(-1, 4), scores=np.array([0.9, 0.5, 0.25][:count], np.float32),
        labels=np.array([0, 79, 12][:count], np.int64), masks=tuple(encode_mask(square(*c)) for c in corners),
        timings={"network": 0.125},
    ) if not options else replace(detections(count), **options)  # fmt: skip


def segmentation(**options: Any) -> Segmentation:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[square(5, 5, 30)] = 12
    labels[square(40, 60, 10)] = 149
    labels[0, :9] = 255
    given = {"labels": labels, "classes": ADE, "palette": load_palette("ADE20K"), **options}
    return Segmentation(source="street.jpg", height=HEIGHT, width=WIDTH, **given)


def poses(count: int = 2) -> Poses:
    places = np.array([[30, 5], [20, 20], [40, 20], [22, 50], [38, 50]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1], np.float32)
    people = [np.column_stack([places + np.array([30 * i, 0]), scores]) for i in range(count)]
    return Poses(
        source="street.jpg", height=HEIGHT, width=WIDTH, names=POINTS, skeleton=LIMBS,
        keypoints=np.array(people, np.float32).reshape(-1, 5, 3),
        boxes=np.array([[18 + 30 * i, 2, 42 + 30 * i, 55] for i in range(count)], np.float32).reshape(-1, 4),
        scores=np.array([0.75, 0.5][:count], np.float32),
    )  # fmt: skip


ANSWERS: dict[str, Callable[[], PictureResult]] = {
    "detections": detections,
    "no detections": lambda: detections(0),
    "boxes alone": lambda: detections(masks=None),
    "segmentation": segmentation,
    "segmentation in colours of ours": lambda: segmentation(palette=()),
    "segmentation without any": lambda: segmentation().only(["bed"]),
    "segmentation of many classes": lambda: segmentation(
        labels=segmentation().labels.astype(np.uint16) * 2, classes=tuple(f"c{i}" for i in range(600)), palette=()
    ),
    "some of many classes": lambda: ANSWERS["segmentation of many classes"]().only(["c24", "c298"]),  # type: ignore[attr-defined]
    "poses": poses,
    "nobody": lambda: poses(0),
}
answers = pytest.mark.parametrize("make", ANSWERS.values(), ids=ANSWERS)


def contract_of(result: PictureResult) -> Contract:
    """What a checkpoint that gave the answer would say."""
    names = result.classes if isinstance(result, Segmentation) else result.names  # type: ignore[attr-defined]
    details = {name: getattr(result, name) for name in ("palette", "skeleton") if getattr(result, name, ())}
    config = replace(TINY, num_classes=len(names))
    return Contract(config, classes=names, details={k: [list(v) for v in d] for k, d in details.items()})


def equal(a: PictureResult, b: PictureResult) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype, name
            assert np.allclose(other, value, atol=0.005), name
        elif name not in ("timings", "regions", "masks"):
            assert other == value, name


@answers
def test_what_is_written_as_json_is_read_back(make: Callable[[], PictureResult]) -> None:
    result = replace(make(), frame=7, time=0.28, notes=("odd",))
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (plain["source"], plain["height"], plain["frame"], plain["time"]) == ("street.jpg", HEIGHT, 7, 0.28)
    back = type(result).from_dict(plain, contract_of(result))
    equal(result, back)
    assert back.answer() == result.answer()
    assert "frame" not in make().to_dict()


@pytest.mark.parametrize("plain", [{}, {"source": "x", "height": 1, "width": 1}, {"source": "x", "objects": 3}])
@answers
def test_what_is_no_answer_is_refused_in_a_line(make: Callable[[], PictureResult], plain: dict[str, Any]) -> None:
    with refused("expected an answer with"):
        type(make()).from_dict(plain, contract_of(make()))


WHERE = {"source": "x", "height": 2, "width": 2}
TWO = {"label": 1, "mask": {"size": [2, 2], "counts": [0, 4]}}
THING = {"box": [1, 2, 3, 4], "score": 0.5, "label": 1}


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (detections, {"objects": [3]}),
        (segmentation, {"regions": [3]}),
        (poses, {"people": [3]}),
        (detections, {"objects": [{**THING, "box": [1, 2, 3]}]}),
        (detections, {"objects": [{**THING, "label": 80}]}),
        (detections, {"objects": [{**THING, **TWO}, THING]}),
        (detections, {"objects": [{**THING, "mask": 3}]}),
        (segmentation, {"regions": [{**TWO, "label": 300}]}),
        (segmentation, {"regions": [{**TWO, "label": -1}]}),
        (segmentation, {"regions": [{**TWO, "mask": {"size": [1, 1], "counts": [0, 1]}}]}),
        (poses, {"people": [{"keypoints": [[1, 2]], "box": [1, 2, 3, 4], "score": 0.5}]}),
    ],
)
def test_parts_that_are_none_are_refused_in_a_line(make: Callable[[], PictureResult], plain: dict[str, Any]) -> None:
    with refused("expected .* answer|expected masks of "):
        type(make()).from_dict(WHERE | plain, contract_of(make()))


@answers
def test_rows_for_programs_and_lines_for_people(make: Callable[[], PictureResult]) -> None:
    result = make()
    rows, fields = result.csv_rows(), type(result).CSV_FIELDS
    assert all(len(row) == len(fields) for row in rows)
    said = [dict(zip(fields, row, strict=True)) for row in rows]
    if said[0]["rank"] == 0:  # nothing was found: that is an answer too
        assert len(rows) == 1
        assert result.lines() in (["nothing found"], ["nobody found"])
    else:
        assert [(row["rank"], row["count"]) for row in said] == [(i, len(rows)) for i in range(1, len(rows) + 1)]
    assert all("\n" not in line for line in result.lines())


# ---- what they say ---------------------------------------------------------------------------------------------------


def test_detections_as_coco_has_them() -> None:
    first, second, third = detections().to_coco(42)
    assert first == {
        "image_id": 42, "category_id": 1, "bbox": [20.0, 10.0, 20.0, 20.0], "score": pytest.approx(0.9),
        "segmentation": encode_mask(square(10, 20, 20)),
    }  # fmt: skip
    assert (second["category_id"], third["category_id"]) == (90, 14)  # toothbrush; COCO's numbers have gaps
    own = detections(names=("cat", "dog"), labels=np.array([1, 0, 1]), masks=None).to_coco("a.jpg")
    assert [row["category_id"] for row in own] == [2, 1, 2]
    assert "segmentation" not in own[0]
    assert [row["category_id"] for row in detections(names=()).to_coco(1)] == [1, 80, 13]


def test_categories_of_coco() -> None:
    ids = category_ids(COCO)
    assert (len(ids), ids[0], ids[11], ids[-1]) == (80, 1, 13, 90)
    assert category_ids(COCO[:3]) == (1, 2, 3)


def test_things_are_chosen_by_place_and_by_class() -> None:
    result = detections()
    assert result.select([2, 0]).labels.tolist() == [12, 0]
    assert result.select(result.scores > 0.4).labels.tolist() == [0, 79]
    assert len(result.select([])) == 0
    chosen = result.only(["Person", "parking meter"])  # in any spelling
    assert [chosen.name(i) for i in range(len(chosen))] == ["person", "parking meter"]
    assert np.array_equal(chosen.mask(1), square(0, 0, 8))
    with refused("expected classes of the checkpoint, got 'preson' .did you mean 'person'"):
        result.only(["preson"])
    with refused("expected a network that makes masks"):
        detections(masks=None).mask(0)


def test_regions_of_a_map() -> None:
    result = segmentation()
    assert [(r.name, r.label) for r in result.regions] == [("wall", 0), ("person", 12), ("flag", 149)]
    assert result.regions[1].share == 900 / (HEIGHT * WIDTH)
    only = result.only(["person"])
    assert [r.name for r in only.regions] == ["person"]
    assert set(np.unique(only.labels)) == {12, 255}
    assert [row["category_id"] for row in result.to_coco(1)] == [1, 13, 150]


def test_poses_as_coco_has_them() -> None:
    first = poses().to_coco(5)[0]
    assert (first["category_id"], len(first["keypoints"]), first["keypoints"][:2]) == (1, 15, [30.0, 5.0])
    assert poses().seen().tolist() == [[True] * 4 + [False]] * 2
    assert poses().select([1]).scores.tolist() == [0.5]


def test_as_supervision_has_them() -> None:
    things = detections().to_supervision()
    assert (things.xyxy.shape, things.mask.shape) == ((3, 4), (3, HEIGHT, WIDTH))
    assert things.data["class_name"].tolist() == ["person", "toothbrush", "parking meter"]
    assert np.array_equal(things.mask[1], square(30, 50, 25))
    assert len(detections(0).to_supervision()) == 0
    regions = segmentation().to_supervision()
    assert regions.xyxy[2].tolist() == [60, 40, 70, 50]
    assert regions.class_id.tolist() == [0, 12, 149]
    people = poses().to_supervision()
    assert people.xy.shape == (2, 5, 2)
    assert people.keypoint_confidence[0].tolist() == poses().keypoints[0, :, 2].tolist()


def test_what_supervision_has_becomes_ours() -> None:
    size = {"height": HEIGHT, "width": WIDTH, "source": "street.jpg"}
    for mine in (detections(), detections(masks=None), detections(0)):
        back = Detections.from_supervision(mine.to_supervision()[::-1], names=COCO, **size)  # best first again
        assert back.to_dict() | {"checkpoint": "", "timings": {}} == mine.to_dict() | {"checkpoint": "", "timings": {}}
    kept = detections().to_supervision()
    kept = Detections.from_supervision(kept[kept.confidence > 0.4], names=COCO, **size)
    assert [kept.name(i) for i in range(len(kept))] == ["person", "toothbrush"]
    regions = segmentation()
    back = Segmentation.from_supervision(regions.to_supervision(), classes=ADE, palette=regions.palette, **size)
    assert back.labels.dtype == regions.labels.dtype
    assert np.array_equal(back.labels, regions.labels)
    people = Poses.from_supervision(poses().to_supervision(), names=POINTS, skeleton=LIMBS, **size)
    assert np.array_equal(people.keypoints, poses().keypoints)
    assert people.scores.tolist() == [0.75, 0.5]
    assert people.boxes[0].tolist() == [20, 5, 40, 50]  # of the four that are seen
    assert len(Poses.from_supervision(poses(0).to_supervision(), names=POINTS, **size)) == 0


def test_what_supervision_lacks_is_one_line() -> None:
    size = {"height": HEIGHT, "width": WIDTH}
    things = detections().to_supervision()
    with refused(f"expected mask of shape \\(3, {HEIGHT}, {WIDTH + 1}\\), got"):
        Detections.from_supervision(things, names=COCO, height=HEIGHT, width=WIDTH + 1)
    with refused(r"expected class_id in 0 .. 2, got \[0, 79, 12\]"):
        Detections.from_supervision(things, names=("a", "b", "c"), **size)
    things.confidence = None
    with refused("expected results of supervision with confidence, got Detections without"):
        Detections.from_supervision(things, names=COCO, **size)
    things.mask[1, 10:20, 20:30] = True
    with refused("expected one class a pixel, got 100 of both toothbrush and person"):
        Segmentation.from_supervision(things, classes=COCO, **size)
    with refused(r"expected xy of shape \(2, 4, 2\), got \(2, 5, 2\)"):
        Poses.from_supervision(poses().to_supervision(), names=POINTS[:4], **size)


def test_without_supervision_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    for result in (detections(), segmentation(), poses()):
        with refused(r"needs the package 'supervision': pip install 'uniformer\[supervision\]'"):
            result.to_supervision()


# ---- pictures --------------------------------------------------------------------------------------------------------


def ground(value: int = 128, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


@answers
def test_a_picture_is_drawn_and_its_pixels_stay(make: Callable[[], PictureResult]) -> None:
    result, pixels = make(), ground()
    image = result.draw(pixels)
    assert (pixels == 128).all()
    assert (image.mode, image.height) == ("RGB", HEIGHT)
    changed = bool((np.asarray(image)[:, :WIDTH] != 128).any())
    assert changed == bool([line for line in result.lines() if "found" not in line])
    assert np.array_equal(np.asarray(image), np.asarray(result.plot(Image.fromarray(pixels))))


def test_masks_and_boxes_have_the_colour_of_their_class() -> None:
    image = np.asarray(detections().draw(ground(0)))
    for row, (y, x) in enumerate(((27, 35), (50, 62))):  # inside the masks, away from texts
        colour = np.array(drawing.colour_of(int(detections().labels[row])))
        assert np.abs(image[y, x] - drawing.MASK * colour).max() <= 1
    assert tuple(image[29, 25]) == drawing.colour_of(0)  # the box
    alone = np.asarray(detections(masks=None).draw(ground(0)))
    assert tuple(alone[27, 35]) == (0, 0, 0)


def test_maps_have_the_palette_and_a_legend_of_one_width() -> None:
    image = segmentation().draw(ground(0))
    palette = load_palette("ADE20K")
    for (y, x), label in (((50, 5), 0), ((10, 10), 12), ((45, 65), 149)):
        assert np.abs(np.array(image.getpixel((x, y))) - drawing.MAP * np.array(palette[label])).max() <= 1
    assert image.getpixel((3, 0)) == (0, 0, 0)  # without a class
    assert palette[12] in {colour for _, colour in image.getcolors(1 << 20)}
    assert segmentation().only(["person"]).draw(ground()).size == image.size  # as the frames of a video have to have


def test_a_map_of_few_classes_keeps_pixels_without_one(tmp_path: Path) -> None:
    labels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3
    result = segmentation(labels=labels.astype(np.uint8), classes=("sky", "sea", "sand"), palette=()).only(["sea"])
    result.save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert np.array_equal(np.asarray(image), np.where(labels == 1, 1, 255))


@pytest.mark.parametrize(
    "drawn",
    [
        lambda name: detections(1, names=(name,)).draw(ground()),
        lambda name: segmentation(classes=(name,) * 150).draw(ground()),
        lambda name: drawing.captioned(ground(), [drawing.Entry(name, 0.5, (9, 9, 9))]),
    ],
)
def test_names_are_drawn_in_words(drawn: Callable[[str], Image.Image]) -> None:
    """As the pages write them; files keep the spelling of the classes."""
    assert np.array_equal(np.asarray(drawn("pan_right")), np.asarray(drawn("pan right")))
    assert detections(1, names=("pan_right",)).rows()[0][0] == "pan_right"


def test_people_have_sides() -> None:
    pixels = np.asarray(poses(1).draw(ground()))
    assert tuple(pixels[20, 20]) == drawing.LEFT
    assert tuple(pixels[20, 40]) == drawing.RIGHT
    assert tuple(pixels[5, 30]) == drawing.MIDDLE
    assert tuple(pixels[50, 38]) == (128, 128, 128)  # its score is too low
    assert drawing.side_colour(("left_hip", "right_hip")) == drawing.MIDDLE


LONG = "a name of many words that no picture is wide enough for, " * 20


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (12, 12), (48, 64), (700, 40)])
@pytest.mark.parametrize("name", ["x", LONG, "two\nlines\x1b[31m", "\N{SNOWMAN} 雪"])
def test_texts_do_not_leave_the_picture(size: tuple[int, int], name: str) -> None:
    height, width = size
    boxes = [(0, 0, width, height), (-50, -50, -10, -10), (width - 1, height - 1, width + 90, height + 90)]
    things = [drawing.Thing(box, name, (9, 9, 9)) for box in boxes]
    assert drawing.draw_things(ground(200, size), things).size == (width, height)
    texts = drawing._Texts((width, height))
    for thing in things:
        texts.place(thing.text, thing.box, thing.colour, drawing.Pen.of(height, width))
    for (left, top, right, bottom), text, _, font in texts._placed:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert font.getlength(text) <= width
        assert text.isprintable()
    labels = np.zeros(size, np.uint8)
    names = (name, *(f"{name}{i}" for i in range(3)))
    image = Segmentation(height=height, width=width, labels=labels, classes=names).draw(ground(0, size))
    assert image.height == height


def test_texts_find_free_places() -> None:
    texts = drawing._Texts((400, 300))
    for _ in range(3):
        texts.place("person 90 %", (50, 100, 250, 250), (1, 2, 3), drawing.Pen.of(300, 400))
    spans = [span for span, *_ in texts._placed]
    assert not any(drawing._meet(a, b) for i, a in enumerate(spans) for b in spans[i + 1 :])


def test_colours_of_neighbours_are_far_apart() -> None:
    colours = np.array([drawing.colour_of(i) for i in range(100)], int)
    assert len({*map(tuple, colours.tolist())}) == 100
    assert np.abs(colours[1:] - colours[:-1]).sum(axis=1).min() > 100
    assert {drawing.ink_on((255, 255, 0)), drawing.ink_on((0, 0, 160))} == {(0, 0, 0), (255, 255, 255)}


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "a street.png"
    Image.fromarray(ground()).save(path)
    return path


@answers
@pytest.mark.parametrize("ending", [".json", ".jpg", ".webp", ".PNG"])
def test_files_by_their_ending(make: Callable[[], PictureResult], ending: str, street: Path) -> None:
    result = replace(make(), source=str(street))
    out = street.parent / "out" / f"answer{ending}"
    result.save(out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if ending == ".json":
        equal(result, type(result).from_dict(json.loads(out.read_text()), contract_of(result)))
    elif isinstance(result, Segmentation) and ending == ".PNG":
        with Image.open(out) as image:
            assert np.array_equal(np.asarray(image), result.labels)  # the labels themselves
            assert image.mode == ("P" if result.labels.dtype == np.uint8 else "I;16")
            if image.mode == "P":
                assert tuple(np.asarray(image.convert("RGB"))[10, 10].tolist()) in (
                    result.colours()[12], (0, 0, 0)
                )  # fmt: skip
    else:
        with Image.open(out) as image:
            assert image.size == result.draw(ground()).size


def test_what_cannot_be_drawn_or_written_is_said_in_a_line(street: Path) -> None:
    before = street.read_bytes()
    result = detections(source=str(street))
    with refused("it would replace the input"):
        result.save(street)
    linked = street.with_name("link.png")
    linked.symlink_to(street)
    with refused("it would replace the input"):
        result.save(linked)
    with refused(r"\.bmp: expected a name that ends in \.json or \.jpg"):
        result.save(street.with_suffix(".bmp"))
    with refused("expected the picture that the answer is of, 90x60, got 8x4"):
        result.plot(np.zeros((4, 8, 3), np.uint8))
    with refused("expected the picture to draw on"):
        detections(source="").plot()
    with refused("cannot write"):
        result.save(street / "inside.json")
    wide = Segmentation(height=8, width=16_383, labels=np.zeros((8, 16_383), np.uint8), classes=("sky",))
    with refused("cannot write .*wide.webp: .* WebP limit of 16383 pixels"):  # the legend is beside it
        wide.save(street.with_name("wide.webp"), ground(0, (8, 16_383)))
    assert street.read_bytes() == before
    data = io.BytesIO(before)
    result.save(street.with_name("new.jpg"), data)  # pictures may come as anything
    assert street.with_name("new.jpg").stat().st_size > 100
