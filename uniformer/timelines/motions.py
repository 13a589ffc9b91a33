"""The camera's motion in many clips, a row for each: for those who choose clips to train on.

table of clips -> shards of rows, shared out to the processes -> a timeline of each clip -> one row -> one table

A shard is written whole or not at all, so a run that was cut short goes on; each clip is answered alone, so neither
that nor the number of processes changes a byte. What is written is the table, with the columns `motion...` and `p_...`
added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.records import BUNDLED
from uniformer.checkpoints.told import NetworkTold
from uniformer.datasets.clips import ClipTable, Row, check_form, open_clips, write_clips
from uniformer.errors import InputError, first_line
from uniformer.inference.networks import form_to_take
from uniformer.inference.predictor import Predictor
from uniformer.support.distributed import process_group
from uniformer.support.files import atomic_path, changed_at, check_outputs, clear_away, write_whole
from uniformer.support.progress import OnProgress
from uniformer.support.resume import claim, read_claim
from uniformer.support.texts import parse_json, to_json_line
from uniformer.tasks.pictured import labels_of
from uniformer.tasks.task import class_names
from uniformer.tasks.vocabulary import VOCABULARIES, load_vocabulary
from uniformer.timelines.levels import Levels
from uniformer.timelines.timeline import CSV_FIELDS, Timeline, timeline, tracker_of

if TYPE_CHECKING:
    from typing import Unpack

SHARD = 64  # rows: what a kill costs a process at most
KEY_NAME = "motions.json"  # in the folder of shards: what they are of
NAMED = 20  # clips without an answer that are named at the end: there may be millions
STATIC = 0.3  # probability of standing from which a clip counts as static; see "What stands still" in the docs

#: Columns of every answer, by type; after them what else the longest row of the motion has in a timeline,
#: `motion_FIELD`, and the mean probability of each class, `p_CLASS`.
COLUMNS: dict[str, type] = {
    "motion": str,  # the one that holds for longest
    "motion_confidence": float,  # its mean over that time
    "motion_share": float,  # of the clip's time that it holds for
    "motion_static": bool,  # whether the camera stands, by a threshold of its own
    "motion_shots": int,
    "motion_seconds": float,  # the clip's length
    "motion_rows": str,  # JSON: the rows of the timeline
    "motion_notes": str,
    "motion_error": str,  # why there is no answer
}
EXPECTED = "motion_expected"  #: column: whether the motion is one that was asked for


@dataclass(frozen=True)
class Asked:
    """How clips are looked at, and what of them is expected."""

    expect: Collection[str] = ()  #: motions, in any spelling
    static: float = STATIC  #: probability from which the camera stands
    window: float | None = None  #: seconds; see `timeline`
    cuts: bool = True
    min_confidence: float | None = None  #: see `timeline`
    amounts: bool | None = None


@dataclass(frozen=True)
class Motions:
    """What came of many clips."""

    clips: int
    failed: int = 0  #: clips without an answer
    errors: dict[int, str] = field(default_factory=dict)  #: why a row, counted from 0, has none; of the first few
    unexpected: int = 0  #: clips with an answer that was not asked for
    note: str = ""  #: where there are no locks
    is_main: bool = True  #: whether this process is the one that speaks


class Answering:
    """A network of clips, and how it is asked for the motion of each.

    Raises `InputError` for a network of images, motions that it does not know, and a threshold that is none;
    `MissingExtra` where amounts are asked for without OpenCV.
    """

    def __init__(self, predictor: Predictor, asked: Asked):
        if predictor.spec is None or not predictor.spec.is_video:
            raise InputError("expected a network of clips for the motion in them, got one of images")
        self.predictor, self.asked = predictor, asked
        self.classes = predictor.task.words.names
        self.expected = {self.classes[place] for place in labels_of(asked.expect, self.classes)}
        still = {load_vocabulary(name).word("static") for name in VOCABULARIES} | {"static"}
        self.still = next((name for name in self.classes if name in still), None)
        if not 0 <= asked.static <= 1:
            raise InputError(f"expected a threshold for static in [0, 1], got {asked.static}")
        levels = Levels(predictor.contract, class_names(predictor.contract))
        self.measures = tracker_of(levels, asked.amounts)[0] is not None

    def columns(self, said: Row | None = None) -> dict[str, type]:
        """What a row gets, in order, by type; `said`, of a clip that has an answer, tells what else rows of timelines
        have here."""
        usual = COLUMNS | ({EXPECTED: bool} if self.expected else {})
        chances = {f"p_{name}": float for name in self.classes}
        more = {name: str if isinstance(value, str) else float for name, value in (said or {}).items()}
        return usual | {name: kind for name, kind in more.items() if name not in usual | chances} | chances

    def key(self) -> dict[str, str]:
        """What answers depend on, beside the clips."""
        asked, network = self.asked, self.predictor.network
        return {
            "weights": network.weights,
            "form": network.exact_form,
            "device": network.device_type,
            "precision": self.predictor.precision,
            "classes": ", ".join(self.classes),
            "window": str(asked.window),
            "cuts": str(asked.cuts),
            "min_confidence": str(asked.min_confidence),
            "amounts": str(self.measures),  # which joins the network's word
            "static": str(asked.static),
            "expect": ", ".join(sorted(self.expected)),
        }

    def row(self, table: ClipTable, row: Row, number: int) -> dict[str, Any]:
        """What is said of the clip of a row: an error where it cannot be read, whatever a decoder raised."""
        path, asked = "a clip", self.asked
        try:
            path, span = table.clip_of(row, number)
            found = timeline(
                path, self.predictor, window=asked.window, cuts=asked.cuts, span=span,
                min_confidence=asked.min_confidence, amounts=asked.amounts,
            )  # fmt: skip
            return self._said(found)
        except InputError as error:
            return {"motion_error": str(error)}
        except Exception as error:
            return {"motion_error": f"{path}: cannot be read: {type(error).__name__}: {first_line(error)}"}

    def _said(self, found: Timeline) -> dict[str, Any]:
        lengths = [row.end - row.start for row in found.rows]
        held = dict.fromkeys((row.motion for row in found.rows if row.motion), 0.0)  # for how long each motion holds
        sure = dict(held)
        for row, length in zip(found.rows, lengths, strict=True):
            if row.motion:
                held[row.motion] += length
                sure[row.motion] += length * (row.confidence or 0.0)
        rows: list[dict[str, Any]] = parse_json(found.to_json(), "a timeline")["rows"]
        said: dict[str, Any] = {
            "motion": "",
            "motion_shots": found.rows[-1].shot,
            "motion_seconds": round(sum(lengths), 3),
            "motion_rows": json.dumps(rows, ensure_ascii=False),
            "motion_notes": "; ".join(found.notes),
        }
        answers = set[str]()
        if held:
            best = max(held, key=held.__getitem__)
            longest = max((i for i, row in enumerate(found.rows) if row.motion == best), key=lengths.__getitem__)
            p = np.mean([window.probabilities for window in found.windows], axis=0)
            chances = {name: round(float(x), 4) for name, x in zip(self.classes, p, strict=True)}
            stands = None if self.still is None else chances[self.still] >= self.asked.static
            answers = {best} - {self.still} | ({self.still} if stands else set())  # type: ignore[arg-type]
            said |= {
                "motion": best,
                "motion_confidence": round(sure[best] / held[best], 4),
                "motion_share": round(held[best] / sum(lengths), 4),
                "motion_static": stands,
            }
            said |= {f"motion_{name}": value for name, value in rows[longest].items() if name not in CSV_FIELDS}
            said |= {f"p_{name}": chance for name, chance in chances.items()}
        return said | ({EXPECTED: bool(answers & self.expected)} if self.expected else {})


def find_motions(
    clips: ClipTable | str | os.PathLike[str],
    out: str | os.PathLike[str],
    checkpoint: CheckpointSource = BUNDLED,
    *,
    root: str | os.PathLike[str] | None = None,
    asked: Asked | None = None,
    vocabulary: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: OnProgress | None = None,
    **told: Unpack[NetworkTold],
) -> Motions:
    """The motion of every clip of a table, into `out`: .csv, .jsonl or .parquet, with the table's own columns first.

        find_motions("clips.csv", "motions.parquet", asked=Asked(expect=["push_in"]))

    Unfinished work lies in a folder beside it, `OUT.parts`, and the same call goes on with it; in the end that goes.
    Clips that changed since are answered again. Within torchrun's processes each takes its share: the folder must be
    one for all. Raises `InputError` where the network, the table and what is asked do not fit, where the folder is of
    other work, and where `out` is there (without `overwrite`) or is an input.
    """
    out, folder = Path(out), Path(f"{os.fspath(out)}.parts")
    check_form(out)
    table = clips if isinstance(clips, ClipTable) else open_clips(Path(clips), root)
    with process_group(device) as group:
        inputs = (table.name, checkpoint)
        group.broadcast(lambda: check_outputs([out], inputs, overwrite=overwrite))
        form: Any = form_to_take(None, group.broadcast(lambda: (read_claim(folder / KEY_NAME) or {}).get("form")))
        predictor = Predictor(checkpoint, device=str(group.device), compute=form, vocabulary=vocabulary, **told)
        answering = Answering(predictor, asked or Asked())
        if taken := next((name for name in table.columns if name in answering.columns()), None):
            raise InputError(f"{table.name}: expected no column {taken}: it is one of those that are added")
        with group.alone_in(folder) as note:
            count = group.broadcast(table.check)
            work = _Work(folder, table, answering, count)
            todo = group.broadcast(work.unfinished)
            work.do(todo[group.rank :: group.size], progress if group.is_main else None)
            group.all_gather(None)  # all are done
            found = group.broadcast(lambda: work.finish(out))
        if group.is_main:
            work.clear()
        return replace(found, note=note, is_main=group.is_main)


@dataclass(frozen=True)
class _Work:
    """The shards of one table in a folder."""

    folder: Path
    table: ClipTable
    answering: Answering
    count: int  #: rows

    def unfinished(self) -> list[int]:
        """The shards that are not there, or whose clips changed since. Raises `InputError` for other work's folder."""
        key = {"clips": self.table.key, "root": self.table.root, **self.answering.key()}
        claim(self.folder / KEY_NAME, key, "motions")
        left = set(range(-(-self.count // SHARD)))
        for shard, rows in self._shards({n for n in left if self._path(n).is_file()}):
            written = self._path(shard).stat().st_mtime_ns
            if all(self._changed_at(row, number) < written for number, row in rows):
                left.discard(shard)
        return sorted(left)

    def do(self, shards: Sequence[int], progress: OnProgress | None) -> None:
        """Answer and write some shards, in order."""
        done = 0
        for shard, rows in self._shards(set(shards)):
            lines = []
            for number, row in rows:
                lines.append(to_json_line(self.answering.row(self.table, row, number)))
                done += 1
                if progress is not None:
                    progress(done, min(len(shards) * SHARD, self.count))
            write_whole(self._path(shard), "".join(lines), "surrogateescape")

    def finish(self, out: Path) -> Motions:
        """One table of all shards."""
        errors, failed, unexpected = dict[int, str](), 0, 0

        def rows() -> Iterator[Row]:
            nonlocal failed, unexpected
            for number, (row, said) in enumerate(zip(self.table.read(), self._answers(), strict=True)):
                if said.get("motion_error"):
                    failed += 1
                    if failed <= NAMED:
                        errors[number] = said["motion_error"]
                elif said.get(EXPECTED) is False:
                    unexpected += 1
                yield {**row, **said}

        columns = self.answering.columns(next((said for said in self._answers() if said.get("motion")), None))
        with atomic_path(out) as temporary:
            write_clips(temporary, out.suffix.lower(), self.table, columns, rows())
        return Motions(self.count, failed, errors, unexpected)

    def clear(self) -> None:
        """Remove what was written here, what it is of at last, and the folder where nothing else is in it."""
        written = [*map(self._path, range(-(-self.count // SHARD))), self.folder / KEY_NAME]
        with suppress(OSError):
            for path in written:
                path.unlink(missing_ok=True)
            clear_away(written)
            self.folder.rmdir()

    def _path(self, shard: int) -> Path:
        return self.folder / f"motions-{shard:06}.jsonl"

    def _shards(self, wanted: set[int]) -> Iterator[tuple[int, list[tuple[int, Row]]]]:
        """Some shards, in order, with the numbers and contents of their rows; the table is read once."""
        if not wanted:
            return
        for shard, rows in groupby(enumerate(self.table.read()), key=lambda pair: pair[0] // SHARD):
            if shard in wanted:
                yield shard, list(rows)

    def _answers(self) -> Iterator[dict[str, Any]]:
        for shard in range(-(-self.count // SHARD)):
            path = self._path(shard)
            with open(path, encoding="utf-8", errors="surrogateescape") as f:
                yield from (parse_json(line, str(path)) for line in f)

    def _changed_at(self, row: Row, number: int) -> int:
        try:
            return changed_at(self.table.clip_of(row, number)[0])
        except InputError:
            return 0
