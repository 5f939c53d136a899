"""What ends a session and what must not: faults of a child, of a caller's iterable, of closing from the wrong place."""

import asyncio
import gc
import itertools
import logging
import math
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import Context, ContextVar
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from helpers.idle import assert_idle, no_task_left, until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate

from soundpiece_async import (
    AuthenticationError,
    Handle,
    InsufficientCredits,
    NewFx,
    Session,
    SessionClosed,
    Succeeded,
)
from soundpiece_async._lifetime import ChildTasks, Lifetime, StopSignal
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio


async def test_a_cancellation_inside_the_iterable_is_its_error_and_no_end(session: Session) -> None:
    """An iterable that awaits something cancelled has failed: the run does not end as if it were complete."""

    async def requests() -> AsyncIterator[NewFx]:
        yield fx(1)
        lost = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    done = []
    with pytest.raises(asyncio.CancelledError):
        async with session.run_many(requests()) as results:
            async for result in results:
                done.append(result)  # noqa: PERF401 - the loop raises at its end
    assert [type(result) for result in done] == [Succeeded]
    await session.run(fx(2))


async def test_an_iterable_whose_closing_is_cancelled_harms_only_its_run(session: Session) -> None:
    """What it waits for in its ``finally`` may have been cancelled by somebody else: that is no end of the session."""

    async def requests() -> AsyncIterator[NewFx]:
        try:
            yield fx()
        finally:
            lost = asyncio.get_running_loop().create_future()
            lost.cancel()
            await lost

    with pytest.raises(asyncio.CancelledError):
        async with session.run_many(requests(), max_in_flight=1) as results:
            await anext(results)
    await session.run(fx())


@pytest.mark.parametrize("early", [True, False])
async def test_an_iterable_that_fails_to_close_says_so_and_harms_nobody_else(session: Session, *, early: bool) -> None:
    """The error of its cleanup comes out of the context manager, bare; the session lives on."""

    async def requests() -> AsyncIterator[NewFx]:
        try:
            for number in range(3):
                yield fx(number)
        finally:
            raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="the database is gone"):
        async with session.run_many(requests(), max_in_flight=1) as results:
            async for result in results:
                assert isinstance(result, Succeeded)
                if early:
                    break
    await session.run(fx(9))


async def test_an_iterable_with_a_task_group_across_its_yields_harms_only_its_run(session: Session) -> None:
    """Left early, it ends a group of its own (PEP 789): that is an error, and the session continues."""

    async def requests() -> AsyncIterator[NewFx]:
        async with anyio.create_task_group():
            for number in range(9):
                yield fx(number)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with session.run_many(requests(), max_in_flight=1) as results:
            await anext(results)
    assert caught.group_contains(GeneratorExit)
    async with session.run_many(requests()) as results:
        assert len([result async for result in results]) == 9


async def test_an_error_of_the_body_goes_before_that_of_the_iterable(session: Session) -> None:
    """Who leaves with an error of their own gets that one."""

    async def requests() -> AsyncIterator[NewFx]:
        try:
            yield fx()
        finally:
            raise RuntimeError("later")

    with pytest.raises(KeyError, match="first"):
        async with session.run_many(requests()) as results:
            await anext(results)
            raise KeyError("first")


async def test_several_tasks_may_take_results(session: Session) -> None:
    """Each result goes to one of them, and all of them see the end."""
    taken: list[Any] = []

    async def take(results: AsyncIterator[Any]) -> None:
        async for result in results:
            taken.append(result)
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with session.run_many(fx(number) for number in range(20)) as results, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(take, results)
    assert len(taken) == 20


async def test_a_session_is_not_closed_from_inside_its_own_run(session: Session) -> None:
    """It would wait for itself: refused, as the iterable's own error."""

    async def requests() -> AsyncIterator[NewFx]:
        yield fx()
        await session.aclose()

    with anyio.fail_after(30), pytest.raises(SessionClosed, match="one of its own tasks"):
        async with session.run_many(requests()) as results:
            async for _ in results:
                pass
    await session.run(fx(1))


async def test_what_an_iterable_left_behind_may_close_the_session(sim: Simulator) -> None:
    """A task that was started during a run, and outlives it, is no part of it any more."""
    session, over, tasks = Session(settings(sim)), anyio.Event(), []
    await session.start()

    async def close_later() -> None:
        await over.wait()
        await session.aclose()

    async def requests() -> AsyncIterator[NewFx]:
        tasks.append(asyncio.create_task(close_later()))
        yield fx()

    async with session.run_many(requests()) as results:
        assert [type(result) async for result in results] == [Succeeded]
    over.set()
    await tasks[0]


