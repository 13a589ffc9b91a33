"""Frame choice against tables worked out by hand, exact fractions, and torch.linspace (as in the published runs)."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from uniformer.config import InputSpec
from uniformer.errors import InputError
from uniformer.reading.sampling import clip_indices, effective_stride, random_clip

PUBLISHED_DENSE = [(8, 8), (16, 4), (16, 8), (32, 4)]  # frames, stride


def dense(frames: int, stride: int, clips: int = 1, fps: float | None = None) -> InputSpec:
    return InputSpec(frames=frames, stride=stride, sampling="dense", clips=clips, fps=fps)


def sparse(frames: int, clips: int = 1) -> InputSpec:
    return InputSpec(frames=frames, sampling="sparse", clips=clips)


def exact_dense(spec: InputSpec, num_frames: int) -> list[list[int]]:
    """The rule in integers: window stride * T, steps (stride * T - 1) / (T - 1)."""
    assert spec.stride
    window, rows = spec.stride * spec.frames, []
    slack = max(num_frames - window, 0)
    for clip in range(spec.clips):
        start = slack // 2 if spec.clips == 1 else clip * (slack // (spec.clips - 1))
        steps = [(window - 1) * i // max(spec.frames - 1, 1) for i in range(spec.frames)]
        rows.append([min(start + step, num_frames - 1) for step in steps])
    return rows


def exact_sparse(spec: InputSpec, num_frames: int) -> list[list[int]]:
    """The rule in fractions; Python's round takes halves to the even number too."""
    segment = Fraction(num_frames - 1, spec.frames)
    return [
        [round(segment * i) + math.floor(segment / (spec.clips + 1) * (clip + 1)) for i in range(spec.frames)]
        for clip in range(spec.clips)
    ]


# fmt: off
WORKED = [
    # 16 x 4 spans 64 frames: the steps are 63 / 15 = 4.2, so every fifth is 5 frames long
    (dense(16, 4), 64, [[0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]]),
    (dense(16, 4), 300, [[118, 122, 126, 130, 134, 139, 143, 147, 151, 155, 160, 164, 168, 172, 176, 181]]),
    # four clips of 300 frames start at multiples of floor(236 / 3) = 78
    (dense(4, 16, clips=4), 300, [[0, 21, 42, 63], [78, 99, 120, 141], [156, 177, 198, 219], [234, 255, 276, 297]]),
    # shorter than the window: held at the last frame
    (dense(16, 4), 30, [[0, 4, 8, 12, 16, 21, 25, 29, 29, 29, 29, 29, 29, 29, 29, 29]]),
    (dense(4, 4, clips=2), 1, [[0, 0, 0, 0], [0, 0, 0, 0]]),
    # one frame is the first of its window, as in the reference
    (dense(1, 4), 11, [[3]]),
    # 31 frames in 4 segments of 7.5: starts round(0, 7.5, 15, 22.5) with halves to even, plus floor(7.5 / 2)
    (sparse(4), 31, [[3, 11, 18, 25]]),
    (sparse(4, clips=2), 31, [[2, 10, 17, 24], [5, 13, 20, 27]]),
    (sparse(8), 5, [[0, 0, 1, 2, 2, 2, 3, 4]]),
    (sparse(8), 1, [[0] * 8]),
    (sparse(1), 11, [[5]]),
]
# fmt: on


@pytest.mark.parametrize(("spec", "num_frames", "expected"), WORKED)
def test_worked_examples(spec: InputSpec, num_frames: int, expected: list[list[int]]) -> None:
    indices = clip_indices(spec, num_frames)
    assert indices.dtype == np.int64
    assert indices.tolist() == expected


