import asyncio
import traceback
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
from helpers.idle import assert_idle, no_task_left, until
from helpers.sample_requests import fx
from helpers.scripted_http import LOST, respond, scripted
from helpers.scripted_http import settings as scripted_settings
from helpers.simulation import never_finishes, settings, simulate

from soundpiece_async import (
    AuthenticationError,
    Handle,
    Limits,
    NewFx,
    NotFound,
    OperationFailed,
    RetryPolicy,
    Session,
    SessionClosed,
    Status,
    Timeouts,
    ValidationError,
    WaitTimeout,
    _poller,
)
from soundpiece_async._core.attempts import Verdict
from soundpiece_async._core.scheduler import CancelPoll, Poll, Scheduler, Sleep
from soundpiece_async._core.wire import ApiResponse
from soundpiece_async._lifetime import ChildTasks
from soundpiece_async._operations import MAX_CACHED
from soundpiece_async._poller import MAX_STATES, MAX_UNCLAIMED
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio


async def test_polls_never_exceed_their_limit_and_nobody_starves() -> None:
    """Sixty operations on four slots: all are noticed, and the server never sees a fifth poll."""
    async with simulate(speed=500) as sim, Session(settings(sim, limits=Limits(polls=4))) as session:
        async with session.run_many(fx(number) for number in range(60)) as results:
            assert len([result async for result in results]) == 60
        assert sim.peak_polls <= 4
        assert session.statistics().ready == 60


async def test_everyone_is_looked_at_while_all_take_long() -> None:
    """With more operations than slots the slots go round."""
    with scripted() as http:
        http.ready = False
        async with Session(scripted_settings(limits=Limits(polls=2))) as session:
            session._engine.poller._scheduler = Scheduler(slots=2, hold=0.2)
            operations = [await session.submit(fx(number)) for number in range(10)]
            async with anyio.create_task_group() as group:
                for operation in operations:
                    group.start_soon(session.wait, operation)
                await until(lambda: {call.about for call in http.polls} == {operation.id for operation in operations})
                group.cancel_scope.cancel()


async def test_polls_that_cost_little_are_many() -> None:
    """`Settings(poll_cost=...)` reaches the scheduler: at the default these would take a quarter of a minute."""
    async with (
        simulate(durations=never_finishes, speed=1) as sim,
        Session(settings(sim, limits=Limits(polls=2), poll_cost=0.0001)) as session,
        anyio.create_task_group() as group,
    ):
        operations = [await session.submit(fx(number)) for number in range(4)]
        for operation in operations:  # all at once: of fewer, each would have a long poll
            group.start_soon(session.wait, operation)
        await until(lambda: sum(request.method == "GET" for request in sim.log) > 20)
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "failure",
    [
        respond({"detail": "oops"}, status=500),
        respond({"detail": "slow down"}, status=429, retry_after="0.4"),
        respond(body=b'{"fx": {"id": "op_'),
        LOST,
        30.0,
    ],
    ids=["500", "429", "cut", "lost", "stalled"],
)
async def test_a_failed_poll_is_a_later_turn(failure: ApiResponse | Exception | float) -> None:
    """Nothing but the caller's own timeout gives up on an operation."""
    with scripted() as http:
        async with Session(scripted_settings(timeouts=Timeouts(poll=0.1))) as session:
            session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
            operation = await session.submit(fx())
            http.script += [failure, failure]
            assert (await session.wait(operation, timeout=20)).outputs
    assert len(http.polls) == 3


async def test_what_cannot_be_read_ends_the_wait() -> None:
    """A refusal that comes for long enough (here: three times) is raised; who waits again asks once; nothing breaks."""
    async with simulate() as sim, Session(settings(sim, retries=RetryPolicy(submit_max_elapsed=0))) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        for times in (3, 4):
            with pytest.raises(ValidationError, match="op_none"):
                await session.wait(Handle("create.new_fx", "op_none"))
            assert len(sim.log) == times
        await session.run(fx())


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    """An error that a hundred raise would collect the tracebacks of a hundred, and the notes that each adds."""
    async with simulate() as sim, Session(settings(sim)) as session:
        sim.inject(Fault.SERVER_ERROR, method="GET", status=401)
        results = await asyncio.gather(
            *(session.wait(Handle("create.new_fx", "op_none")) for _ in range(100)), return_exceptions=True
        )
        depths = [len(traceback.extract_tb(error.__traceback__)) for error in results if isinstance(error, Exception)]
        assert len(depths) == len(set(map(id, results))) == 100
        assert max(depths) == min(depths)
        assert sum(request.method == "GET" for request in sim.log) == 1


