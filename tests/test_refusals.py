import traceback
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import attrs
import pytest
from helpers.idle import opened, until
from helpers.network_faults import answer
from helpers.raw_api import Peer, RawApi, http
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, puts, settings, simulate

from soundpiece_async import (
    ApiError,
    AuthenticationError,
    Failed,
    InsufficientCredits,
    Journal,
    Limits,
    NewFx,
    RunMany,
    Session,
    Settings,
    Succeeded,
)
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio

SLOTS = 4


def few(sim: Simulator) -> Session:
    return Session(settings(sim, limits=Limits(submits=SLOTS)))


async def gather(run: RunMany[NewFx], into: list[Succeeded[NewFx] | Failed[NewFx]]) -> None:
    async with run as results:
        async for result in results:
            into.append(result)  # noqa: PERF401 - somebody looks at it meanwhile


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (402, InsufficientCredits), (403, AuthenticationError)]
)
async def test_a_refusal_stops_the_submissions_and_nothing_else(
    sim: Simulator, tmp_path: Path, status: int, error: type[ApiError]
) -> None:
    """Those in flight may collect it; the rest is read on and answered with it; what was accepted is delivered."""
    sim.inject(Fault.SERVER_ERROR, method="PUT", status=status, skip=10, times=SLOTS)
    read = 0

    def requests() -> Iterator[NewFx]:
        nonlocal read
        for read in range(1, 61):
            yield fx(read)

    done: list[Succeeded[NewFx] | Failed[NewFx]] = []
    async with few(sim) as session:
        await gather(session.run_many(requests(), save_to=tmp_path, max_in_flight=30), done)
        assert len(puts(sim)) <= 10 + SLOTS
        succeeded = [result for result in done if isinstance(result, Succeeded)]
        failed = [result for result in done if isinstance(result, Failed)]
        assert (read, len(succeeded), len(failed)) == (60, 10, 50)
        assert len(list(tmp_path.iterdir())) == 10
        assert all(isinstance(result.error, error) and result.operation is None for result in failed)
        sim.inject(Fault.SERVER_ERROR, method="PUT", status=status)
        for _ in range(10 + SLOTS - len(puts(sim)) + 1):  # the session itself does not stop: each submit tries
            with pytest.raises(error):
                await session.submit(fx())
        await session.run(failed[0].request)
        again: list[Succeeded[NewFx] | Failed[NewFx]] = []
        await gather(session.run_many(result.request for result in failed), again)
        assert all(isinstance(result, Succeeded) for result in again)  # a later run tries again, too
        assert len(sim.operations) == 60


async def test_a_refusal_anywhere_in_the_session_stops_every_run() -> None:
    """Two runs and a single submit share the account, so one refusal is enough; what is in flight is still awaited."""
    async with simulate(durations=never_finishes, credits=20) as sim, few(sim) as session:
        first: list[Succeeded[NewFx] | Failed[NewFx]] = []
        second: list[Succeeded[NewFx] | Failed[NewFx]] = []
        async with anyio.create_task_group() as group:
            for into in (first, second):
                group.start_soon(gather, session.run_many(map(fx, range(100)), max_in_flight=10), into)
            await until(lambda: len(sim.operations) == 20)
            with pytest.raises(InsufficientCredits):
                await session.submit(fx())
            for identity in list(sim.operations)[:2]:
                sim.finish(identity)
            await until(lambda: len(first) + len(second) >= 2)
            sim.top_up(100)  # too late for them
            for identity in list(sim.operations)[2:]:
                sim.finish(identity)
        assert len(first) == len(second) == 100
        assert sum(isinstance(result, Succeeded) for result in first + second) == 20
        assert len(puts(sim)) <= 20 + SLOTS + 1
        third: list[Succeeded[NewFx] | Failed[NewFx]] = []
        async with anyio.create_task_group() as group:
            group.start_soon(gather, session.run_many([fx()]), third)
            await until(lambda: len(sim.operations) == 21)
            sim.finish(list(sim.operations)[-1])
        assert isinstance(third[0], Succeeded)


