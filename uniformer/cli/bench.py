"""`uniformer bench`: which form of a network is the fastest on this machine; remembered for predict and eval."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from uniformer.cli.options import add_int8, add_precision, add_told, call, told, whole
from uniformer.cli.tables import print_table, say
from uniformer.errors import InputError
from uniformer.speed.timings import INT8, Compute
from uniformer.support.texts import to_json_line

if TYPE_CHECKING:
    from uniformer.checkpoints.contract import Contract
    from uniformer.network.model import UniFormer
    from uniformer.speed.bench import Benchmark

HELP = "find the fastest form of a network on this machine"


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("network", metavar="CHECKPOINT|ARCH", help="published id, file, folder, repository or architecture")
    p.add_argument("--frames", type=whole(1, 10_000), metavar="T", help="frames of a clip (default: the checkpoint's)")
    p.add_argument("--size", type=whole(1, 10_000), metavar="S", help="height and width (default: the checkpoint's)")
    p.add_argument("--batch-size", type=whole(1, 100_000), default=1, metavar="N", help="views at a time (default: 1)")
    p.add_argument(
        "--rounds", type=whole(1, 1_000_000), default=10, metavar="N", help="each form once a round (default: 10)"
    )
    p.add_argument("--threads", type=whole(1, 1024), metavar="N", help="default: as torch chooses, or OMP_NUM_THREADS")
    p.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: cpu)")
    add_precision(p)
    add_int8(p, "also in 8 bits by OpenVINO, kept if it is faster: ")
    p.add_argument("--forms", nargs="+", choices=get_args(Compute), help="beside plain (default: all that run here)")
    p.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    add_told(p)


def run(args: argparse.Namespace) -> int:
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # read by torch when it is imported, and by the runtimes
    import torch

    from uniformer.speed.bench import forms_here, measure
    from uniformer.speed.forms import situation_of
    from uniformer.speed.timings import remember, view_size
    from uniformer.support.distributed import DTYPES, pick_device

    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    if args.max_loss is not None and args.calibrate is None:
        raise InputError("--max-loss: expected --calibrate DATA too, which it is of")
    model, contract, is_checkpoint = _network(args)
    size = view_size(model.config, contract.input_of_classifier())
    forms = args.forms or forms_here(device, args.precision)
    if args.calibrate is not None and _kept_in_8_bits(args, model, contract, size, is_checkpoint):
        forms = [*forms, *([INT8] if INT8 not in forms else [])]
    benchmark = call(
        measure, args, model=model, size=size, forms=forms, batch=args.batch_size, device=device, keep=is_checkpoint,
        say=partial(say, file=sys.stderr),
    )  # fmt: skip
    situation = situation_of(model.config, size, device, DTYPES[args.precision])
    path = remember(situation, {t.form: t.median for t in benchmark.timings if t.form in forms})
    about = {"network": args.network, "views": [args.batch_size, *size], "situation": situation}
    if args.json:
        print(to_json_line(about | _plain(benchmark)), end="")
    else:
        _show(about, benchmark)
        say(f"remembered in {path}")
    return 0


def _kept_in_8_bits(
    args: argparse.Namespace, model: UniFormer, contract: Contract, size: Sequence[int], is_checkpoint: bool
) -> bool:
    """Whether the network is worth it in 8 bits; then it lies in the cache folder."""
    from uniformer.speed.forms import weights_of
    from uniformer.speed.quantise import NotKept, Samples, export_int8
    from uniformer.speed.timings import int8_path

    if not is_checkpoint or args.device != "cpu" or args.precision != "float32":
        raise InputError("--calibrate: expected a checkpoint, in float32 on the CPU")
    aside = partial(say, file=sys.stderr)
    samples = Samples.of(contract, args.calibrate, say=aside)
    path = int8_path(weights_of(model.float()), size, samples.calibration)  # as predictors have it
    try:
        aside(f"kept in 8 bits: {export_int8(model, contract, path, samples, max_loss=args.max_loss, say=aside)}")
    except NotKept as error:
        aside(f"not kept in 8 bits: {error}")
        return False
    return True


def _network(args: argparse.Namespace) -> tuple[UniFormer, Contract, bool]:
    """The network, what it is and is fed, and whether it is a checkpoint's, not one with random weights."""
    from dataclasses import replace

    from uniformer.checkpoints.contract import Contract
    from uniformer.checkpoints.load import create_model, load_model
    from uniformer.checkpoints.told import refuse_told, warn_of_assumed
    from uniformer.network.variants import default_input, list_models

    is_checkpoint = args.network not in list_models()
    if is_checkpoint:
        model, contract, _ = load_model(args.network, **told(args))
        warn_of_assumed(contract)
        spec = contract.input_of_classifier()
    else:
        refuse_told(told(args), f"the architecture {args.network}")
        model = create_model(args.network)
        if model.config.output != "logits":
            raise InputError(f"{args.network}: expected a classifier to measure, got a network that returns maps")
        spec = default_input(model.config)
        contract = Contract(model.config, input=spec)
    if args.frames and not spec.is_video:
        raise InputError("expected no --frames: it is a network of images")
    if args.size:
        spec = replace(spec, size=(args.size, args.size), resize=max(spec.resize, args.size))
    return model, replace(contract, input=replace(spec, frames=args.frames or spec.frames)), is_checkpoint


def _plain(benchmark: Benchmark) -> dict[str, Any]:
    rows = [{"form": t.form, "median": t.median, "seconds": t.seconds, "off": t.off} for t in benchmark.timings]
    rate, floor = benchmark.macs_per_second, benchmark.floor
    return {"macs": benchmark.macs, "macs_per_second": rate, "floor": floor, "forms": rows}


def _show(about: dict[str, Any], benchmark: Benchmark) -> None:
    say(f"{about['network']}, views of {' x '.join(map(str, about['views']))}\n{about['situation']}")
    work, rate, floor = benchmark.macs / 1e9, benchmark.macs_per_second / 1e9, 1e3 * benchmark.floor
    say(f"{work:.2f} G multiply-adds; {rate:.0f} G a second in matrix products, so no less than {floor:.1f} ms\n")
    reference, rows = benchmark.timings[0].median, []
    for t in benchmark.timings:
        times = (f"{1e3 * seconds:.1f}" for seconds in (t.median, min(t.seconds), max(t.seconds)))
        ratios = (f"{reference / t.median:.2f}", f"{t.median / benchmark.floor:.2f}")
        rows.append((t.form, *times, *ratios, f"{t.off:.0e}"))
    print_table(("form", "ms", "least", "most", "x faster", "x floor", "off"), rows, right=range(1, 7))
    say()
