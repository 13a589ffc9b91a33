"""Clip and image embeddings of a data set, in shards on disk: resumable, by many processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
import numpy.typing as npt

from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.told import NetworkTold, warn_of_assumed
from uniformer.config import InputSpec, Precision
from uniformer.datasets.manifest import Manifest
from uniformer.datasets.open import open_for_evaluation
from uniformer.datasets.records import load_pyarrow
from uniformer.datasets.statement import state
from uniformer.datasets.sums import item_sums
from uniformer.errors import InputError, shown
from uniformer.evaluation.learnt import HELD_OUT, held_out
from uniformer.evaluation.scoring import Reading, check_fits, form_to_go_on, item_groups, run_items, run_key
from uniformer.inference.engine import Outcome
from uniformer.inference.networks import TorchNetwork, evaluating, pooled_features
from uniformer.inference.predictor import with_views
from uniformer.network.model import UniFormer
from uniformer.reading.views import Decoder
from uniformer.speed.timings import Compute
from uniformer.support.distributed import current_process_group, process_group
from uniformer.support.files import atomic_path, clear_away
from uniformer.support.progress import OnProgress
from uniformer.support.resume import claim, read_claim
from uniformer.support.texts import parse_json

ShardFormat = Literal["safetensors", "parquet"]
Arrays = dict[str, npt.NDArray[Any]]
Labels = Callable[[list[int]], npt.NDArray[Any]]  #: of rows, as `label_array`

MOST_SHARDS = 10**6  # of a folder
KEY_NAME = "features.json"  # what the shards are features of
SHARD_ITEMS, SHARD_MAPS = 64, 8  # items of a shard; with stage maps, which are a thousand times larger


@dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of N items. Rows without any hold zeros."""

    features: npt.NDArray[np.float32]  #: (N, C), or (N, V, C) where kept per view
    labels: npt.NDArray[Any]  #: int32 (N,), or bool (N, K) of a multi-label set
    ok: npt.NDArray[np.bool_]  #: (N,)
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    errors: dict[int, str]  #: why a row has none


@dataclass(frozen=True)
class Written:
    """What `write_features` wrote; `load_features` reads the folder."""

    folder: Path
    manifest: Manifest
    errors: dict[int, str]  #: why a row has none
    note: str = ""  #: where there are no locks
    is_main: bool = True  #: whether this process is the one that speaks


