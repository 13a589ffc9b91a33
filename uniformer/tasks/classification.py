"""Classification: the class of an image or a clip, or several classes; the first implementation of the task seam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from uniformer.config import with_options
from uniformer.errors import InputError
from uniformer.reading.views import Views
from uniformer.tasks.fusion import Fusion
from uniformer.tasks.pictured import label_named
from uniformer.tasks.task import Evidence, Metric, Outputs, Result, Task, best_first, class_name, class_names
from uniformer.tasks.vocabulary import Words

if TYPE_CHECKING:
    import os

    import torch
    from PIL import Image
    from torch import Tensor

    from uniformer.checkpoints.contract import Contract
    from uniformer.datasets.manifest import Manifest
    from uniformer.network.model import UniFormer
    from uniformer.tasks.drawing import Entry
    from uniformer.tasks.objective import Objective
    from uniformer.tasks.options import TargetOptions
    from uniformer.tasks.scores import Scores


@dataclass(frozen=True)
class Label:
    """One answer: the class, its row in the classifier, and its probability; or a word for several classes."""

    name: str
    score: float
    index: int


@dataclass(frozen=True, kw_only=True)
class Prediction(Result):
    """The classes of one source."""

    labels: tuple[Label, ...]  #: best first, at most top-k
    probabilities: npt.NDArray[np.float32]  #: of every class, (K,)

    CSV_FIELDS: ClassVar[tuple[str, ...]] = ("rank", "name", "score", "index")

    def answer(self) -> dict[str, Any]:
        """The labels; not the whole distribution."""
        return {"labels": [{"name": b.name, "score": round(b.score, 6), "index": b.index} for b in self.labels]}

    def csv_rows(self) -> list[tuple[Any, ...]]:
        return [(rank, b.name, round(b.score, 6), b.index) for rank, b in enumerate(self.labels, start=1)]

    def plot(self, picture: Any = None) -> Image.Image:
        """The labels over a picture: a path, a PIL image, pixels (H, W, 3); by default the source, of a video the
        middle one of the frames that the network was fed.

        Raises `InputError` where it cannot be read.
        """
        from uniformer.reading.pictures import open_picture, to_pixels
        from uniformer.reading.video import open_video
        from uniformer.tasks.drawing import captioned

        if picture is None and not self.source:
            raise InputError("expected the picture to draw on: the answer is not of a file")
        if picture is not None or self.frames is None:
            pixels = to_pixels(open_picture(self.source if picture is None else picture))
        else:
            clip = self.frames[len(self.frames) // 2]
            with open_video(self.source) as reader:
                pixels = reader.read([clip[len(clip) // 2]])[0]
        return captioned(pixels, self._entries())

    def save(self, path: str | os.PathLike[str], picture: Any = None) -> None:
        """Write the answer as JSON (.json), as labels over a picture (.jpg, .png, .webp; `picture` as for `plot`), or
        over all of a video, with its sound (.mp4, .mkv, .mov, .webm).

        Raises `InputError` for another ending, a file that cannot be read or written, and the source itself.
        """
        from uniformer.tasks.drawn_film import FILMS, write_captioned
        from uniformer.tasks.pictured import DRAWN, as_json, save_as, save_picture, text_writer

        drawn = dict.fromkeys(DRAWN, lambda path: save_picture(self.plot(picture), path))
        entries = self._entries()
        film = dict.fromkeys(FILMS, lambda path: write_captioned(self.source, path, lambda _: entries))
        ways = {".json": text_writer(lambda: as_json(self)), **drawn}
        save_as(path, ways if self.frames is None else {**ways, **film}, [self.source, picture])

    def _entries(self) -> list[Entry]:
        """What a caption says."""
        from uniformer.tasks.drawing import Entry, colour_of

        return [Entry(label.name, label.score, colour_of(label.index)) for label in self.labels]

    def in_short(self) -> str:
        return self.labels[0].name

    def lines(self) -> list[str]:
        return [f"{100 * b.score:6.2f} %  {'█' * round(20 * b.score):20}  {b.name}" for b in self.labels]


@dataclass(frozen=True)
class ClassOptions:
    """How the answers of a classifier are made."""

    vocabulary: str | None = None  #: one of `vocabulary.VOCABULARIES`: others' words for the camera's motions


class Classification(Task):
    """The network is a `UniFormer` with a classifier; its outputs are logits (V, K).

    Raises `InputError` for an option that it has not, and for a vocabulary that is not of its classes.
    """

    name = "classification"
    result = Prediction
    options_type = ClassOptions
    measures = ("top1", "top5", "mean_class", "map", "loss")

    def __init__(self, contract: Contract, **options: Any):
        super().__init__(contract)
        self.options = with_options(ClassOptions(), options, self.name)
        _ = self.words

    @cached_property
    def words(self) -> Words:
        return Words(class_names(self.contract), self.options.vocabulary)

    @cached_property
    def fusion(self) -> Fusion:
        """How answers to views become one."""
        return Fusion(self.contract)

    def check(self) -> None:
        _ = self.fusion

    def build(self) -> UniFormer:
        from uniformer.network.model import UniFormer

        return UniFormer(self.contract.config)

    def targets_and_loss(
        self, options: TargetOptions, train_set: Manifest, val_set: Manifest | None
    ) -> Callable[[UniFormer], Objective]:
        check_data(self.contract, options, train_set, val_set)

        def made(model: UniFormer) -> Objective:
            from uniformer.tasks.objective import ClassObjective, load_teacher

            return ClassObjective(model, options, load_teacher(options.loss, model))

        return made

    def decode(self, outputs: Outputs, views: Views, top_k: int) -> Prediction:
        probabilities = self.fusion(outputs[0])
        shares, names = self.words(probabilities), self.words.names
        labels = tuple(Label(names[i], float(shares[i]), i) for i in best_first(shares, top_k))
        return Prediction(labels=labels, probabilities=probabilities)

    def evidence(
        self, network: UniFormer, views: Views, device: torch.device, target: str | None, number: int
    ) -> Evidence:
        """Of a class: the fused answer, by what each view's logits change in it."""
        import torch

        def logits_of(view: int) -> Tensor:
            return network(views.pixels[view : view + 1].to(device))

        with torch.no_grad():
            logits = torch.cat([logits_of(view) for view in range(len(views.array))]).cpu().numpy()
        if number != 1:
            raise InputError(f"expected number 1 of a class, as an answer has each once, got {number}")
        probabilities, names = self.fusion(logits), self.contract.classes
        row = int(probabilities.argmax()) if target is None else label_named(target, self.contract)
        slopes = torch.from_numpy(self.fusion.slopes(logits, row)).to(device)
        count, boxes = len(logits), views.boxes
        return Evidence(
            class_name(names, row), float(probabilities[row]), lambda view: (logits_of(view)[0] * slopes[view]).sum(),
            tuple(range(count)), tuple(boxes[view % len(boxes)] for view in range(count)), pooled=True,
        )  # fmt: skip

    def metric(self, manifest: Manifest, *, label_order: str = "numbers") -> ClassMetric:
        if self.options.vocabulary is not None:
            raise InputError("expected no vocabulary to be scored in: labels are the network's own classes")
        return ClassMetric(self.contract, manifest, label_order)


