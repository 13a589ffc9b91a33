"""The server: clear refusals, whatever a client sends, that cost no other request its answer."""

from __future__ import annotations

import json
import socket
import struct
import sys
import tempfile
import time
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch

import uniformer
from tests.films import pan, write
from tests.patience import wait_until
from tests.served import answer_to, error_of, get, half_sent, make_served, post, received_from, request, same, served
from uniformer import Predictor
from uniformer.web.batching import OutOfTime
from uniformer.web.receiving import IN_MEMORY
from uniformer.web.service import LabelOptions, Limits, Service

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("served"))


def test_what_is_wrong_with_a_request_is_one_line(folder: Path) -> None:
    film = folder / "h264.mp4"
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(size=100_000, length=2)) as one:
        for options, words in (
            ({"clisp": 2}, "did you mean 'clips'?"), ({"clips": "many"}, "clips: expected a whole number, got 'many'"),
            ({"clips": 31}, "at most 30 views"), ({"clips": 0}, "at least one clip"), ({"crops": 2}, "expected 1 or 3"),
            ({"top_k": 0}, "top_k of at least 1"), ({"a.b": 1}, "unknown setting"), ({"score": 0.5}, "unknown setting"),
        ):  # fmt: skip
            assert words in error_of(one.post("predict", film, **options), 422)
        twice = post(f"{one.url}/predict?clips=1&clips=2", content=b"x")
        assert "clips once" in error_of(twice, 422)
        assert "expected a video of at most 2 s, found 2.4 s" in error_of(one.post("timeline", film), 422)
        assert one.post("timeline", film, start=1).status_code == 200  # the part is short enough
        for part in ({"start": 2, "end": 1}, {"start": -1}, {"end": "nan"}, {"start": 99}):
            assert "expected a part" in error_of(one.post("timeline", film, **part), 422)
        assert "at most 20 s" in error_of(one.post("timeline", film, window=21), 422)
        assert "at least 0.01 s" in error_of(one.post("timeline", film, window=1e-9), 422)  # of 10 ** 10 steps
        assert error_of(one.post("predict", b"", "empty.mp4"), 422) == "empty.mp4: expected a video, found no bytes"
        assert error_of(one.post("predict", folder / "picture.png"), 422).startswith("picture.png: expected a video")
        assert "one file" in error_of(post(f"{one.url}/predict", files={"a": (None, "text")}), 400)
        two = post(f"{one.url}/predict", files=[("a", ("a", b"1")), ("b", ("b", b"2"))])
        assert error_of(two, 400).startswith("expected a form with one file: Too many files")
        told = post(f"{one.url}/predict", json={"file": "http://127.0.0.1/film.mp4"})
        assert error_of(told, 415) == "expected the bytes of a file, or a form with one, got JSON"
        cut = post(
            f"{one.url}/predict", headers={"Content-Type": "multipart/form-data; boundary=x"},
            content=b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf',
        )  # fmt: skip
        error_of(cut, 400)
        assert "/predict" in error_of(get(f"{one.url}/nowhere"), 404)
        name = error_of(one.post("predict", b"x", "..\\a/b\x1b[2J" + "c" * 300), 422).partition(":")[0]
        assert name.startswith("b\\x1b[2Jc")
        assert len(name) <= 210
        wanted = one.service.predictor(film).to_dict()
        same(one.post("predict", film).json(), wanted)  # nothing of it lasts; and only its own frames are read


HEAD = b"POST /predict HTTP/1.1\r\nHost: me\r\n"


def test_what_is_no_http_or_not_in_time_is_refused_and_costs_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Heads that are wrong or never end, lengths and chunks that are none; a picture that unpacks to gigabytes. The log
    is not the client's to fill."""
    film = (folder / "h264.mp4").read_bytes()
    with served(Predictor(folder / "clips.safetensors")) as one:
        for wrong in (
            b"\x16\x03\x01\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
            HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            HEAD + b"Transfer-Encoding: gzip\r\n\r\nx", HEAD + b"Transfer-Encoding: chunked\r\n\r\nxx\r\n",
        ):  # fmt: skip
            answer = answer_to(one.port, wrong)
            assert answer.startswith("HTTP/1.1 400 "), wrong
            assert json.loads(answer.partition("\r\n\r\n")[2]) == {
                "error": "expected a request of HTTP, got something else"
            }
        endless = answer_to(one.port, HEAD + b"X: " + b"x" * (1 << 14))
        assert endless.startswith("HTTP/1.1 431 ")
        assert "expected the head of a request, got too many bytes without its end" in endless
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        assert answer_to(one.port, b"GET /healthz HTTP/1.1\r\nHost: me\r\n" + upgrade).startswith("HTTP/1.1 200 ")
        no_form = post(f"{one.url}/predict", content=film, headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert error_of(no_form, 400).startswith("expected a form with one file: ")
        assert answer_to(one.port, HEAD + b"Content-Length: 999999999999\r\n\r\n").startswith("HTTP/1.1 413 ")
        chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(film), film)
        assert answer_to(one.port, chunked).startswith("HTTP/1.1 200 ")
        assert request("HEAD", f"{one.url}/healthz").status_code == 200
        assert error_of(get(f"{one.url}/predict"), 405) == "expected POST, got GET"
        assert "/predict" in error_of(get(f"{one.url}/healthz/"), 404)  # and not sent to what `Host` says
        fields = {f"field{n}": "1" for n in range(1000)}
        assert "Too many fields" in error_of(one.post("predict", film, **fields), 400)
        assert "with names" in error_of(post(f"{one.url}/predict?=1", content=film), 422)
        with socket.create_connection(("127.0.0.1", one.port)) as slow:
            slow.sendall(HEAD)
            assert one.post("predict", film).status_code == 200
    assert caplog.text == ""
    with served(Predictor(folder / "images.safetensors")) as one:
        assert "pixels a frame, found 50000x50000" in error_of(one.post("predict", bomb(50_000)), 422)


