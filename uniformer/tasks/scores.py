"""What a network said of a data set, and how good that is: `Scores`, the measures, saving, joining. numpy only.

An item without an answer (a missing or unreadable file) is never replaced and never left out in silence: it counts as
an error unless the caller asks to skip it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from uniformer.datasets.records import load_pyarrow
from uniformer.errors import InputError, check_word
from uniformer.support.files import atomic_path
from uniformer.support.texts import parse_json
from uniformer.tasks.score_files import check_form, check_name, facts_of, read_npz, told_by, write_npz

Floats = npt.NDArray[np.floating]
Missing = Literal["error", "skip"]
ScoresForm = Literal["npz", "parquet"]  #: how they are kept

BINS = 15  # of confidence, as usual for the expected calibration error (Guo et al., ICML 2017)
Z95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval
FORMAT = "uniformer scores 1"
TOLD = ("paths", "classes")  # beside the arrays


@dataclass(frozen=True, eq=False)
class Scores:
    """A network's answers for N items and K classes, beside the truth. Rows without an answer hold zeros."""

    probabilities: npt.NDArray[np.float32]  #: (N, K), averaged over views as the checkpoint asks
    logits: npt.NDArray[np.float32]  #: (N, K), mean over views
    labels: npt.NDArray[Any]  #: int32 (N,), or bool (N, K) of a multi-label set
    ok: npt.NDArray[np.bool_]  #: (N,), whether there is an answer
    paths: tuple[str, ...]  #: of the items, with the part in seconds where one is meant
    classes: tuple[str, ...] = ()  #: position = column; empty if not known
    errors: Mapping[int, str] = field(default_factory=dict)  #: why a row has no answer

    def __post_init__(self) -> None:
        rows, columns = self.probabilities.shape
        wanted = (rows, columns) if self.is_multi_label else (rows,)
        if not (self.logits.shape == (rows, columns) and self.labels.shape == wanted and self.ok.shape == (rows,)):
            raise InputError(
                f"expected logits, labels and marks of {rows} items and {columns} classes, "
                f"got {self.logits.shape}, {self.labels.shape} and {self.ok.shape}"
            )
        if len(self.paths) != rows or (self.classes and len(self.classes) != columns):
            raise InputError(
                f"expected {rows} paths and {columns} class names, got {len(self.paths)} and {len(self.classes)}"
            )

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def num_classes(self) -> int:
        return self.probabilities.shape[1]

    @property
    def is_multi_label(self) -> bool:
        return self.labels.ndim == 2

    def name(self, label: int) -> str:
        return self.classes[label] if self.classes else f"class {label}"

    def predicted(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each item, (N,); -1 without an answer."""
        return np.where(self.ok, self.probabilities.argmax(axis=1), -1)

    def confidence(self) -> npt.NDArray[np.float32]:
        """The probability of the likeliest class, (N,)."""
        return self.probabilities.max(axis=1)

    def true_probability(self) -> npt.NDArray[np.float32]:
        """The probability given to the true class, (N,)."""
        return self.probabilities[np.arange(len(self)), self._single()]

    def ranks(self) -> npt.NDArray[np.int64]:
        """Classes before the true one, (N,); K without an answer. Of equal ones the lower number is first."""
        labels = self._single()
        mine = self.true_probability()[:, None]
        earlier = np.arange(self.num_classes)[None, :] < labels[:, None]
        before = (self.probabilities > mine) | ((self.probabilities == mine) & earlier)
        return np.where(self.ok, before.sum(axis=1), self.num_classes)

    def _single(self) -> npt.NDArray[np.int64]:
        if self.is_multi_label:
            raise InputError("expected one label an item, got a multi-label set: its measure is the mean precision")
        return self.labels.astype(np.int64)

    def select(self, rows: npt.NDArray[Any]) -> Scores:
        """The given rows: numbers or a mask."""
        rows = np.arange(len(self))[rows]
        place = {int(old): new for new, old in enumerate(rows)}
        return replace(
            self,
            probabilities=self.probabilities[rows],
            logits=self.logits[rows],
            labels=self.labels[rows],
            ok=self.ok[rows],
            paths=tuple(self.paths[i] for i in rows),
            errors={place[i]: why for i, why in self.errors.items() if i in place},
        )

    def metrics(self, missing: Missing = "error") -> dict[str, float]:
        """Every measure by name; shares lie in 0..1. `missing="skip"` leaves items without an answer out.

        One label: top1 with its 95 % interval top1_low .. top1_high, top5 (of more than five classes), mean_class
        (mean of the classes' accuracies), ece. Multi-label: map (mean average precision).
        Raises `InputError` when there is nothing to score, and for another word as `missing`.
        """
        check_word("missing", missing, Missing)
        counted = self if missing == "error" else self.select(self.ok)
        if not len(counted):
            raise InputError(f"expected at least one item to score, got none of {len(self)} with an answer")
        found = {"items": float(len(counted)), "failed": float((~self.ok).sum())}
        if self.is_multi_label:
            return {**found, "map": mean_average_precision(counted)}
        ranks = counted.ranks()
        low, high = wilson(int((ranks < 1).sum()), len(ranks))
        found |= {"top1": float((ranks < 1).mean()), "top1_low": low, "top1_high": high}
        if self.num_classes > 5:
            found["top5"] = float((ranks < 5).mean())
        accuracies = per_class(counted).accuracy
        return {**found, "mean_class": float(np.nanmean(accuracies)), "ece": calibration_error(counted)}

    def facts(self) -> dict[str, Any]:
        """What metrics.json says beside the measures: of each class, items and how many were right."""
        if self.is_multi_label:
            return {}
        found = per_class(self)
        columns = zip(found.count.tolist(), found.correct.tolist(), strict=True)
        return {"classes": [{"name": self.name(k), "items": n, "right": r} for k, (n, r) in enumerate(columns)]}

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file: .npz, or .parquet (a row an item; needs pyarrow)."""
        check_name(Path(path), ".npz", ".parquet")
        (_write_npz if Path(path).suffix == ".npz" else _write_parquet)(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scores:
        """Read what `save` wrote. Raises `InputError` for any other file."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: expected a file of scores, found none")
        return _read_parquet(path) if path.suffix == ".parquet" else read_npz(path, FORMAT, _scores)


@dataclass(frozen=True)
class PerClass:
    """Of each class: items, how many were right, and their share (NaN without items). All (K,)."""

    count: npt.NDArray[np.int64]
    correct: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        return shares_of(self.correct, self.count)


@dataclass(frozen=True)
class Reliability:
    """Answers by confidence, in bins of equal width: (b - 1) / bins < confidence <= b / bins. All (bins,)."""

    count: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]  #: mean within the bin, 0 where it is empty
    accuracy: npt.NDArray[np.float64]


def shares_of(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """NaN where there is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def per_class(scores: Scores) -> PerClass:
    labels, right = scores._single(), scores.ranks() == 0
    count = np.bincount(labels, minlength=scores.num_classes)
    return PerClass(count, np.bincount(labels[right], minlength=scores.num_classes))


def confusion(scores: Scores) -> npt.NDArray[np.int64]:
    """(K, K): items of class `row` that were taken for class `column`. Items without an answer are in no cell."""
    size = scores.num_classes
    cells = scores._single() * size + scores.predicted()
    return np.bincount(cells[scores.ok], minlength=size * size).reshape(size, size)


def reliability(scores: Scores, bins: int = BINS) -> Reliability:
    """How often answers of each confidence are right. Items without an answer have none."""
    confidence = scores.confidence()[scores.ok].astype(np.float64)
    right = (scores.ranks() == 0)[scores.ok]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    full = np.maximum(count, 1)
    return Reliability(
        count,
        np.bincount(place, weights=confidence, minlength=bins) / full,
        np.bincount(place, weights=right, minlength=bins) / full,
    )


def calibration_error(scores: Scores, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., ICML 2017): the mean gap of confidence and accuracy; 0 of no answers."""
    r = reliability(scores, bins)
    return float((r.count * np.abs(r.accuracy - r.confidence)).sum() / max(r.count.sum(), 1))


def average_precision(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the steps of precision over recall, equal scores taken together; NaN without positives.

    `scores` and `positive` are (N,).
    """
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of each run of equal scores
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def mean_average_precision(scores: Scores) -> float:
    """Mean over the classes that have positives. Items without an answer come last in every class's order."""
    targets = scores.labels if scores.is_multi_label else np.eye(scores.num_classes, dtype=bool)[scores._single()]
    marks = np.where(scores.ok[:, None], scores.probabilities, -1.0)
    each = [average_precision(marks[:, k], targets[:, k]) for k in range(scores.num_classes) if targets[:, k].any()]
    if not each:
        raise InputError("expected at least one label in the set, got none")
    return float(np.mean(each))


def wilson(right: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Interval of a share by Wilson (1927): 95 % by default. Holds for small counts and shares near 0 and 1."""
    share = right / count
    centre = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float(max(0.0, (centre - half) / scale)), float(min(1.0, (centre + half) / scale))


def fuse(several: Sequence[Scores], weights: Sequence[float] | None = None) -> Scores:
    """The weighted mean of probabilities and of logits of the same items, from several models or sets of views.

    An item has an answer where every part has one. Raises `InputError` where the parts differ in items or classes.
    """
    weights = [1.0] * len(several) if weights is None else list(weights)
    if not several or len(weights) != len(several) or min(weights) < 0 or sum(weights) <= 0:
        raise InputError(f"expected a weight of 0 or more for each of {len(several)} scores, got {weights}")
    first = several[0]
    for other in several[1:]:
        if other.paths != first.paths or not np.array_equal(other.labels, first.labels):
            raise InputError("expected scores of the same items in the same order, with the same labels")
        if other.num_classes != first.num_classes or (
            other.classes and first.classes and other.classes != first.classes
        ):
            raise InputError("expected scores of the same classes in the same order")
    share = np.asarray(weights, np.float64) / sum(weights)
    ok = np.all([s.ok for s in several], axis=0)
    mean = {
        name: np.where(ok[:, None], sum(w * getattr(s, name) for w, s in zip(share, several, strict=True)), 0)
        for name in ("probabilities", "logits")
    }
    return replace(
        first,
        probabilities=mean["probabilities"].astype(np.float32),
        logits=mean["logits"].astype(np.float32),
        ok=ok,
        classes=next((s.classes for s in several if s.classes), ()),
        errors={i: why for s in several for i, why in s.errors.items()},
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def _write_npz(scores: Scores, path: str | os.PathLike[str]) -> None:
    arrays = {name: getattr(scores, name) for name in ("probabilities", "logits", "labels", "ok")}
    write_npz(path, facts_of(scores, FORMAT, TOLD), arrays)


def _scores(facts: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Scores:
    columns: dict[str, Any] = {**arrays, **told_by(facts, TOLD)}
    return Scores(**columns)


def _write_parquet(scores: Scores, path: str | os.PathLike[str]) -> None:
    arrow, parquet = load_pyarrow()

    def rows_of(array: npt.NDArray[Any]) -> Any:  # (N, K) -> N lists of K
        return arrow.FixedSizeListArray.from_arrays(arrow.array(array.reshape(-1)), array.shape[1])

    columns = {
        "path": arrow.array([path.encode("utf-8", "replace").decode() for path in scores.paths], arrow.string()),
        "label": rows_of(scores.labels) if scores.is_multi_label else arrow.array(scores.labels),
        "ok": arrow.array(scores.ok),
        "error": arrow.array([scores.errors.get(i) for i in range(len(scores))], arrow.string()),
        "probabilities": rows_of(scores.probabilities),
        "logits": rows_of(scores.logits),
    }
    facts = json.dumps(facts_of(scores, FORMAT, TOLD))
    with atomic_path(path) as temporary:
        parquet.write_table(arrow.table(columns).replace_schema_metadata({"uniformer": facts}), temporary)


def _read_parquet(path: Path) -> Scores:
    arrow, parquet = load_pyarrow()
    try:
        table = parquet.read_table(path)
        facts = parse_json(table.schema.metadata[b"uniformer"], str(path), "a file of scores")
    except (arrow.ArrowException, OSError, KeyError, TypeError, ValueError):
        raise InputError(f"{path}: expected a file of scores, found another kind of file or a damaged one") from None

    def matrix(name: str) -> npt.NDArray[Any]:
        column = table[name].combine_chunks()
        if arrow.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(column), column.type.list_size)
        return column.to_numpy(zero_copy_only=False)

    arrays = {name: matrix(name) for name in ("probabilities", "logits", "ok")}
    check_form(facts, FORMAT, path)
    return _scores(facts, {**arrays, "labels": matrix("label")})
