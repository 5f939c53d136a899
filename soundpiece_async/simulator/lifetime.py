"""The simulator's root task, and its listening sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import attrs
from aiohttp import web

_GRACE = 1.0
"""Real seconds for connections to notice that the simulator closes; each needs but a turn of the loop."""

_BACKLOG = 128
"""Connections that wait to be accepted; asyncio's own default is lower."""

_TURNS = 3
"""Turns of the loop from accepting a connection to its transport."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@attrs.define(eq=False)
class ServerLifetime:
    """Runs a coroutine in its own task between two calls, which may come from different tasks.

    Test fixtures enter and leave in different tasks, and no cancel scope can span those. So `live` gets a task, the
    only one that is no child of a group; it sets the first event when it is open, and closes once the second is set.
    """

    live: Callable[[anyio.Event, anyio.Event], Coroutine[object, object, None]]
    _closing: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    async def begin(self) -> None:
        """Start, and come back when it is open; what prevents that is raised here."""
        if self._task is not None:
            raise RuntimeError("a Simulator is opened once: make another one")
        opened = anyio.Event()
        self._task = asyncio.create_task(self.live(opened, self._closing), name="soundpiece simulator")
        self._task.add_done_callback(lambda _: opened.set())
        try:
            await opened.wait()
        except BaseException:
            # left while it opened: nobody else will close it
            await self.end()
            raise
        if self._task.done():
            await self._task

    async def end(self) -> None:
        """Close, and come back when nothing is left."""
        self._closing.set()
        if self._task is not None:
            # also when cancelled, the sockets are closed in order
            with anyio.CancelScope(shield=True):
                await self._task

    def call(self, function: Callable[[], None]) -> None:
        """Call something in the loop this lives in, from that loop or from any other thread."""
        loop = None if self._task is None else self._task.get_loop()
        if loop is None or not loop.is_running():
            raise RuntimeError("the Simulator's loop does not run now: nothing can be done to it")
        if _is_running_here(loop):
            function()
            return

        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), loop).result()


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # none runs in this thread
        return False


def make_reachable(url: str) -> str:
    """Return the URL by which a client on this machine reaches a server that listens on all interfaces."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def share_host(url: str, other: str) -> str:
    """Return the scheme and host of one URL with the port of another."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}")
    return f"{parts.scheme}://{host}:{urlsplit(other).port}"


@asynccontextmanager
async def listen(handler: Handler, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve one origin, whose URL this gives; a client that leaves cancels its handler, so a lost poll is known.

    Before Python 3.13, asyncio loses a connection that it accepts in the turn of the loop in which its server closes:
    so accepting ends some turns before that.
    """
    loop = asyncio.get_running_loop()
    server = web.Server(handler, handler_cancellation=True, access_log=None)
    listener = await loop.create_server(server, host, port, backlog=_BACKLOG)
    try:
        name, bound, *_ = listener.sockets[0].getsockname()
        yield f"http://[{name}]:{bound}" if ":" in name else f"http://{name}:{bound}"
    finally:
        try:
            with suppress(NotImplementedError):  # Windows' loop accepts in another way
                for socket in listener.sockets:
                    loop.remove_reader(socket.fileno())
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        finally:
            listener.close()
            server.pre_shutdown()
            await server.shutdown(_GRACE)
