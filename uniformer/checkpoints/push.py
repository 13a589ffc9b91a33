"""Models to the Hugging Face hub and back: a folder in its form with a page, one commit, the same bits.

`huggingface_hub` speaks the protocol, reads the token, retries and skips what is there already; HF_ENDPOINT and
HF_HUB_DISABLE_XET (uploads over LFS) are its settings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from uniformer.checkpoints.card import MARK, file_line, model_card
from uniformer.checkpoints.contract import Contract
from uniformer.checkpoints.fetch import fetch_repo, is_transport
from uniformer.checkpoints.files import CONFIG_NAME, WEIGHTS_NAME
from uniformer.checkpoints.hosts import PROCESSOR_NAME, from_folder_json, is_our_processor
from uniformer.checkpoints.identify import CheckpointSource
from uniformer.checkpoints.load import load_model
from uniformer.checkpoints.records import published_at
from uniformer.checkpoints.save import save_checkpoint
from uniformer.checkpoints.told import Told
from uniformer.config import same_network
from uniformer.errors import InputError, first_line
from uniformer.heads.pyramid import DenseNetwork
from uniformer.labels import names_file
from uniformer.network.model import UniFormer
from uniformer.support.files import atomic_path, check_outputs, folder_to_fill, system_folder, write_whole
from uniformer.support.texts import check_file, read_whole

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

CARD = "README.md"
NAMES = (CONFIG_NAME, WEIGHTS_NAME, PROCESSOR_NAME, CARD)  #: of the folder


def save_pretrained(
    model: UniFormer | DenseNetwork,
    folder: str | os.PathLike[str],
    contract: Contract | None = None,
    *,
    repo: str | None = None,
    beside: Iterable[str | os.PathLike[str]] = (),
    force: bool = False,
) -> Contract:
    """A folder as the hub has it: `save_checkpoint`'s files and the page, on which the model is called `repo`.

    `beside` are files that are copied there too, such as exports and their receipts; an .xml comes with its .bin.
    Returns the contract as written. Raises `InputError` as `save_checkpoint` does, over a page of somebody's own
    unless `force`, and for files beside it that are not there, or have names that are taken.
    """
    more = _beside(beside)
    page = Path(folder, CARD)
    if page.is_file() and not force and MARK.encode() not in page.read_bytes():
        raise InputError(f"cannot write {page}: it was not written by uniformer; give another folder")
    with folder_to_fill(folder):  # first, as `save_checkpoint` would replace a file of that name
        contract = save_checkpoint(model, folder, contract)
        for name, file in more.items():
            with atomic_path(Path(folder, name)) as temporary:
                shutil.copyfile(file, temporary)
        write_whole(page, model_card(contract, repo or os.fspath(folder), more))
    return contract


def _beside(files: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """The files by their names in the repository. Raises `InputError` as `save_pretrained`."""
    found: dict[str, Path] = {}
    for given in map(Path, files):
        for file in (given, *([given.with_suffix(".bin")] if given.suffix.lower() == ".xml" else [])):
            check_file(file, "a file to publish beside the model")
            if file.name in NAMES or file.name.startswith(".") or not found.get(file.name, file).samefile(file):
                raise InputError(f"{file}: expected a name that is not taken beside the model, got {file.name}")
            found[file.name] = file
    return found


def from_pretrained(source: str | os.PathLike[str], *, revision: str = "main") -> tuple[Any, Contract]:
    """The network of a folder or of a hub repository 'owner/name' at a branch, tag or commit, and its contract.

    Of the authors' repositories it is 'owner/name/file'. In evaluation mode. Raises `InputError` where it cannot be had
    or read.
    """
    name = os.fspath(source)
    if not published_at(name):
        name = os.fspath(fetch_repo(name, revision=revision))
    elif revision != "main":
        name = f"{name}@{revision}"
    model, contract, _ = load_model(name)
    return model, contract


def push_to_hub(
    model: UniFormer | DenseNetwork,
    repo: str,
    contract: Contract | None = None,
    *,
    private: bool = False,
    revision: str = "main",
    force: bool = False,
    beside: Iterable[str | os.PathLike[str]] = (),
) -> str:
    """Publish a network as the hub repository 'owner/name', made where there is none. Returns the commit's address.

    All files go in one commit on `revision`, a branch that is made where it is missing, or not at all; what the hub has
    is not sent again. `beside` are as in `save_pretrained`. `force` replaces another network, a page and files of
    somebody's own.

    Raises `InputError` where the hub refuses, where a public repository was to be private, and without `force`.
    """
    _check_repo(repo)
    with system_folder("push") as temporary:
        folder = temporary / "repository"
        contract = save_pretrained(model, folder, contract, repo=repo, beside=beside)
        return _upload(folder, contract, repo, private, revision, force)


def push(
    source: CheckpointSource,
    repo: str,
    *,
    private: bool = False,
    revision: str = "main",
    force: bool = False,
    dry_run: bool = False,
    out: str | os.PathLike[str] | None = None,
    beside: Iterable[str | os.PathLike[str]] = (),
    **told: Unpack[Told],
) -> str:
    """`push_to_hub` of any readable checkpoint; `told` as in `load_model`. Returns the commit's address.

    With `dry_run` the folder is written as `out` (default: the repository's name), no server is asked, and the folder
    is returned.
    """
    _check_repo(repo)
    folder, more = Path(out or repo.partition("/")[2]), _beside(beside)
    if dry_run:
        inputs = [source, names_file(told.get("classes")), *more.values()]
        check_outputs([folder / name for name in (*NAMES, *more)], inputs, overwrite=force, by="--force")
    elif out is not None:
        raise InputError("expected out with dry_run only: nothing is kept of what is pushed")
    model, contract, _ = load_model(source, **told)
    if not dry_run:
        options: Any = {"private": private, "revision": revision, "force": force, "beside": more.values()}
        return push_to_hub(model, repo, contract, **options)
    save_pretrained(model, folder, contract, repo=repo, beside=more.values(), force=force)
    return os.fspath(folder)


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with contextlib.suppress(HFValidationError):
        validate_repo_id(repo)
        if "/" in repo:
            return
    raise InputError(f"expected a hub repository 'owner/name', got {repo!r}")


def _upload(folder: Path, contract: Contract, repo: str, private: bool, revision: str, force: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.is_offline_mode():
        raise InputError(f"cannot push to {repo}: offline (HF_HUB_OFFLINE)")
    if get_token() is None:
        raise InputError(f"cannot push to {repo}: no login: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        head = _head(api, repo, private, revision)
        files = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
        if not force:
            _check_replaced(api, repo, head, contract, {file.path_in_repo for file in files})
        done = api.create_commit(
            repo, files, commit_message="Model and page by uniformer", revision=revision, parent_commit=head.sha
        )
    except Exception as error:  # of httpx too, which huggingface_hub does not re-export
        is_theirs = isinstance(error, OSError | ValueError | RuntimeError) or is_transport(error)
        if isinstance(error, InputError) or not is_theirs:
            raise
        raise InputError(f"cannot push to {repo}: {_reason(error)}") from None
    return done.commit_url


def _head(api: HfApi, repo: str, private: bool, revision: str) -> ModelInfo:
    """The commit that the new one is to follow, and its files; the branch is made where it is missing."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        info = api.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo, branch=revision)
        info = api.model_info(repo, revision=revision)
    if private and not info.private:
        raise InputError(f"cannot push to {repo}: it is there and public, expected a private one")
    return info


def _check_replaced(api: HfApi, repo: str, head: ModelInfo, contract: Contract, new: set[str]) -> None:
    """Raises `InputError` where `new` files would replace another network's, a page that is not ours, or what ours
    does not list."""
    there, read = new & _names(head), partial(_read, api, repo, head)
    if there & {CONFIG_NAME, WEIGHTS_NAME}:
        try:
            old = from_folder_json(read(CONFIG_NAME), CONFIG_NAME) if CONFIG_NAME in there else None
        except InputError:
            old = None
        if old is None or not same_network(old.config, contract.config):
            name = (old and (old.arch or "another UniFormer")) or "another kind of model"
            raise InputError(f"cannot push to {repo}: it holds {name} of another architecture; --force replaces it")
    page = read(CARD) if CARD in there else b""
    if CARD in there and MARK.encode() not in page:
        raise InputError(f"cannot push to {repo}: its {CARD} was not written by uniformer; --force replaces it")
    unknown = PROCESSOR_NAME in there and not page  # beside our page it is ours
    if unknown and not is_our_processor(read(PROCESSOR_NAME)):
        raise InputError(f"cannot push to {repo}: its {PROCESSOR_NAME} is not ours; --force replaces it")
    for name in sorted(there.difference(NAMES)):
        if file_line(name).encode() not in page:
            raise InputError(f"cannot push to {repo}: it holds another {name}; --force replaces it")


def _names(head: ModelInfo) -> set[str]:
    return {file.rfilename for file in head.siblings or ()}


def _read(api: HfApi, repo: str, head: ModelInfo, name: str) -> bytes:
    with system_folder("push") as folder:
        return read_whole(Path(api.hf_hub_download(repo, name, revision=head.sha, local_dir=folder)), name)


def _reason(error: BaseException) -> str:
    """In words, by the answer's status where there is one; never what was sent, which has the token in it."""
    from huggingface_hub import constants

    while getattr(error, "response", None) is None and error.__cause__ is not None and not is_transport(error):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    moved, later = "it was changed meanwhile, nothing was replaced: push again", "push again later"
    words = {
        401: "the hub does not take this login: run `hf auth login`",
        403: "this login may not write there: its token needs the right to write, and the owner must be yours",
        404: "no such repository or branch, or this login may not see it",
        409: moved,
        412: moved,
        413: "a file is too large for the hub",
    }
    if status is not None:
        return f"{constants.ENDPOINT} answered {status}: {words.get(status, later)}"
    if is_transport(error):
        return f"cannot reach {constants.ENDPOINT}, or the connection broke: {later}"
    return f"{first_line(error)} (HF_HUB_DISABLE_XET=1 uploads without xet)"
