"""Depthwise 3D convolution on a GPU, by kernels of its own: `import uniformer.speed.kernels` needs Triton.

They have run under Triton's interpreter only, never on a card: a network takes them where `uniformer bench --device
cuda` has held them to float64 and found them the fastest, and nowhere else.

Three things make it quick. A program walks through time with one tile of places x channels, so that a frame is read
k x k times, not k x k x k, and its values stay in registers for all k frames to which they add. Channels lie last in
memory, as everywhere in this network, so that a thread reads eight of them at once. And the gradient of the filters
sums k x k taps, of all planes of one row of the filters, while it reads both maps once.

The kernels sum in float32 whatever the type of the maps. They are custom operators of torch: `torch.compile` takes
them as they are, and they can be differentiated twice.
"""

# Kernels are Triton's language, not Python's: values have no types there, tuples grow by sums, not by (*a, b).
# mypy: disable-error-code="assignment, misc, import-untyped, no-untyped-def"
# ruff: noqa: RUF005
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CHANNELS_AT_ONCE = 64
PROGRAMS = 2048  # of the filters' gradient, about: each leaves its own sums, which are added up afterwards


def depthwise_triton(x: Tensor, weight: Tensor, bias: Tensor | None, *, residual: bool = False) -> Tensor:
    """`depthwise.depthwise_plain`, or x plus that: x (B, C, T, H, W), weight (C, 1, k, k, k) -> as x, and lying as x.

    The residual is a one added to each filter's middle, in float32 also where x has 16 bits, and costs nothing. Under
    autocast x is taken in autocast's type, but for a residual, which keeps its own; filters are read in float32.
    """
    if torch.is_autocast_enabled(x.device.type) and not residual:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    taps = weight[:, 0].permute(1, 2, 3, 0).to(torch.float32, memory_format=torch.contiguous_format)  # (k, k, k, C)
    if residual:
        middle = taps.new_zeros(taps.shape[:3])
        middle[(weight.shape[-1] // 2,) * 3] = 1
        taps = taps + middle.unsqueeze(-1)
    y: Tensor = convolve(x, taps, bias)
    return y


# ---- operators -------------------------------------------------------------------------------------------------------


@torch.library.custom_op("uniformer::depthwise", mutates_args=())
def convolve(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, C, T, H, W) by taps (k, k, k, C) in float32."""
    x, last = _dense(x)
    y = torch.empty_like(x)
    B, C, T, H, W = x.shape
    k = len(taps)
    positions, channels = _tile(C, H * W, last, 2048 if last else 1024)
    grid = (triton.cdiv(H * W, positions), triton.cdiv(C, channels), B)
    with torch.cuda.device_of(x):
        _convolve[grid](
            x, taps.contiguous(), bias, y, T, H, W, C, k, last, positions, channels, enable_fp_fusion=True
        )  # fmt: skip
    return y


@torch.library.custom_op("uniformer::depthwise_taps", mutates_args=())
def correlate(x: Tensor, grad: Tensor, k: int) -> Tensor:
    """The gradient of the taps (k, k, k, C) in float32, of x and the output's gradient, both (B, C, T, H, W)."""
    x, last = _dense(x)
    grad = _laid(grad, last)
    B, C, T, H, W = x.shape
    positions, channels = _tile(C, H * W, last, 1024 if k == 3 else 512)
    in_a_frame, blocks = triton.cdiv(H * W, positions), triton.cdiv(C, channels)
    tiles = B * in_a_frame
    each = triton.cdiv(tiles, max(1, min(tiles, PROGRAMS // (blocks * k))))
    programs = triton.cdiv(tiles, each)
    sums = torch.empty(programs, k, k, k, C, device=x.device, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _correlate[(programs, blocks, k)](
            x, grad, sums, T, H, W, tiles, each, in_a_frame, C, k, last, positions, channels,
            enable_fp_fusion=True,
        )  # fmt: skip
    return sums.sum(0)


@convolve.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(_dense(x)[0])


@correlate.register_fake
def _(x: Tensor, grad: Tensor, k: int) -> Tensor:
    return x.new_empty(k, k, k, x.shape[1], dtype=torch.float32)


def _convolve_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, taps = ctx.saved_tensors
    of_x, of_taps, of_bias = ctx.needs_input_grad
    return (
        convolve(grad, taps.flip(0, 1, 2), None) if of_x else None,
        correlate(x, grad, len(taps)) if of_taps else None,
        grad.sum((0, 2, 3, 4), dtype=ctx.bias_dtype).to(ctx.bias_dtype) if of_bias else None,
    )


def _keep_for_convolve(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, taps, bias = inputs
    ctx.save_for_backward(x, taps)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _correlate_backward(ctx: Any, of_taps: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, grad = ctx.saved_tensors
    return (
        convolve(grad, of_taps.flip(0, 1, 2), None) if ctx.needs_input_grad[0] else None,
        convolve(x, of_taps, None) if ctx.needs_input_grad[1] else None,
        None,
    )


def _keep_for_correlate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


convolve.register_autograd(_convolve_backward, setup_context=_keep_for_convolve)
correlate.register_autograd(_correlate_backward, setup_context=_keep_for_correlate)


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """x as the kernels can read it, with its channels first or last in memory, and whether they are last."""
    if x.is_contiguous(memory_format=torch.channels_last_3d):
        return x, True
    return (x, False) if x.is_contiguous() else (_laid(x, True), True)


def _laid(x: Tensor, last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def _tile(channels: int, positions: int, last: bool, values: int) -> tuple[int, int]:
    """Positions of a frame and channels that a program computes together, powers of two: `values` of them or fewer.

    What lies side by side in memory is what a tile has most of.
    """
    c = min(triton.next_power_of_2(channels), CHANNELS_AT_ONCE if last else 8)
    return min(values // c, max(triton.next_power_of_2(positions), 4)), c


# ---- kernels ---------------------------------------------------------------------------------------------------------
# p, c: positions of a frame (P, 1) and channels (1, N) of a program's tile. Where channels are LAST in memory, one
# position is C values from the next, else one; a channel is one value from the next, else a whole T * H * W.


@triton.jit
def _place(p, c, area, T, C: tl.constexpr, LAST: tl.constexpr):
    """Where a tile's values (P, N) of frame 0 lie."""
    if LAST:
        return p * C + c
    return p + c * (T * area)


@triton.jit
def _shifted(frame, place, p, dh, dw, H, W, in_c, C: tl.constexpr, LAST: tl.constexpr):
    """The values of `frame` dh rows below and dw columns beside a tile, zero outside: (P, N), float32."""
    h, w = p // W + dh, p % W + dw
    step = C if LAST else 1
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W) & in_c
    return tl.load(frame + place + (dh * W + dw) * step, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _frame(sample, t, T, frame, place, p, area, in_c):
    """A tile's values of frame t, zero after the last one: (P, N), float32."""
    positions = tl.where(t < T, area, 0)
    return tl.load(sample + t * frame + place, mask=(p < positions) & in_c, other=0.0).to(tl.float32)


@triton.jit
def _convolve(
    x, taps, bias, y, T, H, W,
    C: tl.constexpr, K: tl.constexpr, LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of all T frames of a sample."""
    MIDDLE: tl.constexpr = K // 2
    area = H * W
    p = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    in_c = c < C
    inside = (p < area) & in_c
    place = _place(p, c, area, T, C, LAST)
    sample = tl.program_id(2).to(tl.int64) * (C * T * area)
    frame = area * C if LAST else area  # values from one frame to the next
    fresh = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    if bias is not None:
        fresh += tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)

    sums = ()  # of the outputs t - MIDDLE to t + MIDDLE, as far as frames up to t add to them
    for _ in tl.static_range(K):
        sums = sums + (fresh,)
    for t in range(T):
        for dh in range(K):  # not unrolled: with k * k taps in sight, the compiler runs out of registers
            for dw in tl.static_range(K):
                value = _shifted(
                    x + sample + t * frame, place, p, dh - MIDDLE, dw - MIDDLE, H, W, in_c, C, LAST
                )  # fmt: skip
                added = ()
                for i in tl.static_range(K):  # the oldest output gets the kernel's last plane in time
                    tap = ((K - 1 - i) * K + dh) * K + dw
                    added = added + (sums[i] + value * tl.load(taps + tap * C + c, mask=in_c, other=0.0),)
                sums = added
        if t >= MIDDLE:
            tl.store(y + sample + (t - MIDDLE) * frame + place, sums[0], mask=inside)
        moved = ()
        for i in tl.static_range(1, K):
            moved = moved + (sums[i],)
        sums = moved + (fresh,)
    for i in tl.static_range(MIDDLE):
        t = T - MIDDLE + i
        if t >= 0:
            tl.store(y + sample + t * frame + place, sums[i], mask=inside)


@triton.jit
def _correlate(
    x, grad, sums_out, T, H, W, tiles, each, in_a_frame,
    C: tl.constexpr, K: tl.constexpr, LAST: tl.constexpr, POSITIONS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The sums of x times grad for the K * K taps of one kernel row, over all frames of `each` tiles of the batch."""
    MIDDLE: tl.constexpr = K // 2
    area = H * W
    dh = tl.program_id(2)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    in_c = c < C
    frame = area * C if LAST else area
    nothing = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    sums = ()  # of tap (dt, dw) at dt * K + dw
    for _ in tl.static_range(K * K):
        sums = sums + (nothing,)
    first = tl.program_id(0) * each
    for tile in range(first, tl.minimum(first + each, tiles)):
        p = (tile % in_a_frame) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
        place = _place(p, c, area, T, C, LAST)
        sample = (tile // in_a_frame).to(tl.int64) * (C * T * area)
        window = ()  # of the gradients of outputs t - MIDDLE to t + MIDDLE
        for _ in tl.static_range(MIDDLE):
            window = window + (nothing,)
        for i in tl.static_range(MIDDLE):
            window = window + (_frame(grad + sample, i, T, frame, place, p, area, in_c),)
        for t in range(T):
            window = window + (_frame(grad + sample, t + MIDDLE, T, frame, place, p, area, in_c),)
            values = ()
            for dw in tl.static_range(K):
                values = values + (
                    _shifted(x + sample + t * frame, place, p, dh - MIDDLE, dw - MIDDLE, H, W, in_c, C, LAST),
                )
            added = ()
            for dt in tl.static_range(K):  # frame t is dt - MIDDLE after the output it adds to
                for dw in tl.static_range(K):
                    added = added + (sums[dt * K + dw] + values[dw] * window[K - 1 - dt],)
            sums = added
            moved = ()
            for i in tl.static_range(1, K):
                moved = moved + (window[i],)
            window = moved
    for dt in tl.static_range(K):
        for dw in tl.static_range(K):
            tap = ((tl.program_id(0) * K + dt) * K + dh) * K + dw
            total = tl.sum(sums[dt * K + dw], axis=0, keep_dims=True)  # (1, N)
            tl.store(sums_out + tap * C + c, total, mask=in_c)
