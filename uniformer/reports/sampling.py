"""A picture of what the network is fed: every frame of every view, and where each crop lies in the source."""

from __future__ import annotations

import os

from PIL import Image, ImageDraw, ImageFont

from uniformer.config import InputSpec
from uniformer.errors import counted
from uniformer.reading.transforms import denormalise
from uniformer.reading.views import Views
from uniformer.support.files import atomic_path

TILE = 112  # pixels of a frame's longer side on the sheet
MARGIN, LINE = 8, 14
INK, FAINT = (20, 20, 20), (110, 110, 110)
COLOURS = ((214, 60, 60), (40, 120, 200), (60, 150, 80))  # of the left, centre and right crop


def sampling_sheet(views: Views, spec: InputSpec, title: str) -> Image.Image:
    """One row per view: its frames as the network sees them, resized to tiles, each with its number and time.

    The header shows the outline of the source and the crops in it.
    """
    pictures = denormalise(views.pixels, spec)  # (V, [T,] h, w, 3)
    pictures = pictures if pictures.ndim == 5 else pictures[:, None]
    count, time, h, w, _ = pictures.shape
    scale = TILE / max(h, w)
    tile_h, tile_w = max(1, round(h * scale)), max(1, round(w * scale))
    head = TILE + 2 * MARGIN
    width = max(MARGIN + (tile_w + 4) * time + MARGIN, 560)
    row = LINE + tile_h + LINE + MARGIN
    sheet = Image.new("RGB", (width, head + LINE + row * count + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    _header(draw, font, views, spec, title)
    for number in range(count):
        clip, crop = divmod(number, spec.crops)
        top = head + LINE + row * number
        colour = COLOURS[crop] if spec.crops == 3 else COLOURS[1]
        text = f"clip {clip + 1} of {spec.clips}, " if spec.is_video else ""
        text += f"crop {crop + 1} of {spec.crops}"
        draw.text((MARGIN, top), text, fill=colour, font=font)
        for t in range(time):
            left = MARGIN + (tile_w + 4) * t
            tile = Image.fromarray(pictures[number, t]).resize((tile_w, tile_h))
            sheet.paste(tile, (left, top + LINE))
            if views.frames is not None:
                caption = str(views.frames[clip, t])
                caption += "" if views.seconds is None else f"  {views.seconds[clip, t]:.2f}s"
                draw.text((left, top + LINE + tile_h), caption, fill=FAINT, font=font)
    return sheet


def _header(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    views: Views,
    spec: InputSpec,
    title: str,
) -> None:
    scale = TILE / max(views.height, views.width)
    draw.rectangle((MARGIN, MARGIN, MARGIN + views.width * scale, MARGIN + views.height * scale), outline=FAINT)
    for number, (top, left, height, width) in enumerate(views.boxes):
        colour = COLOURS[number] if len(views.boxes) == 3 else COLOURS[1]
        box = (left, top, left + width, top + height)
        draw.rectangle(tuple(MARGIN + v * scale for v in box), outline=colour, width=2)
    rate = "" if views.fps is None else f", {views.fps:.4g} fps"
    length = "" if views.num_frames is None else f", {counted(views.num_frames, 'frame')}{rate}"
    lines = [
        os.path.basename(title) or title,
        f"source {views.width} x {views.height}{length}",
        f"fed: {fed_in_words(spec)}",
        f"short side {spec.resize}, crop {spec.size[1]} x {spec.size[0]}, {spec.channels.upper()}",
        *views.notes,
    ]
    for number, line in enumerate(lines[:7]):
        draw.text((MARGIN + TILE + 16, MARGIN + number * (LINE + 1)), line[:120], fill=INK, font=font)


def fed_in_words(spec: InputSpec) -> str:
    """'4 x 3 views of 16 frames, at stride 4', '1 x 1 view of 8 frames, one of each segment'; of images '1 view'."""
    if not spec.is_video:
        return spec.views_in_words
    how = "one of each segment" if spec.sampling == "sparse" else f"at stride {spec.stride}"
    return f"{spec.views_in_words} of {counted(spec.frames, 'frame')}, {how}"


def save_sheet(sheet: Image.Image, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
