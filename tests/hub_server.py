"""A real HTTP server on loopback that speaks as much of the Hugging Face hub and of Google Drive as downloads need.

The hub: `/{repo}/resolve/{revision}/{file}` with the headers of the original, byte ranges included. Google Drive: a
proxy (for HTTPS_PROXY) that ends the TLS of the two Drive hosts itself, so that gdown runs as it is.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.loopback import QuietHandler, running
from tests.patience import PATIENCE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DRIVE_HOSTS = ("drive.google.com", "drive.usercontent.google.com")


@dataclass
class Request:
    method: str
    path: str
    range: str | None

    @property
    def is_file(self) -> bool:
        return "/resolve/" in self.path or "confirm=" in self.path


@dataclass
class Loopback:
    """What is served, what should go wrong, and what was asked."""

    files: dict[str, bytes]  #: 'owner/name/file' of the hub, 'owner/name@revision/file', or the file id of Drive
    tls: ssl.SSLContext | None = None
    drop_once_after: int | None = None  #: bytes after which the first GET of a file is cut off
    status: int | None = None  #: answer with this instead ...
    status_times: int = 10**9  #: ... so many times
    hold_until_heads: int = 0  #: a GET waits until so many HEADs have come
    sums: dict[str, str] = field(default_factory=dict)  #: SHA-256 that is told of a file, as of large ones
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def downloads(self) -> list[Request]:
        """The GETs of files (huggingface_hub asks for other things too)."""
        with self.changed:
            return [request for request in self.requests if request.method == "GET" and request.is_file]

    def note(self, request: Request) -> None:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()

    def wait_for_heads(self) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: sum(request.method == "HEAD" for request in self.requests) >= self.hold_until_heads, PATIENCE
            )

    def take_status(self) -> int | None:
        with self.changed:
            self.status_times -= 1
            return self.status if self.status_times >= 0 else None

    def take_drop(self) -> int | None:
        with self.changed:
            drop, self.drop_once_after = self.drop_once_after, None
            return drop


@contextmanager
def serve(files: dict[str, bytes], tls: ssl.SSLContext | None = None) -> Iterator[Loopback]:
    loopback = Loopback(files, tls)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"loopback": loopback}))
    with running(server) as loopback.url:
        yield loopback


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A fresh certificate for the Drive hosts: the server's context, and the file for a client to trust."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    names = ",".join(f"DNS:{host}" for host in DRIVE_HOSTS)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=loopback"]
    command += ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is no fault of the server
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(QuietHandler):
    loopback: Loopback

    def do_CONNECT(self) -> None:
        assert self.loopback.tls is not None
        self.send_response(200)
        self.end_headers()
        self.connection = self.loopback.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def do_HEAD(self) -> None:
        self.loopback.note(Request("HEAD", self.path, self.headers.get("Range")))
        self._answer(body=False)

    def do_GET(self) -> None:
        self.loopback.note(Request("GET", self.path, self.headers.get("Range")))
        self.loopback.wait_for_heads()
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        status = self.loopback.take_status()
        if status is not None:
            return self._plain(status, {}, b"", body)
        if self.loopback.tls is not None:
            return self._drive(body)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not match:
            return self._plain(404, {}, b"", body)
        repo, revision, name = match.groups()
        if not any(key.startswith((f"{repo}/", f"{repo}@")) for key in self.loopback.files):
            return self._plain(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
        key = f"{repo}/{name}" if revision in ("main", COMMIT) else f"{repo}@{revision}/{name}"
        data, commit = self.loopback.files.get(key), COMMIT if revision == "main" else revision
        if data is None and revision not in ("main", COMMIT):
            return self._plain(404, {"X-Error-Code": "RevisionNotFound"}, b"", body)
        if data is None:
            return self._plain(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"", body)
        etag = self.loopback.sums.get(key) or hashlib.sha1(data).hexdigest()
        return self._file(data, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body)

    def _drive(self, body: bool) -> None:
        query = parse_qs(urlsplit(self.path).query)
        id = query.get("id", [""])[0]
        data = self.loopback.files.get(id)
        if data is None:
            return self._plain(404, {"Content-Type": "text/html"}, b"<html>no such file</html>", body)
        if "confirm" not in query:  # as for files too large for Drive's virus scan
            form = '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
            inputs = f'<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t">'
            return self._plain(200, {"Content-Type": "text/html"}, f"{form}{inputs}</form>".encode(), body)
        return self._file(data, {"Content-Disposition": 'attachment; filename="weights.pth"'}, body)

    def _file(self, data: bytes, headers: dict[str, str], body: bool) -> None:
        start, status = 0, 200
        if (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and body:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        self._plain(status, headers, data[start:], body, cut=self.loopback.take_drop() if body else None)

    def _plain(self, status: int, headers: dict[str, str], data: bytes, body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
