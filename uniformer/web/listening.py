"""Where the servers of this room listen, and what that is called."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from uniformer.errors import InputError, reason

LOOPBACK = "127.0.0.1"  #: nobody but this machine reaches it


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that listens there, for 0 at a free port. Raises `InputError` where that cannot be."""
    if not host:  # would be everywhere: a variable of a shell that is not set
        raise InputError(f"expected a host to listen at, such as {LOOPBACK}, got none")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        is_port = isinstance(error, OverflowError) or error.errno in (errno.EADDRINUSE, errno.EACCES)
        why, other = reason(error).partition(" (while ")[0], "port" if is_port else "host"
        raise InputError(f"cannot listen on {host}, port {port}: {why}; give another --{other}") from None


def reaches_others(host: str) -> bool:
    """Whether others than this machine may reach what listens there, as far as it can be told."""
    if not host:
        return False  # nothing can
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return True
    return not all(ip_address(place[0]).is_loopback for *_, place in found)


def address_of(listener: socket.socket, host: str) -> str:
    """Of a server that listens there, asked for by the name of `host`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


@contextmanager
def told_from(level: int, *names: str) -> Iterator[None]:
    """Only what is that grave, of what loggers of these names have to say; several may ask for that at a time."""

    def is_grave(record: logging.LogRecord) -> bool:
        return record.levelno >= level

    loggers = list(map(logging.getLogger, names))
    for logger in loggers:
        logger.addFilter(is_grave)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_grave)