async def test_a_key_revoked_in_mid_run_ends_it_with_all_that_is_known(sim: Simulator) -> None:
    """Those in flight cannot be read any more: each keeps its operation, and nothing more is sent."""
    done: list[Succeeded[NewFx] | Failed[NewFx]] = []
    async with opened(settings(sim, limits=Limits(submits=SLOTS))) as session:
        async with anyio.create_task_group() as group:
            group.start_soon(gather, session.run_many(map(fx, range(200)), max_in_flight=20), done)
            await until(lambda: len(sim.operations) >= 20)
            sim._api.api_key = "spk_another"
        made = len(sim.operations)
        assert len(done) == 200
        failed = [result for result in done if isinstance(result, Failed)]
        assert all(isinstance(result.error, AuthenticationError) for result in failed)
        known = {result.operation.id for result in done if result.operation is not None}
        assert len(known) >= made - SLOTS
        assert sum(result.operation is None for result in failed) >= 200 - made - SLOTS


async def test_one_refusal_does_not_collect_the_tracebacks_of_all() -> None:
    """All that is left shares one error, which must not hold a frame of each that was answered with it."""
    async with simulate(credits=0) as sim, few(sim) as session:
        done: list[Succeeded[NewFx] | Failed[NewFx]] = []
        await gather(session.run_many(map(fx, range(500))), done)
        assert len(done) == 500
        for result in done:
            assert isinstance(result, Failed)
            assert len(traceback.extract_tb(result.error.__traceback__)) < 30


async def test_a_refusal_names_nobody_elses_operation(tmp_path: Path) -> None:
    """Jobs with operations that a revoked key keeps from being read: each failure names its own."""
    requests = [fx(number) for number in range(6)]
    async with simulate(durations=never_finishes) as sim:
        async with Journal.open(tmp_path) as journal, few(sim) as session:
            async with session.run_many(requests, journal=journal) as results:
                await until(lambda: len(results.pending) == 6)
            known = {handle.id for handle in results.pending}
        sim._api.api_key = "spk_another"
        done: list[Succeeded[NewFx] | Failed[NewFx]] = []
        async with Journal.open(tmp_path) as journal, few(sim) as session:
            await gather(session.run_many(map(fx, range(6)), journal=journal, max_in_flight=2), done)
        assert len(done) == 6
        for result in done:
            assert isinstance(result, Failed)
            assert isinstance(result.error, AuthenticationError)
            assert result.operation is not None
            assert result.error.handle == result.operation.handle
        assert {result.operation.id for result in done if result.operation} == known


@pytest.mark.parametrize("journaled", [False, True])
async def test_a_firewall_that_dislikes_one_prompt_fails_one_job(tmp_path: Path, *, journaled: bool) -> None:
    """A 403 with an HTML body: the other 29 are delivered, and the next run sends the one again."""

    async def dislike(peer: Peer, honest: bytes) -> None:
        blocked = b'"door 7"' in honest and b"idempotency_key" in honest
        keep = honest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        await peer.send(http(b"<html>blocked</html>", status="403 Forbidden") if blocked else keep)

    raw = Settings(api_key="spk_for_tests", limits=Limits(submits=SLOTS))
    async with RawApi() as api:
        api.always = dislike
        for _ in range(2):
            done: list[Succeeded[NewFx] | Failed[NewFx]] = []
            async with AsyncExitStack() as stack:
                journal = await stack.enter_async_context(Journal.open(tmp_path)) if journaled else None
                session = await stack.enter_async_context(opened(attrs.evolve(raw, base_url=api.url)))
                await gather(session.run_many(map(fx, range(30)), journal=journal), done)
            (failed,) = [result for result in done if isinstance(result, Failed)]
            assert isinstance(failed.error, AuthenticationError)
            assert failed.request.prompt == "door 7"
        assert sum(b'"door 7"' in body for body in api.puts) == 2
        api.always = None
        if journaled:
            async with Journal.open(tmp_path) as journal, opened(attrs.evolve(raw, base_url=api.url)) as session:
                await gather(session.run_many(map(fx, range(30)), journal=journal), done)
            assert all(isinstance(result, Succeeded) for result in done[30:])


async def test_a_firewall_that_lets_nothing_pass_stops_a_run() -> None:
    """Ten answers, and no others before: a thousand jobs need not try."""
    async with RawApi() as api:
        api.always = answer(http(b"<html>blocked</html>", status="403 Forbidden"))
        done: list[Succeeded[NewFx] | Failed[NewFx]] = []
        raw = Settings(api_key="spk_for_tests", base_url=api.url, limits=Limits(submits=SLOTS))
        async with opened(raw) as session:
            await gather(session.run_many(map(fx, range(1000))), done)
        assert len(done) == 1000
        assert 10 <= len(api.puts) <= 10 + SLOTS
