"""`evaluate`: test a checkpoint on a data set, as `uniformer eval` does, and write down how it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.checkpoints.told import warn_of_assumed
from uniformer.config import Input, InputSpec, PersonCrop, Precision, Scaling, to_dict
from uniformer.datasets.annotated import AnnotatedSet, annotated_kind
from uniformer.datasets.annotated_open import annotated_for_evaluation
from uniformer.datasets.layouts import NoSuchSplit
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import DataReading, open_for_evaluation
from uniformer.datasets.statement import state
from uniformer.errors import InputError, check_word, counted
from uniformer.evaluation.features import KEY_NAME, Features, extract_features, load_features
from uniformer.evaluation.learnt import HELD_OUT, both_figures, held_out, learnt_rows
from uniformer.evaluation.probe import Probe, probe_scores
from uniformer.evaluation.scoring import Reading, check_fits, form_to_go_on, score
from uniformer.heads.pyramid import DenseNetwork
from uniformer.inference.networks import is_exported, open_network
from uniformer.inference.predictor import fed_to, with_views
from uniformer.labels import names_file
from uniformer.network.model import UniFormer
from uniformer.reading.views import Decoder
from uniformer.reports.evaluation import About, write_evaluation_page
from uniformer.reports.measures import words_of
from uniformer.speed.timings import Compute
from uniformer.support.distributed import ProcessGroup, process_group
from uniformer.support.files import check_outputs, make_folder, write_whole
from uniformer.support.progress import OnProgress, Pace
from uniformer.support.resume import ROWS_KEY
from uniformer.tasks import option_names, task_of
from uniformer.tasks.class_order import order_of, relabelled
from uniformer.tasks.scores import Missing, ScoresForm
from uniformer.tasks.segmentation import EXPORTED_SIZE
from uniformer.tasks.task import Metric, Task, WithAnswers


@dataclass(frozen=True)
class Evaluation:
    """How a checkpoint did on a data set."""

    #: Of every item: `uniformer.Scores` of a classifier, `uniformer.ObjectScores` of detectors and pose networks,
    #: `uniformer.SegmentationScores` of segmenters.
    scores: Any
    metrics: dict[str, float]  #: by name, shares in 0..1
    about: About  #: what was tested on what, and what a reader must know
    manifest: Manifest | AnnotatedSet  #: what was scored, row by row
    spec: Input  #: what the network was fed
    facts: dict[str, Any] = field(default_factory=dict)  #: the rest of metrics.json
    paths: dict[str, Path] = field(default_factory=dict)  #: of what was written: scores, metrics, report
    is_main: bool = True  #: whether this process is the one that speaks

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        failed = [{"path": self.scores.paths[i], "error": why} for i, why in self.scores.errors.items()]
        about = {**asdict(self.about), "metrics": self.metrics, "input": to_dict(self.spec)}
        return {**about, **self.facts, "failed": failed, **self.scores.facts()}

    def write(self, folder: str | os.PathLike[str], form: ScoresForm = "npz") -> Evaluation:
        """Scores, metrics.json, report.html and, of dense networks, their answers, into a folder; returns this with
        their paths."""
        paths = result_paths(folder, form)
        make_folder(folder)
        self.scores.save(paths["scores"])
        answers = self.scores.save_answers(folder) if isinstance(self.scores, WithAnswers) else {}
        write_whole(paths["metrics"], json.dumps(self.to_dict(), indent=2) + "\n", "replace")
        write_evaluation_page(paths["report"], self.scores, self.manifest, self.about, self.metrics)
        return replace(self, paths={**paths, **answers})


def evaluate(
    checkpoint: CheckpointSource | tuple[UniFormer | DenseNetwork, Contract],
    data: str | os.PathLike[str] | Manifest | AnnotatedSet,
    *,
    split: str | None = None,
    classes: str | None = None,
    root: str | None = None,
    separator: str = "auto",
    label_base: int = 0,
    allow_duplicates: bool = False,
    clips: int | None = None,
    crops: Literal[1, 3] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    batch_size: int = 8,
    workers: int = 2,
    backend: Decoder = "pyav",
    follow_seconds: bool = False,
    compute: Compute | None = None,
    missing: Missing = "error",
    class_order: Literal["names", "numbers", "fix"] = "names",
    boxes: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    form: ScoresForm = "npz",
    overwrite: bool = False,
    probe: Probe | None = None,
    train: str | os.PathLike[str] | Manifest | None = None,
    k: int = 20,
    temperature: float = 0.07,
    c: float = 1.0,
    task: type[Task] | None = None,
    progress: OnProgress | None = None,
    pace: Pace | None = None,
    say: Callable[[str], None] | None = None,
    **asked: Any,
) -> Evaluation:
    """Test a checkpoint, or an exported network, on a data set, as `uniformer eval` does.

        uniformer.evaluate("uniformer_small.k400_16x4", "k400/val.csv", root="k400").metrics["top1"]

    Args:
        checkpoint: as `Predictor` takes it, an exported file too.
        data: what `open_dataset` takes, or a manifest; of dense networks what `open_annotated` takes.
        split: val, else test, where the data hold several; "held-out" leaves out of it what the checkpoint was trained
            on, which is otherwise said.
        classes, root, separator, label_base, allow_duplicates: of the data, as in `open_dataset`.
        clips, crops, backend, follow_seconds: how items are read; the checkpoint's own views by default.
        device, precision, batch_size, compute: as in `Predictor`. `workers`: processes that read.
        missing: whether items without an answer count as errors, or are left out ("skip").
        class_order: labels mean what their names say ("names"), rows of the classifier ("numbers"), or are read in the
            usual order of these classes that fits the answers ("fix").
        boxes: of a pose network, the file that says where people are, as a detector's results; by default they are
            where they are annotated.
        out: folder for scores, metrics.json, report.html and the answers of dense networks; a run that was cut short
            goes on there.
        form: of the scores' file.
        overwrite: replace files in `out` that no evaluation wrote.
        probe: test a plain classifier on the checkpoint's features instead, "linear" or "knn" (`evaluation.probe`),
            fitted to `train`, by default the train split of `data`; features are kept in `out`. `k` and `temperature`
            are of "knn", `c` of "linear": larger is less regularised.
        say: called at the start with each line of what was made of the data.
        asked: what the checkpoint does not tell of itself, as in `load_model`, but for the names of its classes; and
            how a dense network's answers are made, as in `Predictor`.

    Under torchrun all processes share the items out and all get the result; the main one writes.
    Raises `InputError` where checkpoint and data do not fit or `out` holds another run's results.
    """
    if probe and not out:
        raise InputError("expected out, the folder that the features of a probe are kept in, got none")
    check_word("missing", missing, Missing)
    check_word("form", form, ScoresForm)
    inputs = [checkpoint, data, train, names_file(classes), boxes]
    with process_group(device) as group, _alone(group, out, form, inputs, overwrite) as place:
        data_reading = DataReading(
            classes=classes, root=root, separator=separator, label_base=label_base, allow_duplicates=allow_duplicates
        )
        test = _Test(
            checkpoint=checkpoint, boxes=boxes, views=(clips, crops), place=place, progress=progress,
            data=_Data(data, split, class_order, data_reading, say if group.is_main else None),
            reading=Reading(group.device, precision, batch_size, workers, backend, follow_seconds, compute),
            answers={name: asked.pop(name) for name in option_names() if name in asked}, asked=asked,
        )  # fmt: skip
        fit = partial(probe_scores, probe, k=k, temperature=temperature, c=c) if probe else None
        tested = test.scored(task, device, pace) if fit is None else test.probed(fit, train)
        found = test.evaluation(tested, probe, missing)
        return found.write(out, form) if out and group.is_main else found


@dataclass(frozen=True)
class _Tested:
    """What came of a checkpoint on data."""

    contract: Contract
    manifest: Any
    fed: Any  #: what the network was fed
    scores: Any
    notes: Sequence[str]  #: what a reader must know before believing them
    known: tuple[str, dict[str, float], str] | None  #: what the checkpoint scored before; None of a probe of it


@dataclass(frozen=True, kw_only=True)
class _Test:
    """A checkpoint, what it is tested on, and how."""

    checkpoint: Any
    data: _Data
    boxes: str | os.PathLike[str] | None
    views: tuple[int | None, Literal[1, 3] | None]  #: clips and crops
    reading: Reading
    answers: Mapping[str, Any]  #: how a dense network's are made
    asked: Any  #: what the checkpoint does not tell of itself
    place: _Place
    progress: OnProgress | None

    def scored(self, task: type[Task] | None, device: str, pace: Pace | None) -> _Tested:
        """By the network's own answers."""
        data, group, reading = self.data, self.place.group, self.reading
        manifest: Any = None if data.is_annotated else data.labelled()  # before the network: errors come soon
        store = Path(self.place.folder, "answers") if self.place.folder else None
        network = open_network(
            self.checkpoint,
            device=device if is_exported(self.checkpoint) else group.device,
            precision=reading.precision,
            compute=form_to_go_on(reading.compute, store),
            **self.asked,
        )
        contract = network.contract
        made: Task = (task or task_of)(contract, **self.answers)
        if made.whole:
            manifest = data.annotated(made)
        spec = fed_to(made, *self.views)
        manifest = data.part_of(manifest or data.labelled(), contract)
        check_fits(contract.config, manifest, spec or made)
        made = made.on(manifest, self.boxes)
        data.tell(made.notes)
        metric = made.metric(manifest, label_order=data.class_order)
        self.place.check(metric)
        scores = score(network, metric, spec or made, reading, group, store=store, progress=self.progress, pace=pace)
        scores, odd = metric.examine(scores)
        notes = [*made.notes, *metric.notes, *odd]
        return _Tested(contract, metric.manifest, spec or contract.input, scores, notes, known_scores(contract))

    def probed(self, fit: Callable[..., Any], train: Any) -> _Tested:
        """By a plain classifier on the network's features, which `fit` makes of those of `train`."""
        manifest: Any = self.data.labelled()
        trained = _to_fit(self.data.source, train, self.data.reading)
        model, contract, _ = load_model(self.checkpoint, **self.asked)
        warn_of_assumed(contract)
        fed = with_views(contract.input_of_classifier(), *self.views)
        manifest = self.data.part_of(manifest, contract)
        task_of(contract, **self.answers).on(manifest, self.boxes)  # refuses what is not for classifiers
        manifest, fitted, tested = _features(
            model.float(), trained, manifest, fed, self.place.folder or Path(), self.reading,
            self.progress if self.place.group.is_main else None,
        )  # fmt: skip
        return _Tested(contract, manifest, fed, fit(fitted, tested), _in_both(trained, manifest), None)

    def evaluation(self, tested: _Tested, probe: str | None, missing: Missing) -> Evaluation:
        """In words and figures."""
        contract, manifest, group = tested.contract, tested.manifest, self.place.group
        learnt = np.zeros(len(manifest), np.bool_)  # of those that are held out none is
        if self.data.split != HELD_OUT:
            learnt = group.broadcast(lambda: learnt_rows(contract, manifest))
        both, parts = both_figures(tested.scores, learnt, contract, missing)
        name = contract.id or contract.arch or "model"
        kind, known, in_words = tested.known or ("", {}, "")
        answers = [f"{name}={value}" for name, value in self.answers.items() if not callable(value)]
        fed = ", ".join([input_in_words(tested.fed, contract.details.get(EXPORTED_SIZE)), *answers])
        about = About(
            title=f"{f'{probe} probe of ' if probe else ''}{name} on {Path(_name(self.data.source)).name}",
            lines=(f"checkpoint {_name(self.checkpoint)}", manifest.origin, f"{fed}, {self.reading.precision}"),
            notes=(*both, *filter(None, [self.place.note]), *tested.notes),
            known=in_words,
        )
        facts = {"probe": probe, **({kind: known} if tested.known else {}), **parts}
        metrics = tested.scores.metrics(missing)
        return Evaluation(tested.scores, metrics, about, manifest, tested.fed, facts, is_main=group.is_main)


