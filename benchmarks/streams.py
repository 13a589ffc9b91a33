"""What a stream costs on one core: taking a frame, and an exact answer to the clip that ends with it.

python benchmarks/streams.py [--compute fast|openvino|...] [--film FILE] [NETWORK...]

Processor time, which other work on the machine inflates less than the clock. Weights are random, but for `package`, the
model in it; frames are those of a film of 320 x 240, 30 a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from films import write_film
from machine import conditions, keep, markdown

from uniformer import Predictor, create_model
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.records import BUNDLED
from uniformer.inference.stream import Stream, answers_to
from uniformer.network.model import UniFormer
from uniformer.network.variants import default_input
from uniformer.reading.feeds import FileFeed

PACKAGE = "package"
ANSWERS = {  # how many are measured; clips as published: frames and side
    PACKAGE: (200, 16, 96),
    "uniformer_nano_video": (200, 8, 96),
    "uniformer_xxs_video": (40, 16, 128),
    "uniformer_xs_video": (8, 32, 192),
    "uniformer_small_video": (8, 16, 224),
}
SHARES = (50, 95, 99)


def milliseconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return 1e3 * (time.process_time() - begin)


def random(network: str, frames: int, side: int) -> tuple[UniFormer, Contract]:
    model = create_model(network).eval()
    return model, Contract(model.config, network, replace(default_input(model.config, side), frames=frames, clips=1))


def measure(network: str, compute: str, film: Path) -> dict[str, Any]:
    count, frames, side = ANSWERS[network]
    predictor = Predictor(
        BUNDLED if network == PACKAGE else random(network, frames, side), compute=compute, device="cpu"
    )
    decoded, taken, answered = [], [], []
    with FileFeed(str(film)) as feed:
        arrivals = iter(feed.arrivals())
        pictures = []
        for _ in range(90):
            decoded.append(milliseconds(lambda: pictures.append(next(arrivals).picture())))
    stream = Stream(predictor, fps=30, every=1e-3)
    for number, picture in enumerate(islice(cycle(pictures), 64 + 4 + count)):
        taken.append(milliseconds(lambda n=number, p=picture: stream.add(p, n / 30)))
        if stream.due and number >= 64:
            answered.append(milliseconds(lambda: list(answers_to(predictor, [stream.clip()]))))
    answered = answered[4:]  # the first ones warm up
    return {
        "network": network, "form": compute, "clip": f"{frames} x {side} x {side}", "answers": len(answered),
        "decode": float(np.median(decoded)), "crop": float(np.median(taken)),
        **{f"p{share}": float(np.percentile(answered, share)) for share in SHARES},
        "frames a second": 1e3 / (np.median(decoded) + np.median(taken)),
        "answers a second": 1e3 / float(np.mean(answered)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", default=list(ANSWERS))
    parser.add_argument("--compute", default="fast")
    parser.add_argument("--film", type=Path, help="another film (default: one made on the spot)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        film = args.film or write_film(Path(folder, "film.mp4"), 320, 240, seconds=4)
        rows = []
        for network in args.networks:
            rows.append(measure(network, args.compute, film))
            print(rows[-1], flush=True)
    table = [[row[key] if isinstance(row[key], str) else f"{row[key]:.4g}" for key in rows[0]] for row in rows]
    keep(f"streams-{args.compute}", conditions(threads=1), rows, markdown(list(rows[0]), table))


if __name__ == "__main__":
    main()
