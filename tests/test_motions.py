"""`uniformer motion`: tables of clips in and out, resumed after a kill, by several processes; clips as expected."""

from __future__ import annotations

import csv
import datetime
import json
import re
import shutil
import sys
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tests.films import pan, shake, write
from tests.test_vocabulary import save_namer
from tests.tiny import IMAGES, refused, save_tiny
from tests.training_processes import ended, kill, places, said, start_command
from uniformer import Predictor, timeline
from uniformer.camera_motion.classes import CLASSES
from uniformer.checkpoints.records import BUNDLED
from uniformer.cli.main import main
from uniformer.datasets.clips import clips_of_paths, open_clips, write_clips
from uniformer.timelines import motions
from uniformer.timelines.motions import Answering, Asked
from uniformer.timelines.timeline import CSV_FIELDS

ODD = {"a": 'turns, "fast"', "b b": "=1+1", "broken": "line\nbreak", "none": "", "short": "ä \u2028"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips, one of them broken and one too short to tell."""
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "a.mp4", pan(0, 30))
    write(folder / "b b.mp4", chain(pan(1, 48), shake(0, 30, 2)))
    write(folder / "short.mp4", pan(2, 3))
    (folder / "broken.mp4").write_bytes(b"no film" * 20)
    return folder


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_namer(tmp_path_factory.mktemp("namer"))


@pytest.fixture
def table(clips: Path, tmp_path: Path) -> Path:
    """A table elsewhere, of these clips and of one that is not there."""
    path = tmp_path / "clips.csv"
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["Video", "caption", "fps"])
        writer.writerows([clips / f"{name}.mp4", text, 24] for name, text in ODD.items())
    return path


def motion(table: Path | str, net: Path, *more: object) -> int:
    return main(["motion", str(table), "--checkpoint", str(net), "--device", "cpu", "--quiet", *map(str, more)])


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


# ---- what is written -------------------------------------------------------------------------------------------------


def test_rows_are_what_timelines_say_beside_the_tables_own(
    table: Path, clips: Path, namer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / f"out{form}" for form in (".csv", ".jsonl", ".parquet")]
    for out in outs:
        assert motion(table, namer, "--out", out) == 1  # two clips failed
        assert not Path(f"{out}.parts").exists()
    told = capsys.readouterr()
    assert told.err.count("2 of 5 clips failed") == 3
    assert "row 3: " in told.err
    as_csv, as_json, as_parquet = map(read, outs)
    assert list(as_csv[0]) == list(as_json[0]) == list(as_parquet[0])
    assert [row["caption"] for row in as_json] == [row["caption"] for row in as_parquet] == list(ODD.values())
    assert as_csv[1]["caption"] == "'=1+1"  # which a spreadsheet takes for a text
    assert {row["fps"] for row in as_json} == {"24"}  # as the file has it
    predictor = Predictor(namer, device="cpu")
    for number, name in enumerate(ODD):
        row = as_json[number]
        assert {key: row[key] for key in row if key != "fps"} == {
            key: as_parquet[number][key] for key in row if key != "fps"
        }
        assert as_csv[number]["p_static"] == ("" if row["p_static"] is None else str(row["p_static"]))
        if name in ("broken", "none"):
            assert str(clips / f"{name}.mp4") in row["motion_error"]
            assert (row["motion"], row["p_static"]) == (None, None)
            continue
        found = timeline(clips / f"{name}.mp4", predictor)
        held = {n: sum(r.end - r.start for r in found.rows if r.motion == n) for n in {r.motion for r in found.rows}}
        assert row["motion_error"] is None
        assert held[row["motion"]] == max(held.values())
        assert (row["motion_shots"], row["motion_seconds"]) == (found.rows[-1].shot, round(sum(held.values()), 3))
        assert json.loads(row["motion_rows"]) == json.loads(found.to_json())["rows"]
        if found.windows:
            assert row["motion_share"] == pytest.approx(max(held.values()) / sum(held.values()), abs=1e-4)
            p = np.mean([window.probabilities for window in found.windows], axis=0)
            assert [row[f"p_{n}"] for n in CLASSES] == [round(float(x), 4) for x in p]
        else:
            assert "too short to tell" in row["motion_notes"]


def test_direction_kind_doubt_and_amounts_are_those_of_the_motions_longest_row(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, out = clips / "b b.mp4", tmp_path / "out.parquet"
    assert motion(film, Path(BUNDLED), "--out", out, "--min-confidence", 0.9) == 0
    (row,) = read(out)
    found = timeline(film, min_confidence=0.9)
    mine = [r for r in found.rows if r.motion == row["motion"]]
    longest = max(mine, key=lambda r: r.end - r.start)
    more = [field for field in found.fields if field not in CSV_FIELDS]
    assert {"direction", "kind", "unsure", "widths", "degrees"} <= set(more)
    assert [row[f"motion_{field}"] for field in more] == list(longest.values(more))
    assert motion(film, Path(BUNDLED), "--out", tmp_path / "alone.csv", "--no-amounts") == 0
    assert "motion_widths" not in read(tmp_path / "alone.csv")[0]
    predictor = Predictor(BUNDLED, device="cpu")
    measured = Answering(predictor, Asked()).key()
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert Answering(predictor, Asked()).key() != measured  # rows that were measured are not mixed with others
    assert Answering(predictor, Asked(amounts=False)).key() == Answering(predictor, Asked()).key()
    with refused(r"uniformer\[motion\]"):
        Answering(predictor, Asked(amounts=True))


def test_parquet_keeps_its_types_and_parts_of_films_are_meant(namer: Path, clips: Path, tmp_path: Path) -> None:
    when = datetime.datetime(2024, 2, 29, 12, 30)
    columns = {
        "clip": pyarrow.array([str(clips / "b b.mp4")] * 3),
        "start_time": pyarrow.array([0.0, 2.0, 3.0], pyarrow.float32()),
        "end_time": pyarrow.array([2.0, 3.25, 2.0], pyarrow.float32()),
        "tags": pyarrow.array([["x", "y"], None, []], pyarrow.list_(pyarrow.string())),
        "added": pyarrow.array([when, None, when], pyarrow.timestamp("us")),
        "id": pyarrow.array([2**60, 1, 2], pyarrow.int64()),
    }
    source = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table(columns), source)
    for out in (tmp_path / "out.parquet", tmp_path / "out.csv"):
        assert motion(source, namer, "--out", out) == 1
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.select(list(columns)).equals(pyarrow.table(columns))
    first, second, third = written.to_pylist()
    whole = timeline(clips / "b b.mp4", Predictor(namer, device="cpu"), span=(0.0, 2.0))
    assert json.loads(first["motion_rows"]) == json.loads(whole.to_json())["rows"]
    assert (first["motion_shots"], second["motion_seconds"]) == (1, 1.25)
    assert "expected a part with 0 <= start < end seconds, got 3.0 to 2.0" in third["motion_error"]
    assert [row["tags"] for row in read(tmp_path / "out.csv")] == ['["x", "y"]', "", "[]"]
    assert read(tmp_path / "out.csv")[0]["added"] == str(when)


def test_json_of_any_shape_and_a_root(namer: Path, clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"path": "a.mp4", "meta": {"k": [1]}}\n{"n": 3, "path": "a.mp4"}\n{"n": 4}\n')
    out = tmp_path / "out.parquet"
    assert motion(source, namer, "--out", out, "--root", clips) == 1
    rows = read(out)
    assert [(row["path"], row["meta"], row["n"]) for row in rows] == [
        ("a.mp4", '{"k": [1]}', None), ("a.mp4", None, "3"), (None, None, "4"),
    ]  # fmt: skip
    assert rows[0]["motion"] == rows[1]["motion"]
    assert rows[2]["motion_error"].endswith("row 3: expected the path of a file, found none")


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    source, many = tmp_path / "in.csv", 15_000
    source.write_text("path,caption\n" + "".join(f"{n}.mp4,{'word ' * 20}\n" for n in range(many)))
    table = open_clips(source)
    tracemalloc.start()
    try:
        write_clips(tmp_path / "out", ".csv", table, {"motion": str}, ({**row, "motion": "x"} for row in table.read()))
        assert tracemalloc.get_traced_memory()[1] < 400_000  # the table has 1.7 MB
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out").read_bytes().count(b"\n") == many + 1


# ---- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(clips: Path, tmp_path: Path) -> Path:
    """More rows than a shard has."""
    path = tmp_path / "many.csv"
    names = ["broken", "short", "short"] * 30
    path.write_text("path,n\n" + "".join(f"{clips / name}.mp4,{n}\n" for n, name in enumerate(names)))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_after_a_kill_and_by_two_processes_the_bytes_are_the_same(many: Path, namer: Path, tmp_path: Path) -> None:
    whole, killed, shared = (tmp_path / name for name in ("whole.csv", "killed.csv", "shared.csv"))
    assert motion(many, namer, "--out", whole) == 1
    command = ["motion", str(many), "--checkpoint", str(namer), "--device", "cpu", "--out"]
    (folder := tmp_path / "here").mkdir()
    first = Path(f"{killed}.parts", "motions-000000.jsonl")
    assert kill(start_command([*command, str(killed)], folder), first.exists), said(folder)
    assert not killed.exists()
    assert motion(many, namer, "--out", killed, "--static-from", 0.9) == 2  # other work
    assert motion(many, namer, "--out", killed) == 1
    assert killed.read_bytes() == whole.read_bytes()
    children = [start_command([*command, str(shared)], folder, **place) for place in places(2)]
    assert ended(*children) == 1, said(folder)
    assert shared.read_bytes() == whole.read_bytes()
    assert "30 of 90 clips failed" in said(folder)
    assert "failed" not in said(folder, 1)


def test_finished_shards_stay_unless_their_clips_change(
    many: Path, namer: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motions, "SHARD", 30)
    own = tmp_path / "own"
    own.mkdir()
    names = [own / f"{n}.mp4" for n in range(90)]
    for name in names:
        shutil.copy(clips / "short.mp4", name)
    lines, out = many.read_text().splitlines()[:1], tmp_path / "out.jsonl"
    many.write_text("\n".join(lines + [f"{name},{n}" for n, name in enumerate(names)]) + "\n")

    class Stop(Exception):
        pass

    def stop_at(last: int) -> Any:
        def stop(done: int, _: int) -> None:
            if done == last:
                raise Stop

        return stop

    with pytest.raises(Stop):
        motions.find_motions(many, out, namer, device="cpu", progress=stop_at(75))
    shards = sorted(Path(f"{out}.parts").glob("motions-*.jsonl"))
    assert len(shards) == 2
    names[35].unlink()
    write(names[35], pan(3, 30))  # of the second shard
    seen: list[int] = []
    found = motions.find_motions(many, out, namer, device="cpu", progress=lambda done, _: seen.append(done))
    assert (len(seen), found.clips, found.failed) == (60, 90, 0)
    assert [row["motion"] != "" for row in read(out)] == [n == 35 for n in range(90)]


# ---- as expected -----------------------------------------------------------------------------------------------------


def test_a_shell_chooses_clips_by_their_motion(
    clips: Path, namer: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one = timeline(clips / "a.mp4", Predictor(namer, device="cpu")).rows[0].motion
    other = next(name for name in CLASSES if name != one)
    spelt = one.replace("_", "-").title()
    assert motion(clips / "a.mp4", namer, "--expect", other, spelt) == 0
    assert capsys.readouterr().out == f"{clips / 'a.mp4'}\n"
    assert motion(clips / "a.mp4", namer, "--expect", other, "--static-from", 1) == 1
    assert capsys.readouterr() == ("", "")
    assert motion(clips / "broken.mp4", namer, "--expect", one) == 2
    assert "expected a video" in capsys.readouterr().err
    assert motion(clips / "a.mp4", namer, "--expect", "dolly-zoom") == 2
    assert "expected classes of the checkpoint, got 'dolly-zoom'" in capsys.readouterr().err
    assert motion(clips, namer, "--expect", *CLASSES) == 1  # one cannot be read, of one nothing can be told
    told = capsys.readouterr()
    assert told.out.splitlines() == [str(clips / "a.mp4"), str(clips / "b b.mp4")]
    assert "1 of 4 clips failed" in told.err
    out = tmp_path / "out.jsonl"
    assert motion(clips / "a.mp4", namer, "--out", out, "--expect", one, "--vocabulary", "plain") == 2
    assert motion(clips / "a.mp4", namer, "--out", out, "--vocabulary", "plain", "--expect", "left") in (0, 1)
    (row,) = read(out)
    assert row["motion_expected"] == (row["motion"] == "left")
    assert "p_still" in row
    assert "p_pan_left" not in row


def test_standing_is_told_by_a_threshold_of_its_own(clips: Path, namer: Path) -> None:
    predictor = Predictor(namer, device="cpu", vocabulary="camerabench")
    table, (row,) = clips_of_paths([str(clips / "a.mp4")]), clips_of_paths([str(clips / "a.mp4")]).read()

    def said_of(threshold: float) -> dict[str, Any]:
        return Answering(predictor, Asked(("no motion",), threshold)).row(table, row, 0)

    p = said_of(0.0)["p_no-motion"]
    assert said_of(0.0)["motion"] != "no-motion"
    for threshold, stands in ((0.0, True), (p, True), (p + 1e-4, False), (1.0, False)):
        assert (said_of(threshold)["motion_static"], said_of(threshold)["motion_expected"]) == (stands, stands)
    with refused(r"expected a threshold for static in \[0, 1\], got 1.5"):
        Answering(predictor, Asked(static=1.5))


def test_lines_for_people(clips: Path, namer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert motion(clips, namer) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "2 shots" in lines[1]
    assert lines[2].endswith("(too short to tell)")


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_size,caption\n1,x\n", "expected a column of files, such as path, found file_size, caption"),
        ("path,motion\na.mp4,x\n", "expected no column motion: it is one of those that are added"),
        ("path,path\na.mp4,x\n", "expected each column once"),
        ("path,n\na.mp4\n", "line 2: expected 2 fields, found 1"),
        ("path,frame_start,frame_end\na.mp4,1,2\n", "expected the part of a file as columns start and end"),
        ("", "found an empty file"),
        ("path\n", "found no row"),
        ("path\nmissing.mp4\ngone.mp4\n", r"expected files that begin in .* \(--root\), found none of the first 2"),
    ],
)
def test_tables_that_are_refused(
    text: str, message: str, clips: Path, namer: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "a.mp4").write_bytes((clips / "a.mp4").read_bytes())
    (tmp_path / "in.csv").write_text(text)
    assert motion(tmp_path / "in.csv", namer, "--out", tmp_path / "out.csv") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out.csv").exists()


def test_an_argument_with_nothing_behind_it_does_not_end_the_others(
    clips: Path, namer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    nothing = [str(tmp_path / "none*.mp4"), str(tmp_path / "empty")]
    film = str(clips / "a.mp4")
    net = ("--checkpoint", str(namer), "--quiet")
    assert main(["motion", nothing[0], film, nothing[1], *net]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{film}: ")
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["uniformer", nothing[0]], ["uniformer", nothing[1]], ["2 of 3 clips failed"]
    ]  # fmt: skip
    assert main(["motion", nothing[0], film, *net, "--out", str(tmp_path / "out.jsonl")]) == 1
    assert [bool(row.get("motion_error")) for row in read(tmp_path / "out.jsonl")] == [True, False]
    capsys.readouterr()
    assert motion(nothing[0], namer) == 2
    assert capsys.readouterr().err == f"uniformer: nothing matches {nothing[0]}\n"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_need_not_be_utf8(ending: str, clips: Path, namer: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(f"path,caf\xe9,cafe\n{clips / 'a.mp4'},\xe9,e\n".encode("latin-1"))
    assert motion(tmp_path / "in.csv", namer, "--out", tmp_path / f"out.{ending}") == 0
    if ending == "parquet":
        (row,) = read(tmp_path / "out.parquet")
        assert (row["caf\\udce9"], row["cafe"]) == ("?", "e")
    else:
        assert "caf\xe9".encode("latin-1") in (tmp_path / f"out.{ending}").read_bytes()


def test_nothing_that_is_there_is_lost(table: Path, clips: Path, namer: Path, tmp_path: Path, capsys: Any) -> None:
    out, before = tmp_path / "out.csv", table.read_bytes()
    assert motion(table, namer, "--out", table, "--overwrite") == 2
    assert "it would replace the input" in capsys.readouterr().err
    assert table.read_bytes() == before
    out.write_text("mine")
    assert motion(table, namer, "--out", out) == 2
    assert motion(table, namer, "--out", tmp_path / "out.xlsx") == 2
    assert "expected a name that ends in .csv, .jsonl, .parquet" in capsys.readouterr().err
    assert motion(table, namer, "--out", out, "--overwrite") == 1
    assert out.read_text().startswith("Video,caption,fps,motion,")
    (tmp_path / "kept.csv.parts").mkdir()
    (tmp_path / "kept.csv.parts" / "notes.txt").write_text("mine")
    assert motion(table, namer, "--out", tmp_path / "kept.csv") == 1
    assert [path.name for path in (tmp_path / "kept.csv.parts").iterdir()] == ["notes.txt"]
    shutil.rmtree(tmp_path / "kept.csv.parts")
    images = save_tiny(tmp_path / "images.safetensors", IMAGES)
    assert motion(table, images, "--out", tmp_path / "other.csv") == 2
    assert "expected a network of clips" in capsys.readouterr().err
    assert main(["motion", str(table), str(clips / "a.mp4")]) == 2
    assert "expected one table of clips, or files alone" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parts"))
