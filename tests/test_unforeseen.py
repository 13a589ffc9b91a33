"""What nobody foresaw: one line and a report; and what has run out. Numbers on the command line; what is printed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.command_line import Cli, Ended, one_line, predict
from uniformer.cli import main as command_line
from uniformer.cli.tables import print_table, say
from uniformer.cli.unforeseen import unforeseen
from uniformer.errors import visible
from uniformer.support.texts import to_json_line

# A command more, in a process of its own, which ends as its argument says.
VERB = """
import errno, os, sys, types
from uniformer.cli import main as command_line
from uniformer.support.jobs import run_parallel

def work(job):
    raise LookupError("in a worker\\nand more")

def run(args):
    if args.how == "bug":
        raise ZeroDivisionError("no \\x1b[2J number" + "a" * 9999)
    if args.how == "worker":
        list(run_parallel(work, [1], 1))
    if args.how == "gone":
        os.rmdir(os.getcwd())
        raise ZeroDivisionError
    if args.how == "memory":
        bytearray(1 << 62)
    if args.how == "torch":
        import torch
        torch.empty(1 << 59)
    if args.how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a\\x1b[2J.txt")
    if args.how == "interrupt":
        raise KeyboardInterrupt
    sys.exit(7)

if __name__ == "__main__":
    verb = types.SimpleNamespace(HELP="", __doc__="", add_arguments=lambda p: p.add_argument("how"), run=run)
    command_line.COMMANDS["end"] = verb
    sys.exit(command_line.main(["end", sys.argv[1]]))
"""


def end(folder: Path, how: str) -> Ended:
    (folder / "verb.py").write_text(VERB)
    (folder / how).mkdir()
    command = [sys.executable, str(folder / "verb.py"), how]
    env = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=folder / how, env=env, text=True, capture_output=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def line_of(ended: Ended, status: int) -> str:
    assert (ended.status, ended.out) == (status, ""), ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err[:-1].isprintable()
    assert len(ended.err) < 900
    return ended.err


@pytest.mark.parametrize("how", ["bug", "worker", "gone"])
def test_what_nobody_foresaw_is_one_line_and_a_report(how: str, tmp_path: Path) -> None:
    line = line_of(end(tmp_path, how), command_line.UNFORESEEN)
    name = "LookupError: in a worker; " if how == "worker" else "ZeroDivisionError"
    assert line.startswith(f"uniformer: unforeseen {name}")
    (report,) = (tmp_path if how == "gone" else tmp_path / how).glob("uniformer-error-*.txt")
    assert f"{report} tells its developers more" in line
    text = report.read_text()
    assert text.startswith(f"command: uniformer end {how}\n")
    assert "Traceback (most recent call last)" in text
    assert ("in work" if how == "worker" else "in run") in text
    assert f"torch {version('torch')}" in text


def test_no_report_replaces_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = [unforeseen(ValueError(str(number)), ["models"]) for number in range(3)]
    reports = list(tmp_path.glob("uniformer-error-*.txt"))
    assert sorted(path.read_text().splitlines()[-1] for path in reports) == [f"ValueError: {n}" for n in range(3)]
    assert all(any(str(path) in line for line in said) for path in reports)


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("memory", 2, "uniformer: out of memory: MemoryError; smaller batches or views need less"),
        ("torch", 2, "uniformer: out of memory: "),
        ("disk", 2, r"uniformer: a\x1b[2J.txt: No space left on device"),
        ("interrupt", 130, "uniformer: interrupted"),
    ],
)
def test_what_has_run_out_is_one_line(how: str, status: int, said: str, tmp_path: Path) -> None:
    assert line_of(end(tmp_path, how), status).startswith(said)
    assert list((tmp_path / how).iterdir()) == []


# ---- numbers ---------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every verb, with its place."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from options(sub, (*words, name))
        else:
            yield " ".join((*words, *(action.option_strings[:1] or [action.dest]))), action


NUMBERS = {place: action for place, action in options(command_line.build_parser()) if action.type is not None}
ODD_NUMBERS = ("1e30", "-1e30", "nan", "inf", "-inf", f"1{'0' * 30}", f"-1{'0' * 30}", "9" * 9999, "", "one", "\x1b[2J")


@pytest.mark.parametrize("place", NUMBERS)
def test_numbers_have_a_range(place: str) -> None:
    """All of them: whatever has a type on the command line is a number."""
    kind, choices = NUMBERS[place].type, NUMBERS[place].choices
    assert callable(kind)
    if choices is not None:  # a few, of which argparse says which
        return
    assert kind not in (int, float), "expected a type with a range"
    for text in ODD_NUMBERS:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a (whole )?number .*, got ") as caught:
            kind(text)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200
    share, side = ("eps", "score", "enter", "leave", "confidence", "static-from"), ("tile", "size")
    usual = "0.5" if place.endswith(share) else "64" if place.endswith(side) else "2"
    assert kind(usual) == float(usual)


def test_a_number_out_of_range_is_one_line(cli: Cli) -> None:
    assert len(NUMBERS) > 20
    for words in (
        ("predict", "a.mp4", "--top-k", "0"),
        ("predict", "a.mp4", "--crops", "1e30"),
        ("data", "split", "a", "--out", "b", "--seed", "-1"),
        ("demo", "--window", "nan"),
        ("eval", "a", "b", "--batch-size", "9" * 9999),
    ):
        one_line(cli(*words), f"argument {words[-2]}: ")


# ---- what is printed -------------------------------------------------------------------------------------------------

ODD = "a\x1b[2J\x07\x9b1m\u202eb\nc"
SHOWN = r"a\x1b[2J\x07\x9b1m\u202eb\nc"


def test_nothing_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(ODD) == SHOWN
    assert visible("Füße 文字 नमस्ते ⚽\u200d") == "Füße 文字 नमस्ते ⚽\u200d"
    say(f"{ODD}\nd")
    assert capsys.readouterr().out == SHOWN.replace(r"\n", "\n") + "\nd\n"
    print_table((ODD, "n"), [(ODD, "1")])
    assert capsys.readouterr().out.count(SHOWN) == 2
    line = to_json_line({"a": ODD})
    assert json.loads(line) == {"a": ODD}
    assert line[:-1].isprintable()


def test_names_of_files_and_classes_do_not_act_on_the_terminal(cli: Cli, media: Path, tmp_path: Path) -> None:
    source = tmp_path / ODD
    source.write_bytes((media / "photos" / "img_1.png").read_bytes())
    for form in ("table", "jsonl"):
        ended = predict(cli, media, source, "--format", form, net="images")
        assert ended.status == 0
        assert all(c.isprintable() or c == "\n" for c in ended.out)
    for words in (
        ("convert", source, tmp_path / "b"),
        ("verify", f"{source}none"),
        ("train", ODD),
        ("models", ODD),
        (ODD,),
        ("models", f"--{ODD}"),
    ):
        ended = cli(*words)
        assert ended.err[:-1].isprintable(), ended.err
        assert ended.status == 2
