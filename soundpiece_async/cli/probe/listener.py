"""Receives the webhooks of the probe."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import cast

import anyio
import anyio.lowlevel
import attrs
from aiohttp import web

TURNS = 3
"""Turns of the event loop from accepting a connection to its handler: asyncio loses one if its server closes before."""


@attrs.frozen(kw_only=True)
class Delivery:
    """One delivery: headers with lower-case names, and body."""

    headers: Mapping[str, str]
    body: bytes


@attrs.define(eq=False)
class Listener:
    """Stores the first delivery."""

    first: Delivery | None = None
    _received: anyio.Event = attrs.field(factory=anyio.Event)

    def store(self, delivery: Delivery) -> None:
        """Store a delivery, if it is the first."""
        self.first = self.first or delivery
        self._received.set()

    async def wait(self, *, timeout: float) -> Delivery | None:
        """Wait for the first delivery; return None after ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            await self._received.wait()
        return self.first


@asynccontextmanager
async def listen(port: int) -> AsyncGenerator[Listener]:
    """Listen on a local port until the end of the block, and answer every delivery with 204."""
    listener = Listener()

    async def store(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        listener.store(Delivery(headers=headers, body=await request.read()))
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/{path:.*}", store)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    loop, protocol = asyncio.get_running_loop(), cast("web.Server", runner.server)  # made by setup
    try:
        server = await loop.create_server(protocol, port=port)
        try:
            yield listener
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(NotImplementedError):  # Windows' loop accepts in another way
                    for socket in server.sockets:
                        loop.remove_reader(socket.fileno())
                for _ in range(TURNS):
                    await anyio.lowlevel.checkpoint()
                server.close()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
