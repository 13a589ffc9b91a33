"""`evaluate`: test a checkpoint on a data set, as `uniformer eval` does, and write down how it did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import get_checkpoint, list_checkpoints
from uniformer.checkpoints.told import NetworkTold, warn_of_assumed
from uniformer.config import InputSpec, Precision, to_dict
from uniformer.datasets.layouts import NoSuchSplit
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import DataReading, open_for_evaluation
from uniformer.datasets.statement import state
from uniformer.errors import InputError, check_word, counted
from uniformer.evaluation.features import KEY_NAME, Features, extract_features, load_features
from uniformer.evaluation.learnt import HELD_OUT, both_figures, held_out, learnt_rows
from uniformer.evaluation.probe import Probe, probe_scores
from uniformer.evaluation.scoring import Reading, recorded_form, score
from uniformer.inference.networks import is_exported, open_network
from uniformer.inference.predictor import with_views
from uniformer.labels import names_file
from uniformer.reading.views import Decoder
from uniformer.reports.evaluation import About, write_evaluation_page
from uniformer.speed.timings import Compute
from uniformer.support.distributed import ProcessGroup, process_group
from uniformer.support.files import atomic_path, check_outputs, clear_away, make_folder
from uniformer.support.progress import OnProgress, Pace
from uniformer.support.resume import ROWS_KEY
from uniformer.tasks import task_of
from uniformer.tasks.class_order import order_of, relabelled
from uniformer.tasks.scores import Missing, ScoresForm
from uniformer.tasks.task import Task

if TYPE_CHECKING:
    from uniformer.checkpoints.identify import CheckpointSource
    from uniformer.network.model import UniFormer


@dataclass(frozen=True)
class Evaluation:
    """How a checkpoint did on a data set."""

    scores: Any  #: of every item; `uniformer.Scores` of a classifier
    metrics: dict[str, float]  #: by name, shares in 0..1
    about: About  #: what was tested on what, and what a reader must know
    manifest: Manifest  #: what was scored, row by row
    spec: InputSpec  #: what the network was fed
    facts: dict[str, Any] = field(default_factory=dict)  #: the rest of metrics.json
    paths: dict[str, Path] = field(default_factory=dict)  #: of what was written: scores, metrics, report
    is_main: bool = True  #: whether this process is the one that speaks

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds."""
        failed = [{"path": self.scores.paths[i], "error": why} for i, why in self.scores.errors.items()]
        about = {**asdict(self.about), "metrics": self.metrics, "input": to_dict(self.spec)}
        return {**about, **self.facts, "failed": failed, **self.scores.facts()}

    def write(self, folder: str | os.PathLike[str], form: ScoresForm = "npz") -> Evaluation:
        """Scores, metrics.json and report.html, into a folder; returns this with their paths."""
        paths = result_paths(folder, form)
        make_folder(folder)
        self.scores.save(paths["scores"])
        with atomic_path(paths["metrics"]) as temporary:
            text = json.dumps(self.to_dict(), indent=2) + "\n"
            temporary.write_text(text, encoding="utf-8", errors="replace")
        write_evaluation_page(paths["report"], self.scores, self.manifest, self.about, self.metrics)
        return replace(self, paths=paths)


