"""The published checkpoints: records by id. No torch here.

They are data, `assets/checkpoints.toml`, after the authors' tables (github.com/Sense-X/UniFormer), read when first
asked for. Checkpoints of our own lie in the package, `assets/weights/`: each file tells its own record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from uniformer.config import Config, Input, InputSpec, did_you_mean, with_options
from uniformer.errors import InputError
from uniformer.labels import load_classes, load_details
from uniformer.network.variants import default_input, dense_input, get_config
from uniformer.support.safetensors_header import Header, read_header
from uniformer.support.texts import parse_json, parse_toml


@dataclass(frozen=True)
class PublishedFile:
    """Where the weights of a checkpoint lie: the authors' Google Drive, for some also the Hugging Face hub."""

    name: str
    name_source: str  #: who names it: 'pattern' (guessed from its siblings) and 'third party' are not to be relied on
    drive_id: str  #: Google Drive file id
    hub_repo: str | None = None  #: Hugging Face repository with a file of this name
    hub_verified: bool = False  #: whether the authors' own pages or demos name that file
    md5: str | None = None
    md5_verified: bool = False  #: every md5 known today is copied from a third-party index and was checked by nobody
    converted_url: str | None = None  #: OpenMMLab's conversion. Video: its classes are in alphabetical order

    @property
    def name_verified(self) -> bool:
        return self.name_source not in ("pattern", "third party")


@dataclass(frozen=True)
class Checkpoint:
    """One row of the authors' result tables: what was trained, how it is tested, what it scored, where it lies."""

    id: str
    arch: str  #: name in `VARIANTS`
    task: str
    dataset: str
    num_classes: int  #: of poses the key points
    input: Input | None
    scores: Mapping[str, float] = field(hash=False)  #: per cent, as printed
    file: PublishedFile | None  #: None where a score was published but no weights
    recipe: str  #: the reference's experiment folder
    licence: str
    init: str | None = None  #: id of the checkpoint whose weights it started from; None is from scratch
    params: int | None = None  #: exact, with classifiers; not counted for dense models with their heads
    params_m: float | None = None  #: millions, as printed
    macs_g: float | None = None  #: 1e9 multiply-adds of convolutions and matrix products, one view; counted by us
    gflops: float | None = None  #: as printed; the authors count one multiply-add as one
    gflops_cover: Literal["one view", "all views"] = "one view"  #: what `gflops` adds up
    gflops_at: str = ""  #: input size of `gflops` where it is not that of `input`
    log_id: str | None = None  #: Google Drive id of the training log
    input_note: str = ""
    notes: tuple[str, ...] = ()
    path: str | None = None  #: of the file, where it lies in the package: trained by us, published by nobody

    @property
    def classes(self) -> tuple[str, ...]:
        """The rows of the classifier by name; of a pose network its key points."""
        if self.path:
            return tuple(_contract_in(Path(self.path))[0]["classes"])
        return load_classes(self.dataset.removesuffix(" split 1")) if self.config.num_classes else ()

    @property
    def config(self) -> Config:
        """The network of this checkpoint."""
        return replace(get_config(self.arch), num_classes=self.num_classes)

    @property
    def details(self) -> dict[str, Any]:
        """What its answers need beside the classes: a palette, or a skeleton and the sigmas of key points."""
        return load_details(self.dataset)


def list_checkpoints(
    pattern: str = "*",
    *,
    task: str | None = None,
    dataset: str | None = None,
    arch: str | None = None,
    in_package: bool = False,
) -> list[str]:
    """Ids that match a shell pattern and have these exact values. Raises `InputError` for a value no record has.

    They are those of the published checkpoints; with `in_package` also those that come with this package.
    """
    wanted = {
        name: value for name, value in (("task", task), ("dataset", dataset), ("arch", arch)) if value is not None
    }
    records = {**_records(), **(_in_package() if in_package else {})}
    for name, value in wanted.items():
        known = dict.fromkeys(getattr(record, name) for record in records.values())
        if value not in known:
            raise InputError(f"no checkpoint has {name} {value!r}{did_you_mean(value, known)}")
    return [
        id
        for id, record in records.items()
        if fnmatchcase(id, pattern) and all(getattr(record, name) == value for name, value in wanted.items())
    ]


def get_checkpoint(id: str) -> Checkpoint:
    """The record of this id. Raises `InputError` with the nearest ids when there is none."""
    records = {**_records(), **_in_package()}
    if id not in records:
        raise InputError(f"unknown checkpoint {id!r}{did_you_mean(id, records)}")
    return records[id]


DEFAULT_VIDEO = "uniformer_small.k400_16x8"  # the checkpoints a fresh install can fetch from the hub
DEFAULT_IMAGE = "uniformer_small.in1k"
BUNDLED = "uniformer_nano_video.camera_motion"  # the model in the package: what is left for videos without a network


