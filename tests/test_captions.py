"""Labels over pictures and videos: of classifiers, of timelines, in Python and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import Cli
from tests.media_server import serve
from tests.odd_media import picture
from tests.test_drawn_film import BEEP, beep_in, with_sound
from tests.tiny import CLIPS, IMAGES, refused, save_tiny
from uniformer import Prediction, Predictor, Timeline
from uniformer.reading.video import open_video
from uniformer.tasks.classification import Label
from uniformer.tasks.drawing import Entry, captioned, colour_of
from uniformer.timelines.timeline import Segment

SIZE = (320, 240)  # of videos, width and height


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with sound, a picture, and networks for each."""
    folder = tmp_path_factory.mktemp("captions")
    with_sound(folder / "clip.mp4", start=0.4, size=SIZE)
    Image.fromarray(picture(1, 160, 120)).save(folder / "photo.png")
    save_tiny(folder / "clips.safetensors", CLIPS)
    save_tiny(folder / "images.safetensors", IMAGES)
    return folder


def of_colour(pixels: np.ndarray, label: int) -> np.ndarray:
    """Which pixels have the colour of a class, nearly: films are compressed."""
    return np.abs(pixels.astype(int) - colour_of(label)).max(axis=-1) < 60


def test_bars_are_as_long_as_shares_and_the_rest_of_the_picture_stays() -> None:
    grey = np.full((480, 640, 3), 120, np.uint8)
    entries = [
        Entry("one that is sure", 1.0, colour_of(0)),
        Entry("half", 0.5, colour_of(1)),
        Entry("", 0, colour_of(2)),
    ]
    drawn = np.asarray(captioned(grey, entries))
    lengths = [np.ptp(np.flatnonzero((drawn == colour_of(k)).all(axis=2).any(axis=0))) + 1 for k in range(2)]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=2)
    changed = (drawn != grey).any(axis=2)
    assert not changed[:240].any()
    assert not changed[:, 400:].any()
    assert np.array_equal(captioned(grey, []), grey)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (40, 2000), (3000, 20)])
def test_pictures_of_any_size_take_a_caption(size: tuple[int, int]) -> None:
    drawn = captioned(np.zeros((*size, 3), np.uint8), [Entry("a name that is rather long " * 9, 0.7, colour_of(3))] * 9)
    assert (drawn.height, drawn.width) == size


# ---- results ---------------------------------------------------------------------------------------------------------


def test_a_prediction_draws_and_saves_itself(folder: Path, tmp_path: Path) -> None:
    result = Predictor(folder / "clips.safetensors", top_k=2)(folder / "clip.mp4")
    with open_video(folder / "clip.mp4") as reader:
        frame = reader.read([result.frames[1][2]])[0]  # the middle of the later of two clips
    top = frame[:40]
    drawn = np.asarray(result.plot())
    assert np.array_equal(drawn[:40], top)
    assert not np.array_equal(drawn, frame)
    assert of_colour(drawn, result.labels[0].index).any()
    assert np.asarray(result.plot(np.zeros((100, 100, 3), np.uint8))).shape == (100, 100, 3)
    for name in ("a.json", "a.png", "a.mp4"):
        result.save(tmp_path / name)
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), drawn)
    with open_video(folder / "clip.mp4") as one, open_video(tmp_path / "a.mp4") as other:
        assert np.allclose(one.times(range(50)), other.times(range(50)), atol=1e-4)
        for was, now in zip(one.read([0, 49]), other.read([0, 49]), strict=True):
            assert np.abs(was[:40].astype(int) - now[:40]).mean() < 8
            assert of_colour(now, result.labels[0].index).sum() > of_colour(was, result.labels[0].index).sum()
    assert beep_in(tmp_path / "a.mp4") == pytest.approx(BEEP - 0.4, abs=0.03)
    with refused(r"\.txt: expected a name that ends in \.json or \.jpg"):
        result.save(tmp_path / "a.txt")
    with refused("it would replace the input"):
        result.save(folder / "clip.mp4")
    image = Predictor(folder / "images.safetensors")(folder / "photo.png")
    image.save(tmp_path / "b.webp")
    assert Image.open(tmp_path / "b.webp").size == (160, 120)
    with refused(r"\.mp4: expected a name that ends in \.json or \.jpg"):
        image.save(tmp_path / "b.mp4")
    with refused("expected the picture to draw on"):
        replace(image, source="").plot()


def test_a_folder_of_frames_becomes_a_film(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(5):
        Image.fromarray(picture(number, *SIZE)).save(tmp_path / "frames" / f"{number}.png")
    labels = (Label("one", 0.9, 0),)
    source = str(tmp_path / "frames")
    Prediction(source=source, labels=labels, probabilities=np.ones(1, np.float32), frames=[[0]]).save(
        tmp_path / "a.mp4"
    )
    with open_video(tmp_path / "a.mp4") as reader:
        assert reader.times(range(5)) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=1e-3)


