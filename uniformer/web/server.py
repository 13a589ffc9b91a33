"""The small server: files posted over HTTP, answered by one network.

receiving.py   a request's file and options, within limits
service.py     the answer, as `Predictor`, `timeline` and `embed` give it
batching.py    what several requests ask of the network at once goes through it together
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, get_args, get_type_hints

from uniformer import __version__
from uniformer.errors import InputError, MissingExtra
from uniformer.inference.predictor import Predictor
from uniformer.support.files import system_folder
from uniformer.tasks import option_names
from uniformer.tasks.task import Task
from uniformer.web.batching import NetworkFailed, OutOfTime
from uniformer.web.listening import LOOPBACK, address_of, listening_at, told_from
from uniformer.web.service import JSON, PNG, Answer, Limits, PictureOptions, Service, as_json, parsed

try:
    import h11
    import python_multipart  # noqa: F401 - Starlette's forms need it
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.requests import HTTPConnection
    from starlette.responses import PlainTextResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "fastapi", "serve", "the server") from None

from uniformer.web.receiving import Received, received

log = logging.getLogger(__name__)


class Metrics:
    """What `/metrics` tells."""

    def __init__(self) -> None:
        here = self.registry = CollectorRegistry()
        ProcessCollector(registry=here)
        self.requests = Counter("uniformer_requests", "Requests answered", ["path", "status"], registry=here)
        self.seconds = Histogram("uniformer_seconds", "From a request's head to its answer", ["path"], registry=here)
        self.running = Gauge("uniformer_running", "Requests that arrive, wait and are worked on", registry=here)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.views = Histogram("uniformer_batch_views", "Views in the network together", buckets=sizes, registry=here)


class Counted:
    """Middleware that counts what is answered, by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begin, path = time.perf_counter(), scope["path"] if scope["path"] in self._paths else "other"

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - begin)
            await send(message)

        return await self._app(scope, receive, noted)


class Door:
    """Lets requests in while there is room, and none once it is closed.

    `running` counts those that arrive, wait and are worked on; one that was given up counts until its thread is free.
    """

    def __init__(self, service: Service, metrics: Metrics, folder: Path | None):
        self._service, self._metrics, self._folder = service, metrics, folder
        self.limits = service.limits
        self.running, self.is_closed = 0, False

    async def answer(self, verb: str, request: Request) -> Response:
        limits = self.limits
        if self.is_closed:
            raise HTTPException(503, "the server is stopping", {"Retry-After": "5"})
        if self.running >= limits.requests:
            raise HTTPException(429, f"expected at most {limits.requests} requests at once", {"Retry-After": "1"})
        self._count(1)
        try:
            arrived = await received(request, limits, self._folder)
            work = self._begun(verb, arrived, PNG if PNG in request.headers.get("accept", "") else JSON)
        except BaseException:
            self._count(-1)
            raise
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count, -1))
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(work), limits.seconds)
        except (TimeoutError, OutOfTime):
            if work.cancelled():  # before it was begun
                arrived.file.close()
            raise HTTPException(504, f"{arrived.name}: expected an answer within {limits.seconds:g} s") from None
        return Response(answer.body, media_type=answer.kind)

    def _begun(self, verb: str, arrived: Received, kind: str) -> Future[Answer]:
        """The answer that is worked on. Raises `InputError` where options are none."""
        try:
            options = parsed(self._service.verbs[verb][1], arrived.told)
            until = time.monotonic() + self.limits.seconds
            return self._service.submit(verb, arrived.file, arrived.name, options, until, kind)
        except BaseException:
            arrived.file.close()
            raise

    def _count(self, change: int) -> None:
        self.running += change
        self._metrics.running.set(self.running)


def make_app(
    service: Service, metrics: Metrics, *, token: str | None = None, folder: Path | None = None
) -> tuple[FastAPI, Door]:
    """The application, for uvicorn or another server, and its door. With a `token`, all but `/healthz` ask for it.
    Files of more than 1 MB lie in `folder`, by default the system's for temporary files."""
    app = FastAPI(
        title="uniformer", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    door, guard = Door(service, metrics, folder), [Depends(_Bearer(token))] if token else []
    contract = service.predictor.contract

    async def predict(request: Request) -> Response:
        return await door.answer("predict", request)

    async def timeline(request: Request) -> Response:
        return await door.answer("timeline", request)

    async def embed(request: Request) -> Response:
        return await door.answer("embed", request)

    for function, summary in (
        (predict, "The answer to a picture or a video"),
        (timeline, "What happens when in a video"),
        (embed, "Pooled features"),
    ):
        options = service.verbs[function.__name__][1]
        answers: dict[int | str, Any] = {"default": {"description": 'Why there is none: {"error": "one line"}'}}
        answers |= {200: {"content": {PNG: {}}}} if options is PictureOptions else {}
        app.post(
            f"/{function.__name__}", summary=summary, dependencies=guard, responses=answers,
            openapi_extra=_described(options, service.predictor.task),
        )(function)  # fmt: skip

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether requests are taken")
    async def healthz(response: Response) -> dict[str, Any]:
        response.status_code = 503 if door.is_closed else 200
        status = "stopping" if door.is_closed else "ok"
        return {"status": status, "checkpoint": contract.id or contract.arch, "task": contract.task}

    @app.get("/metrics", summary="For Prometheus", dependencies=guard, response_class=PlainTextResponse)
    async def tell_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False, dependencies=guard)
    async def openapi() -> dict[str, Any]:
        return app.openapi()

    paths = frozenset(f"/{name}" for name in (*service.verbs, "healthz", "metrics", "openapi.json"))
    app.add_middleware(Counted, metrics=metrics, paths=paths)
    _tell_errors(app, sorted(paths))
    return app, door


