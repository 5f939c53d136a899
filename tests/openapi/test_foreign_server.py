"""The client against a service of other people's code, made of the machine-readable contract; see `foreign_service`."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fastapi import FastAPI
from helpers.app_servers import serve_asgi
from helpers.foreign_service import DOOMED, SECONDS, Service, generate_models, make_app

from soundpiece_async import (
    AudioSource,
    AutoCutDown,
    Failed,
    Journal,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    OperationFailed,
    RemixInstrumental,
    RemixSong,
    SeparateStems,
    Session,
    Settings,
    Status,
    Succeeded,
    ValidationError,
)

pytestmark = pytest.mark.anyio

KEY = "spk_foreign"
MIX = "https://media.example.com"
"""Without a path: Pydantic gives it one."""


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio."""
    return "asyncio"


@pytest.fixture(scope="module", params=[False, True], ids=["as generated", "stripped"])
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application over generated models, which leave texts as they are or strip them."""
    app = make_app(generate_models(tmp_path_factory.mktemp("models"), stripping=request.param))
    app.state.stripping = request.param
    return app


@asynccontextmanager
async def serving(app: FastAPI, **changes: Any) -> AsyncIterator[tuple[Service, Session]]:
    """The service, and a session that talks to it."""
    service = app.state.service = Service(KEY)
    async with (
        serve_asgi(app) as url,
        Session(Settings(api_key=KEY, base_url=url, **changes)) as session,
    ):
        yield service, session


REQUESTS: list[tuple[Any, int]] = [
    (NewSong("[Verse]\nRain again\n", prompt=" synthwave, melancholic\n"), 4),
    (NewSong("Regen wieder", reference=f"{MIX}/a/../\u00fcber mix.wav"), 4),
    (NewInstrumental("piano"), 4),
    (NewInstrumental(reference=AudioSource("https://B\u00dcCHER.example:443/x")), 4),
    (NewSample("\tkick", duration=2, loopable=True), 1),
    (NewFx("door slams ", duration=0.1 + 0.2), 1),
    (RemixSong(MIX, lyrics="la\r\nla", prompt="jazz", n_variations=2), 2),
    (RemixInstrumental(MIX, n_variations=1), 1),
    (SeparateStems(MIX), 4),
    (AutoCutDown(MIX, target_duration=15), 1),
    (NewFx("wind", duration=1e-3), 1),
]


@pytest.mark.parametrize("number", range(len(REQUESTS)))
async def test_delivers_every_route(app: FastAPI, number: int, tmp_path: Path) -> None:
    """Each request is typed, paid for once, and delivered whole."""
    request, files = REQUESTS[number]
    async with serving(app, verify="full") as (service, session):
        done = await session.run(request, save_to=tmp_path, timeout=20)
        assert isinstance(done, Succeeded)
        operation = await session.refresh(done.operation)

    assert len(service.begun) == 1
    assert (operation.status, operation.idempotency_key) == (Status.READY, request.idempotency_key)
    assert type(operation.request) is type(request)
    assert [(output.duration, output.expires_at is None) for output in operation.outputs] == [(SECONDS, False)] * files
    kinds = {output.kind for output in operation.outputs}
    assert kinds == ({"vocals", "drums", "bass", "other"} if isinstance(request, SeparateStems) else {None})
    assert [soundfile.SoundFile(io.BytesIO(file.path.read_bytes())).frames for file in done.files if file.path] == [
        round(SECONDS * 44100)
    ] * files


async def test_a_bulk_run_delivers_all(app: FastAPI, tmp_path: Path) -> None:
    """Twelve are delivered and one fails by the service's own word; the next run buys nothing."""
    told = NewFx("waves", duration=1, callback_url="https://hooks.example.com")
    requests = [*(request for request, _ in REQUESTS), told, NewFx(DOOMED, duration=1)]
    async with serving(app) as (service, session):
        for _ in range(2):
            async with (
                Journal.open(tmp_path) as journal,
                session.run_many(requests, save_to=tmp_path, journal=journal, timeout=20) as results,
            ):
                ends = [result async for result in results]
            assert [type(end).__name__ for end in ends].count("Succeeded") == len(REQUESTS) + 1
            (failed,) = (end for end in ends if isinstance(end, Failed))
            assert isinstance(failed.error, OperationFailed)
            assert len(service.begun) == len(requests)
            assert (
                len([path for path in tmp_path.iterdir() if path.suffix == ".flac"]) == sum(n for _, n in REQUESTS) + 1
            )


async def test_fails_as_the_service_says(app: FastAPI) -> None:
    """The service's code and message, and the operation, are on the error."""
    async with serving(app) as (_, session):
        with pytest.raises(OperationFailed, match="It was doomed") as caught:
            await session.run(SeparateStems(f"https://{DOOMED}.example/x.wav"), timeout=20)
    assert caught.value.operation.error is not None
    assert caught.value.operation.error.code == "internal_error"
    assert str(caught.value.handle).startswith("adapt.separate_stems")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (NewFx("", duration=1), "prompt"),
        (NewSong("x" * 3001, prompt="pop"), "lyrics"),
        (RemixInstrumental(MIX, n_variations=4), "n_variations"),
        (SeparateStems("no url"), "url"),
    ],
)
async def test_is_refused_as_the_models_say(app: FastAPI, wrong: Any, field: str) -> None:
    """FastAPI's own 422 names the member; nothing is paid."""
    async with serving(app, validate=False) as (service, session):
        with pytest.raises(ValidationError) as caught:
            await session.submit(wrong)
    assert field in {str(part) for error in caught.value.fields for part in error.loc}
    assert not service.begun


async def test_the_service_decides_what_is_empty(app: FastAPI) -> None:
    """A text of white space is taken as generated, and refused by the member's name when it is stripped."""
    blank = NewFx(" \n", duration=1)
    async with serving(app) as (service, session):
        if app.state.stripping:
            with pytest.raises(ValidationError, match="prompt"):
                await session.run(blank, timeout=20)
        else:
            await session.run(blank, timeout=20)
        assert len(service.begun) == (not app.state.stripping)