@dataclass(frozen=True)
class _Data:
    """What is tested on, which is opened as soon as it is known what for."""

    source: Any
    split: str | None
    class_order: str
    reading: DataReading
    say: Callable[[str], None] | None

    @property
    def is_annotated(self) -> bool:
        """Whether it looks as if made for a dense task."""
        if isinstance(self.source, Manifest | AnnotatedSet):
            return isinstance(self.source, AnnotatedSet)
        return annotated_kind(self.source) is not None

    @property
    def _named(self) -> str | None:
        return None if self.split == HELD_OUT else self.split

    def labelled(self) -> Manifest:
        """Items with labels."""
        if isinstance(self.source, AnnotatedSet):
            raise InputError(f"expected data with a class of each item, got some annotated for {self.source.task}")
        manifest = open_for_evaluation(self.source, self._named, **self.reading)
        if self.class_order == "numbers":
            manifest = manifest.by_number()
        self._state(manifest)
        return manifest

    def annotated(self, task: Task) -> AnnotatedSet:
        """Pictures with annotations for a task."""
        if isinstance(self.source, Manifest):
            raise InputError(f"expected data annotated for {task.name}, got a manifest of {self.source.kind}s")
        name: Any = task.name
        found = annotated_for_evaluation(self.source, self._named, task=name, classes=self.reading.get("classes"))
        self._state(found)
        return found

    def part_of(self, data: Any, contract: Contract) -> Any:
        """Without what the network learnt from, where that was asked for."""
        if self.split != HELD_OUT:
            return data
        part = held_out(contract, data)
        state(part, self.say)
        return part

    def tell(self, lines: Sequence[str]) -> None:
        if self.say is not None:
            for line in lines:
                self.say(f"data: {line}")

    def _state(self, data: Manifest | AnnotatedSet) -> None:
        if self.split != HELD_OUT:
            state(data, self.say)


