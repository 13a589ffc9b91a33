"""`uniformer demo`: its own film, videos of the user's, and the pages as a real browser shows them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uniformer
from tests import odd_media
from tests.command_line import without_progress
from tests.films import pan, shake, write
from tests.patience import PATIENCE
from tests.test_report_page import colours, contrast, count, opened, preferring
from tests.test_timelines import SPARSE, check, parse_srt
from tests.tiny import IMAGES, save_tiny, tiny_model
from uniformer import Predictor, timeline
from uniformer.camera_motion import film as demo_film
from uniformer.camera_motion.classes import CLASSES
from uniformer.camera_motion.film import FRAMES, SHOTS, Take, Verdict, judge, make_film
from uniformer.camera_motion.photos import PHOTOS, split_of_name
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import save_checkpoint
from uniformer.cli.main import main
from uniformer.reports.timeline import CARDS, write_timeline_page
from uniformer.timelines.timeline import Segment, Timeline, Window


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of clips of seven classes that mean nothing."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny.safetensors", SPARSE)


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network with the names of camera motions."""
    model = tiny_model(3, ndim=3, num_classes=len(CLASSES))
    path = tmp_path_factory.mktemp("namer") / "namer.safetensors"
    save_checkpoint(model, path, Contract(model.config, "", SPARSE, tuple(CLASSES), id="random.namer"))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "my <b>video & more.mp4", chain(pan(0, 80), shake(1, 60, 3)))


# ---- its own film ----------------------------------------------------------------------------------------------------