def _described(kind: type[Any], task: Task) -> dict[str, Any]:
    """What OpenAPI is told of a request: the file, and options, in the address or beside it, by a dataclass of them;
    not those of other tasks."""
    own = [] if task.options_type is None else [field.name for field in fields(task.options_type)]
    lacking = set(option_names()).difference(own)
    names = {int: "integer", float: "number", bool: "boolean", str: "string"}
    hints = get_type_hints(kind)
    kinds = {name: hints[name] for name in (field.name for field in fields(kind)) if name not in lacking}
    types = {name: next(iter(get_args(hint)), hint) for name, hint in kinds.items()}
    schemas = {
        name: {"type": names[hint]} if hint in names else {"type": "integer", "enum": list(get_args(hint))}
        for name, hint in types.items()
    }
    options = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in schemas.items()]
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": binary, **schemas}, "required": ["file"]}
    content = {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": binary}}
    return {"parameters": options, "requestBody": {"required": True, "content": content}}


class _Bearer(HTTPBearer):
    """What refuses requests without the token; how long it takes tells nothing of that."""

    def __init__(self, token: str):
        super().__init__(auto_error=False)
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        given = await super().__call__(request)
        if given is None or not hmac.compare_digest(given.credentials.encode(), self._token):
            raise HTTPException(401, "expected the server's bearer token", {"WWW-Authenticate": "Bearer"})
        return given


def _tell_errors(app: FastAPI, paths: list[str]) -> None:
    """Every error as {"error": one line}; of what is not the client's fault, the cause is told in the log alone."""

    def said(status: int, line: str, headers: Any = None) -> Response:
        return Response(as_json({"error": line}).body, status, headers, JSON)

    async def refused(_: Request, error: Any) -> Response:
        return said(422, str(error))

    async def by_status(request: Request, error: Any) -> Response:
        line = str(error.detail)
        if error.status_code == 404:
            line = f"expected one of {', '.join(paths)}"
        elif error.status_code == 405:
            line = f"expected {error.headers['Allow']}, got {request.method}"
        return said(error.status_code, line, error.headers)

    async def failed(_: Request, error: Any) -> Response:
        log.error("the network failed", exc_info=error.__cause__)
        return said(500, "the network failed")

    async def unforeseen(_: Request, error: Any) -> Response:  # Starlette raises it again, and uvicorn logs it
        return said(500, "a mistake of this program")

    app.add_exception_handler(InputError, refused)
    app.add_exception_handler(AnyHTTPException, by_status)
    app.add_exception_handler(NetworkFailed, failed)
    app.add_exception_handler(Exception, unforeseen)


# ---- running it ------------------------------------------------------------------------------------------------------


class Protocol(H11Protocol):
    """HTTP, whose own errors are told as all others. The head of a request has to come within so many seconds from the
    connection's begin, or from the last answer on."""

    def __init__(self, *args: Any, seconds: float, **options: Any):
        super().__init__(*args, **options)
        self._seconds = seconds
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self.loop.call_later(self._seconds, self._give_up, self.cycle)

    def _give_up(self, last: object) -> None:
        if self.cycle is last and self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or has no end: the answer to it closes the connection."""
        status, line = 400, "expected a request of HTTP, got something else"
        if getattr(sys.exception(), "error_status_hint", None) == 431:  # uvicorn is handling h11's word on it
            status, line = 431, "expected the head of a request, got too many bytes without its end"
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = as_json({"error": line}).body
            head = [("Content-Type", JSON), ("Content-Length", str(len(body))), ("Connection", "close")]
            self.transport.write(self.conn.send(h11.Response(status_code=status, headers=head)))
            self.transport.write(self.conn.send(h11.Data(data=body)))
            self.transport.write(self.conn.send(h11.EndOfMessage()))
        self.transport.close()


class Server(uvicorn.Server):
    """Ends, at the first signal or when its door is closed, as soon as all that was let in is answered; at a second
    signal at once."""

    def __init__(self, app: FastAPI, door: Door, ready: Callable[[], None] = lambda: None):
        http: Any = partial(Protocol, seconds=door.limits.seconds)
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http=http, ws="none", lifespan="off", log_config=None, access_log=False,
                proxy_headers=False, server_header=False,
            )
        )  # fmt: skip
        self._door, self._ready = door, ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """What clients get wrong is told to them: whoever may ask could fill the log with it."""
        with told_from(logging.ERROR, "uvicorn.error", "python_multipart.multipart"):
            super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()  # and signals are waited for

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._door.is_closed:
            super().handle_exit(sig, frame)
            self.force_exit = True
        self._door.is_closed = True

    async def on_tick(self, counter: int) -> bool:
        is_over = await super().on_tick(counter)
        return is_over or (self._door.is_closed and not self._door.running)


def serve(
    predictor: Predictor,
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    listening: socket.socket | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    wait: float = 0.005,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until a signal (SIGINT or SIGTERM) says to stop; what was asked by then is answered.

    `port` 0 takes a free one; who wants to know whether it can be had before a network is loaded gives what is
    `listening` there already. `ready` is told the address. Raises `InputError` where it cannot listen there.
    """
    metrics = Metrics()
    with closing(listening or listening_at(host, port)) as listening, system_folder("serve") as folder:
        service = Service(predictor, limits or Limits(), wait=wait, seen=metrics.views.observe)
        app, door = make_app(service, metrics, token=token, folder=folder)
        server = Server(app, door, lambda: ready(address_of(listening, host)))
        try:
            server.run(sockets=[listening])
        finally:
            service.close(now=server.force_exit)
