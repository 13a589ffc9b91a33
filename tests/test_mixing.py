"""Mixing: what is taken from the other sample is what its label gets, whatever the mode, the shape and the batch."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target

from uniformer import create_model
from uniformer.errors import InputError
from uniformer.tasks.mixing import draw_blend, draw_box, draw_mix_box, mix_batch, soft_targets
from uniformer.tasks.options import Mixing

MODES = ("batch", "pair", "elem")
SHARP = Mixing(label_smoothing=0)
MIXUP, CUTMIX = replace(SHARP, cutmix_alpha=0), replace(SHARP, mixup_alpha=0)


def numbered(batch, *shape):
    """Samples whose every value is their number."""
    return torch.arange(batch, dtype=torch.float32).view(-1, *[1] * (len(shape) + 1)).expand(-1, 3, *shape).clone()


@pytest.mark.parametrize("shape", [(16, 12), (3, 16, 12)], ids=["pictures", "clips"])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mixing", [SHARP, MIXUP, CUTMIX], ids=["both", "mixup", "cutmix"])
def test_a_label_gets_the_weight_of_its_sample(mixing, mode, batch, shape):
    rng = np.random.default_rng(0)
    for _ in range(8):
        x = numbered(batch, *shape)
        before = x.clone()
        mixed, targets = mix_batch(x, torch.arange(batch), batch, replace(mixing, mode=mode), rng)
        assert torch.equal(x, before)
        assert mixed.shape == x.shape
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch))
        assert ((targets > 0) <= (torch.eye(batch) + torch.eye(batch).flip(1) > 0)).all()  # itself and its mirror image
        # The mean of a sample's values is the mean of the numbers mixed in it, by their weights
        torch.testing.assert_close(
            mixed.flatten(1).mean(dim=1), targets @ torch.arange(batch).float(), atol=1e-4, rtol=0
        )
        if len(shape) == 3:
            assert (mixed == mixed[:, :, :1]).all()  # the same box in all frames


def test_mixup_averages_and_cutmix_pastes():
    rng = np.random.default_rng(0)
    for mixing, most in ((MIXUP, 1), (CUTMIX, 2)):
        counts = [
            len(mix_batch(numbered(2, 16, 12), torch.arange(2), 2, mixing, rng)[0][0].unique()) for _ in range(20)
        ]
        assert max(counts) == most


@pytest.mark.parametrize("mode", MODES)
def test_draws_are_shared_by_the_batch_by_pairs_or_by_none(mode):
    _, targets = mix_batch(numbered(6, 8, 8), torch.arange(6), 6, replace(MIXUP, mode=mode), np.random.default_rng(1))
    own = targets.diagonal()
    assert len({round(float(v), 5) for v in own}) == {"batch": 1, "pair": 3, "elem": 6}[mode]
    assert (mode == "elem") != torch.allclose(own, own.flip(0))


def test_targets_are_those_of_timm():
    labels = torch.tensor([3, 1, 4, 1])
    for smoothing in (0.0, 0.1):
        mixing = replace(MIXUP, label_smoothing=smoothing)
        share = draw_blend((8, 8), mixing, np.random.default_rng(2)).share
        _, targets = mix_batch(numbered(4, 8, 8), labels, 5, mixing, np.random.default_rng(2))
        torch.testing.assert_close(targets, mixup_target(labels, 5, share, smoothing))


def test_several_labels_a_sample_mix_too():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    mixing = replace(MIXUP, label_smoothing=0.1)
    share = draw_blend((8, 8), mixing, np.random.default_rng(2)).share
    _, targets = mix_batch(numbered(3, 8, 8), labels, 3, mixing, np.random.default_rng(2))
    torch.testing.assert_close(targets, mixup_target(labels, 3, share, 0.1, multi_label=True))


def test_smoothing_by_hand():
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025]])
    torch.testing.assert_close(soft_targets(torch.tensor([1]), 4, 0.1), expected)
    torch.testing.assert_close(
        soft_targets(torch.tensor([[0.0, 1.0, 1.0]]), 3, 0.1), torch.tensor([[0.05, 0.95, 0.95]])
    )
    assert soft_targets(torch.tensor([2], dtype=torch.int32), 3).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("off", [{"prob": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}])
def test_without_mixing_labels_are_smoothed_only(off):
    x = torch.randn(3, 3, 8, 8)
    mixing = Mixing(**off)
    assert not mixing.is_on
    mixed, targets = mix_batch(x, torch.tensor([0, 1, 2]), 4, mixing, np.random.default_rng(0))
    assert torch.equal(mixed, x)
    torch.testing.assert_close(targets, torch.eye(3, 4) * 0.9 + 0.025)


def test_mixing_comes_as_often_as_asked():
    rng = np.random.default_rng(0)
    draws = [draw_blend((16, 16), Mixing(prob=0.6, switch_prob=0.25), rng) for _ in range(4000)]
    mixed = [d for d in draws if d.share != 1 or d.box is not None]
    assert len(mixed) / 4000 == pytest.approx(0.6, abs=0.03)
    assert np.mean([d.box is not None for d in mixed]) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_gives_the_same_batch_and_global_generators_are_left_alone(mode):
    x, labels, mixing = torch.randn(5, 3, 2, 16, 16), torch.arange(5), Mixing(mode=mode)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    results = [mix_batch(x, labels, 5, mixing, np.random.default_rng(seed)) for seed in (4, 4, 5)]
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][1], results[2][1])
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_samples_keep_their_precision_and_targets_are_float32(mode, dtype):
    for seed in range(4):
        mixed, targets = mix_batch(
            torch.randn(3, 3, 8, 8).to(dtype), torch.arange(3), 3, Mixing(mode=mode), np.random.default_rng(seed)
        )
        assert mixed.dtype == dtype
        assert targets.dtype == torch.float32


# --- boxes -------------------------------------------------------------------------------------------


def test_boxes_lie_on_the_grid_and_cover_what_was_asked_where_no_border_cuts():
    rng = np.random.default_rng(0)
    for size in ((56, 56), (7, 40), (1, 1)):
        for share in (0.0, 0.3, 1.0):
            for _ in range(50):
                top, left, bottom, right = draw_box(size, share, rng)
                assert 0 <= top <= bottom <= size[0]
                assert 0 <= left <= right <= size[1]
                side = (1 - share) ** 0.5
                assert bottom - top <= size[0] * side
                if top > 0 and bottom < size[0]:
                    assert bottom - top == int(size[0] * side) // 2 * 2


def test_mix_boxes_have_every_size():
    rng = np.random.default_rng(0)
    heights = [bottom - top for top, _, bottom, _ in (draw_mix_box((56, 56), rng) for _ in range(2000))]
    assert min(heights) == 0
    assert max(heights) >= 50
    # The side before cutting is 56 * sqrt(u); a centre anywhere cuts a quarter of it off, on average
    assert np.mean(heights) == pytest.approx(56 * (2 / 3 - 1 / 8), rel=0.05)


def test_the_model_takes_the_box_and_mixes_as_the_loss_expects():
    model = create_model("uniformer_small_tl", depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), head_dim=16, num_classes=5)
    logits, dense, box = model.forward_token_labels(torch.randn(2, 3, 64, 64), (0, 0, 16, 8))
    assert logits.shape == (2, 5)
    assert dense.shape == (2, 4, 5)
    assert box == (0, 0, 2, 1)
    top, left, bottom, right = draw_mix_box((16, 16), np.random.default_rng(0))
    assert model.forward_token_labels(torch.randn(2, 3, 64, 64), (top, left, bottom, right))[2] == (
        top // 8,
        left // 8,
        bottom // 8,
        right // 8,
    )


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 5]), r"expected labels in 0 .. 3, got 0 .. 5"),
        (torch.tensor([0, -1, 2]), r"expected labels in 0 .. 3, got -1 .. 2"),
        (
            torch.tensor([0.0, 1.0, 2.0]),
            r"expected labels as integers \(B,\) or as 0 and 1 \(B, 4\), got torch.float32",
        ),
        (torch.zeros(3, 5), r"expected labels as integers .* of shape \(3, 5\)"),
        (torch.tensor([0, 1]), "expected one label for each of 3 samples, got 2"),
    ],
)
def test_unusable_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        mix_batch(torch.randn(3, 3, 8, 8), labels, 4, Mixing(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "half"}, "expected mode 'batch', 'pair' or 'elem', got 'half'"),
        ({"prob": 1.5}, r"expected prob in \[0, 1\], got 1.5"),
        ({"switch_prob": -0.1}, r"expected switch_prob in \[0, 1\]"),
        ({"label_smoothing": 2}, r"expected label_smoothing in \[0, 1\]"),
        ({"mixup_alpha": -1}, "expected mixup_alpha of 0 or more, got -1"),
        ({"cutmix_alpha": float("nan")}, "expected cutmix_alpha of 0 or more, got nan"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Mixing(**options)