def test_the_demo_as_a_new_user_sees_it(browser: Any, tmp_path: Path) -> None:
    """The real command with the model in the package, without a network, in an empty folder."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "uniformer.cli", "demo"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=env, text=True, capture_output=True, timeout=PATIENCE, check=False
    )
    assert (ended.returncode, without_progress(ended.stderr)) == (0, "")
    verdicts = [line for line in ended.stdout.splitlines() if re.search(r"\d %  (right|WRONG|WRONG kind)$", line)]
    assert len(verdicts) == SHOTS
    right = sum(line.endswith("right") for line in verdicts)
    directions = sum(not line.endswith("WRONG") for line in verdicts)
    assert f"{right} of {SHOTS} right, {directions} in direction; {SHOTS - 1} of {SHOTS - 1} cuts" in ended.stdout
    assert directions >= 9  # guessing gives one of ten
    assert right >= 5  # far more than the one of twenty that guessing gives
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["uniformer-demo.html"]
    opened(browser, tmp_path / "uniformer-demo.html")
    assert count(browser, "b.good") == count(browser, "rect.right") == right
    assert count(browser, "b.bad") == count(browser, "rect.wrong") == SHOTS - right


def test_a_second_demo_leaves_the_page_of_the_first(
    namer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_film, "SHOTS", 2)
    monkeypatch.chdir(tmp_path)
    said = []
    for more in ((), (), ("--overwrite",), ("--out", "uniformer-demo.html")):
        before = {page.name: page.read_text() for page in tmp_path.iterdir()}
        assert main(["demo", "--checkpoint", str(namer), *more]) == (2 if "--out" in more else 0)
        said.append(capsys.readouterr().out.splitlines()[-1:])
        kept = {page.name for page in tmp_path.iterdir() if page.read_text() == before.get(page.name)}
        assert kept == before.keys() - ({"uniformer-demo.html"} if "--overwrite" in more else set())
        for page in tmp_path.iterdir():
            page.write_text(f"the user's own, once {page.name}")
    later = " (uniformer-demo.html is there already; --overwrite replaces it)"
    assert said == [
        ["page: uniformer-demo.html"],
        [f"page: uniformer-demo-2.html{later}"],
        ["page: uniformer-demo.html"],
        [],  # a name that was given is never another
    ]


def test_the_film_is_what_it_says(tmp_path: Path, namer: Path) -> None:
    takes = make_film(tmp_path / "film.mp4", 1)  # of 1 to 10, seed 5 has a shot that is cut in two
    assert len({take.motion for take in takes}) == SHOTS
    assert [(take.start, take.end) for take in takes] == [(2.0 * n, 2.0 * n + 2) for n in range(SHOTS)]
    result = timeline(tmp_path / "film.mp4", Predictor(namer))
    check(result)
    assert {row.start for row in result.rows} == {take.start for take in takes}  # every cut, and none beside
    assert len(result.windows) == SHOTS  # one for each, of the length of the clips in training
    verdicts = judge(takes, result)
    assert [verdict.row.start for verdict in verdicts] == [take.start for take in takes]
    assert [v.is_right for v in verdicts] == [v.row.motion == v.take.motion for v in verdicts]
    assert FRAMES == 24


def test_a_seed_gives_the_same_film_and_another_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_film, "SHOTS", 2)
    takes = [make_film(tmp_path / f"{number}.mp4", seed) for number, seed in enumerate((1, 1, 2))]
    data = [(tmp_path / f"{number}.mp4").read_bytes() for number in range(3)]
    assert (takes[0], data[0]) == (takes[1], data[1])
    assert takes[0] != takes[2]


def test_its_photographs_were_not_trained_on() -> None:
    folder = Path(uniformer.__file__).parent / "assets" / "photos"
    names = sorted(path.name for path in folder.glob("*.jpg"))
    assert len(names) == 4
    of_scikit_image = {Path(name).stem for name in PHOTOS["test"]}
    assert all(Path(name).stem in of_scikit_image or split_of_name(name) == "test" for name in names)
    licences = (folder / "LICENCES.txt").read_text("utf-8")
    assert all(f"\n{name}\n" in licences for name in names)


def test_a_missed_cut_is_judged_by_what_covers_most() -> None:
    """Two takes under one row: the row stands for both, and is right for one."""
    rows = (Segment(1, 0.0, 2.8, "pan_left", 0.9), Segment(1, 2.8, 4.0, "tilt_up", 0.8))
    result = Timeline("", "", tuple(CLASSES), 4.0, 12.0, rows, ())
    takes = (Take("pan_left", 0, 1.4), Take("tilt_up", 1.4, 2.6), Take("tilt_up", 2.6, 4.0))
    assert [verdict.is_right for verdict in judge(takes, result)] == [True, False, True]


def test_a_turn_for_a_move_is_right_in_direction() -> None:
    for filmed, said, right in (
        ("truck_left", "pan_left", True),
        ("zoom_out", "pull_out", True),
        ("pan_left", "pan_left", True),
        ("truck_left", "pan_right", False),
        ("pan_left", "pan_left_then_right", False),
    ):
        row = Segment(1, 0.0, 2.0, said, 0.9)
        assert Verdict(Take(filmed, 0.0, 2.0), row).goes_right == right, (filmed, said)


def test_the_film_needs_a_network_that_names_camera_motion(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--checkpoint", str(tiny), "--out", str(tmp_path / "a.html")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "uniformer: expected a checkpoint that names camera motion for the demo's film; tiny.test has no pan_left\n"
    )


# ---- the user's videos -----------------------------------------------------------------------------------------------


def test_a_video_of_the_users(
    browser: Any, video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    out = tmp_path / "deep" / "out"
    assert main(["demo", str(video), "--checkpoint", str(tiny), "--out", str(out)]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0] == str(video)
    assert text[1].split() == ["shot", "start", "end", "motion", "confidence"]
    assert sorted(path.name for path in out.iterdir()) == [
        f"timeline.{form}" for form in ("csv", "html", "json", "srt")
    ]
    rows = json.loads((out / "timeline.json").read_text("utf-8"))["rows"]
    assert len(rows) == len(text) - 3  # the file, the header and what was written
    assert rows[0]["start"] == 0
    assert rows[-1]["end"] == pytest.approx(140 / 24, abs=1e-3)
    assert [row["shot"] for row in rows][-1] == 2
    with (out / "timeline.csv").open(newline="", encoding="utf-8") as file:
        assert [float(row["start"]) for row in csv.DictReader(file)] == [row["start"] for row in rows]
    assert len(parse_srt((out / "timeline.srt").read_text("utf-8"))) == len(rows)
    opened(browser, out / "timeline.html")
    assert browser.title == "my <b>video & more.mp4"  # escaped, shown as it is
    assert count(browser, "#rows tbody tr") == count(browser, ".card") == len(rows)
    assert count(browser, "line.cut") == 1
    assert count(browser, ".card img") == 2 * len(rows)
    assert count(browser, "rect.right, rect.wrong") == 0


def test_several_videos_of_which_one_is_none(
    video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(video, tmp_path / "a" / video.name)
    broken = odd_media.text(tmp_path)
    paths = [str(video), str(broken), str(tmp_path / "a" / video.name)]
    assert main(["demo", *paths, "--checkpoint", str(tiny), "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith(f"uniformer: {broken}: expected a video")
    assert err.splitlines()[1:] == ["1 of 3 files failed"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [video.name, f"{video.name}.2"]
    assert len(re.findall(r"shot +start +end +motion +confidence", out)) == 2


def test_an_argument_with_nothing_behind_it_does_not_end_the_others(
    video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("# no video yet\n")
    paths = [str(path) for path in (tmp_path / "empty", video, tmp_path / "none*.mp4", tmp_path / "list.txt")]
    common = ["--checkpoint", str(tiny), "--no-cuts", "--quiet"]
    assert main(["demo", *paths, *common, "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in err.splitlines()] == ["uniformer"] * 3 + ["3 of 4 files failed"]
    assert f"{video}\n" in out
    assert (tmp_path / "out" / "timeline.json").is_file()
    assert main(["demo", paths[0], paths[2], *common]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "2 of 2 files failed"


def test_folders_patterns_and_lists_of_videos(
    video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "two films"
    folder.mkdir()
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(video, folder / name)
    (folder / "notes.md").touch()
    listed = tmp_path / "list.txt"
    listed.write_text("two films/a.mp4\ntwo films/b.mp4\n")
    for number, argument in enumerate((folder, folder / "*.mp4", listed)):
        out = tmp_path / f"out {number}"
        assert main(["demo", str(argument), "--checkpoint", str(tiny), "--out", str(out), "--no-cuts", "--quiet"]) == 0
        shown, err = capsys.readouterr()
        assert [line for line in shown.splitlines() if line.endswith(".mp4")] == [
            str(folder / "a.mp4"), str(folder / "b.mp4")
        ]  # fmt: skip
        assert ("left out files that are no videos: 1 (notes.md)" in err) == (argument == folder)
        assert len(err.splitlines()) == (argument == folder)
        assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]
    for argument, words in (
        (tmp_path / "none*.mp4", "nothing matches"),
        (tiny.parent, "expected a folder with videos or frames in it, found none"),
    ):
        assert main(["demo", str(argument), "--checkpoint", str(tiny)]) == 2
        assert words in capsys.readouterr().err


def test_the_page_alone_of_one_video(
    video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "page.html"
    command = ["demo", str(video), "--checkpoint", str(tiny), "--out", str(page)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {page}"
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    shown = page.read_text("utf-8")
    assert "What is seen when, by tiny.test" in shown  # of seven classes that are no motions of the camera
    assert "Label by label" in shown
    assert "motion" not in re.sub(r"<style>.*?</style>|<img[^>]*>|<source[^>]*>", "", shown, flags=re.S).lower()
    assert main(command) == 2
    assert f"cannot write {page}: it is there already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert main(["demo", str(video), *command[1:]]) == 2
    assert f"expected a folder for the timelines of 2 videos, got the page {page}" in capsys.readouterr().err


def test_without_a_folder_nothing_is_written(
    video: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", str(video), "--checkpoint", str(tiny), "--no-cuts", "--window", "1"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]} == {"1"}  # the only shot
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_one_line(
    video: Path, tiny: Path, namer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = save_tiny(tmp_path / "images.safetensors", IMAGES)
    (tmp_path / "file").touch()
    audio = odd_media.audio_only(tmp_path)
    known = ["--checkpoint", str(tiny)]
    for words, args in (
        ("--seed is for the demo's own film", [str(video), "--seed", "1", *known]),
        ("expected a network of clips", [str(video), "--checkpoint", str(images)]),
        ("found no video stream in it", [str(audio), *known]),
        ("found no readable file", [str(tmp_path / "none.mp4"), *known]),
        (f"cannot write {tmp_path / 'file'}", [str(video), *known, "--out", str(tmp_path / "file")]),
        (f"cannot write {tmp_path / 'file'}", ["--checkpoint", str(namer), "--out", str(tmp_path / "file" / "a.html")]),
    ):
        assert main(["demo", *args]) == 2, args
        err = capsys.readouterr().err
        assert words in err
        assert err.startswith("uniformer: ")
        assert err.count("\n") == 1


# ---- the page --------------------------------------------------------------------------------------------------------


def made_up(shots: int, windows: int, seed: int = 0) -> Timeline:
    """Of a long video: shots of so many windows, one beginning every half second."""
    rng = np.random.default_rng(seed)
    rows, seen, start, names = [], [], 0.0, tuple(CLASSES)
    for shot in range(1, shots + 1):
        z = rng.normal(0, 1, (windows, len(names))) + 5 * np.eye(len(names))[rng.integers(len(names))]
        p = (np.exp(z) / np.exp(z).sum(1, keepdims=True)).astype(np.float32)
        end = start + windows / 2 + 1.5
        seen += [Window(shot, start + n / 2, start + n / 2 + 2, (0, 5, 9, 14), share) for n, share in enumerate(p)]
        rows.append(Segment(shot, start, end, names[p.mean(0).argmax()], float(p.mean(0).max())))
        start = end
    return Timeline("film.mp4", "made.up", names, start, 24.0, tuple(rows), tuple(seen), ("a <note> & more",))


def test_the_page_of_a_long_video_stays_small(browser: Any, video: Path, tmp_path: Path) -> None:
    result = made_up(shots=900, windows=9)
    path = tmp_path / "long.html"
    write_timeline_page(path, result, video, title="long")
    assert path.stat().st_size < 5_000_000
    opened(browser, path)
    assert count(browser, ".card") == CARDS
    assert count(browser, "#rows tbody tr") == 900
    text = browser.find_element("css selector", "body").text
    assert f"Pictures of {CARDS} of 900" in text
    assert "a <note> & more" in text
    assert count(browser, "line.cut") == 0  # nothing would be left between 899 lines
    assert "Upright lines" not in text


@pytest.mark.parametrize("width", [1160, 480])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read(browser: Any, video: Path, tmp_path: Path, width: int, scheme: str) -> None:
    """On wide and narrow windows, light and dark: text and ground differ as WCAG asks for (4.5 to 1)."""
    path = tmp_path / "page.html"
    write_timeline_page(path, made_up(4, 3), video, title="short")
    with preferring(browser, scheme):
        opened(browser, path, width)
        wanted = ("body color", "p.sub color", ".wide li color", "svg text.faint fill", "summary color")
        ground, *inks = colours(browser, "body backgroundColor", *wanted)
    for ink in inks:
        assert contrast(ground, ink) >= 4.5, (ground, ink)


def test_a_page_without_any_answer(browser: Any, video: Path, tmp_path: Path) -> None:
    """All shots too short to tell."""
    nothing = replace(
        made_up(2, 1), rows=(Segment(1, 0, 0.3, "", None), Segment(2, 0.3, 0.5, "", None)), windows=(), duration=0.5
    )
    write_timeline_page(tmp_path / "none.html", nothing, video, title="none")
    opened(browser, tmp_path / "none.html")
    assert count(browser, ".card") == 0
    assert "(too short to tell)" in browser.find_element("css selector", "#rows").text
