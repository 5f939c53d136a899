"""A proxy that closes each connection soon after a response, as load balancers do, or when it is reused."""

import asyncio
import contextlib
import random
from typing import Self
from urllib.parse import urlsplit

from helpers.ports import stop_listening


class ClosingProxy:
    """Passes bytes on to a server, and closes the client's connection soon after each answer.

    Args:
        url: of the server.
        after: seconds, from and to; None: only once another request comes, which gets no response.
    """

    def __init__(self, url: str, *, after: tuple[float, float] | None = (0.005, 0.02)) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._after = after
        self._random = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        host, port = self._listener.sockets[0].getsockname()
        self.url: str = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_listening(self._listener)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            upstream, up = await asyncio.open_connection(*self._server)
        except BaseException:
            self._tasks.discard(task)
            writer.close()
            raise
        self.connections += 1
        sending = asyncio.create_task(self._pump(reader, up, writer))
        try:
            await self._answer(upstream, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the client went away, or the test did
        finally:
            self._tasks.discard(task)
            sending.cancel()
            for one in (up, writer):
                one.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._after is None and writer in self._answered:
                    writer.transport.abort()
                    up.close()
                    return
                up.write(data)

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on until nothing has followed one for long enough."""
        pause: float | None = None
        while True:
            try:
                data = await asyncio.wait_for(upstream.read(65536), pause)
            except TimeoutError:
                return
            if not data:
                return
            writer.write(data)
            await writer.drain()
            self._answered.add(writer)
            pause = self._after and self._random.uniform(*self._after)
