"""Small fakes of five APIs in a process of their own: ours, Runway's, OpenAI's videos, Replicate's and fal's queue.

Each knows what its client needs to submit, to wait and to have the result, and no more. All share one bare asyncio
protocol, because a server that costs as much as the client under test would be what is measured. Operations end after
times drawn from a seeded generator; the monotonic clock is the same in all processes of a Linux machine, so that a
client may compare when it knew with when the work ended.
"""

import asyncio
import json
import multiprocessing
import random
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import attrs

HOLD = 20.0  # seconds our service holds a `wait=true` at most
NOW = "2026-11-22T10:00:00Z"
LINK = "https://cdn.example.com/audio/3f2a9c1e.flac?sig=EXAMPLE"
BACKLOG = 4096
SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit the memory that is measured

OURS, RUNWAY, OPENAI, REPLICATE, FAL = "ours", "runwayml", "openai", "replicate", "fal-client"

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HOST = re.compile(rb"\r\nhost: *(\S+)", re.IGNORECASE)


@attrs.frozen
class Work:
    """One operation: when it ends, its request, and when it was created."""

    id: str
    due: float
    asked: dict[str, Any]
    created: str


@attrs.define
class Tally:
    """What a server saw since it was last asked to begin: requests, and connections open at once."""

    requests: int = 0
    connections: int = 0
    most_connections: int = 0


@attrs.frozen
class Request:
    """One request, read."""

    method: str
    host: str
    path: str
    query: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body; empty when it is no JSON (a form)."""
        return json.loads(self.body) if self.body[:1] == b"{" else {}


class Works:
    """The operations of one service; on trial they end at once, so that a client can warm up."""

    def __init__(self, shortest: float, longest: float, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._range = shortest, longest
        self.trial = True
        self.all: dict[str, Work] = {}

    @property
    def now(self) -> float:
        """The loop's clock, which is the monotonic one."""
        return asyncio.get_running_loop().time()

    def add(self, asked: dict[str, Any]) -> Work:
        """Begin an operation."""
        lasts = 0.0 if self.trial else self._random.uniform(*self._range)
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        work = Work(f"op_{len(self.all):08d}k2q9xm4c1v8n3b5z7a", self.now + lasts, asked, created)
        self.all[work.id] = work
        return work

    def ended(self, work: Work) -> bool:
        """Return whether it is over."""
        return work.due <= self.now


Reply = tuple[float, Callable[[], object]]
"""When to answer (0 for at once), and what, made at that time."""


def answer_ours(works: Works, request: Request) -> Reply:
    """PUT submits; GET asks, and is held when it says so (docs/api.md#long-polls)."""

    def tell() -> object:
        over = works.ended(work)
        output = {"url": LINK, "expires_at": NOW, "duration": 2.5} if over else None
        news = {"status": "ready" if over else "processing", "output": output, "error": None}
        return {"fx": {"id": work.id, "created_at": work.created, **work.asked, **news}}

    if request.method == "PUT":
        work = works.add(request.json)
        return 0, tell
    work = works.all[request.query["id"][0]]
    held = request.query.get("wait") == ["true"]
    return (min(work.due, works.now + HOLD) if held else 0), tell


def answer_runway(works: Works, request: Request) -> Reply:
    """POST /v1/sound_effect, GET /v1/tasks/<id>."""
    if request.method == "POST":
        work = works.add(request.json)
        return 0, lambda: {"id": work.id, "estimatedCost": {"credits": 5}}
    work = works.all[request.path.rpartition("/")[2]]
    state: dict[str, object] = {"status": "RUNNING", "progress": 0.5, "estimatedCost": {"credits": 5}}
    if works.ended(work):
        state = {"status": "SUCCEEDED", "output": [LINK], "cost": {"credits": 5}}
    return 0, lambda: {"id": work.id, "createdAt": NOW, **state}


def answer_openai(works: Works, request: Request) -> Reply:
    """POST /v1/videos, GET /v1/videos/<id>."""
    work = works.add({}) if request.method == "POST" else works.all[request.path.rpartition("/")[2]]
    over = works.ended(work)
    state = {"status": "completed" if over else "in_progress", "progress": 100 if over else 50}
    video = {"object": "video", "model": "sora-2", "created_at": 1, "seconds": "4", "size": "720x1280"}
    return 0, lambda: {"id": work.id, **video, **state}


