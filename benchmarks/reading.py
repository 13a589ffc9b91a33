"""Reading a clip: our sampling against decoding the whole file, and memory over thousands of clips.

    python benchmarks/reading.py
    python benchmarks/reading.py --clips 10000    # memory alone

"Whole file" decodes all frames by PyAV to RGB, as the reference's loaders do, and takes the wanted ones; both then make
the views in the same way. One thread each: a worker of a data loader.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
from alternate import Contender, compare, finished
from films import write_film

FILES = {"340x256": (340, 256, 30), "1920x1080": (1920, 1080, 25)}
CASES = {
    "16 frames, every 4th": {"frames": 16, "stride": 4, "sampling": "dense", "clips": 1},
    "16 frames, every 4th, 4 views": {"frames": 16, "stride": 4, "sampling": "dense", "clips": 4},
    "16 frames, spread over the film": {"frames": 16, "sampling": "sparse", "clips": 1},
}


def spec_of(case: str) -> Any:
    from uniformer import get_checkpoint

    return replace(get_checkpoint("uniformer_small.k400_16x4").input, **CASES[case])


def sampled(path: str, case: str, *, threads: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    from uniformer.reading.views import load_views

    one_thread(threads)
    spec = spec_of(case)
    return lambda: load_views(path, spec), {}


def whole(path: str, case: str, *, threads: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    import av
    import numpy as np

    from uniformer.reading.sampling import clip_indices
    from uniformer.reading.transforms import view_array

    one_thread(threads)
    spec = spec_of(case)

    def run() -> Any:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "NONE"
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return view_array(frames[np.stack(list(clip_indices(spec, len(frames))))], spec)

    return run, {}


def one_thread(threads: int) -> None:
    """As in a worker of a data loader: the reader takes one thread there, since others use the other cores."""
    import torch

    torch.set_num_threads(threads)


def flat_memory(path: Path, clips: int) -> list[tuple[int, float]]:
    """(clips read, MB of the process) on the way."""
    from uniformer.reading.views import load_views

    spec, points = spec_of("16 frames, every 4th"), []
    for number in range(clips + 1):
        if number in (0, clips // 100, clips // 10, clips // 2, clips):
            machine.forget_peak_memory()
            points.append((number, machine.peak_memory()))
        load_views(path, spec)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=0, help="instead: memory over this many clips")
    args = parser.parse_args()
    if args.clips:
        keep_memory(args.clips)
    else:
        keep_times(args.rounds)


def keep_memory(clips: int) -> None:
    under, (width, height, fps) = machine.conditions(clips=clips), FILES["340x256"]
    with tempfile.TemporaryDirectory() as folder:
        points = flat_memory(write_film(Path(folder, "film.mp4"), width, height, fps=fps), clips)
    text = "A process that reads clips of a 340x256 film, one after the other.\n\n"
    text += machine.markdown(("clips read", "MB"), [(f"{n:,}", f"{mb:.0f}") for n, mb in points])
    machine.keep("reading-memory", under, points, text)


def keep_times(rounds: int) -> None:
    under, rows, lines = machine.conditions(rounds=rounds, threads=1), {}, []
    with tempfile.TemporaryDirectory() as folder:
        for size, (width, height, fps) in FILES.items():
            path = write_film(Path(folder, f"{size}.mp4"), width, height, fps=fps)
            for case in CASES:
                pair = [Contender(kind.__name__, kind, (str(path), case)) for kind in (whole, sampled)]
                all_of_it, ours = finished(compare(pair, rounds=rounds, threads=1))
                rows[f"{size}, {case}"] = [all_of_it.row(), ours.row()]
                lines.append([
                    size, case, f"{1000 * all_of_it.median:.0f}", f"{1000 * ours.median:.0f}",
                    f"{all_of_it.median / ours.median:.2f}", f"{all_of_it.memory_mb:.0f}", f"{ours.memory_mb:.0f}",
                ])  # fmt: skip
        text = machine.markdown(
            ("file of 10 s", "clip", "whole file, ms", "ours, ms", "ratio", "MB", "ours, MB"), lines
        )
    machine.keep("reading", under, rows, text)


if __name__ == "__main__":
    main()
