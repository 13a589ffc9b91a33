"""One run in one folder: a lock that the system takes back however a process ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uniformer.errors import InputError, cannot_write, reason

NAME = "run.lock"  #: in the folder while a run goes on; says whose it is


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Keep other processes' runs out of `folder`, made where there is none; gives a note where that is impossible.

    A process that was killed holds nothing any more, though its file stays. Raises `InputError` where another process
    has the folder (naming it and its machine), or where it cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, note = _taken(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield note
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _taken(path: Path) -> tuple[int, str]:
    """The file, open and locked; a note where there are no locks."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            note = _lock(path, handle)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle, note
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # a run that just ended has removed it between our opening and our locking


def _lock(path: Path, handle: int) -> str:
    note = f"no locks on the file system of {path.parent}: nothing keeps a second run out of it"
    try:
        import fcntl
    except ImportError:
        return note
    try:
        # A record lock, not flock's, which loading processes would inherit: those of a run that was killed live on
        # for some seconds.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = path.read_text(errors="replace").strip() or "another process"
        way_out = "give another --out, or wait for its end"
        raise InputError(f"{path.parent} is in use by {holder}: expected a folder of one run; {way_out}") from None
    except OSError as error:
        return f"{note} ({reason(error)})"
    return ""
