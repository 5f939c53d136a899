import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import attrs
import pytest
import soundfile
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate

from soundpiece_async import (
    AutoCutDown,
    Failed,
    Handle,
    InsufficientCredits,
    InvalidRequest,
    Journal,
    Limits,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
    Session,
    SessionClosed,
    SoundpieceError,
    Succeeded,
    WaitTimeout,
)
from soundpiece_async._core.job_records import JobState
from soundpiece_async.simulator import Fault, Faults, Simulator

pytestmark = pytest.mark.anyio

SOURCE = "https://media.example.com/mix.wav"


def of_every_kind(number: int) -> Request:
    prompt = f"piece {number}"
    return (
        NewSong("[Verse]\nRain again", prompt=prompt),
        NewInstrumental(prompt),
        NewSample(prompt, duration=0.3, loopable=True),
        NewFx(prompt, duration=0.2),
        RemixSong(SOURCE, lyrics="Rain", prompt=prompt, n_variations=2),
        RemixInstrumental(SOURCE),
        SeparateStems(SOURCE),
        AutoCutDown(SOURCE, target_duration=0.2),
    )[number % 8]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # not in debug mode, which would take most of the time
async def test_a_hundred_requests_survive_seeded_faults(tmp_path: Path) -> None:
    """Every request makes one operation, whose files are saved whole, whatever goes wrong; nothing is left behind."""
    faults = Faults(server_error=0.05, reset_after=0.10, cut=0.20)
    async with Simulator(seed=7, speed=400, track_seconds=(0.2, 0.3), faults=faults) as sim:
        # effects are quick to make: songs alone would take this test five times as long
        wanted = [fx(number) if number % 4 else of_every_kind(number // 4) for number in range(100)]
        async with Session(settings(sim, limits=Limits(polls=16))) as session:
            async with session.run_many(wanted, save_to=tmp_path) as results:
                done = [result async for result in results]
        assert [result for result in done if isinstance(result, Failed)] == []
        assert {result.request.idempotency_key for result in done} == {request.idempotency_key for request in wanted}
        assert len(done) == len(sim.operations) == 100
        assert sim.peak_polls <= 16
        assert all(not request.authorized for request in sim.log if request.host == "output")
    files = [file for result in done if isinstance(result, Succeeded) for file in result.files]
    assert sorted(file.path for file in files) == sorted(tmp_path.iterdir())  # so there is no .part either
    for file in files:
        audio, rate = soundfile.read(file.path)
        assert (rate, len(audio) / rate) == (file.sample_rate, pytest.approx(file.duration))
        assert file.path.stat().st_size == file.bytes


async def test_results_come_in_order_of_completion() -> None:
    """A slow piece does not hold back the others."""
    async with (
        simulate(durations={"create.new_song": 200.0, "create.new_fx": 2.0}) as sim,
        Session(settings(sim)) as session,
    ):
        async with session.run_many([NewSong("a", prompt="b"), fx(1), fx(2)]) as results:
            routes = [result.request.route async for result in results]
    assert routes == ["create.new_fx", "create.new_fx", "create.new_song"]


async def test_results_come_in_order_of_requests_when_asked(sim: Simulator) -> None:
    """``ordered`` gives the results in the order of the requests."""
    wanted = [of_every_kind(number) for number in range(16)]
    async with Session(settings(sim)) as session:
        async with session.run_many(wanted, ordered=True) as results:
            assert [result.request async for result in results] == wanted


@pytest.mark.parametrize("ordered", [False, True])
async def test_requests_are_read_no_faster_than_results_are_taken(session: Session, *, ordered: bool) -> None:
    """A piece holds its place until its result is taken, so that at most that many are read ahead."""
    read = 0

    def requests() -> Iterator[NewFx]:
        nonlocal read
        for number in range(30):
            read += 1
            yield fx(number)

    taken = 0
    async with session.run_many(requests(), max_in_flight=4, ordered=ordered) as results:
        async for _ in results:
            taken += 1
            assert read <= taken - 1 + 4
            await anyio.sleep(0.01)
    assert (read, taken) == (30, 30)


async def test_requests_come_with_the_names_of_their_files(session: Session, tmp_path: Path) -> None:
    """A name may be missing or taken; it comes back with the result, and names every file of it."""

    async def requests() -> AsyncIterator[tuple[Request, str | None]]:
        for name in ("take", "take", "../Take", None):
            yield fx(1), name
        yield SeparateStems(SOURCE), "mix"

    async with session.run_many(requests(), save_to=tmp_path, ordered=True) as results:
        done = [result async for result in results]
    assert [result.name for result in done] == ["take", "take", "../Take", None, "mix"]
    names = [[file.name for file in result.files] for result in done if isinstance(result, Succeeded)]
    assert sorted(names[0] + names[1]) == ["take-2.flac", "take.flac"]
    assert names[2] == ["_Take.flac"]
    assert done[3].operation is not None
    assert names[3] == [f"{done[3].operation.id}.flac"]
    assert sorted(names[4]) == ["mix-bass.flac", "mix-drums.flac", "mix-other.flac", "mix-vocals.flac"]
    async with session.run_many([(fx(1), "one", "too many")]) as results:  # type: ignore[list-item]
        (failed,) = [result async for result in results]
    assert isinstance(failed, Failed)
    assert "tuple" in str(failed.error)


async def test_an_iterable_that_raises_ends_the_reading_and_not_the_pieces(session: Session) -> None:
    """What is in flight is still given out; then the iterable's own error is raised, bare."""

    async def requests() -> AsyncIterator[NewFx]:
        yield fx(1)
        yield fx(2)
        raise LookupError("no more lines")

    done = []
    with pytest.raises(LookupError, match="no more lines"):
        async with session.run_many(requests()) as results:
            async for result in results:
                done.append(result)  # noqa: PERF401 - the loop raises at its end
    assert [type(result) for result in done] == [Succeeded, Succeeded]


async def test_any_asynchronous_iterable_will_do(session: Session) -> None:
    """A channel, for one: requests are taken as they come."""
    send, receive = anyio.create_memory_object_stream[NewFx](5)
    async with receive:
        with send:
            for number in range(3):
                send.send_nowait(fx(number))
        async with session.run_many(receive) as results:
            assert len([result async for result in results]) == 3


async def test_an_error_of_the_body_comes_out_bare(session: Session) -> None:
    """No exception group: the caller's own error leaves the context manager as it was raised."""
    with pytest.raises(KeyError):
        async with session.run_many(fx(number) for number in range(5)) as results:
            async for _ in results:
                raise KeyError("mine")
    assert session.statistics().in_flight == 0


async def test_leaving_early_cancels_and_tells_what_still_runs() -> None:
    """Leaving early stops everything; ``pending`` holds the handles to come back to."""
    closed = False

    async def requests() -> AsyncIterator[Request]:
        nonlocal closed
        try:
            yield NewSong("slow", prompt="x")
            yield fx(1)
            for number in range(1000):
                yield fx(number)
        finally:
            closed = True

    async with (
        simulate(durations={"create.new_song": math.inf, "create.new_fx": 1.0}) as sim,
        Session(settings(sim)) as session,
    ):
        async with session.run_many(requests(), max_in_flight=2) as results:
            async for _ in results:
                break
        assert closed
        assert any(handle.route == "create.new_song" for handle in results.pending)
        assert all(isinstance(handle, Handle) for handle in results.pending)
        assert session.statistics().in_flight == 0
        with anyio.fail_after(30):
            while sim.open_requests:
                await anyio.sleep(0.01)
        await session.run(fx(2))  # the session still works


async def test_an_account_without_credits_stops_the_submissions() -> None:
    """After 402 the rest is answered with that error and nothing is sent; what is in flight is delivered."""
    async with Simulator(seed=1, speed=200, track_seconds=(0.2, 0.3), credits=10) as sim:
        async with Session(settings(sim, limits=Limits(submits=4))) as session:
            async with session.run_many(fx(number) for number in range(200)) as results:
                done = [result async for result in results]
            succeeded = [result for result in done if isinstance(result, Succeeded)]
            failed = [result for result in done if isinstance(result, Failed)]
            assert (len(succeeded), len(failed)) == (10, 190)
            assert all(isinstance(result.error, InsufficientCredits) for result in failed)
            assert sum(request.method == "PUT" for request in sim.log) <= 10 + 4
            sim.top_up(5)
            assert isinstance(await session.run(failed[0].request), Succeeded)  # tried again: it was topped up


async def test_the_same_object_twice_is_one_operation_one_file_two_results(
    sim: Simulator, session: Session, tmp_path: Path
) -> None:
    """One object is one piece of work, however often it is asked for."""
    request = fx(1)
    async with session.run_many([request, request], save_to=tmp_path) as results:
        done = [result async for result in results]
    assert len(sim.operations) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert [result.request is request for result in done] == [True, True]
    assert all(isinstance(result, Succeeded) for result in done)


async def test_one_bad_piece_never_stops_the_others(session: Session) -> None:
    """What is wrong with one piece is that piece's result: a bad request, a timeout, or no request at all."""
    requests = [NewFx("", duration=1), fx(1), "no request", NewFx("late", duration=1)]
    async with session.run_many(requests, ordered=True) as results:  # type: ignore[type-var]  # junk on purpose
        first, second, third, fourth = [result async for result in results]
    assert isinstance(first, Failed)
    assert isinstance(first.error, InvalidRequest)
    assert first.error.field == "prompt"
    assert isinstance(second, Succeeded)
    assert isinstance(third, Failed)
    assert isinstance(third.error, InvalidRequest)
    assert isinstance(fourth, Succeeded)


async def test_a_piece_that_takes_too_long_is_a_failure_with_its_operation() -> None:
    """``timeout`` is per piece; the operation runs on and is known."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        async with session.run_many([fx(1)], timeout=0.1) as results:
            (result,) = [result async for result in results]
        assert isinstance(result, Failed)
        assert isinstance(result.error, WaitTimeout)
        assert result.operation is not None
        assert result.operation.id in sim.operations


async def test_closing_the_session_ends_the_iteration() -> None:
    """Who still iterates gets ``SessionClosed``, and not a cancellation from nowhere."""
    async with simulate(durations=never_finishes) as sim, anyio.create_task_group() as group:
        session = Session(settings(sim))
        await session.start()

        async def iterate() -> None:
            async with session.run_many([fx(1)]) as results:
                with pytest.raises(SessionClosed):
                    await anext(results)

        group.start_soon(iterate)
        with anyio.fail_after(30):
            while not sim.open_requests:
                await anyio.sleep(0.01)
        await session.aclose()


async def test_a_run_is_entered_once_and_before_it_is_iterated(session: Session) -> None:
    """Wrong use is a clear error."""
    run = session.run_many([fx(1)])
    with pytest.raises(RuntimeError, match="async with"):
        await anext(run)
    async with run:
        assert "RunMany" in repr(run)
    with pytest.raises(RuntimeError, match="once"):
        await run.__aenter__()
    with pytest.raises(ValueError, match="at least 1"):
        session.run_many([fx(1)], max_in_flight=0)
    stopped, why = session.run_many([fx(1)]), SoundpieceError("enough")
    stopped.stop(why)
    async with stopped:
        assert [str(result.error) for result in [one async for one in stopped] if isinstance(result, Failed)] == [
            str(why)
        ]


async def test_a_run_that_is_stopped_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """Nothing more is sent; who was not sent is answered by the reason that was given, the first one."""
    why = SoundpieceError("enough")
    async with simulate(durations=never_finishes) as sim:
        async with Session(settings(sim)) as session:
            async with session.run_many(map(fx, range(6)), save_to=tmp_path, max_in_flight=4) as results:
                with anyio.fail_after(30):
                    while len(results.pending) < 4:
                        await anyio.sleep(0.01)
                results.stop(why)
                results.stop(SoundpieceError("once more"))
                for operation in sim.operations:
                    sim.finish(operation)
                done = [result async for result in results]
        assert len(sim.operations) == 4
    errors = [result.error for result in done if isinstance(result, Failed)]
    assert [str(error) for error in errors] == ["enough", "enough"]
    assert errors[0] is not errors[1]
    assert len(done) == 6


async def test_a_run_is_stopped_while_the_gate_is_closed(tmp_path: Path) -> None:
    """Who waits for a slot, or for the hour a 429 asks for, is answered at once, and not in doubt; others wait on."""
    why = SoundpieceError("enough")
    async with simulate() as sim:
        sim.inject(Fault.RATE_LIMITED, method="PUT", times=9, seconds=3600)
        async with Session(settings(sim, limits=Limits(submits=2))) as session, Journal.open(tmp_path) as journal:
            async with session.run_many(map(fx, range(6)), max_in_flight=6, journal=journal) as results:
                async with anyio.create_task_group() as group:
                    group.start_soon(session.submit, fx(7))
                    with anyio.fail_after(30):
                        while not session.statistics().paused_for or session.statistics().queued < 7:
                            await anyio.sleep(0.01)
                        results.stop(why)
                        done = [result async for result in results]
                    assert session.statistics().queued == 1
                    group.cancel_scope.cancel()
            assert await journal.count() == {JobState.PLANNED: 6}
        assert sim.operations == {}
    assert [str(result.error) for result in done if isinstance(result, Failed)] == ["enough"] * 6


async def test_a_run_is_stopped_between_two_attempts() -> None:
    """The pause after a failure is no reason to go on, either."""
    async with simulate() as sim:
        sim.inject(Fault.SERVER_ERROR, method="PUT", times=99)
        async with Session(settings(sim)) as session:
            async with session.run_many([fx(1)]) as results:
                with anyio.fail_after(30):
                    while len(sim.log) < 3:
                        await anyio.sleep(0.01)
                results.stop(SoundpieceError("enough"))
                sent = len(sim.log)
                (result,) = [result async for result in results]
        assert isinstance(result, Failed)
        assert str(result.error) == "enough"
        assert len(sim.log) <= sent + 1  # one that was on its way


@attrs.frozen(kw_only=True)
class Moody(NewFx):
    """A request with a member of the user's."""

    mood: str = "calm"


async def test_a_foreign_member_is_one_requests_fault(sim: Simulator, session: Session) -> None:
    """And not the end of the run; without validation it is sent, as a member of a later version (F8)."""
    requests = [Moody(prompt="door", duration=1), NewFx("door", duration=1)]
    async with session.run_many(requests, ordered=True) as results:
        refused, made = [result async for result in results]
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, InvalidRequest)
    assert isinstance(made, Succeeded)
    async with Session(settings(sim, validate=False)) as loose:
        assert (await loose.submit(requests[0])).request == requests[0]
    assert b'"mood":"calm"' in sim.log[-1].body
