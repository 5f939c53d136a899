import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from helpers.idle import opened, until
from helpers.network_faults import answer
from helpers.raw_api import Asked, Peer, RawApi, Responder, http, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    ApiError,
    AuthenticationError,
    DecodeError,
    Failed,
    Handle,
    InsufficientCredits,
    JobState,
    Journal,
    NewFx,
    NotFound,
    Operation,
    Status,
    Succeeded,
    Timeouts,
    ValidationError,
    WaitTimeout,
)
from soundpiece_async._core.scheduler import Scheduler

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "short_pauses")]

HANDLE = Handle("create.new_fx", "op_" + "7" * 26)


settings = partial(raw_settings, elapsed=0.5, timeouts=Timeouts(connect=2, submit=2, poll=30, read=2))


def refuse(status: int, body: bytes = b'{"detail": "no"}', headers: str = "") -> Responder:
    return answer(http(body, status=f"{status} No", headers=headers))


UNKNOWN = b'{"detail": [{"loc": ["query", "id"], "msg": "Operation not found", "type": "not_found"}]}'


@pytest.mark.parametrize(
    "act",
    [
        *map(refuse, (302, 307, 400, 404, 405, 406, 407, 408, 409, 410, 411, 418, 421, 422, 423, 424, 425, 426)),
        *map(refuse, (428, 431, 451, 499)),
        refuse(422, UNKNOWN),
        refuse(403, b"<html>blocked</html>"),
        refuse(404, b"<html>not found</html>"),
    ],
)
async def test_a_refused_poll_is_a_later_turn(act: Responder) -> None:
    """Just after the PUT, or at any time: the work is paid for, and asking again costs nothing."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.4)
        operation = await session.submit(fx())
        api.script.extend([act, act])
        assert (await session.wait(operation, timeout=10)).status is Status.READY


@pytest.mark.parametrize(("status", "body"), [(404, b""), (410, b""), (422, UNKNOWN)])
async def test_an_operation_is_not_found_when_it_is_said_for_long_enough(status: int, body: bytes) -> None:
    """At least three times, for a minute (here: half a second); the error says which, and knows the operation."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.4)
        operation = await session.submit(fx())
        api.always = refuse(status, body)
        started = anyio.current_time()
        with anyio.fail_after(30), pytest.raises(NotFound, match="the service does not know it") as caught:
            await session.wait(operation)
        assert anyio.current_time() - started >= 0.5
        assert len(api.requests) >= 4
        assert (caught.value.status, caught.value.handle) == (status, operation.handle)
        assert caught.value.operation == operation
        assert str(operation.handle) in str(caught.value)
        api.always = None
        assert (await session.wait(caught.value.handle, timeout=5)).status is Status.READY


