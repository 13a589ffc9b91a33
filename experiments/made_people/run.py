"""A pose network learns from made people, and is tested on bodies, clothes and photographs that it never saw.

python experiments/made_people/run.py --out DIR [--train 3000] [--val 300] [--epochs 36] [--seed 0]

Trains by `uniformer train`, scores by `uniformer eval`, and counts the key points found (`pck.py`). Beside it stands
what must fail: the same training with the key points of somebody else, and the usual places of key points in a box.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # where `common` is

import common
from control import exchanged, guesses, usual_places
from make import write_split
from pck import SHARES, STATES, distances, table

RECIPE = Path(__file__).parent / "recipe.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the report")
    parser.add_argument("--train", type=int, default=3000, help="pictures to train on (default: 3000)")
    parser.add_argument("--val", type=int, default=300, help="pictures to test on (default: 300)")
    parser.add_argument("--epochs", type=int, default=36, help="(default: 36)")
    parser.add_argument("--control-epochs", type=int, default=4, help="of the control (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    began = time.monotonic()
    people = {split: made(args.out / "people", split, getattr(args, split), args.seed) for split in ("train", "val")}
    control = control_set(args.out, people["train"], args.seed)
    scores = {
        "learnt": learnt(args, args.out / "people", "run", args.epochs),
        "somebody else's key points": learnt(args, control, "control", args.control_epochs),
        "the usual places": table(*distances(people["val"], guesses(people["val"], usual_places(people["train"])))),
    }
    counts = {split: {name: len(found[name]) for name in ("images", "annotations")} for split, found in people.items()}
    conditions = common.conditions((time.monotonic() - began) / 60, 1)
    facts = {"counts": counts, "scores": scores, "conditions": conditions}
    head = ("", *(f"{state}, within {share}" for state in STATES for share in SHARES))
    rows = [
        (name, *(f[state][f"within {share}"] for state in STATES for share in SHARES)) for name, f in scores.items()
    ]
    common.write_report(args.out, facts, common.markdown(head, rows))


def made(folder: Path, split: str, count: int, seed: int) -> dict[str, Any]:
    """The annotations of a split, made where they are not there yet, or were made otherwise."""
    path = folder / f"{split}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if found.get("info", {}).get("seed") != seed or len(found["images"]) != count:
        found = json.loads(write_split(folder, split, count, seed).read_text("utf-8"))
    return found


def control_set(out: Path, annotations: dict[str, Any], seed: int) -> Path:
    """The folder of a set with the same pictures, and key points that are exchanged."""
    folder = out / "exchanged"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        if not (folder / split).exists():
            (folder / split).symlink_to((out / "people" / split).resolve(), target_is_directory=True)
    (folder / "val.json").write_bytes((out / "people" / "val.json").read_bytes())
    (folder / "train.json").write_text(json.dumps(exchanged(annotations, seed)), encoding="utf-8")
    return folder


def learnt(args: argparse.Namespace, data: Path, name: str, epochs: int) -> dict[str, Any]:
    """Train, then look for the people of the split for validation in their boxes."""
    import uniformer
    from uniformer.tasks.person_boxes import read_person_boxes

    folder = args.out / name
    given = (f"data.root={data.resolve()}", f"epochs={epochs}", f"seed={args.seed}")
    common.uniformer("train", RECIPE, *given, "--out", folder, "--device", "cpu", log=folder / "train.log")
    checkpoint, truth = folder / "model.safetensors", args.out / "people" / "val.json"
    common.uniformer(
        "eval", checkpoint, truth.parent, "--split", "val", "--out", folder / "eval", log=folder / "eval.log"
    )
    find = uniformer.Predictor(checkpoint, people=read_person_boxes(truth), alike=1.0, device="cpu")
    annotations = json.loads(truth.read_text("utf-8"))
    paths = [str(truth.parent / image["file_name"]) for image in annotations["images"]]
    answers = {Path(path).name: found.answer()["people"] for path, found in zip(paths, find.run(paths), strict=True)}
    ap = json.loads((folder / "eval" / "metrics.json").read_text("utf-8"))["metrics"]
    return {**table(*distances(annotations, answers)), "coco": ap}


if __name__ == "__main__":
    main()
