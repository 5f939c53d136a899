"""At DEBUG level the log answers why a poll comes now, and why a request waited, with seconds."""

import logging
import re
from pathlib import Path

import anyio
import pytest
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.scripted_http import respond, scripted, settings

from soundpiece_async import Limits, SeparateStems, Session, Settings
from soundpiece_async._core.gate import Priority
from soundpiece_async._core.scheduler import Scheduler
from soundpiece_async._pacer import Pacer
from soundpiece_async.simulator import Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left")]

TOO_FAST = respond({"detail": "slow down"}, status=429, retry_after="0.2")
BROKEN = respond({"detail": "oops"}, status=500)


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "soundpiece_async")


def said(caplog: pytest.LogCaptureFixture, pattern: str) -> list[str]:
    """Return the messages that match from their beginning, each once."""
    return [text for text in map(logging.LogRecord.getMessage, caplog.records) if re.match(pattern, text)]


async def test_a_wait_for_a_slot_and_for_the_end_of_a_429(caplog: pytest.LogCaptureFixture) -> None:
    """Each line has the request, the seconds and the reason."""
    put = r"PUT /v1/create\.new_fx \(idempotency key \S+\): waited 0\.\d+ s "
    with scripted(TOO_FAST):
        async with Session(settings(limits=Limits(submits=1))) as session, anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(session.submit, fx(number))
            await until(lambda: bool(said(caplog, put + r"at the rate limiter: a 429 pauses .*, for 0\.\d s more")))
            await until(lambda: bool(said(caplog, put + "for one of 1 slots")))
            group.cancel_scope.cancel()
    assert said(caplog, r"a 429 pauses all requests for 0\.2 s \(Retry-After: 0\.2 s\), then \d")


async def test_a_wait_for_a_download_slot(sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Downloads wait for each other, too."""
    many = Settings(api_key=sim.api_key, base_url=sim.url, limits=Limits(downloads=1))
    async with Session(many) as session:
        done = await session.run(SeparateStems("https://example.com/mix.wav"))
        await session.download(done.operation, tmp_path)
    assert said(caplog, rf"{done.operation.handle}: waited \d\.\d+ s for one of 1 slots")


async def test_a_wait_for_a_permit_and_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The rate, or the outage, is the reason."""
    metered, down = Pacer(ceiling=100), Pacer(ceiling=None)
    async with anyio.create_task_group() as group:
        group.start_soon(metered.run)
        group.start_soon(down.run)
        for _ in range(150):
            group.start_soon(metered.acquire, Priority.SUBMIT)
        for _ in range(100):
            down.failed(await down.acquire(Priority.SUBMIT))
        down.rate_limited(await down.acquire(Priority.SUBMIT), retry_after=None)
        await until(lambda: metered.sent == 150)
        group.cancel_scope.cancel()
    assert said(caplog, r"a request: waited 0\.\d+ s at the rate limiter: 100/s, and \d+ wait")
    assert said(caplog, r"a request: waited \d\.\d+ s at the rate limiter: an outage: .*, and 1 wait")
    assert said(caplog, r"a 429 pauses all requests for \S+ s \(Retry-After: none\)")


async def test_a_wait_for_the_first_window(caplog: pytest.LogCaptureFixture) -> None:
    """A new session has few submits in flight until the first are answered, or for some hundredths of a second."""
    new = Pacer(ceiling=None)
    async with anyio.create_task_group() as group:
        group.start_soon(new.run)
        for _ in range(6):
            group.start_soon(new.acquire, Priority.SUBMIT)
        await until(lambda: new.sent == 6)
        group.cancel_scope.cancel()
    assert said(
        caplog, r"a request: waited 0\.\d+ s at the rate limiter: a new session begins with few submits, and \d wait"
    )


async def test_why_an_operation_is_polled_now(caplog: pytest.LogCaptureFixture) -> None:
    """Each poll has its numbers; a pause after a failure has its seconds."""
    with scripted() as http:
        http.ready = False
        async with Session(settings()) as session, anyio.create_task_group() as group:
            session._engine.poller._scheduler = Scheduler(slots=1, hold=0.2)
            operations = [await session.submit(fx(number)) for number in range(2)]
            http.script.append(BROKEN)
            for operation in operations:
                group.start_soon(session.wait, operation)
            await until(lambda: bool(said(caplog, r"create\.new_fx/op_\d+: not polled again for \S+ s: failed")))
            http.finish()
    reasons = said(
        caplog,
        r"create\.new_fx/op_\d+: (long|short) poll \(rule [2458]\)( after 1 failed in a row \(rule 7\))?: "
        r"(each has a slot|2 can be polled); \S+ s since its last poll, ",
    )
    assert any("after 1 failed in a row" in reason for reason in reasons)
    numbers = r"age \S+ s, gain of a short poll \S+ s, of a long one \S+ s"
    prices = r"\(price of a request 0.0005 s, going price \S+ s\)"
    assert all(re.search(rf"{numbers} {prices}, 0 of 1 slots taken$", reason) for reason in reasons)
