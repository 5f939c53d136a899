"""An output host on raw sockets: sends responses that HTTP libraries refuse to send, and records requests.

Each request is answered by the next response of the script, and by the default one after the last.
``ScriptedResponse()`` is honest: lengths, strong ETags, ranges, If-Range. One request per connection.
"""

import asyncio
import contextlib
import hashlib
import re
import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import attrs

from helpers.ports import stop_listening

PIECE = 16_384
SAME = "(the body's own)"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@attrs.frozen(kw_only=True)
class ScriptedResponse:
    """How one request is answered. Positions are bytes of the body of that response.

    Attributes:
        status: answer with this status and no file.
        headers: sent too.
        body: the file, instead of the server's.
        etag: the ETag; None: none.
        framing: how the end of the body is marked; ``close``: by closing, so that a cut cannot be noticed.
        ranges: False: a Range is ignored, and answered 200.
        shift: a 206 begins so much later than asked for, or earlier.
        most: a 206 brings at most so many bytes.
        announce: the length and the total stated are so much larger than the truth.
        total: False: a 206 or 416 states no total.
        excess: junk sent behind the end.
        cut: break off after so many bytes.
        stall: seconds of silence before breaking off. Not quite 0 as a rule: a client library may throw away what it
            has not given out yet when it sees the end.
        reset: break off with RST, not FIN.
        pause: seconds between pieces.
        piece: bytes of a piece.
        until: the second piece and those behind it are sent once this is set.
        endless: after the body, these bytes are sent without end.
        version: of HTTP.
        status_of_file: instead of 200 or 206.
        content_range: instead of the true one, on a 200 as well.
    """

    status: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes | None = None
    etag: str | None = SAME
    framing: Literal["length", "chunked", "close"] = "length"
    ranges: bool = True
    shift: int = 0
    most: int | None = None
    announce: int = 0
    total: bool = True
    excess: bytes = b""
    cut: int | None = None
    stall: float = 0.02
    reset: bool = False
    pause: float = 0.0
    piece: int = PIECE
    until: asyncio.Event | None = None
    endless: bytes = b""
    version: str = "1.1"
    status_of_file: int | None = None
    content_range: str | None = None


@attrs.frozen(kw_only=True)
class Asked:
    """A request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")


class RawServer:
    """Serves ``files``, by path; listens inside ``async with``.

    Attributes:
        requests: all there were.
        sent: bytes of bodies handed to the system.
        most_open: bodies on their way at the same time, at most.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        script: Iterable[ScriptedResponse] = (),
        default: ScriptedResponse | None = None,
    ) -> None:
        self.files = dict(files)
        self.script = deque(script)
        self.default = default or ScriptedResponse()
        self.requests: list[Asked] = []
        self.sent = 0
        self.most_open = 0
        self._open: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None] | None] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await stop_listening(self._server)
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    def url(self, path: str = "/song.flac", query: str = "sig=secret") -> str:
        """Return the URL of a file."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}{path}?{query}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [request.range for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._busy.add(task)
        self.most_open = max(self.most_open, len(self._busy))
        try:
            asked = _parse(await reader.readuntil(b"\r\n\r\n"))
            self.requests.append(asked)
            await self._answer(asked, self.script.popleft() if self.script else self.default, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test did
        finally:
            self._open.discard(task)
            self._busy.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, asked: Asked, scripted: ScriptedResponse, writer: asyncio.StreamWriter) -> None:
        body = scripted.body if scripted.body is not None else self.files.get(asked.target.partition("?")[0])
        if scripted.status is not None or body is None:
            writer.write(_head(scripted.status or 404, {"Content-Length": "0", **scripted.headers}))
            return
        status, headers, payload = _cut(body, asked, scripted)
        writer.write(_head(status, headers | dict(scripted.headers), version=scripted.version))
        payload += scripted.excess
        kept = payload if scripted.cut is None else payload[: scripted.cut]
        for start in range(0, len(kept), scripted.piece):
            await asyncio.sleep(scripted.pause)
            if start and scripted.until is not None:
                await scripted.until.wait()
            piece = kept[start : start + scripted.piece]
            if start + scripted.piece >= len(kept):
                self._busy.discard(asyncio.current_task())  # the client may know the end before we do
            await self._send(piece, scripted, writer)
        while scripted.endless:
            await asyncio.sleep(scripted.pause)
            await self._send(scripted.endless, scripted, writer)
        if scripted.cut is None and scripted.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        if scripted.cut is not None or scripted.announce:
            await asyncio.sleep(
                max(scripted.stall, 0.02)
            )  # what was sent arrives: a client drops what it has not read yet
        if scripted.reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _send(self, piece: bytes, scripted: ScriptedResponse, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if scripted.framing == "chunked" else piece)
        await writer.drain()
        self.sent += len(piece)


def _parse(head: bytes) -> Asked:
    request, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = request.split(" ")
    return Asked(
        method=method,
        target=target,
        headers={name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)},
    )


def _cut(body: bytes, asked: Asked, scripted: ScriptedResponse) -> tuple[int, dict[str, str], bytes]:
    """Find status, headers and the bytes a request is answered with, as the scripted response says."""
    status, headers, payload = _cut_honestly(body, asked, scripted)
    if scripted.content_range is not None:
        headers["Content-Range"] = scripted.content_range
    if scripted.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif scripted.framing == "length":
        headers["Content-Length"] = str(len(payload) + scripted.announce)
    return scripted.status_of_file or status, headers, payload


def _cut_honestly(body: bytes, asked: Asked, scripted: ScriptedResponse) -> tuple[int, dict[str, str], bytes]:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"' if scripted.etag == SAME else scripted.etag
    headers = {"Content-Type": "audio/flac"} | ({"ETag": etag} if etag is not None else {})
    match = _RANGE.fullmatch(asked.range or "")
    if match is None or not scripted.ranges or asked.headers.get("if-range") not in (None, etag):
        return 200, headers, body
    total = str(len(body) + scripted.announce) if scripted.total else "*"
    last = match[2] if match[1] else ""
    first = max(0, (int(match[1]) if match[1] else len(body) - int(match[2])) + scripted.shift)
    if first >= len(body):
        return 416, headers | {"Content-Range": f"bytes */{total}"}, b""
    end = min(len(body), int(last or len(body)) + 1, first + (scripted.most or len(body)))
    return 206, headers | {"Content-Range": f"bytes {first}-{end - 1}/{total}"}, body[first:end]


def _head(status: int, headers: Mapping[str, str], *, version: str = "1.1") -> bytes:
    lines = [
        f"HTTP/{version} {status} Whatever",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