async def test_an_answer_in_between_begins_the_count_anew() -> None:
    """What the service knows again is not unknown."""
    async with RawApi() as api, opened(settings(api.url, elapsed=0)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        api.ready = False
        lost = refuse(404)
        api.script.extend([lost, lost, None, lost, lost, None, lost, lost])  # type: ignore[list-item]
        async with anyio.create_task_group() as group:
            group.start_soon(session.wait, HANDLE)
            await until(lambda: not api.script)
            api.ready = True


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (refuse(403, b"<html>"), AuthenticationError),
        (refuse(401), AuthenticationError),
        (refuse(402), InsufficientCredits),
        (refuse(422), ValidationError),
        (refuse(302), ApiError),
        (answer(http(b'{"detail": "no operation here"}')), DecodeError),
    ],
)
async def test_every_error_about_an_operation_names_it(act: Responder, error: type[Exception]) -> None:
    """Of a wait, once the same has come for long enough (here: at once), and of a refresh."""
    async with RawApi() as api, opened(settings(api.url, elapsed=0)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        operation = await session.submit(fx())
        api.always = act
        for what in (operation, operation.handle):
            for call in (session.wait(what), session.refresh(what)):
                with anyio.fail_after(30), pytest.raises(error) as caught:
                    await call
                assert caught.value.handle == operation.handle  # type: ignore[attr-defined]
                known = what if isinstance(what, Operation) else None
                assert caught.value.operation == known  # type: ignore[attr-defined]


async def test_answers_that_cannot_be_read_do_not_make_an_operation_unknown() -> None:
    """What is refused, unreadable or lost says nothing of whether the service knows it: each is counted by itself."""
    async with RawApi() as api, opened(settings(api.url, elapsed=0)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        unreadable = answer(http(b'{"detail": "no operation here"}'))
        api.script.extend([unreadable, refuse(404), refuse(400), refuse(404)])
        assert (await session.wait(HANDLE, timeout=10)).status is Status.READY
        assert len(api.requests) == 5


async def test_a_service_that_refuses_every_read_ends_a_wait_and_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error has the handle, and how often it came; the job stays submitted, and the next run delivers it."""
    async with RawApi() as api:

        async def refuse_reads(peer: Peer, honest: bytes) -> None:
            await peer.send(honest if b"idempotency_key" in honest else http(b"<html>", status="405 No"))

        api.always = refuse_reads
        (refused,) = await run(api.url, tmp_path)
        assert isinstance(refused, Failed)
        assert refused.error.handle == refused.operation.handle  # type: ignore[union-attr]
        assert "status 405" in str(refused.error)
        assert "times over" in refused.error.__notes__[0]
        assert caplog.text.count("a poll was rejected, and is retried") == 1
        async with await Journal.open(tmp_path) as journal:
            (job,) = await journal.jobs()
        assert job.state is JobState.SUBMITTED
        api.always = None
        assert isinstance((await run(api.url, tmp_path))[0], Succeeded)
        assert len(api.puts) == 1


@pytest.mark.parametrize("refusal", [refuse(422), refuse(404), refuse(405, b"<html>"), refuse(501)])
@pytest.mark.parametrize("timeout", [20.0, 0.3])
async def test_a_service_that_refuses_long_polls_is_asked_without(
    refusal: Responder, timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Each refused one is followed by a short one; after two the session sends no other, also in short waits."""
    async with ParticularApi(refusal) as api, opened(settings(api.url, elapsed=20)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.4)
        api.ready = False
        operation = await session.submit(fx())
        done: list[Operation[NewFx]] = []

        async def wait() -> None:
            while not done:
                with suppress(WaitTimeout):
                    done.append(await session.wait(operation, timeout=timeout))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: "rejects long polls" in caplog.text)
            long = api.long
            await until(lambda: len(api.requests) > 10)
            api.ready = True
        assert done[0].status is Status.READY
        assert api.long == long
        assert caplog.text.count("rejects long polls") == 1


class ParticularApi(RawApi):
    """Answers long polls with a refusal, and everything else."""

    def __init__(self, refusal: Responder) -> None:
        super().__init__()
        self.refusal = refusal
        self.long = 0

    async def _answer(self, asked: Asked, peer: Peer, reader: asyncio.StreamReader) -> bool:
        self.always = self.refusal if "wait=true" in asked.target else None
        self.long += "wait=true" in asked.target
        return await super()._answer(asked, peer, reader)


async def test_a_poll_rests_as_long_as_it_is_asked_to() -> None:
    """``Retry-After`` of a 503 is for this operation."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        api.script.append(refuse(503, headers="Retry-After: 1\r\n"))
        started = anyio.current_time()
        await session.wait(HANDLE, timeout=10)
        assert anyio.current_time() - started >= 1
        assert len(api.requests) == 2


class HeldApi(RawApi):
    """Marks the honest answers to long polls that have no result."""

    def _do(self, asked: Asked) -> bytes:
        honest = super()._do(asked)
        held = "wait=true" in asked.target and not self.ready
        return honest.replace(b"Content-Type", b"X-Held: 1\r\nContent-Type") if held else honest


def cut(kind: str) -> Responder:
    """Responder as a proxy that ends what is silent for longer than its idle timeout."""

    async def act(peer: Peer, honest: bytes) -> None:
        if b"X-Held" not in honest:
            await peer.send(honest.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))
            return
        await anyio.sleep(0.3)
        if kind == "reset":
            peer.reset()
        elif kind != "close":
            await peer.send(http(b"<html>timeout</html>", status=f"{kind} Timeout"))

    return act


@pytest.mark.parametrize("kind", ["408", "499", "504", "close", "reset"])
async def test_a_proxy_with_a_short_idle_timeout_serves_everybody(kind: str) -> None:
    """Ten of ten, and nothing is taken for an outage: the scheduler learns how long a poll is held there."""
    async with HeldApi() as api, opened(settings(api.url, elapsed=20)) as session:
        scheduler = session._engine.poller._scheduler = Scheduler(slots=20, hold=2.0)
        operations = [await session.submit(fx(number)) for number in range(10)]
        api.ready, api.always = False, cut(kind)
        done: list[Status] = []

        async def wait(operation: Operation[NewFx]) -> None:
            done.append((await session.wait(operation, timeout=20)).status)

        async with anyio.create_task_group() as group:
            for operation in operations:
                group.start_soon(wait, operation)
            await until(lambda: scheduler._timing.hold < 1)
            assert (
                not session._engine.transport.pacer.gate._quota.capacity
                - session._engine.transport.pacer.gate._quota.left
            )
            api.ready = True
        assert done == [Status.READY] * 10


async def run(url: str, folder: Path, *, calls: list[NewFx] | None = None, **how: bool) -> list[object]:
    async with await Journal.open(folder, **how) as journal, opened(settings(url)) as session:
        session._engine.poller._scheduler = Scheduler(slots=4, hold=0.2)
        async with session.run_many(calls or [fx()], journal=journal) as results:
            return [result async for result in results]


async def test_a_job_whose_operation_is_unknown_is_uncertain(tmp_path: Path) -> None:
    """It keeps its id, is asked for again by every run, and sent again only when the user says so: with its key."""
    async with RawApi() as api:

        async def lose(peer: Peer, honest: bytes) -> None:
            await peer.send(honest if b"idempotency_key" in honest else http(b"", status="404 No"))

        api.always = lose
        (lost,) = await run(api.url, tmp_path)
        assert isinstance(lost, Failed)
        assert isinstance(lost.error, NotFound)
        assert lost.operation is not None
        async with await Journal.open(tmp_path) as journal:
            (job,) = await journal.jobs(JobState.UNCERTAIN)
        assert (job.operation, job.state) == (lost.operation.id, JobState.UNCERTAIN)
        (again,) = await run(api.url, tmp_path, retry_failed=True)
        assert isinstance(again, Failed)
        assert len(api.puts) == 1
        (resent,) = await run(api.url, tmp_path, resubmit_uncertain=True)
        assert isinstance(resent, Failed)  # as unknown as ever
        assert len(api.puts) == 2
        assert len(set(api.puts)) == 1
        api.always = None
        (found,) = await run(api.url, tmp_path)
        assert isinstance(found, Succeeded)
        assert len(api.puts) == 2
        async with await Journal.open(tmp_path) as journal:
            (job,) = await journal.jobs()
        assert job.state is JobState.READY
        assert job.operation == found.operation.id
