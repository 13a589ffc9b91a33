"""The server for tests: in a thread of this process or in one of its own, and requests in parts."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import odd_media
from tests.command_line import COMMAND
from tests.patience import PATIENCE
from tests.tiny import CLIPS, IMAGES, save_tiny
from uniformer import Predictor
from uniformer.web.service import Limits, Service

for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)
httpx = pytest.importorskip("httpx")
server = pytest.importorskip("uniformer.web.server")

request = partial(httpx.request, timeout=PATIENCE)
get, post = partial(request, "GET"), partial(request, "POST")


def make_served(path: Path) -> Path:
    """Networks of clips and of images; a film, a picture, and what is neither."""
    save_tiny(path / "clips.safetensors", CLIPS)
    save_tiny(path / "images.safetensors", IMAGES)
    odd_media.h264(path)
    Image.fromarray(odd_media.picture(3)).save(path / "picture.png")
    (path / "broken.mp4").write_bytes(b"This is no video.\n" * 99)
    return path


class Served:
    """A server on loopback, in a thread of this process."""

    def __init__(self, predictor: Predictor, limits: Limits, token: str | None, wait: float, folder: Path | None):
        self.batches: list[int] = []
        self.service = Service(predictor, limits, wait=wait, seen=self.batches.append)
        app, self.door = server.make_app(self.service, server.Metrics(), token=token, folder=folder)
        self.socket = server.listening_at("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=server.Server(app, self.door).run, args=([self.socket],))
        self.thread.start()

    def post(self, verb: str, file: Path | bytes, name: str | None = None, **options: Any) -> Any:
        data, name = (file, name or "file") if isinstance(file, bytes) else (file.read_bytes(), name or file.name)
        return post(f"{self.url}/{verb}", files={"file": (name, data)}, data=options)


@contextmanager
def served(
    predictor: Predictor,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    wait: float = 0.005,
    folder: Path | None = None,
) -> Iterator[Served]:
    one = Served(predictor, limits or Limits(), token, wait, folder)
    try:
        yield one
    finally:
        one.door.is_closed = True
        one.thread.join()
        one.service.close()


def same(found: Any, wanted: Any) -> None:
    """All of two answers but how long they took."""
    strip = [
        {name: value for name, value in plain.items() if name not in ("timings", "source")} for plain in (found, wanted)
    ]
    assert strip[0] == strip[1]


def error_of(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    said = response.json()
    assert list(said) == ["error"]
    assert "\n" not in said["error"]
    return said["error"]


# ---- in parts --------------------------------------------------------------------------------------------------------


@contextmanager
def half_sent(
    port: int, half: bytes = b"half", *, kind: str = "video/mp4", token: str = "none"
) -> Iterator[socket.socket]:
    """A request that lacks four bytes."""
    with socket.create_connection(("127.0.0.1", port)) as sent:
        head = f"POST /predict HTTP/1.1\r\nHost: me\r\nContent-Type: {kind}\r\nAuthorization: Bearer {token}\r\n"
        head += f"Content-Length: {len(half) + 4}\r\n\r\n"
        sent.sendall(head.encode() + half)
        yield sent


def received_from(sent: socket.socket) -> str:
    """The whole of one answer."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sent.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += sent.recv(1 << 16)
    return (head + b"\r\n\r\n" + body).decode()


def answer_to(port: int, data: bytes) -> str:
    """What is answered to bytes that may be no HTTP."""
    with socket.create_connection(("127.0.0.1", port)) as sent:
        sent.sendall(data)
        return received_from(sent)


# ---- a process of its own --------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: Any, **env: str) -> Iterator[tuple[Any, int]]:
    """The server, and its port."""
    running = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert " at http://127.0.0.1:" in said, running.communicate()
        yield running, int(said.rpartition(":")[2])
    finally:
        running.kill()
        running.communicate()


def open_files(pid: int) -> list[str]:
    found = []
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(name))
    return found
