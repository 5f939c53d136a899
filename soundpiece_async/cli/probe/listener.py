"""Receives the webhooks of the probe, as they come."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import attrs
from aiohttp import web


@attrs.frozen(kw_only=True)
class Delivered:
    """One delivery: its headers, with names in lower case, and its body."""

    headers: Mapping[str, str]
    body: bytes


@attrs.define(eq=False)
class Listener:
    """The first delivery, once it has come."""

    first: Delivered | None = None
    _came: anyio.Event = attrs.field(factory=anyio.Event)

    def take(self, delivery: Delivered) -> None:
        """Keep a delivery, if it is the first."""
        self.first = self.first or delivery
        self._came.set()

    async def wait(self, *, timeout: float) -> Delivered | None:
        """Wait for the first delivery; None after ``timeout`` seconds without."""
        with anyio.move_on_after(timeout):
            await self._came.wait()
        return self.first


@asynccontextmanager
async def listen(port: int) -> AsyncGenerator[Listener]:
    """Listen on a port of this machine until the end of the block; every delivery is answered 204."""
    listener = Listener()

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        listener.take(Delivered(headers=headers, body=await request.read()))
        return web.Response(status=204)

    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield listener
    finally:
        await runner.cleanup()
