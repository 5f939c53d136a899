"""What a user's type checker knows of results, and what it refuses; checked by mypy and pyright, never run.

A line that ends in ``type: ignore`` and ``pyright: ignore`` must be an error for both: once one of them finds nothing
wrong with it, its comment is unused, and that is an error.
"""

from collections.abc import AsyncIterator
from typing import Any, assert_never, assert_type

import soundpiece_async
from soundpiece_async import (
    AutoCutDown,
    Failed,
    Handle,
    InvalidRequest,
    JobRecord,
    Journal,
    Limits,
    NewFx,
    NewSong,
    Operation,
    Output,
    Request,
    RunMany,
    SavedFile,
    SeparateStems,
    Session,
    Settings,
    SoundpieceError,
    Status,
    Succeeded,
    WaitTimeout,
)


def read(value: object) -> None:
    """Use what was read."""
    assert value


async def run_one(session: Session) -> str:
    """The class of the request comes back with every answer."""
    request = NewSong("[Verse]\nRain again", prompt="synthwave")
    operation = await session.submit(request)
    assert_type(operation, Operation[NewSong])
    assert_type(await session.wait(operation, timeout=300), Operation[NewSong])
    assert_type(await session.refresh(operation), Operation[NewSong])
    done = await session.run(request, save_to="out")
    assert_type(done, Succeeded[NewSong])
    assert_type(done.request.lyrics, str)
    assert_type(done.operation.request.lyrics, str)
    assert_type(done.files, tuple[SavedFile, ...])
    return done.operation.request.lyrics


async def come_back(session: Session, handle: Handle) -> None:
    """Of an operation known by its handle, the request may be of any class, or unknown."""
    operation = await session.wait(handle)
    assert_type(operation, Operation[Request | None])
    read(operation.request.lyrics)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    if isinstance(operation.request, NewSong):
        assert_type(operation.request.lyrics, str)


async def run_many(session: Session, journal: Journal, songs: AsyncIterator[NewSong]) -> None:
    """Results of one class, or of the union of several."""
    assert_type(await journal.plan(songs), int)
    assert_type(await journal.jobs("failed", limit=10), list[JobRecord])
    async with session.run_many(journal.jobs(part=(1, 2)), journal=journal) as parts:
        async for part in parts:
            assert_type(part, Succeeded[Request] | Failed[Request])
    async with session.run_many(songs, journal=journal) as results:
        assert_type(results, RunMany[NewSong])
        async for result in results:
            assert_type(result, Succeeded[NewSong] | Failed[NewSong])
            assert_type(result.request.lyrics, str)
    mixed: list[NewSong | NewFx] = [NewSong("la", prompt="pop"), NewFx("thud", duration=1)]
    async with session.run_many(mixed, ordered=True) as either:
        async for outcome in either:
            match outcome:
                case Succeeded(request=NewSong() as song):
                    assert_type(song.lyrics, str)
                case Succeeded(request=NewFx(duration=duration)):
                    assert_type(duration, float)
                case _:
                    assert_type(outcome.request.idempotency_key, str)


async def name_files(session: Session, tracks: dict[str, Output]) -> None:
    """Requests may come with the names of their files, from any iterable."""
    done = await session.run(NewFx("thud", duration=1), save_to="out", name="thud")
    assert_type(done.name, str | None)

    async def make_cuts() -> AsyncIterator[tuple[AutoCutDown, str]]:
        for name, output in tracks.items():
            yield AutoCutDown(output, target_duration=15), name

    async with session.run_many(make_cuts(), save_to="out") as cuts:
        assert_type(cuts, RunMany[AutoCutDown])
    async with session.run_many([(SeparateStems(output), name) for name, output in tracks.items()]) as stems:
        assert_type(stems, RunMany[SeparateStems])
    async with session.run_many(SeparateStems(output) for output in tracks.values()) as more:
        assert_type(more, RunMany[SeparateStems])


def match_all(outcome: Succeeded[NewFx] | Failed[NewFx]) -> str:
    """There are two outcomes, and a checker knows it."""
    match outcome:
        case Succeeded(operation=operation):
            return operation.id
        case Failed(error=error):
            assert_type(error, SoundpieceError)
            return str(error)
        case _:
            assert_never(outcome)


def forget_one(outcome: Succeeded[NewFx] | Failed[NewFx]) -> str:
    """A missing outcome is a type error."""
    match outcome:
        case Succeeded(operation=operation):
            return operation.id
        case _:
            assert_never(outcome)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def misspell(session: Session, output: Output, outcome: Succeeded[NewFx] | Failed[NewFx]) -> None:
    """What there is not is refused before it runs."""
    soundpiece_async.NewSongg  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018
    NewSong(lyrics="la", promt="pop")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    NewSong("la", "pop")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    NewFx("thud")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    NewFx("thud", duration="1 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SeparateStems(source=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Settings("spk_key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Settings(api_key="spk_key", verify="ful")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    done = await session.run(NewFx("thud", duration=1))
    read(done.request.lyrics)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    read(done.operation.outputs[0].uri)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    read(outcome.files)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]
    await session.run("la")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    await session.wait("create.new_fx/op_1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await session.download(done.operation)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await session.run(NewFx("thud", duration=1), saveto="out")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Session("spk_key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Limits(poll=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Journal.open("out", retry_faild=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    session.run_many(["la"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    read(session.statistics().inflight)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    session.deliver(output)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def change(request: NewFx, operation: Operation[NewFx], error: WaitTimeout | InvalidRequest) -> None:
    """Nothing that the service said, and nothing that was asked for, can be changed."""
    request.duration = 2.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    operation.status = Status.READY  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    read(error.field)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]


def narrow(operation: Operation[Request]) -> Operation[NewSong]:
    """An operation of any class is not one of a special class."""
    return operation  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def keep(operation: Operation[Any]) -> Operation[NewSong]:
    """``Any`` is accepted."""
    return operation
