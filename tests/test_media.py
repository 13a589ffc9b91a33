"""Bytes, file objects and addresses give the pixels that the path gives, and every failure is one line."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import uniformer
from tests import odd_media
from tests.command_line import Cli
from tests.media_server import MediaServer, serve
from tests.odd_media import Maker
from tests.test_video import by_name, some_numbers
from tests.tiny import refused
from uniformer.inference.predictor import Predictor
from uniformer.reading.paths import expand
from uniformer.reading.pictures import is_image, open_image
from uniformer.reading.sources import download
from uniformer.reading.video import open_video, probe
from uniformer.tasks.classification import Prediction
from uniformer.tasks.task import Failure


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server(media: Path) -> Iterator[MediaServer]:
    clip, photo = (media / "videos/h264.mp4").read_bytes(), (media / "photos/img_1.png").read_bytes()
    with serve({"clip.mp4": clip, "watch": clip, "photo.png": photo, "%C3%A9t%C3%A9.png": photo}) as loopback:
        yield loopback


@pytest.fixture(scope="module")
def clips(media: Path) -> Predictor:
    return Predictor(media / "clips.safetensors")


@pytest.fixture(scope="module")
def images(media: Path) -> Predictor:
    return Predictor(media / "images.safetensors")


def pipe(path: Path, stack: ExitStack) -> Any:
    """The end of a pipe: it can neither be sought nor does it tell its length."""
    return stack.enter_context(subprocess.Popen(["cat", path], stdout=subprocess.PIPE)).stdout


def zipped(path: Path, stack: ExitStack) -> Any:
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as out:
        out.write(path, "inside")
    return stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open("inside"))


def temporary(path: Path, stack: ExitStack) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    stack.callback(file.close)
    file.write(path.read_bytes())  # and stands at its end
    return file


class OnlyReads:
    """A file object with nothing but `read`, as some storage clients give."""

    def __init__(self, path: Path):
        self.read = io.BytesIO(path.read_bytes()).read


FORMS: dict[str, Callable[[Path, ExitStack], Any]] = {
    "bytes": lambda path, _: path.read_bytes(),
    "bytearray": lambda path, _: bytearray(path.read_bytes()),
    "memoryview": lambda path, _: memoryview(path.read_bytes()),
    "BytesIO": lambda path, _: io.BytesIO(path.read_bytes()),
    "open file": lambda path, stack: stack.enter_context(path.open("rb")),
    "unbuffered file": lambda path, stack: stack.enter_context(path.open("rb", buffering=0)),
    "temporary file": temporary,
    "pipe": pipe,
    "zip": zipped,
    "gzip": lambda path, _: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(path.read_bytes()))),
    "only reads": lambda path, _: OnlyReads(path),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_answer_of_the_path(form: str, media: Path, clips: Predictor, images: Predictor) -> None:
    for predictor, path in ((clips, media / "videos/h264.mp4"), (images, media / "photos/img_1.png")):
        want = predictor(path)
        with ExitStack() as stack:
            got = predictor(FORMS[form](path, stack))
        np.testing.assert_array_equal(got.probabilities, want.probabilities)
        assert (got.frames, got.seconds, got.num_frames, got.fps) == (
            want.frames, want.seconds, want.num_frames, want.fps)  # fmt: skip


@by_name(odd_media.GOOD)
def test_every_container_in_memory(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    with open_video(path) as from_path, open_video(path.read_bytes()) as from_memory:
        assert (from_memory.info.num_frames, from_memory.info.fps) == (from_path.info.num_frames, from_path.info.fps)
        numbers = some_numbers(from_path.info.num_frames, 0)
        for _ in range(2):
            np.testing.assert_array_equal(from_memory.read(numbers), from_path.read(numbers))


@pytest.mark.parametrize("make", [odd_media.truncated, odd_media.broken_middle], ids=lambda make: make.__name__)
def test_damaged_videos_in_memory(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path)
    frames = []
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with warnings.catch_warnings(), open_video(source) as reader:
            warnings.simplefilter("ignore")
            frames.append(reader.read(range(reader.info.num_frames)))
            assert "frames are readable" in reader.warnings[0]
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], frames[2])


def test_a_callers_file_stays_open_and_ours_are_closed(media: Path, clips: Predictor, images: Predictor) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for predictor, path in ((clips, media / "videos/h264.mp4"), (images, media / "photos/img_1.png")):
        with path.open("rb") as file:
            file.seek(100)
            first, second = predictor(file), predictor(file)
            assert not file.closed
        np.testing.assert_array_equal(first.probabilities, second.probabilities)
        with ExitStack() as stack:
            stream = pipe(path, stack)
            predictor(stream)
            assert not stream.closed
    broken = (media / "broken.mp4").read_bytes()
    for predictor in (clips, images):
        for source in (broken, OnlyReads(media / "broken.mp4")):
            with refused("does not open as one"):
                predictor(source)
    assert open_files() == before


def test_torchcodec_takes_them_too_or_says_that_it_is_missing(media: Path) -> None:
    data = (media / "videos/h264.mp4").read_bytes()
    if importlib.util.find_spec("torchcodec") is None:
        with refused(r"uniformer\[torchcodec\]"):
            open_video(data, backend="torchcodec")
        return
    for source in (data, io.BytesIO(data)):
        with open_video(data) as plain, open_video(source, backend="torchcodec") as reader:
            assert np.array_equal(reader.read([0, 30, 59]), plain.read([0, 30, 59]))


def test_names_in_results_and_messages(media: Path, clips: Predictor) -> None:
    path = media / "videos/h264.mp4"
    assert clips(path.read_bytes()).source == "bytes"
    assert clips(io.BytesIO(path.read_bytes())).source == "BytesIO"
    with path.open("rb") as file:
        assert clips(file).source == str(path)
        assert probe(file).path == str(path)
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as file:
        assert clips(file).source == "BufferedReader"


def test_sources_of_every_kind_in_one_run(media: Path, clips: Predictor, server: MediaServer) -> None:
    path = media / "videos/h264.mp4"
    sources: list[Any] = [path, path.read_bytes(), b"", f"{server.url}/clip.mp4", f"{server.url}/gone"]
    results = list(clips.run(sources))
    assert [type(result) for result in results] == [Prediction, Prediction, Failure, Prediction, Failure]
    assert [result.source for result in results] == [str(path), "bytes", "bytes", *sources[3:]]


# ---- by content ------------------------------------------------------------------------------------------------------


def test_images_and_videos_are_told_apart_by_content(media: Path, clips: Predictor, images: Predictor) -> None:
    photo, clip = (media / "photos/img_1.png").read_bytes(), (media / "videos/h264.mp4").read_bytes()
    with refused("^bytes: expected a video for a network of clips, found an image$"):
        clips(photo)
    with refused("^bytes: expected an image, found a file that does not open as one: not a format that is read$"):
        images(clip)
    assert (is_image(photo), is_image(clip)) == (True, False)


@pytest.mark.parametrize("kind", ["bmp", "jpeg", "png", "ppm", "tiff", "webp"])
def test_every_format_of_pictures_is_known_by_its_start(kind: str) -> None:
    Image.fromarray(odd_media.picture(1)).save(file := io.BytesIO(), kind)
    file.seek(7)
    assert is_image(file)
    assert file.tell() == 7
    assert is_image(file.getvalue())
    assert open_image(file.getvalue()).size == (128, 96)
    with refused("found an image"):
        open_video(file)


def test_an_animated_gif_is_a_video(media: Path, clips: Predictor, images: Predictor) -> None:
    gif = next((media / "videos/inside").iterdir()).read_bytes()
    assert not is_image(gif)
    assert clips(gif).num_frames == 60
    with refused("does not open as one"):
        images(gif)


def test_what_cannot_be_looked_into_counts_as_a_clip(media: Path) -> None:
    photo = media / "photos/img_1.png"
    with ExitStack() as stack:
        assert is_image(pipe(photo, stack))  # the end of a pipe can be peeked at
    assert not is_image(OnlyReads(photo))
    assert is_image("https://example.org/a.JPG?width=300")
    assert not is_image("https://example.org/watch?v=a.jpg")
    assert not is_image("https://example.org/a.mp4")


def test_frames_of_a_list_may_be_encoded(media: Path, clips: Predictor, server: MediaServer) -> None:
    paths = sorted((media / "frames").iterdir())
    want = clips(paths)
    for frames in ([path.read_bytes() for path in paths], [io.BytesIO(path.read_bytes()) for path in paths]):
        np.testing.assert_array_equal(clips(frames).probabilities, want.probabilities)
    assert clips([f"{server.url}/photo.png"] * 5).num_frames == 5


def test_frames_of_16_bits_lose_their_low_byte(tmp_path: Path) -> None:
    """They came out nearly white, where a single picture did not."""
    Image.fromarray(np.full((64, 64), 0x80FF, np.uint16)).save(tmp_path / "1.png")
    with open_video(tmp_path) as reader:
        assert np.unique(reader.read([0])).tolist() == [0x80]


# ---- what is refused -------------------------------------------------------------------------------------------------


class Raises(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise OSError(5, "Input/output error")


def closed(path: Path) -> Any:
    with path.open("rb") as file:
        return file


class GivesText:
    def read(self, count: int = -1) -> str:
        return "text"


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no bytes": (lambda _: b"", "^bytes: expected .*, found no bytes"),
    "an empty file": (lambda _: io.BytesIO(), "^BytesIO: expected .*, found no bytes"),
    "an empty stream": (lambda path: OnlyReads(Path(os.devnull)), "OnlyReads: expected .*, found no bytes"),
    "a closed file": (closed, "cannot read: i/o operation on closed file"),
    "a file of text": (lambda path: path.open(encoding="latin-1"), r"open for reading bytes \('rb'\)"),
    "text in memory": (lambda _: io.StringIO("x"), "StringIO: expected a file that is open for reading bytes"),
    "a file to write to": (lambda path: path.with_suffix(".new").open("wb"), "open for reading bytes"),
    "a disk that fails": (lambda _: Raises(), "Raises: cannot read: input/output error"),
    "a stream of text": (lambda _: GivesText(), "GivesText: expected a file that gives bytes, got str"),
    "noise": (lambda _: bytes(range(256)) * 9, "^bytes: expected .*, found a file that does not open as one"),
    "another scheme": (lambda _: "ftp://127.0.0.1/a.mp4", "^ftp://127.0.0.1/a.mp4: expected a path or an http"),
    "a local address": (lambda path: f"file://{path}", "expected a path or an http"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources(case: str, tmp_path: Path, clips: Predictor, images: Predictor) -> None:
    make, pattern = BAD[case]
    (tmp_path / "file").write_bytes(b"some bytes")
    for predictor in (clips, images):
        source = make(tmp_path / "file")
        with refused(pattern):
            predictor(source)
        if isinstance(source, io.IOBase) and not isinstance(source, Raises):
            source.close()


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_an_address_gives_the_answer_of_the_path(
    media: Path, clips: Predictor, images: Predictor, server: MediaServer
) -> None:
    for predictor, path, names in (
        (clips, media / "videos/h264.mp4", ("clip.mp4", "watch", "watch?v=1&x=*[a]", "moved")),
        (images, media / "photos/img_1.png", ("photo.png", "photo.png?width=100", "été.png", "%C3%A9t%C3%A9.png")),
    ):
        want = predictor(path).probabilities
        for name in names:
            result = predictor(f"{server.url}/{name}")
            np.testing.assert_array_equal(result.probabilities, want)
            assert result.source == f"{server.url}/{name}"
    assert uniformer.predict(f"{server.url}/clip.mp4", media / "clips.safetensors").num_frames == 60
    with refused("/photo.png: expected a video for a network of clips, found an image"):
        clips(f"{server.url}/photo.png")


FAULTS = {
    "gone": "the server answers 410",
    "missing": "the server answers 404: Not Found",
    "broken": "the server answers 500",
    "page": r"the server sends a web page \(text/html\)",
    "empty": "found no bytes",
    "circle": "the server redirects in a circle, or too often",
    "to_ftp": "the server redirects to ftp://127.0.0.1/clip.mp4, which is not followed",
    "to_file": "the server redirects to file:///etc/hostname, which is not followed",
    "huge": r"expected at most 2 GB, the server sends 1e\+03 GB",
    "cut": "cut off, 0.6 MB of 1 MB are missing",
    "cut_chunks": "cut off before its end",
    "no_http": "cannot be fetched: 220 mail.example.org esmtp",
    "hang_up": "cannot be fetched: remote end closed connection",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails(fault: str, server: MediaServer, clips: Predictor, images: Predictor) -> None:
    for predictor in (clips, images):
        with refused(f"(?i)^{server.url}/{fault}: .*{FAULTS[fault]}"):
            predictor(f"{server.url}/{fault}")


@pytest.mark.parametrize("fault", ["silent", "stall", "trickle"])
def test_a_slow_server(fault: str, server: MediaServer) -> None:
    with refused(f"^{server.url}/{fault}: the server is too slow: expected its answer, and then 64 KiB, in 0.5 s"):
        download(f"{server.url}/{fault}", timeout=0.5)


def test_a_server_that_sends_too_much(server: MediaServer) -> None:
    with refused("/endless: expected at most 1 MB, there is more"):
        download(f"{server.url}/endless", max_bytes=10**6)
    with refused("/clip.mp4: expected at most 0.01 MB, the server sends 0"):
        download(f"{server.url}/clip.mp4", max_bytes=10**4)
    with download(f"{server.url}/clip.mp4", max_bytes=10**6) as file:
        assert probe(file).num_frames == 60
    assert file.closed


def test_no_server() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        with refused(r"^http://127.0.0.1:\d+/a.mp4: cannot be fetched: connection refused"):
            download(f"http://127.0.0.1:{held.getsockname()[1]}/a.mp4")
    with refused("^https://name.invalid/a.mp4: cannot be fetched: "):
        download("https://name.invalid/a.mp4")
    for url in ("http://", "http:///a.mp4", "http://127.0.0.1:port/a.mp4", "http://[::1/a.mp4"):
        with refused("cannot be fetched: "):
            download(url)


def test_a_server_without_a_certificate_is_not_trusted(server: MediaServer) -> None:
    with refused("^https://.*: cannot be fetched: "):
        download(server.url.replace("http://", "https://") + "/clip.mp4")


def test_no_temporary_file_is_left(server: MediaServer, tmp_path: Path) -> None:
    """Also of a process that is killed, as it has no name."""
    script = (
        "import os, signal, sys; from uniformer.reading.sources import download\n"
        "file = download(sys.argv[1]); assert file.read(4)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, f"{server.url}/clip.mp4"], env=env, check=False)
    assert "/clip.mp4" in server.asked[-1]
    assert not list(tmp_path.iterdir())


# ---- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_takes_addresses(cli: Cli, media: Path, server: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{server.url}/clip.mp4\n{media / 'videos/h264.mp4'}\n")
    addresses = [f"{server.url}/watch?v=1&x=*", f"{server.url}/gone"]
    assert list(expand([*addresses, str(tmp_path / "list.txt")], clips=True)) == [
        *addresses, f"{server.url}/clip.mp4", str(media / "videos/h264.mp4")]  # fmt: skip
    ended = cli("predict", *addresses, tmp_path / "list.txt", "--checkpoint", media / "clips.safetensors",
                "--format", "csv")  # fmt: skip
    assert ended.status == 1
    assert f"{server.url}/gone: expected an image or a video, the server answers 410" in ended.err
    assert {row["source"] for row in csv.DictReader(ended.out.splitlines())} >= {addresses[0], f"{server.url}/clip.mp4"}


def test_what_is_made_of_an_address_has_the_files_name(
    cli: Cli, media: Path, server: MediaServer, tmp_path: Path
) -> None:
    """And not what is asked of the server, which may be secret."""
    asked, net = f"{server.url}/clip.mp4?key=a/b.c&x=1.5#t", ("--checkpoint", media / "clips.safetensors", "--quiet")
    for command in (
        ("predict", asked, asked[:-2], "--draw", tmp_path / "drawn", "--show-sampling", tmp_path / "fed"),
        ("demo", asked, asked[:-2], "--out", tmp_path / "report"),
        ("explain", asked, "--out", tmp_path / "why"),
    ):
        assert cli(*command, *net).status == 0
    made = {path.name for path in tmp_path.glob("*/*")}
    assert made == {
        "clip.mp4", "clip.2.mp4", "clip.mp4.sampling.png", "clip.mp4.2.sampling.png", "clip.mp4.2",
        "clip.explained.png", "clip.explained.npz", "clip.explained.mp4",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_an_address_that_is_none_is_one_line(command: str, cli: Cli, media: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out") if command == "explain" else ()
    ended = cli(command, "http://[::1/a.jpg", media / "photos", "--checkpoint", media / "images.safetensors", *out)
    assert ended.status == 1
    assert "http://[::1/a.jpg: cannot be fetched: invalid ipv6 url" in ended.err


def test_a_name_that_is_too_long_costs_the_others_nothing(cli: Cli, media: Path, tmp_path: Path) -> None:
    """The file has the longest name there is, so what is made of it has none."""
    film, net = tmp_path / f"{'l' * 250}.mp4", ("--checkpoint", media / "clips.safetensors")
    film.write_bytes((media / "videos/h264.mp4").read_bytes())
    for option in ("--draw", "--show-sampling"):
        ended = cli("predict", film, media / "videos/h264.mp4", *net, option, tmp_path / option)
        assert ended.status == 1
        assert ended.err.count("File name too long") == 1
        assert [path.name[:8] for path in (tmp_path / option).iterdir()] == ["h264.mp4"]