def evaluate(
    checkpoint: CheckpointSource | tuple[UniFormer, Contract],
    data: str | os.PathLike[str] | Manifest,
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
    **told: Unpack[NetworkTold],
) -> Evaluation:
    """Test a checkpoint, or an exported network, on a data set, as `uniformer eval` does.

        uniformer.evaluate("uniformer_small.k400_16x4", "k400/val.csv", root="k400").metrics["top1"]

    Args:
        checkpoint: as `Predictor` takes it, an exported file too.
        data: what `open_dataset` takes, or a manifest. `split`: val, else test, where it holds several; "held-out"
            leaves out of it what the checkpoint was trained on, which is otherwise said.
        classes, root, separator, label_base, allow_duplicates: of the data, as in `open_dataset`.
        clips, crops, backend, follow_seconds: how items are read; the checkpoint's own views by default.
        device, precision, batch_size, compute: as in `Predictor`. `workers`: processes that read.
        missing: whether items without an answer count as errors, or are left out ("skip").
        class_order: labels mean what their names say ("names"), rows of the classifier ("numbers"), or are read in the
            usual order of these classes that fits the answers ("fix").
        out: folder for scores, metrics.json and report.html; a run that was cut short goes on there.
        form: of the scores' file.
        overwrite: replace files in `out` that no evaluation wrote.
        probe: test a plain classifier on the checkpoint's features instead, "linear" or "knn" (`evaluation.probe`),
            fitted to `train`, by default the train split of `data`; features are kept in `out`. `k` and `temperature`
            are of "knn", `c` of "linear": larger is less regularised.
        say: called at the start with each line of what was made of the data.
        told: what the checkpoint does not tell of itself, as in `load_model`, but for the names of its classes.

    Under torchrun all processes share the items out and all get the result; the main one writes.
    Raises `InputError` where checkpoint and data do not fit or `out` holds another run's results.
    """
    if probe and not out:
        raise InputError("expected out, the folder that the features of a probe are kept in, got none")
    check_word("missing", missing, Missing)
    check_word("form", form, ScoresForm)
    inputs = [checkpoint, data, train, names_file(classes)]
    with process_group(device) as group, _alone(group, out, form, inputs, overwrite) as unlocked:
        data_reading = DataReading(
            classes=classes, root=root, separator=separator, label_base=label_base, allow_duplicates=allow_duplicates
        )
        manifest = open_for_evaluation(data, None if split == HELD_OUT else split, **data_reading)
        if class_order == "numbers":
            manifest = manifest.by_number()
        told_of = say if group.is_main else None
        if split != HELD_OUT:
            state(manifest, told_of)
        notes, known = [unlocked] if unlocked else [], ("", dict[str, float](), "")
        reading = Reading(group.device, precision, batch_size, workers, backend, follow_seconds, compute)
        if probe:
            trained = _to_fit(data, train, data_reading)
            model, contract, _ = load_model(checkpoint, **told)  # type: ignore[arg-type]
            warn_of_assumed(contract)
            spec = with_views(contract.input_of_classifier(), clips, crops)
            if split == HELD_OUT:
                manifest = held_out(contract, manifest)
                state(manifest, told_of)
            manifest, fitted, tested = _features(
                model.float(), trained, manifest, spec, Path(out or ""), reading, progress if group.is_main else None
            )
            scores: Any = probe_scores(probe, fitted, tested, k=k, temperature=temperature, c=c)
            odd = _in_both(trained, manifest)
        else:
            store = Path(out, "answers") if out else None
            network = open_network(
                checkpoint,
                device=device if is_exported(checkpoint) else group.device,
                precision=precision,
                compute=compute or (recorded_form(store) if store else None),
                **told,
            )
            contract = network.contract
            spec = with_views(contract.input_of_classifier(), clips, crops)
            if split == HELD_OUT:
                manifest = held_out(contract, manifest)
                state(manifest, told_of)
            metric = (task or type(task_of(contract)))(contract).metric(manifest, label_order=class_order)
            scores = score(network, metric, spec, reading, group, store=store, progress=progress, pace=pace)
            scores, odd = metric.examine(scores)
            manifest, notes, known = metric.manifest, [*notes, *metric.notes], known_scores(contract)
        learnt = np.zeros(len(manifest), np.bool_)  # of those that are held out none is
        if split != HELD_OUT:
            learnt = group.broadcast(lambda: learnt_rows(contract, manifest))
        both, parts = both_figures(scores, learnt, contract, missing)
        name = contract.id or contract.arch or "model"
        about = About(
            title=f"{f'{probe} probe of ' if probe else ''}{name} on {Path(_name(data)).name}",
            lines=(f"checkpoint {_name(checkpoint)}", manifest.origin, f"{views_in_words(spec)}, {precision}"),
            notes=(*both, *notes, *odd),
            known=known[2],
        )
        facts = {"probe": probe, **({} if probe else {known[0]: known[1]}), **parts}
        metrics = scores.metrics(missing)
        result = Evaluation(scores, metrics, about, manifest, spec, facts, is_main=group.is_main)
        return result.write(out, form) if out and group.is_main else result


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


@contextmanager
def _alone(
    group: ProcessGroup, out: str | os.PathLike[str] | None, form: str, inputs: Sequence[object], overwrite: bool
) -> Iterator[str]:
    """The folder of the results, if there is to be one, for this run alone, with nothing in it that must not go."""
    if not out:
        yield ""
        return
    outputs = list(result_paths(out, form).values())
    goes_on = any(Path(out, claim).exists() for claim in (f"answers/{ROWS_KEY}", f"features-test/{KEY_NAME}"))
    files = [path for path in inputs if not (isinstance(path, str | os.PathLike) and os.path.isdir(path))]
    with group.alone_in(Path(out)) as unlocked:
        group.broadcast(lambda: check_outputs(outputs, files, overwrite=overwrite or goes_on))
        if group.is_main:
            clear_away(outputs)
        yield unlocked


def _name(source: object) -> str:
    """How a report calls a checkpoint or a data set: by its path."""
    if isinstance(source, Manifest):
        return source.root or "the data"
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "the model"


# ---- in words --------------------------------------------------------------------------------------------------------


def views_in_words(spec: InputSpec) -> str:
    """'4 x 3 views of 16 frames, 224 x 224'."""
    size = f"{spec.size[1]} x {spec.size[0]}"
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
    return kind, scores, f"{what}: {_percents(scores)}, with {views_in_words(spec)}"


def _percents(scores: Mapping[str, float]) -> str:
    names = {
        "top1": "top-1",
        "top5": "top-5",
        "one_view_top1": "top-1 of one view",
        "mean_class": "mean per class",
        "map": "mean precision",
    }
    return ", ".join(f"{names.get(name, name)} {value:g} %" for name, value in scores.items())
