"""Servers on loopback that send a video without an end: over HTTP, and over RTSP as cameras do (MPEG-TS in RTP over the
same connection). Both can be ended, and begun again on the same port."""

from __future__ import annotations

import errno
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.patience import wait_until

TS_PACKET = 188  # bytes


@dataclass
class LiveServer:
    """What it sends: a transport stream, a piece of it at a time, then silence until it is let go or killed."""

    data: bytes
    scheme: str = "http"
    port: int = 0
    hangs_up: bool = False  #: once all is sent
    clients: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/live"

    def start(self) -> None:
        """On the same port again, once nobody else has it: other tests' connections are given free ports, too."""
        assert not hasattr(self, "_server") or self.ended.is_set(), "it has not ended"
        self.ended = threading.Event()
        wait_until(self._listens)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _listens(self) -> bool:
        handler = {"http": _Http, "rtsp": _Rtsp}[self.scheme]
        kind = type("Server", (socketserver.ThreadingTCPServer,), {"allow_reuse_address": True, "daemon_threads": True})
        try:
            self._server = kind(("127.0.0.1", self.port), type("Handler", (handler,), {"live": self}))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    def die(self) -> None:
        """Close the port and every connection."""
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def live(data: bytes, scheme: str = "http", **options: bool) -> Iterator[LiveServer]:
    server = LiveServer(data, scheme, **options)
    server.start()
    try:
        yield server
    finally:
        if not server.ended.is_set():
            server.die()


class _Handler(socketserver.StreamRequestHandler):
    live: LiveServer

    def handle(self) -> None:
        self.live.clients += 1
        with suppress(ConnectionError, BrokenPipeError):
            self.serve()

    def serve(self) -> None:
        raise NotImplementedError

    def request_lines(self) -> list[str]:
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines

    def pieces(self) -> Iterator[bytes]:
        size = 7 * TS_PACKET
        for start in range(0, len(self.live.data), size):
            if self.live.ended.is_set():
                return
            yield self.live.data[start : start + size]
        if not self.live.hangs_up:
            self.live.ended.wait()

    def finish(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            super().finish()


class _Http(_Handler):
    def serve(self) -> None:
        self.request_lines()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
        for piece in self.pieces():
            self.wfile.write(piece)
            time.sleep(0.001)  # so that a server that dies has not sent all


class _Rtsp(_Handler):
    """As much of RFC 2326 as a player needs, and RTP of RFC 2250 between '$' and lengths."""

    def serve(self) -> None:
        while lines := self.request_lines():
            method = lines[0].split()[0]
            number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
            sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=live\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            said = {
                "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n",
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
                "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
                "PLAY": "Session: 1\r\n\r\n",
            }.get(method, "\r\n")
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{said}".encode())
            if method == "PLAY":
                break
        for number, piece in enumerate(self.pieces()):
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 90, 1) + piece
            self.wfile.write(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
            time.sleep(0.001)
