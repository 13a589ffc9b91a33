"""A real HTTP server on loopback that serves files, well and in every way that a server can fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

from tests.loopback import QuietHandler, running


@dataclass
class MediaServer:
    files: dict[str, bytes]  #: by the path of their address, without the slash
    url: str = ""
    asked: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)  #: ends what hangs


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[MediaServer]:
    media = MediaServer(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"media": media}))
    server.daemon_threads = True
    with running(server) as media.url:
        try:
            yield media
        finally:
            media.done.set()


class _Handler(QuietHandler):
    media: MediaServer

    def do_GET(self) -> None:
        self.media.asked.append(self.path)
        name = self.path[1:].split("?")[0]
        self.close_connection = True
        with suppress(ConnectionError):
            if name in FAULTS:
                FAULTS[name](self)
            elif name in self.media.files:
                self.head(200, **{"Content-Length": len(self.media.files[name])})
                self.wfile.write(self.media.files[name])
            else:
                self.head(404, **{"Content-Length": 0})

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.flush()

    def redirect(self, to: str) -> None:
        self.head(302, Location=to, **{"Content-Length": 0})

    def page(self) -> None:
        self.head(200, **{"Content-Type": "text/html; charset=utf-8", "Content-Length": 6})
        self.wfile.write(b"<html>")

    def cut(self) -> None:
        self.head(200, **{"Content-Length": 1_000_000})
        self.wfile.write(bytes(400_000))

    def cut_chunks(self) -> None:
        self.head(200, **{"Transfer-Encoding": "chunked"})
        self.wfile.write(b"5\r\nabcde\r\nff\r\nabc")

    def endless(self) -> None:
        self.head(200, **{"Transfer-Encoding": "chunked"})
        while not self.media.done.is_set():
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def stall(self) -> None:
        self.head(200, **{"Content-Length": 1_000_000})
        self.wfile.write(bytes(1000))
        self.media.done.wait()

    def trickle(self) -> None:
        self.head(200, **{"Content-Length": 1_000_000})
        while not self.media.done.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()


FAULTS: dict[str, Callable[[_Handler], object]] = {
    "page": _Handler.page,
    "gone": lambda self: self.head(410, **{"Content-Length": 0}),
    "broken": lambda self: self.head(500, **{"Content-Length": 0}),
    "empty": lambda self: self.head(200, **{"Content-Length": 0}),
    "moved": lambda self: self.redirect("/moved%20again"),
    "moved%20again": lambda self: self.redirect("/clip.mp4"),
    "circle": lambda self: self.redirect("/circle2"),
    "circle2": lambda self: self.redirect("/circle"),
    "to_ftp": lambda self: self.redirect("ftp://127.0.0.1/clip.mp4"),
    "to_file": lambda self: self.redirect("file:///etc/hostname"),
    "huge": lambda self: self.head(200, **{"Content-Length": 10**12}),
    "no_http": lambda self: self.wfile.write(b"220 mail.example.org ESMTP\r\n"),
    "hang_up": lambda self: self.connection.close(),
    "cut": _Handler.cut,
    "cut_chunks": _Handler.cut_chunks,
    "endless": _Handler.endless,
    "stall": _Handler.stall,
    "silent": lambda self: self.media.done.wait(),
    "trickle": _Handler.trickle,
}
