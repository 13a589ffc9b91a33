"""Which samples training gets, in which order, however many processes share them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import odd_media
from tests.training_runs import CLIPS, STILL, make_clips, make_images, recipe, splits
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_dataset
from uniformer.errors import InputError
from uniformer.reading.options import Augment
from uniformer.training.batches import Members, Place, Plan, TrainingSet, batches, epoch_draws, read_label_map, share

NOTHING = Augment(rand_augment=None, scale=(1.0, 1.0), flip=0.0, erase_prob=0.0, interpolation="bilinear")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return splits(make_images(tmp_path_factory.mktemp("images")))[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return open_dataset(make_clips(tmp_path_factory.mktemp("clips")), split="train")


def taken(dataset, plan, **options):
    return list(batches(dataset, plan, **options))


# ---- which samples


def test_an_epoch_has_each_row_once_in_an_order_of_its_own():
    first, again, second = (epoch_draws(50, 3, epoch).rows for epoch in (0, 0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_draws(50, 4, 0).rows)


def test_repeated_augmentation_draws_in_a_row_and_keeps_the_epochs_length():
    rows = epoch_draws(50, 0, 0, repeated=3).rows
    assert len(rows) == 50
    assert np.array_equal(rows[::3], epoch_draws(50, 0, 0).rows[:17])
    assert np.array_equal(rows[0:48:3], rows[2:48:3])


def test_balanced_classes_are_drawn_equally_often():
    labels = np.array([0] * 90 + [1] * 7 + [3] * 5, np.int32)
    members = Members(np.arange(102), labels)
    rows = epoch_draws(102, 0, 0, members=members).rows
    counts = np.bincount(labels[rows], minlength=4)
    assert counts.tolist() == [34, 34, 0, 34]
    assert len(set(rows[labels[rows] == 0])) == 34  # of a large class none twice
    assert set(rows[labels[rows] == 3]) == set(range(97, 102))  # of a small one all
    assert np.bincount(labels[epoch_draws(102, 0, 1, members=members).rows]).tolist() == counts.tolist()


@pytest.mark.parametrize("batch", [12, 18, 6, 30])
def test_processes_share_a_batch_and_keep_mirrored_pairs_together(batch):
    assert share(batch, 0, 1).tolist() == list(range(batch))
    for size in (2, 3):
        parts = [share(batch, rank, size) for rank in range(size)]
        assert sorted(np.concatenate(parts)) == list(range(batch))
        assert {len(part) for part in parts} == {batch // size}
        if batch // size % 2 == 0:
            for part in parts:
                assert np.array_equal(part + part[::-1], np.full(len(part), batch - 1))


def test_copies_of_repeated_augmentation_go_to_different_processes():
    rows = epoch_draws(24, 0, 0, repeated=3).rows[:12]
    parts = [rows[share(12, rank, 3)] for rank in range(3)]
    assert all(len(set(part.tolist())) == 4 for part in parts)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_has_the_same_samples_whatever_the_processes_and_passes(size, passes):
    plain = Plan(40, 12, 2)
    steps = list(plain.places(0))
    assert len(steps) == plain.steps * plain.epochs == 6
    shared = [list(Plan(40, 12, 2, passes=passes, rank=rank, size=size).places(0)) for rank in range(size)]
    for number, whole in enumerate(steps):
        parts = [p for of_rank in shared for one in of_rank[number * passes : (number + 1) * passes] for p in one]
        assert sorted(parts) == sorted(whole)


def test_a_run_goes_on_at_any_step():
    plan = Plan(20, 4, 3, seed=5, passes=2)
    whole = list(plan.places(0))
    for start in range(16):
        assert list(plan.places(start)) == whole[2 * start :]


def test_fewer_samples_than_a_batch_are_refused():
    with pytest.raises(InputError, match="at least one batch of 8 samples, got 5: set a smaller batch_size"):
        Plan(5, 8, 1)


# ---- reading them


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_batches_do_not_depend_on_the_worker_processes(kind, request):
    manifest = request.getfixturevalue(kind)
    chosen = recipe(base=CLIPS) if kind == "clips" else recipe({"data": {"repeated_augmentation": 2}})
    dataset = TrainingSet(manifest, chosen.input, chosen.augment, seed=1)
    plan = Plan(len(manifest), 4, 2, seed=1, repeated=chosen.data.repeated_augmentation)
    alone = taken(dataset, plan)
    assert len(alone) == 2 * (len(manifest) // 4)
    assert not torch.equal(alone[0].x, alone[plan.steps].x)  # another epoch, other draws
    for workers in (2, 3):
        for one, other in zip(alone, taken(dataset, plan, workers=workers), strict=True):
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.labels, other.labels)


def test_copies_come_from_one_decoding(clips):
    spec = recipe(base=CLIPS).input
    (batch, *_) = taken(TrainingSet(clips, spec, replace(NOTHING, repeats=2)), Plan(6, 3, 1))
    assert batch.x.shape == (6, 3, 4, 32, 32)
    assert torch.equal(batch.x[::2], batch.x[1::2])
    assert torch.equal(batch.labels[::2], batch.labels[1::2])
    (other, *_) = taken(TrainingSet(clips, spec, replace(NOTHING, repeats=2, erase_prob=1.0)), Plan(6, 3, 1))
    assert not torch.equal(other.x[0], other.x[1])  # drawn anew for each copy


def test_a_part_of_a_video_is_all_that_is_seen(tmp_path):
    path = odd_media.encode(tmp_path / "long.mp4", frames=60, rate=10)
    spec = replace(recipe(base=CLIPS).input, size=(96, 128), resize=96, frames=4, stride=2)
    manifest = Manifest.from_items([Item(str(path), (0,), 2.0, 3.5)], kind="video", classes=("a",))
    dataset = TrainingSet(manifest, spec, replace(NOTHING, ratio=(4 / 3, 4 / 3)))
    seen = set()
    for epoch in range(8):
        views = dataset[Place(epoch, 0, 0)].views[0] * 0.225 + 0.45  # (3, T, h, w)
        frames = (views.permute(1, 2, 3, 0) * 255).round().clamp(0, 255).byte().numpy()
        seen |= {odd_media.number_in(frame) for frame in frames}
    assert min(seen) >= 20
    assert max(seen) < 35
    assert len(seen) > 8


def test_an_unreadable_file_is_stood_in_for_always_by_the_same_sample(tmp_path):
    folder = make_images(tmp_path, train=6)
    broken = folder / "train" / "red" / "2.png"
    broken.write_bytes(b"no picture")
    manifest = open_dataset(folder, split="train")
    dataset = TrainingSet(manifest, recipe().input, NOTHING)
    alone, shared = (taken(dataset, Plan(12, 4, 2), workers=workers) for workers in (0, 2))
    assert {len(batch.x) for batch in alone} == {4}
    bad = [file for batch in alone for file in batch.unreadable]
    assert [path for path, _ in bad] == [str(broken)] * 2  # once an epoch
    assert "expected an image" in bad[0][1]
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.x, other.x)
        assert one.unreadable == other.unreadable


def test_nothing_but_unreadable_files_ends_in_words(tmp_path):
    folder = make_images(tmp_path, train=2)
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    dataset = TrainingSet(open_dataset(folder, split="train"), recipe().input, NOTHING)
    with pytest.raises(InputError, match="20 unreadable ones in a row"):
        dataset[Place(0, 0, 0)]


def test_clips_and_images_are_not_confused(images, clips):
    with pytest.raises(InputError, match="expected video or frames items for this network, got image items"):
        TrainingSet(images, recipe(base=CLIPS).input, NOTHING)
    with pytest.raises(InputError, match="expected image items for this network, got video items"):
        TrainingSet(clips, recipe().input, NOTHING)


def test_several_labels_become_a_row_of_ones(images):
    items = [Item(images.path(0), (2, 0)), Item(images.path(1), ())]
    manifest = Manifest.from_items(items, kind="image", classes="abc", multi_label=True)
    (batch,) = taken(TrainingSet(manifest, recipe().input, NOTHING), Plan(2, 2, 1))
    assert sorted(batch.labels.tolist()) == [[0, 0, 0], [1, 0, 1]]


def test_label_maps_are_found_beside_the_class_and_follow_the_crop(tmp_path, images):
    maps = {}
    for row in range(len(images)):
        path = Path(images.path(row))
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        maps[row] = torch.rand(2, 5, 3, 3).half()
        torch.save(maps[row], tmp_path / path.parent.name / f"{path.stem}.pt")
    still = recipe(STILL)
    dataset = TrainingSet(images, still.input, still.augment, label_maps=str(tmp_path))
    (batch, *_) = taken(dataset, Plan(len(images), 4, 1))
    rows = epoch_draws(len(images), 0, 0).rows[:4]
    assert batch.label_maps.shape == (4, 2, 5, 3, 3)
    assert torch.equal(batch.label_maps, torch.stack([maps[row].float() for row in rows]))
    assert torch.allclose(batch.crops, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 4))
    with pytest.raises(InputError, match="expected the label map of"):
        read_label_map(str(tmp_path), "red/nothing.png")
    (tmp_path / "red" / "odd.pt").write_bytes(b"no map")
    with pytest.raises(InputError, match="expected a label map, found another kind of file"):
        read_label_map(str(tmp_path), "red/odd.png")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(2, 5, 3), r"expected a label map \(2, k, M, M\), found torch.Size"),
        (torch.zeros(3, 5, 3, 3), r"expected a label map \(2, k, M, M\), found"),
        ({"map": torch.zeros(2, 5, 3, 3)}, "found no tensor"),
        (torch.full((2, 5, 3, 3), 7.0), "expected finite scores, and classes from 0 up to below 7, found others"),
        (torch.full((2, 5, 3, 3), -1.0), "classes from 0 up"),
        (torch.full((2, 5, 3, 3), torch.nan), "expected finite scores"),
        (torch.zeros(1, 1, 1, 1).expand(2, 5, 3, 3), "found no tensor"),
        (torch.zeros(2, 5, 3, 3).to_sparse(), "found no tensor"),
        (Path("harm"), "found no tensor"),
    ],
)
def test_label_maps_of_something_else_are_one_line(tmp_path, found, message):
    (tmp_path / "red").mkdir()
    torch.save(found, tmp_path / "red" / "odd.pt")
    with pytest.raises(InputError, match=message) as caught:
        read_label_map(str(tmp_path), "red/odd.png", 7)
    assert "odd.pt: expected" in str(caught.value)


# ---- clips turned round with their class


def two_sided(tmp_path: Path, classes: tuple[str, ...]) -> Manifest:
    """One clip per class, in which a bright column wanders to the right."""
    for name in classes:
        folder = tmp_path / name / "clip"
        folder.mkdir(parents=True)
        for t in range(4):
            frame = np.zeros((32, 32, 3), np.uint8)
            frame[:, 4 + 6 * t : 8 + 6 * t] = 255
            Image.fromarray(frame).save(folder / f"{t}.png")
    return open_dataset(tmp_path)


def column(view: torch.Tensor) -> list[int]:
    """Where the column is in each frame of a view (3, T, h, w)."""
    return view[0].mean(1).argmax(-1).tolist()


CLIP = recipe(base=CLIPS).input


def test_a_mirrored_clip_shows_the_other_side(tmp_path):
    manifest = two_sided(tmp_path, ("still", "turn left", "turn right"))
    spec = replace(CLIP, frames=4, size=(32, 32), resize=32, sampling="sparse", stride=None)
    plain = TrainingSet(manifest, spec, NOTHING)
    mirrored = TrainingSet(manifest, spec, replace(NOTHING, mirror=1.0))
    for row, partner in enumerate((0, 2, 1)):
        before, after = plain[Place(0, 0, row)], mirrored[Place(0, 0, row)]
        assert (int(before.label), int(after.label)) == (row, partner)
        assert torch.equal(after.views, before.views.flip(-1))
    drawn = TrainingSet(manifest, spec, replace(NOTHING, mirror=0.5))
    labels = [int(drawn[Place(0, position, 1)].label) for position in range(40)]
    assert set(labels) == {1, 2}
    assert labels == [int(drawn[Place(0, position, 1)].label) for position in range(40)]


def test_a_clip_played_backwards_has_the_class_of_its_pair(tmp_path):
    manifest = two_sided(tmp_path, ("close", "open", "wave"))
    spec = replace(CLIP, frames=4, size=(32, 32), resize=32, sampling="sparse", stride=None)
    backwards = TrainingSet(manifest, spec, replace(NOTHING, reverse=1.0, reverse_pairs=(("open", "close"),)))
    for row, partner in enumerate((1, 0, 2)):
        sample = backwards[Place(0, 0, row)]
        assert int(sample.label) == partner
        assert column(sample.views[0]) == sorted(column(sample.views[0]), reverse=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mirror": 0.5}, "'turn left' names a side, and no class is its mirror image"),
        ({"reverse": 0.5, "reverse_pairs": (("opne", "close"),)}, "unknown class 'opne' (did you mean 'open'?)"),
        ({"reverse": 0.5, "reverse_pairs": (("open", "close"), ("open", "turn left"))}, "in another pair"),
    ],
)
def test_classes_without_a_partner_are_said(tmp_path, change, said):
    manifest = two_sided(tmp_path, ("close", "open", "turn left"))
    with pytest.raises(InputError) as error:
        TrainingSet(manifest, CLIP, replace(NOTHING, **change))
    assert said in str(error.value)
