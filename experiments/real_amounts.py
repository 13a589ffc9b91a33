"""What the amounts that `timelines.fit` measures tell of the way a camera goes, alone and beside the network's word.

python experiments/real_amounts.py --media DIR --out DIR [--checkpoint FILE] [--made SET] [--write FILE]

The shots are those of `real_shots.py`, the digital moves those of `real_fusion.py`. How far a camera must go before it
is taken for going there, how firmly that is meant, and how much the network's word weighs beside it, are fitted to the
shots of all films but one, and to the digital moves of all standing films but that one (from a tenth on, where they are
moves and no standing camera, to four tenths), and tried on the one that was left out, for each in turn. What `--write`
puts into a copy of the checkpoint is fitted to all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import numpy.typing as npt
import real_fusion
from real_fusion import AMOUNTS, SEVEN, Rows, wilson
from real_shots import RATE, Media, Shot, read_list, shot_views
from scipy.optimize import minimize

from uniformer.camera_motion.classes import CLASSES
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import BUNDLED
from uniformer.checkpoints.save import save_checkpoint
from uniformer.inference.predictor import Predictor
from uniformer.reading.views import frames_within, load_views, open_clip
from uniformer.tasks.fusion import Fusion
from uniformer.timelines.fit import Step, Tracker, total
from uniformer.timelines.levels import LEAST

#: direction -> one of `Amounts`, its sign, and where the fit of its reach begins
MEASURED = {
    "left": ("x", -0.06), "right": ("x", 0.06), "up": ("y", 0.07), "down": ("y", -0.07),
    "in": ("growth", 0.09), "out": ("growth", -0.09), "roll_left": ("roll", -8.0), "roll_right": ("roll", 8.0),
    "left_then_right": ("x_and_back", -0.15), "right_then_left": ("x_and_back", 0.15),
    "in_then_out": ("growth_and_back", 0.15), "out_then_in": ("growth_and_back", -0.15), "shake": ("shake", 0.05),
}  # fmt: skip
NAMES = tuple(dict.fromkeys(name for name, _ in MEASURED.values()))
BEGIN = np.array([next(abs(at) for other, at in MEASURED.values() if other == name) for name in NAMES])
OF_DIGITAL = 0.1  # that a digital move counts beside a shot: there are 18 of each film
WRONG = 0.03  # of labels and of what is measured: one shot of a hand that tilts by a sixth must not decide for all
# Where power and weight begin, and how firmly they are held there: 116 shots would have a power of 4, with which what
# is measured outvotes the network on clips that it knows (`--made`).
POWER, WEIGHT, HELD, SHRINK = 1.5, 1.0, 20.0, 6.0
MADE = 400  # clips
TAUGHT = (0.1, 0.2, 0.4)  # amounts of the digital moves that are learnt from


def level_of(name: str) -> tuple[str, str]:
    """A class of camera motion -> its direction and its kind, which is "" where the direction says all."""
    if name in ("push_in_then_pull_out", "pull_out_then_push_in"):
        return ("in_then_out", "push") if name.startswith("push") else ("out_then_in", "pull")
    kind, _, direction = name.partition("_")
    return (name, "") if kind in ("roll", "shake", "static") else (direction, kind)


LEVELS = {name: level_of(name) for name in CLASSES}
DIRECTIONS = tuple(dict.fromkeys(way for way, _ in LEVELS.values()))
CLASS_NAMES = tuple(CLASSES)
OF = np.array([DIRECTIONS.index(way) for way, _ in LEVELS.values()])  # (K,)
MEMBER = (OF[:, None] == np.arange(len(DIRECTIONS))).astype(float)  # (K, D)
#: as the digital moves are called
WAYS = dict(zip(SEVEN, ("left", "right", "up", "down", "in", "out", "static"), strict=True))


@dataclass(frozen=True)
class Reach:
    """What was learnt from shots."""

    numbers: Rows  #: logarithms of a reach for each of NAMES, the power, the weight

    def odds(self, measured: Rows) -> Rows:
        """Amounts (N, names) -> log odds of directions (N, D) against none."""
        found = np.zeros((len(measured), len(DIRECTIONS)))
        for direction, (name, sign) in MEASURED.items():
            place = NAMES.index(name)
            ratio = np.sign(sign) * measured[:, place] / np.exp(self.numbers[place])
            found[:, DIRECTIONS.index(direction)] = np.log(np.maximum(ratio, LEAST))
        return found * np.exp(self.numbers[-2])

    def joined(self, log_p: Rows, measured: Rows) -> Rows:
        """The network's log probabilities (N, K) and amounts -> log probabilities of both (N, K)."""
        return real_fusion.log_softmax(np.exp(self.numbers[-1]) * log_p + self.odds(measured)[:, OF])

    def details(self) -> dict[str, Any]:
        """As a contract has it."""
        reaches = dict(zip(NAMES, np.exp(self.numbers), strict=False))
        reach = {way: [name, round(float(np.sign(at) * reaches[name]), 4)] for way, (name, at) in MEASURED.items()}
        power, weight = np.exp(self.numbers[-2:]).round(3).tolist()
        levels = {name: list(level) for name, level in LEVELS.items()}
        return {"levels": levels, "reach": reach, "power": power, "weight": weight}


