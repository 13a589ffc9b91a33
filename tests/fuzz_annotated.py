"""Damage small annotated sets at random and read them: nothing but one line may come of it.

python tests/fuzz_annotated.py --count 2000 --seed 0
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.annotated_sets import coco_set, label_map, picture, pose_set, values_of, voc_set, yolo_set
from uniformer.datasets.annotated import annotated_kind, find_annotated_splits, open_annotated
from uniformer.datasets.annotated_scan import scan_annotated
from uniformer.datasets.statement import statement
from uniformer.errors import InputError

WORDS = (
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"[]",
    b"{}",
    b'""',
    b"9" * 30,
    b"true",
    b"[[",
    b"<",
    b"..",
    b"\0",
    b"\xff",
    b": ",
)


def make_sets(folder: Path) -> list[Path]:
    """One of each layout."""
    coco_set(folder / "coco")
    pose_set(folder / "pose")
    yolo_set(folder / "yolo")
    voc_set(folder / "voc")
    for i in range(2):
        picture(folder / f"maps/images/{i}.jpg", i)
        label_map(folder / f"maps/masks/{i}.png", values_of(i))
    return sorted(folder.iterdir())


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """With a few bytes changed, cut out, doubled, or words put in."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data) + 1))
        end = at + int(rng.integers(1, 12))
        word = WORDS[rng.integers(len(WORDS))]
        data = (
            data[:at] + rng.bytes(1) + data[at + 1 :],
            data[:at] + data[end:],
            data[:end] + data[at:],
            data[:at] + word + data[end:],
            data[:at] + word + data[at:],
            data[:at],
        )[rng.integers(6)]
    return data


def look_at(root: Path) -> None:
    """All that can be asked of a set; raises nothing but `InputError`, which ends what it is about."""
    annotated_kind(root)
    for split in find_annotated_splits(root) or [None]:
        with contextlib.suppress(InputError):
            data = open_annotated(root, split=split)
            list(statement({"all": data.usable()}))
            for row in range(len(data)):
                for ask in (data.size, data.picture, data.annotations, data.label_map, data.labels_of):
                    with contextlib.suppress(InputError):
                        ask(row)
                with contextlib.suppress(InputError):
                    data.annotations(row).masks(*data.size(row))
            scan_annotated(data, root.with_name("scan"), workers=0, resume=False)


def fuzz(folder: Path, count: int, seed: int) -> None:
    """Raises what the package raises of a damaged set, but for `InputError`."""
    sets = make_sets(folder / "whole")
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        root = folder / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(sets[rng.integers(len(sets))], root)
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".jpg"]
        file = files[rng.integers(len(files))]
        file.write_bytes(damaged(file.read_bytes(), rng))
        try:
            with contextlib.suppress(InputError):
                look_at(root)
        except Exception as error:
            error.add_note(f"set {number} of seed {seed}: {file.relative_to(root)}: {file.read_bytes()[:300]!r}")
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fuzz(Path(temporary), args.count, args.seed)
    print(f"{args.count} damaged sets: nothing but InputError")
