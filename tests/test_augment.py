"""Augmentation: one draw per clip from one generator, the reference's arithmetic, and label maps that follow."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import InterpolationMode, resized_crop

from tests.tolerance import assert_close
from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.augment import (
    Rectangle,
    augment_clip,
    augment_image,
    draw,
    draw_crop,
    draw_erased,
)
from uniformer.reading.options import POLICIES, Augment

SIZE = (48, 40)  # height and width differ, to tell them apart
CLIP = InputSpec(
    size=SIZE,
    resize=56,
    frames=4,
    sampling="dense",
    stride=4,
    interpolation="bilinear",
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
)
IMAGE = InputSpec(size=SIZE, resize=56)
KINETICS = Augment(rand_augment="rand-m7-n4-mstd0.5-inc1", interpolation="bilinear", repeats=2)
BARE = Augment(rand_augment=None, interpolation="bilinear", flip=0, erase_prob=0)
BILINEAR = 6 * 90**2  # four weighted pixels, normalised; a weight is what is over of a place, of up to 90
STRINGS = ("rand", "rand-m5-n2-mstd0.25", "rand-m7-n4-mstd0.5-inc1", "rand-m9-mstd0.5-inc1", *POLICIES)


def picture(seed, height=70, width=90):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)).point(lambda v: (v - 100) * 4))


def clip(frames=4, **size):
    return np.stack([picture(i, **size) for i in range(frames)])


def normalised(frames, spec):
    """(T, H, W, 3) -> (3, T, H, W), as the reference does it before cropping."""
    values = torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (spec.mean, spec.std))
    return (values - mean) / std


# --- determinism -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRINGS)
def test_a_seed_gives_the_same_view_bit_for_bit_and_global_generators_are_left_alone(name):
    augment = replace(KINETICS, rand_augment=name, op_interpolation="random", interpolation="random", erase_prob=0.5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    views = {}
    for seed in range(4):
        first, second = (augment_clip(clip(), CLIP, augment, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first, second)
        views[seed] = first
        one, other = (augment_image(picture(0), IMAGE, augment, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(one, other)
    assert not torch.equal(views[0], views[1])
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_view_does_not_depend_on_the_global_generators():
    views = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        views.append(augment_clip(clip(), CLIP, KINETICS, np.random.default_rng(3)))
    assert torch.equal(*views)


class Clips(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return augment_clip(clip(), CLIP, KINETICS, np.random.default_rng((5, index)))


def test_loading_processes_give_what_this_process_gives():
    here = torch.stack([Clips()[i] for i in range(6)])
    there = torch.cat(list(DataLoader(Clips(), batch_size=2, num_workers=2)))
    assert torch.equal(here, there)


# --- one draw per clip -------------------------------------------------------------------------------


@pytest.mark.parametrize("op_interpolation", ["bicubic", "random"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_repeated_frame_stays_repeated(interpolation, op_interpolation):
    augment = replace(KINETICS, interpolation=interpolation, op_interpolation=op_interpolation, erase_prob=0)
    still = np.repeat(picture(1)[None], 3, axis=0)
    for seed in range(25):
        view = augment_clip(still, CLIP, augment, np.random.default_rng(seed))
        assert view.shape == (3, 3, *SIZE)
        assert view.dtype == torch.float32
        assert (view == view[:, :1]).all()


def test_frames_share_the_erased_box_and_each_has_its_own_noise():
    still = np.repeat(picture(1)[None], 3, axis=0)
    for seed in range(10):
        augment = replace(BARE, erase_prob=1)
        box = draw(70, 90, CLIP, augment, np.random.default_rng(seed)).erased
        whole = augment_clip(still, CLIP, BARE, np.random.default_rng(seed))
        view = augment_clip(still, CLIP, augment, np.random.default_rng(seed))
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[box.top : box.top + box.height, box.left : box.left + box.width] = True
        assert torch.equal(view[..., ~inside], whole[..., ~inside])
        noise = view[..., inside]  # (3, T, n)
        assert not (noise[:, 0] == noise[:, 1]).any()
        assert abs(noise.mean()) < 6 / noise.numel() ** 0.5
        assert abs(noise.std() - 1) < 6 / noise.numel() ** 0.5


@pytest.mark.parametrize(("mode", "colours"), [("zero", 1), ("colour", 3)])
def test_other_fillings_of_an_erased_box(mode, colours):
    augment = replace(BARE, erase_prob=1, erase_mode=mode)
    top, left, height, width = draw(70, 90, CLIP, augment, np.random.default_rng(2)).erased
    view = augment_clip(clip(), CLIP, augment, np.random.default_rng(2))
    patch = view[..., top : top + height, left : left + width]
    assert len(patch.unique()) == colours
    assert (patch[:, 0, 0, 0] == 0).all() == (mode == "zero")


# --- the reference's arithmetic ----------------------------------------------------------------------


def test_clips_are_cropped_as_by_normalising_and_interpolating_whole_frames():
    for seed in range(10):
        top, left, height, width = draw(70, 90, CLIP, BARE, np.random.default_rng(seed)).crop.source
        frames = normalised(clip(), CLIP)[..., top : top + height, left : left + width]
        expected = F.interpolate(frames.transpose(0, 1), size=SIZE, mode="bilinear", align_corners=False)
        view = augment_clip(clip(), CLIP, BARE, np.random.default_rng(seed))
        assert_close(view, expected.transpose(0, 1), BILINEAR)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_are_cropped_as_by_torchvision(interpolation):
    augment = replace(BARE, interpolation=interpolation)
    for seed in range(10):
        box = draw(70, 90, IMAGE, augment, np.random.default_rng(seed)).crop.source
        cropped = resized_crop(Image.fromarray(picture(2)), *box, SIZE, InterpolationMode(interpolation))
        view = augment_image(picture(2), IMAGE, augment, np.random.default_rng(seed))
        assert torch.equal(view, normalised(np.asarray(cropped)[None], IMAGE)[:, 0])


@pytest.mark.parametrize("name", ["rand-m9-mstd0.5-inc1", "v0"])
def test_pictures_meet_timms_operations_with_the_mean_as_the_colour_beneath(name):
    square = replace(IMAGE, size=(64, 64), resize=64)
    augment = replace(BARE, rand_augment=name, scale=(1, 1), ratio=(1, 1))  # the crop is the whole picture
    build = rand_augment_transform if name.startswith("rand") else auto_augment_transform
    source = Image.fromarray(picture(3, 64, 64))
    changed = 0
    for seed in range(20):
        timms = build(name, {"img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC})
        drawn = draw(64, 64, square, augment, np.random.default_rng(seed))
        random.seed(drawn.seed)
        np.random.seed(drawn.seed)  # noqa: NPY002
        expected = timms(source)
        view = augment_image(source, square, augment, np.random.default_rng(seed))
        assert torch.equal(view, normalised(np.asarray(expected)[None], square)[:, 0])
        changed += expected != source
    assert changed > 5


@pytest.mark.parametrize("name", ["rand-m10-n1-p1-inc1", "rand-m10-n1-p1"])
def test_posterizing_to_no_bits_at_all_is_black(name):
    """As it was under the Pillow of the published runs; later ones refuse it. A draw of 10 or more comes to no bits."""
    square = replace(IMAGE, size=(64, 64), resize=64, mean=(0.0, 0.0, 0.0))
    augment = replace(BARE, rand_augment=name, scale=(1, 1), ratio=(1, 1))
    views = [augment_image(picture(3, 64, 64), square, augment, np.random.default_rng(seed)) for seed in range(60)]
    assert any((view == 0).all() for view in views) == name.endswith("inc1")  # without "inc", 10 keeps all four bits


def test_flipping_mirrors_left_and_right_and_nothing_else():
    for seed in range(3):
        for view in (
            lambda augment, seed=seed: augment_clip(clip(), CLIP, augment, np.random.default_rng(seed)),
            lambda augment, seed=seed: augment_image(picture(0), IMAGE, augment, np.random.default_rng(seed)),
        ):
            assert torch.equal(view(replace(BARE, flip=1.0)), view(BARE).flip(-1))


def test_flips_and_erasing_come_as_often_as_asked():
    augment = replace(BARE, flip=0.3, erase_prob=0.25)
    draws = [draw(70, 90, CLIP, augment, np.random.default_rng((1, i))) for i in range(2000)]
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([d.erased is not None for d in draws]) == pytest.approx(0.25, abs=0.03)


def test_bgr_is_rgb_with_channels_and_mean_reversed():
    rgb = replace(IMAGE, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))
    bgr = replace(rgb, channels="bgr", mean=rgb.mean[::-1], std=rgb.std[::-1])
    for seed in range(5):
        views = [augment_image(picture(1), s, Augment(erase_prob=0), np.random.default_rng(seed)) for s in (rgb, bgr)]
        torch.testing.assert_close(views[0], views[1].flip(0))


# --- crops -------------------------------------------------------------------------------------------


def test_crops_are_distributed_as_torchvisions():
    rng, sample = np.random.default_rng(0), torch.empty(3, 256, 340)
    torch.manual_seed(0)
    ours = np.array([draw_crop(256, 340, (0.08, 1), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    theirs = np.array([RandomResizedCrop.get_params(sample, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)])
    for own, other in zip(ours.T, theirs.T, strict=True):
        deciles = np.linspace(0.1, 0.9, 9)
        assert np.quantile(own, deciles) == pytest.approx(np.quantile(other, deciles), rel=0.06, abs=8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (7, 90), (90, 7), (33, 32)])
def test_crops_lie_in_pictures_of_any_shape(height, width):
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left, h, w = draw_crop(height, width, (0.08, 1), (3 / 4, 4 / 3), rng)
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert min(h, w) > 0
    view = augment_image(np.zeros((height, width, 3), np.uint8), IMAGE, Augment(), rng)
    assert view.shape == (3, *SIZE)


def test_an_elongated_picture_gets_its_largest_central_crop():
    assert draw_crop(30, 1000, (0.9, 1), (3 / 4, 4 / 3), np.random.default_rng(0)) == Rectangle(0, 480, 30, 40)
    assert draw_crop(1000, 30, (0.9, 1), (3 / 4, 4 / 3), np.random.default_rng(0)) == Rectangle(480, 0, 40, 30)


def test_erased_boxes_lie_in_the_view_and_cover_2_to_33_percent():
    rng = np.random.default_rng(0)
    boxes = [draw_erased(224, 224, rng) for _ in range(1000)]
    areas = np.array([height * width for *_, height, width in boxes]) / 224**2
    assert areas.min() > 0.018
    assert areas.max() < 0.35
    assert all(0 <= t <= t + h <= 224 and 0 <= x <= x + w <= 224 for t, x, h, w in boxes)
    assert draw_erased(1, 1, rng) is None


@pytest.mark.parametrize(("height", "width"), [(70, 90), (90, 70)])
def test_jittered_scales_are_a_resize_of_the_whole_and_a_crop_anywhere(height, width):
    augment = replace(BARE, scale=None, jitter_scales=(50, 64))
    frames, shorts = clip(height=height, width=width), set()
    for seed in range(20):
        crop = draw(height, width, CLIP, augment, np.random.default_rng(seed)).crop
        (top, left), (tall, wide) = crop.corner, crop.resized
        shorts.add(min(tall, wide))
        assert tall / wide == pytest.approx(height / width, rel=0.03)
        resized = F.interpolate(
            normalised(frames, CLIP).transpose(0, 1), size=(tall, wide), mode="bilinear", align_corners=False
        )
        expected = resized[..., top : top + SIZE[0], left : left + SIZE[1]].transpose(0, 1)
        view = augment_clip(frames, CLIP, augment, np.random.default_rng(seed))
        assert_close(view, expected, BILINEAR)
    assert min(shorts) >= 50
    assert max(shorts) <= 64
    assert len(shorts) > 5


def test_jittered_scales_that_do_not_cover_the_view_are_refused():
    augment = replace(BARE, scale=None, jitter_scales=(30, 40))
    with pytest.raises(InputError, match="expected jitter_scales that cover 48 x 40"):
        augment_clip(clip(), CLIP, augment, np.random.default_rng(0))


# --- colour jitter -----------------------------------------------------------------------------------


def test_colour_jitter_changes_brightness_by_up_to_its_share():
    augment = replace(BARE, rand_augment=None, color_jitter=0.4)
    grey = np.full((2, 70, 90, 3), 100, np.uint8)  # neither contrast nor saturation changes a plain grey
    spec = replace(CLIP, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    values = [augment_clip(grey, spec, augment, np.random.default_rng(i)) for i in range(60)]
    values = [(view * 255).round().unique() for view in values]
    assert all(len(value) == 1 for value in values)
    assert min(values) >= 59
    assert max(values) <= 141
    assert max(values) - min(values) > 60


# --- input and options -------------------------------------------------------------------------------


def test_forms_of_input(tmp_path):
    pixels = picture(0)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    forms = (pixels, torch.from_numpy(pixels.copy()), Image.fromarray(pixels), Image.open(tmp_path / "p.png"))
    views = [augment_image(form, IMAGE, Augment(), np.random.default_rng(1)) for form in forms]
    assert all(torch.equal(views[0], view) for view in views)
    for wrong, said in (
        (pixels.astype(np.float32), r"expected floats in 0 \.\. 1"),
        (pixels[..., :2], r"expected uint8 RGB of shape \(H, W, 3\)"),
        (pixels[None], r"expected uint8 RGB of shape \(H, W, 3\)"),
    ):
        with pytest.raises(InputError, match=said):
            augment_image(wrong, IMAGE, Augment(), np.random.default_rng(1))
    with pytest.raises(InputError, match=r"expected uint8 RGB of shape \(T, H, W, 3\)"):
        augment_clip(pixels, CLIP, KINETICS, np.random.default_rng(1))


@pytest.mark.parametrize("name", STRINGS)
def test_frames_are_left_as_they_are(name):
    frames = clip()
    before = frames.copy()
    frames.flags.writeable = False
    for seed in range(3):
        augment_clip(frames, CLIP, replace(KINETICS, rand_augment=name), np.random.default_rng(seed))
    assert np.array_equal(frames, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rand_augment": "random"}, "expected rand_augment such as"),
        ({"rand_augment": "rand-x9"}, "expected rand_augment such as"),
        ({"color_jitter": 0.4}, "expected at most one of rand_augment and color_jitter"),
        ({"rand_augment": None, "color_jitter": 1.4}, r"expected color_jitter in \[0, 1\], got 1.4"),
        ({"scale": None}, "expected one of scale and jitter_scales, got None and None"),
        ({"jitter_scales": (256, 320)}, "expected one of scale and jitter_scales"),
        ({"scale": (0.5, 0.1)}, "expected scale as"),
        ({"scale": (0.5, 1.5)}, "expected scale as"),
        ({"scale": (0, 1)}, "expected scale as"),
        ({"ratio": (1,)}, "expected ratio as"),
        ({"interpolation": "nearest"}, "expected interpolation 'bilinear'"),
        ({"op_interpolation": "lanczos"}, "expected op_interpolation 'bilinear'"),
        ({"flip": 2}, r"expected flip in \[0, 1\], got 2"),
        ({"erase_prob": -1}, r"expected erase_prob in \[0, 1\]"),
        ({"erase_mode": "const"}, "expected erase_mode"),
        ({"repeats": 0}, "expected at least one copy"),
    ],
)
def test_unusable_options_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        Augment(**options)
    assert "\n" not in str(error.value)
