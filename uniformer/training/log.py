"""What a run says while it goes on: lines or a bar, metrics.csv, unreadable.csv, TensorBoard. The main process's."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from uniformer.datasets.annotated import AnnotatedSet
from uniformer.datasets.manifest import Manifest
from uniformer.errors import InputError, load_extra, visible
from uniformer.reports.training import write_training_page
from uniformer.support.csv_text import csv_line, plain_cell
from uniformer.support.files import as_given, write_whole

STEP_METRICS = ("epoch", "step", "lr", "loss", "grad_norm", "samples_per_s", "waiting", "epoch_loss")
METRICS, UNREADABLE = "metrics.csv", "unreadable.csv"  #: in a run's folder
UNREADABLE_COLUMNS = ("path", "reason")


class Log:
    """Lines on standard output; at a terminal also a bar on standard error. `quiet` in all but the main process.

    Files grow by whole lines. After a restart, rows beyond the step that the run goes on from are taken out again.
    """

    def __init__(self, folder: Path, *, quiet: bool = False, tensorboard: bool = False):
        self._folder, self._quiet, self._stack = folder, quiet, ExitStack()
        self._bar: Any = None
        self._board_type = _tensorboard() if tensorboard and not quiet else None
        self._board: Any = None
        self._unreadable: set[str] = set()
        self.measures: tuple[str, ...] = ()  #: of a validation: columns for the weights and their average

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._board is not None:
            self._board.close()

    def say(self, line: str) -> None:
        if self._quiet:
            return
        line = visible(line, keep="\n")
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def notes(self, note: str) -> None:
        """Say a note, if it is one."""
        if note:
            self.say(f"note: {note}")

    # ---- the bar

    def start(self, total: int, done: int) -> None:
        """Show a bar of `total` steps where standard error is a terminal."""
        if self._quiet or not sys.stderr.isatty() or self._bar is not None:
            return
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._bar = self._stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        self._task = self._bar.add_task("steps", total=total, completed=done, now="")

    def step(self, done: int, now: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, now=now)

    @property
    def has_bar(self) -> bool:
        return self._bar is not None

    # ---- files

    @property
    def _columns(self) -> tuple[str, ...]:
        return STEP_METRICS + tuple(f"{whose}_{name}" for whose in ("val", "ema") for name in self.measures)

    def rewind(self, step: int) -> None:
        """Keep the rows of metrics.csv up to `step`, and what unreadable.csv lists."""
        if self._quiet:
            return
        rows = [r for r in _rows(self._folder / METRICS, self._columns) if int(r["step"]) <= step]
        _rewrite(self._folder / METRICS, self._columns, rows)
        listed = {r["path"]: r for r in _rows(self._folder / UNREADABLE, UNREADABLE_COLUMNS)}
        if listed:
            _rewrite(self._folder / UNREADABLE, UNREADABLE_COLUMNS, listed.values())
        self._unreadable = set(listed)

    def metrics(self, **row: float) -> None:
        """Add a row to metrics.csv, and to TensorBoard."""
        if self._quiet:
            return
        _append(self._folder / METRICS, self._columns, row)
        if self._board is None and self._board_type is not None:
            self._board = self._board_type(str(self._folder / "tensorboard"))  # which makes the folder
        if self._board is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self._board.add_scalar(name.replace("val_", "val/").replace("ema_", "ema/"), value, row["step"])

    def draw(self, title: str) -> None:
        """The page and the picture of what metrics.csv has by now."""
        if not self._quiet:
            rows = _rows(self._folder / METRICS, self._columns)
            write_training_page(self._folder, rows, self.measures, title)

    def unreadable(self, files: Iterable[tuple[str, str]], what_then: str = "another sample stands in") -> None:
        """List files (path, reason) in unreadable.csv, each once."""
        for path, reason in files:
            if not self._quiet and path not in self._unreadable:
                self._unreadable.add(path)
                _append(self._folder / UNREADABLE, UNREADABLE_COLUMNS, {"path": path, "reason": reason})
                self.say(f"unreadable, {what_then}: {as_given(reason)}")

    def check_unreadable(self, bad: int, count: int, samples: str, limit: float) -> None:
        """Raises `InputError` where more than the share `limit` of `count` samples could not be read, or none."""
        if bad > limit * count or bad == count > 0:
            allowed = f"more than loop.max_bad_fraction={limit:g}" if bad > limit * count else "which leaves none"
            raise InputError(
                f"{bad} of {count} {samples} could not be read, {allowed}: see {self._folder / UNREADABLE}"
            )

    def check_read(
        self,
        errors: Mapping[int, str],
        part: Manifest | AnnotatedSet,
        samples: str,
        limit: float,
        what_then: str = "left out",
    ) -> None:
        """List the rows of `part` that could not be read. Raises `InputError` where they are too many."""
        self.unreadable(((part.path(row), why) for row, why in errors.items()), what_then)
        self.check_unreadable(len(errors), len(part), samples, limit)


def time_left(seconds_per_step: float, steps: int) -> str:
    """'2:05:10' or '1 d 3:00:00'."""
    days, seconds = divmod(round(seconds_per_step * steps), 86400)
    clock = time.strftime("%H:%M:%S", time.gmtime(seconds)).removeprefix("0")
    return f"{days} d {clock}" if days else clock


def _tensorboard() -> Any:
    purpose = "writing TensorBoard logs"
    return load_extra("torch.utils.tensorboard", "tensorboard", "tensorboard", purpose).SummaryWriter


def _append(path: Path, names: tuple[str, ...], row: Mapping[str, object]) -> None:
    new = not path.exists()
    with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as f:
        f.write((csv_line(names) if new else "") + csv_line(row.get(name, "") for name in names))


def _rows(path: Path, names: tuple[str, ...]) -> list[dict[str, str]]:
    """The whole rows of a file: a kill may have cut the last one short."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as f:
        text = f.read()
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    return [dict(zip(names, map(plain_cell, line), strict=True)) for line in lines[1:] if len(line) == len(names)]


def _rewrite(path: Path, names: tuple[str, ...], rows: Iterable[Mapping[str, str]]) -> None:
    text = csv_line(names) + "".join(csv_line(row[name] for name in names) for row in rows)
    write_whole(path, text, "surrogateescape")
