"""Explanations of answers: where and when their maps lie, for every kind of source, and the files they become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import uniformer
from tests import films
from tests.command_line import Cli, one_line
from tests.dense_nets import make_nets
from tests.odd_media import picture
from tests.test_drawn_film import BEEP, beep_in, with_sound
from tests.test_fusion import PARTS, SPARSE, contract
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import BUNDLED
from uniformer.explanations.explain import Explainer, token_places
from uniformer.explanations.explanation import Explanation, Part, between
from uniformer.network.model import UniFormer
from uniformer.reading.video import open_video
from uniformer.reports.explanation import explanation_sheet, save_explanation
from uniformer.tasks.fusion import Fusion

CLASSES = 7


# ---- views and their fusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [{}, {"static": ["left", "right", "up"]}])
def test_slopes_are_those_of_the_fusions_own_evidence(slow: dict[str, Any]) -> None:
    fusion = Fusion(contract(replace(SPARSE, clips=2), parts=PARTS, slow=slow))
    logits = np.random.default_rng(0).standard_normal((6, CLASSES))
    found, step = fusion.slopes(logits, 1), 1e-6
    for place in np.ndindex(logits.shape):
        moved = np.stack([logits, logits])
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (fusion.evidence(each) for each in moved)  # type: ignore[arg-type]
        expected = ((up - up.mean())[1] - (down - down.mean())[1]) / (2 * step)
        assert found[place] == pytest.approx(expected, abs=2e-7)  # float32's 6e-8 of slopes up to 1, and 1e-8 of steps


def test_what_parts_say_of_the_standing_is_no_evidence_against() -> None:
    """A part that stands still counts for a slow class by its stillness, less than one that moves."""
    fusion = Fusion(contract(parts=PARTS, slow={"static": ["left", "right", "up", "down", "in"]}))
    logits = np.zeros((3, CLASSES), np.float32)
    logits[1, 3], logits[2, 0] = 9, 9  # the first half stands still, the second moves left
    slopes = fusion.slopes(logits, 0)
    assert slopes[1, 0] < slopes[2, 0]
    assert slopes[1, 3] > 0 > slopes[1, 2]


# ---- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"ndim": 3}, {"ndim": 3, "overlap": 1, "time_kernel": 3}, {"overlap": 4}])
def test_tokens_lie_at_the_middle_of_what_their_embeddings_read(options: dict[str, Any]) -> None:
    model = tiny_model(**options).double()
    size = (9, 96, 96)[-model.config.ndim :]
    places = token_places(model, size)
    x = torch.zeros(1, 3, *size, dtype=torch.float64, requires_grad=True)
    out: Tensor = x
    for number, stage in enumerate(model.stages, start=1):
        for m in stage.embed.modules():  # type: ignore[union-attr]
            if isinstance(m, nn.Conv2d | nn.Conv3d):
                out = getattr(torch.nn.functional, f"conv{model.config.ndim}d")(
                    out, torch.ones_like(m.weight), stride=m.stride, padding=m.padding
                )
        if number > 1:
            middle = tuple(n // 2 for n in out.shape[2:])
            (read,) = torch.autograd.grad(out[(0, 0, *middle)], x, retain_graph=True)
            for axis, (own, place) in enumerate(zip(places[number], middle, strict=True)):
                along = read[0].sum(0).sum(tuple(i for i in range(len(size)) if i != axis))
                centre = float((along * torch.arange(len(along))).sum() / along.sum())
                assert own[place] == pytest.approx(centre, abs=1e-4)


@pytest.fixture(scope="module")
def bundled() -> Explainer:
    return Explainer(device="cpu")


def moving(begin: int, end: int, frames: int = 96, step: float = 2.0) -> np.ndarray:
    """A camera that stands, pans right from frame `begin` to `end`, and stands again."""
    moved = list(films.pan(0, end - begin + 1, step))
    return np.stack([moved[min(max(number - begin, 0), end - begin)] for number in range(frames)])


def test_maps_have_the_clips_frames_and_the_views_pixels(bundled: Explainer) -> None:
    found = bundled(moving(0, 60, 60), fps=24.0)
    spec = bundled.predictor.spec
    assert spec is not None
    assert found.full("stage4").shape == (len(spec.parts), spec.frames, *spec.size)
    tokens = found.maps["stage4"]
    assert_close(tokens[:, 1:-1:2], (tokens[:, :-2:2] + tokens[:, 2::2]) / 2, 2)  # between the network's own
    with refused("expected a frame in 0 .. 59, got 60"):
        found.at("stage3", 60)
    with refused("expected a map stage4, stage3, attention of this network, got 'kept'"):
        found.over_time("kept")
    assert found.at("stage3", 10).shape == (96, 128)
    assert found.at("stage3", 10)[:, :16].max() == 0 < found.at("stage3", 10)[:, 16:112].max()  # outside the crop
    assert found.frames is not None
    assert found.frames.shape == (len(spec.parts), spec.frames)


def test_views_lie_where_and_when_they_were_taken() -> None:
    """Two views of a constant 1 in each of four frames: over the frames between, and nowhere else."""
    found = Explanation(
        source="", checkpoint="", parts=(Part("a", 1.0, views=2),), maps={"stage4": np.ones((2, 4, 2, 2), np.float32)},
        places={"stage4": (np.array([7.5, 23.5], np.float32),) * 2}, size=(32, 32),
        boxes=((0.0, 0.0, 64.0, 64.0), (0.0, 64.0, 64.0, 64.0)), height=64, width=128,
        frames=np.array([[0, 3, 6, 9], [9, 9, 10, 11]]), num_frames=20,
    )  # fmt: skip
    bar = found.over_time("stage4")
    assert np.allclose(bar[:9], 4 / 3)
    assert bar[9] == pytest.approx(4 / 3 + 4)
    assert np.allclose(bar[10:12], 4)
    assert not bar[12:].any()
    assert np.allclose(found.at("stage4", 4), np.repeat([[1 / 3, 0.0]], 64, axis=1))
    assert np.allclose(found.at("stage4", 10, (8, 16)), np.repeat([[0.0, 1.0]], 8, axis=1))
    assert found.fed == {0, 3, 6, 9, 10, 11}
    assert np.allclose(between([1.0, 3.0], [0, 1, 2, 5]), [[1, 0], [1, 0], [0.5, 0.5], [0, 1]])


# ---- sanity checks (Adebayo et al. 2018): another network or another class gives another map -------------------------


def likeness(one: Explanation, other: Explanation, kind: str) -> float:
    """Correlation of ranks over all tokens."""
    a, b = (np.argsort(np.argsort(e.maps[kind].ravel())) for e in (one, other))
    return float(np.corrcoef(a, b)[0, 1])


@pytest.fixture(scope="module")
def in_parts() -> Explainer:
    """The bundled network shown the whole, halves and quarters: seen whole, a short motion passes for standing."""
    model, contract, _ = load_model(BUNDLED)
    parts = [[0, 1], [0, 0.5], [0.25, 0.75], [0.5, 1], [0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]
    slow = {"static": [name for name in contract.classes if name not in ("static", "shake")]}
    return Explainer((model.float(), replace(contract, details={"parts": parts, "slow": slow})), device="cpu")


def test_another_class_and_random_weights_change_the_maps(in_parts: Explainer) -> None:
    frames = moving(32, 64)
    found = in_parts(frames, "pan_right", fps=24.0)
    other = in_parts(frames, "pull out", fps=24.0)
    torch.manual_seed(0)
    model = UniFormer(in_parts.predictor.contract.config).eval()
    random = Explainer((model, in_parts.predictor.contract), device="cpu")(frames, "pan_right", fps=24.0)
    assert found.parts[0].name == "pan_right" != other.parts[0].name
    for kind in found.kinds:
        assert likeness(found, found, kind) == pytest.approx(1)
        assert likeness(found, other, kind) < 0.8, kind
        assert likeness(found, random, kind) < 0.5, kind


@pytest.mark.parametrize(("begin", "end"), [(24, 48), (36, 60), (64, 88)])
def test_the_bar_is_highest_where_the_motion_was_put(begin: int, end: int, in_parts: Explainer) -> None:
    found = in_parts(moving(begin, end), "pan_right", fps=24.0)
    assert begin <= int(found.over_time("stage4").argmax()) < end


# ---- every kind of source --------------------------------------------------------------------------------------------


def test_a_class_is_named_in_any_spelling_or_by_number(tmp_path: Path) -> None:
    named = Explainer(save_tiny(tmp_path / "a.safetensors", IMAGES), device="cpu")
    image = np.asarray(picture(1, 96, 80))
    assert named(image, "Class of number-4").parts[0].name == "class of number 4"
    best = uniformer.Predictor(tmp_path / "a.safetensors", device="cpu")(image).labels[0]
    assert named(image).parts[0][:2] == (best.name, pytest.approx(best.score, abs=1e-6))
    with refused("expected classes of the checkpoint, got 'dog'"):
        named(image, "dog")
    with refused("expected number 1 of a class"):
        named(image, number=2)
    model = tiny_model()
    bare = Explainer((model, uniformer.Contract(model.config, "", IMAGES)), device="cpu")
    assert bare(image, "3").parts[0].name == bare(image, "class 3").parts[0].name == "class 3"
    with refused("got '7'"):
        bare(image, "7")


def test_a_network_of_no_numbers_is_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan  # type: ignore[index, union-attr, operator]
    explainer = Explainer((model, uniformer.Contract(model.config, "", IMAGES)), device="cpu")
    with refused("expected finite numbers of the network, got NaN or infinity"):
        explainer(np.asarray(picture(1, 96, 80)))


def test_views_of_clips_and_crops(tmp_path: Path) -> None:
    explainer = Explainer(save_tiny(tmp_path / "a.safetensors", CLIPS), device="cpu", crops=3)
    found = explainer(np.stack([picture(i, 96, 64) for i in range(20)]))
    assert found.maps["stage4"].shape[:2] == (6, 4)
    assert len(set(found.boxes)) == 3
    assert found.boxes[:3] == found.boxes[3:]
    assert found.frames is not None
    assert np.array_equal(found.frames[0], found.frames[2])
    assert not np.array_equal(found.frames[0], found.frames[3])


def test_light_models_tell_which_tokens_were_kept() -> None:
    model = tiny_model(ndim=3, keep_ratio=0.5, depths=(1, 1, 2, 1))
    spec = replace(CLIPS, clips=1)
    found = Explainer((model, uniformer.Contract(model.config, "", spec)), device="cpu")(
        np.stack([picture(i, 64, 64) for i in range(8)])
    )
    assert found.kinds == ("stage4", "stage3", "attention", "kept")
    assert {block: kept.shape for block, kept in found.kept.items()} == {
        "stage3.block2": (1, 2, 4, 4), "stage4.block1": (1, 2, 2, 2),
    }  # fmt: skip
    assert found.kept["stage3.block2"].mean() == found.kept["stage4.block1"].mean() == 0.5
    both = np.mean([found.kept["stage3.block2"], found.kept["stage4.block1"].repeat(2, 2).repeat(2, 3)], axis=0)
    assert np.array_equal(found.maps["kept"][:, ::2], both)


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(films.photo(0).resize((120, 90)))


def test_a_class_of_a_segmentation(nets: dict[str, Path], photo: np.ndarray) -> None:
    explainer = Explainer(nets["segmentation"], device="cpu")
    answer = explainer.predictor(photo)
    found = explainer(photo)
    shares = np.bincount(answer.labels.ravel(), minlength=3) / answer.labels.size
    assert found.parts[0].name == answer.classes[int(shares.argmax())]
    assert found.parts[0].value == pytest.approx(shares.max(), abs=0.05)  # at a quarter of the size
    assert found.at("attention").shape == photo.shape[:2]


def test_one_box_of_a_detection(nets: dict[str, Path], photo: np.ndarray) -> None:
    explainer = Explainer(nets["detection"], device="cpu", score=0.0)
    answer = explainer.predictor(photo)
    one, two = explainer(photo), explainer(photo, number=2)
    assert one.parts[0].value == pytest.approx(float(answer.scores[0]), abs=1e-5)
    assert one.parts[0].name == f"{answer.names[answer.labels[0]]}, box 1"
    assert any(not np.array_equal(one.maps[kind], two.maps[kind]) for kind in one.kinds)
    assert one.kinds == ("stage4", "stage3", "stage2", "stage1", "attention")
    assert one.maps["stage1"].shape[2:] == tuple(4 * n for n in one.maps["stage3"].shape[2:])
    assert one.usual == "stage1"  # of a region below 112 pixels, which is cut from the finest level
    own = answer.names[answer.labels[0]]
    assert explainer(photo, own).parts[0] == one.parts[0]
    with refused("expected box 10000 to explain, found"):
        explainer(photo, number=10000)


def test_a_key_point_of_a_person(nets: dict[str, Path], photo: np.ndarray) -> None:
    def people(_: Any, height: int, width: int) -> Any:
        return np.array([[4, 4, 44, 60], [60, 20, 110, 80]], np.float32), np.ones(2)

    explainer = Explainer(nets["pose"], device="cpu", people=people)
    found = explainer(photo, "Point 2", number=2)
    assert found.parts[0].name == "point 2, person 2"
    heat = found.at("stage3")
    assert heat[:, :47].max() == 0 < heat[30:70, 70:100].max()  # within the crop, which is larger than the box
    with refused("expected person 3 to explain, found 2 persons"):
        explainer(photo, number=3)


def test_frames_of_a_video_by_a_network_of_pictures(nets: dict[str, Path], tmp_path: Path) -> None:
    film = films.write(tmp_path / "a.mp4", films.pan(0, 9), rate=10)
    found = Explainer(nets["segmentation"], device="cpu").frames(film, every=4)
    assert sorted(found.fed) == [0, 4, 8]
    bar = found.over_time("stage4")
    assert not bar[[1, 2, 3, 5, 6, 7]].any()
    assert found.seconds is not None
    assert np.allclose(found.seconds.ravel(), [0, 0.4, 0.8])
    with refused("expected classes of the checkpoint, got 'castle'"):
        Explainer(nets["segmentation"], device="cpu").frames(film, "castle")
    with refused("expected a frame with something to explain, found none: frame 0: .* a number other than 1"):
        Explainer(nets["segmentation"], device="cpu").frames(film, number=2)


def test_a_timeline_is_explained_window_by_window(bundled: Explainer, tmp_path: Path) -> None:
    film = films.write(tmp_path / "a.mp4", moving(48, 95, 96))
    found = bundled.timeline(film)
    assert [part.start for part in found.parts] == sorted(part.start for part in found.parts)  # type: ignore[type-var]
    assert found.parts[0].name == "static"
    assert {"pan_right", "truck_right"} & {part.name for part in found.parts}
    assert sum(part.views for part in found.parts) == len(found.boxes) == len(found.maps["stage4"])
    assert found.part_at(80).name in ("pan_right", "truck_right")
    other = uniformer.Timeline("a.mp4", "another network", (), 1.0, None, (), ())
    with refused("expected a timeline by uniformer_nano_video.camera_motion to explain, got one by another network"):
        bundled.windows(film, other)
    of_one = bundled.timeline(film, "pan right", cuts=False)
    assert {part.name for part in of_one.parts} == {"pan_right"}
    assert int(of_one.over_time("stage4").argmax()) >= 48


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_video_becomes_a_sheet_arrays_and_a_film(cli: Cli, tmp_path: Path) -> None:
    film = with_sound(tmp_path / "my film.mp4", start=0.4)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    out = tmp_path / "out"
    ended = cli("explain", film, bad, film, "--out", out, "--class", "Pan Right", "--device", "cpu")
    assert ended.status == 1
    assert "my film.mp4: pan_right (" in ended.out
    assert f"uniformer: {bad}: " in ended.err
    assert sorted(path.name for path in out.iterdir()) == [
        f"my film.explained.{ending}" for ending in ("mp4", "npz", "png")
    ]
    with open_video(film) as one, open_video(out / "my film.explained.mp4") as other:
        assert other.info.num_frames == one.info.num_frames
        assert np.allclose(one.times(range(50)), other.times(range(50)), atol=1e-4)
        assert (other.info.width, other.info.height) == (96, 64 + 58)
    assert beep_in(out / "my film.explained.mp4") == pytest.approx(BEEP - 0.4, abs=0.03)
    with np.load(out / "my film.explained.npz") as arrays:
        assert arrays["stage4"].shape == (1, 16, 96, 96)
        assert arrays["frames"].shape == (1, 16)
        assert arrays["over_time_stage4"].shape == (50,)
        assert arrays["name"].tolist() == ["pan_right"]
    with Image.open(out / "my film.explained.png") as sheet:
        assert sheet.width > 8 * 176
    again = cli("explain", film, "--out", out, "--device", "cpu")
    assert again.status == 2
    assert "is there already" in again.err
    assert len(again.err.splitlines()) == 1


def test_what_cannot_be_explained_is_said_before_the_work_and_counted(cli: Cli, tmp_path: Path) -> None:
    films.write(tmp_path / "a.mp4", films.pan(0, 24))
    (tmp_path / "empty").mkdir()
    ended = cli("explain", tmp_path / "a.mp4", tmp_path / "empty", "--class", "pan rihgt", "--out", tmp_path / "out")
    one_line(ended, "expected classes of the checkpoint, got 'pan rihgt' (did you mean 'pan_right'?)")
    with refused("expected classes of the checkpoint, got 'pan rihgt'"):  # not the file that is none
        Explainer().timeline(tmp_path / "none.mp4", "pan rihgt")
    ended = cli("explain", tmp_path / "a.mp4", tmp_path / "empty", "--out", tmp_path / "out")
    assert ended.status == 1
    assert ended.err.endswith("\n1 failed, 1 explained\n")


def test_a_picture_becomes_a_sheet_and_arrays(cli: Cli, nets: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(picture(1, 96, 64)).save(tmp_path / "a.jpg")
    options = ("--checkpoint", nets["segmentation"], "--out", tmp_path / "out", "--device", "cpu")
    assert cli("explain", tmp_path / "a.jpg", *options).status == 0
    with np.load(tmp_path / "out" / "a.explained.npz") as arrays:
        assert arrays["stage3"].shape[:2] == (1, 1)
    refusal = cli("explain", tmp_path / "a.jpg", "--timeline", *options)
    assert (refusal.status, len(refusal.err.splitlines())) == (2, 1)
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_sheets_and_films_write_names_in_words(tmp_path: Path) -> None:
    film = films.write(tmp_path / "a.mp4", films.pan(0, 4))
    files = {"arrays": tmp_path / "b.npz", "sheet": tmp_path / "b.png", "film": tmp_path / "b.mp4"}
    with open_video(film) as reader:
        height, width = reader.info.height, reader.info.width
    drawn = list[list[np.ndarray]]()
    for name in ("pan_right", "pan right"):
        found = Explanation(
            source="a.mp4", checkpoint="", parts=(Part(name, 1.0, views=1),),
            maps={"stage4": np.ones((1, 4, 1, 1), np.float32)}, places={"stage4": (np.zeros(1, np.float32),) * 2},
            size=(height, width), boxes=((0.0, 0.0, height, width),), height=height, width=width,
            frames=np.arange(4)[None], num_frames=4,
        )  # fmt: skip
        save_explanation(found, film, files)
        with open_video(files["film"]) as reader, Image.open(files["sheet"]) as sheet:
            drawn.append([np.asarray(sheet), *(pixels for _, pixels in reader.each(range(4)))])
    assert all(map(np.array_equal, *drawn))


def test_the_sheet_shows_the_map_where_it_lies(nets: dict[str, Path]) -> None:
    """The source's tile as it is; a map's tile changed where the map is, and nowhere else."""
    pixels = np.full((64, 64, 3), 90, np.uint8)
    tokens = np.zeros((1, 1, 4, 4), np.float32)
    tokens[0, 0, 0, 3] = 1
    places = (np.arange(4, dtype=np.float32) * 16 + 7.5,) * 2
    found = Explanation(
        source="a.png", checkpoint="", parts=(Part("a", 1.0, views=1),), maps={"stage3": tokens},
        places={"stage3": places}, size=(64, 64), boxes=((0.0, 0.0, 64.0, 64.0),), height=64, width=64,
    )  # fmt: skip
    sheet = np.asarray(explanation_sheet(found, pixels))
    side = 352
    source, heat = sheet[26 : 26 + side, 8 : 8 + side], sheet[26 : 26 + side, 16 + side : 16 + 2 * side]
    assert (source == 90).all()
    assert (heat[side // 2 :] == 90).all()
    assert (heat[:, : side // 2] == 90).all()
    assert heat[40, -44].astype(int).sum() > 3 * 90 + 150


def test_an_exported_network_has_answers_only(tmp_path: Path) -> None:
    with refused("a.xml: expected a checkpoint to explain, got an exported network"):
        Explainer(tmp_path / "a.xml")
