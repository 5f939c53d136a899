import itertools
import logging
from functools import partial
from time import monotonic

import anyio
import pytest
from helpers.idle import assert_idle, opened, until
from helpers.network_faults import FAULTS, answer, hang_up
from helpers.raw_api import RawApi, http, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    Handle,
    InsufficientCredits,
    Session,
    SoundpieceError,
    Status,
    Timeouts,
    TransportError,
)
from soundpiece_async._core.gate import Gate, Priority
from soundpiece_async._lifetime import StopSignal
from soundpiece_async._pacer import OutageTimeout, Pacer
from soundpiece_async.simulator import Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

QUOTA = 100
NOBODY = "http://127.0.0.1:9"
HANDLE = Handle("create.new_fx", "op_" + "7" * 26)


patient = partial(raw_settings, timeouts=Timeouts(connect=5, submit=5, poll=5))


async def exhaust(session: Session) -> None:
    """Ask a service that is down until the quota is used up; without a budget each call is one request."""

    async def refresh() -> None:
        with pytest.raises(SoundpieceError):
            await session.refresh(HANDLE)

    async with anyio.create_task_group() as group:
        for _ in range(QUOTA):
            group.start_soon(refresh)
    assert session.statistics().degraded
    assert session.statistics().requests == QUOTA


async def test_a_dead_service_is_not_hammered() -> None:
    """A thousand submits at a closed port: some hundred attempts, and each submit ends when its budget does."""
    async with opened(patient(NOBODY, elapsed=1.0)) as session:
        errors: list[TransportError] = []
        took: list[float] = []

        async def submit(number: int) -> None:
            started = anyio.current_time()
            with pytest.raises(TransportError) as caught:
                await session.submit(fx(number))
            took.append(anyio.current_time() - started)
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(submit, number)
            await until(lambda: session.statistics().degraded)
            now = session.statistics()
            assert (now.paused_for, now.rate_limited) == (0.0, 0)
            assert now.active_submits <= 16
            assert now.queued > 800
        assert session.statistics().requests < QUOTA + 16 + 10
        assert max(took) < 60  # a second, and what the tasks need on a busy machine; in turn it would be minutes
        assert len(errors) == 1000
        unsent = [error for error in errors if "not sent" in str(error)]
        assert len(unsent) > 1000 - QUOTA - 26
        assert "cannot connect to" in str(unsent[0])  # it says what the others met
        assert unsent[0].__notes__ == [
            "gave up after 0 attempts; retrying the same request object is safe (same idempotency key)"
        ]
        assert len({str(error) for error in errors}) == 1000  # each with its own key


async def test_when_the_service_comes_back_all_go_through(free_port: int) -> None:
    """A thousand submits waiting for it: one finds out, the others follow, and each is made once."""
    sim = Simulator(seed=1, speed=200, port=free_port)
    async with opened(patient(f"http://127.0.0.1:{free_port}", elapsed=60, api_key=sim.api_key)) as session:
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(session.submit, fx(number))
            await until(lambda: session.statistics().degraded)
            await anyio.sleep(0.2)
            before = session.statistics().requests
            await group.start(live, sim)
            with anyio.fail_after(30):
                while session.statistics().submitted < 1000:
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert before < QUOTA + 16 + 10
        assert len(sim.operations) == 1000
        assert sim.statistics().submits == 1000
        assert not session.statistics().degraded


