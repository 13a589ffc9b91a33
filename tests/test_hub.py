"""Fetching, against a server on loopback, in processes of their own: huggingface_hub reads its settings at import."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, certificate, serve
from tests.patience import PATIENCE

WEIGHTS = bytes(range(256)) * 64
BIG = os.urandom(1 << 20) * 24  # more than the 10 MiB that huggingface_hub writes at a time
ON_HUB = "uniformer_small.k400_16x8"  # Sense-X/uniformer_video, no md5
ON_HUB_KEY = "Sense-X/uniformer_video/uniformer_small_k400_16x8.pth"
ON_DRIVE = "uniformer_small.k400_16x4"
WITH_MD5 = "uniformer_small.in1k"
UNRELEASED = "uniformer_small.k400_32x4"

CHILD = """
import sys
from dataclasses import replace
from uniformer.errors import InputError
from uniformer.checkpoints.fetch import fetch, fetch_repo
from uniformer.checkpoints.records import get_checkpoint, published_at
if any("resolve(" in text or "_record_of(" in text for text in sys.argv[1:]):  # with torch, which fetching spares
    from uniformer.checkpoints.identify import _record_of, resolve
status = 0
for text in sys.argv[1:]:
    try:
        print(eval(text))
    except InputError as error:
        print(f"{type(error).__name__}: {error}")
        status = 3
