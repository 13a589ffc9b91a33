"""Two plain baselines on frozen features: a linear classifier and nearest neighbours."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from uniformer.errors import InputError
from uniformer.evaluation.features import Features
from uniformer.tasks.scores import Scores

Probe = Literal["linear", "knn"]
Array = npt.NDArray[np.floating]

ROWS_AT_ONCE = 1024  # of test items compared with all training items: bounds memory


def linear_probe(
    train: Array, labels: npt.NDArray[np.integer], test: Array, num_classes: int, *, c: float = 1.0, steps: int = 300
) -> Tensor:
    """Logits (M, K) of multinomial logistic regression, fitted to the training features by L-BFGS.

    Features, (N, C) and (M, C), are standardised by the training set. The loss is the mean cross entropy plus
    |W|^2 / (2 c N), the bias being free: the same optimum as scikit-learn's LogisticRegression(C=c). In float64, from
    zero, so nothing is random.
    """
    x, y, z = _tensors(train, labels, test, num_classes)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-8)
    x, z = (x - mean) / std, (z - mean) / std
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(x @ weight.T + bias, y) + weight.square().sum() / (2 * c * len(x))
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return (z @ weight.T + bias).detach()


def knn(
    train: Array,
    labels: npt.NDArray[np.integer],
    test: Array,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Probabilities (M, K) by a vote of the `k` training items of the largest cosine similarity s, weighted exp(s / t).

    As in DINO (Caron et al., ICCV 2021) and Wu et al. (CVPR 2018).
    """
    if k < 1 or temperature <= 0:
        raise InputError(f"expected k of at least 1 and a positive temperature, got {k} and {temperature}")
    x, y, z = _tensors(train, labels, test, num_classes)
    x, z = normalize(x, dim=1), normalize(z, dim=1)
    votes = torch.zeros(len(z), num_classes, dtype=x.dtype)
    for rows, part in zip(votes.split(ROWS_AT_ONCE), z.split(ROWS_AT_ONCE), strict=True):
        similarity, nearest = (part @ x.T).topk(min(k, len(x)), dim=1)  # (rows, k)
        rows.scatter_add_(1, y[nearest], (similarity / temperature).softmax(dim=1))
    return votes


def probe_scores(
    probe: Probe, train: Features, test: Features, *, k: int = 20, temperature: float = 0.07, c: float = 1.0
) -> Scores:
    """What a probe fitted to `train` says of `test`, as the scores of any model.

    Raises `InputError` where the two have other classes, or features per view or several labels an item.
    """
    if train.classes != test.classes:
        raise InputError(f"expected the same classes to train and to test, got {train.classes} and {test.classes}")
    if train.features.ndim != 2 or test.features.ndim != 2 or train.labels.ndim != 1 or test.labels.ndim != 1:
        raise InputError("expected one feature vector and one label an item for a probe")
    classes = len(train.classes)
    x, y, z = train.features[train.ok], train.labels[train.ok], test.features[test.ok]
    if probe == "linear":
        logits = linear_probe(x, y, z, classes, c=c)
        answers = logits.softmax(dim=1)
    elif probe == "knn":
        answers = knn(x, y, z, classes, k=k, temperature=temperature)
        logits = answers.clamp_min(1e-12).log()
    else:
        raise InputError(f"expected a probe 'linear' or 'knn', got {probe!r}")
    filled = [np.zeros((len(test.ok), classes), np.float32) for _ in range(2)]
    for array, some in zip(filled, (answers, logits), strict=True):
        array[test.ok] = some.float().numpy()
    return Scores(filled[0], filled[1], test.labels.astype(np.int32), test.ok, test.paths, test.classes, test.errors)


def _tensors(
    train: Array, labels: npt.NDArray[np.integer], test: Array, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    if not len(train) or len(train) != len(labels) or train.shape[1:] != test.shape[1:]:
        raise InputError(
            f"expected training features with labels, of the test features' width, got {train.shape}, "
            f"{len(labels)} labels and {test.shape}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(f"expected labels in 0 .. {num_classes - 1}, got {labels.min()} .. {labels.max()}")
    return torch.tensor(train).double(), torch.tensor(labels).long(), torch.tensor(test).double()
