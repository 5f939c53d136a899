"""Ten thousand held polls: what each takes of memory and of a core, and how soon the end of each is known.

The simulator would need more memory and time to hold so many than the client that is measured, so the server here is a
bare asyncio protocol in a process of its own: it reads the head of a GET, sends nothing, and on request lets
all operations end within three seconds. The client is a fresh process, so that its memory is that of the polls.
"""

import asyncio
import gc
import json
import multiprocessing
import random
import re
import resource
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import attrs
from yarl import URL

from soundpiece_async import Handle, Limits, Session, Settings, Timeouts
from soundpiece_async._operations import Reader
from soundpiece_async._poller import Poller
from soundpiece_async._transport import Transport

ROUTE = "create.new_fx"
KEY = "spk_benchmark"
BACKLOG = 4096
OPENED = 1000  # polls a second: all at once, a busy machine may need longer than a connection is allowed to take
ENDING = 3.0  # seconds in which all operations end
SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit the memory that is measured

BARE, OURS, WAITING = "bare aiohttp", "ours", "ours, waiting only"

Wait = Callable[[str], Awaitable[object]]


@attrs.frozen
class Held:
    """What one client showed: KiB and CPU seconds per poll, the share of a core while held, lateness in seconds."""

    kib: float
    opening: float
    core: float
    ending: float = 0.0
    lags: tuple[float, ...] = ()

    def lag(self, share: float) -> float:
        """Return the lateness that this share of the operations did not exceed, in seconds."""
        return sorted(self.lags)[min(int(share * len(self.lags)), len(self.lags) - 1)]

    def __str__(self) -> str:
        row = f"{self.kib:9.1f} {self.opening * 1e6:11.0f} {self.core:12.3%}"
        if self.lags:
            lags = [1000 * self.lag(share) for share in (0.5, 0.99, 1)]
            row += f" {self.ending * 1e6:10.0f} {lags[0]:15.1f} {lags[1]:6.1f} {lags[2]:7.1f}"
        return row


class Holder(asyncio.Protocol):
    """One connection of the server: notes who asks, and answers when the operation ends."""

    def __init__(self, note: Callable[[str, "Holder"], None]) -> None:
        self._note = note
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Hold the poll once its head is complete."""
        self._head += data
        if b"\r\n\r\n" in self._head and (found := re.search(rb"id=(op_\w{26})", self._head)):
            self._head = b""
            self._note(found[1].decode(), self)

    def answer(self, identity: str) -> float:
        """Report the operation as ready; return the time of the report."""
        outputs = [{"url": f"https://files.example.com/{identity}.flac"}]  # without any it would be asked again
        body = json.dumps({"fx": {"id": identity, "status": "ready", "outputs": outputs}}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        assert isinstance(self._transport, asyncio.WriteTransport)  # noqa: S101 - for type checkers: it is a stream
        now = time.monotonic()
        self._transport.write(head.encode() + body)
        return now


def serve(pipe: Connection, count: int) -> None:
    """Be the server: give the port, a word when `count` polls are held, and when told to, let all of them end."""
    raise_file_limit()
    asyncio.run(_serve(pipe, count))


async def _serve(pipe: Connection, count: int) -> None:
    loop, complete, over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    held, ended, rng = dict[str, Holder](), dict[str, float](), random.Random(1)

    def note(identity: str, holder: Holder) -> None:
        held[identity] = holder
        if len(held) == count:
            complete.set()

    def end(identity: str) -> None:
        ended[identity] = held[identity].answer(identity)
        if len(ended) == count:
            over.set()

    server = await loop.create_server(lambda: Holder(note), "127.0.0.1", 0, backlog=BACKLOG)
    pipe.send(server.sockets[0].getsockname()[1])
    await complete.wait()
    pipe.send(count)
    await asyncio.to_thread(pipe.recv)
    for identity in held:
        loop.call_later(rng.uniform(0, ENDING), end, identity)
    await over.wait()
    pipe.send(ended)


def raise_file_limit() -> None:
    """Allow this process as many open files as the machine lets it have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@asynccontextmanager