@dataclass(frozen=True)
class Seen:
    """Shots or digital moves: what the network and the fit say of them."""

    films: npt.NDArray[np.str_]  #: (N,)
    evidence: Rows  #: (N, K) of the network, before temperature and prior
    measured: Rows  #: (N, names)
    truth: npt.NDArray[np.int64]  #: (N,) direction
    labels: tuple[str, ...] = ()  #: of shots: their classes

    def __getitem__(self, rows: Any) -> Seen:
        labels = tuple(np.array(self.labels)[rows]) if self.labels else ()
        return Seen(self.films[rows], self.evidence[rows], self.measured[rows], self.truth[rows], labels)


def likelihoods(p: Rows, truth: npt.NDArray[np.int64]) -> Rows:
    """Logarithms of the probabilities (N, K) of what is true (N,), where now and then anything at all is said."""
    found: Rows = np.log((1 - WRONG) * p[np.arange(len(p)), truth] + WRONG / p.shape[1])
    return found


def fit_reach(shots: Seen, shots_log_p: Rows, moves: Seen, moves_log_p: Rows) -> Reach:
    """The likeliest numbers, which are held near to where they begin."""
    exact = np.array([CLASS_NAMES.index(label) for label in shots.labels])
    begin = np.append(np.log(BEGIN), np.log([POWER, WEIGHT]))

    def loss(numbers: Rows) -> float:
        reach = Reach(numbers)
        found = -likelihoods(np.exp(reach.joined(shots_log_p, shots.measured)), exact).sum()
        if len(moves.films):
            ways = np.exp(reach.joined(moves_log_p, moves.measured)) @ MEMBER
            found -= OF_DIGITAL * likelihoods(ways, moves.truth).sum()
        off = numbers - begin
        return float(found + SHRINK * (off[:-2] ** 2).sum() + HELD * (off[-2:] ** 2).sum())

    return Reach(minimize(loss, begin, method="L-BFGS-B").x)


def fit_alone(seen: Seen) -> Reach:
    """The same where there is no network: directions only."""
    begin = np.append(np.log(BEGIN), [np.log(2.0), 0.0])

    def loss(numbers: Rows) -> float:
        p = np.exp(real_fusion.log_softmax(Reach(numbers).odds(seen.measured)))
        off = numbers - begin
        return float(-likelihoods(p, seen.truth).sum() + 2 * (off[:-2] ** 2).sum() + 0.5 * off[-2] ** 2)

    return Reach(minimize(loss, begin, method="L-BFGS-B").x)


# ---- what is seen ----------------------------------------------------------------------------------------------------


def measured(steps: Sequence[Step]) -> list[float]:
    """The amounts of NAMES; of what shows nothing to follow, none."""
    amounts = total(steps)
    return [0.0 if amounts is None else float(getattr(amounts, name)) for name in NAMES]


def shot_frames(film: Path | list[Path], shot: Shot) -> tuple[list[Any], Rows]:
    """All frames of a shot, uint8 RGB, and their times in seconds."""
    with open_clip(film) as reader:
        if isinstance(film, Path):
            first, count = frames_within(reader, (shot.start, shot.end))
            times = reader.times(range(first, first + count))
        else:
            first = round(shot.start * RATE)
            count = min(round(shot.end * RATE), reader.info.num_frames) - first
            times = np.arange(count) / RATE
        return list(reader.read(range(first, first + count))), times


def steps_of(frames: Sequence[Any], times: Rows) -> list[Step]:
    tracker = Tracker()
    return [step for frame, at in zip(frames, times, strict=True) if (step := tracker.add(frame, float(at)))]


def see_shots(films: Mapping[Shot, Any], predictor: Predictor, fusion: Fusion) -> Seen:
    rows = []
    for shot, film in films.items():
        evidence = fusion.evidence(predictor.logits(shot_views(film, shot, predictor).array))
        rows.append((f"{shot.source}/{shot.path}", evidence, measured(steps_of(*shot_frames(film, shot))), shot.label))
    return labelled(rows)


