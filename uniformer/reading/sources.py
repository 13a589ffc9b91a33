"""What an encoded picture or video may come as: a path, bytes, a file object, an http(s) address.

`encoded` makes each of them a path or a binary file that can be sought, which is what Pillow and FFmpeg read. What
cannot be sought (a pipe, a response, an address) goes to a temporary file without a name, gone when it is closed.
"""

from __future__ import annotations

import io
import os
import re
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeGuard

from uniformer.errors import InputError, reason
from uniformer.support.texts import check_file

Media: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]"

MAX_BYTES = 2 * 10**9  #: of an address, or of a stream that has to be copied
TIMEOUT = 30.0  #: seconds for a server to answer, and then for each `CHUNK` of its file
CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class Encoded:
    """One encoded picture or video that can be sought."""

    name: str  #: what messages call it
    file: Path | IO[bytes]
    is_ours: bool = False  #: made here, to be closed here; a caller's file stays open

    @property
    def size(self) -> int:
        """Bytes. To be asked for before others read the file, as it moves the place from which they do."""
        return self.file.stat().st_size if isinstance(self.file, Path) else self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Let go of the memory or the temporary file."""
        if self.is_ours and not isinstance(self.file, Path):
            self.file.close()

    def from_start(self) -> Path | IO[bytes]:
        """The path, or the file at its beginning."""
        if not isinstance(self.file, Path):
            self.file.seek(0)
        return self.file

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file at its beginning, for as long as the block runs; a caller's stays open."""
        file = self.from_start()
        with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
            yield opened


def encoded(source: Media, expected: str) -> Encoded:
    """A path, bytes, a binary file object or an address, as a path or a file that can be sought.

    Files are read from their beginning, wherever they stand, and stay open. Addresses are downloaded (see `download`),
    streams that cannot be sought are copied, up to `MAX_BYTES`.

    Raises `InputError` where it is missing, empty, closed, open as text, or cannot be fetched; `expected` is "an image"
    or "a video", for the message.
    """
    if is_path(source):
        check_file(Path(source), expected)
        return Encoded(os.fspath(source), Path(source))
    name = name_of_source(source)
    if is_url(source):
        return _not_empty(Encoded(name, download(source), is_ours=True), expected)
    if isinstance(source, bytes | bytearray | memoryview):
        return _not_empty(Encoded(name, io.BytesIO(source), is_ours=True), expected)
    if not is_file(source):
        raise InputError(f"expected {expected}: a path, bytes, a binary file or an address, got {name}")
    try:
        if isinstance(source, io.TextIOBase) or not (source.readable() if hasattr(source, "readable") else True):
            raise InputError(f"{name}: expected a file that is open for reading bytes ('rb'), got one that is not")
        medium = Encoded(name, source) if _seeks(source) else Encoded(name, _copied(source.read, name, MAX_BYTES), True)
        return _not_empty(medium, expected)
    except (OSError, ValueError) as error:  # ValueError: a file that was closed
        raise error if isinstance(error, InputError) else InputError(f"{name}: cannot read: {reason(error)}") from None


def _not_empty(medium: Encoded, expected: str) -> Encoded:
    assert not isinstance(medium.file, Path)
    medium.file.seek(0)
    if not medium.file.read(1):
        medium.close()
        raise InputError(f"{medium.name}: expected {expected}, found no bytes")
    return medium


def _seeks(file: IO[bytes]) -> bool:
    return file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek") and hasattr(file, "tell")


def is_media(source: object) -> TypeGuard[Media]:
    """Whether `encoded` takes it."""
    return isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or is_file(source)


