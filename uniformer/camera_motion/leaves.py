"""Pictures drawn at random with the statistics of photographs, for who has few photographs: dead leaves.

Opaque shapes fall on each other, as many of each octave of sizes as cover the same area, each with a colour, a shade
that changes over it and a texture. Edges, occlusions and the fall of the spectrum come out as in photographs (Lee,
Mumford and Huang, Occlusion models for natural images, IJCV 2001), which plain noise lacks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]

SIZE = (640, 880)  #: height and width of a picture
_LEAVES = 1600
_RADII = (7.0, 320.0)  # pixels: the more of a size, the smaller
_COLOURS = 7


def draw_leaves(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3), another for every state of the generator."""
    height, width = SIZE
    palette = _palette(rng)
    textures = [_cloud(rng, slope) for slope in rng.uniform(0.6, 1.6, 3)]
    view = palette[0] * (1 + 0.3 * textures[0][..., None])
    small, large = (radius**-2 for radius in _RADII)
    for radius in sorted(rng.uniform(large, small, _LEAVES) ** -0.5, reverse=bool(rng.random() < 0.5)):
        _fall(view, float(radius), palette[rng.integers(_COLOURS)], textures[rng.integers(3)], rng)
    light = 1 + rng.uniform(0, 0.4) * _ramp(height, width, rng)
    return (255 * np.clip(view * light[..., None], 0, 1) ** rng.uniform(0.7, 1.2)).astype(np.uint8)


def _palette(rng: np.random.Generator) -> Plane:
    """(colours, 3) in 0..1: greys of all depths around one tint, and now and then something bright."""
    tint = rng.normal(0, 0.06, 3)
    grey = rng.uniform(0.08, 0.9, (_COLOURS, 1))
    own = rng.normal(0, rng.choice([0.04, 0.1, 0.2], (_COLOURS, 1), p=[0.5, 0.35, 0.15]), (_COLOURS, 3))
    return np.clip(grey * (1 + tint) + own, 0.02, 0.98).astype(np.float32)


def _cloud(rng: np.random.Generator, slope: float) -> Plane:
    """(H, W) noise whose spectrum falls by this power of the frequency, of deviation 1."""
    height, width = SIZE
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal(SIZE)) * frequency**-slope
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, SIZE)
    return (noise / noise.std()).astype(np.float32)


def _ramp(height: int, width: int, rng: np.random.Generator) -> Plane:
    """(height, width) in -1..1, from one side to another."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return ((np.cos(angle) * x + np.sin(angle) * y) / 1.42).astype(np.float32)


def _fall(view: Plane, radius: float, colour: Plane, texture: Plane, rng: np.random.Generator) -> None:
    """One leaf, an ellipse, a box or a bar, over what lies there."""
    height, width = view.shape[:2]
    middle_y, middle_x = rng.uniform(0, height), rng.uniform(0, width)
    slimness, angle = rng.uniform(0.25, 1), rng.uniform(0, np.pi)
    reach = radius * (1.42 if (is_box := rng.random() < 0.45) else 1.0)
    top, bottom = max(0, int(middle_y - reach)), min(height, int(middle_y + reach) + 1)
    left, right = max(0, int(middle_x - reach)), min(width, int(middle_x + reach) + 1)
    y, x = np.arange(top, bottom)[:, None] - middle_y, np.arange(left, right) - middle_x
    along = (np.cos(angle) * x + np.sin(angle) * y) / radius
    across = (np.cos(angle) * y - np.sin(angle) * x) / (radius * slimness)
    inside = np.maximum(np.abs(along), np.abs(across)) < 1 if is_box else along**2 + across**2 < 1
    grain = rng.uniform(0, 0.35) * texture[top:bottom, left:right]
    shade = 1 + grain + rng.uniform(0, 0.4) * _ramp(bottom - top, right - left, rng)
    part = view[top:bottom, left:right]
    part[inside] = (colour * shade[..., None])[inside]
