"""The evaluation's report as a real browser shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.odd_media import encode
from uniformer.datasets.manifest import Item, Manifest
from uniformer.reports.evaluation import WORST, About, write_evaluation_page
from uniformer.tasks.scores import Scores

NAMES = ("abseiling", "bowling", "juggling & <b>balls</b>", "making a cake", "shot put", "yoga", "zumba")


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


def opened(session: Any, path: Path, width: int = 1160) -> Any:
    """The page loads whole, asks nobody for anything and complains of nothing. Nothing stands out of its drawing or
    makes the page scroll sideways, here and on a phone, where words in charts can be read."""
    session.set_window_size(width, 1000)
    session.get_log("browser"), session.get_log("performance")
    session.get(path.as_uri())
    asked = [entry["message"] for entry in session.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert not [message for message in asked if '"url":"http' in message]  # nothing from elsewhere
    assert session.get_log("browser") == []  # no errors on the console
    assert session.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert session.execute_script(OUTSIDE) == []
    assert session.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    session.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert session.execute_script("return document.scrollingElement.scrollWidth") <= 400
        assert all(size >= 10 for size in session.execute_script(SIZES))
    finally:
        session.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return session


OUTSIDE = """
return [...document.querySelectorAll('svg')].flatMap(s => {
  const b = s.getBoundingClientRect();
  return [...s.children].filter(t => {
    const r = t.getBoundingClientRect();
    return r.left < b.left - 1 || r.right > b.right + 1 || r.top < b.top - 1 || r.bottom > b.bottom + 1;
  }).map(t => t.outerHTML.slice(0, 90));
});
"""
SIZES = """
return [...document.querySelectorAll('svg text, .bars span, .wide li')].map(t => {
  const m = t.getScreenCTM ? t.getScreenCTM() : {a: 1, b: 0};
  return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b);
});
"""


@contextmanager
def preferring(session: Any, scheme: str) -> Iterator[None]:
    """A reader who chose "light" or "dark"."""
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    session.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        yield
    finally:
        session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def colours(session: Any, *wanted: str) -> list[str]:
    """Computed colours, each of "selector property"."""
    script = "return arguments[0].map(w => getComputedStyle(document.querySelector(w[0]))[w[1]])"
    found: list[str] = session.execute_script(script, [one.rsplit(" ", 1) for one in wanted])
    return found


def contrast(a: str, b: str) -> float:
    """Contrast of two CSS colours, by WCAG 2.2."""
    low, high = sorted((luminance(rgb(a)), luminance(rgb(b))))
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> np.ndarray:
    """In 0 to 1, from "rgb(...)"."""
    return np.array([float(part) for part in re.findall(r"[\d.]+", colour)[:3]]) / 255


def luminance(parts: np.ndarray) -> float:
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def count(browser: Any, selector: str) -> int:
    return len(browser.find_elements("css selector", selector))


def written(path: Path, scores: Scores, videos: Path, about: About) -> Path:
    write_evaluation_page(path, scores, manifest_of(scores, videos), about, scores.metrics())
    return path


def test_the_report_of_a_few_classes(browser: Any, videos: Path, tmp_path: Path) -> None:
    scores = made_up(180, NAMES)
    about = About("tiny on seven", ("checkpoint tiny.safetensors",), ("the labels are <odd>",), "published: 80.8 %")
    opened(browser, written(tmp_path / "few.html", scores, videos, about))
    text = browser.find_element("css selector", "body").text
    assert browser.title == "tiny on seven"
    for words in ("top-1", f"{100 * scores.metrics()['top1']:.2f} %", "the labels are <odd>", "published: 80.8 %"):
        assert words in text
    assert "3.mp4: expected a video, found <nothing>" in text
    assert "juggling & <b>balls</b>" in text  # escaped, shown as it is
    assert count(browser, "#classes tbody tr") == 7
    assert count(browser, "#failed tbody tr") == 1
    assert count(browser, "#confusion rect") == 49
    assert count(browser, "#per-class li") == 7
    wrong = int((scores.ok & (scores.ranks() > 0)).sum())
    assert count(browser, ".card") == min(WORST, wrong)
    missing = sum(card.text.count("5.mp4") for card in browser.find_elements("css selector", ".card"))
    assert missing > 0
    assert count(browser, "img.pic") == count(browser, ".card") - missing


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_can_be_read(browser: Any, videos: Path, tmp_path: Path, scheme: str) -> None:
    """Text and ground differ as WCAG asks for (4.5 to 1), bars and ground as it asks of drawings (3 to 1)."""
    scores = made_up(180, NAMES)
    about = About("seven", ("data",), ("a note",), "published: 80.8 %")
    with preferring(browser, scheme):
        opened(browser, written(tmp_path / "few.html", scores, videos, about))
        texts = ("body", "p.sub", "summary", ".tile span", ".bars span:last-child", ".wide li", "figcaption", "small")
        ground, soft, *inks = colours(
            browser, "body backgroundColor", "p.note backgroundColor", *(f"{one} color" for one in texts),
            "svg text fill", "svg text.faint fill",
        )  # fmt: skip
        assert (luminance(rgb(ground)) < 0.1) == (scheme == "dark")
        assert min(contrast(ground, ink) for ink in inks) >= 4.5
        assert contrast(soft, inks[0]) >= 4.5
        bar, other = colours(browser, "svg .bar fill", "svg .other fill")
        assert min(contrast(ground, bar), contrast(ground, other)) >= 3
        cells = browser.execute_script(
            "const s = document.querySelector('#confusion svg'), f = t => getComputedStyle(t);"
            "return [...s.querySelectorAll('text.on')].map(t => {"
            " const r = t.previousElementSibling; return [f(r).fill, +f(r).fillOpacity, f(t).fill] })"
        )
    assert len(cells) > 20
    for fill, opacity, ink in cells:
        cell = opacity * rgb(fill) + (1 - opacity) * rgb(ground)
        assert contrast(f"rgb({', '.join(map(str, 255 * cell))})", ink) >= 4.5, (fill, opacity, ink)


def test_the_report_of_many_classes(browser: Any, videos: Path, tmp_path: Path) -> None:
    classes = tuple(f"class with a rather long name, number {i}" for i in range(400))
    scores = made_up(2000, classes, seed=1)
    page = written(tmp_path / "many.html", scores, videos, About("tiny on 400"))
    opened(browser, page)
    assert count(browser, "#confusion") == 0
    assert count(browser, "#per-class li") == 20
    assert count(browser, "#per-class-best li") == 20
    assert count(browser, "#classes tbody tr") == 400
    assert 10 <= count(browser, "#confusions tbody tr") <= 25
    assert page.stat().st_size < 2_000_000


def test_the_report_of_several_labels_an_item(browser: Any, videos: Path, tmp_path: Path) -> None:
    single = made_up(40, NAMES)
    labels = np.eye(7, dtype=bool)[single.labels]
    scores = Scores(single.probabilities, single.logits, labels, single.ok, single.paths, NAMES, single.errors)
    path = tmp_path / "several.html"
    write_evaluation_page(path, scores, manifest_of(single, videos), About("several"), scores.metrics())
    opened(browser, path)
    assert "mean precision" in browser.find_element("css selector", "body").text
    assert count(browser, "#per-class li") == 7


def test_nothing_answered_is_still_a_page(browser: Any, videos: Path, tmp_path: Path) -> None:
    one = made_up(1, NAMES)
    none = Scores(one.probabilities * 0, one.logits, one.labels, ~one.ok, one.paths, NAMES, {0: "gone"})
    opened(browser, written(tmp_path / "none.html", none, videos, About("none")))
    assert count(browser, "#failed tbody tr") == 1


def test_names_that_are_no_utf_8_become_question_marks(videos: Path, tmp_path: Path) -> None:
    """Of files and folders; those of classes are refused before."""
    one = made_up(1, ("b", "c"))
    wrong = replace(one, paths=("a \udcff.mp4",), labels=1 - one.labels)
    page = written(tmp_path / "odd.html", wrong, videos, About("on \udc80")).read_text("utf-8")
    assert "<h1>on ?</h1>" in page