class ClassMetric(Metric):
    """`Scores` of a data set, whose labels are rows of the classifier, or are matched to them by name."""

    def __init__(self, contract: Contract, manifest: Manifest, label_order: str = "numbers"):
        if label_order not in ("names", "numbers", "fix"):
            raise InputError(f"expected labels by 'names', 'numbers' or 'fix', got {label_order!r}")
        self.manifest, self.notes, self.label_order = manifest, [], label_order
        if label_order != "numbers":
            from uniformer.tasks.class_order import match_labels

            self.manifest, note = match_labels(manifest, contract.classes, strict=label_order == "names")
            self.notes += [note] if note else []
        self._contract, self._fusion = contract, Fusion(contract)
        width = contract.config.num_classes
        labels = self.manifest.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < width:
            raise InputError(
                f"expected labels in 0 .. {width - 1}, the model's classes, "
                f"got {int(labels.min())} .. {int(labels.max())}"
            )
        self.dtype = np.dtype([("item", "<i8"), ("logits", "<f4", (width,)), ("probabilities", "<f4", (width,))])
        single = ("top1", *(("top5",) if width > 5 else ()), "mean_class", "loss")
        self.measures = ("map",) if manifest.is_multi_label else single

    def row(self, item: int, answer: Outputs) -> npt.NDArray[Any]:
        """The mean logits, and the probabilities averaged as the checkpoint asks."""
        import torch  # numpy sums over views in another order

        logits = answer[0]  # (V, K)
        mean = torch.from_numpy(logits).mean(dim=0).numpy()
        return np.array((item, mean, self._fusion(logits)), self.dtype)

    def result(self, rows: npt.NDArray[Any], errors: Mapping[int, str]) -> Scores:
        from uniformer.tasks.scores import Scores

        manifest = self.manifest
        count, classes = len(manifest), rows["logits"].shape[1]
        logits, probabilities = np.zeros((count, classes), np.float32), np.zeros((count, classes), np.float32)
        ok = np.zeros(count, bool)
        logits[rows["item"]], probabilities[rows["item"]] = rows["logits"], rows["probabilities"]
        ok[rows["item"]] = True
        names = self._contract.classes or (manifest.classes if len(manifest.classes) == classes else ())
        labels = manifest.label_array(classes)
        return Scores(probabilities, logits, labels, ok, manifest.item_names(), names, dict(sorted(errors.items())))

    def summary(self, scores: Scores) -> dict[str, float]:
        return summary(scores)

    def examine(self, scores: Scores) -> tuple[Scores, list[str]]:
        """Is the order of classes plausible? With "fix" the labels are set right."""
        from uniformer.tasks.class_order import examine

        found = examine(scores, self._contract.classes)
        if found is None:
            left = ["the order of classes is left as it is: nothing speaks against it"]
            return scores, left * (self.label_order == "fix")
        if found.order is None:
            return scores, list(found.sentences)
        if self.label_order == "fix":
            labels = found.order[scores.labels].astype(scores.labels.dtype)
            return replace(scores, labels=labels), [
                f"labels read in {found.order_name} order, as --class-order fix asks"
            ]
        again = f"--class-order fix reads them in {found.order_name} order (with --out nothing is computed twice)"
        return scores, [*found.sentences, again]


