"""Every public coroutine, cancelled at every one of its awaits: nothing is lost, and nothing is left behind."""

import asyncio
import itertools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
from helpers.idle import assert_idle, no_task_left, until
from helpers.simulation import never_finishes, settings, simulate

from soundpiece_async import (
    Handle,
    NewFx,
    Output,
    RemixInstrumental,
    SeparateStems,
    Session,
    SessionClosed,
    Status,
    WaitTimeout,
)
from soundpiece_async.simulator import Fault, Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SOURCE = "https://media.example.com/mix.wav"


@types.coroutine
def cancelled_at(call: Coroutine[Any, Any, Any], step: int) -> Generator[Any, Any, bool]:
    """Run a coroutine and cancel its task at its n-th suspension; False when it ended before."""
    steps = call.__await__()
    send: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            waits_for = send(value)
        except StopIteration:
            return False
        except asyncio.CancelledError:
            return True
        step -= 1
        if step == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            value, send = (yield waits_for), steps.send
        except BaseException as error:  # noqa: BLE001 - thrown on, into the coroutine
            value, send = error, steps.throw


async def every_step(call: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]]) -> int:
    """Cancel a call at its first, second, … await until it gets through; check after each, and count them."""
    step = 1
    while await asyncio.create_task(_run(call(), step)):
        await check()
        step += 1
    await check()
    return step


async def _run(call: Coroutine[Any, Any, Any], step: int) -> bool:
    return await cancelled_at(call, step)


def quiet(sim: Simulator, session: Session) -> Callable[[], Awaitable[None]]:
    """Make a check that no slot, permit, poll, stream or request is left, and that the session works."""

    async def check() -> None:
        await until(lambda: not sim.open_requests)
        await assert_idle(session)

    return check


async def test_submit_can_be_cancelled_anywhere() -> None:
    """The same object goes again with the same key, so that it is made once however often it was cancelled."""
    async with simulate(speed=2000) as sim, Session(settings(sim)) as session:
        request = NewFx("door", duration=0.1)
        assert await every_step(lambda: session.submit(request), quiet(sim, session)) > 3
        assert (await session.run(request)).operation.id in sim.operations
        assert len(sim.operations) == 1


async def test_wait_can_be_cancelled_anywhere() -> None:
    """A cancelled waiter detaches; the operation can still be waited for by its handle."""
    async with simulate(speed=100) as sim, Session(settings(sim)) as session:
        made = []

        async def call() -> None:
            made.append(await session.submit(NewFx("door", duration=0.1)))
            await session.wait(made[-1])

        assert await every_step(call, quiet(sim, session)) > 4
        for operation in made:
            assert (await session.wait(operation.handle)).status is Status.READY


async def test_refresh_can_be_cancelled_anywhere() -> None:
    """A single read leaves nothing."""
    async with simulate(speed=2000) as sim, Session(settings(sim)) as session:
        done = await session.run(NewFx("door", duration=0.1))
        await every_step(lambda: session.refresh(done.operation), quiet(sim, session))


async def test_download_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    """What has its final name is whole; the next download goes on from what is there."""
    async with simulate(speed=2000) as sim, Session(settings(sim)) as session:
        done = await session.run(RemixInstrumental(SOURCE, n_variations=2))
        whole = {file.path.name: file.sha256 for file in await session.download(done.operation, tmp_path / "whole")}
        check = quiet(sim, session)
        folder = tmp_path / "cancelled"
        await every_step(lambda: session.download(done.operation, folder), check)
        sim.expire_urls()
        folder = tmp_path / "renewed"
        await every_step(lambda: session.download(done.operation, folder), check)
        for name in ("cancelled", "renewed"):
            files = await session.download(done.operation, tmp_path / name)
            assert {file.path.name: file.sha256 for file in files} == whole
            assert {path.name for path in (tmp_path / name).iterdir()} == set(whole)


async def test_a_pipeline_can_be_cancelled_anywhere() -> None:
    """A source that is renewed before the submit is one more place to be cancelled at."""
    async with simulate(speed=2000, url_lifetime=30.0) as sim, Session(settings(sim)) as session:
        source = (await session.run(NewFx("door", duration=0.1))).operation.outputs[0]
        request = SeparateStems(source)
        await every_step(lambda: session.submit(request), quiet(sim, session))
        assert len(sim.operations) == 2


async def test_run_many_can_be_cancelled_anywhere(tmp_path: Path) -> None:
    """Leaving a run by cancellation ends all of its pieces."""
    async with simulate(speed=500) as sim, Session(settings(sim)) as session:
        requests = [NewFx(f"door {number}", duration=0.1) for number in range(3)]

        async def call() -> None:
            async with session.run_many(requests, save_to=tmp_path) as results:
                assert len([result async for result in results]) == 3

        assert await every_step(call, quiet(sim, session)) > 3
        assert len(sim.operations) == 3