def extract_features(
    model: UniFormer,
    manifest: Manifest,
    spec: InputSpec,
    out: str | os.PathLike[str],
    *,
    per_view: bool = False,
    stages: Sequence[int] = (),
    form: ShardFormat = "safetensors",
    reading: Reading | None = None,
    progress: OnProgress | None = None,
) -> dict[int, str]:
    """Write the features of every item to the folder `out`; returns why items have none, by row.

    A shard holds consecutive items: `features` (n, C), the last map batch-normed and averaged over time and space as
    the classifier sees it, and over the views unless `per_view`, then (n, V, C); `labels` and `ok`. With `stages`, say
    (3, 4), also the maps `stage3` and `stage4`, (n, V, C, [T',] H', W'), and `seconds` (n, clips, T'), the times of
    their positions, NaN where a source has no clock. The items' names and errors are in each shard, too.

    A shard is written whole or not at all, so a run that was cut short goes on; shards with unreadable items are made
    anew, and those with items whose labels or files are others by now. Within a torch.distributed group the processes
    share the shards out: the folder must be one for all.
    Raises `InputError` where things do not fit or the folder holds other features.
    """
    reading = reading or Reading()
    if reading.compute not in (None, "plain", "fast"):
        raise InputError(f"expected compute plain or fast for features, got {reading.compute}: it has answers only")
    _check(model, manifest, spec, stages, form)
    groups = item_groups(len(manifest), spec.views, reading.batch_size)
    size = max(1, (SHARD_MAPS if stages else SHARD_ITEMS) // len(groups[0]))  # groups a shard
    shards = [groups[first : first + size] for first in range(0, len(groups), size)]
    errors: dict[int, str] = {}
    group = current_process_group(reading.device)
    with evaluating(model):
        network = TorchNetwork(
            model,
            Contract(model.config, input=spec),
            device=reading.device,
            precision=reading.precision,
            compute=form_to_go_on(reading.compute or "fast", out, KEY_NAME),
            forward=pooled_features(stages),
        )
        about = {
            "shards": len(shards),
            "form": form,
            "per_view": per_view,
            "stages": list(stages),
            "classes": list(manifest.classes),
            **run_key(network, manifest, spec, reading),
        }
        classes = max(len(manifest.classes), model.config.num_classes)

        def labels(rows: list[int]) -> npt.NDArray[Any]:
            return manifest.select(rows).label_array(classes)

        sums = group.broadcast(lambda: item_sums(manifest, with_time=True))
        unfinished = group.broadcast(lambda: _unfinished(Path(out), about, shards, labels, sums))
        todo = unfinished[group.rank :: group.size]
        wanted = list(chain.from_iterable(shards[n] for n in todo))
        with closing(run_items(network, manifest, spec, wanted, reading, progress=progress)) as outcomes:
            for number in todo:
                part = list(islice(outcomes, sum(map(len, shards[number]))))
                errors |= {o.source: o.error for o in part if o.error is not None}
                rows = [o.source for o in part]
                arrays = {"labels": labels(rows), **_arrays(part, model, spec, per_view, stages)}
                shard = Shard(arrays, manifest.select(rows).item_names(), [o.error for o in part], sums[rows].tolist())
                _write_shard(_shard_path(Path(out), number, form), shard)
    return dict(sorted((item, why) for part in group.all_gather(errors) for item, why in part.items()))


def write_features(
    checkpoint: CheckpointSource,
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    per_view: bool = False,
    stages: Sequence[int] = (),
    form: ShardFormat = "safetensors",
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
    progress: OnProgress | None = None,
    say: Callable[[str], None] | None = None,
    **told: Unpack[NetworkTold],
) -> Written:
    """`extract_features` of a checkpoint and a data set by name, as `uniformer features` does.

    `per_view`, `stages`, `form`: as in `extract_features`; all others as in `uniformer.evaluate`. Raises `InputError`
    as both do.
    """
    with process_group(device) as group, group.alone_in(Path(out)) as note:
        model, contract, _ = load_model(checkpoint, **told)
        warn_of_assumed(contract)
        spec = with_views(contract.input_of_classifier(), clips, crops)
        part = None if split == HELD_OUT else split
        manifest = open_for_evaluation(
            data, part,
            classes=classes, root=root, separator=separator, label_base=label_base, allow_duplicates=allow_duplicates,
        )  # fmt: skip
        manifest = held_out(contract, manifest) if split == HELD_OUT else manifest
        state(manifest, say if group.is_main else None)
        reading = Reading(group.device, precision, batch_size, workers, backend, follow_seconds, compute)
        errors = extract_features(
            model.float(), manifest, spec, out,
            per_view=per_view, stages=stages, form=form, reading=reading, progress=progress if group.is_main else None,
        )  # fmt: skip
        return Written(Path(out), manifest, errors, note, group.is_main)


def load_features(folder: str | os.PathLike[str]) -> Features:
    """All shards of a finished run, without stage maps. Raises `InputError` where the folder holds no such thing."""
    folder = Path(folder)
    about = read_claim(folder / KEY_NAME)
    if about is None:
        raise InputError(f"{folder}: expected a folder of features, found no {KEY_NAME} in it")
    count, classes = about.get("shards"), about.get("classes")
    if type(count) is not int or not 1 <= count <= MOST_SHARDS or about.get("form") not in get_args(ShardFormat):
        raise InputError(f"{folder / KEY_NAME}: expected shards from 1 up and their form, found {shown(about)}")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{folder / KEY_NAME}: expected classes as a list of names, found {shown(classes)}")
    paths = [_shard_path(folder, number, about["form"]) for number in range(count)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder}: expected {len(paths)} shards, found {len(paths) - len(missing)}: run it to its end"
        )
    parts = [_read_shard(path, ("features", "labels", "ok")) for path in paths]
    joined = {name: np.concatenate([part.arrays[name] for part in parts]) for name in ("features", "labels", "ok")}
    names = tuple(chain.from_iterable(part.names for part in parts))
    why = list(chain.from_iterable(part.errors for part in parts))
    errors = {row: text for row, text in enumerate(why) if text is not None}
    return Features(**joined, paths=names, classes=tuple(classes), errors=errors)


def _check(model: UniFormer, manifest: Manifest, spec: InputSpec, stages: Sequence[int], form: str) -> None:
    check_fits(model.config, manifest, spec)
    if not set(stages) <= {1, 2, 3, 4} or len(set(stages)) < len(stages):
        raise InputError(f"expected stages out of 1, 2, 3, 4, each once, got {', '.join(map(str, stages))}")
    if form not in ("safetensors", "parquet"):
        raise InputError(f"expected the form safetensors or parquet, got {form!r}")
    if form == "parquet" and stages:
        raise InputError("expected the form safetensors for stage maps: a Parquet row has no room for them")


