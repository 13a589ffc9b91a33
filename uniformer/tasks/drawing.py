"""Answers drawn onto pictures: boxes with texts, masks, label maps with a legend, skeletons, labels; and over time.

A class has the same colour in every picture. Lines and texts grow with the picture; lines have a dark rim and texts a
ground of their own, so both are seen on dark and on light; no text leaves the picture. Pillow and NumPy only.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from uniformer.errors import shown
from uniformer.labels import plain_name
from uniformer.reading.pictures import Pixels
from uniformer.reading.run_lengths import Mask, RunLengths, decode_mask

Colour: TypeAlias = tuple[int, int, int]
Span: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

MASK, MAP = 0.45, 0.6  #: how much of a colour covers the picture
GOLDEN = 0.61803398875  # neighbours on a circle that is walked in such steps are never near
LIGHTS = (0.55, 0.68, 0.42)
RIM = (0, 0, 0)
PANEL, PANEL_INK, PANEL_FAINT, PANEL_DARK = (28, 28, 32), (240, 240, 240), (160, 160, 165), (75, 75, 80)
BAND = 1 << 22  # pixels of a picture that are mixed at once
VEIL = 200  # of 255: how much of a panel on a picture covers it
SMALLEST = 8  # pixels of a text that can still be read
LEFT, RIGHT, MIDDLE = (64, 156, 255), (255, 149, 0), (48, 209, 88)  # of a person, in words of the key points


def colour_of(label: int) -> Colour:
    """The colour of a class without one: hues far apart for classes that follow each other."""
    red, green, blue = colorsys.hls_to_rgb((0.97 + label * GOLDEN) % 1, LIGHTS[label % len(LIGHTS)], 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def colours_of(palette: Sequence[Colour], count: int) -> tuple[Colour, ...]:
    """Of so many classes: the palette, and beyond it colours of ours."""
    return (*palette[:count], *(colour_of(i) for i in range(len(palette), count)))


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)


class Pen(NamedTuple):
    """How thick lines and how large texts are in a picture of some size."""

    line: int
    text: int

    @classmethod
    def of(cls, height: int, width: int) -> Pen:
        short = min(height, width)
        return cls(max(1, round(short / 240)), max(11, round(short / 34)))


# ---- boxes and masks -------------------------------------------------------------------------------------------------


class Thing(NamedTuple):
    """One that is drawn: its box, what is written at it, and its mask if it has one."""

    box: Span  #: in pixels
    text: str
    colour: Colour
    mask: Mask | RunLengths | None = None  #: (H, W), or its run lengths: of many things in a large picture


def draw_things(pixels: Pixels, things: Sequence[Thing]) -> Image.Image:
    """Things, the most important first, onto uint8 RGB (H, W, 3); these lie on top."""
    pen, later = Pen.of(*pixels.shape[:2]), list(reversed(things))
    image = Image.fromarray(_with_masks(pixels, later, pen) if any(t.mask is not None for t in later) else pixels)
    draw = ImageDraw.Draw(image)
    for thing in later:
        _rectangle(draw, thing.box, thing.colour, pen.line)
    texts = _Texts(image.size)
    for thing in things:  # the most important choose their place first
        texts.place(plain_name(thing.text), thing.box, thing.colour, pen)
    texts.draw(draw)
    return image


def _with_masks(pixels: Pixels, things: Iterable[Thing], pen: Pen) -> Pixels:
    out = pixels.copy()
    for thing in things:
        whole = decode_mask(thing.mask) if isinstance(thing.mask, dict) else thing.mask
        if whole is None or not whole.any():
            continue
        rows, columns = (np.flatnonzero(whole.any(axis=axis)) for axis in (1, 0))
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        mask, under = whole[part], out[part]
        rim = mask & ~_shrunk(mask, pen.line)
        under[mask] = _mixed(under[mask], thing.colour, MASK)
        under[rim] = thing.colour
    return out


def _mixed(pixels: Pixels, colours: Any, share: float) -> Pixels:
    """Pixels (N, 3) under so much of a colour (3,), or of one each."""
    return (pixels * (1 - share) + np.asarray(colours, np.float32) * share + 0.5).astype(np.uint8)


def _shrunk(mask: Mask, by: int) -> Mask:
    """Less its outermost pixels."""
    for _ in range(by):
        inner = np.pad(mask, 1)
        mask = mask & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return mask


def _rectangle(draw: ImageDraw.ImageDraw, box: Span, colour: Colour, line: int) -> None:
    left, top, right, bottom = box
    right, bottom = max(left, right - 1), max(top, bottom - 1)  # the last pixels inside
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=RIM, width=line + 2)
    draw.rectangle((left, top, right, bottom), outline=colour, width=line)


# ---- texts -----------------------------------------------------------------------------------------------------------


class _Texts:
    """Texts on grounds of their own, which find places where they hide no other text."""

    def __init__(self, size: tuple[int, int]):
        self._width, self._height = size
        self._placed: list[tuple[Span, str, Colour, Font]] = []

    def place(self, text: str, box: Span, colour: Colour, pen: Pen) -> None:
        """At a box: above it, in it, below it; where all are taken, above."""
        found = fitted(text, self._width - 2, min(pen.text, self._height - 4))
        if found is None:
            return
        text, font = found
        pad = max(1, pen.text // 6)
        width, height = round(font.getlength(text)) + 2 * pad, _line_height(font) + pad
        width = min(width, self._width)
        left = min(max(0.0, box[0] - 1), self._width - width)
        tops = (box[1] - height, box[1], box[3] - height, box[3], box[1] + height)
        spans = [(left, top, left + width, top + height) for top in tops if 0 <= top <= self._height - height]
        if not spans:  # the box leaves the picture, or is as large
            top = min(max(0.0, box[1]), max(0, self._height - height))
            spans = [(left, top, left + width, top + height)]
        free = [span for span in spans if not any(_meet(span, other) for other, *_ in self._placed)]
        self._placed.append(((free or spans)[0], text, colour, font))

    def draw(self, draw: ImageDraw.ImageDraw) -> None:
        for (left, top, right, bottom), text, colour, font in reversed(self._placed):
            draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
            middle = (left + right) / 2, (top + bottom) / 2
            draw.text(middle, text, fill=ink_on(colour), font=font, anchor="mm")


def fitted(text: str, width: float, size: int) -> tuple[str, Font] | None:
    """A text and a font of at most `size` pixels in which it is no wider than `width`; cut where even the smallest
    does not do. None where nothing can be read."""
    text = shown(text, 200)
    for pixels in range(size, SMALLEST - 1, -1):
        font = ImageFont.load_default(pixels)
        if font.getlength(text) <= width:
            return text, font
    if size < SMALLEST:
        return None
    font = ImageFont.load_default(SMALLEST)
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return (text + "…", font) if text else None


def _line_height(font: Font) -> int:
    _, top, _, bottom = font.getbbox("Ágjy")
    return round(bottom - top) + 2


def _meet(one: Span, other: Span) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# ---- label maps ------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A line of a legend."""

    text: str
    share: float  #: of the picture
    colour: Colour


