"""`uniformer predict` with a network for whole pictures: detection, segmentation, pose; pictures and videos of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from uniformer.cli.answers import Work, check_answers
from uniformer.cli.picture_options import names
from uniformer.cli.tables import say
from uniformer.errors import InputError, counted
from uniformer.inference.frames import Seen, see_frames
from uniformer.inference.people import Finder, people_from
from uniformer.inference.predictor import Predictor
from uniformer.inference.recorded import Recorded
from uniformer.reading.frames import VIDEO_SUFFIXES, VideoReader
from uniformer.reading.moments import count_of
from uniformer.reading.sources import path_of
from uniformer.reading.video import open_video
from uniformer.support.files import distinct_names, folder_to_fill
from uniformer.support.progress import Bar, progress_bar
from uniformer.tasks.coco_results import image_ids, write_results
from uniformer.tasks.drawn_film import FILMS, USUAL_RATE, film_of
from uniformer.tasks.pictured import DRAWN, PictureResult, save_picture
from uniformer.tasks.task import Failure


def answer_options(args: argparse.Namespace, predictor: Predictor, finder: Finder | None) -> dict[str, Any]:
    """Make the predictor answer as the options say; what of them tells answers from others."""
    options = {name: getattr(args, name) for name in ("score", "most", "mode", "tile", "flip")}
    options["keep"] = None if args.keep is None else names(args.keep)
    told = {name: value for name, value in options.items() if value is not None}
    if finder is not None:
        predictor.answer_with(**told, people=finder.people)
        return {**told, "boxes": finder.told_apart}
    predictor.answer_with(**told)
    return told


def finder_of(args: argparse.Namespace, predictor: Predictor) -> Finder | None:
    """Who says where people are, where that was asked for."""
    if args.boxes is None:
        if predictor.contract.task == "pose":
            say("no --boxes given: one person is looked for, who fills the picture", file=sys.stderr)
        return None
    finder = people_from(args.boxes, device=args.device, precision=args.precision)
    for note in finder.notes:
        say(note, file=sys.stderr)
    return finder


def predict_pictures(args: argparse.Namespace, form: str, predictor: Predictor) -> int:
    """Answers to pictures and to the frames of videos, written as they come. Returns 1 if any file failed."""
    journal = journal_of(args, form)
    finder = finder_of(args, predictor)
    told = answer_options(args, predictor, finder)
    lines = "jsonl" if form == "coco" else form
    work = Work(args, lines, journal, predictor, told)
    places = Places(args.draw, args.maps, work.sources)
    check_answers(args, [*filter(None, {args.out, journal}), *places.all()], work.sources)
    if finder and finder.is_of_pictures and (film := next(filter(is_film, work.sources), None)):
        raise InputError(
            f"{args.boxes} lists people of pictures, got the video {film}: expected a detector for --boxes"
        )
    for line in finder.unmatched(work.sources) if finder else ():
        say(line, file=sys.stderr)
    with folder_to_fill(*{path.parent for path in places.all()}), Run(args, predictor, work, places) as run:
        run.go()
    if form == "coco":
        _write_coco(Path(args.out), Path(str(journal)), predictor, set(work.sources))
    return work.ended(run.had)


def journal_of(args: argparse.Namespace, form: str) -> str | None:
    """Where answers go as they come; those of a COCO file as lines beside it, of which it is made at last."""
    if form == "coco":
        if not args.out:
            raise InputError("--format coco needs --out: it is one file of all pictures")
        journal = f"{args.out}.jsonl"
        if args.resume and os.path.exists(args.out) and not os.path.exists(journal):
            raise InputError(f"{args.out}: expected {journal} beside it to go on with, found none; give another --out")
        return journal
    if form != "jsonl" and args.resume and (args.draw or args.maps):
        raise InputError("--resume with --draw or --maps needs whole answers to draw: --format jsonl or coco")
    return args.out


def _write_coco(out: Path, journal: Path, predictor: Predictor, sources: set[str]) -> None:
    journal.touch()  # where nothing was answered
    with Recorded(journal, predictor.task.result, predictor.contract) as recorded:  # type: ignore[arg-type]
        keys: list[Any] = [key for key in recorded if source_of(key) in sources]
        found = zip(keys, image_ids(keys), strict=True)
        count = write_results((row for key, number in found for row in recorded[key].to_coco(number)), out)
    say(f"{out}: {counted(count, 'result')}; the answers as JSON lines: {journal}", file=sys.stderr)


class Places:
    """Where the pictures of answers go: of each source one drawn, and one of its classes.

    `films` says which sources are videos: by default those with the names of such."""

    def __init__(
        self, draw: str | None, maps: str | None, sources: Sequence[str], films: Callable[[str], bool] | None = None
    ):
        self._is_film = films or is_film
        stems = distinct_names([os.path.splitext(path_of(source))[0] for source in sources])
        self.drawn: dict[str, Path] = {}
        if draw is not None:
            self.drawn = {
                source: Path(draw, self._name(source, stem)) for source, stem in zip(sources, stems, strict=True)
            }
            if Path(draw).suffix and not Path(draw).is_dir():
                self.drawn = {self._only(sources, draw): Path(draw)}
        self.maps: dict[str, Path] = {}
        if maps is not None:
            if film := next((source for source in sources if is_film(source)), None):
                raise InputError(f"--maps is for pictures, got the video {film}: its answers have the regions")
            self.maps = {source: Path(maps, f"{stem}.png") for source, stem in zip(sources, stems, strict=True)}

    def _name(self, source: str, stem: str) -> str:
        """Of the same ending, where such files are written."""
        ending = os.path.splitext(path_of(source))[1].lower()
        known, usual = (FILMS, ".mp4") if self._is_film(source) else (DRAWN, ".jpg")
        return stem + (ending if ending in known else usual)

    def _only(self, sources: Sequence[str], draw: str) -> str:
        """The one source that is to be drawn into a file. Raises `InputError` for several, and another kind of name."""
        if len(sources) != 1:
            raise InputError(f"expected a folder to draw {len(sources)} files into, got the name of one: {draw}")
        known = FILMS if self._is_film(sources[0]) else DRAWN
        if Path(draw).suffix.lower() not in known:
            raise InputError(f"{draw}: expected a name that ends in {', '.join(known)}")
        return sources[0]

    def of(self, source: str) -> list[Path]:
        return [places[source] for places in (self.drawn, self.maps) if source in places]

    def all(self) -> list[Path]:
        return [*self.drawn.values(), *self.maps.values()]


def is_film(source: str) -> bool:
    """Whether a source is a video, by its name; what cannot be told is a picture."""
    return os.path.splitext(path_of(source))[1].lower() in VIDEO_SUFFIXES


def source_of(key: Any) -> str:
    """The source of what has an answer, which may be one of its frames."""
    return key[0] if isinstance(key, tuple) else key


class Run:
    """Pictures and videos on their way: each answer is kept or printed, and drawn where that was asked."""

    def __init__(self, args: argparse.Namespace, predictor: Predictor, work: Work, places: Places):
        self._args, self._predictor, self._work, self._places = args, predictor, work, places
        self.had = 0  #: sources that were done already
        self._recorded: Recorded | None = None
        self._seen, self._total = 0, len(work.sources)  # pictures and frames
        self._bar = Bar(None, say)

    def __enter__(self) -> Self:
        if self._work.done and self._work.records and self._places.all():
            self._recorded = Recorded(self._work.records.path, self._predictor.task.result, self._predictor.contract)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        if self._recorded is not None:
            self._recorded.close()

    def go(self) -> None:
        sources, done = self._work.sources, self._work.done
        shown = not self._args.quiet and (len(sources) > 1 or any(map(is_film, sources)))
        with progress_bar("pictures", shown=shown) as self._bar, self._work.begun(self._bar):
            for (films, are_done), group in groupby(sources, lambda source: (is_film(source), source in done)):
                if films:
                    for source in group:
                        self._film(source)
                elif are_done:
                    for source in group:
                        self._again(source)
                else:
                    self._pictures(group)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def _pictures(self, sources: Iterable[str]) -> None:
        for result in self._predictor.run(sources):
            self._work.keep(result)
            if isinstance(result, PictureResult):
                self._draw(result)
            else:
                self._work.fail(result)
            self._step()

    def _again(self, source: str) -> None:
        """One that has an answer: what is missing of its pictures is made of that."""
        self.had += 1
        missing = any(not path.exists() for path in self._places.of(source))
        if missing and self._recorded is not None:
            self._draw(self._recorded[source])
        self._step()

    def _draw(self, result: PictureResult) -> None:
        try:
            if (path := self._places.drawn.get(result.source)) is not None:
                save_picture(result.plot(), path)
            if (path := self._places.maps.get(result.source)) is not None:
                result.save(path)
        except InputError as error:
            self._work.fail(Failure(result.source, str(error)))

    def _step(self) -> None:
        self._seen += 1
        self._bar(self._seen, self._total)

    # ---- videos ------------------------------------------------------------------------------------------------------

    def _film(self, source: str) -> None:
        """Every frame of a video; what was answered before is drawn from there."""
        try:
            with open_video(source, backend=self._args.backend) as reader:
                self._frames(source, reader)
        except InputError as error:
            failure = Failure(source, str(error))
            self._work.keep(failure)
            self._work.fail(failure)
            self._step()

    def _frames(self, source: str, reader: VideoReader) -> None:
        every, path = self._args.every or 1, self._places.drawn.get(source)
        known = {key[1] for key in self._work.done if isinstance(key, tuple) and key[0] == source}
        count = count_of(reader, every)
        if known.issuperset(range(0, reader.info.num_frames, every)) and (path is None or path.exists()):
            self.had += 1
            self._step()
            return
        self._total += count - 1
        for note in reader.notes:
            self._bar.say(f"{source}: {note}")
        lost = 0
        made: Any = nullcontext() if path is None else film_of(source, path, start=reader.start, rate=reader.info.fps)
        with made as film:
            for seen in see_frames(self._predictor, reader, source, every=every, known=known):
                lost += seen.picture is None
                answer = self._answer(source, seen)
                if film is not None and seen.picture is not None and isinstance(answer, PictureResult):
                    film.add(answer.draw(seen.picture()), seen.number / USUAL_RATE if seen.time is None else seen.time)
                self._step()
        if lost:
            self._bar.say(f"{source}: {lost} of {counted(count, 'frame')} cannot be decoded")
        if film is not None and film.note:
            self._bar.say(f"{source}: {film.note}")

    def _answer(self, source: str, seen: Seen) -> PictureResult | Failure | None:
        """The answer to a frame, kept where it is new."""
        if seen.answer is None:
            return None if self._recorded is None else self._recorded.get((source, seen.number))
        self._work.keep(seen.answer)
        if seen.picture is not None and isinstance(seen.answer, Failure):
            self._work.fail(seen.answer)
        return seen.answer
