"""An explanation as files: a sheet of pictures, a copy of the video with the map and a bar of time, and arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from uniformer.explanations.explanation import Explanation
from uniformer.labels import plain_name
from uniformer.reading.moments import moments_of
from uniformer.reading.pictures import Pixels, open_picture, to_pixels
from uniformer.reading.sources import Media
from uniformer.reading.transforms import Floats
from uniformer.reading.video import open_video
from uniformer.reading.views import Source, open_clip
from uniformer.support.files import atomic_path
from uniformer.tasks.drawing import HEAT, PANEL, PANEL_FAINT, PANEL_INK, Colour, draw_heat, fitted
from uniformer.tasks.drawn_film import film_of
from uniformer.tasks.pictured import save_picture

TILE, MARGIN, LINE, BAR = 176, 8, 18, 40  # pixels of a sheet
COLUMNS = 8  # frames on a sheet
NEXT = Image.Resampling.BILINEAR


# ---- arrays ----------------------------------------------------------------------------------------------------------


def arrays_of(found: Explanation) -> dict[str, np.ndarray]:
    """What the file of arrays holds: each map (V, T, h, w) in the pixels of the views, or of timelines and films, which
    have very many views, one number a token; and `over_time_KIND` (num_frames,), which source frames they are of, and
    what the views show of them."""
    whole = {kind: found.full(kind) if len(found.parts) == 1 else found.maps[kind] for kind in found.kinds}
    moments = {"frames": found.frames, "seconds": found.seconds}
    return {
        **whole,
        **{f"over_time_{kind}": found.over_time(kind) for kind in found.kinds},
        **{f"kept_{block}": kept for block, kept in found.kept.items()},
        **{name: values for name, values in moments.items() if values is not None},
        "boxes": np.array(found.boxes),
        "name": np.array([part.name for part in found.parts]),
        "value": np.array([part.value for part in found.parts]),
        "views": np.array([part.views for part in found.parts]),
    }


def save_arrays(found: Explanation, path: str | os.PathLike[str]) -> None:
    """Write the arrays as a compressed .npz, which NumPy reads without pickles."""
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        np.savez_compressed(f, allow_pickle=False, **arrays_of(found))


# ---- pictures --------------------------------------------------------------------------------------------------------


def heated(found: Explanation, kind: str, frame: int, pixels: Pixels, peak: float) -> Image.Image:
    """A frame of the source, in any size, under its map; `peak` is the value that is shown as the most."""
    heat = found.at(kind, frame, pixels.shape[:2])
    return draw_heat(pixels, heat / peak if peak > 0 else heat)


def explanation_sheet(found: Explanation, source: Source) -> Image.Image:
    """The source under each map: of a picture side by side; of clips a row of frames for each map, and below it the
    bar of time, in which those frames are marked."""
    pictures = _frames_of(found, source)
    tile = _tile(found, TILE if found.frames is not None else 2 * TILE)
    across = len(pictures) if found.frames is not None else 1 + len(found.kinds)
    width = max(across * (tile[0] + MARGIN) + MARGIN, 480)
    rows: list[Image.Image] = [_text(width, _title(found), PANEL_INK)]
    if found.frames is None:
        ((_, pixels),) = pictures.items()
        tiles = [Image.fromarray(pixels), *(heated(found, k, 0, pixels, found.peak(k)) for k in found.kinds)]
        rows += [_row(tiles, width), _captions(["source", *found.kinds], tile[0], width)]
    else:
        rows += [_row([Image.fromarray(p) for p in pictures.values()], width)]
        rows += [_captions([_when(found, number) for number in pictures], tile[0], width)]
        for kind in found.kinds:
            peak, bar = found.peak(kind), _bar(found, kind, (width - 2 * MARGIN, BAR))
            for number in pictures:
                _mark(bar, found, number)
            rows += [_text(width, kind, PANEL_INK)]
            rows += [_row([heated(found, kind, n, p, peak) for n, p in pictures.items()], width)]
            rows += [_row([bar], width)]
    rows += [_text(width, note, PANEL_FAINT) for note in found.notes[:4]]
    return _stacked(rows, width)


def _frames_of(found: Explanation, source: Source) -> dict[int, Pixels]:
    """Some frames that the network saw, by their numbers, in the size of a tile; of a picture itself."""
    if found.frames is None:
        image = Image.fromarray(to_pixels(open_picture(source)))
        return {0: np.asarray(image.resize(_tile(found, 2 * TILE), NEXT))}
    seen = np.unique(found.frames)
    chosen = seen[np.linspace(0, len(seen) - 1, min(COLUMNS, len(seen))).round().astype(int)]
    tile, pictures = _tile(found, TILE), dict[int, Pixels]()
    with open_clip(source, fps=found.fps) as reader:
        for places, pixels in reader.each(chosen):
            shown = np.asarray(Image.fromarray(pixels).resize(tile, NEXT))
            pictures.update({int(chosen[place]): shown for place in places})
    return dict(sorted(pictures.items()))


def _tile(found: Explanation, longest: int) -> tuple[int, int]:
    """Width and height of the source where its longer side has so many pixels."""
    scale = longest / max(found.height, found.width)
    return max(1, round(found.width * scale)), max(1, round(found.height * scale))


def _title(found: Explanation) -> str:
    names = list(dict.fromkeys(plain_name(part.name) for part in found.parts))
    what = f"{names[0]} ({found.parts[0].value:.2f})" if len(found.parts) == 1 else ", ".join(names)
    by = f", by {found.checkpoint}" if found.checkpoint else ""
    return f"{os.path.basename(found.source) or found.source}: {what}{by}"


def _when(found: Explanation, frame: int) -> str:
    if found.seconds is None or found.frames is None:
        return f"frame {frame}"
    return f"frame {frame}, {found.seconds[found.frames == frame][0]:.2f} s"


def _text(width: int, text: str, ink: Colour) -> Image.Image:
    line = Image.new("RGB", (width, LINE), PANEL)
    if (found := fitted(text, width - 2 * MARGIN, 12)) is not None:
        ImageDraw.Draw(line).text((MARGIN, LINE / 2), found[0], fill=ink, font=found[1], anchor="lm")
    return line


def _captions(texts: list[str], tile: int, width: int) -> Image.Image:
    line = Image.new("RGB", (width, LINE), PANEL)
    for place, text in enumerate(texts):
        line.paste(_text(tile + MARGIN, text, PANEL_FAINT), (place * (tile + MARGIN), 0))
    return line


def _row(images: list[Image.Image], width: int) -> Image.Image:
    row = Image.new("RGB", (width, images[0].height + MARGIN), PANEL)
    for place, image in enumerate(images):
        row.paste(image, (MARGIN + place * (image.width + MARGIN), MARGIN // 2))
    return row


def _stacked(rows: list[Image.Image], width: int) -> Image.Image:
    sheet, top = Image.new("RGB", (width, sum(row.height for row in rows) + MARGIN), PANEL), MARGIN // 2
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


# ---- over time -------------------------------------------------------------------------------------------------------


def _bar(found: Explanation, kind: str, size: tuple[int, int]) -> Image.Image:
    """How much each frame counts, the most as high as the picture; below it a tick for each frame that was fed."""
    (width, height), values = size, found.over_time(kind)
    image = Image.new("RGB", size, (48, 48, 54))
    draw, floor = ImageDraw.Draw(image), height - 5
    shown = _largest_of_each(values / (values.max() or 1), width)
    for x, value in enumerate(shown):
        draw.line((x, floor, x, floor - round(value * (floor - 2))), fill=HEAT[3] if value else (48, 48, 54))
    for frame in found.fed:
        draw.line((_x(found, frame, width), floor + 1, _x(found, frame, width), height), fill=PANEL_INK)
    return image


def _largest_of_each(values: Floats, width: int) -> Floats:
    """One value for each column: that of its frame, or the largest of its frames."""
    edges = np.linspace(0, len(values), width + 1)
    return np.array([values[int(a) : max(int(a) + 1, int(np.ceil(b)))].max() for a, b in pairwise(edges)])


def _x(found: Explanation, frame: int, width: int) -> int:
    return min(width - 1, int((frame + 0.5) * width / found.num_frames))


def _mark(bar: Image.Image, found: Explanation, frame: int, ink: Colour = PANEL_INK) -> None:
    x = _x(found, frame, bar.width)
    ImageDraw.Draw(bar).line((x, 0, x, bar.height), fill=ink)


def save_film(found: Explanation, source: Media, path: Path, kind: str | None = None) -> str | None:
    """The video at its own rate and with its sound, each frame under a map, by default the `usual` one; below it what
    is explained there, whether the network was fed the frame or it lies between two that were, and the bar of time.

    Returns why there is no sound, where the source has some. Raises `InputError` where it cannot be written.
    """
    kind = kind or found.usual
    found.check_kind(kind)
    height = max(LINE + BAR, 2 * round(found.height / 16))
    bar, peak = _bar(found, kind, (found.width, height - LINE)), found.peak(kind)
    with (
        open_video(source) as reader,
        film_of(source, path, start=reader.start, rate=reader.info.fps) as film,
    ):
        for number, time, picture in moments_of(reader):
            if picture is None:
                continue
            here = bar.copy()
            part, is_fed = found.part_at(number), number in found.fed
            _mark(here, found, number, PANEL_INK if is_fed else PANEL_FAINT)
            said = f"{'fed' if is_fed else 'between'}: {plain_name(part.name)} ({part.value:.2f}), {kind}"
            words = _text(found.width, said, PANEL_INK if is_fed else PANEL_FAINT)
            image = Image.new("RGB", (found.width, found.height + height), PANEL)
            image.paste(heated(found, kind, number, picture(), peak), (0, 0))
            image.paste(words, (0, found.height))
            image.paste(here, (0, found.height + LINE))
            film.add(image, number / 25 if time is None else time)
    return film.note


def save_explanation(
    found: Explanation, source: Source, files: Mapping[str, Path], kind: str | None = None
) -> str | None:
    """Write what `files` names: "arrays", "sheet" and, of a video, "film". Returns a note on the film's sound.

    Raises `InputError` where one cannot be written.
    """
    found.check_kind(kind or found.usual)
    save_arrays(found, files["arrays"])
    save_picture(explanation_sheet(found, source), files["sheet"])
    if "film" not in files:
        return None
    return save_film(found, source, files["film"], kind)  # type: ignore[arg-type]
