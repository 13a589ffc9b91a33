"""Publishing on a hub, against a server on loopback, by the command line in a process of its own, over LFS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dense_nets import make_nets
from tests.patience import PATIENCE
from tests.push_client import Client
from tests.tiny import CLIPS, IMAGES, refused, same, save_tiny, tiny_model
from tests.upload_server import Hub, serve
from uniformer.checkpoints.card import MARK, model_card
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.files import WEIGHTS_NAME
from uniformer.checkpoints.hosts import PROCESSOR_NAME
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.push import from_pretrained, push, save_pretrained
from uniformer.checkpoints.save import verify


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Client]]:
    home = tmp_path_factory.mktemp("home")
    with serve() as hub:
        client = Client(hub.url, home, home / "log.txt", home / "temporary")
        yield hub, client
        client.close()


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


@pytest.mark.parametrize(("where", "uploads"), [("PUT /lfs/", 2), ("/commit/", 1)])
def test_a_push_that_was_killed_goes_on(hub: Hub, client: Client, tmp_path: Path, where: str, uploads: int) -> None:
    """In the middle of the weights, or of the commit: nothing of it is there, and the same command is enough."""
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    hub.hold = where
    first = Client(hub.url, tmp_path, tmp_path / "log.txt", client.temporary)
    first.ask("push", path, "me/model")
    assert hub.held.wait(PATIENCE)
    first.child.kill()
    first.close()
    hub.hold = ""
    hub.let_go.set()
    assert list(hub.repos["me/model"].files("main") or {}) == [".gitattributes"]
    assert any(client.temporary.rglob("model.safetensors"))
    client("push", path, "me/model")
    assert not any(client.temporary.rglob("*"))
    assert hub.count("PUT /lfs/") == uploads  # what had arrived is not sent again
    folder = taken(hub, "me/model", tmp_path / "back")
    assert same(load_model(folder)[0].state_dict(), load_model(path)[0].state_dict())


@pytest.mark.parametrize("chunk", [None, 100_000])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, client: Client, tmp_path: Path, status: int, chunk: int | None) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    hub.chunk, hub.fail, hub.fail_times, hub.wait = chunk, {"PUT /part/" if chunk else "PUT /lfs/": status}, 2, 0
    client("push", path, "me/model")
    assert "model.safetensors" in (hub.repos["me/model"].files("main") or {})


@pytest.mark.parametrize("status", [413, 429, 500])
def test_weights_that_the_hub_does_not_take_are_one_line(hub: Hub, client: Client, tmp_path: Path, status: int) -> None:
    hub.fail, hub.wait = {"PUT /lfs/": status}, 0
    said = client("push", save_tiny(tmp_path / "a.safetensors", IMAGES), "me/model", status=2)
    assert said.startswith(f"uniformer: cannot push to me/model: {hub.url} answered {status}: ")
    assert ("too large" if status == 413 else "push again later") in said
    assert list(hub.repos["me/model"].files("main") or {}) == [".gitattributes"]


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


def test_who_reads_the_input_comes_with_every_network(hub: Hub, client: Client, tmp_path: Path) -> None:
    """Where another's was, too; one that is not ours is replaced by those alone who ask for it."""
    first, pose = save_tiny(tmp_path / "v.safetensors", CLIPS), make_nets(tmp_path)["pose"]
    client("push", first, "me/model")
    client("push", pose, "me/model", "--force")
    files = hub.repos["me/model"].files("main") or {}
    assert set(files) == {".gitattributes", "README.md", "config.json", WEIGHTS_NAME, PROCESSOR_NAME}
    assert b"UniFormerImageProcessor" in files[PROCESSOR_NAME]
    client("push", pose, "me/model")
    hub.create("me/other", files={PROCESSOR_NAME: b"somebody's own"})
    assert f"its {PROCESSOR_NAME} is not ours; --force replaces it" in client("push", pose, "me/other", status=2)
    assert hub.repos["me/other"].files("main") == {".gitattributes": b"", PROCESSOR_NAME: b"somebody's own"}
    folder = tmp_path / "folder"
    push(first, "me/model", dry_run=True, out=folder)
    (folder / "README.md").write_text("my own words")
    push(pose, "me/model", dry_run=True, out=folder, force=True)
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", WEIGHTS_NAME, PROCESSOR_NAME}
    assert (folder / PROCESSOR_NAME).read_bytes() == files[PROCESSOR_NAME]
    assert MARK in (folder / "README.md").read_text()


