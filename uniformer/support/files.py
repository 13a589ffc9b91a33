"""Files that are written: whole or not at all, over no input, by one run at a time; and whether one is as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from uniformer.errors import InputError, cannot_write, reason

StrPath = str | os.PathLike[str]

# ---- whole or not at all ---------------------------------------------------------------------------------------------

_RANDOM = 8  # characters of a temporary name


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """A file of the same name in a folder beside `path`; it becomes `path` when the block ends without an error.

    Its folder is made where it is missing. Raises `InputError` when the disk refuses; the old file, if any, is then
    untouched.
    """
    path = _target(path)
    if os.path.isdir(path):  # of a name that is too long, too, which is refused below
        raise is_folder(path)
    try:
        with folder_to_fill(path.parent), temporary_folder(path) as folder:
            temporary = folder / f".{path.name}"  # hidden, too: whoever looks for files may look into any folder
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield temporary
            with open(temporary, "rb") as f:
                os.fsync(f.fileno())
            temporary.chmod(mode)  # safetensors makes a private file of its own in its place
            temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_whole(path: StrPath, content: str | bytes, errors: str = "strict") -> None:
    """A file with this content, text as UTF-8. Raises `InputError` as `atomic_path` does."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", errors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def temporary_folder(path: StrPath) -> Iterator[Path]:
    """A folder beside `path` for what is to become that, and for what libraries leave on the way; it goes at the end.

    A kill leaves it: `clear_away` of the same `path` removes it, unless a process still runs that has it.
    """
    path = Path(path)
    while True:
        folder = path.with_name(_temporary(path.name, os.urandom(_RANDOM // 2).hex()))
        folder.mkdir()
        handle = _held(folder)
        if folder.exists():  # nobody took it for left behind before it was held
            break
        _let_go(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(handle)


@contextlib.contextmanager
def system_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder where the system has them; those that killed processes left for the same purpose go.

    Raises `InputError` where the system has none, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = Path(tempfile.gettempdir(), f"uniformer-{purpose}")
            clear_away([path])
            folder = stack.enter_context(temporary_folder(path))
        except OSError as error:
            raise InputError(
                f"expected a folder for temporary files that can be written, as TMPDIR says: {reason(error)}"
            ) from None
        yield folder


def make_folder(path: StrPath) -> None:
    """With those above it. Raises `InputError` where that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise is_no_folder(path) from None
    except OSError as error:
        raise cannot_write(path, error) from None


@contextlib.contextmanager
def folder_to_fill(*paths: StrPath) -> Iterator[None]:
    """Make folders with those above them; of those that were made, the ones that stayed empty go again at the end.

    Raises `InputError` where that cannot be.
    """
    missing = {folder for path in map(Path, paths) for folder in (path, *path.parents) if not os.path.exists(folder)}
    try:
        for path in paths:
            make_folder(path)
        yield
    finally:
        for folder in sorted(missing, reverse=True):  # the deepest first
            with contextlib.suppress(OSError):
                folder.rmdir()


def clear_away(paths: Iterable[StrPath]) -> None:
    """Remove what a kill left of files that were to become `paths`; what a running process still has stays."""
    wanted: dict[Path, set[str]] = defaultdict(set)
    for path in map(_target, paths):
        wanted[path.parent].add(path.name)
    for folder, names in wanted.items():
        for left in folder.glob(".*"):
            for suffix in {left.suffix, ""}:
                name, dot, _ = left.name.removesuffix(suffix)[1:].rpartition(".")
                if dot and name in names and left.name == _temporary(name, left.name[len(name) + 2 :][:_RANDOM]):
                    _remove_unless_held(left)


def _target(path: StrPath) -> Path:
    """What is written under a name: of a link, what it points to, there or not yet; the link stays."""
    if "\0" in str(path):
        raise InputError(f"cannot write {str(path)!r}: a name holds no NUL")
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def _remove_unless_held(left: Path) -> None:
    if left.is_symlink() or (handle := _held(left)) is None:
        return
    with contextlib.suppress(OSError):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    _let_go(handle)


def _held(path: Path) -> int | None:
    """A handle that locks a file or folder until it is closed, or its process and those forked from it are gone.

    None where another process has it, and where there is no such thing.
    """
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _let_go(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _temporary(name: str, token: str) -> str:
    return f".{name}.{token}{Path(name).suffix}"


# ---- over no input ---------------------------------------------------------------------------------------------------


def check_outputs(
    outputs: Iterable[StrPath], inputs: Iterable[object], *, overwrite: bool = False, by: str = "--overwrite"
) -> None:
    """Raises `InputError` where a file that is to be written is one that is read, or is there and is not to go, or is
    a folder, or is to be written twice.

    Links are followed. A folder among `inputs` stands for all that is in it; ids, addresses and what is no path are
    passed over. With `overwrite`, on the command line `by`, files that are no input may go. To be called before the
    work: what a kill left of earlier outputs is cleared away.
    """
    outputs = list(outputs)
    clear_away(outputs)
    results = Counter(map(os.path.realpath, outputs))
    if twice := next((path for path in outputs if results[os.path.realpath(path)] > 1), None):
        raise InputError(f"cannot write {twice}: two results are to go there; give one another name")
    if folder := next(filter(os.path.isdir, outputs), None):
        raise is_folder(folder)
    there = {_identity(path): Path(path) for path in outputs if os.path.isfile(path)}
    if not there:
        return
    for given in inputs:
        if not isinstance(given, str | os.PathLike):
            continue
        output = there.get(_identity(given))
        if output is None and os.path.isdir(given):
            folder = Path(given).resolve()
            output = next((path for path in there.values() if folder in path.resolve().parents), None)
        if output is not None:
            raise InputError(f"cannot write {output}: it would replace the input {given}; give another name")
    if not overwrite:
        output = next(iter(there.values()))
        raise InputError(f"cannot write {output}: it is there already; give another name, or {by} to replace it")


def is_folder(path: StrPath) -> InputError:
    """The refusal to write a file of that name."""
    return InputError(f"cannot write {path}: it is a folder, expected a file name")


def is_no_folder(path: StrPath) -> InputError:
    """The refusal to write into what is there and is none."""
    return InputError(f"cannot write {path}: it is there already, expected a folder or none")


def as_given(text: object, given: StrPath = "") -> str:
    """A line in which files in the current folder, and in `given`, are called as from here: the user gave a relative
    path. Where `given` is a whole path the line stays."""
    line = str(text)
    if os.path.isabs(given):
        return line
    for whole, name in ((os.path.abspath(given), os.path.normpath(given)), (os.getcwd(), os.curdir)):
        place, here = rf"(?<![^\s:'\"(]){re.escape(whole)}", name.replace("\\", r"\\")
        line = re.sub(rf"{place}{re.escape(os.sep)}(?=\S)", "" if name == os.curdir else f"{here}/", line)
        line = re.sub(rf"{place}(?=$|[\s:;,'\")])", here, line)
    return line


def distinct_names(paths: Iterable[StrPath]) -> list[str]:
    """A name for what is made of each path: its last part, with a number behind it where an earlier one has that."""
    names, met = dict[str, None](), Counter[str]()
    for path in paths:
        last = name = os.path.basename(os.path.abspath(path))
        while name in names:
            met[last] += 1
            name = f"{last}.{met[last] + 1}"
        names[name] = None
    return list(names)


def _identity(path: StrPath) -> tuple[int, int] | None:
    """What two names of one file share; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


# ---- as it was -------------------------------------------------------------------------------------------------------

PIECE = 1 << 17  # bytes of a file's head, and of its tail, that are looked at


def content_sum(path: StrPath, *, with_time: bool = False) -> int:
    """64 bits that tell a file from others: of its size, head and tail; of a folder, of its files by name. 0: none.

    So a file up to 2 x `PIECE` bytes is told by all that it holds, wherever it lies and however it is called. With
    `with_time` the time of change counts as well for a larger one, whose middle is not looked at.
    """
    total = hashlib.blake2b(digest_size=8)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            names = (entry.name for entry in os.scandir(path) if entry.is_file() and entry.name[0] != ".")
            for name in sorted(names):
                total.update(b"%s\0%x\0" % (os.fsencode(name), content_sum(Path(path, name), with_time=with_time)))
        elif not stat.S_ISREG(mode):
            return 0  # opening a pipe would wait for its writer
        else:
            with open(path, "rb") as f:
                status = os.fstat(f.fileno())
                is_whole = status.st_size <= 2 * PIECE
                total.update(f"{status.st_size} {status.st_mtime_ns if with_time and not is_whole else ''}".encode())
                total.update(f.read(2 * PIECE if is_whole else PIECE))
                if not is_whole:
                    f.seek(-PIECE, os.SEEK_END)
                    total.update(f.read(PIECE))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(total.digest(), "little")


def changed_at(path: StrPath) -> int:
    """When a file, or a folder or one of its files, was last written, moved or renamed: ns; 0 where there is none."""
    try:
        entries = os.scandir(path) if os.path.isdir(path) else ()
        return max(os.stat(path).st_ctime_ns, *(entry.stat().st_ctime_ns for entry in entries), 0)
    except (OSError, ValueError):
        return 0


def bytes_of(path: StrPath) -> int:
    """Of a file, or of all files in a folder; 0 where there is none."""
    try:
        if os.path.isdir(path):
            return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


# ---- by one run at a time --------------------------------------------------------------------------------------------

LOCK_NAME = "run.lock"  #: in a folder while a run goes on; says whose it is


@contextlib.contextmanager
def locked(output: StrPath, *, is_file: bool = False) -> Iterator[str]:
    """Keep other processes' runs out of a folder, made where there is none, or off a file (`is_file`), there or not.

    A folder that was made goes again where nothing came into it. Gives a note where locking is impossible. A process
    that was killed holds nothing any more, though its lock's file stays until the next run. Raises `InputError` where
    another process has the output (naming it and its machine), or where it cannot be written.
    """
    path = Path(output)
    if is_file and path.exists() and not path.is_file():
        if path.is_dir():
            raise is_folder(path)
        yield ""  # a device or a pipe: nothing of it is kept
        return
    real = path.resolve() if is_file and path.is_symlink() else path
    lock = real.parent / f".{real.name}.lock" if is_file else path / LOCK_NAME
    with folder_to_fill(lock.parent):
        try:
            handle, note = _taken(lock, path, "file" if is_file else "folder")
        except OSError as error:
            raise cannot_write(path if is_file else lock, error) from None
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield note
        finally:
            lock.unlink(missing_ok=True)
            os.close(handle)


def _taken(lock: Path, output: Path, what: str) -> tuple[int, str]:
    """The lock's file, open and locked; a note where there are no locks."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            note = _lock(handle, lock, output, what)
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle, note
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # a run that just ended has removed it between our opening and our locking


def _lock(handle: int, lock: Path, output: Path, what: str) -> str:
    note = f"no locks on the file system of {output}: nothing keeps a second run out of it"
    try:
        import fcntl
    except ImportError:
        return note
    try:
        # A record lock, not flock's, which loading processes would inherit: those of a run that was killed live on
        # for some seconds.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = lock.read_text(errors="replace").strip() or "another process"
        way_out = "give another --out, or wait for its end"
        raise InputError(f"{output} is in use by {holder}: expected a {what} of one run; {way_out}") from None
    except OSError as error:
        return f"{note} ({reason(error)})"
    return ""
