"""The curves of a run: a picture that any program opens, and a page as a browser shows it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.test_report_page import opened
from uniformer.reports.charts import LEFT, SIDE, TOP
from uniformer.training.log import Log

SVG = "{http://www.w3.org/2000/svg}"


def written(folder: Path, epochs: int = 2) -> Log:
    """Of epochs of ten steps, half of which have a row, one with a loss that is none."""
    log = Log(folder)
    log.measures = ("top1", "loss")
    for epoch in range(1, epochs + 1):
        for step in range(10 * epoch - 9, 10 * epoch + 1, 2):
            log.metrics(epoch=epoch, step=step, loss=math.nan if step == 3 else 4 / epoch, lr=1e-3)
        validated = {"val_top1": 0.25 * epoch, "val_loss": 2.5 / epoch, "ema_top1": 0.1 * epoch, "ema_loss": 3.0}
        log.metrics(epoch=epoch, step=10 * epoch, epoch_loss=4 / epoch, **validated)
    log.draw("my <run> & more")
    return log


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    """(epochs as a share of all, height as a share of the chart's)."""
    pairs = [pair.split(",") for pair in line.attrib["points"].split()]
    return [((float(x) - LEFT) / SIDE, (TOP + SIDE - float(y)) / SIDE) for x, y in pairs]


def test_the_curves_are_the_figures(tmp_path: Path) -> None:
    written(tmp_path)
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert "var(" not in (tmp_path / "curves.svg").read_text()
    assert "http" not in (tmp_path / "curves.svg").read_text().replace(SVG[1:-1], "")
    loss, top1 = root.findall(f"{SVG}g")
    steps, validation = map(points, loss.iter(f"{SVG}polyline"))
    assert len(steps) == 9  # without the one that is no number
    assert steps[0] == pytest.approx((1 / 20, 4 / 5), abs=1e-3)  # the chart ends at 5, the next round number
    assert steps[-1] == pytest.approx((19 / 20, 2 / 5), abs=1e-3)
    assert validation == [pytest.approx((0.5, 0.5), abs=1e-3), pytest.approx((1, 0.25), abs=1e-3)]
    own, average = map(points, top1.iter(f"{SVG}polyline"))
    assert own == [pytest.approx((0.5, 0.25), abs=1e-3), pytest.approx((1, 0.5), abs=1e-3)]
    assert average == [pytest.approx((0.5, 0.1), abs=1e-3), pytest.approx((1, 0.2), abs=1e-3)]
    words = {text.text for text in root.iter(f"{SVG}text")}
    assert {"epoch", "top-1", "training", "validation", "average of the weights"} <= words


def test_a_long_run_stays_small_and_one_without_an_epoch_has_none(tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    written(tmp_path / "long", epochs=400)
    assert (tmp_path / "long" / "curves.svg").stat().st_size < 60_000
    log = Log(tmp_path)
    log.measures = ("top1", "loss")
    log.metrics(epoch=1, step=1, loss=4.0)
    log.draw("begun")
    assert {path.name for path in tmp_path.iterdir()} == {"long", "metrics.csv"}


def test_the_page_as_a_browser_shows_it(browser: Any, tmp_path: Path) -> None:
    written(tmp_path)
    page = opened(browser, tmp_path / "training.html")
    assert page.title == "my <run> & more"
    rows = [row.text for row in page.find_elements("css selector", "#epochs tr")]
    assert rows[0].startswith("epoch loss, training top-1, validation top-1, average of the weights")
    assert rows[1:] == ["2 2 50.00 % 20.00 % 1.25 3", "1 4 25.00 % 10.00 % 2.5 3"]
    assert len(page.find_elements("css selector", "figure svg polyline")) == 4