def summary(scores: Scores) -> dict[str, float]:
    """The measures that training goes by; the loss is the mean -log p of the truth."""
    found = scores.metrics()
    if not scores.is_multi_label:
        chance = scores.true_probability()[scores.ok].astype(np.float64)
        found["loss"] = float(-np.log(chance.clip(1e-12)).mean()) if len(chance) else float("inf")
    return {name: found[name] for name in Classification.measures if name in found}


def check_data(contract: Contract, options: TargetOptions, train_set: Manifest, val_set: Manifest | None) -> None:
    """Raises `InputError` where network, options and data do not fit."""
    config, kind = contract.config, options.loss.kind
    classes = config.num_classes
    if config.output != "logits" or not classes:
        raise InputError(f"expected a model with a classifier to train, got {contract.arch} without one")
    parts: tuple[tuple[Literal["train", "val"], Manifest | None], ...] = (("train", train_set), ("val", val_set))
    for name, part in parts:
        if part is None:
            continue
        if len(part.classes) > classes or (len(part.labels) and int(part.labels.max()) >= classes):
            count = max(len(part.classes), int(part.labels.max()) + 1)
            raise InputError(
                f"the {name} set has {count} classes, the classifier {classes}: "
                f"model.num_classes={count} would fit, as long as the labels are right"
            )
        if part.classes != train_set.classes:
            raise InputError("expected the val set to have the classes of the train set in the same order")
        if part.is_multi_label != train_set.is_multi_label:
            raise InputError("expected several labels a sample in both the train and the val set, got them in one")
    if train_set.is_multi_label and kind != "bce":
        raise InputError(f"samples with several labels need loss.kind=bce, got {kind}")
    if kind == "token_labeling" and options.label_maps is None:
        raise InputError("loss.kind 'token_labeling' needs data.label_maps, the folder of the label maps")
