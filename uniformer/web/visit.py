"""What the buttons of the page do, and what becomes of the files that it is given."""

from __future__ import annotations

import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from uniformer.errors import InputError, MissingExtra, first_line
from uniformer.inference.predictor import Predictor
from uniformer.timelines.timeline import Timeline
from uniformer.web.answers import Progress, Shown, address, explained, has_moments, html, look, look_at_all, moments
from uniformer.web.uploads import Uploads

try:
    import gradio as gr
except ImportError:
    raise MissingExtra("gradio", "app", "the page") from None


T = TypeVar("T")


class Looked(NamedTuple):
    """A film or a picture that was looked at."""

    path: Path
    tables: Path  #: the folder of its tables
    network: str
    timeline: Timeline | None = None  #: of a film, once it is there


class Visit:
    """The buttons: each answers with new contents for some parts of the page. `folder` is for all files."""

    def __init__(self, predictors: Mapping[str, Predictor], folder: Path):
        self.predictors, self._folder, self._uploads = predictors, folder, Uploads()
        self._working, self._ended = threading.Lock(), threading.Event()

    def look(
        self,
        given: list[str] | None,
        network: str,
        every: float | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio wants it
    ) -> tuple[Any, ...]:
        """What is said of files: notes, player, answer, rows, what is wide, tables, no explanation, whether
        there is one of a timeline, and of what."""
        paths = [Path(path) for path in given or ()]
        out = Path(tempfile.mkdtemp(dir=self._folder))
        self._uploads.keep(request.session_hash, {out, *(path.parent for path in paths)})
        predictor, told = self.predictors[network], self._told(progress, request)
        options: dict[str, Any] = {"every": max(1, int(every or 1)), "progress": told}

        def work() -> tuple[Shown, str]:
            if not paths:
                raise InputError("expected a film or a picture: drop one above")
            if len(paths) == 1:
                shown = look(predictor, paths[0], out, **options)
            else:
                shown = look_at_all(predictor, paths, **options)
            return shown, _tables(out, {"answers.csv": shown.table})

        answer, said = self._done(work, paths, request)
        if answer is None:
            return _nothing_but(said)
        shown, tables = answer
        said = html("said.html", errors=(), notes=shown.notes)
        looked = Looked(paths[0], out, network) if len(paths) == 1 else None
        over_time = looked is not None and has_moments(predictor, looked.path)
        return said, shown.player, shown.answer, "", shown.below, tables, "", gr.update(visible=over_time), looked

    def take_away(self, request: gr.Request) -> tuple[Any, ...]:
        """All files were taken away, and what was said of them goes along: for the same parts as `look`."""
        self._uploads.keep(request.session_hash, ())
        return _nothing_but("")

    def moments(
        self,
        looked: Looked | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, Any, Any]:
        """The timeline of a film, tables to download with it, and what was looked at, from now on with it."""
        if looked is None or not has_moments(self.predictors[looked.network], looked.path):
            return gr.skip(), gr.skip(), gr.skip()

        def work() -> tuple[str, str, Looked]:
            predictor, told = self.predictors[looked.network], self._told(progress, request)
            found, rows, texts = moments(predictor, looked.path, told)
            return rows, _tables(looked.tables, texts), looked._replace(timeline=found)

        found, said = self._done(work, [looked.path], request)
        return found or (said, gr.skip(), gr.skip())

    def explain(self, looked: Looked | None, target: str, every: float | None, request: gr.Request) -> str:
        """Where and when the network looked for an answer, or why that cannot be shown."""
        return self._explain(looked, target, request, every=max(1, int(every or 1)))

    def explain_timeline(
        self,
        looked: Looked | None,
        target: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """The same for each answer of a film's timeline, or for one class throughout."""
        return self._explain(looked, target, request, over=self._told(progress, request))

    def _explain(self, looked: Looked | None, target: str, request: gr.Request, **how: Any) -> str:
        def work() -> str:
            if looked is None:
                raise InputError("expected one film or picture to explain: drop one above")
            path, tables, network, seen = looked
            out = Path(tempfile.mkdtemp(dir=tables))
            return explained(self.predictors[network], path, out, target.strip() or None, seen=seen, **how)

        found, said = self._done(work, [looked.path] if looked else [], request)
        return found or said

    def leave(self, request: gr.Request) -> None:
        """The page was closed: what is computed for it stops at the next step."""
        self._uploads.leave(request.session_hash)

    def end(self) -> None:
        """The server ends: no more is computed."""
        self._ended.set()
        with self._working:
            pass

    def _is_over(self, request: gr.Request) -> bool:
        return self._ended.is_set() or self._uploads.has_left(request.session_hash)

    def _told(self, progress: gr.Progress, request: gr.Request) -> Progress:
        def told(done: float, total: float, what: str) -> None:
            if self._is_over(request):
                raise InputError("the page was closed")
            progress((round(done), max(1, round(total))), desc=what, unit=what)

        return told

    def _done(self, work: Callable[[], T], paths: Sequence[Path], request: gr.Request) -> tuple[T | None, str]:
        """What `work` gives or, where there is nothing, a line that says why, with files by their names."""
        try:
            with self._working:
                return work(), ""
        except InputError as error:
            line = str(error)
        except Exception as error:  # a mistake of ours: the page goes on, and who runs it sees where
            if not self._is_over(request):  # its files are gone
                traceback.print_exc()
            line = f"unforeseen: {type(error).__name__}: {first_line(error)}"
        for path in paths:
            line = line.replace(str(path), path.name)
        return None, html("said.html", errors=[line], notes=())


def _nothing_but(said: str) -> tuple[Any, ...]:
    """What `look` shows where there is no answer."""
    return said, "", "", "", "", "", "", gr.update(visible=False), None


def _tables(out: Path, texts: Mapping[str, str]) -> str:
    """Links to all tables of a folder, these among them."""
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    tables = [path for path in sorted(out.iterdir()) if path.suffix in (".csv", ".srt")]
    return html("tables.html", tables=[(path.name, address(path)) for path in tables])
