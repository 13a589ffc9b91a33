"""The server under load, on loopback: throughput against `Predictor.run`, latency by the number of clients, memory.

python benchmarks/serving.py [--requests 10000] [--clients 1 8 32] [--minutes M] [--checkpoint FILE] [--compute ...]

Films of 320 x 240 and files that are broken in several ways are posted by clients that each wait for their answer
before they send the next; every answer is compared with the predictor's own. Before and after each number of clients
up to 500 of the same files go through `Predictor.run`. The share of its throughput is told by the clock and by
processor time, which other work on the machine inflates less; that of the clients is not counted. This process keeps
memory that is free again, as the server's does, so that the share tells of the server alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from films import write_film
from machine import conditions, keep, markdown

from uniformer import Predictor
from uniformer.checkpoints.records import BUNDLED
from uniformer.support.memory import keep_memory
from uniformer.tasks.task import Failure

FILMS, SHARES = 12, (50, 95, 99)
ALONE = 500  # files that tell well enough what the predictor takes
CLOSE = 2e-6  # of probabilities in six digits, with another number of views in a batch


class Posted(NamedTuple):
    """A file, and what the predictor says of it: probabilities by class, or None for one that is broken."""

    path: Path
    data: bytes
    wanted: dict[int, float] | None


def make_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Good ones and broken ones."""
    good = [write_film(folder / f"{n}.mp4", 320, 240, seconds=2, seed=n) for n in range(FILMS)]
    data = good[0].read_bytes()
    noise = random.Random(0).randbytes(len(data))
    kinds = {"empty": b"", "text": b"no video\n" * 999, "noise": noise, "cut": data[:200], "head": data[:32] + noise}
    bad = [folder / f"{name}.bad" for name in kinds]
    for path, content in zip(bad, kinds.values(), strict=True):
        path.write_bytes(content)
    return good, bad


def posted(predictor: Predictor, paths: Sequence[Path]) -> list[Posted]:
    answers = list(predictor.run(paths))
    return [
        Posted(p, p.read_bytes(), None if isinstance(a, Failure) else dict(enumerate(a.probabilities.tolist())))
        for p, a in zip(paths, answers, strict=True)
    ]


