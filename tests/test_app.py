"""`uniformer app`: its page as a person uses it in a real browser; what it asks for, what stays of files, its end."""

from __future__ import annotations

import base64
import csv
import http.client
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.command_line import COMMAND, Cli, one_line
from tests.dense_nets import save_dense
from tests.films import pan, shake, write
from tests.patience import PATIENCE, wait_until
from uniformer import Predictor, timeline
from uniformer.checkpoints.records import BUNDLED
from uniformer.labels import plain_name
from uniformer.web.uploads import Uploads

NAMES = ("cat", "dog", "bus", "<img src=x onerror=alert(1)>", "<b>{{a}}</b> ${1 + 1} `b` \\n")  # are shown as they are
MOST = 20_000_000  # bytes that may be given at once
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@dataclass
class Site:
    """The page's server, and what is given to it."""

    address: str
    process: subprocess.Popen[str]
    outside: socket.socket  #: where all that leaves the machine would go
    temporary: Path
    opened: Path  #: what the browser of the machine was told
    detector: Path
    film: Path
    picture: Path
    broken: Path

    def kept(self) -> list[Path]:
        """Files that hold anything."""
        files = [Path(root, name) for root, _, names in os.walk(self.temporary) for name in names]
        return [path for path in files if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the model in the package and a detector. Its machine reaches others through a proxy, which is ours."""
    root, temporary = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("temporary")
    film = write(root / "my {{film}} ${1}.mp4", chain(pan(0, 48), shake(1, 36, 2)))
    picture, broken, opened, browse = root / "photo.png", root / "broken.mp4", root / "opened", root / "browse"
    Image.fromarray(next(pan(2, 1))).save(picture)
    broken.write_bytes(b"This is no video.\n" * 99)
    browse.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browse.chmod(browse.stat().st_mode | stat.S_IXUSR)
    detector = save_dense(root / "detector.safetensors", "mask_rcnn", NAMES, width=256)  # a film takes it a while
    with socket.create_server(("127.0.0.1", 0)) as outside:
        proxy = f"http://127.0.0.1:{outside.getsockname()[1]}"
        env = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        env |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        env |= {"TMPDIR": str(temporary), "BROWSER": str(browse), "GRADIO_HEARTBEAT_INTERVAL": "0.2"}
        nets = ["--checkpoint", BUNDLED, "--checkpoint", str(detector)]
        process = subprocess.Popen(
            [*COMMAND, "app", "--port", "0", "--open", "--max-size", str(MOST / 1e6), *nets],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout
        said = process.stdout.readline()
        assert said.startswith("page: http://127.0.0.1:"), process.communicate()
        yield Site(said.split()[1], process, outside, temporary, opened, detector, film, picture, broken)
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def seen(site: Site) -> tuple[Any, Any]:
    """What the Predictor and the timeline say of the film."""
    predictor = Predictor(BUNDLED)
    return predictor(site.film), timeline(site.film, predictor)


@pytest.fixture
def page(site: Site, browser: Any) -> Any:
    browser.get(site.address)
    until(lambda: one(browser, "#given input[type=file]") and one(browser, "#network input"))
    return browser


@pytest.fixture
def shown(site: Site, browser: Any) -> Any:
    """The page that has looked at the film, from an earlier test where there is one."""
    if browser.current_url != site.address or not every(browser, "#moments") or "film" not in text(browser, "#given"):
        browser.get(site.address)
        until(lambda: one(browser, "#given input[type=file]"))
        give(browser, site.film)
        until(lambda: every(browser, "#moments") and film(browser, "readyState") >= 2)
    return browser


def until(condition: Callable[[], object]) -> None:
    """As `wait_until`, looking less often: each look is work for the browser."""
    wait_until(lambda: condition() or time.sleep(0.1))


def every(page: Any, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)  # type: ignore[no-any-return]


def one(page: Any, selector: str) -> Any:
    return next(iter(every(page, selector)), None)


def text(page: Any, selector: str) -> str:
    """As it is in the page now, which may change at any time."""
    script = "const e = document.querySelector(arguments[0]); return e ? e.innerText : ''"
    return page.execute_script(script, selector)  # type: ignore[no-any-return]


def press(page: Any, selector: str) -> None:
    """Once it is there: parts of the page come one after the other."""
    until(lambda: one(page, selector))
    one(page, selector).click()


def give(page: Any, *paths: Path) -> None:
    until(lambda: one(page, "#given input[type=file]"))
    one(page, "#given input[type=file]").send_keys("\n".join(map(str, paths)))


def choose(page: Any, name: str) -> None:
    press(page, "#network input")
    until(lambda: any(name in option.text for option in every(page, "[role=option]")))
    next(option for option in every(page, "[role=option]") if name in option.text).click()


def film(page: Any, what: str) -> Any:
    return page.execute_script(f"return document.getElementById('film').{what}")


def marked(page: Any) -> list[int]:
    """The rows that are marked as being shown."""
    rows = "[...document.querySelectorAll('#moments button')]"
    return page.execute_script(f"return {rows}.flatMap((row, i) => row.ariaCurrent ? [i] : [])")  # type: ignore[no-any-return]


def tables(page: Any) -> dict[str, str]:
    links = [(link.get_attribute("download"), link.get_attribute("href")) for link in every(page, "#tables a")]
    return {name: urllib.request.urlopen(href).read().decode() for name, href in links}


def errors(page: Any) -> str:
    return text(page, "#said [role=alert]")


# ---- what it shows ---------------------------------------------------------------------------------------------------


def test_a_film_with_its_labels_frames_and_timeline(shown: Any, site: Site, seen: tuple[Any, Any]) -> None:
    result, found = seen
    names = [plain_name(label.name) for label in result.labels]
    shares = [f"{100 * label.score:.1f} %" for label in result.labels]
    assert text(shown, "#labels").split("\n") == list(chain(*zip(names, shares, strict=True)))
    numbers = [[int(tile.split("·")[0]) for tile in strip.text.split("\n")] for strip in every(shown, ".strip")]
    assert numbers == result.frames
    rows = [row.text.split("\n") for row in every(shown, "#moments button")]
    assert [row[1] for row in rows] == [plain_name(row.motion) for row in found.rows]
    assert [" ".join(row[3:]) for row in rows] == [row.amounts_said for row in found.rows]
    assert len(rows) == 2
    files = tables(shown)
    assert (files["timeline.csv"], files["timeline.srt"]) == (found.to_csv(), found.to_srt())
    answers = list(csv.DictReader(io.StringIO(files["answers.csv"])))
    assert [row["name"] for row in answers] == [label.name for label in result.labels]
    assert errors(shown) == ""


def test_a_row_seeks_the_film_and_is_marked_as_it_plays(shown: Any, site: Site, seen: tuple[Any, Any]) -> None:
    _, found = seen
    for number, row in reversed(list(enumerate(found.rows))):
        every(shown, "#moments button")[number].click()
        until(lambda number=number: not film(shown, "seeking") and marked(shown) == [number])
        assert abs(film(shown, "currentTime") - row.start) < 0.1
    frame = every(shown, ".strip button")[5]
    frame.click()
    until(lambda: not film(shown, "seeking"))
    assert abs(film(shown, "currentTime") - float(frame.get_attribute("data-start"))) < 0.1
    play = "const f = document.getElementById('film'); f.loop = true; f.currentTime = arguments[0]; f.play()"
    shown.execute_script(play, 1.8)  # again where so much else is done that its end comes before the first look at it
    until(lambda: marked(shown) == [1] and film(shown, "currentTime") >= found.rows[1].start)  # untouched
    shown.execute_script("const f = document.getElementById('film'); f.loop = false; f.pause()")


def test_where_it_looked_on_demand(shown: Any, seen: tuple[Any, Any]) -> None:
    press(shown, "#explain")
    until(lambda: every(shown, "#explained video"))
    until(lambda: shown.execute_script("return document.querySelector('#explained video').videoWidth") >= 128)
    assert plain_name(seen[0].labels[0].name) in text(shown, "#explained h2")
    until(lambda: shown.execute_script("return document.querySelector('#explained img').naturalWidth") >= 480)
    one(shown, "#target textarea, #target input").send_keys("juggling")
    press(shown, "#explain")
    until(lambda: "juggling" in text(shown, "#explained [role=alert]"))
    assert "\n" not in text(shown, "#explained [role=alert]")
    one(shown, "#target textarea, #target input").send_keys("\ue003" * len("juggling"))  # backspaces, as a person would
    press(shown, "#explain-timeline")
    said = {plain_name(row.motion) for row in seen[1].rows}
    until(lambda: all(name in text(shown, "#explained h2") for name in said))
    top = "return document.querySelector('#explained').getBoundingClientRect().top - window.innerHeight"
    until(lambda: shown.execute_script(top) < 0)  # the button is far above: it comes into sight by itself
    until(lambda: shown.execute_script("return document.querySelector('#explained video').videoWidth") >= 128)


def test_it_fits_a_phone(shown: Any, site: Site) -> None:
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        press(shown, "#record summary")
        assert shown.execute_script("return document.scrollingElement.scrollWidth") <= 390
        for selector in ("#look", "#take", "#shot", "#moments button", "#tables a", "#film"):
            box = one(shown, selector).rect
            assert box["x"] >= 0, selector
            assert box["x"] + box["width"] <= 390, selector
            assert box["height"] >= (40 if "a" not in selector else 12), selector
    finally:
        shown.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_files_are_gone_when_the_page_is(shown: Any, site: Site) -> None:
    assert any(path.suffix == ".mp4" for path in site.kept())
    shown.get("about:blank")
    until(lambda: not site.kept())


def test_overlays_of_a_network_for_pictures(page: Any, site: Site) -> None:
    result = Predictor(site.detector)(site.picture)
    assert len(result)
    choose(page, site.detector.name)
    give(page, site.picture)
    until(lambda: every(page, "#picture") and every(page, "#found"))
    data = base64.b64decode(one(page, "#picture").get_attribute("src").partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)), float)
    drawn, plain = np.asarray(result.plot(), float), np.asarray(Image.open(site.picture), float)
    assert np.abs(shown - drawn).mean() < 0.3 * np.abs(shown - plain).mean()
    names = [row[0] for row in result.rows()]
    assert set(names) & set(NAMES[3:])
    assert [cell.text for cell in every(page, "#found tbody td:first-child")] == names


def test_overlays_on_a_film(page: Any, site: Site, tmp_path: Path) -> None:
    short = write(tmp_path / "short.mp4", pan(1, 6))
    choose(page, site.detector.name)
    give(page, short)
    until(lambda: every(page, "#moments") and film(page, "readyState") >= 1)
    assert film(page, "videoWidth") == 128
    assert abs(film(page, "duration") - 6 / 24) < 0.05
    frames = {row["frame"] for row in csv.DictReader(io.StringIO(tables(page)["answers.csv"]))}
    assert frames == set("012345")
    assert " – " in text(page, "#moments button")


def test_several_files_and_their_table(page: Any, site: Site, seen: tuple[Any, Any]) -> None:
    give(page, site.film, site.broken, site.picture)
    until(lambda: every(page, "#found"))
    good, bad, other = (row.text for row in every(page, "#found tbody tr"))
    assert plain_name(seen[0].labels[0].name) in good
    assert "broken.mp4: expected a video, found a file that does not open as one" in bad
    assert "photo.png: expected a video for a network of clips, found an image" in other
    assert "2 of 3 files failed" in text(page, "#said")
    assert not any(button.is_displayed() for button in every(page, "#explain-timeline"))
    rows = list(csv.DictReader(io.StringIO(tables(page)["answers.csv"])))
    assert [row["source"] for row in rows] == [rows[0]["source"]] * 5 + ["broken.mp4", "photo.png"]
    assert [row["name"] for row in rows[:5]] == [label.name for label in seen[0].labels]
    assert all(str(site.temporary) not in row["error"] for row in rows)


def test_what_is_taken_away_takes_its_answer_along(page: Any, site: Site) -> None:
    """All of them: what is said of several stays while some of them do."""
    before = len(site.kept())
    give(page, site.broken, site.picture)
    until(lambda: every(page, "#found"))
    assert every(page, "#given [title='More files']")
    assert not every(page, "[title^='common.'], [aria-label^='common.']")  # what Gradio has no words for
    press(page, "#given button[aria-label='Remove this file']")
    until(lambda: "broken" not in text(page, "#given"))
    assert len(every(page, "#found tbody tr")) == 2
    press(page, "#given button[aria-label='Clear']")
    until(lambda: not every(page, "#found, #tables a, #said p"))
    until(lambda: len(site.kept()) <= before)


def test_errors_are_one_line(page: Any, site: Site) -> None:
    press(page, "#look")
    until(lambda: errors(page) == "expected a film or a picture: drop one above")
    give(page, site.broken)
    until(lambda: errors(page).startswith("broken.mp4: expected a video"))
    assert "\n" not in errors(page)
    assert not every(page, "#film, #labels, #moments, #tables a")


def test_too_much_is_refused_before_it_is_taken_in(page: Any, site: Site, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(MOST + 1))
    give(page, large)
    until(lambda: f'exceed the maximum allowed size of 19.1 Mb: "{large.name}"' in text(page, "body"))
    for head, status in ((("Content-Length", str(MOST + 1)), 413), (("Transfer-Encoding", "chunked"), 411)):
        connection = http.client.HTTPConnection("127.0.0.1", int(site.address.rstrip("/").rpartition(":")[2]))
        connection.putrequest("POST", "/gradio_api/upload")
        connection.putheader(*head)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()
    assert not [path for path in site.kept() if path.name == large.name]


def test_a_film_that_the_browser_cannot_play(page: Any, tmp_path: Path) -> None:
    give(page, write(tmp_path / "short.avi", pan(1, 6)))
    until(lambda: text(page, "#player") == "This browser cannot play the file; all else is there.")
    assert text(page, "#labels")


def test_what_the_camera_takes(page: Any) -> None:
    press(page, "#record summary")
    until(lambda: page.execute_script("return document.getElementById('camera').videoWidth"))
    press(page, "#take")
    until(lambda: page.execute_script("return document.getElementById('camera').currentTime") > 1)
    press(page, "#take")
    until(lambda: every(page, "#moments") and film(page, "videoWidth"))
    assert text(page, "#labels")
    press(page, "#shot")
    until(lambda: errors(page) == "picture.png: expected a video for a network of clips, found an image")


# ---- what it asks for, and what stays --------------------------------------------------------------------------------


def test_others_wait_in_the_queue_until_a_page_is_closed(page: Any, site: Site) -> None:
    """Then what is computed for it stops, and leaves nothing: on standard error neither, as the last test sees."""
    choose(page, site.detector.name)
    give(page, site.film)
    until(lambda: "frames" in text(page, "#said"))
    first = page.current_window_handle
    page.switch_to.new_window("tab")
    page.get(site.address)
    until(lambda: one(page, "#given input[type=file]"))
    give(page, site.picture)
    until(lambda: "queue: 1/1" in text(page, "#said"))
    second = page.current_window_handle
    page.switch_to.window(first)
    page.close()
    page.switch_to.window(second)
    until(lambda: errors(page) == "photo.png: expected a video for a network of clips, found an image")
    page.get("about:blank")
    until(lambda: not site.kept())


def test_no_other_files_are_served(site: Site) -> None:
    for path in (site.film, "/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"{site.address}gradio_api/file={path}".replace(" ", "%20"))


def test_nothing_is_asked_of_others(page: Any, site: Site) -> None:
    """By the page, in all that was done before, and by its server."""
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    sent = [one["request"]["url"] for one in asked if one["documentURL"].startswith(site.address)]
    assert any("/theme.css" in url for url in sent)
    assert not [url for url in sent if not url.startswith((site.address, "data:", "blob:"))]
    site.outside.setblocking(False)
    with pytest.raises(BlockingIOError):
        site.outside.accept()


def test_it_opens_a_browser_and_ends_clean(page: Any, site: Site) -> None:
    """On Ctrl-C, while it looks at a film for an open page."""
    until(site.opened.exists)
    assert site.opened.read_text().strip() == site.address
    choose(page, site.detector.name)
    give(page, site.film)
    until(lambda: "frames" in text(page, "#said"))
    site.process.send_signal(signal.SIGINT)
    out, err = site.process.communicate(timeout=PATIENCE)
    assert (site.process.returncode, out, err) == (0, "", "")
    assert not [*site.kept(), *site.temporary.glob(".uniformer*")]


def test_a_taken_port_is_one_line(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one_line(cli("app", "--port", port), f"cannot listen on 127.0.0.1, port {port}: ", "give another --port")
        others = cli("app", "--port", port, "--host", "0.0.0.0").err.splitlines()
        assert others[0] == "uniformer: warning: no password: all who reach 0.0.0.0 are answered"
        assert len(others) == 2


def test_a_missing_package_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for module in ("page", "visit"):
        monkeypatch.delitem(sys.modules, f"uniformer.web.{module}", raising=False)
    one_line(cli("app"), "the page needs the package 'gradio': pip install 'uniformer[app]'")


def test_what_happens_when_is_found_once(tmp_path: Path) -> None:
    """An explanation of it goes by what was found: the same to the bit, and progress, which tells of each second that
    was seen and then of each that was explained, does not begin anew."""
    gradio = pytest.importorskip("gradio")
    from uniformer.web.page import build_page
    from uniformer.web.visit import Visit

    visit = Visit({BUNDLED: Predictor(BUNDLED, device="cpu")}, tmp_path)
    asked, seconds = gradio.Request(session_hash="page"), list[int]()

    def progress(done: tuple[int, int], **_: str) -> None:
        seconds.append(done[0])

    (tmp_path / "given").mkdir()
    film = write(tmp_path / "given" / "a.mp4", chain(pan(0, 48), shake(1, 24, 2)))
    looked = visit.look([str(film)], BUNDLED, 1, asked, progress)[-1]
    found = visit.moments(looked, asked, progress)[-1]
    told, shown = list[list[int]](), list[str]()
    for each in (looked, found):
        seconds.clear()
        shown.append(visit.explain_timeline(each, "", asked, progress))
        told.append(list(seconds))
    twice, once = told
    assert once == sorted(once)
    assert once
    assert twice == [*twice[: -len(once)], *once] != sorted(twice)
    assert shown[0].partition("</h2>")[0] == shown[1].partition("</h2>")[0]
    assert all(len(re.findall(r'href="\S+explained-\w+\.(png|npz|mp4)" download', html)) == 3 for html in shown)
    one, other = (dict(np.load(path)) for path in sorted(looked.tables.glob("*/explained-arrays.npz")))
    assert all(np.array_equal(one[name], other[name]) for name in one | other)
    steps = [step for step in build_page(visit).fns.values() if step.name == "moments"]
    assert steps
    assert all(set(step.inputs) < set(step.outputs) for step in steps)  # so the page keeps it


def test_a_folder_goes_with_the_last_page_that_shows_it(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir(), own.mkdir()
    uploads = Uploads()
    uploads.keep("a", [shared])
    uploads.keep("b", [shared, own])
    uploads.keep("b", [shared])
    assert (shared.exists(), own.exists()) == (True, False)
    uploads.leave("b")
    assert shared.exists()
    uploads.leave("a")
    assert not shared.exists()
    own.mkdir()
    uploads.keep("a", [own])  # what was asked for before it was closed
    assert not own.exists()