async def test_confirming_a_webhook_can_be_cancelled_anywhere() -> None:
    """What was not confirmed changes nothing, and can be confirmed again."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim, confirm_webhooks=True)) as session:
        operation = await session.submit(NewFx("door", duration=0.1))
        sim.finish(operation.id)
        confirm = partial(session._engine.poller.confirm, operation.handle, operation.request)
        assert await every_step(confirm, quiet(sim, session)) > 2
        assert (await session.wait(operation)).status is Status.READY
        polls = [request for request in sim.log if request.wait]
        assert polls == []  # the result was kept for the next waiter


@pytest.mark.parametrize("steps", range(6))
async def test_closing_ends_the_confirming_of_a_webhook(steps: int) -> None:
    """A session can be closed at any moment after ``deliver``."""
    async with simulate(durations=never_finishes) as sim, no_task_left():
        async with Session(settings(sim, confirm_webhooks=True)) as session:
            operation = await session.submit(NewFx("door", duration=0.1))
            sim.finish(operation.id)
            session.deliver(await session.refresh(operation))
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
        with pytest.raises(SessionClosed):
            session.deliver(operation)


async def close_the_gate(sim: Simulator, session: Session) -> None:
    """Have the account refuse everything for an hour."""
    sim.inject(Fault.SERVER_ERROR, status=429, headers={"Retry-After": "3600"})
    with anyio.move_on_after(5) as waiting:
        async with anyio.create_task_group() as group:
            group.start_soon(session.refresh, Handle("create.new_fx", "op_" + "7" * 26))
            await until(lambda: session.statistics().paused_for > 3000)
            group.cancel_scope.cancel()
    assert not waiting.cancelled_caught


@pytest.mark.parametrize("name", ["submit", "wait", "refresh", "renew", "run", "run_many"])
async def test_a_closed_gate_can_be_left_anywhere(name: str) -> None:
    """A cancelled waiter at the rate limiter releases its slot and place, and has sent nothing."""
    async with simulate(durations=never_finishes) as sim, no_task_left(), Session(settings(sim)) as session:
        operation = await session.submit(NewFx("door", duration=0.1))
        await close_the_gate(sim, session)
        asked = len(sim.log)

        async def run_many() -> None:
            async with session.run_many([NewFx("door", duration=0.1)] * 3) as results:
                await anext(results)

        output = Output(url="http://a/b", expires_at=None, duration=1.0, handle=operation.handle, index=0)
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "submit": lambda: session.submit(NewFx("door", duration=0.1)),
            "wait": lambda: session.wait(operation),
            "refresh": lambda: session.refresh(operation),
            "renew": lambda: session._engine.reader.renew(output),
            "run": lambda: session.run(NewFx("door", duration=0.1)),
            "run_many": run_many,
        }
        for step in itertools.count(1):
            task = asyncio.create_task(_run(calls[name](), step))
            left, _ = await asyncio.wait((task,), timeout=0.3)
            task.cancel()  # it waits for the gate, and has no more awaits than that
            await asyncio.wait((task,))
            await assert_idle(session)
            if not left:
                break
        assert step > 1
        assert len(sim.log) == asked
        assert session.statistics().paused_for > 3000


async def test_a_deadline_holds_inside_a_closed_gate() -> None:
    """``timeout`` is the caller's clock: what the account's limit does to the polls is no excuse."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(NewFx("door", duration=0.1))
        await close_the_gate(sim, session)
        for what in (operation, operation.handle):
            started = anyio.current_time()
            with pytest.raises(WaitTimeout):
                await session.wait(what, timeout=0.05)
            assert anyio.current_time() - started < 10
        await assert_idle(session)
        output = Output(url="https://h/a", handle=operation.handle)
        session.deliver(attrs.evolve(operation, status=Status.READY, outputs=(output,)))
        assert (await session.wait(operation)).status is Status.READY  # news need no permit


async def test_start_and_close_can_be_cancelled_anywhere() -> None:
    """A session whose start was cancelled is closed; one whose close was cancelled closes all the same."""
    async with simulate() as sim:
        tasks = asyncio.all_tasks()
        step, cancelled = 1, True
        while cancelled:
            session = Session(settings(sim))
            cancelled = await asyncio.create_task(_run(_open_and_close(session), step))
            step += 1
            await session.aclose()
            with anyio.fail_after(30):
                while not asyncio.all_tasks() <= tasks:
                    await anyio.sleep(0.002)
        assert step > 3


async def _open_and_close(session: Session) -> None:
    async with session:
        await session.run(NewFx("door", duration=0.1))
