"""The server: answers of `Predictor` whatever goes along, clear refusals, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests import odd_media
from tests.command_line import COMMAND, Cli, one_line
from tests.dense_nets import make_nets
from tests.films import pan, write
from tests.patience import PATIENCE, wait_until
from tests.test_vocabulary import save_namer
from tests.tiny import CLIPS, IMAGES, save_tiny, tiny_model
from tests.tolerance import assert_close, rounding, terms_of
from uniformer import Predictor, timeline
from uniformer.cli.main import main
from uniformer.web.batching import Computing, OutOfTime
from uniformer.web.service import LabelOptions, Limits, Service

for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)
httpx = pytest.importorskip("httpx")
server = pytest.importorskip("uniformer.web.server")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of clips and of images, one of them exported; a film, a picture, and what is neither."""
    path = tmp_path_factory.mktemp("served")
    save_tiny(path / "clips.safetensors", CLIPS)
    save_tiny(path / "images.safetensors", IMAGES)
    make_nets(path)
    odd_media.h264(path)
    Image.fromarray(odd_media.picture(3)).save(path / "picture.png")
    (path / "broken.mp4").write_bytes(b"This is no video.\n" * 99)
    return path


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    pytest.importorskip("openvino")
    assert main(["export", str(folder / "clips.safetensors"), str(folder / "clips.xml")]) == 0
    return folder / "clips.xml"