async def test_detection_lag_is_measured() -> None:
    """Seen inside a hold there is no lag; an operation that was ready before anybody looked has one."""
    patient = Timeouts(connect=5, submit=5, poll=30, read=5)
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim, timeouts=patient)) as session:
        first, second = await session.submit(fx(1)), await session.submit(fx(2))
        with pytest.raises(WaitTimeout):
            await session.wait(first, timeout=0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, second)
            with anyio.fail_after(30):
                while all(request.operation != second.id for request in sim.log if request.method == "GET"):
                    await anyio.sleep(0.01)
            await anyio.sleep(
                0.1 + 4 * session._engine.poller._scheduler.round_trip
            )  # an answer at once would be no hold's
            sim.finish(second.id)
        assert session.statistics().detection_lag_max == 0.0


async def test_memories_are_bounded() -> None:
    """Deliveries nobody waits for, and outputs nobody asks for again, are forgotten in the end."""
    async with simulate() as sim, Session(settings(sim)) as session:
        operation = (await session.run(fx())).operation
        for number in range(max(MAX_UNCLAIMED, MAX_CACHED) + 10):
            copy = type(operation)(
                route=operation.route,
                id=f"op_{number:026d}",
                status=operation.status,
                request=operation.request,
                outputs=operation.outputs,
            )
            session.deliver(copy)
        assert f"cached={MAX_CACHED}" in repr(session._engine.reader)
        assert len(session._engine.poller._unclaimed) == MAX_UNCLAIMED


async def test_a_hold_is_dropped_when_the_scheduler_says_so() -> None:
    """The connection is given up, its slot goes to another, and the operation gets a later turn."""

    class Impatient(Scheduler):
        """Drops the first hold, once."""

        held: object = None

        def begin(self, action: Poll | CancelPoll, *, now: float) -> None:
            super().begin(action, now=now)
            self.held = action.key if isinstance(action, Poll) and action.wait and self.held is None else ()

        def next_action(self, now: float, *, rate: float | None = None) -> Poll | CancelPoll | Sleep:
            if self.held:
                return CancelPoll(self.held)
            return super().next_action(now, rate=rate)

    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        session._engine.poller._scheduler = Impatient(slots=1)
        operation = await session.submit(fx())
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, operation)
            with anyio.fail_after(30):
                while sum(request.method == "GET" for request in sim.log) < 2:
                    await anyio.sleep(0.005)
            sim.finish(operation.id)
        assert sim.peak_polls == 1


async def test_a_permit_that_comes_too_late_is_given_back() -> None:
    """Who waited has gone while the gate was closed: the permit is not used, and not kept."""
    with scripted() as http:
        async with Session(scripted_settings()) as session:
            operation = await session.submit(fx())
            http.script.append(respond({"detail": "slow down"}, status=429, retry_after="0.5"))
            gate = session._engine.transport.pacer.gate
            async with anyio.create_task_group() as group:
                group.start_soon(session.submit, fx(1))
                await until(lambda: bool(session.statistics().paused_for))
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(session.wait, operation)
                await until(lambda: gate.waiting == 1)
                group.cancel_scope.cancel()
            assert gate.waiting == 1
            await until(lambda: not gate.waiting and not gate.in_flight)
    assert not http.polls


def asked(sim: Simulator, *, operation: str | None = None) -> int:
    """Count the questions that were asked, about one operation or any."""
    return sum(one.method == "GET" and operation in (None, one.operation) for one in sim.log)


@pytest.mark.parametrize("by_handle", [False, True])
async def test_waiting_in_a_loop_costs_what_waiting_costs(*, by_handle: bool) -> None:
    """As a page does that sends its visitor a sign of life every second: one poll serves all of its turns."""
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        what: Any = operation.handle if by_handle else operation
        for _ in range(16):
            with pytest.raises(WaitTimeout):
                await session.wait(what, timeout=0.02)
            assert session.statistics().in_flight == 0
        assert asked(sim) == session.statistics().active_polls == 1
        assert "lingering=1" in repr(session._engine.poller)
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, what)
            await until(lambda: session.statistics().in_flight == 1)
            sim.finish(operation.id)
        assert asked(sim) == 1


@pytest.mark.parametrize("handle", [Handle("create.new_fx", "op_none"), None])
async def test_a_loop_does_not_ask_more_often_than_a_wait_when_nothing_comes_of_it(handle: Handle | None) -> None:
    """A service that is down, or does not know the operation: the rests between two questions are kept."""
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        sim.inject(Fault.SERVER_ERROR, method="GET", times=99)
        started = anyio.current_time()
        for _ in range(20):
            with pytest.raises(WaitTimeout):
                await session.wait(handle or operation, timeout=0.02)
        assert 1 <= asked(sim) <= 1 + 2 * (anyio.current_time() - started)