def answer_replicate(works: Works, request: Request) -> Reply:
    """POST /v1/predictions, GET /v1/predictions/<id>."""
    work = works.add(request.json) if request.method == "POST" else works.all[request.path.rpartition("/")[2]]
    over = works.ended(work)
    state = {"status": "succeeded" if over else "processing", "output": LINK if over else None}
    urls = {"get": f"https://api.example.com{request.path}/{work.id}", "cancel": f"https://api.example.com/{work.id}"}
    prediction = {"model": "owner/fx", "version": "0" * 64, "input": work.asked.get("input"), "logs": "", "urls": urls}
    return 0, lambda: {"id": work.id, **prediction, "error": None, "created_at": NOW, **state}


def answer_fal(works: Works, request: Request) -> Reply:
    """POST /<app>, GET /<app>/requests/<id>/status, GET /<app>/requests/<id>."""
    if request.method == "POST":
        work = works.add(request.json)
        url = f"http://{request.host}{request.path}/requests/{work.id}"
        urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return 0, lambda: {"request_id": work.id, **urls, "queue_position": 0}
    work = works.all[request.path.split("/requests/")[1].partition("/")[0]]
    if not request.path.endswith("/status"):
        return 0, lambda: {"audio": {"url": LINK, "content_type": "audio/flac"}, "request_id": work.id}
    if works.ended(work):
        return 0, lambda: {"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 9.0}}
    return 0, lambda: {"status": "IN_PROGRESS", "logs": None}


ANSWERS: dict[str, Callable[[Works, Request], Reply]] = {
    OURS: answer_ours,
    RUNWAY: answer_runway,
    OPENAI: answer_openai,
    REPLICATE: answer_replicate,
    FAL: answer_fal,
}


class Connected(asyncio.Protocol):
    """One connection: reads requests, and answers each at its time."""

    def __init__(self, answer: Callable[[Request], Reply], tally: Tally) -> None:
        self._answer, self._tally = answer, tally
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for type checkers: it is a stream
        self._transport = transport
        self._tally.connections += 1
        self._tally.most_connections = max(self._tally.most_connections, self._tally.connections)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        """Count it out."""
        self._tally.connections -= 1

    def data_received(self, data: bytes) -> None:
        """Answer what is complete: a client sends its next request after the answer."""
        self._unread += data
        head, end, body = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._unread = b""
        self._tally.requests += 1
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        path, _, query = target.partition("?")
        at, tell = self._answer(Request(method, _read_host(head), path, parse_qs(query), body))
        if at:
            asyncio.get_running_loop().call_at(at, self._send, tell)
        else:
            self._send(tell)

    def _send(self, tell: Callable[[], object]) -> None:
        if self._transport.is_closing():
            return
        body = json.dumps(tell(), separators=(",", ":")).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _read_host(head: bytes) -> str:
    found = _HOST.search(head)
    return found[1].decode() if found else ""


@attrs.frozen
class Service:
    """A fake that runs in another process."""

    url: str
    _pipe: Connection

    def begin(self) -> None:
        """End the trial: operations take their time, requests and connections are counted."""
        self._pipe.send("begin")
        self._pipe.recv()

    def look(self) -> tuple[Tally, dict[str, float]]:
        """Return the counts, and when each operation (by its id) ended, or will."""
        self._pipe.send("look")
        seen: tuple[Tally, dict[str, float]] = self._pipe.recv()
        return seen


@contextmanager
def serve(api: str, *, shortest: float, longest: float, seed: int = 1) -> Iterator[Service]:
    """Run one of the fakes; its operations take between `shortest` and `longest` seconds."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(there, api, Works(shortest, longest, seed=seed)))
    process.start()
    try:
        yield Service(f"http://127.0.0.1:{here.recv()}", here)
    finally:
        process.terminate()
        process.join()


def weigh_process() -> float:
    """Return the memory this process holds, in KiB; the caller collects garbage first."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def _run(pipe: Connection, api: str, works: Works) -> None:
    asyncio.run(_serve(pipe, api, works))


async def _serve(pipe: Connection, api: str, works: Works) -> None:
    tally = Tally()
    answer = ANSWERS[api]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connected(lambda request: answer(works, request), tally), "127.0.0.1", 0, backlog=BACKLOG
    )
    pipe.send(server.sockets[0].getsockname()[1])
    while True:
        if await asyncio.to_thread(pipe.recv) == "begin":
            works.trial = False
            tally.requests, tally.most_connections = 0, tally.connections
            pipe.send(None)
        else:
            pipe.send((tally, {work.id: work.due for work in works.all.values()}))
