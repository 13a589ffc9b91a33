"""From a record or a hub repository to files on this disk: downloaded once, found there ever after.

Files come from the Hugging Face hub through `huggingface_hub` (which reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE,
locks, resumes broken transfers while it runs and draws the progress bar) or from Google Drive through `gdown`
(the extra 'drive'; resumes across runs). Whatever goes wrong ends in one `InputError` line that says where a file
downloaded by hand is looked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniformer.checkpoints.records import Checkpoint, PublishedFile
from uniformer.errors import InputError, MissingExtra

REPO_FILES = ("config.json", "model.safetensors")  #: a hub repository or folder in our own form
FILE_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".xml", ".onnx")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _How:
    """The caller's choices: where files go, whether a progress bar is drawn, whether the network is out of bounds."""

    cache_dir: str | Path | None
    progress: bool
    offline: bool | None

    @property
    def is_offline(self) -> bool:
        from huggingface_hub import constants

        return bool(self.offline) or constants.is_offline_mode()

    def folders(self) -> list[Path]:
        """Where files are looked for by name. The last is also where downloads from Google Drive go."""
        from huggingface_hub import constants

        placed = os.environ.get("UNIFORMER_CHECKPOINTS")
        own = Path(self.cache_dir) if self.cache_dir is not None else Path(constants.HF_HOME) / "uniformer"
        return [Path(placed).expanduser(), own] if placed else [own]


class NotFetched(InputError):
    """A file is not here and cannot be had: there is no network, or the other side refuses."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class _Failed(Exception):
    """A source did not give the file; the text is the reason, one line."""

    def __init__(self, reason: str, absent: bool = False):
        super().__init__(textwrap.shorten(reason, 240))
        self.absent = absent  # the source answered, and has no such file


def is_path(source: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is named by a path, there or not, and not by an id or a hub repository."""
    name = os.fspath(source)
    return os.path.exists(name) or name.endswith(FILE_ENDINGS) or name.startswith((".", "/"))


def fetch(
    record: Checkpoint,
    *,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    offline: bool | None = None,
) -> Path:
    """The file of a published checkpoint, or of one that lies in the package.

    Looked for, by its name, in the folder $UNIFORMER_CHECKPOINTS and in $HF_HOME/uniformer, then in the hub's cache;
    none of these asks the network, as published weights do not change. Then downloaded: from the hub where the record
    names a repository, from Google Drive otherwise or when the hub says that it has no such file.

    A known md5 is compared for files that are not from the hub (whose copies lack the wrapper of the originals).
    The md5s known today come from a third party and nobody checked them, so a mismatch only warns; it raises once a
    record says `md5_verified`.

    Args:
        cache_dir: replaces both the hub's cache and $HF_HOME/uniformer.
        progress: draw a progress bar while downloading.
        offline: True never asks the network; so does HF_HUB_OFFLINE=1.

    Raises:
        InputError: no weights were published, or the file at hand is another one.
        NotFetched: the file is not here and cannot be fetched.
        MissingExtra: Google Drive is needed and gdown is not installed.
    """
    if record.path is not None:
        return Path(record.path)
    file = record.file
    if file is None:
        raise InputError(f"{record.id}: its scores were published, its weights were not")
    how = _How(cache_dir, progress, offline)
    folders = how.folders()
    for folder in folders:
        if (folder / file.name).is_file():
            return _checked(record, file, folder / file.name)
    try:
        if file.hub_repo is not None:
            try:
                return _from_hub(file.hub_repo, file.name, "main", how, frozen=True)
            except _Failed as failed:
                if not (failed.absent and file.drive_id):
                    raise
                logger.warning("%s: %s; trying Google Drive", record.id, failed)
        return _checked(record, file, _from_drive(record, file, folders[-1], how))
    except _Failed as failed:
        by_hand = f"save {_address(file)} as {folders[0] / file.name} to use it without a download"
        raise NotFetched(f"cannot fetch {file.name} of {record.id}: {failed}; {by_hand}", str(failed)) from None


def fetch_repo(
    source: str | Path,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    progress: bool = True,
    offline: bool | None = None,
) -> Path:
    """A folder with `config.json` and `model.safetensors`: `source` itself, or a copy of the hub repository it names.

    Behind the name '@' and a revision may stand, which goes before the argument.

    A repository may change, so the hub is asked each time; without a network its last copy in the cache serves.
    Both files are of one commit. Raises `InputError` when a file is missing or cannot be fetched.
    """
    folder = Path(source)
    if folder.is_dir():
        missing = [name for name in REPO_FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(f"expected {' and '.join(REPO_FILES)} in {folder}, found no {' and no '.join(missing)}")
        return folder
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo, _, told = str(source).partition("@")
    revision, how = told or revision, _How(cache_dir, progress, offline)
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"expected a folder or a hub repository 'owner/name', got {str(source)!r}") from None
    commit, path = revision, folder
    for name in REPO_FILES:
        try:
            path = _from_hub(repo, name, commit, how)
        except _Failed as failed:
            raise InputError(
                f"cannot fetch {name} of {_at(repo, revision)} (a hub repository, as no such folder is here): {failed}"
            ) from None
        commit = path.parent.name  # the cache keeps a folder per commit: the files that follow are of the same one
    return path.parent


