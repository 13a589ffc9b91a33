"""The page's parts and how they hang together, and the server of it: all that needs Gradio, but what buttons do."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files

from uniformer.errors import MissingExtra
from uniformer.web.answers import html
from uniformer.web.listening import told_from
from uniformer.web.visit import Visit

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError:
    raise MissingExtra("gradio", "app", "the page") from None


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
                why_then = gr.Button("Where did it look, all along?", visible=False, elem_id="explain-timeline")
        below, tables, looked = part(elem_id="below"), part(elem_id="tables"), gr.State(None)
        with gr.Row(equal_height=True):
            target = gr.Textbox(label="Which answer?", placeholder="the likeliest", min_width=200, elem_id="target")
            why = gr.Button("Where did it look?", min_width=160, elem_id="explain")
        explained = part(elem_id="explained")

        parts = [said, player, answer, rows, below, tables, explained, why_then, looked]
        looks = {
            "fn": visit.look, "inputs": [given, network, every], "outputs": parts,
            "show_progress_on": [said], "concurrency_id": "network", "api_visibility": "private",
        }  # fmt: skip
        seen = gr.on([given.upload, again.click], **looks)
        given.clear(
            visit.take_away, None, parts, show_progress="hidden", concurrency_id="network", api_visibility="private"
        )
        recorded = taken.upload(lambda file: ([file], None), taken, [given, taken], api_visibility="private")
        for before in (seen, recorded.then(**looks)):
            before.then(
                visit.moments, [looked], [rows, tables, looked], show_progress_on=[rows],
                concurrency_id="network", api_visibility="private",
            )  # fmt: skip
        for asked, explain, inputs in (
            ([why.click, target.submit], visit.explain, [looked, target, every]),
            ([why_then.click], visit.explain_timeline, [looked, target]),
        ):
            gr.on(
                asked, explain, inputs, [explained],
                show_progress_on=[explained], concurrency_id="network", api_visibility="private",
            ).then(None, js="() => document.getElementById('explained').scrollIntoView()")  # fmt: skip
        page.unload(visit.leave)
    page.queue(default_concurrency_limit=1)
    return page


class Sized:
    """Middleware that refuses what is too large before it is taken in, and what does not say how large it is. Gradio
    knows limits for single files alone, and not for fields of a form."""

    def __init__(self, app: ASGIApp, most: int):
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "transfer-encoding" in told:
            answer = PlainTextResponse("expected an upload that tells its length", 411)
        elif int(told.get("content-length", "0")) > self._most:  # h11 has seen that it is a number
            answer = PlainTextResponse(f"expected uploads of at most {self._most} bytes together", 413)
        else:
            return await self._app(scope, receive, send)
        return await answer(scope, receive, send)


class Server(uvicorn.Server):
    """Tells when the page can be reached, and ends without a word."""

    def __init__(self, page: gr.Blocks, ready: Callable[[], None], size: int):
        app, theme = FastAPI(openapi_url=None), gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"])
        gr.mount_gradio_app(
            app, page, "/", theme=theme, css=_asset("parts.css", "uniformer.reports") + _asset("app.css"),
            js=_asset("app.js"), i18n=gr.I18n(en={"common.upload": "More files"}),  # Gradio itself has no words for it
            max_file_size=size,
            footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
        )  # fmt: skip
        app.add_middleware(Sized, most=size)
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Open pages hold connections without an end: that these are cut is no error."""
        with told_from(logging.CRITICAL, "uvicorn.error"):
            await super().shutdown(sockets)


@cache
def _asset(name: str, room: str = "uniformer.web") -> str:
    return (files(room) / "templates" / name).read_text("utf-8")