@contextmanager
def server(args: argparse.Namespace) -> Iterator[int]:
    """Its port, until it has ended well."""
    command = [sys.executable, "-m", "uniformer.cli", "serve", "--port", "0", "--compute", args.compute]
    options = ["--checkpoint", args.checkpoint, "--batch-size", str(args.batch_size), "--workers", str(args.workers)]
    running = subprocess.Popen([*command, *options, "--timeout", "600"], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield int(running.stdout.readline().rpartition(":")[2])
    finally:
        running.send_signal(signal.SIGTERM)
        status = running.wait()
    assert status == 0


def measured(port: int) -> dict[str, float]:
    """What the server's process says of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.M)}


def check(file: Posted, status: int, body: bytes) -> None:
    """Raises where the answer is not the predictor's."""
    answer = json.loads(body)
    if file.wanted is None:
        assert (status, list(answer)) == (422, ["error"]), (file.path.name, status, answer)
        return
    assert status == 200, (file.path.name, status, answer)
    for label in answer["labels"]:
        assert abs(label["score"] - file.wanted[label["index"]]) <= CLOSE, (file.path.name, label)


def post_all(
    port: int, files: Sequence[Posted], clients: int, later: Callable[[int], None], minutes: float = np.inf
) -> list[float]:
    """The seconds that each request took, of those that can be sent within some minutes; `later` is told how many are
    done."""
    until = time.monotonic() + 60 * minutes
    todo, seconds, lock = iter(files), list[float](), threading.Lock()
    problems, sent = list[BaseException](), list[Posted]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            while not problems:
                with lock:
                    file = next(todo, None) if time.monotonic() < until else None
                if file is None:
                    return
                sent.append(file)
                begin = time.perf_counter()
                connection.request("POST", "/predict", file.data)
                response = connection.getresponse()
                body = response.read()
                taken = time.perf_counter() - begin
                check(file, response.status, body)
                with lock:
                    seconds.append(taken)
                    later(len(seconds))
        except BaseException as error:
            problems.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    assert len(seconds) == len(sent), "answers were lost"
    return seconds


def alone(predictor: Predictor, files: Sequence[Posted]) -> tuple[float, float]:
    """Seconds by the clock and of the processor for a request, by `Predictor.run`."""
    begin, work = time.perf_counter(), time.process_time()
    assert sum(1 for _ in predictor.run(file.path for file in files)) == len(files)
    return (time.perf_counter() - begin) / len(files), (time.process_time() - work) / len(files)


def measure(args: argparse.Namespace, predictor: Predictor, port: int, mixed: list[Posted], clients: int) -> Any:
    few = mixed[: min(max(len(mixed) // 4, 50), ALONE)]
    before = alone(predictor, few)
    memory, first = list[float](), measured(port)

    def later(done: int) -> None:
        if done % max(len(mixed) // 10, 1) == 0:
            memory.append(measured(port)["process_resident_memory_bytes"] / 1e6)
            print(f"{clients} clients, {done} answered, {memory[-1]:.0f} MB", flush=True)

    begin = time.perf_counter()
    seconds = post_all(port, mixed, clients, later, args.minutes)
    wall = (time.perf_counter() - begin) / len(seconds)
    last, after = measured(port), alone(predictor, few)
    memory.append(last["process_resident_memory_bytes"] / 1e6)
    work = (last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]) / len(seconds)
    count, total = (last[f"uniformer_batch_views_{n}"] - first[f"uniformer_batch_views_{n}"] for n in ("count", "sum"))
    return {
        "clients": clients, "requests": len(seconds),
        "broken": sum(file.wanted is None for file in mixed[: len(seconds)]),
        **{f"p{share} ms": 1e3 * float(np.percentile(seconds, share)) for share in SHARES},
        "requests a second": 1 / wall,
        "share by clock": (before[0] + after[0]) / 2 / wall,
        "cpu ms": 1e3 * work, "cpu ms of run": 1e3 * (before[1] + after[1]) / 2,
        "share by cpu": (before[1] + after[1]) / 2 / work,
        "views a batch": total / count,
        "MB after a tenth": memory[0], "MB half-way": memory[len(memory) // 2], "MB at the end": memory[-1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="by each number of clients (default: 10000)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no more are sent (default: no end)")
    parser.add_argument("--broken", type=float, default=0.05, help="share of broken files (default: 0.05)")
    parser.add_argument("--checkpoint", default=BUNDLED, help="of clips (default: the one in the package)")
    parser.add_argument("--compute", default="fast")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    options = {"compute": args.compute, "batch_size": args.batch_size, "workers": args.workers, "device": "cpu"}
    keep_memory()
    predictor = Predictor(args.checkpoint, **options)
    with tempfile.TemporaryDirectory() as folder, server(args) as port:
        good, bad = (posted(predictor, paths) for paths in make_files(Path(folder)))
        assert all((file.wanted is None) == (file in bad) for file in [*good, *bad])
        draw, rows = random.Random(0), []
        for clients in args.clients:
            mixed = [draw.choice(bad if draw.random() < args.broken else good) for _ in range(args.requests)]
            list(alone(predictor, mixed[:10]))  # warms up
            post_all(port, mixed[:10], clients, lambda done: None)
            rows.append(measure(args, predictor, port, mixed, clients))
            print(rows[-1], flush=True)
    table = [[f"{value:.4g}" for value in row.values()] for row in rows]
    name = "serving" if args.checkpoint == BUNDLED else f"serving-{Path(args.checkpoint).stem}"
    keep(name, conditions(threads=predictor.workers), rows, markdown(list(rows[0]), table))


if __name__ == "__main__":
    main()
