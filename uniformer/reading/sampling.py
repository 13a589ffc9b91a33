"""Which frames of a video make a clip: arithmetic on integers, apart from decoding.

Two rules, one per `InputSpec.sampling`, both as in the published runs (SlowFast fork of Sense-X/UniFormer):

- dense (Kinetics, UCF101, HMDB51): a window of `stride * frames` frames, `frames` of them at even distances.
- sparse (Something-Something and the light models): the video in `frames` equal segments, one frame of each.

Frames count from 0. The reference adds 1 for Something-Something and HMDB51, whose frames are files numbered from 1:
that is a matter of file names. For the light models the authors later added a cap at the last frame, which changes
nothing, as no segment reaches beyond it. So there is one sparse rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from uniformer.config import InputSpec
from uniformer.errors import InputError

Indices = npt.NDArray[np.int64]

EPSILON = 1e-6  # of a video, by which moments may be off
WINDOW = 2.0  # seconds seen at once where sparse sampling leaves it open: as long as the clips of camera motion


def clip_indices(
    spec: InputSpec, num_frames: int, *, fps: float | None = None, follow_seconds: bool = False
) -> Indices:
    """The frames of every test clip of a video: always the same, spread over the video. Returns (clips, T), ascending;
    those of each of `spec.parts` in turn, a part taken as if it were the whole: (parts x clips, T).

    Dense: one clip lies in the middle, several start evenly spaced from 0 on. A video shorter than the window repeats
    its last frame. Sparse: a fixed frame of each segment, another one for each clip; a short video repeats frames.

    `num_frames` is the length of the video. With `follow_seconds`, `fps` (frames per second of this video) scales the
    dense stride, see `effective_stride`. Raises `InputError` for a spec of images, an empty video or an unusable rate.
    """
    stride = _checked_stride(spec, num_frames, fps, follow_seconds)
    parts = part_ranges(spec, np.arange(num_frames) / num_frames)
    return np.concatenate([first + _clips(spec, last - first, stride) for first, last in parts])


def part_ranges(spec: InputSpec, moments: npt.NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """The first frame of each of `spec.parts`, and the one after its last, of frames whose rising `moments` (N,) are
    shares of the video. A part of fewer frames than a clip takes is widened to as many, where the video has them:
    frames that repeat look like a camera that stands still.
    """
    for first, last in np.searchsorted(moments, np.array(spec.parts) - EPSILON).tolist():
        count = max(last - first, min(spec.frames, len(moments)))
        first = min(max((first + last - count) // 2, 0), len(moments) - count)
        yield first, first + count


def _clips(spec: InputSpec, num_frames: int, stride: float | None) -> Indices:
    """(clips, T) of a video or a part of one."""
    if stride is None:
        return _sparse(spec, num_frames)
    window = _window(spec, stride)
    slack = max(num_frames - window, 0)
    if spec.clips == 1:
        starts = [math.floor(slack / 2)]
    else:
        starts = [clip * math.floor(slack / (spec.clips - 1)) for clip in range(spec.clips)]
    return np.stack([_spread(start, window, spec.frames, num_frames) for start in starts])


def random_clip(spec: InputSpec, num_frames: int, rng: np.random.Generator, *, even: bool = False) -> Indices:
    """The frames of one training clip, (T,), ascending: the same generator state gives the same clip.

    Dense: the window starts anywhere it fits (at a fraction of a frame, as in the reference). Sparse: one frame drawn
    from each segment, both ends included; or with `even` from one place in all segments, so that they are at even
    distances as in testing. Strides count frames, as in all published runs. Errors as for `clip_indices`.
    """
    stride = _checked_stride(spec, num_frames)
    if stride is None and even:
        return ((np.arange(spec.frames) + rng.random()) * (num_frames - 1) / spec.frames).round().astype(np.int64)
    if stride is None:
        edges = _edges(num_frames, spec.frames)
        return rng.integers(edges[:-1], edges[1:], endpoint=True)
    window = _window(spec, stride)
    return _spread(rng.uniform(0, max(num_frames - window, 0)), window, spec.frames, num_frames)


def effective_stride(spec: InputSpec, *, fps: float | None = None, follow_seconds: bool = False) -> float | None:
    """Frames between two sampled ones, as configured; None for sparse sampling, where the video's length decides.

    The published runs count frames whatever their rate. With `follow_seconds` the stride becomes
    `stride * fps / spec.fps`, so that a clip lasts as many seconds as in training: 8 for stride 4 at 60 instead of 30
    frames per second. It need not be an integer, the sampled frames are. Sparse clips span the whole video at any rate.

    Raises `InputError` for a spec of images, and where following seconds needs a rate that is missing or not positive.
    """
    if spec.sampling is None:
        raise InputError("expected a spec with dense or sparse sampling, got one for images")
    if spec.stride is None or spec.sampling == "sparse":
        return None
    if not follow_seconds:
        return float(spec.stride)
    return spec.stride * _rate(fps, "the video") / _rate(spec.fps, "the training videos (fps in the spec)")


def window_seconds(spec: InputSpec, fps: float | None) -> float:
    """How long a clip lasts in a long video of `fps` frames a second: as long as in training, where the spec says at
    what rate that was; 2 s where sparse sampling leaves it open, or the video has no rate.

    Raises `InputError` for a spec of images.
    """
    stride = effective_stride(spec, fps=fps, follow_seconds=spec.fps is not None and fps is not None)
    return WINDOW if stride is None or fps is None else stride * spec.frames / fps


def _rate(fps: float | None, whose: str) -> float:
    if fps is None or not (math.isfinite(fps) and fps > 0):
        raise InputError(f"expected a positive frame rate of {whose} to follow seconds, got {fps}")
    return fps


def _checked_stride(
    spec: InputSpec, num_frames: int, fps: float | None = None, follow_seconds: bool = False
) -> float | None:
    stride = effective_stride(spec, fps=fps, follow_seconds=follow_seconds)
    if num_frames < 1:
        raise InputError(f"expected a video of at least one frame, got {num_frames}")
    return stride


def _window(spec: InputSpec, stride: float) -> float:
    """Frames a dense clip spans; at least one, for strides far below 1."""
    return max(stride * spec.frames, 1.0)


def _spread(start: float, window: float, count: int, num_frames: int) -> Indices:
    """`count` frames from `start` to `start + window - 1`, rounded down, held at the last frame.

    The steps are (stride * T - 1) / (T - 1), a little more than the stride. In float32 from both ends, which is what
    `torch.linspace` does in the reference: exact arithmetic takes the next frame in rare cases (64 frames, stride 8).
    """
    first, last = np.float32(start), np.float32(start + window - 1)
    step = (last - first) / np.float32(max(count - 1, 1))
    index = np.arange(count, dtype=np.float32)
    points = np.where(index < count // 2, first + step * index, last - step * (count - 1 - index))
    if count == 1:
        points = np.array([first])  # torch.linspace of one point is its start
    return np.minimum(points.astype(np.int64), num_frames - 1)


def _edges(num_frames: int, count: int) -> Indices:
    """Where each sparse segment starts, and last where the video ends: (count + 1,). Halves round to the even frame."""
    segment = (num_frames - 1) / count
    return np.round(segment * np.arange(count + 1)).astype(np.int64)


def _sparse(spec: InputSpec, num_frames: int) -> Indices:
    """(clips, T): the segments' starts plus an offset; n clips divide a segment into n + 1 parts."""
    part = (num_frames - 1) / spec.frames / (spec.clips + 1)
    offsets = (part * np.arange(1, spec.clips + 1)).astype(np.int64)
    return _edges(num_frames, spec.frames)[None, :-1] + offsets[:, None]
