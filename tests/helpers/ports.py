"""Reserved ports, and servers that lose no connection while they close."""

import asyncio
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


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server once the connections that it has accepted have their transports and tasks.

    Asyncio before 3.13 loses a connection that it accepts in the turn of the loop in which its server closes.
    """
    for one in server.sockets:
        asyncio.get_running_loop().remove_reader(one.fileno())
    for _ in range(5):
        await asyncio.sleep(0)
    server.close()
