"""Makes the tables of docs/model-zoo.md anew from the records: python docs/make_model_zoo.py"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from uniformer.checkpoints.records import Checkpoint, get_checkpoint, list_checkpoints
from uniformer.config import InputSpec

BEGIN = "<!-- tables: made by docs/make_model_zoo.py from uniformer/assets/checkpoints.toml -->\n"
END = "<!-- end of tables -->\n"

Column = tuple[str, Callable[[Checkpoint], str]]


def updated(text: str) -> str:
    """The page with its tables made anew; the prose around them stays."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """A table per group of records, in the order of the file, and the list of conversions."""
    records = [get_checkpoint(id) for id in list_checkpoints()]
    groups: dict[str, list[Checkpoint]] = {}
    for record in records:
        groups.setdefault(_title(record), []).append(record)
    sections = []
    for title, rows in groups.items():
        columns = CLASSIFICATION if isinstance(rows[0].input, InputSpec) else DENSE
        sections.append(f"## {title}\n\n{_table(rows, columns)}{_notes(rows)}")
    return "\n".join([*sections, _conversions(records)])


def _title(record: Checkpoint) -> str:
    if not isinstance(record.input, InputSpec):
        return f"{record.dataset}, {record.task}"
    kind = ", token labeling" if record.config.token_labeling else ", light" if record.config.is_hourglass else ""
    return record.dataset + kind


def _table(records: Iterable[Checkpoint], columns: tuple[Column, ...]) -> str:
    rows = [[name for name, _ in columns], ["---"] * len(columns)]
    rows += [[cell(record) for _, cell in columns] for record in records]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _notes(records: list[Checkpoint]) -> str:
    common = (
        [note for note in records[0].notes if all(note in record.notes for record in records)] if records[1:] else []
    )
    lines = [f"- {note}" for note in common]
    lines += [f"- `{record.id}`: {note}" for record in records for note in record.notes if note not in common]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _conversions(records: list[Checkpoint]) -> str:
    lines = [
        f"- `{record.id}`: [{record.file.converted_url.rsplit('/', 1)[1]}]({record.file.converted_url})"
        for record in records
        if record.file and record.file.converted_url
    ]
    return (
        "## OpenMMLab's conversions\n\nOf the same weights; give the path of a downloaded one.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _input(record: Checkpoint) -> str:
    spec = record.input
    assert spec is not None
    if not spec.is_video:
        return str(spec.size[0])
    frames = f"{spec.frames} x {spec.stride}" if spec.sampling == "dense" else str(spec.frames)
    return f"{frames}, {spec.size[0]}" + (", BGR" if spec.channels == "bgr" else "")


def _views(record: Checkpoint) -> str:
    assert isinstance(record.input, InputSpec)
    return f"{record.input.clips} x {record.input.crops}"


def _printed(record: Checkpoint) -> str:
    if record.gflops is None:
        return ""
    where = (
        " all views" if record.gflops_cover == "all views" else f" at {record.gflops_at}" if record.gflops_at else ""
    )
    return f"{record.gflops:g}{where}"


def _scores(record: Checkpoint) -> str:
    return ", ".join(f"{name} {score:.1f}" for name, score in record.scores.items())


def _file(record: Checkpoint) -> str:
    file = record.file
    if file is None:
        return "not published"
    name = f"`{file.name}`" + ("" if file.name_verified else " ?")
    links = f"[Drive](https://drive.google.com/file/d/{file.drive_id}/view)"
    if file.hub_repo:
        links += f", [hub](https://huggingface.co/{file.hub_repo})" + ("" if file.hub_verified else " ?")
    return f"{name} {links}"


CLASSIFICATION: tuple[Column, ...] = (
    ("id", lambda record: f"`{record.id}`"),
    ("input", _input),
    ("views", _views),
    ("params", lambda record: f"{(record.params or 0) / 1e6:.2f}"),
    ("multiply-adds", lambda record: f"{record.macs_g:g}"),
    ("printed", _printed),
    ("top-1", lambda record: f"{record.scores['top1']:.1f}"),
    ("file", _file),
)
DENSE: tuple[Column, ...] = (
    ("id", lambda record: f"`{record.id}`"),
    ("input", lambda record: record.input_note),
    ("params, printed", lambda record: "" if record.params_m is None else f"{record.params_m:g}"),
    ("GFLOPs, printed", _printed),
    ("scores", _scores),
    ("file", _file),
)


if __name__ == "__main__":
    path = Path(__file__).with_name("model-zoo.md")
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