def _arrays(
    part: Sequence[Outcome[int]], model: UniFormer, spec: InputSpec, per_view: bool, stages: Sequence[int]
) -> Arrays:
    """The columns of one shard but labels. Rows without an answer are zeros, of the shape the others have."""
    arrays: Arrays = {"ok": np.array([o.error is None for o in part])}
    shapes: list[tuple[int, ...]] = [(spec.views, model.config.dims[-1])]
    grids = model.grids(((spec.frames,) if spec.is_video else ()) + spec.size)
    shapes += [(spec.views, model.config.dims[stage - 1], *grids[stage - 1]) for stage in stages]
    names = ["features", *(f"stage{stage}" for stage in stages)]
    for place, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        column = np.zeros((len(part), *shape), np.float32)
        for row, outcome in enumerate(part):
            if outcome.error is None:
                column[row] = outcome.outputs[place]
        arrays[name] = column
    if not per_view:
        arrays["features"] = arrays["features"].mean(axis=1)
    if stages and spec.is_video:
        step = model.feature_info[0].time_stride  # position t of a map is centred on frame t * step of the clip
        seconds = np.full((len(part), spec.clips, spec.frames), np.nan)
        for row, outcome in enumerate(part):
            if outcome.views is not None and outcome.views.seconds is not None:
                seconds[row] = outcome.views.seconds
        arrays["seconds"] = np.ascontiguousarray(seconds[:, :, ::step])
    return arrays


# ---- shards ----------------------------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """Consecutive items."""

    arrays: Arrays
    names: Sequence[str]
    errors: Sequence[str | None]  #: why an item has no features
    sums: Sequence[int]  #: of their files when they were read; empty in shards of earlier versions


def _unfinished(
    folder: Path, about: dict[str, Any], shards: list[list[range]], labels: Labels, sums: npt.NDArray[np.uint64]
) -> list[int]:
    """The shards that are not there as they should be, in a folder that is new or holds the same run."""
    claim(folder / KEY_NAME, about, "features")
    paths = [_shard_path(folder, n, about["form"]) for n in range(len(shards))]
    clear_away(paths)
    rows = [list(chain.from_iterable(shard)) for shard in shards]
    return [n for n, path in enumerate(paths) if not _holds(path, labels(rows[n]), sums[rows[n]])]


def _shard_path(folder: Path, number: int, form: str) -> Path:
    return folder / f"features-{number:05}.{form}"


def _holds(path: Path, labels: npt.NDArray[Any], sums: npt.NDArray[np.uint64]) -> bool:
    """Whether a shard is there, of readable items with these labels and files."""
    if not path.is_file():
        return False
    found = _read_shard(path, ("ok", "labels"))
    is_same = np.array_equal(found.arrays["labels"], labels) and list(found.sums) == sums.tolist()
    return is_same and bool(found.arrays["ok"].all())


def _write_shard(path: Path, shard: Shard) -> None:
    arrays, names, why, sums = shard
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            facts = {"paths": json.dumps(names), "errors": json.dumps(why), "sums": json.dumps(sums)}
            save_file(arrays, temporary, facts)
            return
        arrow, parquet = load_pyarrow()
        columns = {
            name: arrow.array(list(column) if column.ndim < 3 else [list(row) for row in column])
            for name, column in arrays.items()
        }
        texts = [name.encode("utf-8", "replace").decode() for name in names]  # Parquet holds UTF-8 only
        columns = {"path": arrow.array(texts, arrow.string()), **columns, "error": arrow.array(why, arrow.string())}
        parquet.write_table(arrow.table(columns).replace_schema_metadata({"sums": json.dumps(sums)}), temporary)


def _read_shard(path: Path, wanted: Sequence[str]) -> Shard:
    """With some of its arrays."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as f:
                facts = f.metadata()
                arrays = {name: f.get_tensor(name) for name in wanted}
                told = facts["paths"], facts["errors"], facts.get("sums", "[]")
                return Shard(arrays, *(parse_json(text, str(path)) for text in told))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            raise InputError(f"{path}: expected a shard of features, found a damaged or another kind of file") from None
    arrow, parquet = load_pyarrow()
    try:
        table = parquet.read_table(path, columns=["path", "error", *wanted])
    except (arrow.ArrowException, OSError):
        raise InputError(f"{path}: expected a shard of features, found a damaged or another kind of file") from None
    arrays = {name: np.array(table[name].to_pylist(), _DTYPES.get(name)) for name in wanted}
    sums = parse_json((table.schema.metadata or {}).get(b"sums", b"[]"), str(path))
    return Shard(arrays, table["path"].to_pylist(), table["error"].to_pylist(), sums)


_DTYPES = {"features": np.float32, "ok": np.bool_}