async def _open_ours(url: str, slots: int) -> AsyncIterator[Wait]:
    patience = Timeouts(poll=600)  # this server holds for longer than the contract's 20 s
    settings = Settings(api_key=KEY, base_url=url, limits=Limits(polls=slots), timeouts=patience)
    async with Session(settings) as session:
        yield lambda identity: session.wait(Handle(ROUTE, identity))


@asynccontextmanager
async def _open_bare(url: str, slots: int) -> AsyncIterator[Wait]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=slots)) as session:

        async def wait(identity: str) -> object:
            target = URL(f"{url}/v1/{ROUTE}?id={identity}&wait=true", encoded=True)
            async with session.get(target, timeout=aiohttp.ClientTimeout(total=600)) as response:
                return await response.json()

        yield wait


CLIENTS = {BARE: _open_bare, OURS: _open_ours, WAITING: _open_ours}


def hold(client: str, count: int, *, idle: float) -> Held:
    """Hold `count` polls with one client, in a fresh process, or one while the others wait.

    Args:
        client: One of `CLIENTS`.
        count: How many tasks wait.
        idle: Seconds over which the share of a core is taken, and after which memory is: as many as `Timeouts.connect`
            or more, because until then the loop keeps the timers of connections long made (2 KiB each).
    """
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(_hold, client, count, idle).result()


def _hold(client: str, count: int, idle: float) -> Held:
    raise_file_limit()
    here, there = SPAWN.Pipe()
    slots = 1 if client == WAITING else count
    server = SPAWN.Process(target=serve, args=(there, slots))
    server.start()
    try:
        return asyncio.run(_measure(client, count, here, slots=slots, idle=idle))
    finally:
        server.terminate()
        server.join()


async def _measure(client: str, count: int, pipe: Connection, *, slots: int, idle: float) -> Held:
    """Open, watch, and let end; one task per operation waits, as a user's would."""
    url = f"http://127.0.0.1:{pipe.recv()}"
    known: dict[str, float] = {}

    async def follow(wait: Wait, identity: str) -> None:
        await wait(identity)
        known[identity] = time.monotonic()

    async with CLIENTS[client](url, slots) as wait:
        before, begun = _weigh_process(), time.process_time()
        tasks = []
        for number in range(count):
            tasks.append(asyncio.create_task(follow(wait, f"op_{number:026d}")))
            await asyncio.sleep(0 if len(tasks) % OPENED else 1)
        await asyncio.to_thread(pipe.recv)
        opened = time.process_time() - begun
        begun = time.process_time()
        await asyncio.sleep(idle)
        core = (time.process_time() - begun) / idle
        kib = (_weigh_process() - before) / count
        if client == WAITING:
            await _cancel(tasks)
            return Held(kib=kib, opening=opened / count, core=core)
        begun = time.process_time()
        pipe.send("end")
        await asyncio.wait(tasks)
        ending = (time.process_time() - begun) / count
    ended: dict[str, float] = await asyncio.to_thread(pipe.recv)
    lags = tuple(known[identity] - ended[identity] for identity in known)
    return Held(kib=kib, opening=opened / count, core=core, ending=ending, lags=lags)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _weigh_process() -> float:
    """Return the memory this process holds, in KiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024


def weigh_waiting(count: int) -> tuple[float, float]:
    """Return the KiB per waiting operation: those of scheduler and poller, and those of one more waiter's task."""
    return asyncio.run(_weigh_waiting(count))


async def _weigh_waiting(count: int) -> tuple[float, float]:
    settings = Settings(api_key=KEY, base_url="http://127.0.0.1:9", limits=Limits(polls=1))
    transport = Transport(settings)  # not opened: no poll leaves, everybody waits
    poller = Poller(transport, Reader(transport), settings=settings)
    handles = [Handle(ROUTE, f"op_{number:026d}") for number in range(count)]
    weights, tasks = [], []

    async def follow(handle: Handle) -> None:
        await poller.wait(handle, known=None, timeout=None)

    tracemalloc.start()
    for _ in range(2):  # the second waiter of an operation costs its task alone
        before = tracemalloc.get_traced_memory()[0]
        tasks += [asyncio.create_task(follow(handle)) for handle in handles]
        await asyncio.sleep(1)
        weights.append((tracemalloc.get_traced_memory()[0] - before) / count / 1024)
    tracemalloc.stop()
    await _cancel(tasks)
    return weights[0] - weights[1], weights[1]