def fetch_file(repo: str, name: str, *, revision: str = "main", cache_dir: str | Path | None = None) -> Path:
    """One file of a hub repository; a copy in the cache is taken as it is. Raises `InputError` where it cannot be."""
    try:
        return _from_hub(repo, name, revision, _How(cache_dir, True, None), frozen=True)
    except _Failed as failed:
        raise InputError(f"cannot fetch {name} of {_at(repo, revision)}: {failed}") from None


def _at(repo: str, revision: str) -> str:
    return repo if revision == "main" else f"{repo}@{revision}"


def _address(file: PublishedFile) -> str:
    """A page a browser can download the file from."""
    if file.drive_id:
        return f"https://drive.google.com/file/d/{file.drive_id}/view"
    return f"https://huggingface.co/{file.hub_repo}/resolve/main/{file.name}"


def _checked(record: Checkpoint, file: PublishedFile, path: Path) -> Path:
    if file.md5 is None:
        return path
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if md5 != file.md5:
        message = f"{path} may not be the file of {record.id}: expected md5 {file.md5}, got {md5}"
        if file.md5_verified:
            raise InputError(f"{message}; delete it to fetch it again")
        warnings.warn(f"{message} (the expected one is a third party's, unverified)", stacklevel=3)
    return path


def _from_hub(repo: str, name: str, revision: str, how: _How, *, frozen: bool = False) -> Path:
    """One file of a hub repository. `frozen` takes a cached copy without asking whether there is a newer one."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, name, cache_dir=how.cache_dir, revision=revision)
    if isinstance(cached, str) and (frozen or how.is_offline):
        return Path(cached)
    if how.is_offline:
        raise _Failed("offline, and it is not in the cache")
    try:
        if not isinstance(cached, str):
            _probe(repo, name, revision)
        bar = None if how.progress else _silent()
        path = hf_hub_download(repo, name, revision=revision, cache_dir=how.cache_dir, tqdm_class=bar)
    except Exception as error:
        if not isinstance(error, OSError) and not is_transport(error):
            raise
        raise _explained(error) from None
    if path != cached:
        _check_sum(Path(path))
    return Path(path)


def _check_sum(path: Path) -> None:
    """Whether a file of the hub's cache, which keeps large ones under the SHA-256 that the hub tells, is what the hub
    has: huggingface_hub compares its size alone. One that is not is taken away.

    What has that name may be a link itself, to what repositories share, which is named otherwise."""
    if not path.is_symlink():  # small, or on a file system without links: nothing is known
        return
    blob = path.parent / path.readlink()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        with blob.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != blob.name:
            for place in {path, blob, blob.resolve()}:
                place.unlink(missing_ok=True)
            raise _Failed(f"it did not arrive whole: expected SHA-256 {blob.name}, got {found}")


def _probe(repo: str, name: str, revision: str) -> None:
    """Fails at once where hf_hub_download, which has no cached copy to fall back to, retries for half a minute first.

    Answers that may pass (busy, broken) are left to its retries.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(repo, name, revision=revision))
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code not in (408, 429):
            raise


def is_transport(error: BaseException) -> bool:
    """Whether a connection failed, by what huggingface_hub raised of it."""
    # Connection errors are those of httpx or, by the version of huggingface_hub, of its fork; it re-exports neither.
    return type(error).__module__.split(".")[0].startswith("httpx")


def _explained(error: Exception) -> _Failed:
    """The reason in words of what huggingface_hub raised."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return _Failed("the repository wants a login: run `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return _Failed("no such repository, or one that wants a login (`hf auth login`)", absent=True)
    if isinstance(error, RevisionNotFoundError):
        return _Failed("the repository has no such revision")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return _Failed("the repository has no such file", absent=True)
    cause = (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error  # it wraps what went wrong before
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401:
        return _Failed("the repository does not take this login: run `hf auth login`")
    if status is not None:
        return _Failed(f"{constants.ENDPOINT} answered {status}")
    text = str(cause) or type(cause).__name__
    return _Failed(f"cannot reach {constants.ENDPOINT}: {text}" if is_transport(cause) else text)


def _silent() -> Any:
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _from_drive(record: Checkpoint, file: PublishedFile, folder: Path, how: _How) -> Path:
    """The file from Google Drive: one process downloads, others wait for it; an interrupted one goes on next time."""
    from huggingface_hub.utils import WeakFileLock

    path = folder / file.name
    if how.is_offline:
        raise _Failed("offline, and it is not in the cache")
    try:
        import gdown
    except ImportError:
        purpose = f"fetching {record.id} from Google Drive (or save {_address(file)} as {path}; otherwise it)"
        raise MissingExtra("gdown", "drive", purpose) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / f".{file.name}.lock"):
            if not path.is_file():
                _probe_drive()
                gdown.download(
                    id=file.drive_id, output=str(path), quiet=not how.progress, resume=True, timeout=30, retries=3
                )
    except (gdown.exceptions.DownloadError, OSError) as error:  # requests' errors are OSErrors
        raise _Failed(f"Google Drive: {_innermost(error)}") from None
    return path


def _probe_drive() -> None:
    """Fails at once where gdown, which tells each try in a line, would try for long. Any answer will do."""
    import requests

    with contextlib.suppress(requests.Timeout):
        requests.head("https://drive.google.com/", timeout=30)


def _innermost(error: Exception) -> str:
    """The reason of an error of requests, which has the address and the names of classes around it."""
    wrapped = error.__cause__ or error
    inner = wrapped.args[0] if wrapped.args else wrapped
    return re.split(r"[)>]: ", str(getattr(inner, "reason", None) or error), maxsplit=1)[-1]