def test_a_timeline_draws_and_saves_itself(folder: Path, tmp_path: Path) -> None:
    """Over each frame stands what holds then, and nothing where nothing is said."""
    rows = (
        Segment(1, 0.0, 0.8, "pan_left", 0.9), Segment(1, 0.8, 1.2, "", None), Segment(2, 1.2, 2.0, "static", 0.8),
    )  # fmt: skip
    result = Timeline(str(folder / "clip.mp4"), "net", ("pan_left", "static"), 2.0, 25.0, rows, ())
    for name in ("a.json", "a.csv", "a.srt", "a.png", "a.mp4"):
        result.save(tmp_path / name)
    assert (tmp_path / "a.csv").read_text() == result.to_csv()
    assert (tmp_path / "a.srt").read_text() == result.to_srt()
    chart = np.asarray(Image.open(tmp_path / "a.png"))
    wide = [np.ptp(np.flatnonzero((chart == colour_of(k)).all(axis=2).any(axis=0))) for k in range(2)]
    assert wide == pytest.approx([720 * 0.4, 720 * 0.4], abs=3)
    with open_video(folder / "clip.mp4") as one, open_video(tmp_path / "a.mp4") as other:
        assert other.info.num_frames == 50
        for number, label in ((0, 0), (19, 0), (20, None), (29, None), (30, 1), (49, 1)):
            was, now = one.read([number])[0], other.read([number])[0]
            grown = [of_colour(now, k).sum() - of_colour(was, k).sum() > 50 for k in range(2)]
            assert grown == [k == label for k in range(2)], number
    assert beep_in(tmp_path / "a.mp4") == pytest.approx(BEEP - 0.4, abs=0.03)
    with refused(r"\.txt: expected a name that ends in \.json or \.csv"):
        result.save(tmp_path / "a.txt")


# ---- the command line ------------------------------------------------------------------------------------------------


def test_predict_draws(folder: Path, cli: Cli, tmp_path: Path) -> None:
    out, answers = tmp_path / "drawn", tmp_path / "a.jsonl"
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    clip, broken = folder / "clip.mp4", tmp_path / "broken.mp4"
    command = ("predict", clip, broken, "--checkpoint", folder / "clips.safetensors", "--draw", out, "--out", answers)
    ended = cli(*command)
    assert ended.status == 1
    assert "1 of 2 files failed" in ended.err
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]
    assert "it is there already; give another name, or --overwrite" in cli(*command).err
    (out / "clip.mp4").unlink()
    ended = cli(*command, "--resume")  # what is missing of the drawings is made; the answers are not doubled
    assert "1 file had a result already" in ended.err
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]
    assert sum("labels" in line for line in answers.read_text().splitlines()) == 1
    images = ("--checkpoint", folder / "images.safetensors", "--draw", tmp_path / "drawn.jpg")
    assert cli("predict", folder / "photo.png", *images).status == 0
    assert Image.open(tmp_path / "drawn.jpg").size == (160, 120)
    said = cli("predict", clip, "--checkpoint", folder / "clips.safetensors", "--draw", tmp_path / "a.png").err
    assert "a.png: expected a name that ends in .mp4" in said


def test_an_address_is_predicted_drawn_and_timed(folder: Path, cli: Cli, tmp_path: Path) -> None:
    net, data = folder / "clips.safetensors", (folder / "clip.mp4").read_bytes()
    with serve({"films/clip.mp4": data}) as server:
        address = f"{server.url}/films/clip.mp4"
        ended = cli("predict", address, f"{server.url}/page", "--checkpoint", net, "--draw", tmp_path / "drawn")
        assert (ended.status, ended.out.splitlines()[0]) == (1, address)
        assert f"uniformer: {server.url}/page: expected an image or a video, the server sends a web page" in ended.err
        assert "from a site of videos, save it first" in ended.err
        assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["clip.mp4"]
        here = ("--out", tmp_path / "out", "--draw", tmp_path / "film.mp4")
        ended = cli("demo", address, "--checkpoint", net, *here)
        assert (ended.status, ended.out.splitlines()[0]) == (0, address), ended.err
        assert json.loads((tmp_path / "out" / "timeline.json").read_text())["source"] == address
    assert beep_in(tmp_path / "film.mp4") == pytest.approx(BEEP - 0.4, abs=0.03)
    assert "--draw is for videos of your own" in cli("demo", "--draw", tmp_path / "film.mp4").err
    ended = cli("demo", tmp_path / "*.none", tmp_path / "*.nothing", "--draw", tmp_path / "b.mp4")
    assert (ended.status, ended.err.count("nothing matches")) == (1, 2)