def _to_fit(data: Any, train: Any, reading: DataReading) -> Manifest:
    """What a probe is fitted to: `train`, else the training split of `data`. Raises `InputError` where it has none."""
    if train:
        return open_for_evaluation(train, None, **reading)
    try:
        return open_for_evaluation(data, "train", **reading)
    except NoSuchSplit as error:
        raise InputError(f"{error}; --train (train=) names what a probe is fitted to") from None


def _features(
    model: UniFormer,
    train: Manifest,
    test: Manifest,
    spec: InputSpec,
    out: Path,
    reading: Reading,
    progress: OnProgress | None,
) -> tuple[Manifest, Features, Features]:
    """The test set with the training set's labels, and the features of both."""
    order = order_of(test, train.classes)
    if order is None:
        raise InputError(f"expected the test classes among the training classes: {train.origin}; {test.origin}")
    test = relabelled(test, order, train.classes)
    for name, part in (("train", train), ("test", test)):
        extract_features(model, part, spec, out / f"features-{name}", reading=reading, progress=progress)
    return test, load_features(out / "features-train"), load_features(out / "features-test")


def _in_both(train: Manifest, test: Manifest) -> list[str]:
    seen = {train.path(i) for i in range(len(train))}
    both = sum(test.path(i) in seen for i in range(len(test)))
    return [f"fitted to {train.origin}", *([f"in the training set as well: {counted(both, 'file')}"] if both else [])]