class Source:
    """Requests from something that takes awaits to be closed, as a database does."""

    def __init__(self, *, waits: bool, stubborn: bool = False) -> None:
        self.waits, self.stubborn = waits, stubborn
        self.begun, self.closed = anyio.Event(), False

    async def read(self) -> AsyncIterator[NewFx]:
        """Yield requests for ever; when it waits, one and then none."""
        try:
            for number in itertools.count():
                yield fx(number)
                self.begun.set()
                try:
                    await anyio.sleep(60 if self.waits else 0)
                except asyncio.CancelledError:
                    if not self.stubborn:
                        raise
        finally:
            await anyio.sleep(0.01)
            await anyio.lowlevel.checkpoint()
            self.closed = True


LEAVING = ["early", "error", "cancelled", "session closed", "session broken", "run broken"]


@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize(("waits", "stubborn"), [(False, False), (True, False), (True, True)])
async def test_an_iterable_is_closed_in_its_own_time(
    monkeypatch: pytest.MonkeyPatch, how: str, *, waits: bool, stubborn: bool
) -> None:
    """However a run is left, what the iterable awaits in its ``finally`` runs to its end, and before the run ends."""
    source = Source(waits=waits, stubborn=stubborn)

    async def consume(session: Session) -> None:
        async with session.run_many(source.read(), max_in_flight=2) as results:
            result = await anext(results)
            if waits:
                await source.begun.wait()
            match how:
                case "early":
                    return
                case "error":
                    raise KeyError("first")
                case "cancelled":
                    asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
                case "session closed":
                    asyncio.get_running_loop().call_soon(closing.append, asyncio.create_task(session.aclose()))
                case "session broken":
                    monkeypatch.setattr(session._engine.poller._scheduler, "next_action", lambda *_, **__: 1 / 0)
                    session._engine.poller._wake()
                case _:
                    results._fault = ZeroDivisionError()
                    results._cancel()
            assert isinstance(result, Succeeded)
            async for _ in results:
                pass

    closing: list[asyncio.Task[None]] = []
    expected = {
        "error": KeyError,
        "cancelled": asyncio.CancelledError,
        "session closed": SessionClosed,
        "session broken": SessionClosed,
        "run broken": ZeroDivisionError,
    }
    async with simulate() as sim:
        session = Session(settings(sim))
        await session.start()
        with anyio.fail_after(30), nullcontext() if how == "early" else pytest.raises(expected[how]):
            await asyncio.create_task(consume(session))
        assert source.closed
        with pytest.raises(SessionClosed, match="internal error") if how == "session broken" else nullcontext():
            await session.aclose()


async def test_a_fault_of_ours_in_a_poll_goes_to_its_waiters_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is, it is logged, given to those who wait, and does not end the session."""
    operation = await session.submit(fx())

    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(session._engine.transport._http, "_to_response", stumble)
        with pytest.raises(ZeroDivisionError):
            await session.wait(operation)
    assert any(record.exc_info for record in caplog.records)
    assert (await session.wait(operation)).outputs


async def test_a_fault_in_the_background_is_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, and the session lives on."""

    async def stumble() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        session._life.spawn(stumble)
        with anyio.fail_after(30):
            while not caplog.records:
                await anyio.sleep(0.001)
    await session.run(fx())


async def test_a_text_is_no_handle(session: Session) -> None:
    """The natural slip after storing ``str(handle)`` is a clear error, the first time and the second."""
    text: Any = str(Handle("create.new_fx", "op_1"))
    for call in (session.wait, session.refresh):
        for _ in range(2):
            with pytest.raises(TypeError, match=r"Handle\.parse"):
                await call(text)
    with pytest.raises(TypeError, match=r"Handle\.parse"):
        await session.download(text, "nowhere")
    with pytest.raises(TypeError, match="max_in_flight"):
        session.run_many([fx()], max_in_flight="3")  # type: ignore[arg-type]  # junk on purpose


async def test_final_operations_are_counted_once_each(session: Session) -> None:
    """However an operation is found to have ended, and however often it is looked at."""
    request = fx()
    done = await session.run(request)
    for _ in range(3):
        await session.refresh(done.operation)
        await session.wait(done.operation.handle)
    assert (session.statistics().ready, session.statistics().failed) == (1, 0)