def see_moves(clips: Iterable[tuple[str, str, float, Any]], predictor: Predictor, fusion: Fusion) -> tuple[Seen, Rows]:
    """Digital moves, and the amount of each (N,)."""
    rows = []
    for film, name, amount, clip in clips:
        evidence = fusion.evidence(predictor.logits(load_views(clip, predictor.spec, fps=real_fusion.RATE).array))
        steps = steps_of(list(clip), np.arange(len(clip)) / real_fusion.RATE)
        rows.append((film, evidence, measured(steps), DIRECTIONS.index(WAYS[name]), amount))
    films, evidence, amounts, truth, sizes = zip(*rows, strict=True)
    seen = Seen(np.array(films), np.array(evidence, float), np.array(amounts), np.array(truth))
    return seen, np.array(sizes)


def see_made(folder: Path, predictor: Predictor, fusion: Fusion) -> Seen:
    """Clips of the benchmark's val, drawn at random: nothing is fitted to them."""
    files = sorted((folder / "val").glob("*/*.mp4"))
    rows = []
    for file in np.random.default_rng(0).permutation(np.array(files, object))[:MADE]:
        with open_clip(file) as reader:
            frames = list(reader.read(range(reader.info.num_frames)))
            times = reader.times(range(reader.info.num_frames))
        views = load_views(np.stack(frames), predictor.spec, fps=len(times) / (times[-1] + times[1] - times[0]))
        label = file.parent.name
        evidence = fusion.evidence(predictor.logits(views.array))
        rows.append((f"{label}/{file.name}", evidence, measured(steps_of(frames, times)), label))
    return labelled(rows)


def labelled(rows: Iterable[tuple[str, Any, Any, str]]) -> Seen:
    """Film, evidence, amounts and label of each."""
    films, evidence, amounts, labels = zip(*rows, strict=True)
    truth = np.array([DIRECTIONS.index(LEVELS[label][0]) for label in labels])
    return Seen(np.array(films), np.array(evidence, float), np.array(amounts), truth, labels)


# ---- what is right ---------------------------------------------------------------------------------------------------


Answer = Callable[[Seen, Seen, Seen], Rows]


@dataclass(frozen=True)
class Tried:
    """Probabilities by numbers that were fitted without the film: of classes, or of directions where that is all."""

    shots: Rows
    moves: Rows


def each_left_out(shots: Seen, moves: Seen, taught: npt.NDArray[np.bool_], answer: Answer) -> Tried:
    """`answer(shots and moves to learn from, what to answer)` for each film in turn; of moves, those `taught`."""
    found: dict[str, Rows] = {}
    for film in sorted({*shots.films, *moves.films}):
        learnt = shots[shots.films != film], moves[(moves.films != film) & taught]
        for kind, seen in (("shots", shots), ("moves", moves)):
            mine = seen.films == film
            if mine.any():
                rows = answer(*learnt, seen[mine])
                found.setdefault(kind, np.zeros((len(seen.films), rows.shape[1])))[mine] = rows
    return Tried(**found)


def network(shots: Seen, moves: Seen, asked: Seen) -> Rows:
    """As it is in a checkpoint: temperature and prior."""
    return real_fusion.fit(shots.evidence, shots.labels, CLASS_NAMES).probabilities(asked.evidence, CLASS_NAMES)


def amounts_alone(shots: Seen, moves: Seen, asked: Seen) -> Rows:
    """Directions, by what was measured."""
    return np.exp(real_fusion.log_softmax(fit_alone(shots).odds(asked.measured)))


def learn_both(shots: Seen, moves: Seen) -> tuple[Callable[[Seen], Rows], Reach]:
    """What the network says in log probabilities, and the reach beside it."""
    of_network = real_fusion.fit(shots.evidence, shots.labels, CLASS_NAMES)

    def log_p(seen: Seen) -> Rows:
        return np.log(of_network.probabilities(seen.evidence, CLASS_NAMES) + 1e-12)

    return log_p, fit_reach(shots, log_p(shots), moves, log_p(moves))


def together(shots: Seen, moves: Seen, asked: Seen) -> Rows:
    """Both, as a checkpoint with a reach has it."""
    log_p, reach = learn_both(shots, moves)
    return np.exp(reach.joined(log_p(asked), asked.measured))


ANSWERS: dict[str, Answer] = {
    "the network": network,
    "amounts alone": amounts_alone,
    "together, as shipped": together,
}


def by_direction(p: Rows) -> Rows:
    return p if p.shape[1] == len(DIRECTIONS) else p @ MEMBER


