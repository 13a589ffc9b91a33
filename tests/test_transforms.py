"""Views against the plain order of the originals: whole-picture interpolation for clips, torchvision for images."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tolerance import assert_close
from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.transforms import crop_boxes, denormalise, image_array, view_array

CLIP = InputSpec(
    size=(32, 32),
    resize=32,
    interpolation="bilinear",
    mean=(0.45, 0.40, 0.35),
    std=(0.225, 0.25, 0.275),
    frames=2,
    sampling="sparse",
    crops=3,
)
IMAGE = InputSpec(size=(32, 32), resize=36)
BILINEAR = 4 + 2  # four pixels, each by a weight; less the mean, by the deviation


def to_views(frames: np.ndarray | torch.Tensor, spec: InputSpec) -> torch.Tensor:
    return torch.from_numpy(view_array(frames, spec))


def image_views(image: Image.Image | np.ndarray | torch.Tensor, spec: InputSpec) -> torch.Tensor:
    return torch.from_numpy(image_array(image, spec))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plain_clip_view(
    clip: np.ndarray, spec: InputSpec, resized: tuple[int, int], corner: tuple[int, int]
) -> torch.Tensor:
    """The order of the published runs: to floats, normalise, resize all, crop. (T, H, W, 3) -> (3, T, h, w)."""
    pixels = clip[..., ::-1].copy() if spec.channels == "bgr" else clip
    values = (torch.from_numpy(pixels).float() / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    values = torch.nn.functional.interpolate(values.permute(3, 0, 1, 2), resized, mode="bilinear", align_corners=False)
    (top, left), (h, w) = corner, spec.size
    return values[:, :, top : top + h, left : left + w]


# fmt: off
GEOMETRY = [  # source height, width; resized to a short side of 96, the long one rounded down; corners of three crops
    (90, 160, (96, 170), [(0, 0), (0, 37), (0, 74)]),  # 170.67 down
    (160, 90, (170, 96), [(0, 0), (37, 0), (74, 0)]),
    (100, 133, (96, 127), [(0, 0), (0, 16), (0, 31)]),  # 31 / 2 up
    (97, 96, (97, 96), [(0, 0), (1, 0), (1, 0)]),
    (96, 97, (96, 97), [(0, 0), (0, 1), (0, 1)]),
    (96, 96, (96, 96), [(0, 0), (0, 0), (0, 0)]),
    (9, 17, (96, 181), [(0, 0), (0, 43), (0, 85)]),  # smaller than a crop
    (1, 7, (96, 672), [(0, 0), (0, 288), (0, 576)]),
    (5, 1, (480, 96), [(0, 0), (192, 0), (384, 0)]),
    (1, 1, (96, 96), [(0, 0), (0, 0), (0, 0)]),
    (300, 401, (96, 128), [(0, 0), (0, 16), (0, 32)]),
]
# fmt: on


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("height", "width", "resized", "corners"), GEOMETRY)
def test_clip_views_equal_the_plain_order(
    height: int, width: int, resized: tuple[int, int], corners: list[tuple[int, int]], channels: Literal["rgb", "bgr"]
) -> None:
    spec = replace(CLIP, size=(96, 96), resize=96, channels=channels)
    clips = noise(2, 2, height, width, 3)
    views = to_views(clips, spec)
    assert views.shape == (6, 3, 2, 96, 96)
    assert views.dtype == torch.float32
    expected = [plain_clip_view(clip, spec, resized, corner) for clip in clips for corner in corners]
    assert_close(views, torch.stack(expected), BILINEAR)
    centre = to_views(clips, replace(spec, crops=1))
    assert torch.equal(centre, views[1::3])  # one crop is the middle one of three


def test_full_hd_clip_equals_the_plain_order() -> None:
    spec = replace(CLIP, size=(224, 224), resize=224)
    clips = noise(1, 1, 1080, 1920, 3)
    expected = [plain_clip_view(clips[0], spec, (224, 398), (0, left)) for left in (0, 87, 174)]
    assert_close(to_views(clips, spec), torch.stack(expected), BILINEAR)


def test_clip_views_are_ordered_by_clip_then_crop() -> None:
    clips = np.zeros((2, 1, 32, 96, 3), np.uint8)
    clips[0, :, :, :32], clips[0, :, :, 32:64], clips[0, :, :, 64:] = 10, 20, 30
    clips[1, :, :, :32], clips[1, :, :, 32:64], clips[1, :, :, 64:] = 40, 50, 60
    assert denormalise(to_views(clips, CLIP), CLIP)[:, 0, 16, 16, 0].tolist() == [10, 20, 30, 40, 50, 60]


def test_arrays_of_any_layout_and_tensors_give_the_same_views() -> None:
    clips = noise(1, 2, 40, 50, 3)
    expected = to_views(clips, CLIP)
    frozen = clips.copy()
    frozen.flags.writeable = False
    mirrored_twice = clips[:, :, :, ::-1].copy()[:, :, :, ::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (frozen, mirrored_twice, torch.from_numpy(clips)):
            assert torch.equal(to_views(same, CLIP), expected)
    assert (clips == frozen).all()  # the caller's frames are left alone


@pytest.mark.parametrize("size", [(64, 85), (85, 64), (37, 41), (36, 36), (20, 31), (500, 333), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("crop", [(32, 32), (31, 32), (36, 36), (35, 35)])
def test_image_views_equal_torchvision_bit_for_bit(size: tuple[int, int], crop: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    spec = replace(IMAGE, size=crop)
    image = Image.fromarray(noise(*size, 3))
    recipe = transforms.Compose(
        [
            transforms.Resize(36, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    views = image_views(image, spec)
    assert views.shape == (1, 3, *crop)
    assert torch.equal(views[0], recipe(image))
    assert torch.equal(image_views(np.asarray(image), spec), views)


def test_images_round_their_crop_half_to_even_and_clips_up() -> None:
    picture = noise(36, 37, 3)  # nothing to resize: 36 - 31 and 37 - 32 leave 5 free pixels each way
    spec = replace(IMAGE, size=(31, 32))
    assert (denormalise(image_views(picture, spec), spec)[0] == picture[2:33, 2:34]).all()
    clip_spec = replace(CLIP, size=(31, 32), resize=36, crops=1)
    assert (denormalise(to_views(picture[None, None], clip_spec), clip_spec)[0, 0] == picture[3:34, 3:35]).all()


def test_images_turn_as_exif_says(tmp_path: Path) -> None:
    upright = noise(40, 60, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert image.size == (40, 60)
        assert torch.equal(image_views(image, IMAGE), image_views(upright, IMAGE))


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.info["transparency"] = bytes([0, 128])
    return image


# fmt: off
MODES = [
    ("L", Image.new("L", (40, 40), 77), (77, 77, 77)),
    ("LA", Image.new("LA", (40, 40), (77, 3)), (77, 77, 77)),
    ("1", Image.new("1", (40, 40), 1), (255, 255, 255)),
    ("RGBA", Image.new("RGBA", (40, 40), (200, 100, 50, 0)), (200, 100, 50)),
    ("P", palette_with_transparency(), (200, 100, 50)),
    ("I;16", Image.fromarray(np.full((40, 40), 0x80FF, np.uint16)), (128, 128, 128)),
]
# fmt: on


@pytest.mark.parametrize(("mode", "image", "colour"), MODES, ids=[mode for mode, _, _ in MODES])
def test_every_mode_becomes_rgb(mode: str, image: Image.Image, colour: tuple[int, ...], tmp_path: Path) -> None:
    image.save(tmp_path / "image.png")
    with warnings.catch_warnings(), Image.open(tmp_path / "image.png") as stored:
        warnings.simplefilter("error")
        assert stored.mode == mode
        shown = denormalise(image_views(stored, IMAGE), IMAGE)
    assert (shown == colour).all()


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    with Image.open(tmp_path / "red.jpg") as stored:
        assert stored.mode == "CMYK"
        red, green, blue = denormalise(image_views(stored, IMAGE), IMAGE)[0, 16, 16].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize(
    ("mode", "said"), [("F", r"expected floats in 0 \.\. 1, got 100 \.\. 100"), ("I", "8 or 16 bits .* 'I'")]
)
def test_images_of_unknown_range_are_refused(mode: str, said: str, tmp_path: Path) -> None:
    Image.new(mode, (40, 40), 100).save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.tif") as stored, pytest.raises(InputError, match=said):
        image_views(stored, IMAGE)


@pytest.mark.parametrize("spec", [CLIP, replace(CLIP, channels="bgr")])
def test_denormalise_gives_the_pixels_back(spec: InputSpec) -> None:
    clips = noise(2, 2, 32, 32, 3)
    pictures = denormalise(to_views(clips, replace(spec, crops=1)), spec)
    assert pictures.dtype == np.uint8
    assert (pictures == clips).all()
    picture = noise(36, 36, 3)
    assert (denormalise(image_views(picture, replace(IMAGE, size=(36, 36))), IMAGE)[0] == picture).all()


def test_bgr_changes_the_order_of_channels_only() -> None:
    clip = np.zeros((1, 1, 32, 32, 3), np.uint8)
    clip[..., 0] = 255  # red
    spec = replace(CLIP, channels="bgr", crops=1)
    blue, green, red = to_views(clip, spec)[0, :, 0, 0, 0].tolist()
    assert (blue, green, red) == pytest.approx((-0.45 / 0.225, -0.40 / 0.25, 0.65 / 0.275))


# fmt: off
BOXES = [
    (64, 128, CLIP, [(0, 0, 64, 64), (0, 32, 64, 64), (0, 64, 64, 64)]),
    (128, 64, CLIP, [(0, 0, 64, 64), (32, 0, 64, 64), (64, 0, 64, 64)]),
    (1080, 1920, replace(CLIP, size=(224, 224), resize=224, crops=1), [(0, 87 * 1920 / 398, 1080, 224 * 1920 / 398)]),
    (72, 72, IMAGE, [(4, 4, 64, 64)]),
]
# fmt: on


@pytest.mark.parametrize(("height", "width", "spec", "boxes"), BOXES)
def test_crop_boxes(height: int, width: int, spec: InputSpec, boxes: list[tuple[float, ...]]) -> None:
    assert np.array(crop_boxes(height, width, spec)) == pytest.approx(np.array(boxes, float))


def test_crop_boxes_hold_what_the_network_is_shown() -> None:
    boxes = crop_boxes(64, 150, CLIP)  # resized to 32 x 75: the crops meet no pixel twice
    for index, (top, left, height, width) in enumerate(boxes):
        clip = np.zeros((1, 1, 64, 150, 3), np.uint8)
        clip[:, :, round(top) : round(top + height), round(left) : round(left + width)] = 255
        shown = denormalise(to_views(clip, CLIP), CLIP)[:, 0].mean(axis=(1, 2, 3))
        assert shown[index] > 250
        assert all(shown[other] < 250 for other in range(3) if other != index)


@pytest.mark.parametrize(
    "frames",
    [
        noise(2, 40, 40, 3),
        noise(1, 2, 40, 40, 4),
        noise(1, 2, 3, 40, 40),
        noise(1, 2, 40, 40, 3).astype(np.float32),
        noise(1, 0, 40, 40, 3),
        noise(1, 2, 0, 40, 3),
    ],
)
def test_frames_of_another_form_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected uint8 RGB of shape \(clips, T, H, W, 3\), got") as error:
        to_views(frames, CLIP)
    assert str(frames.shape) in str(error.value)


def test_odd_arrays_and_views_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(H, W, 3\), got uint8 of shape \(40, 40, 4\)"):
        image_views(noise(40, 40, 4), IMAGE)
    with pytest.raises(InputError, match=r"expected views .* got \(3, 8, 8\)"):
        denormalise(torch.zeros(3, 8, 8), IMAGE)
    with pytest.raises(InputError, match="at least one pixel, got 0 x 9"):
        crop_boxes(0, 9, IMAGE)


def test_a_crop_wider_than_the_picture_is_refused() -> None:
    wide = replace(CLIP, size=(32, 48))
    assert to_views(noise(1, 2, 40, 60, 3), wide).shape == (3, 3, 2, 32, 48)
    with pytest.raises(InputError, match=r"covers 32 x 48, got 60 x 40, resized to 48 x 32"):
        to_views(noise(1, 2, 60, 40, 3), wide)
    with pytest.raises(InputError, match="covers 32 x 48"):
        crop_boxes(60, 40, wide)


@pytest.mark.parametrize("resize", [224, 256])
@pytest.mark.parametrize("crops", [1, 3])
def test_very_long_pictures_are_cropped_as_they_are_resized(
    resize: int, crops: Literal[1, 3], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(IMAGE, size=(224, 224), resize=resize, crops=crops)
    for shape in ((30, 3000, 3), (2500, 33, 3)):
        line = np.asarray(Image.fromarray(noise(*(side // 10 or 1 for side in shape[:2]), 3)).resize(shape[1::-1]))
        got = denormalise(image_views(line, spec), spec).astype(int)
        with monkeypatch.context() as patched:
            patched.setattr("uniformer.reading.transforms.ELONGATED", 1000)
            assert abs(got - denormalise(image_views(line, spec), spec)).max() <= 3
    assert image_views(noise(1, 200_000, 3), spec).shape == (crops, 3, 224, 224)


def test_very_long_frames() -> None:
    line = noise(1, 10_000, 3)
    clip_spec = replace(CLIP, size=(224, 224), resize=224, crops=1)  # clips read what they show, at any length
    shown = denormalise(to_views(line[None, None], clip_spec), clip_spec)[0, 0]
    edges = shown[:, [0, -1]].astype(int)  # 224 pixels between the centres of the middle two
    assert abs(edges - line[0, 4999:5001]).max() <= 1


def test_needs_no_torchvision() -> None:
    code = "import sys, uniformer.reading.transforms; sys.exit('torchvision' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_interpolation_does_not_change_the_geometry_of_clips() -> None:
    spec = replace(CLIP, interpolation="bicubic")
    clips = noise(1, 2, 64, 75, 3)  # 32 x 37: crops at 0, 3 and 5
    views = denormalise(to_views(clips, spec), spec)
    for time, frame in enumerate(clips[0]):
        resized = np.asarray(Image.fromarray(frame).resize((37, 32), Image.Resampling.BICUBIC))
        for view, left in zip(views, (0, 3, 5), strict=True):
            assert (view[time] == resized[:, left : left + 32]).all()