@asynccontextmanager
async def _never_opens() -> AsyncIterator[None]:
    raise ConnectionError("no house")
    yield


@asynccontextmanager
async def _opens() -> AsyncIterator[None]:
    yield


async def test_what_keeps_a_session_from_opening_is_raised_by_the_start() -> None:
    """A start that fails leaves nothing, and cannot be repeated."""
    life = Lifetime()
    with pytest.raises(ConnectionError, match="no house"):
        await life.start(_never_opens())
    with pytest.raises(SessionClosed):
        life.check()
    with pytest.raises(SessionClosed):
        life.check_new()


async def test_a_background_task_that_breaks_ends_the_session_with_its_reason() -> None:
    """Without its gate or its scheduler a session is over: calls say so, and closing tells why."""
    broke = anyio.Event()

    async def breaks() -> None:
        await broke.wait()
        raise ZeroDivisionError("a bug")

    life = Lifetime()
    await life.start(_opens(), breaks)
    with pytest.raises(SessionClosed, match="meanwhile"), life.guarded():
        broke.set()
        await anyio.sleep_forever()
    with pytest.raises(SessionClosed, match="closed"):
        life.check()
    with pytest.raises(SessionClosed, match=r"an internal error.*a bug"):
        await life.close()
    assert "closed" in repr(life)


async def test_two_closes_both_wait_for_the_end() -> None:
    """Closing twice at once is as good as once."""
    async with simulate(durations=never_finishes) as sim:
        session = Session(settings(sim))
        await session.start()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(SessionClosed):
                    await session.wait(await session.submit(fx()))

            group.start_soon(wait)
            with anyio.fail_after(30):
                while not sim.open_requests:
                    await anyio.sleep(0.002)
                async with anyio.create_task_group() as closing:
                    closing.start_soon(session.aclose)
                    closing.start_soon(session.aclose)


async def test_closing_waits_until_every_call_has_unwound() -> None:
    """What a call must finish on its way out, it finishes before ``close`` returns."""
    life, unwound = Lifetime(), False
    await life.start(_opens())
    began = anyio.Event()

    async def call() -> None:
        nonlocal unwound
        with pytest.raises(SessionClosed), life.guarded():
            try:
                began.set()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.05)
                unwound = True

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await began.wait()
        await life.close()
        assert unwound


async def test_leaving_while_the_iterable_waits_cancels_it(session: Session) -> None:
    """A source that has nothing to say yet does not keep the context manager."""
    waiting = anyio.Event()

    async def requests() -> AsyncIterator[NewFx]:
        yield fx()
        waiting.set()
        await anyio.sleep_forever()

    with anyio.fail_after(30):
        async with session.run_many(requests()) as results:
            await anext(results)
            await waiting.wait()


def test_once_the_key_is_refused_nothing_more_is_asked() -> None:
    """An empty account still answers questions; a refused key does not. The first error stays; each task has a copy."""
    empty, refused = StopSignal(), StopSignal()
    assert "waits=0" in repr(empty)
    empty.check()
    empty.set(InsufficientCredits("no", status=402))
    empty.set(AuthenticationError("later", status=401))
    empty.check(reading=True)
    with pytest.raises(InsufficientCredits) as first:
        empty.check()
    with pytest.raises(InsufficientCredits) as second:
        empty.check()
    assert first.value is not second.value
    refused.set(AuthenticationError("no", status=401))
    with pytest.raises(AuthenticationError):
        refused.check(reading=True)


async def test_child_tasks_count_those_that_run() -> None:
    """Leaving cancels them, and tells of each end."""
    ended: list[str] = []
    async with ChildTasks() as tasks:
        for name in ("first", "second"):
            tasks.start(anyio.sleep_forever(), ended.append, name)
        assert repr(tasks) == "<ChildTasks 2>"
    assert repr(tasks) == "<ChildTasks 0>"
    assert sorted(ended) == ["first", "second"]


@pytest.mark.parametrize("step", range(1, 7))
async def test_a_close_that_is_cancelled_closes_first(step: int) -> None:
    """Asyncio's own cancel, which knows no shield, goes on only when nothing of the session is left."""
    async with simulate(durations=never_finishes) as sim:
        session = Session(settings(sim))
        await session.start()
        waiting = asyncio.create_task(session.wait(await session.submit(fx())))
        await until(lambda: sim.open_requests == 1)
        closing = asyncio.create_task(session.aclose())
        for _ in range(step):
            await asyncio.sleep(0)
        assert closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert session._life._root is not None
        assert session._life._root.done()
        with pytest.raises(SessionClosed):
            await waiting


