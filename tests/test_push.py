"""Publishing on a hub, against a server on loopback, by the command line in a process of its own, which takes one
command after the other: huggingface_hub reads its settings at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dense_nets import make_nets
from tests.tiny import CLIPS, IMAGES, refused, same, save_tiny, tiny_model
from tests.upload_server import Hub, serve
from uniformer.checkpoints.card import MARK, model_card
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.hosts import PROCESSOR_NAME
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.push import from_pretrained, push, save_pretrained
from uniformer.checkpoints.save import verify

TOKEN = "hf_secretsecretsecretsecret"

CHILD = """
import contextlib, io, json, sys
from uniformer.cli.main import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


class Client:
    """A process that runs commands, and all that it has said."""

    def __init__(self, url: str, home: Path, log: Path):
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        env.pop("HF_HUB_OFFLINE", None)
        env |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.log = log
        self.stderr = log.open("w")
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr,
        )  # fmt: skip

    def __call__(self, *command: str | Path, status: int = 0) -> str:
        """What was said: by a refusal, in one line."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(list(map(str, command))) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, self.log.read_text()
        ended, out, err = json.loads(line)
        assert TOKEN not in out + err + self.log.read_text()
        assert ended == status, err
        if status:
            assert err.count("\n") == 1, err
        return err if status else out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Client]]:
    home = tmp_path_factory.mktemp("home")
    with serve() as hub:
        client = Client(hub.url, home, home / "log.txt")
        yield hub, client
        assert client.child.stdin is not None
        client.child.stdin.close()
        client.child.wait()
        client.stderr.close()


@pytest.fixture
def hub(served: tuple[Hub, Client]) -> Hub:
    hub = served[0]
    vars(hub).update(vars(Hub(url=hub.url)))  # as new
    return hub


@pytest.fixture
def client(served: tuple[Hub, Client]) -> Client:
    return served[1]


def taken(hub: Hub, repo: str, folder: Path, revision: str = "main") -> Path:
    folder.mkdir()
    for name, data in (hub.repos[repo].files(revision) or {}).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("chunk", [None, 100_000])
def test_what_is_pushed_comes_back_to_the_same_bits(
    hub: Hub, client: Client, tmp_path: Path, chunk: int | None
) -> None:
    path = save_tiny(tmp_path / "a.safetensors", CLIPS)
    hub.chunk, hub.cut = chunk, 1  # and the first upload is cut off: huggingface_hub tries again
    assert f"{hub.url}/me/model/commit/" in client("push", path, "me/model", "--private")
    assert hub.repos["me/model"].private
    folder = taken(hub, "me/model", tmp_path / "back")
    assert verify(folder)[1] == []
    assert same(load_model(folder)[0].state_dict(), load_model(path)[0].state_dict())
    assert load_model(folder)[1] == load_model(path)[1]
    client("convert", "me/model", tmp_path / "again.safetensors")  # by its name
    again = load_model(tmp_path / "again.safetensors")
    assert same(again[0].state_dict(), load_model(path)[0].state_dict())
    assert again[1] == load_model(path)[1]


def test_an_upload_that_failed_goes_on(hub: Hub, client: Client, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    hub.fail = {"/commit/": 500}
    said = client("push", path, "me/model", status=2)
    assert "answered 500: push again later" in said
    assert list(hub.repos["me/model"].files("main") or {}) == [".gitattributes"]
    hub.fail = {}
    client("push", path, "me/model")
    assert hub.count("PUT /lfs/") == 1
    assert "model.safetensors" in (hub.repos["me/model"].files("main") or {})


REFUSALS = {
    401: "hf auth login",
    403: "may not write",
    404: "no such repository",
    409: "changed meanwhile",
    413: "too large",
    502: "answered 502",
}


@pytest.mark.parametrize(
    ("where", "status"),
    [("/api/repos/create", 401), ("/api/repos/create", 403), ("/api/repos/create", 502)]  # 409: it is there already
    + [("/commit/", status) for status in REFUSALS],
)
def test_refusals_are_one_line_without_the_token(
    hub: Hub, client: Client, tmp_path: Path, where: str, status: int
) -> None:
    hub.fail = {where: status}
    said = client("push", save_tiny(tmp_path / "a.safetensors", IMAGES), "me/model", status=2)
    assert said.startswith("uniformer: cannot push to me/model: ")
    assert REFUSALS[status] in said
    assert [list(repo.files("main") or {}) for repo in hub.repos.values()] in ([], [[".gitattributes"]])


def test_what_others_committed_meanwhile_is_not_replaced(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.create("me/model")
    hub.meanwhile = True
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    assert "changed meanwhile" in client("push", path, "me/model", status=2)
    assert list(hub.repos["me/model"].files("main") or {}) == [".gitattributes"]


def test_another_network_or_page_is_replaced_by_force_only(hub: Hub, client: Client, tmp_path: Path) -> None:
    first = save_tiny(tmp_path / "a.safetensors", IMAGES)
    client("push", first, "me/model")
    client("push", save_tiny(tmp_path / "b.safetensors", IMAGES, seed=1), "me/model")  # of the same network
    there = hub.repos["me/model"].files("main")
    video = save_tiny(tmp_path / "v.safetensors", CLIPS)
    assert "of another architecture; --force replaces it" in client("push", video, "me/model", status=2)
    assert hub.repos["me/model"].files("main") == there
    client("push", video, "me/model", "--force")
    hub.create("me/bert", files={"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"})
    assert "another kind of model" in client("push", first, "me/bert", status=2)
    hub.create("me/page", files={"README.md": b"my own words"})
    assert "README.md was not written by uniformer" in client("push", first, "me/page", status=2)
    assert "it is there and public" in client("push", first, "me/page", "--private", "--force", status=2)
    assert (hub.repos["me/page"].files("main") or {})["README.md"] == b"my own words"


def test_a_branch_is_made_where_it_is_missing(hub: Hub, client: Client, tmp_path: Path) -> None:
    client("push", save_tiny(tmp_path / "a.safetensors", IMAGES), "me/model", "--revision", "v2")
    assert "model.safetensors" in (hub.repos["me/model"].files("v2") or {})
    assert "model.safetensors" not in (hub.repos["me/model"].files("main") or {})


def test_a_dry_run_writes_the_folder_and_asks_no_server(hub: Hub, client: Client, tmp_path: Path) -> None:
    path, out = save_tiny(tmp_path / "a.safetensors", IMAGES), tmp_path / "model-1.0"
    assert f"wrote {out}" in client("push", path, "me/model", "--dry-run", "--out", out)
    assert hub.requests == []
    assert {file.name for file in out.iterdir()} == {"README.md", "config.json", "model.safetensors", PROCESSOR_NAME}
    model, contract = from_pretrained(out)
    assert (contract, model.training) == (load_model(path)[1], False)
    again = client("push", path, "me/model", "--dry-run", "--out", out, status=2)
    assert "it is there already; give another name, or --force to replace it" in again
    with refused("expected a hub repository 'owner/name', got 'no name'"):
        push(path, "no name", dry_run=True)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_contract_says(tmp_path: Path) -> None:
    model = tiny_model(num_classes=2)
    contract = Contract(
        model.config, "", IMAGES, ("a|b", "line\nbreak"), "", "my *photos*", {"top1": 71.25}, "MIT",
        ("seen <b>once</b>",),
    )  # fmt: skip
    written = save_pretrained(model, tmp_path / "folder", contract, repo="me/model")
    page = (tmp_path / "folder" / "README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert (head["license"], head["pipeline_tag"], head["library_name"]) == ("mit", "image-classification", "uniformer")
    assert page == model_card(written, "me/model")
    assert written.proof is not None
    for words in ("2: a\\|b, line break", "top1: 71.25 on my \\*photos\\*", "seen \\<b\\>once\\</b\\>",
                  'model="me/model"', "--checkpoint me/model", "size: ", written.proof.sha256, MARK):  # fmt: skip
        assert words in page
    (tmp_path / "folder" / "README.md").write_text("my own words")
    with refused("it was not written by uniformer"):
        save_pretrained(model, tmp_path / "folder", contract)


def test_a_licence_that_nobody_recorded_is_not_guessed() -> None:
    page = model_card(Contract(tiny_model().config, input=IMAGES), "me/model")
    assert yaml.safe_load(page.split("---")[1])["license"] == "other"
    assert "Not recorded" in page


def test_every_dense_task_goes_through_the_folder(tmp_path: Path) -> None:
    tags = {"detection": "object-detection", "segmentation": "image-segmentation", "pose": "keypoint-detection"}
    for task, path in make_nets(tmp_path).items():
        push(path, "me/dense", dry_run=True, out=tmp_path / task)
        model, contract = from_pretrained(tmp_path / task)
        assert same(model.state_dict(), load_model(path)[0].state_dict())
        assert contract == load_model(path)[1]
        page = (tmp_path / task / "README.md").read_text()
        assert yaml.safe_load(page.split("---")[1])["pipeline_tag"] == tags[task]
