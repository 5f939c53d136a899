import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from soundpiece_async._core.errors import SessionClosed
from soundpiece_async._lifetime import CancelHandle, TimeoutQueue
from soundpiece_async._locks import Lock

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def calling(enter: Callable[[], CancelHandle]) -> AsyncIterator["tuple[CancelHandle, asyncio.Task[None]]"]:
    """A task that waits inside a call."""
    calls: list[CancelHandle] = []

    async def wait() -> None:
        with enter() as call:
            calls.append(call)
            await asyncio.sleep(30)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    try:
        yield calls[0], task
    finally:
        task.cancel()
        await asyncio.wait([task])


def close() -> CancelHandle:
    return CancelHandle(lambda _: None, SessionClosed)


async def test_what_takes_too_long_is_ended_and_nothing_else() -> None:
    """One timer is enough: each call has its own time, and one that is over in time is left alone."""
    timeouts, ended = TimeoutQueue(0.5), []

    async def call(number: int, *, after: float, takes: float) -> None:
        await anyio.sleep(after)
        try:
            with timeouts.start():
                await asyncio.sleep(takes)
        except TimeoutError:
            ended.append((number, asyncio.current_task().cancelling()))  # type: ignore[union-attr]

    async with anyio.create_task_group() as group:
        group.start_soon(partial(call, 1, after=0.0, takes=30))
        group.start_soon(partial(call, 2, after=0.0, takes=0))
        group.start_soon(partial(call, 3, after=0.1, takes=30))

    assert ended == [(1, 0), (3, 0)]
    assert timeouts._timer is None
    assert repr(timeouts) == "<TimeoutQueue 0.5 s for 0 calls>"
    with timeouts.start():
        assert repr(timeouts) == "<TimeoutQueue 0.5 s for 1 calls>"


async def test_what_came_while_the_loop_was_blocked_came_in_time() -> None:
    """By a slow callback, a debugger or a stopped process: the time is up, but the other side did not let it pass."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    timeouts = TimeoutQueue(0.05)

    def block() -> None:
        there.send(b"x")
        time.sleep(0.2)

    with there:
        for _ in range(3):
            with timeouts.start():
                asyncio.get_running_loop().call_soon(block)
                assert await reader.read(1) == b"x"
        with pytest.raises(TimeoutError), timeouts.start():
            await reader.read(1)
    writer.close()
    await writer.wait_closed()


async def test_a_call_that_takes_its_time_to_end_does_not_stop_the_clock() -> None:
    """While one that was ended still cleans up, the next one is watched all the same."""
    timeouts, ended, cleaned_up = TimeoutQueue(0.02), asyncio.Event(), asyncio.Event()

    async def linger() -> None:
        with pytest.raises(TimeoutError), timeouts.start():
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
                await cleaned_up.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(linger)
        await ended.wait()
        with pytest.raises(TimeoutError), timeouts.start():
            await asyncio.sleep(30)
        assert repr(timeouts) == "<TimeoutQueue 0.02 s for 1 calls>"
        cleaned_up.set()


async def test_a_call_is_ended_once() -> None:
    """The waiter gets the error that ended it, and its task continues normally."""
    async with calling(close) as (call, task):
        call.cancel()
        call.cancel()
        with pytest.raises(SessionClosed):
            await task
    assert task.cancelling() == 0


async def test_the_tasks_own_end_counts_more() -> None:
    """A task that is cancelled itself ends as cancelled, though its call was ended, too."""
    async with calling(close) as (call, task):
        call.cancel()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_call_within_a_call() -> None:
    """When the session closes as the time is up, the outer one says what it was."""
    timeouts = TimeoutQueue(30)

    async def wait() -> None:
        with close() as outer, timeouts.start() as inner:
            asyncio.get_running_loop().call_soon(outer.cancel)
            asyncio.get_running_loop().call_soon(inner.cancel)
            await asyncio.sleep(30)

    with pytest.raises(SessionClosed):
        await wait()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_an_error_of_its_own_is_kept() -> None:
    """What a call raises while it is ended is raised, and the task is not left cancelled."""

    async def wait() -> None:
        with close() as call:
            asyncio.get_running_loop().call_soon(call.cancel)
            try:
                await asyncio.sleep(30)
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wait()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_scope_of_the_caller_ends_it_as_ever() -> None:
    """A time-out around a call is the caller's: it is not taken for ours."""
    timeouts = TimeoutQueue(30)
    with anyio.move_on_after(0.01) as scope, timeouts.start():
        await anyio.sleep(30)
    assert scope.cancelled_caught
    assert timeouts._timer is None


async def hold(lock: Lock, name: str, held: list[str], go_on: anyio.Event) -> None:
    async with lock:
        held.append(name)
        await go_on.wait()


async def test_a_lock_is_passed_on_in_the_order_of_waiting() -> None:
    """One that is free is taken without a turn of the event loop; one that stops waiting loses only its own place."""
    lock, held, go_on = Lock(), list[str](), anyio.Event()
    tasks = [asyncio.create_task(hold(lock, name, held, go_on)) for name in "abc"]
    await asyncio.sleep(0)
    assert (held, repr(lock)) == (["a"], "<Lock locked, 2 waiting>")

    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert repr(lock) == "<Lock locked, 1 waiting>"
    go_on.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert (held, repr(lock)) == (["a", "c"], "<Lock free, 0 waiting>")


async def test_a_lock_whose_next_holder_is_cancelled_goes_to_the_one_behind() -> None:
    """A task that is cancelled as its turn comes takes the lock with it no further."""
    lock, held, go_on = Lock(), list[str](), anyio.Event()
    go_on.set()
    async with lock:
        tasks = [asyncio.create_task(hold(lock, name, held, go_on)) for name in "ab"]
        await asyncio.sleep(0)
    tasks[0].cancel()  # its turn has come, and it does not know yet
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert (held, lock.locked) == (["b"], False)
