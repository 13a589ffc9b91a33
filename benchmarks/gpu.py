"""On a GPU: clips a second in inference and in training, against the card's own matrix products and copies.

    python benchmarks/gpu.py                    # small_video 16x224 and base_video 32x224
    python benchmarks/gpu.py "small_video 16x224" --batch-size 16 --compiled

`plain` is the network as it is under float16 autocast; `fast` is in bfloat16: in inference the folded copy of
`uniformer.optimize`, in training bfloat16 autocast, both with the depthwise convolutions by the implementations that
are the fastest on this card. Those are measured first and remembered, as `uniformer bench --device cuda` does it.

The floor is what the network's convolutions and matrix products would take if each ran at the rate of the card's own
bfloat16 matrix products, or of its copies where reading and writing takes longer; both are measured in the same rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import machine
import torch
from alternate import Contender, Result, compare
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

#: name -> architecture, input (C, T, H, W), clips in inference, clips in training
NETWORKS = {
    "small_video 16x224": ("uniformer_small_video", (3, 16, 224, 224), 32, 16),
    "base_video 32x224": ("uniformer_base_video", (3, 32, 224, 224), 8, 4),
}
BYTES = 2  # of a value in 16 bits
SIDE = 8192  # of the square matrices whose product gives the card's rate
COPIED = 2**30  # bytes
Built = tuple[Callable[[], Any], dict[str, Any]]


class Work(TorchDispatchMode):
    """Multiply-adds and bytes, each at its least, of every convolution and matrix product that runs under it.

    Attention's own products (`bmm`) count no bytes: fused, they need not leave the chip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[int, int]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if op._overloadpacket in flop_registry:
            macs = flop_registry[op._overloadpacket](*args, **(kwargs or {}), out_val=out) // 2
            if op is torch.ops.aten.convolution_backward.default:  # torch counts groups many times over there
                grad, _, weight, *_, mask = args
                macs = sum(mask[:2]) * grad.numel() * weight[0].numel()
            outs = out if isinstance(out, tuple) else (out,)
            touched = [t for t in (*args, *outs) if isinstance(t, torch.Tensor)]
            attention = op is torch.ops.aten.bmm.default
            self.parts.append((macs, 0 if attention else BYTES * sum(t.numel() for t in touched)))
        return out

    def floor(self, macs_per_second: float, bytes_per_second: float) -> float:
        """Seconds."""
        return sum(max(macs / macs_per_second, moved / bytes_per_second) for macs, moved in self.parts)


def work_of(arch: str, shape: tuple[int, ...], clips: int, training: bool) -> Work:
    """Counted on the meta device, where shapes are all there is."""
    import uniformer

    with torch.device("meta"):
        model = uniformer.create_model(arch).train(training)
        x = torch.empty(clips, *shape)
    with Work() as work, torch.set_grad_enabled(training):
        y = model(x)
        if training:
            y.sum().backward()
    return work


def network(arch: str, shape: tuple[int, ...], clips: int, form: str, training: bool, *, threads: int) -> Built:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run = (step if training else forward)(arch, torch.randn(clips, *shape, device="cuda"), form)
    run()
    torch.cuda.reset_peak_memory_stats()
    run()
    return run, {"gpu_mb": torch.cuda.max_memory_allocated() / 2**20, "device": torch.cuda.get_device_name()}


def forward(arch: str, x: torch.Tensor, form: str) -> Callable[[], Any]:
    import uniformer

    model = uniformer.create_model(arch).cuda().eval()
    if form != "plain":
        model = uniformer.optimize(model, dtype=torch.bfloat16, compile=form == "compiled", example=x)

    def run() -> Any:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=form == "plain"):
            return model(x)

    return run


def step(arch: str, x: torch.Tensor, form: str) -> Callable[[], Any]:
    """Loss and gradients."""
    import uniformer
    from uniformer import speed

    model = uniformer.create_model(arch, num_classes=20).cuda().train()
    dtype = torch.float16 if form == "plain" else torch.bfloat16
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    if form != "plain":
        speed.prepare(model, training=True, dtype=dtype, size=x.shape[1:])
    called = torch.compile(model) if form == "compiled" else model
    labels = torch.randint(20, x.shape[:1], device="cuda")

    def run() -> None:
        model.zero_grad()
        with torch.autocast("cuda", dtype):
            loss = torch.nn.functional.cross_entropy(called(x), labels)
        scaler.scale(loss).backward()

    return run


