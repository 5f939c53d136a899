from functools import partial
from pathlib import Path

import anyio
import pytest
from helpers.idle import opened, until
from helpers.network_faults import answer, hang_up_later, reset_later, stall
from helpers.raw_api import Peer, RawApi, Responder, http, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    ApiError,
    Failed,
    InsufficientCredits,
    JobState,
    Journal,
    NewFx,
    ServerError,
    Session,
    SettingsError,
    Succeeded,
    Timeouts,
    TransportError,
    ValidationError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_tasks_left", "short_pauses")]

BRISK = Timeouts(connect=2, submit=0.3, poll=2, read=2)


settings = partial(raw_settings, elapsed=20.0, timeouts=BRISK)


def refuse(
    status: int, body: bytes = b'{"detail": "a request with this key is in progress"}', headers: str = ""
) -> Responder:
    return answer(http(body, status=f"{status} No", headers=headers))


USED = b'{"detail": [{"loc": ["body", "idempotency_key"], "msg": "already used", "type": "value_error"}]}'
DOUBTFUL: dict[str, Responder] = {
    "502": answer(http(b"<html>", status="502 Bad")),
    "reset": reset_later,
    "hang up": hang_up_later,
    "timeout": stall,
    "a page": answer(http(b"<html>ok</html>")),
    "half": answer(http(b'{"fx": ')),
    "408": refuse(408),
    "499": refuse(499),
}
REPEATS = (400, 404, 405, 408, 409, 410, 413, 418, 422, 423, 425, 429, 451, 499)


@pytest.mark.parametrize("doubt", DOUBTFUL)
async def test_a_refused_repeat_is_asked_again(doubt: str) -> None:
    """Twice in a row; one key, the same bytes, one operation."""
    async with RawApi(DOUBTFUL[doubt], refuse(409), refuse(422, USED)) as api, opened(settings(api.url)) as session:
        operation = await session.submit(fx())
        assert list(api.created.values()) == [operation.id]
        assert len(api.puts) == 4
        assert len(set(api.puts)) == 1


@pytest.mark.parametrize("status", REPEATS)
async def test_whatever_4xx_a_repeat_gets(status: int) -> None:
    """After an attempt in doubt none of them is final."""
    async with RawApi(DOUBTFUL["502"], refuse(status, headers="Retry-After: 0.1\r\n")) as api:
        async with opened(settings(api.url)) as session:
            assert (await session.submit(fx())).id in api.created.values()
        assert len(set(api.puts)) == 1


@pytest.mark.parametrize("status", [409, 413, 422])
async def test_without_doubt_a_refusal_is_final(status: int) -> None:
    """Refused, or never sent, before: certainly nothing was made."""
    async with RawApi(refuse(429, headers="Retry-After: 0.1\r\n"), refuse(status)) as api:
        async with opened(settings(api.url)) as session:
            with pytest.raises(ApiError) as caught:
                await session.submit(fx())
        assert caught.value.status == status
        assert len(api.puts) == 2


async def test_the_account_is_final_also_after_doubt() -> None:
    """No credits: asking for minutes would not bring any. The same object goes again once there are some."""
    async with RawApi(DOUBTFUL["502"], refuse(402)) as api, opened(settings(api.url)) as session:
        request = fx()
        with pytest.raises(InsufficientCredits):
            await session.submit(request)
        api.script.append(refuse(409))  # the first attempt is still in doubt
        assert (await session.submit(request)).id in api.created.values()
        assert len(set(api.puts)) == 1


async def test_when_the_budget_ends_the_error_says_what_is_known() -> None:
    """Not that it was refused, which is no news of the first attempt; the key, and that it may go again."""
    async with RawApi(DOUBTFUL["502"], *[refuse(409)] * 50) as api, opened(settings(api.url, elapsed=0.5)) as session:
        request = fx()
        with pytest.raises(TransportError, match="may have been accepted") as caught:
            await session.submit(request)
        assert request.idempotency_key in str(caught.value)
        assert (caught.value.retryable, caught.value.kind) == (True, "rejected")
        assert isinstance(caught.value.__cause__, ApiError)
        api.script.clear()
        assert (await session.submit(request)).id in api.created.values()
        assert len(set(api.puts)) == len(api.created) == 1


def refuse_named(status: bytes, *, keyed: bool = True) -> Responder:
    """Refuse with the honest answer as body, with the key or without it."""

    async def act(peer: Peer, honest: bytes) -> None:
        refusal = honest.replace(b"200 OK", status)
        await peer.send(refusal if keyed else refusal.replace(b'"idempotency_key"', b'"another_member_"'))

    return act


