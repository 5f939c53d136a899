"""A service that costs next to nothing: it answers every PUT with the operation that the contract describes.

A bare asyncio protocol in a process of its own, on a core of its own. It reads no JSON: the members of the request are
echoed as the bytes they came in, behind an id and a status. What is measured then is the client. It answers once so
many have asked: a client slower than the service would else have only a few of its connections in use at a time.
"""

import asyncio
import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
)
_BODY = (
    b'{"song":{"id":"op_7k2q9xm4c1v8n3b5z7%08d","status":"processing","created_at":"2026-11-22T10:00:00Z",'
    b'"outputs":null,"error":null,%b}'
)


class Echo(asyncio.Protocol):
    """One kept-alive connection; the client sends its next request when it has read the answer to the last."""

    def __init__(self, waiting: list[tuple[asyncio.Transport, bytes]], together: int) -> None:
        self._waiting, self._together = waiting, together

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for type checkers: it is a stream
        self._transport, self._read = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer once the whole body is there."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not end or found is None or len(body) < int(found[1]):
            return
        self._read = b""
        self._waiting.append((self._transport, body[1:]))
        if len(self._waiting) == self._together:
            for number, (transport, members) in enumerate(self._waiting):
                answer = _BODY % (number, members)
                transport.write(_HEAD % len(answer) + answer)
            self._waiting.clear()


@contextmanager
def serve(together: int) -> Iterator[str]:
    """Run the service on another core than this process, which stays on its own, and give its origin."""
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there, cores[-1], together), daemon=True)
    process.start()
    os.sched_setaffinity(0, {cores[0]})
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        os.sched_setaffinity(0, cores)
        process.terminate()
        process.join()


def _run(pipe: Connection, core: int, together: int) -> None:
    os.sched_setaffinity(0, {core})
    asyncio.run(_serve(pipe, together))


async def _serve(pipe: Connection, together: int) -> None:
    waiting: list[tuple[asyncio.Transport, bytes]] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(waiting, together), "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
