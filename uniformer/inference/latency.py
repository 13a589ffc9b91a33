"""A budget of latency for streams: stride, form and, where others are allowed, size or network, by measured times.

A change in the picture is seen by the next clip that is due, and told when the network has answered:

    stride + crop + network <= latency      (of several streams, whose clips may wait for each other, network twice)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from uniformer.checkpoints.contract import Contract
from uniformer.errors import InputError
from uniformer.inference.networks import TorchNetwork
from uniformer.inference.predictor import Predictor
from uniformer.inference.stream import clip_spec
from uniformer.reading.transforms import view_array
from uniformer.speed.timings import AT_ONCE, RUNTIMES, exported_path, view_size

ROUNDS = 7  # of which the slowest counts
BUSY = 0.8  # of the time, at most, that the network may compute


@dataclass(frozen=True)
class Choice:
    """What streams are to be seen by, and how often."""

    predictor: Predictor
    network: float  #: seconds for a clip of each stream, the slowest of some
    crop: float  #: seconds for a frame of each stream
    every: float | None  #: seconds between answers; None where the budget cannot be met
    least: float  #: the least latency that can be met

    @property
    def name(self) -> str:
        contract, spec = self.predictor.contract, clip_spec(self.predictor)
        size = "x".join(map(str, spec.size))
        return f"{contract.id or contract.arch}, {self.predictor.network.compute}, {size}"


def within_latency(
    candidates: Iterable[Predictor],
    latency: float,
    *,
    pictures: Sequence[tuple[int, int]],
    fps: float = 30.0,
    say: Callable[[str], None] = lambda line: None,
) -> Choice:
    """The first of some predictors, in the fastest form at hand, that tells a change within so many seconds, and as
    seldom as that allows.

    Args:
        candidates: in the order in which they are wanted; those after the one that is taken are not made.
        pictures: height and width of each stream's frames, (N of them).
        fps: frames a second of the slowest stream.
        say: told in a line what was taken, and why.

    Raises `InputError` where none meets it, with the least that can be met.
    """
    best: Choice | None = None
    for candidate in candidates:
        choices = [_choice(form, latency, pictures, fps) for form in forms_at_hand(candidate)]
        choice = min(choices, key=lambda one: one.least)
        if choice.every is not None:
            busy = choice.network / choice.every
            say(
                f"within {1e3 * latency:.0f} ms: {choice.name}, an answer every {1e3 * choice.every:.0f} ms; network "
                f"{1e3 * choice.network:.1f} ms (batch {len(pictures)}), crops {1e3 * choice.crop:.1f} ms, "
                f"busy {busy:.0%} of the time"
            )
            return choice
        best = choice if best is None or choice.least < best.least else best
    if best is None:
        raise InputError("expected a network to choose, got none")
    raise InputError(
        f"expected a latency that can be met here, got {1e3 * latency:.0f} ms: {best.name} needs "
        f"{1e3 * best.least:.0f} ms; another size or network may need less (--or-size, --or-checkpoint)"
    )


def waits(network: float, crop: float, streams: int, fps: float) -> float:
    """Seconds from a change to its answer beside the stride, at most; half a frame is for the clock of frames."""
    return (1 if streams == 1 else 2) * network + crop + 0.5 / fps


def stride(latency: float, network: float, crop: float, streams: int, fps: float) -> float | None:
    """Seconds between answers that the budget leaves; None where the network cannot keep up with that."""
    every = latency - waits(network, crop, streams, fps)
    return every if every > 0 and network <= BUSY * every else None


def _choice(predictor: Predictor, latency: float, pictures: Sequence[tuple[int, int]], fps: float) -> Choice:
    network, crop = measure(predictor, pictures)
    every = stride(latency, network, crop, len(pictures), fps)
    least = waits(network, crop, len(pictures), fps) + network / BUSY
    return Choice(predictor, network, crop, every, least)


def measure(predictor: Predictor, pictures: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Seconds of the network for a clip of each stream, the slowest of some, and of cropping a frame of each."""
    spec = clip_spec(predictor)
    clips = np.random.default_rng(0).standard_normal(
        (len(pictures) * spec.crops, 3, spec.frames, *spec.size), np.float32
    )
    frames = [np.zeros((1, 1, height, width, 3), np.uint8) for height, width in pictures]

    def slowest(run: Callable[[], object]) -> float:
        taken = []
        for _ in range(ROUNDS + 2):  # the first two warm up
            begin = time.perf_counter()
            run()
            taken.append(time.perf_counter() - begin)
        return max(taken[2:])

    return (
        slowest(lambda: predictor.network(clips, predictor.batch_size)),
        slowest(lambda: [view_array(frame, spec) for frame in frames]),
    )


def forms_at_hand(predictor: Predictor) -> Iterator[Predictor]:
    """A predictor in each form that can start at once; an exported network, and one whose form was asked for, as it
    is."""
    mine = predictor.network
    if not isinstance(mine, TorchNetwork) or predictor.compute is not None:
        yield predictor
        return
    size, on_cpu = view_size(mine.model.config, clip_spec(predictor)), mine.device.type == "cpu"
    for form in AT_ONCE:
        yield _seen_by(predictor, mine, mine.contract, form)
    for form in RUNTIMES:
        if on_cpu and predictor.precision == "float32" and exported_path(mine.weights, size, form).is_file():
            yield _seen_by(predictor, mine, mine.contract, form)


def in_size(predictor: Predictor, side: int) -> Predictor:
    """A predictor that crops squares of `side` pixels, of pictures resized in the same proportion.

    Raises `InputError` for an exported network, which has one size.
    """
    mine, spec, changed = predictor.network, clip_spec(predictor), copy(predictor)
    if not isinstance(mine, TorchNetwork):
        raise InputError("expected a checkpoint to be seen in another size, got an exported network: it has one")
    changed.spec = replace(spec, size=(side, side), resize=max(side, round(spec.resize * side / min(spec.size))))
    return _seen_by(changed, mine, replace(mine.contract, input=changed.spec), predictor.compute)


def _seen_by(predictor: Predictor, network: TorchNetwork, contract: Contract, form: str | None) -> Predictor:
    """A predictor with a network's weights in another form."""
    changed = copy(predictor)
    changed.network = TorchNetwork(
        network.model, contract, device=network.device, precision=predictor.precision, compute=form
    )
    return changed