@pytest.mark.parametrize("status", [b"409 Conflict", b"500 No", b"422 Used"])
async def test_a_refusal_with_the_operation_is_an_answer(status: bytes) -> None:
    """With our key and an id of the documented form: nothing has to be asked again."""
    async with RawApi(DOUBTFUL["502"], refuse_named(status)) as api, opened(settings(api.url)) as session:
        assert (await session.submit(fx())).id in api.created.values()
        assert len(api.puts) == 2


@pytest.mark.parametrize("status", [b"402 Pay", b"403 No"])
async def test_the_account_is_refused_whatever_is_named(status: bytes) -> None:
    """The run is to stop."""
    async with RawApi(refuse_named(status)) as api, opened(settings(api.url)) as session:
        with pytest.raises(ApiError) as caught:
            await session.submit(fx())
        assert caught.value.handle is None


async def test_what_a_conflict_names_without_the_key_is_on_the_error(tmp_path: Path) -> None:
    """It may be another operation, so nobody waits for it; the job stays as it is."""
    async with RawApi(DOUBTFUL["502"], *[refuse_named(b"409 Conflict", keyed=False)] * 50) as api:
        (failed,) = await run(api.url, tmp_path, [fx()], budget=0.5)
        (identity,) = api.created.values()
    assert isinstance(failed, Failed)
    assert failed.operation is None
    assert str(failed.error.handle) == f"create.new_fx/{identity}"
    assert await states(tmp_path) == [JobState.SENDING]


async def test_what_other_refusals_name_is_nothing() -> None:
    """A 422 may name the operation whose output is the source."""
    async with RawApi(refuse_named(b"422 No", keyed=False)) as api, opened(settings(api.url)) as session:
        with pytest.raises(ValidationError) as caught:
            await session.submit(fx())
        assert caught.value.handle is None


async def run(url: str, folder: Path, requests: list[NewFx], *, budget: float = 0.7, **how: bool) -> list[object]:
    async with (
        await Journal.open(folder, **how) as journal,
        opened(settings(url, elapsed=budget)) as session,
        session.run_many(requests, journal=journal) as results,
    ):
        return [result async for result in results]


async def states(folder: Path) -> list[JobState]:
    async with await Journal.open(folder) as journal:
        return [job.state for job in await journal.jobs()]


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_a_job_in_doubt_is_never_failed(tmp_path: Path, status: int) -> None:
    """Whatever its repeats get, in this run or a later one; then it is what the first attempt made."""
    async with RawApi(DOUBTFUL["502"], *[refuse(status)] * 50) as api:
        (first,) = await run(api.url, tmp_path, [fx()])
        assert isinstance(first, Failed)
        assert isinstance(first.error, TransportError)
        assert await states(tmp_path) == [JobState.SENDING]
        (second,) = await run(api.url, tmp_path, [fx()])
        assert isinstance(second, Failed)
        assert await states(tmp_path) == [JobState.SENDING]
        api.script.clear()
        (third,) = await run(api.url, tmp_path, [fx()], retry_failed=True)
        assert isinstance(third, Succeeded)
        assert len(set(api.puts)) == len(api.created) == 1


async def test_a_job_refused_without_doubt_is_failed(tmp_path: Path) -> None:
    """As ever."""
    async with RawApi(refuse(422, USED)) as api:
        (result,) = await run(api.url, tmp_path, [fx()])
        assert isinstance(result, Failed)
        assert isinstance(result.error, ValidationError)
        assert await states(tmp_path) == [JobState.FAILED]


@pytest.mark.parametrize("status", [408, 421, 423, 425])
async def test_a_refusal_that_says_not_now_is_asked_again(status: int) -> None:
    """A proxy's timeout, another connection, a lock, too early: as a 503."""
    async with RawApi(refuse(status)) as api, opened(settings(api.url)) as session:
        assert (await session.submit(fx())).id in api.created.values()


async def test_a_pause_that_the_service_asks_for_is_kept() -> None:
    """A 503, a 502, a 200 that is a page: the next attempt comes after ``Retry-After``, not within it."""
    wait = "Retry-After: 1\r\n"
    busy = (
        http(b"", status="503 Busy", headers=wait),
        http(b"", status="502 Bad", headers=wait),
        http(b"x", headers=wait),
    )
    async with anyio.create_task_group() as group:  # at the same time: each takes a second
        for reply in busy:
            group.start_soon(keep_pause, reply)


async def keep_pause(reply: bytes) -> None:
    async with RawApi(answer(reply)) as api, opened(settings(api.url)) as session:
        started = anyio.current_time()
        await session.submit(fx())
        assert anyio.current_time() - started >= 1
        assert len(api.puts) == 2


