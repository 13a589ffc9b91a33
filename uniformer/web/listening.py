"""Where a server of this room listens."""

from __future__ import annotations

import socket

from uniformer.errors import InputError, reason


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises `InputError` where that cannot be, as where the port is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of {host}: {reason(error)}; expected a free one, give another --port"
        ) from None
