"""Publishing over xet, which huggingface_hub takes unasked where it is installed, and reading back over it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.push_client import Client
from tests.tiny import CLIPS, IMAGES, same, save_tiny
from tests.upload_server import Hub, serve
from uniformer.checkpoints.load import load_model

for package in ("hf_xet", "pyarrow"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Iterator[Client]:
    client = Client(hub.url, tmp_path / "home", tmp_path / "log.txt", tmp_path / "temporary", xet=True)
    yield client
    client.close()


def test_what_is_pushed_comes_back_to_the_same_bits(hub: Hub, client: Client, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", CLIPS)
    client("push", path, "me/model")
    assert (hub.count("POST /v1/shards"), hub.count("/lfs/")) == (1, 0)
    client("convert", "me/model", tmp_path / "again.safetensors")
    assert hub.count("GET /v1/reconstructions/") == 1
    again, first = load_model(tmp_path / "again.safetensors"), load_model(path)
    assert same(again[0].state_dict(), first[0].state_dict())
    assert again[1] == first[1]


@pytest.mark.parametrize(("where", "status"), [("/v1/xorbs/", 403), ("/v1/shards", 500), ("/xet-write-token/", 401)])
def test_what_the_store_does_not_take_is_one_line(
    hub: Hub, client: Client, tmp_path: Path, where: str, status: int
) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    hub.fail = {where: status}
    said = client("push", path, "me/model", status=2)
    assert said.startswith("uniformer: cannot push to me/model: ")
    assert f"{status} " in said
    assert "HF_HUB_DISABLE_XET=1 uploads without xet" in said
    assert list(hub.repos["me/model"].files("main") or {}) == [".gitattributes"]
    hub.fail = {}
    client("push", path, "me/model")  # it goes on
    assert "model.safetensors" in (hub.repos["me/model"].files("main") or {})
