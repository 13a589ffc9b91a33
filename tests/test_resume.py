"""Going on with the results of a run that was killed, by every verb that does; and `uniformer predict --resume`."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import COMMAND, Cli, one_line, predict
from tests.patience import wait_until
from tests.tiny import IMAGES, save_tiny
from tests.training_processes import ended, said, start_command
from uniformer.inference.results import Answers
from uniformer.support.files import changed_at
from uniformer.support.resume import Records
from uniformer.tasks.detections import Detections
from uniformer.tasks.task import Failure


def results(path: Path) -> dict[str, int]:
    """Rows per source of a whole, readable file of results."""
    text, count = path.read_text(), {}
    assert text.endswith("\n")
    lines = text.splitlines()
    if path.suffix == ".csv":
        assert lines.count(lines[0]) == 1
        rows = [row["source"] for row in csv.DictReader(lines)]
    else:
        rows = [json.loads(line)["source"] for line in lines]
    for source in rows:
        count[source] = count.get(source, 0) + 1
    return count


# ---- every verb that goes on -----------------------------------------------------------------------------------------

CLIPS = 120
VERBS = {  # arguments, and what is compared of the output; other forms may be computed otherwise by another process.
    # Evaluation, features and training are killed by test_kill_anywhere.py.
    "predict to jsonl": ("predict {many} --checkpoint {net} --compute plain --resume --out {out}.jsonl", "out.jsonl"),
    "predict to csv": ("predict {many} --checkpoint {net} --compute plain --resume --out {out}.csv", "out.csv"),
    "scan": ("data scan {listed} --workers 0 --out {out}", "out/*.manifest"),
    "prepare": ("data prepare {listed} --workers 0 --short-side 32 --out {out}", "out/*.mp4"),
}


@pytest.fixture(scope="module")
def listed(many: Path) -> Path:
    (many / "list.csv").write_text("path,label\n" + "".join(f"{n:03}.mp4,{n % 7}\n" for n in range(CLIPS)))
    return many / "list.csv"


def made(folder: Path, pattern: str) -> dict[str, object]:
    """The files made, without what depends on the clock or on the order of a header's fields."""
    return {path.name: _content(path.read_bytes(), path.suffix) for path in sorted(folder.glob(pattern))}