def is_path(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it names a file or folder here."""
    return isinstance(source, str | os.PathLike) and not is_url(source)


def is_file(source: object) -> TypeGuard[IO[bytes]]:
    """Whether it is a file object (a path may have a method `read` too)."""
    return hasattr(source, "read") and not isinstance(source, os.PathLike)


def is_url(source: object) -> TypeGuard[str]:
    """Whether it is an address with any scheme: of those that are not http(s), `download` says so."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def path_of(source: str) -> str:
    """A path as it is; an address without its query: what its file is called."""
    return re.sub(r"[?#].*", "", source, flags=re.DOTALL) if is_url(source) else source


def name_of_source(source: object) -> str:
    """What messages and results call a source: a path or address itself, a file's own name, else its type."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None) if is_file(source) else None
    return name if isinstance(name, str) and name else type(source).__name__


def head(source: Media, count: int = 16) -> bytes:
    """The first bytes of what is in memory or open, which stays as it is; none where a stream cannot be looked into."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source[:count])
    if not is_file(source):
        return b""
    try:
        if _seeks(source):
            place = source.tell()
            source.seek(0)
            start = source.read(count)
            source.seek(place)
        else:
            peek: Callable[[int], bytes] = getattr(source, "peek", lambda count: b"")
            start = peek(count)[:count]
        return start if isinstance(start, bytes) else b""
    except (OSError, ValueError):
        return b""


# ---- copies ----------------------------------------------------------------------------------------------------------


def download(url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> IO[bytes]:
    """The file at an http(s) address, as a temporary file to be closed.

        with download("https://example.org/clip.mp4", max_bytes=10 * 10**9) as file:
            predictor(file)

    Up to ten redirects are followed, to http(s) only. Proxies are those of the environment.

    Args:
        max_bytes: what the file may have.
        timeout: seconds for the server to answer, and then for each 64 KiB: one that trickles is given up too.

    Raises:
        InputError: another scheme, a server that is not there, answers with an error or a web page, sends too much or
            too slowly, breaks off, or redirects in a circle. One line that names the address.
    """
    with _asked(url, timeout) as response:
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise InputError(
                f"{url}: expected an image or a video, the server sends a web page ({kind}): "
                "give the address of the file itself; from a site of videos, save it first"
            )
        size = response.length  # None where the server does not say
        if size is not None and size > max_bytes:
            raise InputError(f"{url}: expected at most {_megabytes(max_bytes)}, the server sends {_megabytes(size)}")

        def read(count: int) -> bytes:
            """`count` bytes, fewer only at the end."""
            parts, given_up = [], time.monotonic() + timeout
            while count and (part := response.read1(count)):
                parts.append(part)
                count -= len(part)
                if count and time.monotonic() > given_up:
                    raise TimeoutError
            return b"".join(parts)

        with _explained(url, timeout):
            file = _copied(read, url, max_bytes)
        if response.length:  # http.client counts down what is left
            file.close()
            raise InputError(f"{url}: cut off, {_megabytes(response.length)} of {_megabytes(size or 0)} are missing")
        return file


@contextmanager
def _asked(url: str, timeout: float) -> Iterator[Any]:
    """The server's answer, an `http.client.HTTPResponse` of status 200."""
    from urllib import request as by
    from urllib.parse import quote

    from uniformer import __version__

    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url}: expected a path or an http(s) address")
    opener = by.OpenerDirector()  # not build_opener, which would let a redirect lead to ftp
    for kind in (by.ProxyHandler, by.HTTPHandler, by.HTTPSHandler, by.HTTPErrorProcessor, by.HTTPDefaultErrorHandler):
        opener.add_handler(kind())
    opener.add_handler(by.HTTPRedirectHandler())
    with _explained(url, timeout):
        request = by.Request(quote(url, safe=string.punctuation), headers={"User-Agent": f"uniformer/{__version__}"})
        response = opener.open(request, timeout=timeout)
    with response:
        yield response


@contextmanager
def _explained(url: str, timeout: float) -> Iterator[None]:
    """What urllib, http.client, ssl and sockets raise, as one line."""
    from http.client import HTTPException, IncompleteRead
    from urllib.error import HTTPError, URLError

    try:
        yield
    except InputError:
        raise
    except HTTPError as error:
        error.close()
        if "infinite loop" in str(error.reason):  # urllib's words, for more than ten redirects too
            said = "redirects in a circle, or too often"
        elif error.code in (301, 302, 303, 307, 308):
            said = f"redirects to {error.headers.get('Location')}, which is not followed"
        else:
            said = f"answers {error.code}: {error.reason}"
        raise InputError(f"{url}: expected an image or a video, the server {said}") from None
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        if isinstance(cause, TimeoutError):
            raise InputError(
                f"{url}: the server is too slow: expected its answer, and then 64 KiB, in {timeout:g} s"
            ) from None
        if isinstance(cause, IncompleteRead):
            raise InputError(f"{url}: cut off before its end") from None
        raise InputError(f"{url}: cannot be fetched: {reason(cause)}") from None


def _copied(read: Callable[[int], bytes], name: str, max_bytes: int) -> IO[bytes]:
    """What `read` gives, up to its end, in a temporary file."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - handed out
    try:
        left = max_bytes
        while part := read(CHUNK):
            if not isinstance(part, bytes):
                raise InputError(f"{name}: expected a file that gives bytes, got {type(part).__name__}")
            left -= len(part)
            if left < 0:
                raise InputError(f"{name}: expected at most {_megabytes(max_bytes)}, there is more")
            file.write(part)
        return file
    except BaseException:
        file.close()
        raise


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"
