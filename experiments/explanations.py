"""Whether explanations point at what the networks go by: over time, in pictures, and when it is taken away.

python experiments/explanations.py --out DIR [--clips N] [--media DIR] [--rooms SET --segmenter FILE --detector FILE]
                                   [--photos SET --classifier FILE]

Clips are photographs filmed digitally: the camera stands, moves and stands again, and the model in the package says how
it moves; with the films of `real_shots.py` (`--media`) real motion lies between frames that stand. Both are explained
as one clip, and window by window. `--rooms` is a set that `uniformer data make rooms` wrote, and networks that learnt
from it; their classes are pointed at in pictures of its `val` part. `--photos` is a set of `photo_parts.py`, and a
classifier that learnt from it: of four parts in a square it is to point at the one of the photograph that it is asked
for.

A bar or a map points right where its highest value lies within the motion, the pixels of the class, the box. Deletion
and insertion (Petsiuk et al. 2018) blur the fifths of a source that count most, one after the other, or blur all and
bring them back: the mean probability of the class over all steps, small for deletion, large for insertion, against a
random order and one from the middle outwards.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import common
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from real_paths import write_video
from real_shots import Media, read_list

from uniformer.explanations.explain import Explainer
from uniformer.explanations.explanation import Explanation
from uniformer.reading.pictures import open_picture, to_pixels
from uniformer.reading.views import open_clip

SIZE, FRAMES, RATE = (128, 96), 96, 24.0  # of a clip
STEPS = 5  # of a curve
PIECES = 12  # of a clip, that are blurred or not
NEAR = 8  # pixels that a peak may miss by, half a token of stage 3
LEAST = 200  # pixels of an object that is pointed at
OTHERS = ("random", "middle")  # orders that explanations are to beat
MOVES = ("left", "right", "up", "down", "in", "out")

Pixels = NDArray[np.uint8]
Values = NDArray[np.floating[Any]]
Explain = Callable[[Explainer, "Clip", str], Explanation]


class Clip(NamedTuple):
    pixels: Pixels  #: (T, H, W, 3)
    begin: int  #: the first frame of the motion, and the one after its last
    end: int


# ---- over time -------------------------------------------------------------------------------------------------------


def own_photos() -> Iterator[Image.Image]:
    """Those in the package, 640 pixels wide."""
    for path in sorted((files("uniformer") / "assets" / "photos").iterdir(), key=str):
        if path.name.endswith(".jpg"):
            with Image.open(str(path)) as photo:
                yield photo.convert("RGB").resize((640, 640 * photo.height // photo.width))


def moving_clip(rng: np.random.Generator, photos: Sequence[Image.Image]) -> Clip:
    """A window over a photograph that stands, moves for a quarter to two fifths of the clip, and stands again."""
    photo, move = photos[rng.integers(len(photos))], rng.choice(MOVES)
    length = int(rng.integers(FRAMES // 4, 2 * FRAMES // 5 + 1))
    begin, amount = int(rng.integers(0, FRAMES - length + 1)), rng.uniform(0.4, 0.9)
    half = 0.175 * min(photo.width / 4, photo.height / 3)
    x, y = rng.uniform(0.35, 0.65) * photo.width, rng.uniform(0.4, 0.6) * photo.height
    frames = []
    for done in np.clip((np.arange(FRAMES) - begin) / length, 0, 1) * amount:
        zoom = 2.0 ** {"in": -done, "out": done - amount}.get(move, 0.0)
        across = x + 4 * half * done * {"left": -1, "right": 1}.get(move, 0)
        down = y + 3 * half * done * {"up": -1, "down": 1}.get(move, 0)
        w, h = 4 * half * zoom, 3 * half * zoom
        box = (max(0, across - w), max(0, down - h), min(photo.width, across + w), min(photo.height, down + h))
        frames.append(np.asarray(photo.resize(SIZE, Image.Resampling.BICUBIC, box=box)))
    return Clip(np.stack(frames), begin, begin + length)


def made_clips(rng: np.random.Generator) -> Iterator[Clip]:
    photos = list(own_photos())
    while True:
        yield moving_clip(rng, photos)


def real_clips(media: Path, rng: np.random.Generator) -> Iterator[Clip]:
    """The middle of each real shot that surely moves, at its own rate; the frame before it and after it stands."""
    films = Media(media)
    for shot in read_list():
        film = films.film(shot.source, shot.path)
        if film is None or shot.label == "static" or shot.sure != "sure":
            continue
        with open_clip(film, "pyav", None if isinstance(film, Path) else RATE) as reader:
            fps = reader.info.fps or RATE
            first, last = round(shot.start * fps), min(round(shot.end * fps), reader.info.num_frames)
            length = min(last - first, 2 * FRAMES // 5)
            if length < FRAMES // 4:
                continue
            begin = first + (last - first - length) // 2
            size = (SIZE[0], SIZE[0] * reader.info.height // reader.info.width)
            if min(size) < SIZE[1]:
                size = (SIZE[1] * reader.info.width // reader.info.height, SIZE[1])
            shown = [np.asarray(Image.fromarray(p).resize(size)) for p in reader.read(range(begin, begin + length))]
        before = int(rng.integers(0, FRAMES - length + 1))
        after = FRAMES - length - before
        yield Clip(np.stack([shown[0]] * before + shown + [shown[-1]] * after), before, before + length)


def by_windows(explainer: Explainer, clip: Clip, target: str) -> Explanation:
    """As of a film of any length: its windows of two seconds, side by side."""
    height, width = (side // 2 * 2 for side in clip.pixels.shape[1:3])
    with TemporaryDirectory() as folder:
        film = Path(folder, "clip.mp4")
        write_video(film, clip.pixels[:, :height, :width], Fraction(RATE))
        return explainer.timeline(film, target)


def as_one(explainer: Explainer, clip: Clip, target: str) -> Explanation:
    return explainer(clip.pixels, target, fps=RATE)


def over_time(
    clips: Iterator[Clip], count: int, curves: int, rng: np.random.Generator, explain: Explain = as_one
) -> dict[str, Any]:
    """Where bars peak, and what blurring frames in their order does."""
    explainer = Explainer(device="cpu")
    predictor = explainer.predictor
    names = predictor.contract.classes
    rows: list[dict[str, Any]] = []
    for clip in clips:
        if len(rows) >= count:
            break
        target = predictor(clip.pixels[clip.begin : clip.end], fps=RATE).labels[0].name
        if target == "static":
            continue
        found = explain(explainer, clip, target)
        row: dict[str, Any] = {
            "share": (clip.end - clip.begin) / FRAMES,
            "middle": clip.begin <= FRAMES // 2 < clip.end,
        }
        for kind in found.kinds:
            bar = found.over_time(kind)
            row[kind] = clip.begin <= int(bar.argmax()) < clip.end
            row[f"{kind} mass"] = float(bar[clip.begin : clip.end].sum() / (bar.sum() or 1))  # all 0: nothing counts
        if len(rows) < curves:
            label = names.index(target)

            def probability(pixels: Pixels, label: int = label) -> float:
                return float(predictor(pixels, fps=RATE).probabilities[label])

            edges = np.linspace(0, FRAMES, PIECES + 1).astype(int)
            pieces = [np.arange(a, b) for a, b in pairwise(edges)]
            worth = {k: np.array([found.over_time(k)[piece].mean() for piece in pieces]) for k in found.kinds}
            row["curves"] = curves_of(clip.pixels, pieces, worth, probability, rng)
        rows.append(row)
    return {"kinds": list(found.kinds), "rows": rows}


# ---- in pictures -----------------------------------------------------------------------------------------------------


def val_pictures(data: Path) -> Iterator[tuple[Pixels, NDArray[np.uint8], Path]]:
    """Pictures, their label maps, and where they lie."""
    for path in sorted((data / "images" / "val").iterdir()):
        with Image.open(path) as image, Image.open(data / "labels" / "val" / f"{path.stem}.png") as labels:
            yield np.asarray(image.convert("RGB")), np.asarray(labels), path


def points_right(found: Explanation, kind: str, where: NDArray[np.bool_]) -> tuple[bool, bool]:
    """Whether the highest value lies on true pixels, and within `NEAR` pixels of one."""
    heat = found.at(kind)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    around = where[max(0, y - NEAR) : y + NEAR + 1, max(0, x - NEAR) : x + NEAR + 1]
    return bool(where[y, x]), bool(around.any())


def pointed(found: Explanation, name: str, where: NDArray[np.bool_]) -> dict[str, Any]:
    """A case: whether each map points right, and a random point and the middle would."""
    middle = where[where.shape[0] // 2, where.shape[1] // 2]
    row: dict[str, Any] = {"class": name, "share": float(where.mean()), "middle": bool(middle)}
    for kind in found.kinds:
        row[kind], row[f"{kind} near"] = points_right(found, kind, where)
    return row


def in_pictures(data: Path, segmenter: Path, count: int, curves: int, seed: int) -> dict[str, Any]:
    """Classes of things, not of the room itself, that are in the picture and in the answer."""
    explainer, rng = Explainer(segmenter, device="cpu"), np.random.default_rng(seed)
    names = (data / "classes.txt").read_text("utf-8").split()
    things = [name for name in explainer.predictor.contract.classes if name not in ("wall", "floor", "ceiling")]
    rows: list[dict[str, Any]] = []
    for pixels, labels, _ in val_pictures(data):
        answer = explainer.predictor(pixels)
        for name in things:
            where, own = labels == names.index(name), answer.labels == explainer.predictor.contract.classes.index(name)
            if where.sum() < LEAST or (where & own).sum() < LEAST // 2 or len(rows) >= count:
                continue
            found = explainer(pixels, name)
            row = pointed(found, name, where)
            if len(rows) < curves:
                row["curves"] = curves_in_picture(pixels, found, share_of(explainer, name, own), rng)
            rows.append(row)
        if len(rows) >= count:
            break
    return {"kinds": ["stage4", "stage3", "stage2", "stage1", "attention"], "rows": rows}


def share_of(explainer: Explainer, name: str, own: NDArray[np.bool_]) -> Callable[[Pixels], float]:
    """The mean probability of a class where the answer to the whole picture had it."""
    label = explainer.predictor.contract.classes.index(name)
    rows, columns = np.nonzero(own)

    def probability(pixels: Pixels) -> float:
        views = explainer.predictor.views(pixels[0])
        with torch.inference_mode():
            shares = explainer.network(torch.from_numpy(views.array))[0].softmax(0)[label].numpy()
        return float(shares[rows * shares.shape[0] // own.shape[0], columns * shares.shape[1] // own.shape[1]].mean())

    return probability


def of_boxes(data: Path, detector: Path, count: int) -> dict[str, Any]:
    """The best box of each class of a picture, where it is right (half of the union with a true one)."""
    explainer = Explainer(detector, device="cpu", score=0.3)
    truth = json.loads((data / "annotations" / "instances_val.json").read_text("utf-8"))
    names = {c["id"]: c["name"] for c in truth["categories"]}
    numbers = {Path(i["file_name"]).name: i["id"] for i in truth["images"]}
    own: dict[int, list[Any]] = {}
    for one in truth["annotations"]:
        own.setdefault(one["image_id"], []).append((names[one["category_id"]], one["bbox"]))
    rows: list[dict[str, Any]] = []
    for pixels, labels, path in val_pictures(data):
        answer = explainer.predictor(pixels)
        for place, (label, box) in enumerate(zip(answer.labels.tolist(), answer.boxes.tolist(), strict=True)):
            name = answer.names[label]
            right = [b for n, b in own.get(numbers[path.name], []) if n == name and overlap(box, b) >= 0.5]
            if not right or label in answer.labels[:place].tolist() or len(rows) >= count:
                continue
            x, y, w, h = right[0]
            where = np.zeros(labels.shape, bool)
            where[round(y) : round(y + h), round(x) : round(x + w)] = True
            rows.append(pointed(explainer(pixels, name), name, where))
        if len(rows) >= count:
            break
    return {"kinds": ["stage4", "stage3", "stage2", "stage1", "attention"], "rows": rows}


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of x1, y1, x2, y2 and x, y, w, h."""
    left, top = max(box[0], other[0]), max(box[1], other[1])
    right, bottom = min(box[2], other[0] + other[2]), min(box[3], other[1] + other[3])
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + other[2] * other[3] - shared)


