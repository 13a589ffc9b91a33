"""Kill a command with `kill -9` at random moments: `python tests/kill_anywhere.py --verb eval --count 25 --seed 0`.

Each case starts the command in a new folder, kills it once to three times, runs it to its end, and compares every file
in the folder with those of a run that was not disturbed: the same names, so that nothing is left behind, and the same
bytes, but for the columns of a table that say how fast it went. Failures are listed with the numbers that make them
again (how far a kill came depends on the machine all the same), and the program exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.patience import PATIENCE
from tests.training_processes import SERVER  # which has imported everything: a kill is to come in the work
from uniformer.training.state import read_state

Results = dict[str, bytes]

#: The words of each command. {data}: a folder of classes, {lists}: of splits; {net}: a checkpoint, {recipe}: a file.
VERBS = {
    "train-features": "train {data} --checkpoint {net} --device cpu data.workers=1 --out out",
    "train-loop": "train {data} --checkpoint {net} --device cpu data.workers=1 epochs=3 keep.every_steps=2 --out out",
    "train-recipe": "train {recipe} data.train={lists}/train data.val={lists}/val --device cpu --out out",
    "features": "features {net} {data} --device cpu --workers 1 --stages 4 --out out",
    "eval": "eval {net} {data} --device cpu --workers 1 --class-order numbers --out out",
    "eval-probe": "eval {net} {lists} --device cpu --workers 0 --probe knn --out out",
}


def make_sources(folder: Path) -> dict[str, Path]:
    """What the commands read, by the names in `VERBS`."""
    from tests.tiny import IMAGES, save_tiny
    from tests.training_runs import make_images, recipe_file

    lists = make_images(folder / "lists", train=16, val=8)
    data = shutil.copytree(lists / "train", folder / "data")
    changes = {"schedule": {"epochs": 3}, "ema": {"decay": 0.9, "evaluate": True}, "keep": {"result": "best"}}
    recipe = recipe_file(folder / "tiny.toml", changes, {"keep": {"every_steps": 3}, "data": {"workers": 1}})
    return {"data": data, "lists": lists, "net": save_tiny(folder / "net.safetensors", IMAGES), "recipe": recipe}


# ---- one run ---------------------------------------------------------------------------------------------------------


def child(words: list[str], folder: Path, said: Path, pipe: Connection) -> None:
    from uniformer.cli.main import main

    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as from a shell
    torch.set_num_threads(1)
    os.chdir(folder)
    with open(said, "a", buffering=1) as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        pipe.send("ready")
        status = main(words)
    sys.exit(status)


def run(words: list[str], folder: Path, said: Path, seconds: float = PATIENCE) -> int:
    """The status of a command in `folder`, killed after so many seconds of it, if it still runs then."""
    folder.mkdir(exist_ok=True)
    ours, theirs = SERVER.Pipe()
    process = SERVER.Process(target=child, args=(words, folder, said, theirs))
    process.start()
    theirs.close()
    ours.recv()
    process.join(seconds)
    process.kill()
    process.join()
    ours.close()
    assert process.exitcode is not None
    return process.exitcode


def results(folder: Path) -> Results:
    """All files below a folder, hidden ones too, by their names there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): content(path) for path in files}


def content(path: Path) -> bytes:
    """The bytes, without how fast it went and without the order that a library gives the fields of a header."""
    data = path.read_bytes()
    if path.name.startswith("."):  # left behind, perhaps half written
        return data
    if path.name == "metrics.csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return repr([{**row, "samples_per_s": "", "waiting": ""} for row in rows]).encode()
    if path.name == "state.pt":
        return repr(plain(read_state(path))).encode()
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
        return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    return data


def plain(value: Any) -> Any:
    """Nested containers with the bytes of tensors."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return (str(value.dtype), value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def difference(found: Results, expected: Results) -> str:
    """In words; nothing where there is none."""
    left, lost = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    other = [name for name in expected if name in found and found[name] != expected[name]]
    parts = (("left behind", left), ("lost", lost), ("different", other))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


# ---- many ------------------------------------------------------------------------------------------------------------


def run_cases(
    verb: str, count: int, seed: int, sources: dict[str, Path], folder: Path
) -> tuple[Counter[str], list[str]]:
    """How many commands were killed or came to their end before that, and what is wrong with the results."""
    words = VERBS[verb].format(**sources).split()
    said = folder / "said.txt"
    length = 0.0
    for place in (folder / "first", folder / "whole"):  # the first one also warms the machine up
        begin = time.monotonic()
        status = run(words, place, said)
        length = time.monotonic() - begin
        if status != 0:
            return Counter(), [f"{verb}: exit status {status} undisturbed: {said.read_text()[-500:]}"]
    expected, counts = results(folder / "whole"), Counter[str]()
    wrong = difference(results(folder / "first"), expected)
    failures = [f"{verb}, undisturbed twice: {wrong}"] if wrong else []
    for number in range(count):
        draw = random.Random(f"{seed} {verb} {number}")
        place = folder / "cut"
        moments = [draw.uniform(0, length) for _ in range(draw.choice([1, 1, 2, 3]))]
        for moment in moments:
            status = run(words, place, said, moment)
            counts["killed" if status == -signal.SIGKILL else "ended before"] += 1
        status = run(words, place, said)
        wrong = difference(results(place), expected) if status == 0 else f"exit status {status}"
        if wrong:
            moments_said = " ".join(f"{moment:.3f}" for moment in moments)
            failures.append(f"{verb} (--seed {seed}, case {number}, killed after {moments_said} s): {wrong}")
        shutil.rmtree(place)
    return counts, failures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verb", choices=VERBS, help="default: all of them")
    parser.add_argument("--count", type=int, default=25, help="cases of each verb")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder))
        before = results(Path(folder))
        for verb in [options.verb] if options.verb else VERBS:
            place = Path(folder, verb)
            place.mkdir()
            counts, wrong = run_cases(verb, options.count, options.seed, sources, place)
            print(f"{verb:<15} {counts['killed']:4d} killed {counts['ended before']:4d} ended before", flush=True)
            failures += wrong
            shutil.rmtree(place)
        if changed := difference(results(Path(folder)), before):
            failures.append(f"what is read: {changed}")
    print("\n".join(failures) if failures else "nothing lost, nothing left behind")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
