"""CSV that we write: nothing in it runs in a spreadsheet, numbers stay numbers, and it reads back as it was."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from tests.source_files import rows, touch
from uniformer.datasets.manifest import Item, Manifest
from uniformer.datasets.open import open_dataset
from uniformer.datasets.prepare import write_list
from uniformer.inference.results import Answers
from uniformer.support.csv_text import csv_line, plain_cell
from uniformer.tasks.classification import Label, Prediction
from uniformer.tasks.task import Failure
from uniformer.timelines.timeline import Segment, Timeline
from uniformer.training.log import Log

RUNS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''+", "=", "-", "+", "-.mp4"]
INERT = ["a", "", "'", "'a", "a=1", " =1", "-1", "+2.5", "-1e-5", "-0", "\N{MINUS SIGN}1"]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", RUNS + INERT)
@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_text_comes_back_and_runs_nowhere(text: str, separator: str) -> None:
    line = csv_line([text, "x"], separator)
    ((cell, _),) = csv.reader(io.StringIO(line, newline=""), delimiter=separator)
    assert plain_cell(cell) == text
    assert (cell != text) == (text in RUNS)
    assert not cell.startswith(("=", "@", "\t", "\r"))


def test_numbers_stay_numbers() -> None:
    assert csv_line([-1, -0.5, -1e-9, None, np.float64(-2), True]) == "-1,-0.5,-1e-09,,-2.0,True\n"


def assert_inert(text: str) -> None:
    assert not [cell for line in cells(text) for cell in line if cell[:1] in ("=", "+", "@", "\t", "\r")]
    assert not [cell for line in cells(text) for cell in line if cell[:1] == "-" and not cell[1:2].isdigit()]


def test_a_written_list_reads_back(tmp_path: Path) -> None:
    names = ["=1.mp4", "+a.mp4", "-b.mp4", "@c.mp4", "\td.mp4", "'=e.mp4", "f.mp4"]
    touch(tmp_path, *names)
    items = [Item(name, (i % 2,), group=f"=g{i % 3}") for i, name in enumerate(names)]
    manifest = Manifest.from_items(items, kind="video", classes=("=x", "-y"), root=tmp_path)
    write_list(manifest, tmp_path / "list.csv")
    assert_inert((tmp_path / "list.csv").read_bytes().decode())
    again = open_dataset(tmp_path / "list.csv")
    assert rows(again) == rows(manifest)
    assert [item.group for item in again] == [item.group for item in manifest]


def test_answers_are_inert_and_their_sources_come_back() -> None:
    answers = Answers("csv", "abc", Prediction)
    labels = (Label("=class", 0.5, 0), Label("-1", 0.25, 1))
    said = [Prediction(source=name, labels=labels, probabilities=np.zeros(2, np.float32)) for name in RUNS]
    data = answers.header + b"".join(map(answers.encode, [*said, Failure("=a", "=a: no")]))
    assert_inert(data.decode())
    assert [source for source, _ in answers.decode(data, Path("x.csv"))] == RUNS


def test_timelines_are_inert() -> None:
    row = Segment(shot=1, start=0.0, end=1.0, motion="=turn", confidence=0.5)
    timeline = Timeline("a.mp4", "c", ("=turn",), 1.0, 25.0, (row,), ())
    assert_inert(timeline.to_csv())
    assert "'=turn" in timeline.to_csv()


def test_the_list_of_unreadable_files_is_inert_and_gone_on_with(tmp_path: Path) -> None:
    for _ in range(2):
        with Log(tmp_path) as log:
            log.rewind(0)
            log.unreadable([(name, f"{name}: no") for name in ("=a", "-b", "c")])
        text = (tmp_path / "unreadable.csv").read_text()
        assert cells(text) == [["path", "reason"], ["'=a", "'=a: no"], ["'-b", "'-b: no"], ["c", "c: no"]]
