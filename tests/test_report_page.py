"""The evaluation's report as a real browser shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.odd_media import encode
from uniformer.datasets.manifest import Item, Manifest
from uniformer.reports.evaluation import WORST, About, write_page
from uniformer.tasks.scores import Scores

HOW = "install a browser for this test: apt-get install chromium chromium-driver; pip install selenium"
NAMES = ("abseiling", "bowling", "juggling & <b>balls</b>", "making a cake", "shot put", "yoga", "zumba")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.fail(HOW)
    try:
        from selenium import webdriver
    except ImportError:
        pytest.fail(HOW)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1160,1000"
    )
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


def made_up(count: int, classes: tuple[str, ...], seed: int = 0) -> Scores:
    """Answers like those of a fair network: some classes are taken for their neighbours."""
    rng = np.random.default_rng(seed)
    size = len(classes)
    labels = rng.integers(0, size, count)
    logits = rng.normal(size=(count, size))
    logits[np.arange(count), labels] += rng.normal(3.2, 1.5, count)
    logits[np.arange(count), (labels + 1) % size] += rng.normal(1.2, 1.0, count)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ok = np.ones(count, bool)
    ok[3:4] = False
    p[3:4] = logits[3:4] = 0
    paths = tuple(f"{i % 6}.mp4" for i in range(count))
    arrays = (p.astype(np.float32), logits.astype(np.float32), labels.astype(np.int32), ok)
    return Scores(*arrays, paths, classes, {3: "3.mp4: expected a video, found <nothing>"} if count > 3 else {})


def manifest_of(scores: Scores, root: Path) -> Manifest:
    items = [Item(path, (int(label),)) for path, label in zip(scores.paths, scores.labels, strict=True)]
    return Manifest.from_items(items, kind="video", classes=scores.classes, root=root)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(5):  # 5.mp4 is missing: its cards have no picture
        encode(folder / f"{i}.mp4", frames=8, size=(160, 120), number=lambda n, i=i: (n + 50 * i) % 256)
    return folder


def opened(browser: Any, page: str, path: Path) -> Any:
    path.write_text(page, encoding="utf-8")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    asked = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert not [message for message in asked if '"url":"http' in message]  # nothing from elsewhere
    assert browser.get_log("browser") == []  # no errors on the console
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(1160, height + 140)
    browser.save_screenshot(str(path.with_suffix(".png")))
    return browser


def count(browser: Any, selector: str) -> int:
    return len(browser.find_elements("css selector", selector))


def test_the_report_of_a_few_classes(browser: Any, videos: Path, tmp_path: Path) -> None:
    scores = made_up(180, NAMES)
    about = About("tiny on seven", ("checkpoint tiny.safetensors",), ("the labels are <odd>",), "published: 80.8 %")
    page = write_page(scores, manifest_of(scores, videos), about, scores.metrics())
    opened(browser, page, tmp_path / "few.html")
    text = browser.find_element("css selector", "body").text
    assert browser.title == "tiny on seven"
    for words in ("top-1", f"{100 * scores.metrics()['top1']:.2f} %", "the labels are <odd>", "published: 80.8 %"):
        assert words in text
    assert "3.mp4: expected a video, found <nothing>" in text
    assert "juggling & <b>balls</b>" in text  # escaped, shown as it is
    assert count(browser, "#classes tbody tr") == 7
    assert count(browser, "#failed tbody tr") == 1
    assert count(browser, "#confusion rect") == 49
    assert count(browser, "#per-class rect") == 7
    wrong = int((scores.ok & (scores.ranks() > 0)).sum())
    assert count(browser, ".card") == min(WORST, wrong)
    missing = sum(card.text.count("5.mp4") for card in browser.find_elements("css selector", ".card"))
    assert missing > 0
    assert count(browser, "img.pic") == count(browser, ".card") - missing
    drawn = browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert drawn
    # Nothing is drawn outside its picture.
    outside = browser.execute_script(
        "return [...document.querySelectorAll('svg')].flatMap(s => { const b = s.getBoundingClientRect();"
        "return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();"
        "return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1 })"
        ".map(t => s.id + ': ' + t.textContent) })"
    )
    assert outside == []


def test_the_report_of_many_classes(browser: Any, videos: Path, tmp_path: Path) -> None:
    classes = tuple(f"class with a rather long name, number {i}" for i in range(400))
    scores = made_up(2000, classes, seed=1)
    page = write_page(scores, manifest_of(scores, videos), About("tiny on 400"), scores.metrics())
    opened(browser, page, tmp_path / "many.html")
    assert count(browser, "#confusion") == 0
    assert count(browser, "#per-class rect") == 20
    assert count(browser, "#per-class-best rect") == 20
    assert count(browser, "#classes tbody tr") == 400
    assert 10 <= count(browser, "#confusions tbody tr") <= 25
    assert len(page) < 2_000_000


def test_the_report_of_several_labels_an_item(browser: Any, videos: Path, tmp_path: Path) -> None:
    single = made_up(40, NAMES)
    labels = np.eye(7, dtype=bool)[single.labels]
    scores = Scores(single.probabilities, single.logits, labels, single.ok, single.paths, NAMES, single.errors)
    page = write_page(scores, manifest_of(single, videos), About("several"), scores.metrics())
    opened(browser, page, tmp_path / "several.html")
    assert "mean precision" in browser.find_element("css selector", "body").text
    assert count(browser, "#per-class rect") == 7


def test_nothing_answered_is_still_a_page(browser: Any, videos: Path, tmp_path: Path) -> None:
    one = made_up(1, NAMES)
    none = Scores(one.probabilities * 0, one.logits, one.labels, ~one.ok, one.paths, NAMES, {0: "gone"})
    opened(browser, write_page(none, manifest_of(none, videos), About("none"), none.metrics()), tmp_path / "none.html")
    assert count(browser, "#failed tbody tr") == 1