async def test_how_often_an_operation_was_unknown_is_remembered_between_two_waits(
    sim: Simulator, session: Session
) -> None:
    """Or a loop would wait for ever for what there is not."""
    handle = Handle("create.new_fx", "op_" + "7" * 26)
    sim.inject(Fault.SERVER_ERROR, status=404, method="GET", times=99)
    with pytest.raises(WaitTimeout):
        await session.wait(handle, timeout=0.2)
    memory = session._engine.poller._states[handle]
    streak = memory.streaks[Verdict.UNKNOWN]
    assert streak.times > 0
    streak.times, streak.since = 1000, -1e9
    with pytest.raises(NotFound):
        await session.wait(handle, timeout=5)


async def test_what_comes_while_nobody_waits_is_there_for_who_comes_back() -> None:
    """The answer to a poll that lingered was paid for with a request, and is no news twice."""
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        with pytest.raises(WaitTimeout):
            await session.wait(operation, timeout=0.05)
        watch = session._engine.poller._watches[operation.handle]
        sim.finish(operation.id)
        await until(lambda: not session.statistics().active_polls)
        assert (await session.wait(operation)).status is Status.READY
        assert asked(sim) == 1
        session._engine.poller._resolve(watch, operation)  # as a poll that is answered when a webhook has just come
        assert session.statistics().ready == 1


@pytest.mark.parametrize("ends", ["its time is up", "its answer", "a fault", "a wanted slot", "the session closes"])
async def test_a_poll_that_lingers_ends(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is begun for an operation that nobody waits for."""
    monkeypatch.setattr(_poller, "LINGER_SECONDS", 0.05 if ends == "its time is up" else 3600.0)
    speed = 100 if ends == "its answer" else 1
    async with simulate(durations=never_finishes, speed=speed) as sim, no_task_left():
        async with Session(settings(sim, limits=Limits(polls=1))) as session:
            operation, other = await session.submit(fx(1)), await session.submit(fx(2))
            with pytest.raises(WaitTimeout):
                await session.wait(operation, timeout=0.05)
            assert session.statistics().active_polls == 1
            if ends == "the session closes":
                return
            if ends == "a fault":
                session._engine.poller._watches[operation.handle].poll.cancel()
            if ends == "a wanted slot":
                with pytest.raises(WaitTimeout):
                    await session.wait(other, timeout=0.5)
                assert asked(sim, operation=other.id) == sim.peak_polls == 1
            else:
                await until(lambda: not session.statistics().active_polls)
            assert operation.handle not in session._engine.poller._watches
            assert asked(sim, operation=operation.id) == 1


async def test_a_poll_can_be_cancelled_in_any_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first step, too, so that it never runs: slot and permit are released, and it is polled again."""
    start, turn, polls = ChildTasks.start, 0, 0

    def start_and_cancel(tasks: ChildTasks, *args: Any, **options: Any) -> Any:
        nonlocal polls
        poll, loop = start(tasks, *args, **options), asyncio.get_running_loop()
        polls += 1
        if polls == 1:
            cancel_in(turn, poll, loop)
        return poll

    def cancel_in(turns: int, poll: Any, loop: asyncio.AbstractEventLoop) -> None:
        if turns:
            loop.call_soon(cancel_in, turns - 1, poll, loop)
        else:
            poll.cancel()

    monkeypatch.setattr(ChildTasks, "start", start_and_cancel)
    async with simulate(speed=2000) as sim, no_task_left(), Session(settings(sim, limits=Limits(polls=1))) as session:
        for turn in range(12):
            operation = await session.submit(fx(turn))
            polls = 0
            assert (await session.wait(operation)).status is Status.READY
            assert polls > 1 or turn > 3
            await assert_idle(session)


async def test_a_webhook_may_come_before_the_first_step_of_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll never runs, and is not sent; its slot and its permit are released."""
    begin, delivering = Scheduler.begin, []

    async def deliver() -> None:
        session.deliver(attrs.evolve(operation, status=Status.FAILED))

    def begin_and_deliver(*args: Any, **options: Any) -> None:
        begin(*args, **options)
        delivering.append(asyncio.create_task(deliver()))

    async with simulate(durations=never_finishes) as sim, no_task_left(), Session(settings(sim)) as session:
        operation = await session.submit(fx())
        monkeypatch.setattr(Scheduler, "begin", begin_and_deliver)
        with pytest.raises(OperationFailed):
            await session.wait(operation)
        await asyncio.wait(delivering)
        await assert_idle(session)
        assert asked(sim) == 0


async def test_a_waiter_may_leave_in_the_turn_of_its_result() -> None:
    """The others get it, too."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        leaving, staying = (asyncio.create_task(session.wait(operation)) for _ in range(2))
        await until(lambda: bool(session.statistics().active_polls))
        leaving.cancel()
        session.deliver(attrs.evolve(operation, status=Status.FAILED))
        with pytest.raises(OperationFailed):
            await staying
        assert leaving.cancelled()
        await assert_idle(session)


async def test_a_fault_of_the_scheduler_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that could not release its slot would leave its waiters waiting for ever."""

    def stumble(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with simulate(speed=2000) as sim:
        session = Session(settings(sim))
        await session.start()
        operation = await session.submit(fx())
        monkeypatch.setattr(Scheduler, "settle", stumble)
        with pytest.raises(SessionClosed):
            await session.wait(operation)
        with pytest.raises(SessionClosed, match="internal error"):
            await session.aclose()


async def test_who_comes_back_while_a_poll_is_being_ended_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cancelled already, and the operation is one that somebody waits for."""
    monkeypatch.setattr(_poller, "LINGER_SECONDS", 0.0)
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        for turn in range(1, 9):
            with pytest.raises(WaitTimeout):
                await session.wait(operation, timeout=0.05)
            for _ in range(turn):
                await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, operation)
            await until(lambda: session.statistics().active_polls == 1)
            sim.finish(operation.id)


