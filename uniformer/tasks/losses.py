"""Training losses, as pure functions of logits and soft targets. Half precision logits are taken to float32 first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uniformer.errors import InputError
from uniformer.network.model import Box
from uniformer.tasks.mixing import smooth


def soft_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the samples of -sum(target * log softmax(logits)); logits and targets (..., K). Scalar.

    Raises `InputError` where the shapes differ.
    """
    logits, targets = _same_shape(logits, targets)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(0, -2))


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and classes of the cross entropy of each class on its own; both (B, K), targets in 0..1.

    For samples of several labels. Raises `InputError` where the shapes differ.
    """
    return F.binary_cross_entropy_with_logits(*_same_shape(logits, targets))


def two_head_loss(logits: Tensor, class_logits: Tensor, targets: Tensor) -> Tensor:
    """Light models: half the loss of the mean token's logits and half of the class token's, all (B, K). Scalar."""
    return 0.5 * (soft_target_cross_entropy(logits, targets) + soft_target_cross_entropy(class_logits, targets))


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """temperature^2 * KL(teacher || student), mean over the samples; both (B, K), softened by `temperature`. Scalar.

    The square keeps gradients of one size at all temperatures (arXiv:1503.02531, Sec. 2). No gradient reaches the
    teacher. Raises `InputError` where the shapes differ or the temperature is not positive.
    """
    if not temperature > 0:
        raise InputError(f"expected a positive temperature, got {temperature}")
    student, teacher = _same_shape(logits, teacher.detach())
    log_student, log_teacher = ((x / temperature).log_softmax(dim=-1) for x in (student, teacher))
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def token_label_loss(
    logits: Tensor,
    dense_logits: Tensor,
    box: Box,
    targets: Tensor,
    dense_targets: Tensor,
    *,
    class_weight: float = 1.0,
    dense_weight: float = 1.0,
) -> Tensor:
    """Token labeling: the class term plus the mean over all tokens (arXiv:2104.10858, Eq. 4 to 6). Scalar.

    Args:
        logits, dense_logits, box: (B, K), (B, N, K) and the box on the last grid, of `UniFormer.forward_token_labels`.
        targets: (B, K). Mixed here with the reversed batch's by the area of the box.
        dense_targets: (B, N, K) of the samples themselves: the model has put the tokens back already.
        class_weight, dense_weight: of the two terms.

    Raises `InputError` where shapes differ.
    """
    top, left, bottom, right = box
    other = (bottom - top) * (right - left) / dense_logits.shape[1]
    class_term = soft_target_cross_entropy(logits, targets.lerp(targets.flip(0), other))
    return class_weight * class_term + dense_weight * soft_target_cross_entropy(dense_logits, dense_targets)


def label_map_targets(
    maps: Tensor, crops: Tensor, num_classes: int, grid: tuple[int, int], smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Targets of each sample and of each of its tokens from the published label maps.

    Args:
        maps: (B, 2, k, M, M): scores and class numbers of the k best classes at each place of the whole picture.
        crops: (B, 4): top, left, bottom, right of what the network sees, as shares of the picture's height and width.
        num_classes: K.
        grid: height and width of the tokens, such as (7, 7) at 224 pixels and (12, 12) at 384.
        smoothing: share of the weight that is spread over all classes.

    Returns:
        (B, K) and (B, N, K), float32: softmax of the scores averaged over the crop, over each token's part of it.

    The reference hands top and left to RoI align as x and y, so that its targets are those of the crop mirrored at the
    picture's diagonal; and its smoothed targets sum to 1 + smoothing / K. Here neither.
    Raises `InputError` for another form of maps or crops.
    """
    from torchvision.ops import roi_align  # heavy, and only here

    if maps.ndim != 5 or maps.shape[1] != 2 or crops.shape != (len(maps), 4):
        raise InputError(
            f"expected label maps (B, 2, k, M, M) and crops (B, 4), got {tuple(maps.shape)} and {tuple(crops.shape)}"
        )
    scores, classes = maps[:, 0].float(), maps[:, 1].long()  # (B, k, M, M)
    height, width = maps.shape[-2:]
    full = scores.new_zeros(len(maps), num_classes, height, width).scatter_(1, classes, scores)
    boxes = crops.to(full)[:, [1, 0, 3, 2]] * full.new_tensor((width, height, width, height))  # x1, y1, x2, y2
    numbered = torch.cat((torch.arange(len(maps)).to(full)[:, None], boxes), dim=1)
    whole = roi_align(full, numbered, (1, 1), aligned=True).flatten(1)  # (B, K)
    tokens = roi_align(full, numbered, grid, aligned=True).flatten(2).transpose(1, 2)  # (B, N, K)
    targets, dense = (smooth(x.softmax(dim=-1), smoothing, 1 / num_classes) for x in (whole, tokens))
    return targets, dense


def _same_shape(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or float64 where they are."""
    if logits.shape != targets.shape:
        raise InputError(f"expected targets like the logits {tuple(logits.shape)}, got {tuple(targets.shape)}")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), targets.to(dtype)
