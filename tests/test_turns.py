"""Every public call, cancelled in every turn of the loop, four ways, on a faulty service: nothing is left behind.

A turn is a pass of the event loop, counted where it asks the selector; so a call is also cancelled while it waits for a
thread, for another task, or between two of its awaits. The simulator runs in a thread of its own.
By default some turns of each call are tried; ``--thorough`` tries all.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from helpers.idle import assert_idle, until
from helpers.simulation import Serve, settings

from soundpiece_async import Journal, NewFx, Operation, Session, Succeeded
from soundpiece_async.simulator import Faults, Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

AT_ONCE = 400
"""Turns in which a cancelled call must have ended: a loop that spins makes as many in some milliseconds."""


class Turns:
    """Counts the passes of the running loop, and calls something before a chosen one."""

    def __init__(self) -> None:
        self.count = 0
        self._plan: dict[int, Callable[[], object]] = {}

    def plan(self, turn: int, call: Callable[[], object]) -> None:
        """Call something so many turns from now."""
        self._plan[self.count + turn] = call

    @contextmanager
    def counted(self) -> Iterator["Turns"]:
        """Count inside."""
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select = selector.select

        def counting(timeout: float | None = None) -> Any:
            self.count += 1
            call = self._plan.pop(self.count, None)
            if call is None:
                return select(timeout)
            call()
            return select(0)  # what was called may have made something ready

        selector.select = counting
        try:
            yield self
        finally:
            del selector.select


@attrs.define
class Stage:
    """What a call needs: an open session, something that is done, and a folder of its own."""

    sim: Simulator
    session: Session
    done: Operation[Any]
    folder: Path
    number: int = 0
    extra: list[Session] = attrs.field(factory=list)

    def fx(self) -> NewFx:
        """Make a request nobody has made before."""
        self.number += 1
        return NewFx(f"door {self.number}", duration=0.1)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Session]:
        """Start a session of its own, which the check closes."""
        session = Session(settings(self.sim))
        self.extra.append(session)
        await session.start()
        yield session


async def _submit(stage: Stage) -> None:
    await stage.session.submit(stage.fx())


async def _wait(stage: Stage) -> None:
    await stage.session.wait(await stage.session.submit(stage.fx()))


async def _refresh(stage: Stage) -> None:
    await stage.session.refresh(stage.done)


async def _download(stage: Stage) -> None:
    await stage.session.download(stage.done, stage.folder)


async def _run(stage: Stage) -> None:
    await stage.session.run(stage.fx(), save_to=stage.folder)


async def _stream(stage: Stage) -> None:
    async with stage.session.stream(stage.done.outputs[0]) as audio:
        async for _ in audio:
            pass


async def _leave_a_stream(stage: Stage) -> None:
    async with stage.session.stream(stage.done.outputs[0]) as audio:
        await anext(audio)


async def _run_many(stage: Stage) -> None:
    async with stage.session.run_many([stage.fx() for _ in range(5)], max_in_flight=2, save_to=stage.folder) as results:
        async for _ in results:
            pass


async def _leave_a_run(stage: Stage) -> None:
    async def requests() -> AsyncIterator[NewFx]:
        try:
            while True:
                yield stage.fx()
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    async with stage.session.run_many(requests(), max_in_flight=3, ordered=True) as results:
        await anext(results)


async def _record(stage: Stage) -> None:
    async with Journal.open(stage.folder) as journal:
        requests = [stage.fx() for _ in range(2)]
        async with stage.session.run_many(requests, journal=journal, save_to=stage.folder) as results:
            async for _ in results:
                pass


async def _journal(stage: Stage) -> None:
    journal = await Journal.open(stage.folder)
    try:
        await journal.count()
    finally:
        await journal.aclose()


async def _start_and_close(stage: Stage) -> None:
    async with stage.started() as session:
        await session.aclose()


async def _session(stage: Stage) -> None:
    session = Session(settings(stage.sim))
    stage.extra.append(session)
    async with session:
        await session.refresh(stage.done)


CALLS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "submit": _submit,
    "wait": _wait,
    "refresh": _refresh,
    "download": _download,
    "run": _run,
    "stream": _stream,
    "leave a stream": _leave_a_stream,
    "run_many": _run_many,
    "leave a run": _leave_a_run,
    "record": _record,
    "journal": _journal,
    "start and close": _start_and_close,
    "session": _session,
}


async def in_a_task(call: Awaitable[None], turn: int, turns: Turns, *, again: int | None = None) -> None:
    """Cancel the task itself, as ``asyncio.TaskGroup`` and ``asyncio.run`` do; perhaps once more while it ends."""
    task = asyncio.ensure_future(call)
    turns.plan(turn, task.cancel)
    if again is not None:
        turns.plan(turn + again, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def in_a_scope(call: Awaitable[None], turn: int, turns: Turns) -> None:
    """Cancel the scope of anyio around it."""
    with anyio.CancelScope() as scope:
        turns.plan(turn, scope.cancel)
        await call


async def in_time(call: Awaitable[None], turn: int, turns: Turns) -> None:
    """Wait until a timeout of asyncio has passed."""
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    try:
        async with limit:
            turns.plan(turn, lambda: limit.reschedule(loop.time()))
            await call
    except TimeoutError:
        assert limit.expired()


async def twice(call: Awaitable[None], turn: int, turns: Turns) -> None:
    """Cancel the task, and again in one of the next turns."""
    await in_a_task(call, turn, turns, again=1 + turn % 4)


WAYS: dict[str, Callable[[Awaitable[None], int, Turns], Awaitable[None]]] = {
    "task": in_a_task,
    "twice": twice,
    "scope": in_a_scope,
    "timeout": in_time,
}


def list_open_files() -> list[str]:
    """List the files this process has open; nothing on a system without /proc."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(FileNotFoundError):  # the listing itself, and what the simulator's thread has closed
            found.append(str(entry.readlink()))
    return found