@pytest.mark.parametrize("status", [500, 503, 425])
async def test_a_pause_longer_than_the_budget_ends_the_call_at_once(status: int) -> None:
    """Nothing is gained by waiting for what would come too late; the error says how long the pause is."""
    async with RawApi(refuse(status, headers="Retry-After: 1000\r\n")) as api:
        async with opened(settings(api.url, elapsed=500)) as session:
            with anyio.fail_after(30), pytest.raises(ApiError) as caught:
                await session.submit(fx())
        assert caught.value.retry_after == 1000
        assert len(api.puts) == 1


async def submit_by_many(session: Session, request: NewFx, number: int) -> list[object]:
    outcomes: list[object] = []

    async def submit() -> None:
        try:
            outcomes.append(await session.submit(request))
        except ServerError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(submit)
    return outcomes


async def test_one_object_has_one_budget() -> None:
    """Twelve tasks that submit it during an outage share the attempts, and what comes of them."""
    async with RawApi() as api, opened(settings(api.url, elapsed=0.5)) as session:
        api.always = DOUBTFUL["502"]
        request = fx()
        outcomes = await submit_by_many(session, request, 12)
        assert {type(outcome) for outcome in outcomes} == {ServerError}
        assert len({id(outcome) for outcome in outcomes}) == 12
        tried = len(api.puts)
        assert tried < 12
        api.always = None
        assert (await session.submit(request)).id in api.created.values()  # a new call has a new budget
        assert len(api.puts) == tried + 1


async def test_one_object_has_one_outcome() -> None:
    """An operation for all when the service comes back, and one PUT more."""
    async with RawApi(*[DOUBTFUL["502"]] * 2) as api, opened(settings(api.url)) as session:
        outcomes = await submit_by_many(session, fx(), 12)
        assert {outcome.id for outcome in outcomes} == set(api.created.values())  # type: ignore[attr-defined]
        assert len(api.puts) == 3


async def test_who_goes_on_after_a_cancelled_task_has_what_is_left() -> None:
    """Cancelling the one that sends ends its wait only; the next goes on within the same budget."""
    async with RawApi() as api, opened(settings(api.url)) as session:
        api.always = DOUBTFUL["502"]
        request, scope, outcomes = fx(), anyio.CancelScope(), list[object]()

        async def leave() -> None:
            with scope:
                await session.submit(request)

        async def follow() -> None:
            outcomes.append(await session.submit(request))

        async with anyio.create_task_group() as group:
            group.start_soon(leave)
            await until(lambda: bool(api.puts))
            piece = session._engine.submitter._submissions[request.idempotency_key]
            budget = piece.budget
            assert budget is not None
            group.start_soon(follow)
            await until(lambda: bool(piece.lock.waiting))
            scope.cancel()
            await until(lambda: budget.attempts >= 2)
            assert piece.budget is budget
            api.always = None
        assert len(outcomes) == len(api.created) == 1
        assert (piece.budget, piece.outage) == (None, None)


async def test_one_object_in_a_recorded_run_has_one_budget(tmp_path: Path) -> None:
    """The same object, twelve times in one run with a journal."""
    async with RawApi() as api:
        api.always = DOUBTFUL["502"]
        request = fx()
        results = await run(api.url, tmp_path, [request] * 12, budget=0.5)
        assert len(results) == 12
        assert all(isinstance(result, Failed) and isinstance(result.error, ServerError) for result in results)
        assert len(api.puts) < 12


async def test_what_stops_one_run_is_not_the_outcome_of_another_task() -> None:
    """A run that was stopped while it submitted an object leaves that to those who still want it."""
    stopped = SettingsError("enough")

    async def hang_up_until_stopped(_: Peer, __: bytes) -> None:
        if session._engine.submitter._submissions[request.idempotency_key].lock.waiting:
            results.stop(stopped)
            api.always = None

    async with RawApi(blind=[hang_up_until_stopped]) as api, opened(settings(api.url)) as session:
        api.always = hang_up_until_stopped
        request, outcomes = fx(), list[object]()

        async def follow() -> None:
            outcomes.append(await session.submit(request))

        async with anyio.create_task_group() as group, session.run_many([request]) as results:
            await until(lambda: bool(api.puts))
            group.start_soon(follow)
            (result,) = [result async for result in results]
        assert isinstance(result, Failed)
        assert str(result.error) == str(stopped)
        assert [str(outcome.id) for outcome in outcomes] == list(api.created.values())  # type: ignore[attr-defined]
