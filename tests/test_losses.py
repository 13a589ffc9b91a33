"""Losses against numbers worked out by hand, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from uniformer import create_model
from uniformer.errors import InputError
from uniformer.tasks.losses import (
    binary_cross_entropy,
    distillation_loss,
    label_map_targets,
    soft_target_cross_entropy,
    token_label_loss,
    two_head_loss,
)

LOG2, LOG3 = math.log(2), math.log(3)


def logits(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def targets(*shape):
    return logits(*shape, seed=9).detach().softmax(dim=-1)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


# --- by hand -----------------------------------------------------------------------------------------


def test_soft_targets():
    # softmax of (log 3, 0) is (3/4, 1/4)
    x = double([[LOG3, 0.0], [0.0, 0.0]])
    y = double([[0.5, 0.5], [1.0, 0.0]])
    first = -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)
    assert soft_target_cross_entropy(x, y).item() == pytest.approx((first + LOG2) / 2)
    assert soft_target_cross_entropy(x[None], y[None]).item() == pytest.approx((first + LOG2) / 2)  # (1, N, K)


def test_targets_that_do_not_sum_to_one_count_by_their_sum():
    x, y = logits(3, 5), targets(3, 5)
    torch.testing.assert_close(soft_target_cross_entropy(x, 2 * y), 2 * soft_target_cross_entropy(x, y))


def test_two_heads_count_half_each():
    x, y = double([[LOG3, 0.0]]), double([[1.0, 0.0]])
    assert two_head_loss(x, -x, y).item() == pytest.approx(0.5 * -math.log(3 / 4) + 0.5 * -math.log(1 / 4))


def test_binary_cross_entropy():
    # sigmoid of log 3 is 3/4
    x, y = double([[LOG3, 0.0, -LOG3]]), double([[1.0, 0.5, 1.0]])
    expected = (-math.log(3 / 4) + LOG2 - math.log(1 / 4)) / 3
    assert binary_cross_entropy(x, y).item() == pytest.approx(expected)


def test_distillation_is_kl_times_the_square_of_the_temperature():
    student, teacher = double([[0.0, 0.0]]), double([[LOG3, 0.0]])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(student, teacher).item() == pytest.approx(kl)
    assert distillation_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * kl)
    assert distillation_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-12)


def test_no_gradient_reaches_the_teacher():
    student, teacher = logits(2, 4), logits(2, 4, seed=1)
    distillation_loss(student, teacher, 2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_token_labels_mix_the_class_term_by_the_box_and_not_the_dense_term():
    classes, dense = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 4, 3, dtype=torch.float64)
    classes[0, 0] = LOG2  # softmax (1/2, 1/4, 1/4)
    own = torch.eye(3, dtype=torch.float64)[:2]
    dense_own = own[:, None].expand(-1, 4, -1)
    box = (0, 0, 1, 1)  # one of four tokens
    first = 0.75 * -math.log(1 / 2) + 0.25 * -math.log(1 / 4)
    expected = (first + LOG3) / 2
    assert token_label_loss(classes, dense, box, own, dense_own).item() == pytest.approx(expected + LOG3)
    weighted = token_label_loss(classes, dense, box, own, dense_own, class_weight=2, dense_weight=0.5)
    assert weighted.item() == pytest.approx(2 * expected + 0.5 * LOG3)
    unmixed = token_label_loss(classes, dense, (0, 0, 0, 0), own, dense_own)
    assert unmixed.item() == pytest.approx((LOG2 + LOG3) / 2 + LOG3)


# --- gradients and precision -------------------------------------------------------------------------


def test_gradients():
    y, dense = targets(3, 4), targets(3, 6, 4)
    assert gradcheck(soft_target_cross_entropy, (logits(3, 4), y))
    assert gradcheck(binary_cross_entropy, (logits(3, 4), y))
    assert gradcheck(two_head_loss, (logits(3, 4), logits(3, 4, seed=1), y))
    assert gradcheck(lambda x: distillation_loss(x, logits(3, 4, seed=1), 2.5), (logits(3, 4),))
    assert gradcheck(
        lambda x, tokens: token_label_loss(x, tokens, (0, 1, 2, 2), y, dense), (logits(3, 4), logits(3, 6, 4, seed=1))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    x = (logits(8, 1000).detach() * 10).to(dtype)
    y = targets(8, 1000).float()
    for loss in (soft_target_cross_entropy, binary_cross_entropy, distillation_loss):
        value = loss(x, y)
        assert value.dtype == torch.float32
        assert torch.equal(value, loss(x.float(), y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert soft_target_cross_entropy(x, y).dtype == torch.float32


@pytest.mark.parametrize("loss", [soft_target_cross_entropy, binary_cross_entropy, distillation_loss])
def test_shapes_that_differ_are_refused(loss):
    with pytest.raises(InputError, match=r"expected targets like the logits \(2, 3\), got \(2,\)"):
        loss(torch.zeros(2, 3), torch.zeros(2))


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(InputError, match="expected a positive temperature, got 0"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), 0)


# --- label maps --------------------------------------------------------------------------------------


@pytest.fixture
def maps():
    """Two classes of each place of a 4 x 4 map, of five: (1, 2, 2, 4, 4), and the same with all classes (4, 4, 5)."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 4, 4, generator=generator) * 9
    classes = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(16)]).T.reshape(2, 4, 4)
    full = torch.zeros(5, 4, 4).scatter(0, classes, scores)
    return torch.stack((scores, classes.float()))[None], full.permute(1, 2, 0)