def test_a_folder_in_the_way_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path, out = save_tiny(tmp_path / "a.safetensors", IMAGES), tmp_path / "folder"
    (out / "README.md").mkdir(parents=True)
    with refused("cannot write .*README.md: it is a folder, expected a file name"):
        push(path, "me/model", dry_run=True, out=out)
    assert [file.name for file in out.iterdir()] == ["README.md"]


def test_a_file_in_the_way_of_the_folder_stays(tmp_path: Path) -> None:
    model, other = load_model(save_tiny(tmp_path / "a.safetensors", IMAGES))[0], tmp_path / "b.safetensors"
    before = save_tiny(other, IMAGES, seed=1).read_bytes()
    for write in (
        lambda: push(tmp_path / "a.safetensors", "me/model", dry_run=True, out=other, force=True),
        lambda: save_pretrained(model, other, force=True),
    ):
        with refused("cannot write .*b.safetensors: it is there already, expected a folder or none"):
            write()
        assert other.read_bytes() == before


def test_exports_and_receipts_go_beside_the_weights(hub: Hub, client: Client, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    for name in ("small.xml", "small.bin", "small.json", "config.json"):
        (tmp_path / name).write_text(f"{name} of mine")
    export, receipt = tmp_path / "small.xml", tmp_path / "small.json"
    client("push", path, "me/model", "--with", export, receipt)
    files = hub.repos["me/model"].files("main") or {}
    assert {name: files[name] for name in files if name.startswith("small")} == {
        f"small.{ending}": f"small.{ending} of mine".encode() for ending in ("xml", "bin", "json")
    }
    assert "\n- small.xml\n\n- small.bin\n\n- small.json\n" in files["README.md"].decode()
    receipt.write_text("another")
    client("push", path, "me/model", "--with", receipt)  # its page says whose it is
    assert (hub.repos["me/model"].files("main") or {})["small.json"] == b"another"
    assert "small.bin" in (hub.repos["me/model"].files("main") or {})
    hub.create("me/other", files={"small.json": b"not ours"})
    said = client("push", path, "me/other", "--with", receipt, status=2)
    assert "it holds another small.json; --force replaces it" in said
    client("push", path, "me/other", "--force", "--with", receipt)
    said = client("push", path, "me/third", "--with", tmp_path / "config.json", status=2)
    assert "expected a name that is not taken beside the model, got config.json" in said
    export.with_suffix(".bin").unlink()
    assert "small.bin: expected a file to publish" in client("push", path, "me/third", "--with", export, status=2)
    assert "me/third" not in hub.repos
    client("push", path, "me/third", "--dry-run", "--out", tmp_path / "folder", "--with", receipt)
    assert (tmp_path / "folder" / "small.json").read_text() == "another"
    inside = tmp_path / "folder" / "small.json"
    said = client(
        "push", path, "me/x", "--dry-run", "--out", tmp_path / "folder", "--force", "--with", inside, status=2
    )
    assert "it would replace the input" in said


def test_a_repository_is_listed_once(hub: Hub, client: Client, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.safetensors", IMAGES)
    client("push", path, "me/model")
    hub.requests.clear()
    client("push", path, "me/model")
    assert hub.count("/revision/") == 1
    assert hub.count("HEAD ") + hub.count("GET /me/model/resolve/") == 4  # its contract and its page


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
