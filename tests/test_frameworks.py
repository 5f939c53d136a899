"""One session per process, opened at start and closed at shutdown, in every place a user would do that."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout
from anyio.abc import TaskGroup
from fastapi import FastAPI
from helpers.app_servers import serve_aiohttp, serve_asgi
from helpers.documents import make_module
from helpers.idle import no_task_left, until
from helpers.simulation import never_finishes, settings, simulate
from standardwebhooks import Webhook
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from soundpiece_async import Handle, NewFx, Session
from soundpiece_async.simulator import Simulator

GUIDE = (Path(__file__).parents[1] / "docs" / "web-apps.md").read_text()


def example(title: str) -> str:
    """Return the code that the guide shows under a title, or after a phrase."""
    found = re.search(rf"{title}.*?```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    return found[1]


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
    """The other plugin for asynchronous tests, within one test."""
    await use()


def test_a_session_lives_in_fixtures(tmp_path: Path) -> None:
    """The guide's two, each shared by the tests of a file: opened and closed by the plugins, without a warning."""
    (tmp_path / "test_with_anyio.py").write_text(example("anyio's plugin"))
    (tmp_path / "test_with_asyncio.py").write_text(example("With pytest-asyncio"))
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(  # noqa: S603 - our own guide, as a user would run it
        [*command, "-p", "no:hypothesispytest", "-p", "no:faker", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert "2 passed in" in done.stdout, done.stdout


def make_news(sim: Simulator, identity: str) -> tuple[dict[str, str], str]:
    """A delivery as the service signs it, of an operation that it says is ready."""
    output = {"url": f"{sim.output_url}/audio/x.flac", "expires_at": "2030-01-01T00:00:00Z", "duration": 2.5}
    data = {"id": identity, "status": "ready", "output": output}
    body = json.dumps({"type": "create.new_fx.ready", "data": data})
    now = datetime.now(tz=UTC)
    signature = Webhook(str(sim.webhook_secret)).sign("msg_1", now, body)
    stamp = str(int(now.timestamp()))
    return {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}, body


SERVERS: dict[str, Callable[[Any], AbstractAsyncContextManager[str]]] = {
    "aiohttp": serve_aiohttp,
    "Starlette": serve_asgi,
    "FastAPI": serve_asgi,
    "Litestar": serve_asgi,
    "Quart": serve_asgi,
}

CANCELLING = ("aiohttp", "Quart")  # these cancel a handler whose client has gone


@pytest.mark.anyio
@pytest.mark.parametrize("framework", SERVERS)
async def test_the_guides_application(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is served, a webhook received, a disconnect is harmless; a reload leaves nothing, even with waiters."""
    code = compile(example(f"## {framework}"), framework, "exec")
    async with simulate(durations=never_finishes) as sim:
        for name, value in {**sim.environ, "SOUNDPIECE_WEBHOOK_SECRET": str(sim.webhook_secret)}.items():
            monkeypatch.setenv(name, value)
        async with no_task_left(), ClientSession(timeout=ClientTimeout(total=10)) as browser:
            for _ in range(2):  # a reload runs the module anew
                module = make_module("guide")
                monkeypatch.setitem(sys.modules, "guide", module)
                exec(code, vars(module))  # noqa: S102 - our own guide
                async with anyio.create_task_group() as staying:
                    async with SERVERS[framework](module.app) as url:
                        await visit(browser, url, sim, cancels=framework in CANCELLING)
                        known = len(sim.operations)
                        staying.start_soon(stay, browser, url)
                        await until(lambda known=known: len(sim.operations) > known)
                for identity in list(sim.operations):
                    sim.finish(identity)
        await until(lambda: sim.open_requests == 0)


async def stay(browser: ClientSession, url: str) -> None:
    """Come, and still wait for an answer when the server is closed."""
    with suppress(ClientError):
        async with browser.get(f"{url}/door") as answer:
            assert answer.status >= 500


async def visit(browser: ClientSession, url: str, sim: Simulator, *, cancels: bool) -> None:
    """A disconnect; a result by a webhook; a result by a poll."""
    answers: list[str] = []
    impatience = anyio.CancelScope()

    async def come() -> None:
        async with browser.get(f"{url}/door") as answer:
            answers.append((await answer.json())["operation"])

    async def come_and_leave() -> None:
        with impatience:
            await come()

    async def begin(group: TaskGroup, way: Callable[[], Awaitable[None]]) -> str:
        known = set(sim.operations)
        group.start_soon(way)
        await until(lambda: len(sim.operations) > len(known))
        return next(iter(sim.operations.keys() - known))

    async with anyio.create_task_group() as visitors:
        left = await begin(visitors, come_and_leave)
        await until(lambda: sim.open_requests == 1)
        impatience.cancel()
        if cancels:  # nobody waits any more, so nobody asks
            await until(lambda: sim.open_requests == 0)
        heard = await begin(visitors, come)
        headers, body = make_news(sim, heard)
        for expected in ((headers, 204), (headers, 204), ({**headers, "webhook-id": "msg_2"}, 401)):
            async with browser.post(f"{url}/hooks/soundpiece", data=body, headers=expected[0]) as answer:
                assert answer.status == expected[1]
    assert sim.operations[left].status == "processing"
    async with anyio.create_task_group() as visitors:
        polled = await begin(visitors, come)
        for identity in (left, polled):
            sim.finish(identity)
    assert answers == [f"create.new_fx/{heard}", f"create.new_fx/{polled}"]


@pytest.mark.anyio
async def test_a_stream_whose_reader_went_away() -> None:
    """Starlette cancels what makes a streaming answer: the operation runs on, and the session serves the next."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:

        async def tell() -> AsyncIterator[str]:
            operation = await session.submit(NewFx("door slams", duration=0.3))
            yield str(operation.handle)
            yield str((await session.wait(operation)).status)

        async def stream(_: Request) -> StreamingResponse:
            return StreamingResponse(tell())

        async with serve_asgi(Starlette(routes=[Route("/", stream)])) as url, ClientSession() as browser:
            async with browser.get(url) as answer:
                handle = Handle.parse((await answer.content.readany()).decode())
                await until(lambda: session.statistics().in_flight == 1)
            await until(lambda: session.statistics().in_flight == 0)
            assert sim.operations[handle.id].status == "processing"
            sim.finish(handle.id)
            assert (await session.wait(handle, timeout=5)).outputs


@pytest.mark.anyio
async def test_an_operation_as_an_answer_of_fastapi(session: Session) -> None:
    """The one line of the guide: a visitor sees the handle and the status, and no signed URL (F15)."""
    app = FastAPI()

    @app.get("/door")
    async def make_door() -> dict[str, Any]:
        return (await session.run(NewFx("door slams", duration=0.3))).operation.to_dict()

    async with serve_asgi(app) as url, ClientSession() as browser, browser.get(f"{url}/door") as answer:
        assert answer.status == 200
        shown = await answer.json()

    operation = await session.refresh(Handle.parse(shown["handle"]))
    assert shown == operation.to_dict() | {"outputs": shown["outputs"]}
    assert (shown["status"], len(shown["outputs"])) == ("ready", 1)
    assert "http" not in json.dumps(shown)
