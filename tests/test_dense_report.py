"""The reports of detectors, pose networks and segmenters as a real browser shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.annotated_sets import label_map, picture, values_of
from tests.made_objects import KINDS, SIGMAS, made, write_set
from tests.test_report_page import colours, contrast, count, opened, preferring
from uniformer.datasets.annotated import AnnotatedSet, open_annotated
from uniformer.reading.label_png import to_png
from uniformer.reports.evaluation import About, write_evaluation_page
from uniformer.tasks.object_scores import ObjectScores
from uniformer.tasks.segmentation_scores import Cells, SegmentationScores

ODD = '<b>kite</b> & "co"'


def objects(folder: Path, *, people: bool = False) -> tuple[ObjectScores, AnnotatedSet]:
    """24 pictures, of which the last is gone, and their scores."""
    truths, found, sizes = made(9)
    assert found.scores is not None
    mixed = (np.arange(len(found)) % 3 == 0) & (found.scores > 0.6)
    found = replace(found, labels=np.where(mixed, (found.labels + 1) % 4, found.labels))
    if people:
        truths, found = (replace(part, labels=part.labels * 0) for part in (truths, found))
    root = write_set(folder / "coco", truths, sizes, (0, 1, 2, 3, 4), people=people)
    data = open_annotated(root, split="val", task="pose" if people else "detection")
    Path(data.path(23)).unlink()
    ok = np.arange(24) < 23
    about: dict[str, Any] = {"kinds": ("box", "mask"), "classes": (*KINDS[:3], ODD, "never there")}
    if people:
        about = {
            "kinds": ("keypoints",),
            "classes": ("person",),
            "sigmas": tuple(SIGMAS.tolist()),
            "skeleton": ((0, 1),),
        }
    about["errors"] = {23: "000000000123.jpg: expected a picture, found <nothing>"}
    return ObjectScores(truths, found.select(found.item < 23), sizes, ok, data.item_names(), **about), data


def label_maps(folder: Path, classes: int) -> tuple[SegmentationScores, AnnotatedSet]:
    """Six pictures and their scores; the answers are wrong in places."""
    names = tuple(f"{ODD} {k}" if k == 1 else f"kind of ground, number {k}" for k in range(classes))
    cells, answers, rng = [], {}, np.random.default_rng(0)
    for i in range(6):
        picture(folder / f"images/val/{i}.jpg", i)
        true = values_of(i, classes)
        label_map(folder / f"labels/val/{i}.png", true)
        said = np.where(rng.random(true.shape) < 0.1 * i, (true + 1) % classes, true % classes).astype(np.uint8)
        cells.append(Cells.counted(i, true.astype(np.uint8), said, classes))
        answers[i] = to_png(said)
    places = np.where(np.arange(256) < classes, np.arange(256), 255).astype(np.uint8)
    data = open_annotated(folder, split="val", task="segmentation", classes=names)
    return SegmentationScores(
        Cells.joined(cells), np.ones(6, bool), data.item_names(), names, places, (), {}, answers
    ), data


def written(path: Path, scores: Any, data: AnnotatedSet, name: str = "tiny on made") -> Path:
    write_evaluation_page(path, scores, data, About(name, notes=("a note on <this>",)), scores.metrics())
    return path


def text_of(session: Any, css: str = "body") -> str:
    found: str = session.find_element("css selector", css).text
    return found


def test_the_report_of_a_detector(browser: Any, tmp_path: Path) -> None:
    scores, data = objects(tmp_path)
    page = written(tmp_path / "report.html", scores, data)
    opened(browser, page)
    body, metrics = text_of(browser), scores.metrics()
    assert f"{100 * metrics['box_ap']:.2f} %\nbox AP" in body
    assert f"{100 * metrics['mask_ap50']:.2f} %\nmask AP 50" in body
    assert "box AR" not in text_of(browser, ".tiles")
    assert count(browser, "#coco tbody tr") == 12
    assert f"{100 * metrics['mask_ap_small']:.1f}" in text_of(browser, "#coco tbody tr:nth-child(4)")
    assert count(browser, "polyline") == 4
    assert count(browser, "#per-class li") == 4
    assert count(browser, "#classes tbody tr") == 5
    assert ODD in text_of(browser, "#per-class")
    assert 1 <= count(browser, "#confusions tbody tr") <= 25
    assert (count(browser, "#worst .card"), count(browser, "#best .card")) == (11, 11)
    assert count(browser, "#worst img") == 11
    assert count(browser, "#confused .card") >= 3
    assert "expected a picture, found <nothing>" in text_of(browser, "#failed")
    assert page.stat().st_size < 4_000_000


def test_curves_can_be_read_in_light_and_dark(browser: Any, tmp_path: Path) -> None:
    scores, data = objects(tmp_path)
    page = written(tmp_path / "report.html", scores, data)
    for scheme in ("light", "dark"):
        with preferring(browser, scheme):
            opened(browser, page)
            ground, one, two = colours(browser, "body backgroundColor", "polyline stroke", "polyline.second stroke")
            assert min(contrast(ground, one), contrast(ground, two)) >= 3
            assert one != two


def test_the_report_of_a_pose_network(browser: Any, tmp_path: Path) -> None:
    scores, data = objects(tmp_path, people=True)
    opened(browser, written(tmp_path / "report.html", scores, data))
    assert f"{100 * scores.metrics()['ap']:.2f} %\nAP" in text_of(browser)
    assert count(browser, "#coco tbody tr") == 10
    assert count(browser, "polyline") == 2
    assert (count(browser, "#classes"), count(browser, "#confusions"), count(browser, "#confused")) == (0, 0, 0)
    assert count(browser, "#worst img") > 5


def test_answers_without_masks_are_shown(tmp_path: Path) -> None:
    """As pose networks give them, and detectors that make none."""
    for people in (True, False):
        scores, data = objects(tmp_path / str(people), people=people)
        parts = {name: replace(getattr(scores, name), masks=None) for name in ("truths", "found")}
        bare = replace(scores, **parts, kinds=scores.kinds[:1])
        page = written(tmp_path / "report.html", bare, data).read_text("utf-8")
        assert page.count("<img") > 5


def test_the_report_of_a_segmenter(browser: Any, tmp_path: Path) -> None:
    scores, data = label_maps(tmp_path, 3)
    opened(browser, written(tmp_path / "report.html", scores, data))
    body = text_of(browser)
    assert f"{100 * scores.metrics()['miou']:.2f} %\nmean IoU" in body
    assert f"{100 * scores.metrics()['aacc']:.2f} %\npixels that are right" in body
    assert count(browser, "#confusion svg rect") == 9
    assert count(browser, "#per-class li") == count(browser, "#classes tbody tr") == 3
    assert 3 <= count(browser, "#confusions tbody tr") <= 6
    assert (count(browser, "#worst img"), count(browser, "#best img"), count(browser, "#confused img")) == (3, 3, 5)
    assert f"{ODD} 1" in text_of(browser, "#per-class")


def test_the_report_of_many_classes_of_pixels(browser: Any, tmp_path: Path) -> None:
    scores, data = label_maps(tmp_path, 150)
    opened(browser, written(tmp_path / "report.html", scores, data))
    assert count(browser, "#confusion") == 0
    assert (count(browser, "#per-class li"), count(browser, "#per-class-best li")) == (20, 20)
    assert count(browser, "#classes tbody tr") == 150


def test_a_picture_of_another_size_is_shown_as_it_is(browser: Any, tmp_path: Path) -> None:
    """Replaced since: nothing can be placed in it."""
    scores, data = objects(tmp_path)
    picture(Path(data.path(0)), 5, (30, 50))
    opened(browser, written(tmp_path / "report.html", scores, data))


def test_nothing_answered_is_still_a_page(browser: Any, tmp_path: Path) -> None:
    scores, data = objects(tmp_path)
    none = replace(scores, found=scores.found.select(scores.found.item < 0), ok=np.zeros(24, bool), errors={0: "gone"})
    opened(browser, written(tmp_path / "none.html", none, data))
    assert count(browser, "#failed tbody tr") == 24
    maps, pictures = label_maps(tmp_path / "maps", 3)
    cells = replace(maps.cells, said=np.full_like(maps.cells.said, 3))
    opened(browser, written(tmp_path / "maps.html", replace(maps, cells=cells, ok=np.zeros(6, bool)), pictures))
    assert count(browser, "#failed tbody tr") == 6