sys.exit(status)
"""


def start(*expressions: str, home: Path, url: str = "http://127.0.0.1:9", **env: str) -> subprocess.Popen[str]:
    settings = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    for key in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "UNIFORMER_CHECKPOINTS"):
        settings.pop(key, None)
    settings |= {"HF_HOME": str(home), "HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    settings |= {"HF_HUB_ETAG_TIMEOUT": str(PATIENCE), "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE), **env}
    command = [sys.executable, "-c", CHILD, *expressions]
    return subprocess.Popen(command, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(child: subprocess.Popen[str], code: int) -> tuple[str, str]:
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == code, err
    return out.strip(), err


def run(expression: str, home: Path, url: str = "http://127.0.0.1:9", *, code: int = 0, **env: str) -> tuple[str, str]:
    return ended(start(expression, home=home, url=url, **env), code)


def run_all(*expressions: str, home: Path, code: int = 0, **env: str) -> tuple[list[str], str]:
    """One after the other in one process: a line of each, and what was said besides."""
    out, err = ended(start(*expressions, home=home, **env), code)
    lines = out.splitlines()
    assert len(lines) == len(expressions), out
    return lines, err


def fetched(id: str, **options: object) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"fetch(get_checkpoint({id!r}){arguments})"


def one_line(out: str, err: str) -> str:
    """The message of an InputError, which must be one line and come without a traceback."""
    assert out.startswith(("InputError: ", "NotFetched: "))  # the second is a kind of the first
    assert "\n" not in out
    assert "Traceback" not in err
    return out


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_downloads_once(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        path, err = run(fetched(ON_HUB, progress=False), tmp_path, hub.url)
        assert Path(path).read_bytes() == WEIGHTS
        assert Path(path).is_relative_to(tmp_path)
        assert err == ""
        assert len(hub.downloads()) == 1
        hub.requests.clear()
        again, _ = run(fetched(ON_HUB), tmp_path, hub.url)
        assert again == path
        assert hub.requests == []  # published weights do not change: nothing is asked


def test_cache_dir_takes_the_place_of_the_hub_cache(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        path, _ = run(fetched(ON_HUB, cache_dir=str(tmp_path / "here")), tmp_path / "home", hub.url)
    assert Path(path).is_relative_to(tmp_path / "here")


def test_a_broken_download_resumes(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: BIG}) as hub:
        hub.drop_once_after = len(BIG) // 2
        path, _ = run(fetched(ON_HUB), tmp_path, hub.url)
        assert Path(path).read_bytes() == BIG
        first, second = hub.downloads()
        assert first.range is None
        assert second.range is not None
        assert second.range.startswith("bytes=")
        assert int(second.range[6:].rstrip("-")) > 0


def test_two_processes_download_once(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: BIG}) as hub:
        hub.hold_until_heads = 4  # each process asks twice before it downloads
        children = [start(fetched(ON_HUB), home=tmp_path, url=hub.url) for _ in range(2)]
        paths = {ended(child, 0)[0] for child in children}
        assert len(hub.downloads()) == 1
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == BIG


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        hub.status, hub.status_times = 503, 2
        path, _ = run(fetched(ON_HUB), tmp_path, hub.url)
    assert Path(path).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "hf auth login"), (403, "answered 403")], ids=["unauthorized", "forbidden"]
)
def test_refused(tmp_path: Path, status: int, reason: str) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        hub.status = status
        record = f"replace(get_checkpoint({ON_HUB!r}), file=replace(get_checkpoint({ON_HUB!r}).file, drive_id=''))"
        line = one_line(*run(f"fetch({record})", tmp_path, hub.url, code=3))
    assert reason in line
    assert "uniformer_small_k400_16x8.pth" in line


def test_a_file_the_hub_lacks(tmp_path: Path) -> None:
    record = f"replace(get_checkpoint({ON_HUB!r}), file=replace(get_checkpoint({ON_HUB!r}).file, drive_id=''))"
    with serve({"Sense-X/uniformer_video/other.pth": WEIGHTS}) as hub:
        line = one_line(*run(f"fetch({record})", tmp_path, hub.url, code=3))
    assert "no such file" in line


def test_no_network_says_what_is_missing_why_and_where_to_put_it(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # never listens: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = one_line(*run(fetched(ON_HUB), tmp_path, url, code=3))
    for part in (ON_HUB, "uniformer_small_k400_16x8.pth", f"cannot reach {url}", "drive.google.com/file/d/174muWZJ"):
        assert part in line
    place = line.split(" as ")[1].split(" to use it")[0]
    Path(place).parent.mkdir(parents=True)
    Path(place).write_bytes(WEIGHTS)
    assert run(fetched(ON_HUB), tmp_path)[0] == place


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize("id", [ON_HUB, ON_DRIVE])
def test_offline(tmp_path: Path, id: str, how: str) -> None:
    env = {"HF_HUB_OFFLINE": "1"} if how == "environment" else {}
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        expression = fetched(id, offline=True) if how == "argument" else fetched(id)
        line = one_line(*run(expression, tmp_path, hub.url, code=3, **env))
        assert hub.requests == []
    assert "offline" in line


def test_offline_takes_the_cached_copy(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        path, _ = run(fetched(ON_HUB), tmp_path, hub.url)
    assert run(fetched(ON_HUB), tmp_path, HF_HUB_OFFLINE="1")[0] == path


# ---- placed by hand, checksums ---------------------------------------------------------------------------------------


def test_a_folder_of_files_placed_by_hand(tmp_path: Path) -> None:
    placed = tmp_path / "weights" / "uniformer_small_k400_16x4.pth"
    placed.parent.mkdir()
    placed.write_bytes(WEIGHTS)
    path, _ = run(fetched(ON_DRIVE), tmp_path / "home", UNIFORMER_CHECKPOINTS=str(placed.parent))
    assert path == str(placed)


def test_checksums(tmp_path: Path) -> None:
    placed = tmp_path / "uniformer" / "uniformer_small_in1k.pth"
    placed.parent.mkdir()
    placed.write_bytes(WEIGHTS)
    path, err = run(fetched(WITH_MD5), tmp_path)
    assert path == str(placed)
    assert "expected md5 f122ab0dde94b1d73ac00d2c5359a610" in err  # nobody verified it, so only a warning

    known = f"(lambda r, **k: replace(r, file=replace(r.file, md5_verified=True, **k)))(get_checkpoint({WITH_MD5!r})"
    right = f"fetch({known}, md5={hashlib.md5(WEIGHTS).hexdigest()!r}))"
    (line, path), err = run_all(f"fetch({known}))", right, home=tmp_path, code=3)
    assert f"got {hashlib.md5(WEIGHTS).hexdigest()}" in one_line(line, err)
    assert path == str(placed)
    assert err == ""


def test_weights_never_published(tmp_path: Path) -> None:
    line = one_line(*run(fetched(UNRELEASED), tmp_path, code=3))
    assert UNRELEASED in line
    assert "were not" in line


# ---- repositories and folders in our own form ------------------------------------------------------------------------


def test_fetch_repo(tmp_path: Path) -> None:
    with serve({"someone/model/config.json": b"{}", "someone/model/model.safetensors": WEIGHTS}) as hub:
        folder, _ = run("fetch_repo('someone/model')", tmp_path, hub.url)
    assert Path(folder).name == COMMIT
    assert (Path(folder) / "config.json").read_bytes() == b"{}"
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    again = ("fetch_repo('someone/model')", f"fetch_repo({folder!r})")
    assert run_all(*again, home=tmp_path)[0] == [folder, folder]  # no network: the last copy serves


def test_fetch_repo_refuses(tmp_path: Path) -> None:
    reasons = {
        "someone/half": ("model.safetensors", "no such file"),
        "nobody/none": ("no such repository",),
        "./not/a/folder": ("expected a folder or a hub repository",),
        str(tmp_path): ("found no config.json and no model.safetensors",),
    }
    with serve({"someone/half/config.json": b"{}"}) as hub:
        asked = (f"fetch_repo({source!r})" for source in reasons)
        lines, err = run_all(*asked, home=tmp_path / "home", url=hub.url, code=3)
    for line, (source, parts) in zip(lines, reasons.items(), strict=True):
        for part in (source, *parts):
            assert part in one_line(line, err)


def test_a_file_in_the_authors_repositories_is_a_checkpoint_by_its_address(tmp_path: Path) -> None:
    unknown = ("Sense-X/uniformer_video", "Sense-X/uniformer_video/uniformer_small_k400_16x80.pth")
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        path, _ = run(f"resolve({ON_HUB_KEY!r})", tmp_path, hub.url)
        assert Path(path).read_bytes() == WEIGHTS
        hub.requests.clear()
        asked = (f"resolve({name!r})" for name in unknown)
        others = "published_at('someone/model'), published_at('./a.pth')"
        (*lines, records), err = run_all(*asked, others, home=tmp_path, url=hub.url, code=3)
        assert hub.requests == []
    for line in lines:
        assert "expected one of the files that records name there: " in one_line(line, err)
        assert ON_HUB_KEY in line
    assert records == "(None, None)"
    assert run(f"_record_of({ON_HUB_KEY!r}).id", tmp_path)[0] == ON_HUB


def test_a_commit_of_a_repository_is_named_behind_it(tmp_path: Path) -> None:
    """What lies in the cache, or was placed by hand, is of a commit that nobody knows."""
    old, repo = "f" * 40, ON_HUB_KEY.rpartition("/")[0]
    files = {ON_HUB_KEY: WEIGHTS, f"{repo}@{old}/{Path(ON_HUB_KEY).name}": WEIGHTS[::-1]}
    files |= {f"someone/model@{old}/{name}": b"{}" for name in ("config.json", "model.safetensors")}
    placed = tmp_path / "placed"
    placed.mkdir()
    (placed / Path(ON_HUB_KEY).name).write_bytes(b"by hand")
    pinned = f"{ON_HUB_KEY}@{old}"
    with serve(files) as hub:
        where = {"UNIFORMER_CHECKPOINTS": str(placed)}
        assert Path(run(f"resolve({ON_HUB_KEY!r})", tmp_path, hub.url)[0]).read_bytes() == WEIGHTS
        names = (pinned, f"someone/model@{old}", f"{ON_HUB_KEY}@v2", "someone/model@v2")
        asked = (f"resolve({name!r})" for name in names)
        (path, folder, *lines), err = run_all(*asked, home=tmp_path, url=hub.url, code=3, **where)
    assert (Path(path).parent.name, Path(path).read_bytes()) == (old, WEIGHTS[::-1])
    assert Path(folder).name == old
    for line in lines:
        assert "@v2" in one_line(line, err)
        assert "the repository has no such revision" in line
    again, record = f"resolve({pinned!r})", f"_record_of({pinned!r}).id"
    assert run_all(again, record, home=tmp_path, **where)[0] == [path, ON_HUB]  # no network is needed for it again


def test_what_arrives_is_what_the_hub_says_it_has(tmp_path: Path) -> None:
    with serve({ON_HUB_KEY: WEIGHTS}) as hub:
        hub.sums[ON_HUB_KEY] = "e" * 64
        line = one_line(*run(fetched(ON_HUB, progress=False), tmp_path, hub.url, code=3))
        assert f"expected SHA-256 {'e' * 64}, got {hashlib.sha256(WEIGHTS).hexdigest()}" in line
        hub.sums[ON_HUB_KEY] = hashlib.sha256(WEIGHTS).hexdigest()
        path, _ = run(fetched(ON_HUB, progress=False), tmp_path, hub.url)  # nothing of the other stayed
        assert Path(path).resolve().name == hub.sums[ON_HUB_KEY]


# ---- Google Drive ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    pytest.importorskip("gdown")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    return certificate(tmp_path_factory.mktemp("tls"))


def drive_env(url: str, cert: Path) -> dict[str, str]:
    return {"HTTPS_PROXY": url, "REQUESTS_CA_BUNDLE": str(cert), "NO_PROXY": ""}


def test_drive(tmp_path: Path, tls) -> None:  # type: ignore[no-untyped-def]
    context, cert = tls
    with serve({"1-jGZIIuTM5IYIpqkNTojhGhfMc7Gu9Kt": BIG}, context) as drive:
        drive.drop_once_after = len(BIG) // 2
        path, err = run(fetched(ON_DRIVE, progress=False), tmp_path, **drive_env(drive.url, cert))
        assert path == str(tmp_path / "uniformer" / "uniformer_small_k400_16x4.pth")
        assert Path(path).read_bytes() == BIG
        assert err == ""
        resumed = drive.downloads()[-1].range
        assert resumed is not None
        assert int(resumed.removeprefix("bytes=").rstrip("-")) > 0
        drive.requests.clear()
        assert run(fetched(ON_DRIVE), tmp_path, **drive_env(drive.url, cert))[0] == path
        assert drive.requests == []


def test_drive_serves_what_the_hub_lacks(tmp_path: Path, tls) -> None:  # type: ignore[no-untyped-def]
    context, cert = tls
    with serve({}) as hub, serve({"174muWZJcZHieABDZMKiJ0tNeFLoEkJLx": WEIGHTS}, context) as drive:
        path, err = run(fetched(ON_HUB), tmp_path, hub.url, **{**drive_env(drive.url, cert), "NO_PROXY": "127.0.0.1"})
    assert Path(path).read_bytes() == WEIGHTS
    assert "trying Google Drive" in err


def test_drive_without_a_network_is_one_line(tmp_path: Path, tls) -> None:  # type: ignore[no-untyped-def]
    """With a progress bar asked for, too."""
    out, err = run(fetched(ON_DRIVE), tmp_path, code=3, **drive_env("http://127.0.0.1:9", tls[1]))
    assert err == ""
    line = one_line(out, err)
    assert "uniformer_small.k400_16x4: Google Drive: " in line
    assert "Connection refused" in line
    assert "Max retries" not in line
    assert str(tmp_path / "uniformer" / "uniformer_small_k400_16x4.pth") in line


def test_drive_without_the_file(tmp_path: Path, tls) -> None:  # type: ignore[no-untyped-def]
    context, cert = tls
    with serve({}, context) as drive:
        line = one_line(*run(fetched(ON_DRIVE), tmp_path, code=3, **drive_env(drive.url, cert)))
    assert "Google Drive" in line
    assert str(tmp_path / "uniformer" / "uniformer_small_k400_16x4.pth") in line
