"""The public names as a user writes them; type-checked only, by mypy and pyright, never run."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type

from obstore.store import MemoryStore

from soundpiece_async import (
    ApiError,
    AudioSource,
    AutoCutDown,
    CorruptAudio,
    DecodeError,
    DownloadError,
    Failed,
    FieldError,
    Handle,
    InvalidRequest,
    Limits,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Operation,
    OperationError,
    OperationFailed,
    Output,
    RateLimited,
    RemixInstrumental,
    RemixSong,
    Request,
    RetryPolicy,
    SavedFile,
    SeparateStems,
    Session,
    Settings,
    SoundpieceError,
    Statistics,
    Status,
    Succeeded,
    Timeouts,
    ValidationError,
    WaitTimeout,
)


def make_requests(output: Output) -> list[Request]:
    """Every request, with what is positional, and every kind of source."""
    url = "https://media.example.com/song.wav"
    return [
        NewSong("la", prompt="synthwave"),
        NewSong(lyrics="la", reference=url, callback_url="https://hooks.example.com/"),
        NewInstrumental("synthwave"),
        NewInstrumental(reference=AudioSource(url)),
        NewSample("rock", duration=8, loopable=True),
        NewFx("door slams", duration=2.5, idempotency_key="7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a01"),
        RemixSong(output, lyrics="la", prompt="pop", n_variations=2),
        RemixInstrumental(url),
        SeparateStems(output),
        AutoCutDown(source=AudioSource(url), target_duration=30),
    ]


def read_request(request: NewSong) -> None:
    """What a request says of itself."""
    assert_type(request.lyrics, str)
    assert_type(request.prompt, str | None)
    assert_type(request.reference, str | AudioSource | Output | None)
    assert_type(request.idempotency_key, str)
    assert_type(request.callback_url, str | None)
    assert_type(NewSong.route, str)


def read_operation(operation: Operation[NewSong]) -> None:
    """What the service says, with the request it answers still of its own class."""
    assert_type(operation.request, NewSong)
    assert_type(operation.route, str)
    assert_type(operation.id, str)
    assert_type(operation.status, Status)
    assert_type(operation.status.final, bool)
    assert_type(operation.created_at, datetime | None)
    assert_type(operation.idempotency_key, str | None)
    assert_type(operation.outputs, tuple[Output, ...])
    assert_type(operation.error, OperationError | None)
    assert_type(operation.raw, Mapping[str, Any])
    assert_type(operation.handle, Handle)


def widen(operation: Operation[NewSong]) -> Operation[Request]:
    """An operation of one class serves where one of any class is asked for."""
    return operation


def read_foreign(operation: Operation[NewFx | None]) -> float:
    """Of an operation known by its handle only, the request may be unknown."""
    assert_type(operation.request, NewFx | None)
    return 0.0 if operation.request is None else operation.request.duration


def use_outputs(outputs: Iterable[Output]) -> list[AutoCutDown]:
    """An output is the source of the next request."""
    return [AutoCutDown(output, target_duration=(output.duration or 60) / 2) for output in outputs]


def read_output(output: Output) -> None:
    """One file of a ready operation."""
    assert_type(output.url, str)
    assert_type(output.expires_at, datetime | None)
    assert_type(output.duration, float | None)
    assert_type(output.kind, str | None)
    assert_type(output.handle, Handle)
    assert_type(output.index, int)


def keep_handle(operation: Operation[NewFx]) -> Handle:
    """Keep a handle as text, and read it back."""
    return Handle.parse(str(operation.handle))


def take(result: Succeeded[NewFx] | Failed[NewFx]) -> str:
    """Distinguish the two outcomes of a bulk run."""
    match result:
        case Succeeded(request=request, operation=operation, files=files):
            assert_type(request, NewFx)
            assert_type(operation, Operation[NewFx])
            assert_type(files, tuple[SavedFile, ...])
            return operation.id
        case Failed(request=request, operation=last, error=error):
            assert_type(request, NewFx)
            assert_type(last, Operation[NewFx] | None)
            assert_type(error, SoundpieceError)
            return str(error)


def read_file(file: SavedFile) -> None:
    """A file on disk."""
    assert_type(file.path, Path | None)
    assert_type(file.name, str)
    assert_type(file.location, str)
    assert_type(file.url, str | None)
    assert_type(file.bytes, int)
    assert_type(file.sha256, str)
    assert_type(file.duration, float)
    assert_type(file.sample_rate, int)
    assert_type(file.channels, int)
    assert_type(file.output, Output)


async def choose_places(session: Session, operation: Operation[NewFx], store: MemoryStore) -> None:
    """A folder, a URL or a store; and one output passed on."""
    assert_type(await session.download(operation, "s3://songs"), list[SavedFile])
    assert_type(await session.download(operation.handle, Path("out")), list[SavedFile])
    assert_type(await session.download(operation.outputs[0], store, name="door"), SavedFile)
    async with session.stream(operation.outputs[0], range="bytes=0-", if_range=None) as audio:
        assert_type(audio.status, int)
        assert_type(audio.headers, dict[str, str])
        assert_type(audio.size, int | None)
        async for block in audio:
            assert_type(block, bytes)


def read_error(error: SoundpieceError) -> None:
    """Every error's facts; the special ones before the general."""
    match error:
        case RateLimited():
            assert_type(error.retry_after, float | None)
        case ValidationError():
            assert_type(error.fields, tuple[FieldError, ...])
        case ApiError():
            assert_type(error.headers, Mapping[str, str])
            assert_type(error.status, int)
        case InvalidRequest():
            assert_type(error.field, str)
        case DecodeError():
            assert_type(error.operation, Operation[Any] | None)
            assert_type(error.path, str)
        case OperationFailed():
            assert_type(error.operation, Operation[Any])
        case WaitTimeout():
            assert_type(error.operation, Operation[Any] | None)
            assert_type(error.handle, Handle)
        case DownloadError():
            assert_type(error.path, str)
            assert_type(error.received, int)
        case _:
            assert_type(error.retryable, bool)


def catch(operation: Operation[NewFx]) -> None:
    """Errors are caught by our classes, and some by Python's own."""
    try:
        raise OperationFailed("gave up", operation=operation)
    except (CorruptAudio, DownloadError) as error:
        assert_type(error.url, str)
    except TimeoutError as error:
        assert_type(error, TimeoutError)
    invalid: ValueError = InvalidRequest("too long", field="prompt")
    late: TimeoutError = WaitTimeout("late", handle=operation.handle)
    raise invalid from late


def set_up(environ: Mapping[str, str]) -> Settings:
    """Every knob."""
    settings = Settings(
        api_key="spk_...",
        base_url="https://api.soundpiece.co",
        limits=Limits(submits=4, polls=50, downloads=2, in_flight=100, requests_per_second=2.5),
        timeouts=Timeouts(connect=5, submit=20, poll=30, read=15.5),
        retries=RetryPolicy(submit_max_elapsed=60, download_max_elapsed=30),
        verify="full",
        validate=False,
        confirm_webhooks=True,
        poll_cost=0.2,
    )
    assert_type(settings.verify, Literal["header", "full", "none"])
    assert_type(settings.limits.requests_per_second, float | None)
    return Settings.from_environ(environ)


def read_statistics(statistics: Statistics) -> None:
    """What a progress display asks."""
    assert_type(statistics.in_flight, int)
    assert_type(statistics.rate, float | None)
    assert_type(statistics.detection_lag, float)
