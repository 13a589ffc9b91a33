"""What the page shows of files: a player, what the network says and was fed, a timeline, as HTML; and all of it as CSV.

Each answer is the `Predictor`'s, and each timeline `timelines.timeline`'s: nothing is computed in another way here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from uniformer.errors import InputError, counted
from uniformer.explanations.explain import Explainer
from uniformer.inference.frames import see_frames
from uniformer.inference.predictor import Predictor
from uniformer.inference.results import Answers
from uniformer.labels import plain_name
from uniformer.reading.moments import count_of
from uniformer.reading.pictures import is_image
from uniformer.reading.transforms import denormalise
from uniformer.reading.video import open_video
from uniformer.reading.views import Views
from uniformer.reports.explanation import save_explanation
from uniformer.reports.page import rendered
from uniformer.reports.pictures import middle_pixels, shrunk, still
from uniformer.reports.sampling import fed_in_words
from uniformer.reports.timeline import clock
from uniformer.support.files import distinct_names
from uniformer.tasks.classification import Prediction
from uniformer.tasks.drawn_film import film_of
from uniformer.tasks.pictured import PictureResult
from uniformer.tasks.task import Failure, Result
from uniformer.timelines.timeline import Timeline, timeline

Progress = Callable[[float, float, str], None]  #: how much is done, of how much, and what that is

SIDE, TILE = 1280, 112  # pixels of a picture and of a frame that was fed, at most
SECONDS = "seconds of the film"
ROWS = 200  # of a table on the page; the one to download has all


@dataclass(frozen=True)
class Shown:
    """What the page shows of what it was given, as HTML; `table` is CSV."""

    player: str
    answer: str
    table: str
    below: str = ""  #: what is wide: the frames that the network was fed, or the answers to several files
    notes: tuple[str, ...] = ()


class Row(NamedTuple):
    """What is said of a stretch of a film."""

    start: float  #: seconds
    end: float
    words: str
    share: float | None = None  #: how sure that is, 0 to 1
    amounts: str = ""  #: how far the camera goes


def html(template: str, **content: Any) -> str:
    """What a template of the page makes of `content`."""
    return rendered(template, content, "uniformer.web")


# ---- one file --------------------------------------------------------------------------------------------------------


def look(predictor: Predictor, path: Path, out: Path, *, every: int, progress: Progress) -> Shown:
    """A film or a picture, and the network's answer to it. Raises `InputError` where there is none.

    `out` is a folder for a drawn film, of which every so many frames are seen.
    """
    if predictor.task.whole and not is_image(path):
        return _drawn_film(predictor, path, out / f"{path.stem}.mp4", every, progress)
    fed: list[Views] = []
    (result,) = predictor.run([path], on_views=lambda _, views: fed.append(views))
    if isinstance(result, Failure):
        raise InputError(result.error)
    table = _Table(predictor)
    table.add(result, path.name)
    if isinstance(result, PictureResult):
        player = _picture(np.asarray(result.plot()))
        rows = [[plain_name(x) if isinstance(x, str) else x for x in row] for row in result.rows()[:ROWS]]
        return Shown(player, html("found.html", header=result.COLUMNS, rows=rows), table.text)
    player = _film(path) if result.frames else _picture(middle_pixels(str(path), "image"))
    bars = [(plain_name(label.name), label.score, f"{100 * label.score:.1f} %") for label in result.labels]
    return Shown(player, html("labels.html", bars=bars), table.text, _fed(predictor, fed[0]), result.notes)


def moments(predictor: Predictor, path: Path, progress: Progress) -> tuple[Timeline, str, dict[str, str]]:
    """What happens when in a film: its timeline, as rows that the player goes to, and as texts by the names of their
    files. Raises `InputError` where there is none.
    """
    found = timeline(path, predictor, progress=lambda done, total: progress(done, total, SECONDS))
    rows = [Row(r.start, r.end, r.said, r.confidence, r.amounts_said) for r in found.rows]
    texts = {"timeline.csv": found.to_csv(), "timeline.srt": found.to_srt()}
    return found, html("moments.html", rows=rows, clock=clock, notes=found.notes), texts


def explained(
    predictor: Predictor,
    path: Path,
    out: Path,
    target: str | None,
    *,
    every: int = 1,
    over: Progress | None = None,
    seen: Timeline | None = None,
) -> str:
    """Where and when a network looked for one answer, by default the likeliest: the film under a map, or some of its
    frames, or the picture, under each; or, told how far it is by `over`, for each answer of a film's timeline, which
    is not found again where it was `seen`. Raises `InputError` where there is nothing to explain."""
    explainer, is_film = Explainer(predictor), not is_image(path)
    if over is not None:

        def told(done: float, total: float) -> None:
            over(done, total, SECONDS)

        if seen is None:
            found = explainer.timeline(path, target, progress=told)
        else:
            found = explainer.windows(path, seen, target, progress=told)
    elif is_film and predictor.task.whole:
        found = explainer.frames(path, target, every=every)
    else:
        found = explainer(path, target)
    names = ("sheet.png", "arrays.npz", *["film.mp4"] * is_film)
    files = {name.partition(".")[0]: out / f"explained-{name}" for name in names}
    note = save_explanation(found, path, files)
    return html(
        "explained.html", names=dict.fromkeys(plain_name(part.name) for part in found.parts),
        notes=[*found.notes, *filter(None, [note])],
        files={kind: address(file) for kind, file in files.items()},
    )  # fmt: skip


def has_moments(predictor: Predictor, path: Path) -> bool:
    """Whether there is a timeline of such a file, by such a network."""
    return predictor.spec is not None and predictor.spec.is_video and not is_image(path)


def _fed(predictor: Predictor, views: Views) -> str:
    """Every frame that the network was fed, as it saw it, with its number and time."""
    assert predictor.spec is not None
    spec, crops = predictor.spec, len(views.boxes)
    pictures = denormalise(views.array, spec)  # (V, [T,] h, w, 3)
    strips = []
    for number, frames in enumerate(pictures if pictures.ndim == 5 else pictures[:, None]):
        clip, crop = divmod(number, crops)
        name = [f"clip {clip + 1}"] * spec.is_video + [f"crop {crop + 1} of {crops}"] * (crops > 1)
        tiles = [still(Image.fromarray(shrunk(frame, TILE)[0])) for frame in frames]
        numbers = [None] * len(tiles) if views.frames is None else views.frames[clip].tolist()
        times = [None] * len(tiles) if views.seconds is None else views.seconds[clip].tolist()
        strips.append((", ".join(name), list(zip(tiles, numbers, times, strict=True))))
    return html("fed.html", strips=strips, words=fed_in_words(spec))


# ---- films of pictures -----------------------------------------------------------------------------------------------


def _drawn_film(predictor: Predictor, path: Path, out: Path, every: int, progress: Progress) -> Shown:
    """Each answer drawn into its frame, and a row for each stretch of frames of which the same is said."""
    table, rows, lost = _Table(predictor), list[Row](), 0
    with open_video(path) as reader:
        rate, total = reader.info.fps or 25.0, count_of(reader, every)
        with film_of(path, out, start=reader.start, rate=rate) as film:
            for number, seen in enumerate(see_frames(predictor, reader, path.name, every=every), start=1):
                time = seen.number / rate if seen.time is None else seen.time
                if seen.picture is None or not isinstance(seen.answer, PictureResult):
                    lost += 1
                else:
                    film.add(seen.answer.draw(seen.picture()), time)
                    _extend(rows, time, time + every / rate, plain_name(seen.answer.in_short()))
                if seen.answer is not None:
                    table.add(seen.answer, path.name)
                progress(number, total, "frames")
        notes = [*reader.notes, *filter(None, [film.note])]
    if lost:
        notes.append(f"{lost} of {counted(total, 'frame')} have no answer: the table says why")
    return Shown(_film(out), html("moments.html", rows=rows, clock=clock, notes=()), table.text, notes=tuple(notes))


def _extend(rows: list[Row], start: float, end: float, words: str) -> None:
    """One more frame: of the last row, where the same is said of it."""
    if rows and rows[-1].words == words:
        rows[-1] = rows[-1]._replace(end=end)
        return
    if rows:
        rows[-1] = rows[-1]._replace(end=start)
    rows.append(Row(start, end, words))


# ---- several files ---------------------------------------------------------------------------------------------------


def look_at_all(predictor: Predictor, paths: Sequence[Path], *, every: int, progress: Progress) -> Shown:
    """A table of the answers to several files; one that cannot be read has its error there, and the others go on."""
    names = dict(zip(map(str, paths), distinct_names(paths), strict=True))
    table, said, wrong = _Table(predictor), {source: Counter[str]() for source in names}, dict[str, str]()
    for answer in _each(predictor, paths, every):
        table.add(answer, names[answer.source])
        if isinstance(answer, Failure):
            wrong.setdefault(answer.source, answer.error.replace(answer.source, names[answer.source]))
        else:
            said[answer.source][_in_short(answer)] += 1
        progress(sum(source in wrong or bool(said[source]) for source in names), len(names), "files")
    rows = [(name, _most(said[source]), wrong.get(source, "")) for source, name in names.items()]
    notes = (f"{len(wrong)} of {counted(len(paths), 'file')} failed",) if wrong else ()
    header = ("file", "what it says", "what is wrong")
    return Shown("", "", table.text, html("found.html", header=header, rows=rows), notes)


def _each(predictor: Predictor, paths: Sequence[Path], every: int) -> Iterator[Any]:
    """The answers to all files, to films of a network for pictures one for each frame."""
    for is_film, group in groupby(paths, lambda path: predictor.task.whole and not is_image(path)):
        if not is_film:
            yield from predictor.run(map(str, group))
            continue
        for path in group:
            try:
                yield from predictor.frames(str(path), every=every)
            except InputError as error:
                yield Failure(str(path), str(error))


def _in_short(answer: Any) -> str:
    words = plain_name(answer.in_short())
    return f"{words}, {100 * answer.labels[0].score:.1f} %" if isinstance(answer, Prediction) else words


def _most(said: Counter[str]) -> str:
    """What was said most often of a file."""
    for words, count in said.most_common(1):
        return words if said.total() == 1 else f"{words} (in {count} of {said.total()} frames)"
    return ""


# ---- parts -----------------------------------------------------------------------------------------------------------


class _Table:
    """All answers as CSV, as `uniformer predict --format csv` writes them, with the names that files had."""

    def __init__(self, predictor: Predictor):
        self._answers = Answers("csv", predictor.network.weights, predictor.task.result)
        self._lines = [self._answers.header.decode()]

    def add(self, answer: Result | Failure, name: str) -> None:
        if isinstance(answer, Failure):
            answer = replace(answer, error=answer.error.replace(answer.source, name))
        self._lines.append(self._answers.text(replace(answer, source=name)))

    @property
    def text(self) -> str:
        return "".join(self._lines)


def address(path: Path) -> str:
    """Where the page has a file of its folder."""
    return f"gradio_api/file={quote(str(path))}"


def _film(path: Path) -> str:
    return html("player.html", film=address(path), picture=None)


def _picture(pixels: Any) -> str:
    """A picture inside the page, (H, W, 3); where it cannot be read a second time, nothing."""
    if pixels is None:
        return ""
    return html("player.html", film=None, picture=Markup(still(Image.fromarray(shrunk(pixels, SIDE)[0]))))