class Served:
    """A server on loopback, in a thread of this process."""

    def __init__(self, predictor: Predictor, limits: Limits, token: str | None, wait: float):
        self.batches: list[int] = []
        self.service = Service(predictor, limits, wait=wait, seen=self.batches.append)
        app, self.door = server.make_app(self.service, server.Metrics(), token=token)
        self.socket = server.listening_at("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=server.Server(app, self.door).run, args=([self.socket],))
        self.thread.start()

    def post(self, verb: str, file: Path | bytes, name: str | None = None, **options: Any) -> Any:
        data, name = (file, name or "file") if isinstance(file, bytes) else (file.read_bytes(), name or file.name)
        return httpx.post(f"{self.url}/{verb}", files={"file": (name, data)}, data=options, timeout=PATIENCE)


@contextmanager
def served(
    predictor: Predictor, *, limits: Limits | None = None, token: str | None = None, wait: float = 0.005
) -> Iterator[Served]:
    one = Served(predictor, limits or Limits(), token, wait)
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


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_python(folder: Path) -> None:
    predictor, film = Predictor(folder / "clips.safetensors"), folder / "h264.mp4"
    with served(predictor) as one:
        found = one.post("predict", film).json()
        assert found["source"] == "h264.mp4"
        same(found, predictor(film).to_dict())
        asked = Predictor(folder / "clips.safetensors", clips=3, crops=3, top_k=2, follow_seconds=True)
        same(one.post("predict", film, clips=3, crops=3, top_k=2, follow_seconds="true").json(), asked(film).to_dict())
        raw = httpx.post(f"{one.url}/predict?clips=3&crops=3&top_k=2&follow_seconds=true", content=film.read_bytes())
        same(raw.json(), asked(film).to_dict())
        same(one.post("predict", film).json(), predictor(film).to_dict())  # the options were of one request

        told = json.loads(timeline(film, predictor, window=1.0, cuts=False).to_json())
        same(one.post("timeline", film, window=1, cuts="false").json(), told)
        for _ in range(2):
            row = one.post("embed", film).json()["features"]
            assert np.array_equal(np.float32(row), predictor.embed([film])[0])
    with served(Predictor(folder / "images.safetensors")) as one:
        same(
            one.post("predict", folder / "picture.png").json(), one.service.predictor(folder / "picture.png").to_dict()
        )
        assert "a network of clips" in error_of(one.post("timeline", film), 422)


def test_a_request_may_name_motions_in_others_words(folder: Path) -> None:
    predictor, film = Predictor(save_namer(folder)), folder / "h264.mp4"
    told = json.loads(timeline(film, predictor.asked(vocabulary="vbench")).to_json())
    with served(predictor) as one:
        found = one.post("predict", film, vocabulary="camerabench", top_k=9).json()
        same(found, predictor.asked(vocabulary="camerabench", top_k=9)(film).to_dict())
        assert one.post("timeline", film, vocabulary="vbench").json()["classes"] == told["classes"]
        same(one.post("predict", film).json(), predictor(film).to_dict())
        assert "vbench" in error_of(one.post("predict", film, vocabulary="dutch"), 422)


def test_whole_pictures_and_films_of_them(folder: Path) -> None:
    for task in ("detection", "segmentation", "pose"):
        predictor, picture = Predictor(folder / f"{task}.safetensors"), folder / "picture.png"
        with served(predictor) as one:
            same(one.post("predict", picture).json(), predictor(picture).to_dict())
            drawn = httpx.post(f"{one.url}/predict", content=picture.read_bytes(), headers={"Accept": "image/png"})
            assert drawn.headers["content-type"] == "image/png"
            assert Image.open(BytesIO(drawn.content)).tobytes() == predictor(picture).plot().tobytes()
            assert "expected a classifier" in error_of(one.post("embed", picture), 422)
            if task == "detection":
                frames = one.post("predict", folder / "h264.mp4", every=25).json()["frames"]
                for found, wanted in zip(frames, predictor.frames(folder / "h264.mp4", every=25), strict=True):
                    same(found, wanted.to_dict())
                few = predictor.asked(score=0.2, keep=("cat", "dog"), most=1)
                same(one.post("predict", picture, score=0.2, keep="cat, dog", most=1).json(), few(picture).to_dict())
                assert "expected every of at least 1" in error_of(
                    one.post("predict", folder / "h264.mp4", every=0), 422
                )
                assert "unknown option 'tile' of detection" in error_of(one.post("predict", picture, tile=64), 422)


@pytest.fixture(scope="module")
def films(folder: Path) -> list[Path]:
    return [odd_media.encode(folder / f"{n}.mp4", frames=20 + n, number=lambda i, n=n: 3 * i + n) for n in range(8)]


def all_at_once(one: Served, sent: list[tuple[str, Path]]) -> list[Any]:
    with ThreadPoolExecutor(len(sent)) as pool:
        return list(pool.map(lambda request: one.post(*request), sent))


def test_requests_that_go_alone_are_answered_to_the_bit(folder: Path, films: list[Path]) -> None:
    """Where a batch has no room for two, and one thread decodes for all of them in turns."""
    predictor = Predictor(folder / "clips.safetensors", batch_size=1, workers=1)
    sent = [(verb, film) for film in films[:4] for verb in ("predict", "timeline")]
    with served(predictor) as one:
        answers = all_at_once(one, sent)
    for (verb, film), answer in zip(sent, answers, strict=True):
        wanted = predictor(film).to_dict() if verb == "predict" else json.loads(timeline(film, predictor).to_json())
        same(answer.json(), wanted)
    assert max(one.batches) == 2  # the views of one


def test_batches_move_the_last_digits_only(folder: Path, films: list[Path]) -> None:
    """As in `run`, where float32 rounds otherwise in another number of views; files that are broken do nothing."""
    predictor, terms = Predictor(folder / "clips.safetensors", workers=4, top_k=7), terms_of(tiny_model(ndim=3))
    for verb in ("predict", "embed"):
        with served(predictor, wait=0.05) as one:
            answers = all_at_once(one, [(verb, path) for path in (*films, *[folder / "broken.mp4"] * 2)])
        assert sum(one.batches) == 2 * len(films)
        assert max(one.batches) <= 8
        assert all("expected a video" in error_of(answer, 422) for answer in answers[len(films) :])
        for path, answer in zip(films, answers, strict=False):
            found = answer.json()
            if verb == "embed":
                assert_close(np.float32(found["features"]), predictor.embed([path])[0], terms)
            else:
                wanted = predictor(path).probabilities
                off = [abs(label["score"] - wanted[label["index"]]) for label in found["labels"]]
                assert max(off) <= 5e-7 + rounding(torch.float32, terms)  # six digits are told


def test_what_goes_along_moves_no_digit(folder: Path) -> None:
    network, rng = Predictor(folder / "clips.safetensors").network, np.random.default_rng(0)
    mine, other = rng.standard_normal((2, 2, 3, 4, 64, 64), np.float32)
    (alone, *_), *others = (
        network(np.concatenate([mine, beside]), 8)[0].reshape(2, 2, -1) for beside in (other, 9 * other, other * np.nan)
    )
    assert all(np.array_equal(found[0], alone) for found in others)


def test_calls_that_wait_are_computed_together_and_fail_alone() -> None:
    begun, go_on, sizes = threading.Event(), threading.Event(), list[int]()

    def double(x: Any) -> Any:
        begun.set()
        assert go_on.wait(PATIENCE)
        if (x < 0).any():
            raise ValueError("expected numbers from 0 up")
        return (2 * x,)

    computing = Computing(8, 0, others=lambda: 0, seen=sizes.append)
    first = computing.ask("a", np.ones((1, 3), np.float32), double)
    assert begun.wait(PATIENCE)
    asked = [
        ("a", 3),
        ("b", 2),
        ("a", -1),
        ("a", 4),
        ("a", 4),
        ("b", 2),
    ]  # kind and views; of those below 0, one that fails
    answers = [computing.ask(kind, np.full((abs(n), 3), n, np.float32), double) for kind, n in asked]
    gone = computing.ask("a", np.ones((1, 3), np.float32), double)
    assert gone.cancel()
    go_on.set()
    computing.close()
    assert first.result()[0].tolist() == [[2, 2, 2]]
    for (_, n), answer in zip(asked, answers, strict=True):
        if n < 0:
            assert isinstance(answer.exception(), ValueError)
        else:
            assert np.array_equal(answer.result()[0], np.full((n, 3), 2 * n))
    assert sizes == [1, 3, 4, 4, 4]  # 3 + 1 + 4 failed together and went alone; both of "b" went together


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_request_is_one_line(folder: Path) -> None:
    film = folder / "h264.mp4"
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(size=100_000, length=2)) as one:
        for options, words in (
            ({"clisp": 2}, "did you mean 'clips'?"), ({"clips": "many"}, "clips: expected a whole number, got 'many'"),
            ({"clips": 31}, "at most 30 views"), ({"clips": 0}, "at least one clip"), ({"crops": 2}, "expected 1 or 3"),
            ({"top_k": 0}, "top_k of at least 1"), ({"a.b": 1}, "unknown setting"), ({"score": 0.5}, "unknown setting"),
        ):  # fmt: skip
            assert words in error_of(one.post("predict", film, **options), 422)
        twice = httpx.post(f"{one.url}/predict?clips=1&clips=2", content=b"x")
        assert "clips once" in error_of(twice, 422)
        assert "expected a video of at most 2 s, found 2.4 s" in error_of(one.post("timeline", film), 422)
        assert error_of(one.post("predict", b"", "empty.mp4"), 422) == "empty.mp4: expected a video, found no bytes"
        assert error_of(one.post("predict", folder / "picture.png"), 422).startswith("picture.png: expected a video")
        assert "one file" in error_of(httpx.post(f"{one.url}/predict", files={"a": (None, "text")}), 400)
        two = httpx.post(f"{one.url}/predict", files=[("a", ("a", b"1")), ("b", ("b", b"2"))])
        assert "Too many files" in error_of(two, 400)
        cut = httpx.post(
            f"{one.url}/predict", headers={"Content-Type": "multipart/form-data; boundary=x"},
            content=b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf',
        )  # fmt: skip
        error_of(cut, 400)
        assert "/predict" in error_of(httpx.get(f"{one.url}/nowhere"), 404)
        error_of(httpx.get(f"{one.url}/predict"), 405)
        name = error_of(one.post("predict", b"x", "..\\a/b\x1b[2J" + "c" * 300), 422).partition(":")[0]
        assert name.startswith("b\\x1b[2Jc")
        assert len(name) <= 210
        wanted = one.service.predictor(film).to_dict()
        same(one.post("predict", film).json(), wanted)  # nothing of it lasts


