"""`uniformer serve`: what it refuses; without torch; signals, and what a kill leaves."""

from __future__ import annotations

import json
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import Cli, one_line
from tests.memory import is_given_back
from tests.patience import PATIENCE, wait_until
from tests.served import error_of, get, half_sent, make_served, open_files, post, process, received_from, same
from uniformer import Predictor, timeline
from uniformer.cli.main import main
from uniformer.web.listening import reaches_others

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    pytest.importorskip("openvino")
    assert main(["export", str(folder / "clips.safetensors"), str(folder / "clips.xml")]) == 0
    return folder / "clips.xml"


def test_the_command_refuses_in_one_line(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["serve", "--checkpoint", folder / "clips.safetensors"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one_line(  # before anything is loaded, or fetched
            cli("serve", "--checkpoint", tmp_path / "none.safetensors", "--port", taken.getsockname()[1]),
            "cannot listen on 127.0.0.1", "address already in use; give another --port",
        )  # fmt: skip
        others = cli(*arguments, "--host", "0.0.0.0", "--port", taken.getsockname()[1]).err.splitlines()
        assert others[0] == "uniformer: warning: no token: all who reach 0.0.0.0 are answered"
        assert len(others) == 2
    for host, why in (("192.0.2.1", "cannot assign requested address"), ("no.such.host.invalid", "known|resolution")):
        warned, refused = cli(*arguments, "--host", host, "--port", 0).err.splitlines()
        assert warned.endswith(f"all who reach {host} are answered")
        assert re.search(rf"cannot listen on {host}, port 0: [^()]*({why})[^()]*; give another --host$", refused)
    with monkeypatch.context() as changed:
        changed.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        one_line(cli(*arguments, "--port", 0), "expected a folder for temporary files", "no such file")
    assert is_given_back()  # what does not serve leaves the process as it was
    for server in ("app", "serve"):
        one_line(cli(server, "--host", ""), "expected a host to listen at, such as 127.0.0.1, got none")
    (tmp_path / "token").write_text("two words")
    one_line(cli(*arguments, "--token-file", tmp_path / "token"), "expected a token")
    one_line(cli(*arguments, "--port", 0, "--workers", 0), "expected workers of at least 1")
    monkeypatch.setenv("UNIFORMER_TOKEN", "")
    one_line(cli(*arguments), "UNIFORMER_TOKEN: expected a token")
    monkeypatch.delenv("UNIFORMER_TOKEN")
    monkeypatch.setitem(sys.modules, "fastapi", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "uniformer.web.server")
    one_line(cli(*arguments), "pip install 'uniformer[serve]'")


FAULTS = """
import resource, sys
import numpy as np
from uniformer.support.memory import keep_memory
print(sys.argv[1] == "kept" and keep_memory())
for number in range(11):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(40 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_is_not_given_back_and_asked_for_again() -> None:
    """In a process of its own, as there is no way back."""
    said = [
        subprocess.run(
            [sys.executable, "-c", FAULTS, how], check=True, text=True, stdout=subprocess.PIPE
        ).stdout.split()
        for how in ("usual", "kept")
    ]
    (_, usual), (is_kept, kept) = said
    assert is_kept == str(platform.libc_ver()[0] == "glibc")
    assert is_kept == "False" or 5 * int(kept) < int(usual)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1", "127.0.0.9", ""])
def test_this_machine_alone(host: str) -> None:
    assert not reaches_others(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "::", "192.0.2.1", "10.127.0.1"])
def test_others_too(host: str) -> None:
    assert reaches_others(host)


# ---- a process of its own --------------------------------------------------------------------------------------------


def test_without_torch_killed_started_again_and_stopped(exported: Path, folder: Path, tmp_path: Path) -> None:
    """An exported file needs no torch; what a kill leaves goes at the next start; a signal lets what runs end, and
    nothing in. In one test, as each start takes seconds."""
    film, temporary = (folder / "h264.mp4").read_bytes(), {"TMPDIR": str(tmp_path)}
    token = folder / "token"
    token.write_text("from_a_file\n")
    arguments = ["--checkpoint", exported, "--token-file", token]
    said = {"Authorization": "Bearer from_a_file"}
    with process(*arguments, **temporary, UNIFORMER_TOKEN="from_the_environment") as (killed, port):
        url, predictor = f"http://127.0.0.1:{port}", Predictor(exported)
        other = {"Authorization": "Bearer from_the_environment"}
        error_of(post(f"{url}/predict", content=film, headers=other), 401)
        same(post(f"{url}/predict", content=film, headers=said).json(), predictor(film).to_dict())
        told = json.loads(timeline(film, predictor).to_json())
        same(post(f"{url}/timeline", content=film, headers=said).json(), told)
        assert "answers only" in error_of(post(f"{url}/embed", content=film, headers=said), 422)
        assert "libtorch" not in Path(f"/proc/{killed.pid}/maps").read_text()

        data = bytes(3 << 20)
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data
        with (
            half_sent(port, data, token="from_a_file"),
            half_sent(port, form, kind="multipart/form-data; boundary=x", token="from_a_file"),
        ):  # its folder, and a file of each
            wait_until(lambda: len([file for file in open_files(killed.pid) if f"{tmp_path}/." in file]) == 3)
            killed.kill()
            killed.wait()
    assert len(list(tmp_path.iterdir())) == 1  # and where the system knows files without a name, it is empty

    with process("--checkpoint", exported, **temporary) as (running, port):
        assert len(list(tmp_path.iterdir())) == 1
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/docs").status_code == 404  # what it would show lies elsewhere
        with half_sent(port, film[:-4]) as sent:
            wait_until(lambda: "uniformer_running 1.0" in get(f"{url}/metrics").text)
            running.send_signal(signal.SIGTERM)
            wait_until(lambda: get(f"{url}/healthz").status_code == 503)
            assert "stopping" in error_of(post(f"{url}/predict", content=film), 503)
            sent.sendall(film[-4:])
            answer = received_from(sent)
            assert answer.startswith("HTTP/1.1 200 ")
            assert '"labels"' in answer
        assert running.communicate(timeout=PATIENCE) == ("", "")
        assert running.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_it_at_once(exported: Path) -> None:
    with process("--checkpoint", exported) as (running, port), half_sent(port):
        wait_until(lambda: "uniformer_running 1.0" in get(f"http://127.0.0.1:{port}/metrics").text)
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: get(f"http://127.0.0.1:{port}/healthz").status_code == 503)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == -signal.SIGTERM
