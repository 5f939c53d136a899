import gc
import json
import logging
from datetime import UTC, datetime, timedelta
from functools import partial

import anyio
import pytest
from helpers.idle import opened
from helpers.network_faults import answer
from helpers.raw_api import Peer, RawApi, Responder, http, raw_settings
from helpers.sample_requests import fx
from helpers.simulation import settings, simulate

from soundpiece_async import (
    ApiError,
    DecodeError,
    Handle,
    InvalidRequest,
    NewFx,
    NewInstrumental,
    SeparateStems,
    Session,
    Status,
    Timeouts,
)
from soundpiece_async._core.scheduler import Scheduler
from soundpiece_async.simulator import Fault, Simulator

pytestmark = pytest.mark.anyio

HANDLE = Handle("create.new_fx", "op_" + "7" * 26)


hurried = partial(raw_settings, timeouts=Timeouts(submit=0.5))
"""No budget and short attempts: whatever waits longer waits for the account's limit."""


def changing(**members: object) -> Responder:
    """Answer honestly but for these members."""

    async def act(peer: Peer, honest: bytes) -> None:
        body = json.loads(honest.partition(b"\r\n\r\n")[2])
        await peer.send(http(json.dumps({"fx": body["fx"] | members}).encode()))

    return act


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
async def test_a_redirect_of_the_api_is_never_followed(status: int) -> None:
    """The key goes to one origin only; a submit and a read say at once what is wrong, and where to look.

    A wait goes on, as after any refusal of a poll.
    """
    async with RawApi() as elsewhere, RawApi() as api, opened(hurried(api.url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        moved = answer(http(b"", status=f"{status} Moved", headers=f"Location: {elsewhere.url}/v1/x\r\n"))
        for call in (session.submit(fx()), session.refresh(HANDLE)):
            api.script.append(moved)
            with pytest.raises(ApiError, match="SOUNDPIECE_BASE_URL") as caught:
                await call
            assert (caught.value.status, caught.value.retryable) == (status, False)
        assert len(api.requests) == 2
        api.script.append(moved)
        assert (await session.wait(HANDLE)).status is Status.READY
        assert elsewhere.requests == []


async def test_a_429_is_waited_out_whatever_its_header_says() -> None:
    """No attempt, budget or quota is used up: without a usable number the pause is ours, a second or so."""
    async with anyio.create_task_group() as group:  # at the same time: each takes a second
        for header in (None, "0", "-5", "soon", "1e3", "yesterday, 10 o'clock", "0.4", "date"):
            group.start_soon(meet_limit, header)


async def meet_limit(header: str | None) -> None:
    told = format_date(1) if header == "date" else header
    headers = "" if told is None else f"Retry-After: {told}\r\nDate: {format_date(0)}\r\n"
    refused = answer(http(b'{"detail": "slow down"}', status="429 Slow", headers=headers))
    async with RawApi(refused) as api, opened(hurried(api.url)) as session:
        started = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(session.submit, fx())
            while not (now := session.statistics()).rate_limited:
                await anyio.sleep(0.002)
            shortest = 0.4 if header == "0.4" else 1.0
            assert shortest - (anyio.current_time() - started) < now.paused_for <= shortest * 1.25
            assert (now.rate, now.queued, now.active_submits, now.degraded) == (pytest.approx(0.5), 1, 1, False)
            assert (
                session._engine.transport.pacer.gate._quota.left == session._engine.transport.pacer.gate._quota.capacity
            )
        assert anyio.current_time() - started > shortest
        assert len(set(api.puts)) == len(api.created) == 1


def format_date(ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead)).strftime("%a, %d %b %Y %H:%M:%S GMT")


async def test_the_limit_is_told_once_and_not_for_every_request(
    sim: Simulator, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, when the account's limit is first met; the statistics show the gate."""
    caplog.set_level(logging.WARNING, "soundpiece_async")
    sim.inject(Fault.RATE_LIMITED, method="PUT", times=20, seconds=60)
    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(session.submit, fx(number))
        while session.statistics().rate_limited < 4 or session.statistics().queued < 16:  # of the first window
            await anyio.sleep(0.002)
        now = session.statistics()
        assert 50 < now.paused_for <= 61
        assert now.rate == pytest.approx(0.5)
        group.cancel_scope.cancel()
    assert [record.message for record in caplog.records if record.name.startswith("soundpiece")] == [
        "the first 429 of this session: requests are paced from now on"
    ]
    assert session.statistics().queued == 0


async def test_an_answer_about_another_operation_is_no_answer() -> None:
    """A read refuses it, a wait asks again; the operation asked about is not lost."""
    async with RawApi() as api, opened(hurried(api.url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        api.script.append(changing(id="op_" + "8" * 26))
        with pytest.raises(DecodeError, match="another operation, op_8") as caught:
            await session.refresh(HANDLE)
        assert (caught.value.path, caught.value.handle) == ("id", HANDLE)
        api.script.append(changing(id="op_" + "8" * 26))
        assert (await session.wait(HANDLE)).status is Status.READY


async def test_an_echo_of_another_key_is_never_sent_again() -> None:
    """The answer belongs to another request: it is on the error, however often it is asked for; nothing is resent."""
    other = "4c1c0c3e-0000-4000-8000-000000000000"
    async with RawApi(changing(idempotency_key=other)) as api, opened(hurried(api.url)) as session:
        request = fx()
        for _ in range(3):
            with pytest.raises(DecodeError, match="another idempotency key") as caught:
                await session.submit(request)
            assert caught.value.path == "idempotency_key"
            assert caught.value.body["fx"]["idempotency_key"] == other
            operation = caught.value.operation
            assert operation is not None
            assert operation.id in api.created.values()
            assert operation.request is request
        assert len(api.puts) == 1
        del request, caught, operation
        gc.collect()
        assert "known=0" in repr(session)  # the memory ends with the request object, also of what went wrong


async def test_an_answer_without_an_id_is_told_with_what_came() -> None:
    """Nothing is known of it, so it is not sent again by itself; sent again, its own key finds out."""
    async with RawApi(changing(id=None)) as api, opened(hurried(api.url)) as session:
        request = fx()
        with pytest.raises(DecodeError, match="has no operation") as caught:
            await session.submit(request)
        assert (caught.value.operation, caught.value.handle) == (None, None)
        assert caught.value.body["fx"]["prompt"] == request.prompt
        assert len(api.puts) == 1
        assert (await session.submit(request)).id
        assert len(api.created) == 1


@pytest.mark.parametrize("hours", [-48, -1, 1, 48])
async def test_a_wrong_local_clock_spoils_no_expiry(hours: int) -> None:
    """A URL is fresh or old by the service's clock: nothing is renewed without need, and nothing sent too late."""
    for lifetime, renewals in ((900.0, 0), (30.0, 1)):
        async with simulate(clock_skew=hours * 3600.0, url_lifetime=lifetime) as sim, opened(settings(sim)) as session:
            done = await session.run(NewInstrumental("calm"))
            before = sim.statistics().polls
            await session.submit(SeparateStems(done.operation.outputs[0]))
            assert sim.statistics().polls == before + renewals


async def test_a_clock_that_jumps_spoils_no_expiry() -> None:
    """The service seems to jump, so ours did: at the next look it is believed, however far, and back."""
    async with simulate(clock_skew=5.0, url_lifetime=900.0) as sim, opened(settings(sim)) as session:
        done = await session.run(NewInstrumental("calm"))
        for jump in (7200.0, -14400.0):
            sim._world.wall_offset += jump
            session._engine.transport._http._clock._read = None  # as a minute later
            read = await session.refresh(done.operation)
            assert read.outputs[0].expires_at is not None
            left = (read.outputs[0].expires_at - session._engine.transport.now).total_seconds()
            assert left == pytest.approx(900, abs=3)
            before = sim.statistics().polls
            await session.submit(SeparateStems(read.outputs[0]))
            assert sim.statistics().polls == before


async def test_a_request_that_is_none_is_refused_while_the_service_is_down() -> None:
    """An error of the request itself is raised at once, whatever the network does."""
    async with opened(hurried("http://127.0.0.1:9")) as session:
        with pytest.raises(InvalidRequest):
            await session.submit(NewFx("", duration=1))
        assert session.statistics().requests == 0
