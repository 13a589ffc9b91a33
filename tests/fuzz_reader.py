"""Feed damaged files to the reader: `python tests/fuzz_reader.py --count 2000 --seed 0 --workers 2`.

Each case damages a small video or picture (an odd one from `odd_media` or a real clip) and reads it in a child process:
bits, bytes and stretches of it, or the sizes, counts, offsets, times and parts that its format is made of.
Allowed are frames or an `InputError`. All else is a failure: another exception, a crash, more than 10 seconds of
computing, no answer at all, more than 2 GB. Failures are listed with the numbers that make them again, and the program
exits with 1.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import multiprocessing.connection
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import odd_media
from tests.media_structure import STRUCTURED, with_checksums
from tests.memory import peak_kilobytes
from tests.patience import PATIENCE
from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.pictures import is_image
from uniformer.reading.views import load_views

SECONDS = 10  # of computing, for one file: what other work on the machine takes does not count
MEMORY = 2 << 30  # bytes, of the child at its largest
LARGEST_SEED = 1_200_000  # bytes: a larger real clip takes long when whole, which proves nothing about damage
ALLOWED = ("frames", "InputError")
PICTURE = InputSpec(size=(64, 64), resize=64)
CLIP = InputSpec(size=(64, 64), resize=64, frames=16, sampling="sparse", interpolation="bilinear")


@dataclass(frozen=True)
class Case:
    number: int
    path: Path
    what: str  #: how to make it again


def seed_files(folder: Path) -> list[Path]:
    made = [make(folder) for make in (*odd_media.GOOD, *odd_media.PICTURES)]
    return made + [clip for clip in odd_media.real_clips() if clip.stat().st_size < LARGEST_SEED]


def flip_bits(data: bytearray, other: bytes, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 4, 16, 64, 256])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_bits_of_header(data: bytearray, other: bytes, draw: random.Random) -> None:
    """Most of a file is pixels; its first and last kilobytes say what the pixels are."""
    for _ in range(draw.choice([1, 2, 4, 8])):
        place = draw.randrange(min(len(data), 1500))
        data[place if draw.random() < 0.6 else -1 - place] ^= 1 << draw.randrange(8)


def truncate(data: bytearray, other: bytes, draw: random.Random) -> None:
    del data[draw.randrange(1, len(data)) :]


def splice(data: bytearray, other: bytes, draw: random.Random) -> None:
    """The head of another file."""
    size = draw.randrange(1, min(len(data), len(other), 4096))
    data[:size] = other[:size]


def swap(data: bytearray, other: bytes, draw: random.Random) -> None:
    size = draw.randrange(1, max(2, len(data) // 4))
    a, b = (draw.randrange(len(data) - size) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def blank(data: bytearray, other: bytes, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    size = min(draw.choice([4, 64, 1024, 16384]), len(data) - start)
    data[start : start + size] = bytes([draw.choice([0, 0, 255])]) * size


def large_number(data: bytearray, other: bytes, draw: random.Random) -> None:
    """A count or a size of the header becomes as large as it can be."""
    for _ in range(draw.choice([1, 2, 3])):
        place = draw.randrange(min(len(data) - 4, 1500))
        place = place if draw.random() < 0.6 else len(data) - 4 - place
        data[place : place + 4] = draw.choice([b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0\0\xff\xff"])


def repeat(data: bytearray, other: bytes, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    data[start:start] = data[start : start + draw.randrange(1, 20000)]


DAMAGES: tuple[Callable[[bytearray, bytes, random.Random], None], ...] = (
    flip_bits, flip_bits_of_header, truncate, splice, swap, blank, large_number, repeat,
)  # fmt: skip


def cases(folder: Path, count: int, seed: int) -> Iterator[Case]:
    """Damaged copies of the seed files; the same seed gives the same files."""
    sources = seed_files(folder)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        source = sources[number % len(sources)]
        data, other = bytearray(source.read_bytes()), draw.choice(sources).read_bytes()
        damages = draw.choices(STRUCTURED if draw.random() < 0.5 else DAMAGES, k=draw.choice([1, 1, 2, 3]))
        for damage in damages:
            if len(data) > 16:
                damage(data, other, draw)
        if draw.random() < 0.8:
            with_checksums(data)
        path = folder / f"case_{number}{source.suffix}"
        path.write_bytes(data)
        what = f"{source.name}: {' + '.join(d.__name__ for d in damages)} (--seed {seed} --only {number})"
        yield Case(number, path, what)


def use(path: Path) -> str:
    """What a caller does: make views of a picture, or of 16 frames over the whole length of a video."""
    warnings.simplefilter("ignore")
    try:
        views = load_views(path, PICTURE if is_image(path) else CLIP)
        assert views.array.shape == ((1, 3, 64, 64) if is_image(path) else (1, 3, 16, 64, 64))
        assert np.isfinite(views.array).all()
        return "frames"
    except InputError as error:
        message = str(error)
        return "InputError" if "\n" not in message and str(path) in message else f"bad message: {message!r}"
    except Exception as error:
        return f"exception {type(error).__name__}: {error}"[:300]


def child(pipe: Connection, use: Callable[[Path], str], seconds: int) -> None:
    """Answers paths with (outcome, largest memory of this process so far), until it is killed.

    The kernel kills it by SIGXCPU once it has computed `seconds` for one path.
    """
    pipe.send("ready")  # a case must not pay for the imports
    while True:
        path = pipe.recv()
        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(spent.ru_utime + spent.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        outcome = use(Path(path))
        pipe.send((outcome, peak_kilobytes() * 1024))


@dataclass
class Worker:
    """A child process at work on one case; it is replaced when it dies, hangs, or has grown."""

    context: multiprocessing.context.SpawnContext
    use: Callable[[Path], str]
    seconds: int  #: of computing
    patience: float  #: seconds without an answer, for one that waits for ever and computes nothing
    process: BaseProcess = field(init=False)
    pipe: Connection = field(init=False)
    case: Case | None = None
    since: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=child, args=(theirs, self.use, self.seconds), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def give(self, case: Case) -> None:
        self.case, self.since = case, time.monotonic()
        self.pipe.send(str(case.path))

    def outcome(self) -> str | None:
        """How the case ended, None while it runs. Afterwards the worker is ready for the next."""
        memory, answer = 0, None
        try:
            if self.pipe.poll():
                answer, memory = self.pipe.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            answer = "hang" if code == -signal.SIGXCPU else f"crash, exit {code}"
        if answer is None and time.monotonic() - self.since > self.patience:
            answer = "hang"
        if answer is None:
            return None
        if memory > MEMORY:
            answer = f"memory {memory >> 20} MB"
        if memory > MEMORY // 2 or answer == "hang" or answer.startswith("crash"):  # the peak of a process only grows
            self.stop()
            self.start()
        return answer


def run(
    work: Iterator[Case],
    workers: int = 1,
    keep: Path | None = None,
    use: Callable[[Path], str] = use,
    seconds: int = SECONDS,
    patience: float = PATIENCE,
    allowed: tuple[str, ...] = ALLOWED,
) -> list[tuple[Case, str]]:
    """Every case with its outcome, as `use` in a child process gives it. Files that failed are copied to `keep`."""
    context = multiprocessing.get_context("spawn")
    crew = [Worker(context, use, seconds, patience) for _ in range(workers)]
    done: list[tuple[Case, str]] = []
    try:
        while True:
            for worker in crew:
                if worker.case is None and (case := next(work, None)) is not None:
                    worker.give(case)
            busy = [worker for worker in crew if worker.case is not None]
            if not busy:
                return done
            multiprocessing.connection.wait([worker.pipe for worker in busy], timeout=0.2)
            for worker in busy:
                if (outcome := worker.outcome()) is not None and worker.case is not None:
                    done.append((worker.case, outcome))
                    if keep and outcome not in allowed:
                        (keep / worker.case.path.name).write_bytes(worker.case.path.read_bytes())
                    worker.case.path.unlink()
                    worker.case = None
    finally:
        for worker in crew:
            worker.stop()


def main(
    arguments: list[str] | None = None,
    about: str | None = __doc__,
    cases: Callable[[Path, int, int], Iterator[Case]] = cases,
    use: Callable[[Path], str] = use,
    allowed: tuple[str, ...] = ALLOWED,
) -> int:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="run one case, by its number")
    parser.add_argument("--keep", type=Path, help="a folder for the files that failed")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = cases(Path(folder), options.count, options.seed)
        if options.only is not None:
            work = (case for case in cases(Path(folder), options.only + 1, options.seed) if case.number == options.only)
        done = run(work, options.workers, options.keep, use, allowed=allowed)
    kinds = Counter(outcome if outcome in allowed else outcome.split()[0].rstrip(",:") for _, outcome in done)
    for kind in [*allowed, *sorted(set(kinds) - set(allowed))]:
        print(f"{kind:<12} {kinds[kind]:6d}")
    print(f"{'all':<12} {len(done):6d}   {time.monotonic() - start:.0f} s")
    failures = [(case, outcome) for case, outcome in done if outcome not in allowed]
    for case, outcome in failures:
        print(f"{case.what}: {outcome}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