async def test_an_error_of_the_body_goes_before_a_cancelled_scope(sim: Simulator) -> None:
    """Closing puts nothing in its place."""
    with pytest.raises(KeyError, match="mine"), anyio.CancelScope() as scope:
        async with Session(settings(sim)):
            scope.cancel()
            raise KeyError("mine")


@pytest.mark.parametrize("step", range(3, 8))
async def test_a_loop_that_ends_while_a_session_closes_leaves_no_connection(step: int) -> None:
    """After a second Ctrl-C ``asyncio.run`` cancels every task, the session's own too, wherever it is."""
    async with simulate(durations=never_finishes) as sim:
        session = Session(settings(sim))
        await session.start()
        operation = await session.submit(fx())
        before = asyncio.all_tasks()
        waiting, closing = asyncio.create_task(session.wait(operation)), asyncio.create_task(session.aclose())
        for _ in range(step):
            await asyncio.sleep(0)
        root = session._life._root
        assert root is not None
        for task in {root} | (asyncio.all_tasks() - before):
            task.cancel()
        await asyncio.gather(root, waiting, closing, return_exceptions=True)
        http = session._engine.transport._http
        assert http._api is not None
        assert http._outputs is not None
        assert (http._api.closed, http._outputs.closed) == (True, True)


async def test_a_thread_is_told_to_call_into_the_loop(session: Session) -> None:
    """A web framework's worker thread has no loop: a webhook it got is not delivered from there."""
    operation = await session.submit(fx())
    with pytest.raises(SessionClosed, match="call_soon_threadsafe"):
        await anyio.to_thread.run_sync(session.deliver, operation)
    assert (await anyio.to_thread.run_sync(session.statistics)).submitted == 1  # as exporters of metrics ask


@pytest.mark.parametrize("timeout", ["5", math.nan, True, pytest.param(10**400, id="huge")])
async def test_what_is_no_timeout_is_refused_before_anything_is_paid(sim: Simulator, timeout: Any) -> None:
    """Not when the wait begins, and not as the end of a whole run."""
    async with Session(settings(sim)) as session:
        handle = Handle("create.new_fx", "op_1")
        for call in (lambda: session.run(fx(), timeout=timeout), lambda: session.wait(handle, timeout=timeout)):
            with pytest.raises((TypeError, ValueError), match="timeout must be"):
                await call()
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            session.run_many([fx()], timeout=timeout)
    assert sim.log == []


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_task_that_is_cancelled_as_it_enters_a_run_ends_at_once(*, asynchronous: bool, turns: int) -> None:
    """In whichever turn of the loop it is: the run ends with it, and its requests are closed."""
    closed = []

    def listed() -> Iterator[NewFx]:
        try:
            yield from map(fx, range(9))
        finally:
            closed.append(turns)

    async def awaited() -> AsyncIterator[NewFx]:
        try:
            for number in range(9):
                await anyio.sleep(0.001)
                yield fx(number)
        finally:
            closed.append(turns)

    async def enter(session: Session) -> None:
        requests = awaited() if asynchronous else listed()
        async with session.run_many(requests, max_in_flight=2) as results:
            async for _ in results:
                pass

    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session, no_task_left():
        task = asyncio.create_task(enter(session))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with anyio.fail_after(30), pytest.raises(asyncio.CancelledError):
            await task
        await assert_idle(session)
    assert closed in ([], [turns])  # empty: it was never begun


async def test_a_run_that_is_entered_in_a_cancelled_scope_begins_nothing(session: Session, sim: Simulator) -> None:
    """Not even its first request is read."""

    def requests() -> Iterator[NewFx]:
        pytest.fail("read")
        yield fx()

    run = session.run_many(requests())
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with run:
            pytest.fail("entered")
    assert scope.cancelled_caught
    assert sim.log == []


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_run_of_a_session_that_closes_in_the_same_turn_is_closed(sim: Simulator, *, cancel: bool) -> None:
    """What was begun of the iterable before is closed, though nothing is read any more."""
    closed = []

    def requests() -> Iterator[NewFx]:
        try:
            yield from map(fx, range(9))
        finally:
            closed.append(True)

    session, begun = Session(settings(sim)), requests()
    next(begun)
    await session.start()
    run = await session.run_many(begun).__aenter__()
    closing = asyncio.ensure_future(session.aclose())
    if cancel:
        closing.cancel()
    with nullcontext() if cancel else pytest.raises(SessionClosed):
        if not cancel:
            await anext(run)
    await run.__aexit__(None, None, None)
    await session.aclose()
    assert closed == [True]