def draw_map(
    pixels: Pixels,
    labels: NDArray[np.integer],
    palette: Sequence[Colour],
    entries: Sequence[Entry],
    names: Sequence[str],
) -> Image.Image:
    """Labels (H, W) in their colours over a picture, those beyond the palette in none, and a legend to its right.

    The legend is as wide as the longest of all `names` asks for, so that the frames of a video have one size.
    """
    height, width = pixels.shape[:2]
    out = pixels.copy()
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band, here = out[top : top + rows], labels[top : top + rows]
        labelled = here < len(palette)
        band[labelled] = _mixed(band[labelled], paint(here, palette)[labelled], MAP)
    size = max(11, min(Pen.of(height, width).text, height // 8))
    font = ImageFont.load_default(size)
    longest = max((font.getlength(shown(plain_name(name), 200)) for name in names), default=0)
    margin, share_width = size // 2, round(font.getlength(" 100 %"))
    inner = min(round(longest), max(width // 2, 5 * size))
    panel = Image.new("RGB", (size + inner + share_width + 4 * margin, height), PANEL)
    _fill_legend(panel, entries, inner, size)
    sheet = Image.new("RGB", (width + panel.width, height))
    sheet.paste(Image.fromarray(out), (0, 0))
    sheet.paste(panel, (width, 0))
    return sheet


def _fill_legend(panel: Image.Image, entries: Sequence[Entry], inner: int, size: int) -> None:
    draw, row, margin = ImageDraw.Draw(panel), round(1.6 * size), size // 2
    fits = max(1, (panel.height - margin) // row)
    shown_entries = entries if len(entries) <= fits else entries[: fits - 1]
    for number, entry in enumerate(shown_entries):
        middle = margin + (number + 0.5) * row
        draw.rectangle((margin, middle - size / 2, margin + size, middle + size / 2), fill=entry.colour)
        right = panel.width - margin
        draw.text(
            (right, middle), _percent(entry.share), fill=PANEL_FAINT, font=ImageFont.load_default(size), anchor="rm"
        )
        if (found := fitted(plain_name(entry.text), inner, size)) is not None:
            draw.text((2 * margin + size, middle), found[0], fill=PANEL_INK, font=found[1], anchor="lm")
    if more := len(entries) - len(shown_entries):
        middle = margin + (len(shown_entries) + 0.5) * row
        found = fitted(f"and {more} more", panel.width - 2 * margin, size)
        if found is not None:
            draw.text((margin, middle), found[0], fill=PANEL_FAINT, font=found[1], anchor="lm")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "< 1 %"


# ---- labels ----------------------------------------------------------------------------------------------------------


def captioned(pixels: Pixels, entries: Sequence[Entry]) -> Image.Image:
    """What holds of a whole picture, uint8 RGB (H, W, 3), in its lower left corner: a bar as long as each share."""
    image = Image.fromarray(pixels)
    if entries:
        panel, margin = _caption(image.size, tuple(entries))
        image.paste(panel, (margin, image.height - margin - panel.height), panel)
    return image


@lru_cache(maxsize=4)  # the frames of a film have the same one for long
def _caption(size: tuple[int, int], entries: tuple[Entry, ...]) -> tuple[Image.Image, int]:
    """The panel, RGBA, of as many entries as fit, and how far it is from the edges."""
    text = Pen.of(size[1], size[0]).text
    margin, row, bar = max(1, text // 2), 2 * text, max(3, text // 3)
    entries = entries[: max(1, (size[1] - 2 * margin) // row)]
    font = ImageFont.load_default(text)
    share_width = round(font.getlength(" 100 %"))
    longest = max(round(font.getlength(shown(plain_name(entry.text), 200))) for entry in entries)
    inner = max(1, min(max(longest + share_width, 10 * text), size[0] - 4 * margin))
    panel = Image.new("RGBA", (inner + 2 * margin, row * len(entries) + margin), (*PANEL, VEIL))
    draw = ImageDraw.Draw(panel)
    for number, entry in enumerate(entries):
        top = margin // 2 + number * row
        line = margin, top + text + bar // 2, margin + inner, top + text + bar // 2 + bar - 1
        draw.rectangle(line, fill=PANEL_DARK)
        draw.rectangle((*line[:2], margin + round(entry.share * inner), line[3]), fill=entry.colour)
        draw.text((margin + inner, top + text / 2), _percent(entry.share), fill=PANEL_INK, font=font, anchor="rm")
        if (found := fitted(plain_name(entry.text), inner - share_width, text)) is not None:
            draw.text((margin, top + text / 2), found[0], fill=PANEL_INK, font=found[1], anchor="lm")
    return panel, margin


class Stretch(NamedTuple):
    """What holds from when to when, and how surely."""

    text: str
    share: float
    start: float  #: seconds
    end: float
    colour: Colour


def draw_stretches(stretches: Sequence[Stretch], duration: float) -> Image.Image:
    """What holds when, in a line for each text, in the order in which they first come; seconds below."""
    names, text, row, wide = list(dict.fromkeys(one.text for one in stretches)), 16, 26, 720
    font = ImageFont.load_default(text)
    left = 2 * text + round(max((font.getlength(shown(name, 40)) for name in names), default=0))
    image = Image.new("RGB", (left + wide + 2 * text, row * (len(names) + 1) + text), PANEL)
    draw = ImageDraw.Draw(image)
    for number, name in enumerate(names):
        draw.text((left - text // 2, text / 2 + (number + 0.5) * row), shown(name, 40), PANEL_INK, font, anchor="rm")
    scale = wide / max(duration, 1e-6)
    for one in stretches:
        top = text // 2 + row * names.index(one.text) + 3
        right = max(round(one.start * scale), round(one.end * scale) - 2)
        draw.rectangle((left + round(one.start * scale), top, left + right, top + row - 7), fill=one.colour)
    for quarter in range(5):
        place = left + wide * quarter / 4, image.height - row / 2
        draw.text(place, f"{duration * quarter / 4:.1f} s", PANEL_FAINT, font, anchor="mm")
    return image


# ---- maps of what counts ---------------------------------------------------------------------------------------------

HEAT = ((40, 10, 90), (150, 35, 110), (225, 80, 60), (250, 165, 20), (252, 250, 160))  #: from little to much
HEATED = 0.75  # how much of the most covers the picture


def draw_heat(pixels: Pixels, heat: NDArray[np.floating[Any]]) -> Image.Image:
    """A map (H, W) of 0 to 1 over a picture, uint8 RGB (H, W, 3): the more, the less of the picture is seen."""
    levels, steps = np.linspace(0, 1, 256), np.linspace(0, 1, len(HEAT))
    share = (HEATED * np.sqrt(levels))[:, None]
    colours = np.stack([np.interp(levels, steps, each) for each in np.transpose(HEAT)], axis=1) * share
    level = (heat.clip(0, 1) * 255).astype(np.uint8)
    mixed = pixels * (1 - share).astype(np.float32)[level] + colours.astype(np.float32)[level]
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


# ---- people ----------------------------------------------------------------------------------------------------------


def side_colour(names: Sequence[str]) -> Colour:
    """The colour of what joins these key points: of the left side, the right side, or neither."""
    sides = {"left" if "left" in name else "right" if "right" in name else "" for name in map(str.casefold, names)}
    return {frozenset(["left"]): LEFT, frozenset(["right"]): RIGHT}.get(frozenset(sides - {""}), MIDDLE)


def draw_people(
    pixels: Pixels,
    keypoints: NDArray[np.floating[Any]],
    seen: Mask,
    names: Sequence[str],
    skeleton: Sequence[tuple[int, int]],
    things: Sequence[Thing],
) -> Image.Image:
    """Key points (N, K, 2), where they are `seen` (N, K), and the limbs between them, over their people's boxes."""
    image = draw_things(pixels, things)
    pen = Pen.of(*pixels.shape[:2])
    draw = ImageDraw.Draw(image)
    for points, visible, thing in list(zip(keypoints, seen, things, strict=True))[::-1]:
        line = max(1, min(2 * pen.line, round((thing.box[3] - thing.box[1]) / 40)))  # thin for small people
        for rim in (2, 0):
            for one, other in skeleton:
                if visible[one] and visible[other]:
                    colour = RIM if rim else side_colour((names[one], names[other]))
                    draw.line([*map(float, points[one]), *map(float, points[other])], fill=colour, width=line + rim)
        for place in np.flatnonzero(visible).tolist():
            x, y = map(float, points[place])
            radius = line + 0.5
            ground = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(ground, fill=side_colour((names[place],)), outline=RIM)
    return image


BLACK = (0, 0, 0)  #: the colour of pixels without a class


def paint(labels: NDArray[np.integer], palette: Sequence[Sequence[int]]) -> Pixels:
    """Labels (H, W) in the colours of their classes: uint8 RGB (H, W, 3). Labels beyond the palette are black."""
    table = np.full((max(256, len(palette)), 3), BLACK, np.uint8)
    table[: len(palette)] = palette
    return table[labels.clip(0, len(table) - 1)]
