"""Checks that nothing is left after a call: no task, slot, permit or queue entry; and `until`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from soundpiece_async import Session, Settings


async def until(reached: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most 30 s, which is enough on a busy machine, too."""
    with anyio.fail_after(30):
        while not reached():
            await anyio.sleep(0.002)


async def assert_idle(session: Session) -> None:
    """Assert that a session that was asked for nothing more holds no slot, no permit and no place in a queue."""
    await until(lambda: not session._engine.poller._scheduler.polls)
    now = session.statistics()
    assert (now.in_flight, now.active_submits, now.active_polls, now.active_downloads) == (0, 0, 0, 0)
    transport = session._engine.transport
    gate = transport.pacer.gate
    assert transport._read_slots.borrowed_tokens == 0
    assert now.queued == gate.waiting == len(transport.pacer._waiting) == len(transport.pacer._deadlines)
    assert gate.waiting <= 1  # the poller's own place, as long as the gate is closed
    assert gate.in_flight == 0
    assert not session._engine.reader._renewing


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Session]:
    """Open a session that must be idle at its end."""
    async with Session(settings) as session:
        yield session
        await assert_idle(session)


@asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """Expect that every task begun inside has ended soon after."""
    before = asyncio.all_tasks()
    yield
    await until(lambda: not [task for task in asyncio.all_tasks() - before if "TestRunner" not in repr(task)])