def bomb(side: int) -> bytes:
    """A picture of a few bytes that says it has so many pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + chunk(b"IEND", b"")


def test_too_much_and_too_slow_are_refused(folder: Path) -> None:
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(size=1 << 20)) as one:
        body = bytes((1 << 20) + 1)
        assert "1048576 bytes" in error_of(post(f"{one.url}/predict", content=body), 413)
        assert "1048576 bytes" in error_of(post(f"{one.url}/predict", content=iter([body[:9], body])), 413)
        assert "1048576 bytes" in error_of(one.post("predict", body), 413)
    gone = folder / "gone"  # a disk that refuses
    with served(Predictor(folder / "clips.safetensors"), folder=gone) as one:
        large = bytes(IN_MEMORY + 1)
        for response in (one.post("predict", large), post(f"{one.url}/predict", content=large)):
            assert error_of(response, 507) == "the server cannot keep the file: no such file or directory"
        assert one.post("predict", folder / "h264.mp4").status_code == 200  # which needs no disk
    long = write(folder / "long.mp4", pan(0, 600))
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(seconds=0.2)) as one:
        with half_sent(one.port) as sent:
            assert received_from(sent).startswith("HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", one.port)) as slow:
            slow.sendall(HEAD)
            assert slow.recv(1) == b""  # it was given up
        assert error_of(one.post("timeline", long), 504) == "long.mp4: expected an answer within 0.2 s"
        wait_until(lambda: one.door.running == 0)


class Slow(BytesIO):
    """A file that is read when the time is over."""

    def __init__(self, data: bytes, until: float):
        super().__init__(data)
        self.until = until

    def read(self, size: int | None = -1, /) -> bytes:
        wait_until(lambda: time.monotonic() > self.until)
        return super().read(size)


def test_a_file_that_is_read_too_late_is_not_called_broken(folder: Path) -> None:
    service = Service(Predictor(folder / "clips.safetensors"), Limits())
    until = time.monotonic() + 1
    file = Slow((folder / "h264.mp4").read_bytes(), until)
    with pytest.raises(OutOfTime):
        service.submit("predict", file, "late.mp4", LabelOptions(), until, "application/json").result()
    assert file.closed
    service.close()


def test_one_too_many_is_asked_to_come_again(folder: Path) -> None:
    film = (folder / "h264.mp4").read_bytes()
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(requests=1)) as one:
        with half_sent(one.port, film[:-4]) as sent:
            wait_until(lambda: one.door.running)
            refused = one.post("predict", film)
            assert "at most 1 requests" in error_of(refused, 429)
            assert refused.headers["retry-after"] == "1"
            sent.sendall(film[-4:])
            assert received_from(sent).startswith("HTTP/1.1 200 ")
        with half_sent(one.port):
            wait_until(lambda: one.door.running)
        wait_until(lambda: not one.door.running)  # it broke off
        assert one.post("predict", film).status_code == 200


def test_a_token_is_asked_for(folder: Path) -> None:
    with served(Predictor(folder / "clips.safetensors"), token="right") as one:
        for said in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            for method, path in (("POST", "predict"), ("GET", "metrics"), ("GET", "openapi.json")):
                refused = request(method, f"{one.url}/{path}", headers=said)
                assert "token" in error_of(refused, 401)
                assert refused.headers["www-authenticate"] == "Bearer"
        assert get(f"{one.url}/healthz").status_code == 200
        right = {"Authorization": "Bearer right"}
        film = (folder / "h264.mp4").read_bytes()
        assert post(f"{one.url}/predict", content=film, headers=right).status_code == 200
        found = get(f"{one.url}/metrics", headers=right).text
        assert 'uniformer_requests_total{path="/predict",status="401"} 3.0' in found
        assert 'uniformer_requests_total{path="/predict",status="200"} 1.0' in found
        described = get(f"{one.url}/openapi.json", headers=right).json()
        assert {"/predict", "/timeline", "/embed", "/healthz", "/metrics"} == set(described["paths"])
        asked = {each["name"]: each["schema"]["type"] for each in described["paths"]["/predict"]["post"]["parameters"]}
        kinds = {
            "start": "number",
            "end": "number",
            "clips": "integer",
            "crops": "integer",
            "follow_seconds": "boolean",
            "top_k": "integer",
        }
        assert asked == kinds | {"vocabulary": "string"}
        assert get(f"{one.url}/docs", headers=right).status_code == 404  # it would load from elsewhere


def test_no_answer_tells_where_things_lie(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(folder / "clips.safetensors")
    with served(predictor) as one:
        sent = [folder / name for name in ("h264.mp4", "broken.mp4", "picture.png", "images.safetensors")]
        answers = [one.post(verb, file) for verb in one.service.verbs for file in sent]
        answers += [get(f"{one.url}/{path}") for path in ("healthz", "metrics", "openapi.json", "nowhere")]
        predictor.network.form = torch.nn.Linear(2, 2)  # one that cannot compute
        answers.append(one.post("predict", folder / "h264.mp4"))
        assert error_of(answers[-1], 500) == "the network failed"
        assert "RuntimeError" in caplog.text
        one.service.close()  # as nothing but a mistake of ours would
        answers.append(one.post("predict", folder / "h264.mp4"))
        assert error_of(answers[-1], 500) == "a mistake of this program"
    places = [folder, Path.cwd(), tempfile.gettempdir(), Path(uniformer.__file__).parent, sys.prefix, Path.home()]
    for answer in answers:
        assert not [place for place in map(str, places) if place in answer.text], answer.text