def test_the_whole_map_is_the_softmax_of_each_place(maps):
    published, full = maps
    whole, dense = label_map_targets(published, torch.tensor([[0.0, 0, 1, 1]]), 5, (4, 4))
    torch.testing.assert_close(dense[0].view(4, 4, 5), full.softmax(dim=-1))
    torch.testing.assert_close(whole[0], full.mean(dim=(0, 1)).softmax(dim=-1))


def test_a_crop_takes_its_own_corner_and_not_the_one_across_the_diagonal(maps):
    published, full = maps
    crop = torch.tensor([[0.0, 0.5, 0.5, 1.0]])  # top right
    whole, dense = label_map_targets(published, crop, 5, (2, 2))
    torch.testing.assert_close(dense[0].view(2, 2, 5), full[:2, 2:].softmax(dim=-1))
    torch.testing.assert_close(whole[0], full[:2, 2:].mean(dim=(0, 1)).softmax(dim=-1))


def test_a_crop_smaller_than_a_place_is_interpolated(maps):
    published, full = maps
    crop = torch.tensor([[0.25, 0.5, 0.25 + 1e-4, 0.5 + 1e-4]])  # the corner that four places share
    _, dense = label_map_targets(published, crop, 5, (1, 1))
    torch.testing.assert_close(dense[0, 0], full[:2, 1:3].mean(dim=(0, 1)).softmax(dim=-1), atol=1e-3, rtol=0)


def test_samples_have_their_own_maps_and_crops_and_half_precision_is_enough(maps):
    published, _ = maps
    both = torch.cat((published, published.flip(-1))).half()
    crops = torch.tensor([[0.0, 0, 0.5, 1], [0.0, 0, 0.5, 1]])
    whole, dense = label_map_targets(both, crops, 5, (2, 4))
    assert whole.dtype == dense.dtype == torch.float32
    torch.testing.assert_close(whole[0], whole[1])
    torch.testing.assert_close(dense[0].view(2, 4, 5), dense[1].view(2, 4, 5).flip(1))


def test_smoothing_keeps_the_sum_of_one(maps):
    crop = torch.tensor([[0.0, 0, 1, 1]])
    sharp, smoothed = (label_map_targets(maps[0], crop, 5, (7, 7), s) for s in (0.0, 0.1))
    for before, after in zip(sharp, smoothed, strict=True):
        torch.testing.assert_close(after, before * 0.9 + 0.02)
        torch.testing.assert_close(after.sum(dim=-1), torch.ones(after.shape[:-1]))


def test_other_forms_of_maps_are_refused():
    with pytest.raises(InputError, match=r"expected label maps \(B, 2, k, M, M\) and crops \(B, 4\), got \(1, 3"):
        label_map_targets(torch.zeros(1, 3, 5, 7, 7), torch.zeros(1, 4), 5, (7, 7))
    with pytest.raises(InputError, match=r"and \(2, 4\)"):
        label_map_targets(torch.zeros(1, 2, 5, 7, 7), torch.zeros(2, 4), 5, (7, 7))


# --- with the networks -------------------------------------------------------------------------------

TINY = {"depths": (1, 1, 1, 1), "dims": (16, 32, 64, 64), "head_dim": 16, "num_classes": 5}


def test_token_labels_train_every_parameter(maps):
    model = create_model("uniformer_small_tl", **TINY)
    classes, dense, box = model.forward_token_labels(torch.randn(2, 3, 64, 64), (0, 0, 16, 8))
    crops = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9]])
    loss = token_label_loss(
        classes, dense, box, *label_map_targets(maps[0].expand(2, -1, -1, -1, -1), crops, 5, (2, 2))
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_two_heads_train_every_parameter():
    model = create_model("uniformer_xxs", **TINY)
    y = F.one_hot(torch.tensor([1, 4]), 5).float()
    two_head_loss(*model.forward_class_token(torch.randn(2, 3, 64, 64)), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
