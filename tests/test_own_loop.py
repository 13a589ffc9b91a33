"""A loop of one's own: the plain data set, the transform, and the loop that docs/training.md shows."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import uniformer
from tests.tiny import CLIPS, IMAGES, refused, save_tiny
from tests.training_runs import make_clips, make_images
from uniformer.checkpoints.contract import Contract
from uniformer.config import Config
from uniformer.datasets.manifest import Item, Manifest
from uniformer.reading.options import Augment
from uniformer.reading.video import open_video
from uniformer.reading.views import load_views

SMALL = replace(CLIPS, size=(32, 32), resize=32, clips=1)
PAGE = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return uniformer.open_dataset(make_clips(tmp_path_factory.mktemp("clips")), split="train")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return uniformer.open_dataset(make_images(tmp_path_factory.mktemp("images")), split="train")


# ---- the data set


def test_a_sample_is_a_clip_or_a_picture_and_its_label(clips: Manifest, images: Manifest) -> None:
    x, label = clips.torch_dataset(SMALL)[0]
    assert (x.shape, x.dtype, label) == ((3, 4, 32, 32), torch.float32, 0)
    assert type(label) is int
    x, label = images.torch_dataset(IMAGES)[-1]
    assert (x.shape, label) == ((3, 64, 64), 1)
    assert len(images.torch_dataset(IMAGES)) == len(images)
    with pytest.raises(IndexError):
        images.torch_dataset(IMAGES)[len(images)]


def test_test_views_are_those_of_evaluation(clips: Manifest) -> None:
    one, label = clips.torch_dataset(SMALL, training=False)[4]
    assert (one.shape, label) == ((3, 4, 32, 32), 1)
    four = clips.torch_dataset(replace(SMALL, clips=2, crops=3), training=False)[4][0]
    assert torch.equal(four, load_views(clips.path(4), replace(SMALL, clips=2, crops=3)).pixels)
    assert torch.equal(one, load_views(clips.path(4), SMALL).pixels[0])


def test_several_labels_are_a_row_of_ones(images: Manifest) -> None:
    items = [Item(images.path(0), (2, 0)), Item(images.path(1), ())]
    data = Manifest.from_items(items, kind="image", classes="abc", multi_label=True).torch_dataset(IMAGES)
    (_, labels) = next(iter(DataLoader(data, batch_size=2)))
    assert (labels.dtype, labels.tolist()) == (torch.float32, [[1, 0, 1], [0, 0, 0]])


def epochs(loader: DataLoader[Any], data: Any, count: int = 2) -> list[list[torch.Tensor]]:
    taken = []
    for epoch in range(count):
        data.set_epoch(epoch)
        taken.append([x for x, _ in loader])
    return taken


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_draws_follow_from_seed_epoch_and_row_whatever_the_workers(
    method: str, clips: Manifest, tmp_path: Path
) -> None:
    def data(seed: int = 3) -> Any:
        return clips.torch_dataset(SMALL, seed=seed)

    alone = data()
    first, second = epochs(DataLoader(alone, batch_size=3), alone)
    assert not torch.equal(first[0], second[0])
    one, workers = data(), 2
    if method == "spawn":  # each worker imports all anew, which takes its time
        clips.save(tmp_path / "train.manifest")
        one, workers = uniformer.open_dataset(tmp_path / "train.manifest").torch_dataset(SMALL, seed=3), 1
    loader = DataLoader(one, batch_size=3, num_workers=workers, multiprocessing_context=method, persistent_workers=True)
    for expected, found in zip((first, second), epochs(loader, one), strict=True):
        assert all(map(torch.equal, expected, found))
    assert not torch.equal(data(4)[0][0], first[0][0])
    shuffled = DataLoader(data(), batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0))
    ((x, _),) = shuffled
    rows = [next(i for i in range(6) if torch.equal(view, torch.cat(first)[i])) for view in x]
    assert sorted(rows) == list(range(6))


def test_classes_that_name_sides_are_not_mirrored(clips: Manifest) -> None:
    sided = replace(clips, classes=("turn left", "turn right"), file=None)
    assert sided.torch_dataset(SMALL).augment.flip == 0
    assert clips.torch_dataset(SMALL).augment.flip == 0.5
    with pytest.warns(UserWarning, match=r"augment\.flip=0\.5 mirrors .* such as 'turn left' and 'turn right'"):
        sided.torch_dataset(SMALL, augment=Augment())
    turned = sided.torch_dataset(SMALL, augment=Augment(flip=0.0, mirror=1.0))
    assert [turned[i][1] for i in range(6)] == [1, 1, 1, 0, 0, 0]


def test_what_does_not_fit_is_said(clips: Manifest, images: Manifest, tmp_path: Path) -> None:
    with refused("expected video or frames items for this network, got image items"):
        images.torch_dataset(SMALL)
    with refused("expected augment with training=True only"):
        images.torch_dataset(IMAGES, training=False, augment=Augment())
    with refused(r"expected augment\.repeats=1 for samples one by one, got 2"):
        images.torch_dataset(IMAGES, augment=Augment(repeats=2))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (300, 2)).save(tmp_path / "a" / "long.png")
    data = uniformer.open_dataset(tmp_path)
    for training in (True, False):
        with refused(r"a/bad\.png: expected an image"):
            data.torch_dataset(IMAGES, training=training)[0]
    with refused(r"a/long\.png: expected jitter_scales that cover"):
        data.torch_dataset(IMAGES, augment=Augment(scale=None, jitter_scales=(8, 8)))[1]


# ---- the transform


def test_a_transform_takes_what_predict_takes(clips: Manifest, images: Manifest) -> None:
    see = uniformer.transforms(SMALL)
    with open_video(clips.path(0)) as reader:
        frames = reader.read(range(reader.info.num_frames))
    pictures = [Image.fromarray(frame) for frame in frames]
    for source in (clips.path(0), Path(clips.path(0)), frames, torch.from_numpy(frames), pictures):
        assert torch.equal(see(source), load_views(clips.path(0), SMALL).pixels[0])
        drawn = uniformer.transforms(SMALL, training=True)(source, np.random.default_rng(0))
        assert torch.equal(drawn, uniformer.transforms(SMALL, training=True)(frames, np.random.default_rng(0)))
    assert uniformer.transforms(replace(SMALL, clips=2))(frames).shape == (2, 3, 4, 32, 32)
    with Image.open(images.path(0)) as picture:
        for source in (images.path(0), picture, np.asarray(picture)):
            assert uniformer.transforms(IMAGES)(source).shape == (3, 64, 64)
            assert uniformer.transforms(IMAGES, training=True)(source).shape == (3, 64, 64)


def test_a_transform_draws_from_torchs_generator_and_can_be_pickled(images: Manifest) -> None:
    see = pickle.loads(pickle.dumps(uniformer.transforms(IMAGES, training=True)))

    def twice() -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        return see(images.path(0)), see(images.path(0))

    one, two = twice()
    assert not torch.equal(one, two)
    assert all(map(torch.equal, (one, two), twice()))


def test_a_transform_knows_the_input_of_a_checkpoint(tmp_path: Path) -> None:
    record = uniformer.get_checkpoint("uniformer_small.k400_16x4")
    assert uniformer.transforms("uniformer_small.k400_16x4").spec == record.input  # without its file
    assert uniformer.transforms("uniformer_nano_video.camera_motion").spec.is_video
    assert uniformer.transforms(save_tiny(tmp_path / "a.safetensors", SMALL)).spec == SMALL
    assert uniformer.transforms(Contract(Config(), input=IMAGES)).spec == IMAGES
    flips = {
        id: uniformer.transforms(id, training=True).augment.flip
        for id in ("uniformer_small.k400_16x4", "uniformer_nano_video.camera_motion", "uniformer_small.ssv2_16_prek400")
    }
    assert list(flips.values()) == [0.5, 0, 0]
    with refused("does not say what it is fed"):
        uniformer.transforms(Contract(Config()))
    with refused(r"augment\.mirror and augment\.reverse change labels"):
        uniformer.transforms(SMALL, training=True, augment=Augment(flip=0, mirror=0.5))
    with refused("expected augment with training=True only"):
        uniformer.transforms(SMALL, augment=Augment())
    with refused("unknown checkpoint 'uniformer_smal.k400_16x4'"):
        uniformer.transforms("uniformer_smal.k400_16x4")


# ---- the loop of the page


def test_the_loop_of_the_page_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"<!-- own loop -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    checkpoint = save_tiny(tmp_path / "tiny.safetensors", replace(IMAGES, size=(32, 32), resize=32))
    changes = {
        '"uniformer_small.k400_16x4"': repr(str(checkpoint)),
        '"data/clips"': repr(str(make_images(tmp_path / "pictures", train=16))),
        "training=True, seed=0": "training=True, seed=0, augment=gentle",  # the default's draws turn colours round
        "lr=1e-4": "lr=2e-3",
        "range(10)": "range(4)",
        "num_workers=4": "num_workers=2",
    }
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    torch.manual_seed(0)
    with contextlib.redirect_stdout(said):
        exec(code, {"gentle": Augment(rand_augment=None, erase_prob=0.0)})
    lines = [re.fullmatch(r"epoch \d: loss (\S+), (\d) of 8 right", line) for line in said.getvalue().splitlines()]
    losses, right = zip(*((float(line[1]), int(line[2])) for line in lines if line), strict=True)
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 2
    assert right[-1] == 8
    assert (
        uniformer.predict(tmp_path / "pictures/val/red/0.png", model=tmp_path / "mine.safetensors").labels[0].name
        == "red"
    )
