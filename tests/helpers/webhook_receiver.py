"""A receiver of webhooks for the simulator's tests, independent of the SDK."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from aiohttp import web

from helpers.simulator_client import Caller


@attrs.define
class Receiver:
    """A user's server: answers with the statuses it was given, then 204, and keeps what it got."""

    url: str = ""
    statuses: list[int] = attrs.field(factory=list)
    delay: float = 0.0
    got: list[tuple[dict[str, str], bytes]] = attrs.field(factory=list)

    async def receive(self, request: web.BaseRequest) -> web.Response:
        """Receive one delivery."""
        self.got.append((dict(request.headers), await request.read()))
        await anyio.sleep(self.delay)
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"Location": self.url} if status == 302 else None)

    async def expect(self, count: int) -> None:
        """Wait for that many deliveries, and a moment longer for none more."""
        with anyio.fail_after(30):
            while len(self.got) < count:
                await anyio.sleep(0.005)
        await anyio.sleep(0.05)
        assert len(self.got) == count


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port."""
    receiver = Receiver(**options)
    runner = web.ServerRunner(web.Server(receiver.receive, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def submit(caller: Caller, url: str) -> str:
    """Submit an effect with a callback, and wait until it has ended; return its id."""
    operation = await caller.run("create.new_fx", prompt="slam", duration=0.5, callback_url=url)
    return str(operation["id"])