def result_paths(folder: str | os.PathLike[str], form: str = "npz") -> dict[str, Path]:
    """What is written."""
    names = {"scores": f"scores.{form}", "metrics": "metrics.json", "report": "report.html"}
    return {what: Path(folder, name) for what, name in names.items()}


@dataclass(frozen=True)
class _Place:
    """Where results go, if anywhere."""

    group: ProcessGroup
    folder: Path | None
    form: str
    inputs: Sequence[object] = ()  #: files that are read, which no result may replace
    overwrite: bool = False  #: whether files that are there may go
    note: str = ""  #: what a reader must know of it

    def check(self, metric: Metric) -> None:
        """Raises `InputError`, before the work, where a metric's scores or answers cannot be written there."""
        if self.form not in metric.forms:
            raise InputError(f"expected form {', '.join(metric.forms)} for these scores, got {self.form!r}")
        if self.folder is not None:
            self._check(metric.answer_paths(self.folder))

    def _check(self, outputs: Sequence[Path]) -> None:
        self.group.broadcast(lambda: check_outputs(outputs, self.inputs, overwrite=self.overwrite))


@contextmanager
def _alone(
    group: ProcessGroup, out: str | os.PathLike[str] | None, form: str, inputs: Sequence[object], overwrite: bool
) -> Iterator[_Place]:
    """The folder of the results, if there is to be one, for this run alone, with nothing in it that must not go."""
    if not out:
        yield _Place(group, None, form)
        return
    goes_on = any(Path(out, claim).exists() for claim in (f"answers/{ROWS_KEY}", f"features-test/{KEY_NAME}"))
    files = [path for path in inputs if not (isinstance(path, str | os.PathLike) and os.path.isdir(path))]
    with group.alone_in(Path(out)) as unlocked:
        place = _Place(group, Path(out), form, files, overwrite or goes_on, unlocked)
        place._check(list(result_paths(out, form).values()))
        yield place