async def test_a_task_that_never_had_a_turn_counts_as_ended() -> None:
    """``asyncio.run`` cancels every task when it ends, also one that was begun in that very turn."""
    life = Lifetime()
    await life.start(_opens())
    before = asyncio.all_tasks()

    async def never() -> None:
        pytest.fail("begun")

    ended = life.start_child(never)
    (child,) = asyncio.all_tasks() - before
    root = life._root
    assert root is not None
    child.cancel()
    root.cancel()
    await asyncio.wait((child, root))
    assert ended.is_set()
    with warnings.catch_warnings(category=RuntimeWarning, action="ignore"):  # of a coroutine that was never awaited
        del child
        gc.collect()


@pytest.mark.parametrize("error", [None, RuntimeError("the file is gone")])
async def test_a_generator_that_is_left_early_is_closed(session: Session, error: Exception | None) -> None:
    """A plain one as an asynchronous one, before the run ends; what its end raises is the caller's."""
    closed = []

    def requests() -> Iterator[NewFx]:
        try:
            yield from map(fx, itertools.count())
        finally:
            closed.append(True)
            if error is not None:
                raise error

    generator = requests()  # held here: nobody but the run closes it
    with nullcontext() if error is None else pytest.raises(RuntimeError, match="the file is gone"):
        async with session.run_many(generator, max_in_flight=2) as results:
            await anext(results)
    assert closed == [True]
    await session.run(fx())


SPAN: ContextVar[str] = ContextVar("span", default="none")


def traced(spans: list[tuple[str, str]]) -> aiohttp.TraceConfig:
    """Note in which context each request is sent."""

    async def note(_: aiohttp.ClientSession, __: object, request: aiohttp.TraceRequestStartParams) -> None:
        name = "wait" if "wait" in request.url.query else request.method
        spans.append((name, SPAN.get()))

    config = aiohttp.TraceConfig()
    config.on_request_start.append(note)
    return config


def within(span: str) -> Context:
    """Make a context of somebody's own."""
    context = Context()
    context.run(SPAN.set, span)
    return context


async def test_background_work_belongs_to_nobody_and_a_poll_to_who_waits_first(sim: Simulator) -> None:
    """Not to who happened to open the session: a tracing span would own every poll of its life."""
    spans: list[tuple[str, str]] = []

    async def run() -> None:
        async with session.run_many([fx(1)]) as results:
            assert [type(result) async for result in results] == [Succeeded]

    async def as_part_of(span: str, call: Callable[[], Any]) -> Any:
        return await asyncio.create_task(call(), context=within(span))

    session = Session(settings(sim), trace_configs=[traced(spans)])
    await as_part_of("start", session.start)
    operation = await as_part_of("submit", lambda: session.submit(fx()))
    await as_part_of("wait", lambda: session.wait(operation))
    await as_part_of("run_many", run)
    await session.aclose()
    assert set(spans) == {("PUT", "submit"), ("wait", "wait"), ("PUT", "run_many"), ("wait", "run_many")}


async def test_what_a_lifetime_starts_sees_no_variable_of_who_opened_it() -> None:
    """Neither what it holds open, nor what runs in the background, nor at the end of both."""
    seen: list[str] = []

    @asynccontextmanager
    async def house() -> AsyncIterator[None]:
        seen.append(SPAN.get())
        yield
        seen.append(SPAN.get())

    async def background() -> None:
        seen.append(SPAN.get())

    life = Lifetime()
    await asyncio.create_task(life.start(house(), background), context=within("start"))
    await asyncio.create_task(life.close(), context=within("close"))
    assert seen == ["none"] * 3


async def test_a_poll_belongs_to_the_first_of_those_who_still_wait() -> None:
    """When they leave, the next poll is the next one's."""
    spans: list[tuple[str, str]] = []
    async with simulate(durations=never_finishes, speed=1000) as sim:
        async with Session(settings(sim), trace_configs=[traced(spans)]) as session:
            operation = await session.submit(fx())
            first, second = (
                asyncio.create_task(session.wait(operation), context=within(name)) for name in ("first", "second")
            )
            await until(lambda: ("wait", "first") in spans)
            assert ("wait", "second") not in spans
            first.cancel()
            await until(lambda: ("wait", "second") in spans)
            sim.finish(operation.id)
            await second