async def test_that_a_webhook_is_to_come_is_known_by_the_handle() -> None:
    """Waiting for it, however often, sends no poll before the webhook is late; then a result is final."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(NewFx("door", duration=0.1, callback_url="https://example.com/hook"))
        for _ in range(5):
            with pytest.raises(WaitTimeout):
                await session.wait(operation.handle, timeout=0.01)
        assert asked(sim) == 0
        session._engine.poller.expect_no_webhook(operation.handle)  # the webhook came, and did not say how it ended
        with pytest.raises(WaitTimeout):
            await session.wait(operation.handle, timeout=0.2)
        assert asked(sim) > 0


async def test_what_is_known_between_waits_is_bounded(session: Session) -> None:
    """The oldest are forgotten, and then begin anew."""
    for number in range(MAX_STATES + 10):
        session._engine.poller._update_state(Handle("create.new_fx", f"op_{number}"))
    assert len(session._engine.poller._states) == MAX_STATES


@pytest.mark.parametrize("timeout", [0, -1.0])
async def test_a_timeout_of_nothing_asks_once(timeout: float) -> None:
    """And takes what is known already without a question; other waiters hear of it."""
    async with simulate(durations=never_finishes, speed=1) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        for times in (1, 2):
            with pytest.raises(WaitTimeout, match="when it was asked for"):
                await session.wait(operation.handle, timeout=timeout)
            assert asked(sim) == times
        sim.inject(Fault.STALL, method="GET", seconds=3600)
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, operation)
            await until(lambda: session.statistics().active_polls == 1 and sim.open_requests == 1)
            sim.finish(operation.id)
            assert (await session.wait(operation, timeout=timeout)).outputs
        assert (await session.wait(operation.handle, timeout=timeout)).outputs
        session.deliver(attrs.evolve(operation, status=Status.FAILED))
        before = asked(sim)
        with pytest.raises(OperationFailed):
            await session.wait(operation, timeout=timeout)
        assert asked(sim) == before


async def test_a_timeout_of_nothing_waits_for_nothing() -> None:
    """The service is down, or refuses to say: as far as anybody knows the work runs on."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        for status, error in ((401, AuthenticationError), (400, WaitTimeout)):
            sim.inject(Fault.SERVER_ERROR, method="GET", status=status)
            with pytest.raises(error, match=f"status {status}") as refused:
                await session.wait(operation, timeout=0)
            assert refused.value.handle == operation.handle
        before = asked(sim)
        sim.inject(Fault.SERVER_ERROR, method="GET", times=120)
        for _ in range(120):  # in the end questions go out singly and ever rarer: the later ones would have to wait
            with pytest.raises(WaitTimeout):
                await session.wait(operation, timeout=0)
        assert before + 90 < asked(sim) < before + 120


async def test_a_timeout_of_nothing_does_not_wait_for_the_limit() -> None:
    """Where the account may not ask for an hour, nothing is asked."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        sim.inject(Fault.SERVER_ERROR, status=429, headers={"Retry-After": "3600"})
        async with anyio.create_task_group() as group:
            group.start_soon(session.refresh, operation)
            await until(lambda: session.statistics().paused_for > 3000)
            group.cancel_scope.cancel()
        limited = asked(sim)
        with pytest.raises(WaitTimeout):
            await session.wait(operation, timeout=0)
        assert asked(sim) == limited
