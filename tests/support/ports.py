"""A port for a server that has to be told its number before it listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_port() -> Iterator[int]:
    """Yield a port of this machine that the kernel gives to nobody else until the block ends.

    Who is told its number can listen there, as long as it allows an address to be used again, which
    all servers do. One that was closed before would be anybody's who asks for a port meanwhile.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield int(keeper.getsockname()[1])
