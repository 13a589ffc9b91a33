"""The example page: an exported network on a video in a real browser, by ONNX Runtime's WebAssembly."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import uniformer
from tests.patience import PATIENCE, wait_until
from tests.test_export_targets import needs
from tests.tiny import CLIPS, save_tiny, tiny_model
from tests.tolerance import assert_close, terms_of
from uniformer.checkpoints.records import BUNDLED
from uniformer.cli.main import main
from uniformer.config import InputSpec
from uniformer.reading.sampling import clip_indices

PAGE = Path(__file__).parents[1] / "examples" / "browser"
RUNTIME = PAGE / "node_modules" / "onnxruntime-web"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with the page, and its address on loopback."""
    if not RUNTIME.is_dir():
        pytest.skip("needs onnxruntime-web: cd examples/browser && npm install")
    needs(".onnx")
    folder = tmp_path_factory.mktemp("site")
    for name in ("index.html", "page.js"):
        shutil.copy(PAGE / name, folder)
    (folder / "node_modules").symlink_to(PAGE / "node_modules")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def called(browser: Any, code: str, *arguments: Any) -> Any:
    """What an expression gives that may wait, and sees the page's functions as `page`."""
    script = f"""
        const [args, done] = [[...arguments].slice(0, -1), arguments[arguments.length - 1]];
        import('./page.js').then(async (page) => done({code})).catch((error) => done(String(error)));
    """
    return browser.execute_async_script(script, *arguments)


def bytes_at(name: str) -> str:
    return f"new Uint8Array(await (await fetch('{name}')).arrayBuffer())"


def photographed(path: Path, frames: int = 24) -> Path:
    """A photograph that comes nearer, at 30 frames a second."""
    with as_file(files("uniformer") / "assets" / "photos") as folder, Image.open(folder / "camera.jpg") as opened:
        photo = opened.convert("RGB")
    wide, high = photo.size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"threads": "1", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(frames):
            share = 0.1 + 0.2 * i / frames
            box = (wide * share, high * share, wide * (1 - share), high * (1 - share))
            pixels = np.asarray(photo.resize((160, 120), Image.Resampling.BICUBIC, box=box))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


def test_the_browser_computes_the_networks_logits(browser: Any, site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    checkpoint = save_tiny(tmp_path / "clips.safetensors", CLIPS)
    out = folder / "clips.onnx"
    assert main(["export", str(checkpoint), str(out), "--conv3d", "2d"]) == 0
    browser.set_script_timeout(PATIENCE)
    browser.get(address)
    view = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    view.numpy().tofile(folder / "view.bin")
    network = f"await page.openNetwork({bytes_at(out.name)})"
    floats = f"new Float32Array(({bytes_at('view.bin')}).buffer)"
    found = called(browser, f"await page.logitsOf({network}, {floats})")
    assert isinstance(found, list), found
    with torch.no_grad():
        wanted = uniformer.Predictor(checkpoint).network.model(view)  # type: ignore[union-attr]
    assert_close(np.array([found], np.float32), wanted, terms_of(tiny_model(ndim=3)))


def test_the_page_samples_as_the_package(browser: Any, site: tuple[Path, str]) -> None:
    browser.get(site[1])
    for spec in (
        InputSpec(frames=8, sampling="sparse", resize=256),
        InputSpec(frames=16, sampling="sparse", clips=3, resize=256),
        InputSpec(frames=16, sampling="dense", stride=4, clips=4, resize=256),
        InputSpec(frames=8, sampling="dense", stride=2, resize=256),
    ):
        told = {name: getattr(spec, name) for name in ("frames", "sampling", "clips", "stride")}
        for count in (1, 7, 24, 64, 299):
            found = called(browser, "page.clipIndices(...args)", told, count)
            assert found == clip_indices(spec, count).tolist()


def test_the_model_in_the_package_names_a_clip_in_the_browser(
    browser: Any, site: tuple[Path, str], tmp_path: Path
) -> None:
    """As a person does it: the page, a network, a video."""
    out, clip = tmp_path / "camera.onnx", photographed(tmp_path / "clip.mp4")
    assert main(["export", BUNDLED, str(out), "--conv3d", "2d"]) == 0
    wanted = uniformer.predict(clip, model=out).labels[0]
    browser.get(site[1])
    element = functools.partial(browser.find_element, "id")
    element("clip").send_keys(str(tmp_path / "clip.mp4"))
    element("network").send_keys(str(out))
    wait_until(lambda: element("said").text.endswith(" s") or "expected" in element("said").text)
    assert element("said").text.endswith(" s"), element("said").text
    name, share = element("labels").find_element("css selector", "li").text.split("\n")
    assert name == wanted.name
    assert abs(float(share.rstrip(" %")) / 100 - wanted.score) < 0.1  # frames are decoded and scaled by others


def test_what_is_no_network_is_said_on_the_page(browser: Any, site: tuple[Path, str], tmp_path: Path) -> None:
    browser.get(site[1])
    for content, said in (
        (b"not a network", "expected an ONNX file, found"),
        (b"\x08\x0a", "expected a file written by uniformer export"),
    ):
        (tmp_path / "a.onnx").write_bytes(content)
        browser.find_element("id", "network").send_keys(str(tmp_path / "a.onnx"))
        wait_until(lambda said=said: said in browser.find_element("id", "said").text)  # type: ignore[misc]
