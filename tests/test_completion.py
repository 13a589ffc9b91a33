"""Completion as the shells themselves do it; those that are not installed are left out."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import Cli
from uniformer.checkpoints.records import BUNDLED, list_checkpoints
from uniformer.cli.main import COMMANDS, build_parser

ASK = {
    # the words that bash splits a line into, and what its own machinery would put there
    "bash": "source {script}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _uniformer; "
    'printf "%s\\n" "${{COMPREPLY[@]}}"',
    "fish": "source {script}; complete -C {quoted}",
}


@pytest.fixture(params=["bash", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def script(cli: Cli, shell: str, tmp_path: Path) -> Path:
    ended = cli("completion", shell)
    assert (ended.status, ended.err) == (0, "")
    path = tmp_path / "script"
    path.write_text(ended.out)
    return path


def asked(shell: str, script: Path, line: str) -> set[str]:
    """What is offered at the end of a line, in a folder with the file `a film.mp4`."""
    here = script.parent / "here"
    here.mkdir(exist_ok=True)
    (here / "a film.mp4").touch()
    words = line.replace("=", " = ") if shell == "bash" else line
    if shell == "bash" and line.endswith(" "):
        words += "''"
    code = ASK[shell].format(script=shlex.quote(str(script)), line=words, quoted=shlex.quote(line))
    done = subprocess.run([shell, "-c", code], cwd=here, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    return {row.partition("\t")[0].rpartition("=")[2] for row in done.stdout.splitlines() if row}


def test_what_can_stand_there_is_offered(shell: str, script: Path) -> None:
    assert set(COMMANDS) <= asked(shell, script, "uniformer ")
    assert asked(shell, script, "uniformer pre") == {"predict"}
    assert {"scan", "prepare", "make"} <= asked(shell, script, "uniformer data ")
    assert asked(shell, script, "uniformer predict a.mp4 --forma") == {"--format"}
    assert asked(shell, script, "uniformer predict --format ") == {"table", "jsonl", "csv", "coco"}
    assert asked(shell, script, "uniformer predict --format=j") == {"jsonl"}
    assert asked(shell, script, "uniformer predict --top-k ") == set()
    ids = asked(shell, script, "uniformer predict x.mp4 --checkpoint uniformer_small.k")
    assert ids == {id for id in list_checkpoints() if id.startswith("uniformer_small.k")}
    assert "a film.mp4" in asked(shell, script, "uniformer predict a")
    assert {"a film.mp4", "uniformer_small.in1k"} <= asked(shell, script, "uniformer eval ")
    assert "uniformer_s16x4_k400" in asked(shell, script, "uniformer train uni")
    assert asked(shell, script, "uniformer completion ") == {"bash", "zsh", "fish"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("uniformer pre", "uniformer predict "),
        ("uniformer data sc", "uniformer data scan "),
        ("uniformer predict a.mp4 --forma", "uniformer predict a.mp4 --format "),
        ("uniformer predict --format j", "uniformer predict --format jsonl "),
        ("uniformer predict --format=j", "uniformer predict --format=jsonl "),
        ("uniformer predict --checkpoint uniformer_nano", f"uniformer predict --checkpoint {BUNDLED} "),
        ("uniformer predict --checkpoint a", "uniformer predict --checkpoint a\\ film.mp4 "),
        ("uniformer predict a", "uniformer predict a\\ film.mp4 "),
        ("uniformer predict --top-k a", "uniformer predict --top-k a"),
    ],
)
def test_zsh_completes_what_is_typed(cli: Cli, tmp_path: Path, typed: str, completed: str) -> None:
    """By its own machinery: a line editor at a terminal, where TAB is pressed, and then a key that prints the line."""
    (tmp_path / "script").write_text(cli("completion", "zsh").out)
    settings = f"autoload -Uz compinit; compinit -u -D; source {shlex.quote(str(tmp_path / 'script'))}"
    show = "show() { print -r -- \"<$BUFFER>\"; exit }; zle -N show; bindkey '^X' show"
    (tmp_path / ".zshrc").write_text(f"{settings}\n{show}\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a film.mp4").touch()
    here, there = pty.openpty()
    env = {**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    child = subprocess.Popen(["zsh", "-i"], stdin=there, stdout=there, stderr=there, cwd=tmp_path / "here", env=env)
    os.close(there)
    os.write(here, f"{typed}\t\x18".encode())
    said = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other side was closed
        while part := os.read(here, 1 << 16):
            said += part
    os.close(here)
    child.wait()
    assert re.findall(r"<(uniformer[^>]*)>", said.decode()) == [completed], said


def parsers(parser: argparse.ArgumentParser, line: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield line, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from parsers(sub, f"{line} {name}")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_every_option_of_every_command_is_offered(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(cli("completion", "bash").out)
    lines = dict(parsers(build_parser(), "uniformer"))
    code = [f"source {shlex.quote(str(script))}"]
    for line in lines:
        code.append(f"COMP_WORDS=({line} -); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _uniformer")
        code.append('echo "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", "\n".join(code)], text=True, capture_output=True, check=True)
    for (line, parser), offered in zip(lines.items(), done.stdout.splitlines(), strict=True):
        assert set(offered.split()) == set(parser._option_string_actions), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_installed_can_read_its_script(cli: Cli, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(cli("completion", shell).out)
    assert re.search("@[A-Z]+@", script.read_text()) is None
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", str(script)], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
