"""Ports of this machine that nobody else is given."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Hold a port that refuses connections until a server is started on it.

    A port that is only looked up and freed may be given to another process before it is used.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that sets it, too, may listen there
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