def _content(data: bytes, suffix: str) -> object:
    if suffix != ".manifest":
        return re.sub(rb'"timings": {.*?}', b"", data)
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def pieces(folder: Path) -> int:
    """How many lines there are, while another process writes and moves files."""
    total = 0
    for root, _, names in os.walk(folder):  # leaves out folders that are gone meanwhile
        for path in (Path(root, name) for name in names if not name.startswith(".")):
            with suppress(FileNotFoundError):
                total += path.read_bytes().count(b"\n")
    return total


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_is_killed_at_a_random_moment_goes_on(
    verb: str, cli: Cli, media: Path, many: Path, listed: Path, tmp_path: Path
) -> None:
    command, pattern = VERBS[verb]
    places = {"net": media / "clips.safetensors", "many": many, "listed": listed}
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for folder in (cut, whole):
        folder.mkdir()
    arguments = command.format(**places, out=cut / "out").split()
    moment = random.randrange(1, CLIPS // 2)
    child = start_command(arguments, tmp_path)
    wait_until(lambda: pieces(cut) >= moment, child.is_alive)
    child.kill()
    assert ended(child) == -signal.SIGKILL, f"the run ended before it had {moment} pieces: {said(tmp_path)}"
    assert pieces(cut) >= moment
    assert cli(*arguments).status == cli(*command.format(**places, out=whole / "out").split()).status == 0
    assert made(cut, pattern) == made(whole, pattern) != {}, f"killed after {moment} pieces"
    assert not [path for path in cut.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]


# ---- answers of predict ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_after_a_line_cut_short(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """Whatever byte a kill stopped at, a resumed run ends with the results of one that was not killed."""
    photos, out = media / "photos", tmp_path / f"a.{suffix}"
    run = lambda *more: predict(cli, media, photos, "--out", out, "--top-k", 3, *more, net="images")  # noqa: E731
    assert run().status == 0
    whole, labels = out.read_bytes(), 3 if suffix == "csv" else 1
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {0, 1, len(whole) - 1, len(whole), *ends, *(e - 3 for e in ends), *(e + 5 for e in ends[:-1])}:
        out.write_bytes(whole[:cut])
        ended = run("--resume")
        assert ended.status == 0, ended
        assert results(out) == {str(photos / f"img_{n}.png"): labels for n in (1, 2, 10)}, cut


def test_resume_tries_failures_again(cli: Cli, media: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a.jsonl", tmp_path / "a.csv"):
        late = tmp_path / f"late{out.suffix}.png"
        assert predict(cli, media, media / "photos", late, "--out", out, net="images").status == 1
        late.write_bytes((media / "photos/img_1.png").read_bytes())
        ended = predict(cli, media, media / "photos", late, "--out", out, "--resume", net="images")
        assert (ended.status, ended.err) == (0, "3 files had a result already\n")
        assert set(results(out).values()) == {5 if out.suffix == ".csv" else 1}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_with_another_checkpoint_is_refused(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """Also one of the same architecture and name: another training of it."""
    photos, out = media / "photos", tmp_path / f"a.{suffix}"
    save_tiny(media / "others.safetensors", IMAGES, seed=1)
    first = predict(cli, media, photos / "img_1.png", tmp_path / "none.png", "--out", out, net="images")
    assert first.status == 1
    before = out.read_bytes()
    refused = predict(cli, media, photos, "--out", out, "--resume", net="others")
    line = 2 if suffix == "csv" else 1
    one_line(refused, f"{out}: line {line} is of a checkpoint with other weights or options (", "give another --out")
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_in_another_precision_or_form_is_refused(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """Answers of two ways to compute in one file could not be told apart. A form that is not named is the file's."""
    one, out = media / "photos/img_1.png", tmp_path / f"a.{suffix}"
    run = lambda *more: predict(cli, media, *more, "--out", out, net="images")  # noqa: E731
    ways: list[tuple[str, ...]] = [(), ("--precision", "bfloat16"), ("--plain",)]
    for way in ways:
        assert run(one, *way, "--overwrite").status == 0
        before = out.read_bytes()
        for other in ways:
            ended = run(media / "photos", *other, "--resume")
            if other == way or (way, other) == (("--plain",), ()):
                assert ended.status == 0
                (computed,) = set(re.findall(r"[0-9a-f]{12}\S* ([\w/ ]+) on cpu", out.read_text()))
                assert (computed == "plain") == (way == ("--plain",))
                out.write_bytes(before)
            else:
                one_line(ended, "other weights or options (", "give another --out")
        assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_with_other_views_or_names_is_refused(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """What a network is fed and what its classes are called is of one kind in one file; how many at once is free."""
    names, out = tmp_path / "names.txt", tmp_path / f"a.{suffix}"
    names.write_text("".join(f"name {number}\n" for number in range(7)))
    ways = [(), ("--clips", 1), ("--crops", 3), ("--sampling", "2x3"), ("--follow-seconds",), ("--classes", names)]
    run = lambda way, *more: predict(cli, media, media / "videos", "--out", out, *way, *more)  # noqa: E731
    for way in ways:
        assert run(way, "--overwrite").status == 0
        before = out.read_bytes()
        assert run(way, "--resume", "--batch-size", 1, "--top-k", 5).status == 0
        for other in ways:
            if other != way:
                one_line(run(other, "--resume"), "other weights or options (", "give another --out")
        assert out.read_bytes() == before
    names.write_text("".join(f"other {number}\n" for number in range(7)))
    one_line(run(("--classes", names), "--resume"), "other weights or options (")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_does_files_again_that_were_replaced(suffix: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    """Under the same name, and with a time of long ago, as copies keep it."""
    out, photos = tmp_path / f"a.{suffix}", tmp_path / "photos"
    shutil.copytree(media / "photos", photos)
    run = lambda *more: predict(cli, media, photos, "--out", out, *more, net="images")  # noqa: E731
    assert run().status == 0
    labels = results(out)
    other = photos / "img_1.png"
    Image.new("RGB", (70, 90), "red").save(tmp_path / "red.png")
    os.utime(tmp_path / "red.png", (0, 0))
    wait_until(lambda: changed_at(touched(tmp_path / "clock")) > out.stat().st_mtime_ns)
    (tmp_path / "red.png").rename(other)
    ended = run("--resume")
    assert (ended.status, ended.err) == (0, "2 files had a result already\n1 file changed since, and done again\n")
    assert results(out) == labels
    assert run("--resume").err == "3 files had a result already\n"
    alone = tmp_path / f"alone.{suffix}"
    assert predict(cli, media, other, "--out", alone, net="images").status == 0
    answer = next(line for line in reversed(out.read_text().splitlines()) if "img_1" in line)
    wanted = next(line for line in reversed(alone.read_text().splitlines()) if "img_1" in line)
    assert re.sub(r'"timings".*?}', "", answer) == re.sub(r'"timings".*?}', "", wanted)


def touched(path: Path) -> Path:
    path.touch()
    return path


def test_resume_does_not_touch_a_file_of_something_else(cli: Cli, media: Path, tmp_path: Path) -> None:
    for name, text in (
        ("a.jsonl", "my notes\nand more\n"),
        ("a.csv", "name,age\nAnna,7\n"),
        ("b.jsonl", "[1]\n[2]\n"),
        ("c.jsonl", "[" * 99_999 + "\n"),
        ("d.jsonl", '{"source": [], "weights": ""}\n'),
    ):
        (tmp_path / name).write_text(text)
        ended = predict(cli, media, media / "photos", "--out", tmp_path / name, "--resume", net="images")
        one_line(ended, f"{tmp_path / name}: expected results of `uniformer predict`, found line 1")
        assert (tmp_path / name).read_text() == text


def test_interrupted(media: Path, many: Path) -> None:
    paths = [str(many)] * 100  # enough that the signal comes long before the end
    command = [*COMMAND, "predict", *paths, "--checkpoint", str(media / "clips.safetensors"), "--format", "jsonl"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of tests in the background ignores it
    child = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert (child.returncode, err.splitlines()[-1]) == (130, "uniformer: interrupted")
    assert "Traceback" not in err


# ---- long ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_of_answers_is_not_held_to_go_on(form: str, tmp_path: Path) -> None:
    """What Python allocates is for the longest answer, not for all; what stays is copied to the byte."""
    out, count, size = tmp_path / f"long.{form}", 40, 250_000
    answers = Answers(form, "abc", Detections)  # type: ignore[arg-type]
    fields = answers.header.decode().strip().split(",")
    with open(out, "wb") as file:
        file.write(answers.header)
        for number in range(count):
            if form == "jsonl":
                row = {"source": "a.mp4", "frame": number, "weights": "abc", "mask": "x" * size}
                file.write(json.dumps(row).encode() + b"\n")
            else:
                cells = dict.fromkeys(fields, "") | {"source": "a.mp4", "weights": "abc", "rank": "1", "count": "1"}
                cells |= {"frame": str(number), "name": "x" * 100_000}  # of the cells that csv reads
                file.write((",".join(cells.values()) + "\n").encode())
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"source": "cut')
    with Records(out, answers) as records:
        tracemalloc.start()
        try:
            found = records.read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found == [("a.mp4", number) for number in range(count)]
        assert peak < len(whole) / 3
        records.add(Failure("b.mp4", "broken"))
    after = out.read_bytes()
    assert after.startswith(whole)
    assert after[len(whole) :] == answers.encode(Failure("b.mp4", "broken"))