def scores(title: str, p: Rows, seen: Seen) -> tuple[str, ...]:
    """Of the seven directions, of all merged classes, exactly, and merged of the four fifths that are surest."""
    ways = by_direction(p)
    merged = ways.argmax(1) == seen.truth
    seven = merged[np.isin(seen.truth, [DIRECTIONS.index(way) for way in WAYS.values()])]
    surest = np.argsort(-ways.max(1), kind="stable")[: round(0.8 * len(p))]
    exact = [CLASS_NAMES[k] == label for k, label in zip(p.argmax(1), seen.labels, strict=True)]
    parts = [seven, merged, np.array(exact) if p is not ways else None, merged[surest]]
    return title, *("-" if x is None else wilson(int(x.sum()), len(x)) for x in parts)


def moves_table(ways: Mapping[str, Rows], seen: Seen, sizes: Rows) -> str:
    """Per cent of the digital moves whose direction is right."""
    rows = []
    for title, p in ways.items():
        right = by_direction(p).argmax(1) == seen.truth
        for kind, pair in (("sideways", ("left", "right")), ("vertical", ("up", "down")), ("zoom", ("in", "out"))):
            mine = np.isin(seen.truth, [DIRECTIONS.index(way) for way in pair])
            cells = [f"{100 * right[mine & (sizes == amount)].mean():.0f}" for amount in AMOUNTS]
            rows.append((title, kind, *cells))
    return common.markdown(("", "", *(f"{amount:g}" for amount in AMOUNTS)), rows)


def calibration(p: Rows, seen: Seen) -> str:
    """How often a direction is right that is so sure."""
    sure, right = by_direction(p).max(1), by_direction(p).argmax(1) == seen.truth
    rows = []
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.97), (0.97, 1.01)):
        mine = (sure >= low) & (sure < high)
        if mine.any():
            rows.append(
                (
                    f"{low:g} to {min(high, 1):g}",
                    int(mine.sum()),
                    f"{sure[mine].mean():.2f}",
                    f"{right[mine].mean():.2f}",
                )
            )
    return common.markdown(("confidence", "shots", "mean", "right"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="where the packages and repositories are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", default=BUNDLED, help="one with what `real_fusion.py` fits")
    parser.add_argument(
        "--made", type=Path, help="a set of `uniformer data make camera-motion`, to see what amounts cost"
    )
    parser.add_argument("--write", type=Path, help="a copy of the checkpoint, with what was fitted to all shots")
    args = parser.parse_args()
    begin = time.perf_counter()
    predictor, media = Predictor(args.checkpoint), Media(args.media)
    fusion = Fusion(predictor.contract)
    films = {shot: film for shot in read_list() if (film := media.film(shot.source, shot.path)) is not None}
    shots = see_shots(films, predictor, fusion)
    moves, sizes = see_moves(real_fusion.digital_clips(list(films), media), predictor, fusion)
    taught = np.isin(sizes, TAUGHT)
    tried = {title: each_left_out(shots, moves, taught, answer) for title, answer in ANSWERS.items()}
    log_p, reach = learn_both(shots, moves[taught])
    details = {**predictor.contract.details, **reach.details()}
    head = ("", "direction of seven", "merged", "exact", "merged, surest 80 %")
    agree = np.equal(*(by_direction(tried[title].shots).argmax(1) for title in list(ANSWERS)[:2]))
    right = by_direction(tried["amounts alone"].shots).argmax(1) == shots.truth
    texts = {
        f"{len(films)} real shots, right, %": common.markdown(
            head, [scores(t, x.shots, shots) for t, x in tried.items()]
        ),
        "Where both agree": f"{agree.mean():.2f} of the shots, {right[agree].mean():.3f} of these right\n",
        "How sure, together": calibration(tried["together, as shipped"].shots, shots),
        f"{len(sizes)} digital moves, right by amount, %": moves_table(
            {title: x.moves for title, x in tried.items()}, moves, sizes
        ),
    }
    if args.made:
        made = see_made(args.made, predictor, fusion)
        said = {"the network": np.exp(log_p(made)), "together": np.exp(reach.joined(log_p(made), made.measured))}
        right_of = {title: (by_direction(p).argmax(1) == made.truth).mean() for title, p in said.items()}
        told = "".join(f"- {title}: {100 * share:.1f}\n" for title, share in right_of.items())
        texts[f"{len(made.films)} made clips, right in direction, %"] = told
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"conditions": common.conditions((time.perf_counter() - begin) / 60, 1), "details": details}
    common.write_report(args.out, facts, "\n".join(f"### {title}\n\n{text}" for title, text in texts.items()))
    if args.write:
        model, contract, _ = load_model(args.checkpoint)  # as it is kept, in 16 bits
        save_checkpoint(model, args.write, replace(contract, details=details))


if __name__ == "__main__":
    main()