@pytest.mark.parametrize(("frames", "stride"), PUBLISHED_DENSE)
@pytest.mark.parametrize("clips", [1, 4, 5])
def test_dense_is_exact_for_the_published_runs(frames: int, stride: int, clips: int) -> None:
    spec = dense(frames, stride, clips)
    for num_frames in [*range(1, 700), 1234, 9999, 100_001]:
        assert clip_indices(spec, num_frames).tolist() == exact_dense(spec, num_frames), num_frames


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 16, 33, 64])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_dense_rounds_as_torch_linspace(frames: int, stride: int) -> None:
    spec = dense(frames, stride, clips=3)
    for num_frames in [*range(1, 700, 7), 222, 9999, 250_000]:
        window = stride * frames
        for clip, row in enumerate(clip_indices(spec, num_frames)):
            start = clip * (max(num_frames - window, 0) // 2)
            points = torch.linspace(start, start + window - 1, frames).clamp(0, num_frames - 1).long()
            assert row.tolist() == points.tolist(), (num_frames, clip)


def test_dense_follows_float32_where_exact_arithmetic_differs() -> None:
    spec = dense(64, 8)
    ours, exact = clip_indices(spec, 222)[0], np.array(exact_dense(spec, 222)[0])
    assert [(int(a), int(b)) for a, b in zip(ours, exact, strict=True) if a != b] == [(218, 219)]


@pytest.mark.parametrize("frames", [4, 8, 16, 32])
@pytest.mark.parametrize("clips", [1, 2, 3, 10])
def test_sparse_is_exact_and_never_needs_a_cap(frames: int, clips: int) -> None:
    spec = sparse(frames, clips)
    for num_frames in [*range(1, 500), 1234, 9999]:
        expected = exact_sparse(spec, num_frames)
        assert clip_indices(spec, num_frames).tolist() == expected, num_frames
        assert max(map(max, expected)) <= num_frames - 1  # the light models' cap is no other rule


@pytest.mark.parametrize("spec", [dense(16, 4), dense(1, 3), sparse(8), sparse(1)])
def test_random_clip_is_in_order_inside_and_repeatable(spec: InputSpec) -> None:
    for num_frames in [1, 2, 7, 15, 64, 65, 300]:
        for seed in range(20):
            clip = random_clip(spec, num_frames, np.random.default_rng(seed))
            assert clip.shape == (spec.frames,)
            assert clip.dtype == np.int64
            assert clip.min() >= 0
            assert clip.max() < num_frames
            assert (np.diff(clip) >= 0).all()
            assert (clip == random_clip(spec, num_frames, np.random.default_rng(seed))).all()


def test_random_dense_clip_reaches_both_ends() -> None:
    rng = np.random.default_rng(0)
    starts = [int(random_clip(dense(4, 2), 12, rng)[0]) for _ in range(300)]
    assert set(starts) == {0, 1, 2, 3}  # uniform in [0, 12 - 8), rounded down


def test_random_sparse_clip_draws_each_segment_with_its_ends() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([random_clip(sparse(4), 31, rng) for _ in range(500)])  # edges 0, 8, 15, 22, 30
    assert [sorted(set(column.tolist())) for column in draws.T] == [
        list(range(9)),
        list(range(8, 16)),
        list(range(15, 23)),
        list(range(22, 31)),
    ]


def test_random_sparse_clips_may_be_even() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([random_clip(sparse(8), 81, rng, even=True) for _ in range(300)])
    assert {*np.diff(drawn).ravel().tolist()} == {10}  # segments of 10 frames
    assert drawn.min() == 0  # both ends are reached
    assert drawn.max() == 80
    short = np.stack([random_clip(sparse(8), 3, rng, even=True) for _ in range(50)])
    assert short.min() == 0
    assert short.max() == 2
    assert (np.diff(short) >= 0).all()


def test_following_seconds_scales_the_stride() -> None:
    spec = dense(16, 4, fps=30)
    assert effective_stride(spec, fps=60) == 4  # frames are counted whatever the rate unless asked
    assert effective_stride(spec, fps=60, follow_seconds=True) == 8
    assert effective_stride(spec, fps=15, follow_seconds=True) == 2
    assert effective_stride(sparse(8), fps=60, follow_seconds=True) is None
    double = clip_indices(spec, 300, fps=60, follow_seconds=True)
    assert double.tolist() == clip_indices(dense(16, 8), 300).tolist()
    usual = clip_indices(spec, 300, fps=30, follow_seconds=True)
    assert usual.tolist() == clip_indices(spec, 300).tolist()
    film = clip_indices(spec, 300, fps=24, follow_seconds=True)[0]  # 51.2 frames from floor(248.8 / 2), steps 50.2 / 15
    assert film.tolist() == [124, 127, 130, 134, 137, 140, 144, 147, 150, 154, 157, 160, 164, 167, 170, 174]
    sparse_clip = clip_indices(sparse(8), 300, fps=60, follow_seconds=True)
    assert sparse_clip.tolist() == clip_indices(sparse(8), 300).tolist()


def test_following_seconds_at_a_very_low_rate_repeats_frames() -> None:
    spec = dense(8, 2, fps=30)  # 16 frames are half a second: at one frame per second, one frame
    assert clip_indices(spec, 20, fps=1, follow_seconds=True).tolist() == [[9] * 8]


@pytest.mark.parametrize("fps", [None, 0.0, -25.0, float("nan"), float("inf")])
def test_following_seconds_needs_rates(fps: float | None) -> None:
    with pytest.raises(InputError, match="positive frame rate of the video to follow seconds, got"):
        clip_indices(dense(16, 4, fps=30), 300, fps=fps, follow_seconds=True)
    with pytest.raises(InputError, match="the training videos"):
        clip_indices(dense(16, 4), 300, fps=25, follow_seconds=True)


@pytest.mark.parametrize("num_frames", [0, -3])
@pytest.mark.parametrize("spec", [dense(16, 4), sparse(8)])
def test_empty_videos_are_refused(spec: InputSpec, num_frames: int) -> None:
    with pytest.raises(InputError, match=f"at least one frame, got {num_frames}"):
        clip_indices(spec, num_frames)
    with pytest.raises(InputError, match=f"at least one frame, got {num_frames}"):
        random_clip(spec, num_frames, np.random.default_rng(0))


def test_images_have_no_frames_to_choose() -> None:
    for ask in (
        lambda: clip_indices(InputSpec(), 10),
        lambda: random_clip(InputSpec(), 10, np.random.default_rng(0)),
        lambda: effective_stride(InputSpec()),
    ):
        with pytest.raises(InputError, match="got one for images"):
            ask()


def test_needs_no_torch() -> None:
    code = "import sys, uniformer.reading.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
