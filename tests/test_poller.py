import asyncio
import traceback

import anyio
import attrs
import pytest
from conftest import STUCK, settings, simulate

from soundpiece_async import Handle, Limits, NewFx, Session, Status, Timeouts, ValidationError, WaitTimeout
from soundpiece_async._core.scheduler import Drop, Poll, Scheduler, Sleep
from soundpiece_async._poller import DELIVERED
from soundpiece_async._reader import REMEMBERED
from soundpiece_async.simulator import Fault

pytestmark = pytest.mark.anyio


def fx(number: int = 0) -> NewFx:
    return NewFx(f"door {number}", duration=0.1)


async def test_polls_never_exceed_their_limit_and_nobody_starves() -> None:
    """Sixty operations on four slots: all are noticed, and the server never sees a fifth poll."""
    async with simulate(speed=500) as sim, Session(settings(sim, limits=Limits(polls=4))) as session:
        async with session.run_many(fx(number) for number in range(60)) as results:
            assert len([result async for result in results]) == 60
        assert sim.peak_polls <= 4
        assert session.statistics().ready == 60


async def test_everyone_is_looked_at_while_all_take_long() -> None:
    """With more operations than slots the slots go round."""
    async with simulate(durations=STUCK) as sim, Session(settings(sim, limits=Limits(polls=2))) as session:
        operations = [await session.submit(fx(number)) for number in range(10)]
        async with anyio.create_task_group() as group:
            for operation in operations:
                group.start_soon(session.wait, operation)
            with anyio.fail_after(10):
                while {request.operation for request in sim.log if request.method == "GET"} < set(sim.operations):
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RESET_AFTER, Fault.CUT, Fault.RATE_LIMITED, Fault.STALL])
async def test_a_failed_poll_is_a_later_turn(fault: Fault) -> None:
    """Nothing but the caller's own timeout gives up on an operation."""
    async with simulate() as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        sim.inject(fault, method="GET", times=2, seconds=0.3)
        assert (await session.wait(operation, timeout=20)).outputs


async def test_what_cannot_be_read_ends_the_wait() -> None:
    """A refusal that trying again would not mend is raised to every waiter; the session is none the worse."""
    async with simulate() as sim, Session(settings(sim)) as session:
        for _ in range(2):
            with pytest.raises(ValidationError, match="op_none"):
                await session.wait(Handle("create.new_fx", "op_none"))
        await session.run(fx())


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    """An error that a hundred raise would collect the tracebacks of a hundred, and the notes that each adds."""
    async with simulate() as sim, Session(settings(sim)) as session:
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
    async with simulate(durations=STUCK, speed=1) as sim, Session(settings(sim, timeouts=patient)) as session:
        first, second = await session.submit(fx(1)), await session.submit(fx(2))
        with pytest.raises(WaitTimeout):
            await session.wait(first, timeout=0.01)
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, second)
            with anyio.fail_after(5):
                while all(request.operation != second.id for request in sim.log if request.method == "GET"):
                    await anyio.sleep(0.01)
            await anyio.sleep(0.1 + 4 * session._poller._scheduler.rtt)  # an answer at once would be no hold's
            sim.finish(second.id)
        assert session.statistics().detection_lag_max == 0.0


async def test_memories_are_bounded() -> None:
    """Deliveries nobody waits for, and outputs nobody asks for again, are forgotten in the end."""
    async with simulate() as sim, Session(settings(sim)) as session:
        operation = (await session.run(fx())).operation
        for number in range(max(DELIVERED, REMEMBERED) + 10):
            copy = type(operation)(
                route=operation.route,
                id=f"op_{number:026d}",
                status=operation.status,
                request=operation.request,
                outputs=operation.outputs,
            )
            session.deliver(copy)
        assert f"remembers={REMEMBERED}" in repr(session._reader)
        assert len(session._poller._delivered) == DELIVERED


async def test_a_hold_is_dropped_when_the_scheduler_says_so() -> None:
    """The connection is given up, its slot goes to another, and the operation gets a later turn."""

    class Impatient(Scheduler):
        """Drops the first hold, once."""

        held: object = None

        def begin(self, action: Poll | Drop, *, now: float) -> None:
            super().begin(action, now=now)
            self.held = action.key if isinstance(action, Poll) and action.wait and self.held is None else ()

        def next_action(self, now: float, *, rate: float | None = None) -> Poll | Drop | Sleep:
            if self.held:
                return Drop(self.held)
            return super().next_action(now, rate=rate)

    async with simulate(durations=STUCK) as sim, Session(settings(sim)) as session:
        session._poller._scheduler = Impatient(slots=1)
        operation = await session.submit(fx())
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, operation)
            with anyio.fail_after(5):
                while sum(request.method == "GET" for request in sim.log) < 2:
                    await anyio.sleep(0.005)
            sim.finish(operation.id)
        assert sim.peak_polls == 1


async def test_a_permit_that_comes_too_late_is_given_back() -> None:
    """Who waited has gone while the gate was closed: the permit is not used, and not kept."""
    async with simulate(durations=STUCK) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        sim.inject(Fault.RATE_LIMITED, method="PUT", seconds=1)
        with anyio.move_on_after(0.1):
            await session.submit(fx(1))
        with pytest.raises(WaitTimeout):
            await session.wait(operation, timeout=0.1)
        gate = session._transport.pacer.gate
        assert gate.waiting == 1
        with anyio.fail_after(5):
            while gate.waiting or gate.in_flight:
                await anyio.sleep(0.01)
        assert all(request.method == "PUT" for request in sim.log)


async def test_news_for_an_operation_nobody_waits_for_any_more_is_no_news() -> None:
    """A result that comes when its last waiter has just left, or after a webhook, is dropped."""
    async with simulate(durations=STUCK) as sim, Session(settings(sim)) as session:
        operation = await session.submit(fx())
        ready = attrs.evolve(operation, status=Status.READY)
        with pytest.raises(WaitTimeout):
            async with anyio.create_task_group() as group:
                group.start_soon(session.wait, operation)
                await anyio.sleep(0.05)
                watch = session._poller._watches[operation.handle]
                group.cancel_scope.cancel()
            session._poller._resolve(watch, ready)
            assert watch.outcome is None
            assert session.statistics().ready == 0
            await session.wait(operation, timeout=0.01)