async def live(sim: Simulator, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async with sim:
        task_status.started()
        await anyio.sleep_forever()


@pytest.mark.parametrize("name", ["hangs up", "500", "502, HTML", "200, a page", "half a JSON", "nothing"])
async def test_every_useless_answer_costs_quota(name: str) -> None:
    """Also a 200 that is no JSON: a broken proxy is as dead as a closed port."""
    async with RawApi() as api, opened(patient(api.url, elapsed=0)) as session:
        api.always = FAULTS[name]
        await exhaust(session)
        assert len(api.requests) == QUOTA


@pytest.mark.parametrize("status", ["200 OK", "400 No", "402 Pay", "404 Not Found", "409 No", "422 No", "429 Slow"])
async def test_a_service_that_answers_costs_none(status: str) -> None:
    """A refusal is an answer: nothing is wrong with the service."""
    async with RawApi() as api, opened(patient(api.url, elapsed=0)) as session:
        api.script.append(answer(http(b'{"detail": "no"}', status=status, headers="Retry-After: 0.01\r\n")))
        with pytest.raises(SoundpieceError) if "429" not in status else anyio.fail_after(30):
            await session.refresh(HANDLE)
        quota = session._engine.transport.pacer.gate._quota
        assert quota.left == quota.capacity == QUOTA


async def test_while_it_is_used_up_one_request_goes_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    """Ever more rarely, until one succeeds; then all may go, and some quota is back."""
    caplog.set_level(logging.WARNING, "soundpiece_async")
    async with RawApi() as api, opened(patient(api.url, elapsed=0)) as session:
        api.always = hang_up
        await exhaust(session)
        pacer = session._engine.transport.pacer
        stamps: list[float] = []
        together = 0
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                nonlocal together
                ticket = await pacer.acquire(Priority.SUBMIT)
                stamps.append(anyio.current_time())
                assert len(stamps) > 4 or pacer.gate.in_flight == 1
                together = max(together, pacer.gate.in_flight)
                await anyio.sleep(0.01)
                (pacer.succeeded if len(stamps) > 3 else pacer.failed)(ticket)

            for _ in range(20):
                group.start_soon(ask)
        pauses = [later - sooner for sooner, later in itertools.pairwise(stamps[:4])]
        assert all(pause > least for pause, least in zip(pauses, (0.099, 0.199, 0.399), strict=True))
        assert together > 10  # all the others
        assert not session.statistics().degraded
        assert pacer.outage_seconds > sum(pauses)
        told = [record.getMessage() for record in caplog.records if record.name == "soundpiece_async.pacer"]
        assert told == ["no usable responses from the service: requests go one at a time until one succeeds"]


async def test_without_a_budget_somebody_still_finds_out_that_it_is_back() -> None:
    """A request that would have to wait gets the error at once; the next in turn is sent, to detect recovery."""
    async with RawApi() as api, opened(patient(api.url, elapsed=0)) as session:
        api.always = hang_up
        await exhaust(session)
        with pytest.raises(TransportError, match="not sent: no usable responses; the latest failure: GET"):
            await session.refresh(HANDLE)
        assert len(api.requests) == QUOTA
        api.always = None
        await anyio.sleep(0.15)  # more than the first pause
        assert (await session.refresh(HANDLE)).status is Status.READY
        assert len(api.requests) == QUOTA + 1


async def test_waiting_for_a_turn_uses_up_the_budget_and_the_own_error_is_told() -> None:
    """Who was sent before, and then waits in vain, tells what became of that attempt."""
    async with RawApi() as api, opened(patient(api.url, elapsed=1.2)) as session:
        api.always = FAULTS["500"]
        async with anyio.create_task_group() as group:

            async def submit(number: int) -> None:
                with pytest.raises(SoundpieceError) as caught:
                    await session.submit(fx(number))
                told = str(caught.value)
                assert "status 500" in told
                assert ("not sent" in told) == ("after 0 attempts" in caught.value.__notes__[0])

            for number in range(300):
                group.start_soon(submit, number)
        assert QUOTA <= len(api.requests) < QUOTA + 16 + 10


async def test_a_pause_after_a_429_takes_no_patience() -> None:
    """The account's limit is waited for, also by those who wait for a service that is down, and by their slots."""
    pacer = Pacer(ceiling=None)
    for _ in range(QUOTA):
        pacer.failed(await pacer.acquire(Priority.SUBMIT))
    await anyio.sleep(0.15)
    probe = await pacer.acquire(Priority.SUBMIT)
    silence = pacer.outage_seconds
    assert silence >= 0.15
    async with anyio.create_task_group() as group:
        ended: list[float] = []

        async def wait(seconds: float) -> None:
            with pytest.raises(OutageTimeout):
                await pacer.acquire(Priority.SUBMIT, until=silence + seconds)
            ended.append(seconds)

        group.start_soon(pacer.acquire, Priority.SUBMIT)  # goes next, and is never answered
        group.start_soon(wait, 1.0)
        await anyio.sleep(0.1)
        pacer.rate_limited(probe, retry_after=3600)
        heard = pacer.outage_seconds
        await anyio.sleep(1.1)
        group.start_soon(wait, 0.9)
        assert (ended, pacer.outage_seconds) == ([], heard)  # the pause is nobody's silence
        pacer.gate._closed_until = monotonic()
        group.start_soon(pacer.run)
        await until(lambda: len(ended) == 2)
        group.cancel_scope.cancel()
    assert ended == [0.9, 1.0]
    assert pacer.gate.closed_until is None
    assert not pacer._deadlines


async def test_waiting_for_a_turn_is_no_work() -> None:
    """While the gate is closed nobody looks again and again: its end, or something new, wakes those who wait."""

    class Watched(Gate):
        looks = 0

        def next_wakeup(self, *, now: float) -> float | None:
            self.looks += 1
            return super().next_wakeup(now=now)

    pacer = Pacer(ceiling=None)
    gate = pacer.gate = Watched()
    pacer.rate_limited(await pacer.acquire(Priority.SUBMIT), retry_after=0.2)
    async with anyio.create_task_group() as group:
        group.start_soon(pacer.run)
        for _ in range(5):
            group.start_soon(pacer.acquire, Priority.POLL)
        await until(lambda: pacer.sent == 2)
        group.cancel_scope.cancel()
    assert gate.looks < 20


async def test_the_one_poll_that_goes_is_not_held() -> None:
    """All wait for its answer, so a service that is back is known to be at once, and not after 20 s."""
    async with RawApi() as api, opened(patient(api.url, elapsed=0)) as session:
        api.always = hang_up
        await exhaust(session)
        api.always, api.ready = None, False
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(session.wait, Handle("create.new_fx", f"op_{number:026d}"))
            await until(lambda: len(api.requests) > QUOTA + 5)
            group.cancel_scope.cancel()
        polls = [asked.target for asked in api.requests[QUOTA:]]
        assert "wait=true" not in polls[0]
        assert any("wait=true" in poll for poll in polls)
        assert not session.statistics().degraded


async def test_a_probe_that_is_refused_or_cancelled_lets_the_next_one_go() -> None:
    """The one place there is never stays with somebody who left."""
    async with RawApi() as api, opened(patient(api.url, elapsed=5)) as session:
        stop = StopSignal()
        stop.set(InsufficientCredits("no more", status=402))
        api.script.extend([hang_up] * QUOTA)
        async with opened(patient(api.url, elapsed=0)) as hasty:
            await exhaust(hasty)
            await anyio.sleep(0.15)
            with pytest.raises(InsufficientCredits):
                await hasty._engine.submitter.submit(fx(), stop=stop)
            await assert_idle(hasty)
            api.script.append(FAULTS["stalls"])
            with anyio.move_on_after(0.1) as scope:
                await hasty.submit(fx())
            assert scope.cancelled_caught
            await assert_idle(hasty)
            assert (await hasty.submit(fx())).id in api.created.values()
        assert not session.statistics().degraded  # each session has a quota of its own