def product(*, threads: int) -> Built:
    a, b = torch.randn(2, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    return lambda: a @ b, {"macs": SIDE**3}


def copy(*, threads: int) -> Built:
    a = torch.empty(2, COPIED, dtype=torch.uint8, device="cuda")
    return lambda: a[0].copy_(a[1]), {"bytes": 2 * COPIED}  # read and written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of: {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--batch-size", type=int, help="clips (default: 32 and 8 in inference, half in training)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="also through torch.compile")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU that torch can compute on, found none")
    unknown = set(args.networks) - NETWORKS.keys()
    if unknown:
        parser.error(f"unknown networks {sorted(unknown)}: expected some of {', '.join(NETWORKS)}")
    forms = ("plain", "fast", "compiled") if args.compiled else ("plain", "fast")
    rows, lines = {}, []
    for name in args.networks or NETWORKS:
        arch, shape, *usual = NETWORKS[name]
        for training in (False, True):
            clips = args.batch_size or usual[training]
            measure_convolutions(arch, shape, clips)
            contenders = [Contender("product", product), Contender("copy", copy)]
            contenders += [Contender(form, network, (arch, shape, clips, form, training)) for form in forms]
            results = compare(contenders, rounds=args.rounds, threads=1)
            label = f"{name}, {'training' if training else 'inference'}, {clips} clips"
            rows[label] = [result.row() for result in results]
            lines += table(label, clips, work_of(arch, shape, clips, training), results)
    under = machine.conditions(rounds=args.rounds, device=torch.cuda.get_device_name())
    head = ("network", "form", "clips a second", "ms a clip", "x faster than plain", "share of the floor", "GPU MB")
    text = f"{under['device']}, medians of {args.rounds} rounds in turn, by CUDA events.\n\n"
    machine.keep("gpu", under, rows, text + machine.markdown(head, lines))


def measure_convolutions(arch: str, shape: tuple[int, ...], clips: int) -> None:
    import uniformer
    from uniformer.speed.tuning import measure_depthwise

    config = uniformer.create_model(arch).config
    measure_depthwise(config, shape, batch=clips, device=torch.device("cuda", 0), dtype=torch.bfloat16, say=print)
    torch.cuda.empty_cache()


def table(label: str, clips: int, work: Work, results: list[Result]) -> list[list[str]]:
    by_name = {result.name: result for result in results}
    for name in ("product", "copy", "plain"):
        if by_name[name].error is not None:
            raise SystemExit(f"{name}: {by_name[name].error}")
    rate = by_name["product"].facts["macs"] / by_name["product"].median
    bandwidth = by_name["copy"].facts["bytes"] / by_name["copy"].median
    floor, lines = work.floor(rate, bandwidth), []
    for form, result in by_name.items():
        if form in ("product", "copy"):
            continue
        if result.error is not None:
            lines.append([label, form, f"not run: {result.error}", *[""] * 4])
            continue
        taken = result.median
        faster = by_name["plain"].median / taken
        figures = (f"{clips / taken:.1f}", f"{1e3 * taken / clips:.2f}", f"{faster:.2f}", f"{floor / taken:.0%}")
        lines.append([label, form, *figures, f"{result.facts['gpu_mb']:.0f}"])
    macs, moved = (sum(part[i] for part in work.parts) for i in (0, 1))
    told = f"{macs / 1e9:.0f} G multiply-adds, {moved / 1e9:.1f} GB"
    card = f"{rate / 1e12:.0f} T multiply-adds and {bandwidth / 1e12:.2f} TB a second"
    lines.append([label, f"floor: {told} at {card}", f"{clips / floor:.1f}", f"{1e3 * floor / clips:.2f}", *[""] * 3])
    return lines


if __name__ == "__main__":
    main()
