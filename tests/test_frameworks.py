"""One session per process, opened at start and closed at shutdown, in every place a user would do that."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import uvloop
from aiohttp import ClientSession, web
from conftest import settings, simulate
from starlette.applications import Starlette

from soundpiece_async import NewFx, Session

SESSION = web.AppKey("session", Session)


async def use() -> None:
    """Open a session, make two pieces at once, close it."""
    async with simulate() as sim, Session(settings(sim)) as session:
        async with session.run_many(NewFx(f"door {n}", duration=0.2) for n in range(2)) as results:
            assert [type(result).__name__ async for result in results] == ["Succeeded", "Succeeded"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run, anyio.run], ids=["asyncio", "uvloop", "anyio"])
def test_a_session_works_under_every_runner(run: Callable[[object], None]) -> None:
    """Asyncio's own loop, uvloop, and anyio's runner."""
    run(use if run is anyio.run else use())


@pytest.mark.asyncio
async def test_a_session_works_under_pytest_asyncio() -> None:
    """The other plugin for asynchronous tests, with a fixture of its own."""
    await use()


@pytest.mark.anyio
async def test_a_session_lives_as_long_as_an_aiohttp_application() -> None:
    """``cleanup_ctx`` opens it at start-up and closes it at shut-down; handlers share it."""
    async with simulate() as sim:

        async def open_session(app: web.Application) -> AsyncIterator[None]:
            async with Session(settings(sim)) as app[SESSION]:
                yield

        async def make(request: web.Request) -> web.Response:
            done = await request.app[SESSION].run(NewFx("door", duration=0.2))
            return web.Response(text=str(done.operation.handle))

        app = web.Application()
        app.cleanup_ctx.append(open_session)
        app.router.add_get("/", make)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with ClientSession() as browser, browser.get(f"http://{host}:{port}/") as response:
            assert (await response.text()).startswith("create.new_fx/op_")
        await runner.cleanup()
        assert "closed" in repr(app[SESSION])


@pytest.mark.anyio
async def test_a_session_lives_as_long_as_a_starlette_application() -> None:
    """The lifespan opens and closes it, each in whatever task the server uses."""
    async with simulate() as sim:

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Session]]:
            async with Session(settings(sim)) as session:
                yield {"session": session}

        app = Starlette(lifespan=lifespan)
        async with app.router.lifespan_context(app) as state:
            session = state["session"]
            assert (await session.run(NewFx("door", duration=0.2))).operation.outputs
        assert "closed" in repr(session)
