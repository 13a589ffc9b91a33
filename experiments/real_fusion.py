"""How the answers to the parts of a shot are best put together, and what real films teach about it: how sure to be, and
how much more often cameras turn than move.

python experiments/real_fusion.py --media DIR --out DIR [--checkpoint FILE] [--whole] [--write FILE]

The shots are those of `real_shots.py`. A temperature and four priors are fitted to all films but one and tried on that
one, for each in turn, so that no shot is judged by numbers that it had a part in; what `--write` puts into a copy of
the checkpoint is fitted to all. Besides, real films of standing cameras are moved digitally, slowly and fast, which
nothing here was fitted to.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import numpy.typing as npt
from PIL import Image
from real_shots import MERGED, Media, Shot, read_list, shot_views
from scipy.optimize import minimize

from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import BUNDLED
from uniformer.checkpoints.save import save_checkpoint
from uniformer.inference.predictor import Predictor
from uniformer.reading.views import frames_within, load_views, open_clip
from uniformer.tasks.fusion import Fusion
from uniformer.timelines.fit import measure, total

#: The whole, its halves and its quarters; a timeline's windows begin every quarter of their length, and share them.
PARTS = ((0, 1), (0, 0.5), (0.25, 0.75), (0.5, 1), (0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1))
KINDS = {"turn": ("pan_", "tilt_"), "move": ("truck_", "pedestal_", "push_in", "pull_out"), "zoom": ("zoom_",)}
KINDS["static"] = ("static",)  # of all other classes the prior is 1
SHRINK = 6.0  # of squared log priors: firm, as the list's share of standing shots is nobody's, and hides slow moves
SEVEN = ("sideways_left", "sideways_right", "vertical_up", "vertical_down", "nearer", "farther", "static")
AMOUNTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)  # widths in two seconds; of zooms, doublings
FRAMES, RATE = 48, 24.0  # of a digital move
STANDS = 0.01  # widths, heights and doublings that a film may do of itself, measured, to be moved digitally

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """What was learnt from shots."""

    temperature: float
    prior: Mapping[str, float]  #: by class, 1 where not named

    def probabilities(self, evidence: Rows, classes: Sequence[str]) -> Rows:
        """(N, K) -> (N, K)"""
        return np.exp(log_softmax(evidence / self.temperature + np.log([self.prior.get(c, 1.0) for c in classes])))


def kind_of(name: str) -> str | None:
    found = (kind for kind, starts in KINDS.items() if name.startswith(starts) and "_then_" not in name)
    return next(found, None)


def fit(evidence: Rows, labels: Sequence[str], classes: Sequence[str]) -> Fit:
    """The likeliest temperature and priors, which are shrunk towards 1."""
    truth = np.array([classes.index(label) for label in labels])
    kinds = list(KINDS)
    member = np.array([[kind_of(name) == kind for name in classes] for kind in kinds], float)

    def loss(numbers: Rows) -> float:
        log_p = log_softmax(evidence * np.exp(numbers[0]) + numbers[1:] @ member)
        return float(-log_p[np.arange(len(truth)), truth].sum() + SHRINK * (numbers[1:] ** 2).sum())

    best = minimize(loss, np.zeros(1 + len(kinds)), method="L-BFGS-B").x
    factors = dict(zip(kinds, np.exp(best[1:]).round(2).tolist(), strict=True))
    prior = {name: factors[kind] for name in classes if (kind := kind_of(name))}
    return Fit(round(float(np.exp(-best[0])), 3), prior)


def held_out(evidence: Rows, shots: Sequence[Shot], classes: Sequence[str]) -> Rows:
    """Probabilities of each shot by numbers fitted without its film, (N, K)."""
    found = np.zeros_like(evidence)
    films = np.array([f"{shot.source}/{shot.path}" for shot in shots])
    for film in sorted(set(films)):
        mine = films == film
        others = [shot.label for shot, is_mine in zip(shots, mine, strict=True) if not is_mine]
        found[mine] = fit(evidence[~mine], others, classes).probabilities(evidence[mine], classes)
    return found


def wilson(right: int, count: int) -> str:
    """'91.3 (84.4 to 95.4)': per cent, and its interval of 95 % by Wilson's score."""
    z, p = 1.96, right / count
    middle, half = p + z * z / 2 / count, z * np.sqrt(p * (1 - p) / count + z * z / 4 / count**2)
    low, high = (100 * (middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return f"{100 * p:.1f} ({low:.1f} to {high:.1f})"


def row(title: str, p: Rows, labels: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Of the seven directions, of all merged classes, exactly, and merged of the four fifths that are surest."""
    said = [classes[i] for i in p.argmax(1)]
    merged = np.array([MERGED.get(s, s) == MERGED.get(label, label) for s, label in zip(said, labels, strict=True)])
    seven = merged[[MERGED.get(label, label) in SEVEN for label in labels]]
    surest = np.argsort(-p.max(1), kind="stable")[: round(0.8 * len(p))]
    exact = [s == label for s, label in zip(said, labels, strict=True)]
    return (title, *(wilson(int(np.sum(x)), len(x)) for x in (seven, merged, exact, merged[surest])))


def digital_clips(shots: Sequence[Shot], media: Media) -> Iterator[tuple[str, str, float, npt.NDArray[np.uint8]]]:
    """Moves of a window over standing films: the film, the merged class, the amount, and the frames at `RATE`."""
    seen = set[str]()
    for shot in shots:
        film = media.film(shot.source, shot.path)
        if shot.label != "static" or shot.path in seen or not isinstance(film, Path):
            continue
        with open_clip(film) as reader:
            if min(reader.info.height, reader.info.width) < 240:
                continue
            first, count = frames_within(reader, (shot.start, shot.end))
            numbers = first + np.arange(FRAMES) * count // FRAMES
            frames = reader.read(numbers.tolist())
        if not stands(frames):
            continue
        seen.add(shot.path)
        pictures = [Image.fromarray(frame) for frame in frames]
        for name in SEVEN[:-1]:
            for amount in AMOUNTS:
                clip = [moved(p, name, amount, i / (FRAMES - 1) - 0.5) for i, p in enumerate(pictures)]
                yield f"{shot.source}/{shot.path}", name, amount, np.stack(clip)


def stands(frames: Sequence[npt.NDArray[np.uint8]]) -> bool:
    """Whether the camera really stands: a shot in the hand that wanders by a twentieth is called static too, and would
    add its own way to the one that it is moved."""
    amounts = total(measure(frames, np.arange(len(frames)) / RATE))
    return amounts is not None and max(abs(amounts.x), abs(amounts.y), abs(amounts.growth)) < STANDS


def moved(picture: Image.Image, name: str, amount: float, moment: float) -> npt.NDArray[np.uint8]:
    """What a window over the picture shows at a moment from -0.5 to 0.5 of the move, (96, 96, 3)."""
    (x, y), least = (picture.width / 2, picture.height / 2), min(picture.size)
    side, way = least / 2.7, amount * moment * (-1 if name in ("sideways_left", "vertical_up", "farther") else 1)
    if name.startswith("sideways"):
        x += way * side
    elif name.startswith("vertical"):
        y += way * side
    else:
        side = min(0.55 * least * 2**-way, least)
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return np.asarray(picture.resize((96, 96), Image.Resampling.BICUBIC, box=box))


def digital_table(moves: Sequence[tuple[str, float, Any]], ways: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Per cent whose merged class is right, by way of putting together, direction and amount."""
    rows = []
    for title, answer in ways.items():
        for kind in ("sideways", "vertical", "er"):
            cells = []
            for amount in AMOUNTS:
                mine = [(n, x) for n, a, x in moves if a == amount and (n.startswith(kind) or n.endswith(kind))]
                said = [classes[int(answer(x).argmax())] for _, x in mine]
                right = [MERGED.get(s, s) == n for s, (n, _) in zip(said, mine, strict=True)]
                cells.append(f"{100 * np.mean(right):.0f}")
            rows.append((title, "zoom" if kind == "er" else kind, *cells))
    return common.markdown(("", "", *(f"{amount:g}" for amount in AMOUNTS)), rows)


def log_softmax(x: Rows) -> Rows:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="where the packages and repositories are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default=BUNDLED)
    parser.add_argument("--whole", action="store_true", help="what the whole of a shot says, without its parts")
    parser.add_argument("--write", type=Path, help="a copy of the checkpoint, with what was fitted to all shots")
    args = parser.parse_args()
    begin = time.perf_counter()
    model, contract, _ = load_model(args.checkpoint)
    classes = contract.classes
    slow = {"static": [name for name in classes if name not in ("static", "shake")]}
    parts = {"parts": [list(map(float, part)) for part in PARTS], "slow": slow}
    details: dict[str, Any] = {} if args.whole else parts
    unfitted = replace(contract, details=details)
    predictor, media, fusion = Predictor((model.float(), unfitted)), Media(args.media), Fusion(unfitted)
    films = {shot: film for shot in read_list() if (film := media.film(shot.source, shot.path)) is not None}
    shots, labels = list(films), [shot.label for shot in films]
    logits = [predictor.logits(shot_views(film, shot, predictor).array) for shot, film in films.items()]
    evidence = np.array([fusion.evidence(x) for x in logits], float)
    mean = np.array([log_softmax(x).mean(0) for x in logits])
    alone = np.array([x[0] for x in logits], float)
    answers = {
        "the whole alone": np.exp(log_softmax(alone)),
        "the whole alone, fitted": held_out(alone, shots, classes),
    }
    if not args.whole:
        answers["mean of all parts"] = np.exp(log_softmax(mean))
        answers["together, fitted"] = held_out(evidence, shots, classes)
    rows = [row(title, p, labels, classes) for title, p in answers.items()]
    fitted = fit(evidence, labels, classes)
    details |= {"temperature": fitted.temperature, "prior": dict(fitted.prior)}
    final = Fusion(replace(contract, details=details))
    moves = [
        (name, amount, predictor.logits(load_views(clip, predictor.spec, fps=RATE).array))
        for _, name, amount, clip in digital_clips(shots, media)
    ]
    ways = {
        "the whole alone": lambda x: x[0],
        **({} if args.whole else {"mean of all parts": lambda x: log_softmax(x).mean(0)}),
        "fitted": final,
    }
    head = ("", "direction of seven", "merged", "exact", "merged, surest 80 %")
    text = (
        f"### {len(shots)} real shots, right, %\n\n{common.markdown(head, rows)}\n### {len(moves)} digital moves, "
        f"right by amount, %\n\n{digital_table(moves, ways, classes)}\nFitted to all: {fitted}\n"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, 1), "details": details}
    common.write_report(args.out, facts, text)
    if args.write:
        half, contract, _ = load_model(args.checkpoint)  # as it is kept, in 16 bits
        save_checkpoint(half, args.write, replace(contract, details=details))


if __name__ == "__main__":
    main()
