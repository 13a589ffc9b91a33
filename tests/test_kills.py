"""kill -9 at random moments: whatever a verb was doing, the same command then ends as if nothing had happened.

KILLS=20 in the environment kills each verb that often. Training, features and evaluation have tests of their own.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import odd_media
from tests.tiny import CLIPS, save_tiny
from tests.training_processes import Child, ended, start_command
from uniformer.datasets.open import open_dataset
from uniformer.datasets.prepare import write_list
from uniformer.support.files import atomic_path, clear_away, system_folder, temporary_folder

KILLS = int(os.environ.get("KILLS", "2"))
VERBS = {  # what is run in an empty folder, and what more when it has been killed
    "data prepare": ("data prepare {data} --out out --short-side 32 --workers 0", ""),
    "data scan": ("data scan {data} --out out --workers 0", ""),
    "data split": ("data split {data} --out out", "--overwrite"),
    "data make": ("data make camera-motion out --train 3 --val 0 --test 0 --worlds photos --workers 0", ""),
    "predict": ("predict {data} --checkpoint {net} --workers 1 --out out.jsonl", "--resume"),
    "predict csv": ("predict {data} --checkpoint {net} --workers 1 --out out.csv", "--resume"),
    "convert": ("convert {net} out.safetensors", "--overwrite"),
    "convert to a folder": ("convert {net} out", "--overwrite"),
    "convert back": ("convert {net} out.pth", "--overwrite"),
    "export": ("export {net} out.onnx", "--overwrite"),
    "demo": ("demo {data}/a/0.mp4 --out out", "--overwrite"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("given")
    for name in ("a", "b"):
        (root / "data" / name).mkdir(parents=True)
        for number in range(4):
            odd_media.encode(root / "data" / name / f"{number}.mp4", frames=9)
    return {"data": root / "data", "net": save_tiny(root / "net.safetensors", CLIPS)}


def made(folder: Path) -> dict[str, object]:
    """Every file of a folder by its name, without what depends on the clock, on places, or on the order of a header."""
    return {str(path.relative_to(folder)): content(path, folder) for path in folder.rglob("*") if path.is_file()}


def content(path: Path, folder: Path) -> object:
    data = path.read_bytes().replace(os.fsencode(folder), b"")
    if path.suffix in (".safetensors", ".manifest"):
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        return json.loads(whole[8:end])["__metadata__"].keys(), whole[end:]
    if path.suffix in (".html", ".onnx", ".pth"):
        return len(data) > 100
    if path.name in ("files.jsonl", "prepared.jsonl"):
        return sorted(re.findall(rb'"path": "[^"]*"', data))
    return re.sub(rb'"timings": ?{[^}]*}|"[a-z_]*": ?[0-9.]+', b"", data)


def killed(child: Child, moment: float) -> bool:
    """Kill a process a while after its begin; whether that came before its end."""
    child.join(moment)
    child.kill()
    return ended(child) < 0


def check_kills(command: str, more: str, folder: Path, same: Callable[[Path], object], kills: int) -> int:
    """How many of `kills` came before the end of `command`, run in folders in `folder`. After each of them the command,
    with `more`, ends well and leaves what it leaves unharmed, `same`."""
    whole, count = folder / "whole", 0
    whole.mkdir()
    ended(start_command(["models"], whole))  # the server that processes come from takes its time to start
    begin = time.monotonic()
    assert ended(start_command(command.split(), whole)) == 0
    took = time.monotonic() - begin
    for number in range(kills):
        place = folder / str(number)
        place.mkdir()
        moment = random.random() * took
        count += killed(start_command(command.split(), place), moment)
        again = start_command([*command.split(), *more.split()], place)
        assert ended(again) == 0, (moment, (folder / f"{place.name}.0.said").read_text())
        assert same(place) == same(whole), moment
        left = [path for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"]
        assert not left, moment
    return count


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_was_killed_at_any_moment_ends_as_if_it_had_not(
    verb: str, given: dict[str, Path], tmp_path: Path
) -> None:
    if verb == "export":
        pytest.importorskip("onnxruntime")
    if verb == "data make":
        pytest.importorskip("skimage")
    command, more = VERBS[verb]
    count = check_kills(command.format(**given), more, tmp_path, made, KILLS)
    print(f"{verb}: {count} of {KILLS} kills came before the end")


# ---- what a kill leaves ----------------------------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from uniformer.support.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    (temporary.parent / ".tmpAbCdEf").touch()  # of a library's own
    print(flush=True)
    time.sleep(9999)
"""


def test_a_list_written_again_takes_what_a_kill_left_of_its_names(given: dict[str, Path], tmp_path: Path) -> None:
    left = tmp_path / ".classes.txt.0123abcd.txt"
    left.mkdir()
    write_list(open_dataset(given["data"]), tmp_path / "train.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.txt", "train.csv"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(there: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "far" / "a.csv", tmp_path / "a.csv"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    (target.parent / ".a.csv.0123abcd.csv").mkdir()
    clear_away([link])
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["a.csv"]


def test_what_a_kill_left_goes_and_what_is_in_use_or_the_users_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    names = (".a.csv", ".a.csv.txt", ".b.csv.0123abcd.csv", ".tmpAbCdEf", ".a.csv.0123abcd.csv.old")
    mine = [tmp_path / name for name in names]
    for file in mine:
        file.touch()
    (tmp_path / "aim").mkdir()
    link = tmp_path / ".a.csv.89abcdef.csv"
    link.symlink_to("aim")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    (left,) = set(tmp_path.glob(".a.csv.*.csv")) - {link}
    clear_away([path])
    assert (left / ".a.csv").read_text() == "half", "its process still runs"
    writer.kill()
    writer.wait()
    clear_away([path])
    assert not left.exists()
    assert all(file.exists() for file in mine)
    assert link.is_symlink()
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        clear_away([path])
    assert path.read_text() == "whole"
    assert not (set(tmp_path.glob(".a.csv.*.csv")) - {link})


def test_folders_among_the_systems_temporary_files_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder(tmp_path / "uniformer-demo") as here:
        (here / "film.mp4").touch()
        with system_folder("demo") as other:
            assert here.exists()
            assert other != here
    left = tmp_path / ".uniformer-demo.0123abcd"
    left.mkdir()
    with system_folder("demo"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []
