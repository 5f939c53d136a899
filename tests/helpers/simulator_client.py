"""A plain HTTP client for the simulator's tests, independent of the SDK."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs

from soundpiece_async.simulator import Simulator

SAMPLE = {"prompt": "door slams", "duration": 0.5}


@attrs.frozen
class Answer:
    """One answer, read whole."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def operation(self) -> Any:
        """The operation object in the envelope."""
        return next(value for value in self.json.values() if isinstance(value, dict) and "id" in value)


@attrs.frozen
class Caller:
    """Talks to one simulator."""

    sim: Simulator
    session: aiohttp.ClientSession

    async def ask(self, method: str, url: str, *, key: bool = True, **options: Any) -> Answer:
        """Send one request, with the API key unless ``key=False``."""
        headers = {"Authorization": f"Bearer {self.sim.api_key}"} if key else {}
        headers |= options.pop("headers", {})
        address = url if url.startswith("http") else self.sim.url + url
        async with self.session.request(method, address, headers=headers, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def put(self, route: str = "create.new_fx", **members: object) -> Answer:
        """Submit one piece of work under a fresh key, or the one given."""
        body = {"idempotency_key": str(uuid.uuid4()), **(members or SAMPLE)}
        return await self.ask("PUT", f"/v1/{route}", json=body)

    async def get(self, identity: str, route: str = "create.new_fx", *, wait: bool = False) -> Answer:
        """Poll once."""
        return await self.ask("GET", f"/v1/{route}", params={"id": identity, "wait": "true" if wait else "false"})

    async def run(self, route: str = "create.new_fx", **members: object) -> Any:
        """Submit and wait; gives the operation object."""
        operation = (await self.put(route, **members)).operation
        while operation["status"] not in ("ready", "failed"):
            operation = (await self.get(operation["id"], route, wait=True)).operation
        return operation

    async def fetch(self, url: str, **headers: str) -> Answer:
        """Download from the output host."""
        return await self.ask("GET", url, key=False, headers=headers)


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Caller]:
    """Open a fast simulator with the options given, and a caller for it."""
    defaults: dict[str, Any] = {"speed": 1000.0, "track_seconds": (0.4, 0.6)}
    async with Simulator(**defaults | options) as sim, aiohttp.ClientSession() as session:
        # aiohttp sends GET and PUT again when the connection is lost: these tests are about the first time
        session._retry_connection = False
        yield Caller(sim, session)