def _name(source: object) -> str:
    """How a report calls a checkpoint or a data set: by its path."""
    if isinstance(source, Manifest | AnnotatedSet):
        return source.root or "the data"
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the model"


# ---- in words --------------------------------------------------------------------------------------------------------


def input_in_words(spec: Input, exported: Sequence[int] | None = None) -> str:
    """'4 x 3 views of 16 frames, 224 x 224'; of dense networks 'whole pictures, short side 800, long side up to 1333'
    or 'people in crops of 192 x 256'. `exported`: height and width of the only input that a file takes."""
    if exported is not None:
        return f"whole pictures, resized to {exported[1]} x {exported[0]}"
    if isinstance(spec, Scaling):
        return f"whole pictures, short side {spec.shortest}, long side up to {spec.longest}"
    size = f"{spec.size[1]} x {spec.size[0]}"
    if isinstance(spec, PersonCrop):
        return f"people in crops of {size}"
    if not spec.is_video:
        return f"{spec.views_in_words}, {size}"
    return f"{spec.views_in_words} of {counted(spec.frames, 'frame')}, {size}"


def known_scores(contract: Contract) -> tuple[str, dict[str, float], str]:
    """What the checkpoint scored before, in percent: "published_scores" or "training_scores"; the scores; in words.

    Published scores are of the authors' checkpoints; any other brings those of its training's own validation.
    """
    if contract.id in list_checkpoints():
        record = get_checkpoint(contract.id)
        scores, spec, what = dict(record.scores), record.input, f"published for {record.id} on {record.dataset}"
        kind = "published_scores"
    else:
        scores, spec, what = dict(contract.scores), contract.input, "in training, on its own validation set"
        kind = "training_scores"
    if not scores or not isinstance(spec, InputSpec):
        return kind, scores, ""
    percents = ", ".join(f"{words_of(name) or name} {value:g} %" for name, value in scores.items())
    return kind, scores, f"{what}: {percents}, with {input_in_words(spec)}"
