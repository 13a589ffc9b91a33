"""Made people over photographs, as a COCO data set of key points: boxes, 17 points with their visibility, areas.

python experiments/made_people/make.py --out DIR [--train 2000] [--val 400] [--seed 0]

No body (pair of leg length and build), no hue of clothes and no photograph behind them is in both splits, and checked
clothes are in one alone. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import skimage
import sklearn.datasets
from bodies import NAMES, SKELETON, Array, make_body, pose
from drawing import SHOWN_BY, Part, Pixels, draw, dress, parts_of
from PIL import Image

import uniformer
from uniformer.support.files import atomic_path

BACKGROUNDS = {
    "train": (
        *("skimage/coffee.png", "skimage/coins.png", "skimage/gravel.png", "skimage/hubble_deep_field.jpg"),
        *("skimage/ihc.png", "skimage/brick.png", "sklearn/china.jpg", "uniformer/friends_by_Aitzol_Berasategi.jpg"),
    ),
    "val": (
        *("skimage/chelsea.png", "skimage/grass.png", "skimage/motorcycle_left.png", "skimage/rocket.jpg"),
        *("sklearn/flower.jpg", "uniformer/Picture_0B_by_freespace.jpg"),
    ),
}
FOLDERS = {
    "skimage": Path(skimage.__file__).parent / "data",
    "sklearn": Path(sklearn.datasets.__file__).parent / "images",
    "uniformer": Path(uniformer.__file__).parent / "assets" / "photos",
}
BODIES = {"train": 80, "val": 30}
PARTS = 32  # numbers of parts that each person has to itself
LEAST_SEEN = 0.35  # of a person's pixels, or the scene is made again
QUALITY = 88


def photographs(split: str) -> list[Pixels]:
    """Of a split, (H, W, 3) in 0..255, at most 900 pixels a side."""
    found = []
    for name in BACKGROUNDS[split]:
        library, file = name.split("/")
        with Image.open(FOLDERS[library] / file) as image:
            image.thumbnail((900, 900))
            found.append(np.asarray(image.convert("RGB"), np.float32))
    return found


def write_split(out: Path, split: str, count: int, seed: int) -> Path:
    """`count` pictures in `out`/`split` and their annotations in `out`/`split`.json, whose path is the answer."""
    (out / split).mkdir(parents=True, exist_ok=True)
    photos = photographs(split)
    number = {"train": 0, "val": 1}[split]
    bodies = [make_body(np.random.default_rng([seed, number, 1, n]), split) for n in range(BODIES[split])]
    images, people = [], []
    for n in range(count):
        rng = np.random.default_rng([seed, number, 2, n])
        canvas, found = scene(photos, bodies, split, rng)
        name = f"{split}/{n:05d}.jpg"
        Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)).save(out / name, quality=QUALITY)
        images.append({"id": n + 1, "file_name": name, "height": canvas.shape[0], "width": canvas.shape[1]})
        people += [{"id": len(people) + k, "image_id": n + 1, **person} for k, person in enumerate(found, 1)]
    person = {"id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": [list(line) for line in SKELETON]}
    path = out / f"{split}.json"
    info = {"description": "made people", "split": split, "seed": seed}
    found = {"info": info, "images": images, "annotations": people, "categories": [person]}
    with atomic_path(path) as temporary:  # which `run.py` takes for the whole split
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return path


def scene(
    photos: Sequence[Pixels], bodies: Sequence[Any], split: str, rng: np.random.Generator
) -> tuple[Pixels, list[dict[str, Any]]]:
    """A picture (H, W, 3), and what COCO says of each of its people; none of them is hidden for the most part."""
    while True:
        size = int(rng.integers(200, 321)), int(rng.integers(200, 321))
        canvas = background(photos, size, rng)
        put_sticks(canvas, split, rng)
        owners = np.zeros(size, np.int32)
        groups, joints, alone = [], [], []
        for number in range(int(rng.choice([1, 2, 3], p=(0.6, 0.3, 0.1)))):
            parts, places, height = person(bodies, split, size, rng)
            groups.append(parts)
            joints.append(places)
            only = np.zeros(size, np.int32)
            draw(np.zeros((*size, 3), np.float32), only, parts, 1, height)
            alone.append(int((only > 0).sum()))
            draw(canvas, owners, parts, 1 + PARTS * number, height)
        if rng.random() < 0.2:
            cover(canvas, owners, photos, rng)
        canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape).astype(np.float32)
        seen = [(owners - 1) // PARTS == number for number in range(len(groups))]
        for mask in seen:
            mask &= owners > 0
        if all(mask.sum() > max(LEAST_SEEN * whole, 400) for mask, whole in zip(seen, alone, strict=True)):
            return canvas, [
                annotation(mask, owners - 1 - PARTS * n, groups[n], joints[n]) for n, mask in enumerate(seen)
            ]


def person(
    bodies: Sequence[Any], split: str, size: tuple[int, int], rng: np.random.Generator
) -> tuple[list[Part], Array, float]:
    """Someone somewhere in a picture of `size`: parts, key points (17, 2) and height in pixels."""
    body = bodies[int(rng.integers(len(bodies)))]
    joints = pose(body, rng)
    height = rng.uniform(0.45, 1.0) * min(size)
    place = np.array([rng.uniform(0.12, 0.88) * size[1], rng.uniform(0.35, 0.75) * size[0]])
    parts = parts_of(body, joints, dress(rng, split), place, height)
    return parts, np.stack([joints[name][:2] * height + place for name in NAMES]), height


def background(photos: Sequence[Pixels], size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A part of a photograph in other light."""
    photo = photos[int(rng.integers(len(photos)))]
    share = rng.uniform(0.4, 1.0) * min(photo.shape[0] / size[0], photo.shape[1] / size[1])
    high, wide = int(size[0] * share), int(size[1] * share)
    top, left = (int(rng.integers(n - m + 1)) for n, m in zip(photo.shape, (high, wide), strict=False))
    part = Image.fromarray(photo[top : top + high, left : left + wide].astype(np.uint8))
    canvas = np.array(part.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
    canvas = canvas[:, ::-1] if rng.random() < 0.5 else canvas
    return np.ascontiguousarray((canvas * rng.normal(1, 0.12, 3) * rng.uniform(0.6, 1.2)).clip(0, 255), np.float32)


def put_sticks(canvas: Pixels, split: str, rng: np.random.Generator) -> None:
    """What is no limb of anybody, behind everybody: up to three pieces of cloth in the form of one."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(4))):
        middle, along = rng.uniform(0, 1, 2) * [width, height], rng.normal(0, 0.08, 2) * min(width, height)
        radii = rng.uniform(0.01, 0.04) * min(width, height), rng.uniform(0.01, 0.04) * min(width, height)
        stick = Part("stick", np.stack([middle - along, middle + along]), radii, 0.0, dress(rng, split).trousers)
        draw(canvas, np.zeros((height, width), np.int32), [stick], 1, float(height))


def cover(canvas: Pixels, owners: npt.NDArray[np.int32], photos: Sequence[Pixels], rng: np.random.Generator) -> None:
    """Something in front of everybody: an oval piece of another photograph."""
    height, width = owners.shape
    patch = background(photos, (height, width), rng)
    y, x = np.mgrid[:height, :width]
    middle = rng.uniform(0.1, 0.9, 2) * [height, width]
    radii = rng.uniform(0.06, 0.2, 2) * [height, width]
    inside = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 < 1
    canvas[inside] = patch[inside]
    owners[inside] = 0


def annotation(
    mask: npt.NDArray[np.bool_], owners: npt.NDArray[np.int32], parts: Sequence[Part], points: Array
) -> dict[str, Any]:
    """COCO's record of a person: visibility 2 where a pixel of what shows the point is seen, 1 where it is hidden, 0
    outside the picture. `owners` (H, W) are numbers of this person's parts, where they are in 0..31."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    triplets: list[float] = []
    for name, (x, y) in zip(NAMES, points, strict=True):
        column, row = round(float(x)), round(float(y))
        if not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]):
            triplets += [0, 0, 0]
            continue
        owner = owners[row, column]
        is_seen = 0 <= owner < len(parts) and parts[owner].name in SHOWN_BY[name]
        triplets += [round(float(x), 2), round(float(y), 2), 2 if is_seen else 1]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": int(mask.sum()),
        "keypoints": triplets,
        "num_keypoints": sum(v > 0 for v in triplets[2::3]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for train/, val/, train.json and val.json")
    parser.add_argument("--train", type=int, default=2000, help="pictures to train on (default: 2000)")
    parser.add_argument("--val", type=int, default=400, help="pictures to test on (default: 400)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for split, count in (("train", args.train), ("val", args.val)):
        print(write_split(args.out, split, count, args.seed))


if __name__ == "__main__":
    main()