async def check(stage: Stage, tasks: set["asyncio.Task[Any]"]) -> None:
    """Assert that no task, slot, socket, file or lock is left."""
    for session in stage.extra:
        await session.aclose()
    stage.extra.clear()
    await assert_idle(stage.session)
    await until(lambda: asyncio.all_tasks() <= tasks)
    http = stage.session._engine.transport._http
    for pool in (http._api, http._outputs):
        assert pool is not None
        assert pool.connector is not None
        assert not pool.connector._acquired
    # a trial of the destination that was cancelled ends in its thread
    await until(lambda: not [name for name in list_open_files() if str(stage.folder) in name])
    async with Journal.open(stage.folder):
        pass  # nobody holds its lock


async def cancel_each(stage: Stage, name: str, way: str, turns: list[int]) -> None:
    """Cancel a call in each of these turns."""
    tasks = asyncio.all_tasks()
    with Turns().counted() as counting:
        for turn in turns:
            begun = counting.count
            with anyio.fail_after(30):
                await WAYS[way](CALLS[name](stage), turn, counting)
            assert counting.count - begun <= turn + AT_ONCE
            counting._plan.clear()
            await check(stage, tasks)


async def measure(stage: Stage, name: str) -> int:
    """Count the turns of a call that nobody cancels."""
    with Turns().counted() as counting:
        await CALLS[name](stage)
    return counting.count


@pytest.fixture
async def stage(serve: Serve, tmp_path: Path) -> AsyncIterator[Stage]:
    """A session at a service with faults, which must still work at the end, and close."""
    faults = Faults(server_error=0.02, reset_after=0.05, cut=0.1, reset_before=0.05)
    sim = serve(speed=2000.0, seed=5, faults=faults, track_seconds=(0.2, 0.3))
    session = Session(settings(sim))
    await session.start()
    done = (await session.run(NewFx("made before", duration=0.2))).operation
    yield Stage(sim, session, done, tmp_path)
    async with session.run_many([NewFx("made after", duration=0.2)], save_to=tmp_path) as results:
        assert [type(result) async for result in results] == [Succeeded]
    await session.download(done, tmp_path)
    await session.aclose()
    assert not list(tmp_path.glob(f"{done.id}*.part*"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_can_be_cancelled_in_any_turn(stage: Stage, name: str, way: str, *, thorough: bool) -> None:
    """In each, to a quarter more than an undisturbed call took; or in the first ones, where things begin, and some."""
    last = await measure(stage, name)
    turns = list(range(1, last + last // 4 + 12))
    if not thorough:
        turns = turns[:6] + sorted(random.Random(f"{name} {way}").sample(turns[6:], 6))
    await cancel_each(stage, name, way, turns)
