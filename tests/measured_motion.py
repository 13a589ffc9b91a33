"""How a video's picture moves, measured without knowing what moved it: for the tests of the camera-motion benchmark."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from uniformer.camera_motion.paths import PITCH, ROLL, YAW, ZOOM, X, Y, Z

Array = npt.NDArray[np.float64]

# class -> the axis it is about and the sign on it; and which way the picture goes: right, down, growth, clockwise.
AXIS = {
    "pan_left": (YAW, -1),
    "pan_right": (YAW, 1),
    "tilt_down": (PITCH, -1),
    "tilt_up": (PITCH, 1),
    "truck_left": (X, -1),
    "truck_right": (X, 1),
    "pedestal_down": (Y, -1),
    "pedestal_up": (Y, 1),
    "push_in": (Z, 1),
    "pull_out": (Z, -1),
    "roll_left": (ROLL, -1),
    "roll_right": (ROLL, 1),
    "zoom_in": (ZOOM, 1),
    "zoom_out": (ZOOM, -1),
}
THERE_AND_BACK = {
    "pan_left_then_right": (YAW, -1),
    "pan_right_then_left": (YAW, 1),
    "push_in_then_pull_out": (Z, 1),
    "pull_out_then_push_in": (Z, -1),
}
IN_PICTURE = {X: (0, -1), YAW: (0, -1), Y: (1, 1), PITCH: (1, 1), Z: (2, 1), ZOOM: (2, 1), ROLL: (3, -1)}


def read(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def motion(frames: npt.NDArray[np.uint8]) -> Array:
    """(T, H, W) -> (T - 1, 4): how far the picture goes right, down, grows and turns clockwise from frame to frame, in
    pixels and pixels at a distance of one. By phase correlation of tiles: their median, and means over pairs."""
    size, step = 40, 20
    places = [(y, x) for y in range(0, 120 - size + 1, step) for x in range(0, 160 - size + 1, step)]
    window = np.outer(np.hanning(size), np.hanning(size))
    tiles = np.stack([frames[:, y : y + size, x : x + size] for y, x in places], 1).astype(float)
    spectra = np.fft.fft2((tiles - tiles.mean((2, 3), keepdims=True)) * window)
    cross = spectra[1:] * spectra[:-1].conj()
    peaks = np.fft.ifft2(cross / (np.abs(cross) + 50)).real.reshape(len(frames) - 1, len(places), -1)
    best = peaks.argmax(2)
    down, right = np.divmod(best, size)
    moved = np.stack([(right + size // 2) % size - size // 2, (down + size // 2) % size - size // 2], -1)  # (T, P, 2)
    centre = np.array([(x, y) for y, x in places]) + size / 2 - (80, 60)
    first, second = np.triu_indices(len(places), 1)
    apart = centre[second] - centre[first]
    change = moved[:, second] - moved[:, first]
    distance = (apart**2).sum(1)
    growth = (change * apart).sum(2) / distance
    turn = (change[..., 1] * apart[:, 0] - change[..., 0] * apart[:, 1]) / distance
    middle = np.median(moved, 1)
    return np.concatenate([middle, growth.mean(1)[:, None], turn.mean(1)[:, None]], 1)


def in_picture(frames: npt.NDArray[np.uint8], axis: int, sign: int) -> Array:
    """How far the picture goes from step to step as a camera's motion on an axis has it: widths, growth or radians."""
    component, direction = IN_PICTURE[axis]
    if component < 2:
        return motion(frames)[:, component] / 160 * direction * sign
    return motion(frames[::3])[:, component] * direction * sign  # too slow to see from one frame to the next