def test_too_much_and_too_slow_are_refused(folder: Path) -> None:
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(size=1 << 20)) as one:
        body = bytes((1 << 20) + 1)
        assert "1048576 bytes" in error_of(httpx.post(f"{one.url}/predict", content=body), 413)
        assert "1048576 bytes" in error_of(httpx.post(f"{one.url}/predict", content=iter([body[:9], body])), 413)
        assert "1048576 bytes" in error_of(one.post("predict", body), 413)
    long = write(folder / "long.mp4", pan(0, 600))
    with served(Predictor(folder / "clips.safetensors"), limits=Limits(seconds=0.2)) as one:
        with half_sent(one.port) as sent:
            assert received_from(sent).startswith("HTTP/1.1 408 ")
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


@contextmanager
def half_sent(port: int, half: bytes = b"half", *, kind: str = "video/mp4") -> Iterator[socket.socket]:
    """A request that lacks four bytes."""
    with socket.create_connection(("127.0.0.1", port)) as sent:
        head = f"POST /predict HTTP/1.1\r\nHost: me\r\nContent-Type: {kind}\r\nContent-Length: {len(half) + 4}\r\n\r\n"
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
                refused = httpx.request(method, f"{one.url}/{path}", headers=said)
                assert "token" in error_of(refused, 401)
                assert refused.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{one.url}/healthz").status_code == 200
        right = {"Authorization": "Bearer right"}
        film = (folder / "h264.mp4").read_bytes()
        assert httpx.post(f"{one.url}/predict", content=film, headers=right).status_code == 200
        found = httpx.get(f"{one.url}/metrics", headers=right).text
        assert 'uniformer_requests_total{path="/predict",status="401"} 3.0' in found
        assert 'uniformer_requests_total{path="/predict",status="200"} 1.0' in found
        described = httpx.get(f"{one.url}/openapi.json", headers=right).json()
        assert {"/predict", "/timeline", "/embed", "/healthz", "/metrics"} == set(described["paths"])
        asked = {each["name"]: each["schema"]["type"] for each in described["paths"]["/predict"]["post"]["parameters"]}
        kinds = {"clips": "integer", "crops": "integer", "follow_seconds": "boolean", "top_k": "integer"}
        assert asked == kinds | {"vocabulary": "string"}
        assert httpx.get(f"{one.url}/docs", headers=right).status_code == 404  # it would load from elsewhere


