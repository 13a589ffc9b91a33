"""What a stream could reuse between overlapping clips, and what that would do to its answers.

python experiments/stream_reuse.py --out FILE.json [--only cost|agreement] FILM...

Cost: processor time of each part of a network for one clip, on one thread, all networks in turn. A token of time that
was computed for the clip before could be taken from there: exactly only inside the stem, as zeros beyond a clip's ends
reach every token of the local stages; approximately in these, where cached tokens keep the context that they had.

Agreement: the model in the package on real films, at every token of time. The exact clip, and the same frames with
local stages that saw each token once, when it was the newest, or once more when the next had come, after `context`
tokens of real frames; the global stages see the clip's tokens together, as always.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uniformer import create_model, load_model, optimize
from uniformer.checkpoints.records import BUNDLED
from uniformer.network.model import UniFormer
from uniformer.reading.transforms import view_array
from uniformer.reading.video import open_video

NETWORKS = {  # frames and side of a clip, as published
    "uniformer_nano_video": (8, 96),
    "uniformer_xxs_video": (16, 128),
    "uniformer_xs_video": (32, 192),
    "uniformer_small_video": (16, 224),
}
ROUNDS = 5
PARTS = ("stem", "local", "global")  # stem: the first patch embedding; local: stages 1 and 2; global: 3, 4 and head


def costs() -> dict[str, dict[str, float]]:
    """Milliseconds of processor time by network and part, the least of some rounds."""
    networks = {name: optimize(create_model(name).eval()) for name in NETWORKS}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for _ in range(ROUNDS + 1):
        for name, network in networks.items():
            frames, side = NETWORKS[name]
            taken[name].append(_parts(network, torch.randn(1, 3, frames, side, side)))
    return {name: {part: min(r[part] for r in rounds[1:]) for part in PARTS} for name, rounds in taken.items()}


def _parts(network: Any, clip: Tensor) -> dict[str, float]:
    marks = dict.fromkeys(("stem", "local"), 0.0)

    def mark(name: str) -> Any:
        return lambda *_: marks.update({name: time.process_time()})

    hooks = [network.stages[0].embed.register_forward_hook(mark("stem"))]
    hooks += [network.stages[1].blocks[-1].register_forward_hook(mark("local"))]
    begin = time.process_time()
    with torch.inference_mode():
        network(clip)
    end = time.process_time()
    for hook in hooks:
        hook.remove()
    stem, local = marks["stem"], marks["local"]
    return {"stem": 1e3 * (stem - begin), "local": 1e3 * (local - stem), "global": 1e3 * (end - local)}


# ---- agreement -------------------------------------------------------------------------------------------------------


def frames_of(film: Path, spec: Any, seconds: float) -> Tensor:
    """The whole film as one clip of a frame every so many seconds: (1, 3, N, h, w)."""
    with open_video(film) as reader:
        times = reader.times(range(reader.info.num_frames))
        wanted = np.arange(0, times[-1], seconds)
        places = np.abs(times[None] - wanted[:, None]).argmin(1)
        views = [view_array(frame[None, None], spec) for frame in reader.read(places)]
    return torch.from_numpy(np.concatenate(views, axis=2))


def tail_of(network: UniFormer) -> UniFormer:
    """Stages 3 and 4 and the head, for the map of stage 2."""
    tail = copy.deepcopy(network)
    for stage in list(tail.stages)[:2]:
        stage.embed, stage.blocks = nn.Identity(), nn.ModuleList()
    tail._check_input = lambda x: None  # type: ignore[method-assign]
    return tail


def local(network: UniFormer, clip: Tensor) -> Tensor:
    return network._run_stages(clip, None, 1)[0][-1]


def windows(network: UniFormer, film: Tensor, frames: int, context: int, late: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities of the exact clip and of the approximate one, at every token of time. `late`: how many tokens after
    it a token is computed for the last time."""
    tail, step = tail_of(network), 2  # frames of a token
    held: dict[int, Tensor] = {}
    for newest in range(film.shape[2] // step):
        begin = max(0, newest - late - context)
        maps = local(network, film[:, :, begin * step : (newest + 1) * step])
        for token in range(max(begin, newest - late), newest + 1):
            held[token] = maps[:, :, token - begin]
        first = newest + 1 - frames // step
        if first < 0:
            continue
        exact = network(film[:, :, first * step : (newest + 1) * step])
        approximate = tail(torch.stack([held[token] for token in range(first, newest + 1)], dim=2))
        yield exact.softmax(1)[0], approximate.softmax(1)[0]


def agreement(films: list[Path]) -> dict[str, Any]:
    model, contract, _ = load_model(BUNDLED)
    network, spec = optimize(model.float().eval()), contract.input_of_classifier()  # kept in 16 bits
    found: dict[str, list[tuple[bool, float]]] = {}
    with torch.inference_mode():
        for film in films:
            clip = frames_of(film, spec, 2.0 / spec.frames)
            for context, late in ((0, 0), (3, 0), (3, 1)):
                pairs = windows(network, clip, spec.frames, context, late)
                rows = [(bool(a.argmax() == b.argmax()), float((a - b).abs().max())) for a, b in pairs]
                found.setdefault(f"context {context}, late {late}", []).extend(rows)
            print(film.name, {name: len(rows) for name, rows in found.items()}, flush=True)
    return {
        name: {
            "windows": len(rows),
            "same label": float(np.mean([same for same, _ in rows])),
            "mean of largest difference": float(np.mean([off for _, off in rows])),
            "largest difference": max(off for _, off in rows),
        }
        for name, rows in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("cost", "agreement"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"milliseconds": {} if args.only == "agreement" else costs()}
    for name, parts in report["milliseconds"].items():
        tokens = NETWORKS[name][0] // 2
        whole = sum(parts.values())
        inner = parts["stem"] * max(tokens - 2, 0) / tokens  # tokens that no zero reaches, but for the newest
        cached = (parts["stem"] + parts["local"]) * (tokens - 1) / tokens
        parts |= {"exact reuse saves": inner / whole, "approximate, of the exact": 1 - cached / whole}
        print(name, {key: round(value, 3) for key, value in parts.items()}, flush=True)
    report["agreement"] = {} if args.only == "cost" else agreement(args.films)
    for name, row in report["agreement"].items():
        print(name, row)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