def in_photographs(data: Path, classifier: Path, count: int, curves: int, seed: int) -> dict[str, Any]:
    """Parts of photographs: each alone where the answer is right, for its curves, and in a square with three others."""
    explainer, rng = Explainer(classifier, device="cpu"), np.random.default_rng(seed)
    names = explainer.predictor.contract.classes
    files = [path for path in sorted((data / "val").rglob("*.jpg")) if path.parent.name in names]
    rows: list[dict[str, Any]] = []
    for number in rng.permutation(len(files)):
        if len(rows) >= count:
            break
        name = files[number].parent.name
        pixels = to_pixels(open_picture(files[number]))
        if explainer.predictor(pixels).labels[0].name != name:
            continue
        others = [path for path in files if path.parent.name != name]
        four = [to_pixels(open_picture(others[i])) for i in rng.choice(len(others), 3, replace=False)]
        place = int(rng.integers(4))
        four.insert(place, pixels)
        square = np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
        where = np.zeros(square.shape[:2], bool)
        side = len(pixels)
        where[place // 2 * side :, place % 2 * side :][:side, :side] = True
        found = explainer(square, name)
        row = pointed(found, name, where)
        if len(rows) < curves:

            def probability(pixels: Pixels, label: int = names.index(name)) -> float:
                return float(explainer.predictor(pixels[0]).probabilities[label])

            row["curves"] = curves_in_picture(pixels, explainer(pixels, name), probability, rng)
        rows.append(row)
    return {"kinds": list(found.kinds), "rows": rows}


# ---- deletion and insertion ------------------------------------------------------------------------------------------


def blurred(pixels: Pixels) -> Pixels:
    """Pictures (T, H, W, 3) of which a sixteenth of the detail is left."""
    height, width = pixels.shape[1:3]
    small = (max(1, width // 32), max(1, height // 32))
    return np.stack(
        [np.asarray(Image.fromarray(p).resize(small).resize((width, height), Image.Resampling.BICUBIC)) for p in pixels]
    )


def block_masks(size: Sequence[int], side: int = 16) -> list[NDArray[np.bool_]]:
    """Squares of a picture."""
    rows, columns = np.arange(size[0])[:, None] // side, np.arange(size[1]) // side
    number = rows * (columns[-1] + 1) + columns
    return [number == i for i in range(int(number.max()) + 1)]


def curves_in_picture(
    pixels: Pixels, found: Explanation, probability: Callable[[Pixels], float], rng: np.random.Generator
) -> dict[str, list[float]]:
    """`curves_of` a picture (H, W, 3) in squares."""
    blocks, heats = block_masks(pixels.shape[:2]), {kind: found.at(kind) for kind in found.kinds}
    worth = {kind: np.array([heat[block].mean() for block in blocks]) for kind, heat in heats.items()}
    return curves_of(pixels[None], blocks, worth, probability, rng)


def curves_of(
    pixels: Pixels,
    pieces: Sequence[Any],
    worth: Mapping[str, Values],
    probability: Callable[[Pixels], float],
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Deletion and insertion by the worth of pieces of a clip (indices of frames) or a picture (masks), at random, and
    from the middle outwards: means over the curves."""
    gone, is_clip = blurred(pixels), len(pixels) > 1
    middle = -np.abs(np.arange(len(pieces)) - (len(pieces) - 1) / 2)
    if not is_clip:
        places = np.array([[axis.mean() for axis in np.nonzero(piece)] for piece in pieces])
        middle = -np.linalg.norm(places - np.array(pieces[0].shape) / 2, axis=1)
    found = {}
    for name, values in {**worth, "random": rng.permutation(len(pieces)), "middle": middle}.items():
        best, means = np.argsort(-values, kind="stable"), []
        for start, other in ((pixels, gone), (gone, pixels)):
            now, curve = start.copy(), [probability(start)]
            for step in np.array_split(best, STEPS):
                for i in step:
                    where = pieces[i] if is_clip else (0, pieces[i])
                    now[where] = other[where]
                curve.append(probability(now))
            means.append(float(np.mean(curve)))
        found[name] = means
    return found


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(name: str, found: Mapping[str, Any]) -> str:
    """Pointing, and the curves of those cases that have some."""
    rows, kinds = found["rows"], found["kinds"]
    extra = [key for key in ("near", "mass") if f"{kinds[0]} {key}" in rows[0]]

    def mean(key: str) -> str:
        return f"{100 * np.mean([row[key] for row in rows]):.0f} %"

    text = f"\n{name}: {len(rows)} cases; a random point {mean('share')}, the middle {mean('middle')}\n\n"
    text += common.markdown(
        ["map", "peak within", *extra],
        [[kind, mean(kind), *(mean(f"{kind} {key}") for key in extra)] for kind in kinds],
    )
    with_curves = [row["curves"] for row in rows if "curves" in row]
    if with_curves:
        text += f"\nDeletion / insertion, {len(with_curves)} cases\n\n"
        means = {order: np.array([each[order] for each in with_curves]) for order in (*kinds, *OTHERS)}
        lines = []
        for order, own in means.items():
            line = [order, " / ".join(f"{v:.3f}" for v in own.mean(0))]
            for other in OTHERS:
                better = own[:, 0] < means[other][:, 0], own[:, 1] > means[other][:, 1]
                line.append(" / ".join(f"{100 * np.mean(b):.0f} %" for b in better))
            lines.append(line)
        text += common.markdown(["order", "mean", *(f"better than {other}" for other in OTHERS)], lines)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--curves", type=int, default=30, help="of the cases, those with deletion and insertion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--media", type=Path, help="films of real_shots.py")
    parser.add_argument("--rooms", type=Path)
    parser.add_argument("--segmenter", type=Path)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--photos", type=Path, help="a set of photo_parts.py")
    parser.add_argument("--classifier", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found: dict[str, Any] = {}

    def add(name: str, part: dict[str, Any]) -> None:
        found[name] = part
        print(table(name, part), flush=True)

    if args.clips:
        rng = np.random.default_rng(args.seed)
        add("Motion over time", over_time(made_clips(rng), args.clips, args.curves, rng))
        rng = np.random.default_rng(args.seed)
        add("The same, window by window", over_time(made_clips(rng), args.clips, 0, rng, by_windows))
    if args.rooms and args.segmenter:
        add("Classes of rooms", in_pictures(args.rooms, args.segmenter, args.cases, args.curves, args.seed))
    if args.rooms and args.detector:
        add("Boxes of rooms", of_boxes(args.rooms, args.detector, args.cases))
    if args.photos and args.classifier:
        add("Photographs", in_photographs(args.photos, args.classifier, args.cases, args.curves, args.seed))
    if args.clips and args.media:
        rng = np.random.default_rng(args.seed)
        add("Motion in real films", over_time(real_clips(args.media, rng), args.clips, args.curves, rng))
        rng = np.random.default_rng(args.seed)
        add("Real films, window by window", over_time(real_clips(args.media, rng), args.clips, 0, rng, by_windows))
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, 1), **found}
    common.write_report(args.out, facts, "".join(table(name, part) for name, part in found.items()))


if __name__ == "__main__":
    main()
