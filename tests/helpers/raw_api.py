"""The API on raw sockets: sends responses that no HTTP library would, and records requests.

Each request is answered by the next ``Responder`` of the script, and honestly when the script is used up: one operation
for each idempotency key, ready when ``ready`` is set, kept-alive connections.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

import attrs

from helpers.ports import stop_listening
from soundpiece_async import RetryPolicy, Settings, Timeouts


@attrs.frozen
class Asked:
    """A request as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """One connection, as a responder sees it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Send pieces, with so many seconds before each."""
        for piece in pieces:
            await asyncio.sleep(pause)
            self._writer.write(piece)
            await self._writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN, once the responder returns."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Responder = Callable[[Peer, "bytes"], Awaitable[None]]
"""Called with the connection and the honest response; the connection is closed when it returns."""


KEY = "spk_for_tests"


def raw_settings(url: str, *, elapsed: float = 0.0, timeouts: Timeouts | None = None, api_key: str = KEY) -> Settings:
    """Return settings for a server on raw sockets; ``elapsed``: seconds, ``RetryPolicy.submit_max_elapsed``."""
    times = Timeouts() if timeouts is None else timeouts
    return Settings(api_key=api_key, base_url=url, timeouts=times, retries=RetryPolicy(submit_max_elapsed=elapsed))


def http(
    body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: application/json\r\n", keep: bool = False
) -> bytes:
    """Return the bytes of a response; the connection is closed after it unless ``keep``."""
    ending = "" if keep else "Connection: close\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{ending}{headers}\r\n".encode() + body


class RawApi:
    """Listens inside ``async with``.

    Attributes:
        requests: all there were.
        created: the operations' ids by idempotency key.
        open: connections open now.
        ready: whether operations are ready when they are looked at.
        output: an output of every operation that is ready.
        always: the responder for every request, once the script is used up.
    """

    def __init__(
        self, *script: Responder, blind: Iterable[Responder] = (), tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        """Set the scripted responses; those in ``blind`` replace the request's effect."""
        self._port = port
        self.script = deque(script)
        self.blind = frozenset(blind)
        self.requests: list[Asked] = []
        self.created: dict[str, str] = {}
        self.open = 0
        self.ready = True
        self.always: Responder | None = None
        self.output: dict[str, Any] = {"url": "http://127.0.0.1:9/a.flac?sig=1", "expires_at": None, "duration": 1.0}
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await stop_listening(self._server)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The base URL."""
        assert self._server is not None
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def puts(self) -> list[bytes]:
        """The bodies of all PUTs."""
        return [asked.body for asked in self.requests if asked.method == "PUT"]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            while await self._answer(await _read(reader), Peer(writer), reader):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test did
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, asked: Asked, peer: Peer, reader: asyncio.StreamReader) -> bool:
        """Answer one request; return whether the connection is kept."""
        self.requests.append(asked)
        responder = self.script.popleft() if self.script else self.always
        honest = b"" if responder in self.blind else self._do(asked)
        if responder is None:
            await peer.send(honest)
            return True
        responding = asyncio.ensure_future(responder(peer, honest))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((responding, leaving), return_when=asyncio.FIRST_COMPLETED)
            if responding.done():
                responding.result()
        finally:
            responding.cancel()
            leaving.cancel()
            await asyncio.gather(responding, leaving, return_exceptions=True)
        return False

    def _do(self, asked: Asked) -> bytes:
        """Process a request, and return the honest response."""
        if asked.method == "PUT":
            members = json.loads(asked.body)
            identity = self.created.setdefault(members["idempotency_key"], f"op_{len(self.created):026d}")
            members |= {"id": identity, "status": "processing"}
        else:
            identity = asked.target.partition("id=")[2].partition("&")[0]
            members = {"id": identity, "status": "processing"}
            if self.ready:
                members |= {"status": "ready", "output": self.output, "error": None}
        return http(json.dumps({"fx": members}).encode(), keep=True)


async def _read(reader: asyncio.StreamReader) -> Asked:
    request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    method, target, _ = request.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)
