"""Where the servers of this room listen, and what that is called."""

from __future__ import annotations

import socket

from uniformer.errors import InputError, reason


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that listens there, for 0 at a free port. Raises `InputError` where that cannot be."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {reason(error)}; give another --port") from None


def address_of(listener: socket.socket, host: str) -> str:
    """Of a server that listens there, asked for by the name of `host`."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