def default_checkpoint(arch: str) -> str:
    """The id of the usual weights of an architecture: `DEFAULT_VIDEO` or `DEFAULT_IMAGE`, else the first published.

    Of a backbone for dense tasks, those of the classifier of images that such backbones start from.
    Raises `InputError` where none were published.
    """
    arch = arch.partition("_backbone")[0]
    for usual in (DEFAULT_VIDEO, DEFAULT_IMAGE):
        if get_checkpoint(usual).arch == arch:
            return usual
    records = {**_records(), **_in_package()}.values()
    found = [record.id for record in records if record.arch == arch and (record.file or record.path)]
    if not found:
        raise InputError(f"expected published weights of {arch}, found none")
    return found[0]


def published_at(name: str) -> Checkpoint | None:
    """The record of a file in one of the authors' hub repositories, 'owner/name/file', at any revision; None of any
    other name.

    Raises `InputError` for such a repository without a file, and for a file that no record knows.
    """
    owner, repo, file = [*name.partition("@")[0].split("/", 2), "", ""][:3]
    known = {r.file.name: r for r in _records().values() if r.file and r.file.hub_repo == f"{owner}/{repo}"}
    if known and file not in known:
        names = ", ".join(f"{owner}/{repo}/{file}" for file in known)
        raise InputError(f"{name}: expected one of the files that records name there: {names}")
    return known.get(file)


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: tensors, but no parameters


@cache
def _records() -> Mapping[str, Checkpoint]:
    text = files("uniformer").joinpath("assets", "checkpoints.toml").read_text(encoding="utf-8")
    table = parse_toml(text, "checkpoints.toml")
    return MappingProxyType({id: _record(id, row, table) for id, row in _rows(table)})


@cache
def _in_package() -> Mapping[str, Checkpoint]:
    folder = Path(str(files("uniformer"))) / "assets" / "weights"
    return MappingProxyType({path.stem: _record_of_file(path) for path in sorted(folder.glob("*.safetensors"))})


def _record_of_file(path: Path) -> Checkpoint:
    """What a file in our own form says of itself; its name, less the ending, is the id."""
    contract, header = _contract_in(path)
    sizes = {key: math.prod(tensor.shape) for key, tensor in header.tensors.items()}
    return Checkpoint(
        id=path.stem,
        arch=contract["arch"],
        task="video classification" if contract["config"]["ndim"] == 3 else "image classification",
        dataset=contract["dataset"],
        num_classes=contract["config"]["num_classes"],
        input=InputSpec(**contract["input"]),
        scores=contract["scores"],
        file=None,
        recipe="",
        licence=contract["licence"],
        params=sum(size for key, size in sizes.items() if not key.endswith(_BUFFERS)),
        notes=tuple(contract["notes"]),
        path=str(path),
    )


def _contract_in(path: Path) -> tuple[Any, Header]:
    """The contract of a file in our own form, as JSON has it, and the whole header."""
    header = read_header(path)
    if header is None:
        raise InputError(f"{path}: expected a model of this package, found another kind of file")
    return parse_json(header.metadata["uniformer"], str(path)), header


def _rows(table: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every checkpoint of the file: its own values over those of its group."""
    for group in table["group"]:
        shared = {key: value for key, value in group.items() if key not in ("results", "files", "notes", "note")}
        for id, result in group["results"].items():
            row = {**shared, **result}
            if "input" in shared or "input" in result:
                row["input"] = {**shared.get("input", {}), **result.get("input", {})}
            row["file"] = {**shared["file"], **group["files"][id]} if "file" in shared else dict(group["files"][id])
            notes = (group.get("note"), group.get("notes", {}).get(id))
            yield id, {**row, "notes": tuple(note for note in notes if note)}


def _record(id: str, row: dict[str, Any], table: Mapping[str, Any]) -> Checkpoint:
    arch, file = row["arch"], row.pop("file")
    options = dict(row.pop("input", {}))
    spec: Input | None = None
    if get_config(arch).head is not None:
        spec = with_options(dense_input(get_config(arch)), options)
    elif options:
        if options.get("sampling") == "sparse":  # TOML has no null to undo the default stride with
            options["stride"] = None
        usual = with_options(default_input(get_config(arch), options.pop("size")), options)
        row["macs_g"] = table["macs_g"][arch][f"{usual.frames}x{usual.size[0]}"]
        row["params"] = table["params"][arch][str(row["num_classes"])]
        spec = usual
    row["log_id"] = file.pop("log_id", None)
    converted_url = table["converted"].get(id)
    published = PublishedFile(**file, converted_url=converted_url) if "drive_id" in file else None
    return Checkpoint(id=id, licence=table["licence"], input=spec, file=published, **row)