def test_no_answer_tells_where_things_lie(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor(folder / "clips.safetensors")
    with served(predictor) as one:
        sent = [folder / name for name in ("h264.mp4", "broken.mp4", "picture.png", "images.safetensors")]
        answers = [one.post(verb, file) for verb in one.service.verbs for file in sent]
        answers += [httpx.get(f"{one.url}/{path}") for path in ("healthz", "metrics", "openapi.json", "nowhere")]
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


def test_the_command_refuses_in_one_line(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["serve", "--checkpoint", folder / "clips.safetensors"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one_line(cli(*arguments, "--port", taken.getsockname()[1]), "cannot listen on 127.0.0.1", "in use")
    (tmp_path / "token").write_text("two words")
    one_line(cli(*arguments, "--token-file", tmp_path / "token"), "expected a token")
    one_line(cli(*arguments, "--workers", 0), "expected workers of at least 1")
    monkeypatch.setenv("UNIFORMER_TOKEN", "")
    one_line(cli(*arguments), "UNIFORMER_TOKEN: expected a token")
    monkeypatch.delenv("UNIFORMER_TOKEN")
    monkeypatch.setitem(sys.modules, "fastapi", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "uniformer.web.server")
    one_line(cli(*arguments), "pip install 'uniformer[serve]'")


# ---- a process of its own --------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: Any, command: list[str] = COMMAND, **env: str) -> Iterator[tuple[Any, int]]:
    """The server, and its port."""
    running = subprocess.Popen(
        [*command, "serve", "--port", "0", *map(str, arguments)],
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


def test_an_exported_file_is_served_without_torch(exported: Path, folder: Path) -> None:
    code = "import sys; from uniformer.cli.main import main; status = main(); print('torch' in sys.modules, status)"
    command, film = [sys.executable, "-c", code], (folder / "h264.mp4").read_bytes()
    predictor, token = Predictor(exported), folder / "token"
    token.write_text("from_a_file\n")
    arguments = ["--checkpoint", exported, "--token-file", token]
    with process(*arguments, command=command, UNIFORMER_TOKEN="from_the_environment") as (running, port):
        url, said = f"http://127.0.0.1:{port}", {"Authorization": "Bearer from_a_file"}
        other = {"Authorization": "Bearer from_the_environment"}
        error_of(httpx.post(f"{url}/predict", content=film, headers=other), 401)
        same(httpx.post(f"{url}/predict", content=film, headers=said).json(), predictor(film).to_dict())
        told = json.loads(timeline(film, predictor).to_json())
        same(httpx.post(f"{url}/timeline", content=film, headers=said).json(), told)
        assert "answers only" in error_of(httpx.post(f"{url}/embed", content=film, headers=said), 422)
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=PATIENCE) == ("False 0\n", "")


def test_a_signal_lets_what_runs_end_and_nothing_in(exported: Path, folder: Path) -> None:
    film = (folder / "h264.mp4").read_bytes()
    with process("--checkpoint", exported) as (running, port):
        assert httpx.get(f"http://127.0.0.1:{port}/docs").status_code == 404  # what it would show lies elsewhere
        url = f"http://127.0.0.1:{port}"
        with half_sent(port, film[:-4]) as sent:
            wait_until(lambda: "uniformer_running 1.0" in httpx.get(f"{url}/metrics").text)
            running.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{url}/healthz").status_code == 503)
            assert "stopping" in error_of(httpx.post(f"{url}/predict", content=film), 503)
            sent.sendall(film[-4:])
            answer = received_from(sent)
            assert answer.startswith("HTTP/1.1 200 ")
            assert '"labels"' in answer
        assert running.communicate(timeout=PATIENCE) == ("", "")
        assert running.returncode == 0


def test_a_second_signal_ends_it_at_once(exported: Path) -> None:
    with process("--checkpoint", exported) as (running, port), half_sent(port):
        wait_until(lambda: "uniformer_running 1.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 503)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == -signal.SIGTERM


def test_what_a_kill_leaves_goes_at_the_next_start(exported: Path, tmp_path: Path) -> None:
    env, data = {"TMPDIR": str(tmp_path)}, bytes(3 << 20)
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data
    with (
        process("--checkpoint", exported, **env) as (killed, port),
        half_sent(port, data),
        half_sent(port, form, kind="multipart/form-data; boundary=x"),
    ):  # its folder, and a file of each
        wait_until(lambda: len([file for file in open_files(killed.pid) if f"{tmp_path}/." in file]) == 3)
        killed.kill()
        killed.wait()
    assert len(list(tmp_path.iterdir())) == 1  # and where the system knows files without a name, it is empty
    with process("--checkpoint", exported, **env) as (running, _):
        assert len(list(tmp_path.iterdir())) == 1
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []


def open_files(pid: int) -> list[str]:
    found = []
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(name))
    return found
