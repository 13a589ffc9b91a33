"""The page: drop or record a film or a picture, and see what a network says of it. Gradio shows it, on this machine.

file -> the upload folder of this run -> `answers` -> HTML; all of it goes when the page is closed, or the run ends
"""

from __future__ import annotations

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from importlib.resources import files
from typing import Any

from uniformer.checkpoints.records import BUNDLED
from uniformer.errors import InputError, MissingExtra, reason
from uniformer.inference.predictor import Predictor
from uniformer.support.environment import changed
from uniformer.support.files import system_folder
from uniformer.support.signals import stopped_by_signals
from uniformer.web.answers import html
from uniformer.web.visit import Visit

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ImportError:
    raise MissingExtra("gradio", "app", "the page") from None

HOST, PORT = "127.0.0.1", 7860
QUIET = {  # what Gradio would ask others, or keep, unless told
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "True",
}


def serve_page(
    checkpoints: Sequence[str] = (),
    *,
    host: str = HOST,
    port: int = PORT,
    open_page: bool = False,
    say: Callable[[str], object] = print,
    **options: Any,
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        checkpoints: what `Predictor` takes, to choose from; the model in the package by default.
        host, port: where to listen; nobody but this machine reaches the loopback address.
        open_page: open it in the browser of this machine.
        say: is told the page's address when it can be reached.
        options: of every `Predictor`.

    Raises:
        InputError: the port is taken, or a checkpoint cannot be loaded.
        MissingExtra: Gradio is not installed (when this module is imported).
    """
    with ExitStack() as stack:
        listener = stack.enter_context(listening(host, port))
        predictors = {name: Predictor(name, **options) for name in dict.fromkeys(checkpoints or [BUNDLED])}
        folder = stack.enter_context(system_folder("app"))
        for name, value in {**QUIET, "GRADIO_TEMP_DIR": str(folder)}.items():
            stack.enter_context(changed(name, value))
        app = FastAPI(openapi_url=None)
        visit = Visit(predictors, folder)
        page = build_page(visit)
        gr.mount_gradio_app(
            app, page, "/", theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=_asset("parts.css", "uniformer.reports") + _asset("app.css"), js=_asset("app.js"),
            footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
        )  # fmt: skip

        def ready() -> None:
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            say(f"page: {address} (Ctrl-C ends it)")
            if open_page:  # some browsers are waited for
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        with stopped_by_signals():  # the server takes signals itself, and raises them again at its end
            _Server(app, ready).run(sockets=[listener])
            visit.end()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `InputError` where that cannot be, as where the port is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of {host}: {reason(error)}; expected a free one, give another --port"
        ) from None


class _Server(uvicorn.Server):
    """Tells when the page can be reached, and ends without a word."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]):
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Open pages hold connections without an end: that these are cut is no error."""
        logger = logging.getLogger("uvicorn.error")
        before = logger.level
        logger.setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
        logger.setLevel(before)


@cache
def _asset(name: str, room: str = "uniformer.web") -> str:
    return (files(room) / "templates" / name).read_text("utf-8")


def build_page(visit: Visit) -> gr.Blocks:
    """The page: what is given and asked for above, what is said of it below."""
    names = list(visit.predictors)
    of_pictures = any(predictor.task.whole for predictor in visit.predictors.values())
    part = partial(gr.HTML, elem_classes="uniformer", js_on_load=None)
    with gr.Blocks(analytics_enabled=False, title="UniFormer", delete_cache=(3600, 86_400)) as page:
        part(html("lead.html"))
        given = gr.File(label="A film or a picture, or several", file_count="multiple", elem_id="given", height=160)
        taken = gr.File(visible="hidden", elem_id="taken")  # what the page records goes in here, as if it were dropped
        part(html("record.html"))
        with gr.Row():
            network = gr.Dropdown(
                names, value=names[0], label="Network", visible=len(names) > 1, min_width=320, elem_id="network"
            )
            every = gr.Number(1, label="Every so many frames", minimum=1, precision=0, visible=of_pictures)
        again = gr.Button("Look", variant="primary", elem_id="look")
        said = part(elem_id="said")
        with gr.Row():
            with gr.Column(min_width=320):
                player = part(elem_id="player")
            with gr.Column(min_width=320):
                answer, rows = part(elem_id="answer"), part(elem_id="timeline")
        below, tables, film = part(elem_id="below"), part(elem_id="tables"), gr.State(None)

        looks = {
            "fn": visit.look, "inputs": [given, network, every],
            "outputs": [said, player, answer, rows, below, tables, film],
            "show_progress_on": [said], "concurrency_id": "network", "api_visibility": "private",
        }  # fmt: skip
        seen = gr.on([given.upload, again.click], **looks)
        recorded = taken.upload(lambda file: ([file], None), taken, [given, taken], api_visibility="private")
        for before in (seen, recorded.then(**looks)):
            before.then(
                visit.moments, [film], [rows, tables], show_progress_on=[rows],
                concurrency_id="network", api_visibility="private",
            )  # fmt: skip
        page.unload(visit.leave)
    page.queue(default_concurrency_limit=1)
    return page
