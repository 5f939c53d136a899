"""Whatever a plausible service does, paid work is delivered or named: variations and faults of the simulator at once.

For n requests n operations are made, however often a PUT is repeated. Each is delivered whole, or ends as an error that
names its handle, or its key where the service never tells the handle. Nothing hangs, and a second run with the same
journal buys nothing.
"""

import io
import os
import pickle
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs
import obstore
import pytest
import soundfile
from aiohttp import web
from helpers.app_servers import serve_aiohttp
from helpers.killable import KillableRuns, killable_runs
from helpers.simulation import simulate
from hypothesis import HealthCheck, Phase, given, strategies
from hypothesis import settings as hypothesis_settings
from obstore.store import MemoryStore

from soundpiece_async import (
    AutoCutDown,
    Failed,
    Journal,
    NewFx,
    NewSample,
    NewSong,
    Operation,
    OperationFailed,
    RemixInstrumental,
    RetryPolicy,
    SeparateStems,
    Session,
    Settings,
    SoundpieceError,
    Status,
    Succeeded,
    Timeouts,
    _poller,
)
from soundpiece_async._core import completion
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.variations import TABLE, read_variations
from soundpiece_async.webhooks import Webhooks, aiohttp_handler

UNDELIVERABLE = {"outputs=null", "outputs=empty", "outputs=missing", "read=gone"}
"""With these there is no audio: the result is an error that names the handle."""
UNCERTAIN = {"status=missing", "status=delivered"}
"""With these nothing says that an operation ended well, so that only its documented members are taken for outputs."""
UNNAMED = {"repeat=used", "repeat=named"}
"""With these, and a lost first answer, perhaps nobody can be sure of the id: the key is all there is, and is kept."""
WRITTEN = sorted(f"{name}={value}" for name, values in TABLE.items() for value in values)

PATIENCE = 60.0
"""Seconds for one operation: what comes comes sooner, also on a busy machine."""
LONGEST = 240.0
"""Seconds for the two runs of an example, which take some seconds at most."""

MIX = "https://Media.example.com:443/a/../mix.wav"
REQUESTS: list[Callable[..., Any]] = [
    lambda **more: NewSong("[Verse]\r\nT\u0075\u0308r & Tor\n", prompt=" <b>folk</b>\n", **more),
    lambda **more: NewFx("door 'slams'\n", duration=0.1 + 0.2, **more),
    lambda **more: NewSample("kick", duration=0.25, loopable=True, **more),
    lambda **more: SeparateStems(MIX, **more),
    lambda **more: RemixInstrumental(MIX, n_variations=1, **more),
    lambda **more: AutoCutDown(MIX, target_duration=0.26, **more),
]


@attrs.frozen
class Trouble:
    """One fault on the way, for some of the requests."""

    fault: Fault
    details: dict[str, Any] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        """Show it as it is injected."""
        return f"Trouble({self.fault.value!r}, {self.details})"


TROUBLES = {
    "accepted, then 504": Trouble(Fault.GATEWAY_TIMEOUT, {"method": "PUT"}),
    "accepted, then reset": Trouble(Fault.RESET_AFTER, {"method": "PUT"}),
    "accepted, answered too late": Trouble(Fault.STALL, {"method": "PUT", "seconds": 2.0}),
    "accepted, answer cut": Trouble(Fault.CUT, {"method": "PUT"}),
    "accepted, answer damaged": Trouble(Fault.CORRUPT, {"method": "PUT", "at": 0}),
    "reset": Trouble(Fault.RESET_BEFORE, {"method": "PUT"}),
    "busy": Trouble(Fault.SERVER_ERROR, {"method": "PUT", "status": 503, "headers": {"Retry-After": "1"}}),
    "429": Trouble(Fault.RATE_LIMITED, {"seconds": 1.0}),
    "poll reset": Trouble(Fault.RESET_AFTER, {"method": "GET", "host": "api"}),
    "poll 502": Trouble(Fault.BAD_GATEWAY, {"method": "GET", "host": "api"}),
    "poll damaged": Trouble(Fault.CORRUPT, {"method": "GET", "host": "api", "at": 0}),
    "download cut": Trouble(Fault.CUT, {"host": "output"}),
    "download damaged": Trouble(Fault.CORRUPT, {"host": "output"}),
    "download 500": Trouble(Fault.SERVER_ERROR, {"host": "output"}),
    "download reset": Trouble(Fault.RESET_BEFORE, {"host": "output"}),
    "download without ranges": Trouble(Fault.IGNORE_RANGE),
    "failed": Trouble(Fault.FAIL),
}


def compatible(written: list[str]) -> list[str]:
    """Keep those that contradict none before them."""
    kept: list[str] = []
    for one in written:
        try:
            read_variations([*kept, one])
        except ValueError:
            continue
        kept.append(one)
    return kept


@attrs.frozen(kw_only=True)
class Day:
    """The behaviour of a service, the fault, and the request."""

    variations: list[str]
    troubles: list[tuple[str, int]]
    requests: list[int]
    way: str = "journal"
    death: int = 3
    """The request at which the run is killed, if that is its way."""

    @property
    def unnamed(self) -> bool:
        """Whether an operation may be accepted whose id nobody can learn."""
        lost = "submit=502" in self.variations or any(name.startswith("accepted") for name, _ in self.troubles)
        lost = lost or WAYS[self.way] is not run_with_journal  # the second session has the requests alone
        return lost and bool(UNNAMED & set(self.variations))


def open_simulator(day: Day, *, on_request: Callable[[ReceivedRequest], None]) -> Simulator:
    """A simulator for that day, with its troubles put on the first requests that fit."""
    simulator = simulate(
        speed=1000.0,
        track_seconds=(0.2, 0.3),
        variations=day.variations,
        allow_private_callbacks=True,
        on_request=on_request,
    )
    for name, skip in day.troubles:
        trouble = TROUBLES[name]
        simulator.inject(trouble.fault, skip=skip, **trouble.details)
    return simulator


BRISK: dict[str, Any] = {
    "timeouts": Timeouts(connect=5, submit=1.5, poll=5, read=5),
    "retries": RetryPolicy(submit_max_elapsed=PATIENCE, download_max_elapsed=PATIENCE),
    "validate": False,  # the real service calls no receiver on this machine
}
"""Settings under which nothing waits long."""


async def run_with_journal(session: Session, requests: list[Any], folder: Any, journal: Path) -> list[Any]:
    """One run over all requests, with a journal, as `soundpiece bulk` does it."""
    async with (
        Journal.open(journal) as opened,
        session.run_many(requests, save_to=folder, journal=opened, timeout=PATIENCE) as results,
    ):
        return [result async for result in results]


async def run_many(session: Session, requests: list[Any], folder: Any, _: Path) -> list[Any]:
    """One run over all requests, without a journal: the keys are in the requests."""
    async with session.run_many(requests, save_to=folder, timeout=PATIENCE) as results:
        return [result async for result in results]


async def run_each(session: Session, requests: list[Any], folder: Any, _: Path) -> list[Any]:
    """Submit, wait by the handle alone, and download, one after the other."""
    ends: list[Any] = []
    for request in requests:
        operation = None
        try:
            operation = await session.submit(request)
            ready = await session.wait(operation.handle, timeout=PATIENCE)
            files = await session.download(ready, folder)
        except SoundpieceError as error:
            ends.append(Failed(request=request, operation=operation, error=error))
        else:
            ends.append(Succeeded(request=request, operation=ready, files=tuple(files)))
    return ends


async def refresh_each(session: Session, requests: list[Any], folder: Any, _: Path) -> list[Any]:
    """Submit, read until an answer comes, wait, and download what another read says."""
    ends: list[Any] = []
    for request in requests:
        operation = None
        try:
            operation = await session.submit(request)
            operation = await read_again(session, operation)
            ready = await session.wait(operation, timeout=PATIENCE)
            latest = await read_again(session, ready)
            files = await session.download(latest if latest.status is Status.READY else ready, folder)
        except SoundpieceError as error:
            ends.append(Failed(request=request, operation=operation, error=error))
        else:
            ends.append(Succeeded(request=request, operation=ready, files=tuple(files)))
    return ends


async def read_again(session: Session, operation: Operation[Any]) -> Operation[Any]:
    """Refresh it; the service may refuse that a few times."""
    for _ in range(3):
        with suppress(SoundpieceError):
            return await session.refresh(operation)
    return operation


WAYS = {
    "journal": run_with_journal,
    "webhooks": run_with_journal,
    "killed": run_with_journal,
    "store": run_with_journal,
    "run_many": run_many,
    "each": run_each,
    "refresh": refresh_each,
}


DAYS = strategies.builds(
    Day,
    variations=strategies.lists(strategies.sampled_from(WRITTEN), max_size=8, unique=True).map(compatible),
    troubles=strategies.lists(
        strategies.tuples(strategies.sampled_from(sorted(TROUBLES)), strategies.integers(0, 3)), max_size=4
    ),
    requests=strategies.lists(strategies.integers(0, len(REQUESTS) - 1), min_size=1, max_size=4),
    way=strategies.sampled_from(sorted(WAYS)),
    death=strategies.integers(1, 12),
)


@asynccontextmanager
async def receiving(simulator: Simulator, session: Session) -> AsyncIterator[str]:
    """A receiver of webhooks, which delivers to the session."""
    app = web.Application()
    app.router.add_post("/hook", aiohttp_handler(Webhooks([str(simulator.webhook_secret)]), session.deliver))
    async with serve_aiohttp(app) as url:
        yield f"{url}/hook"


async def check(day: Day, simulator: Simulator, results: list[Any], store: MemoryStore) -> None:
    """Every request has its end: files that can be decoded, or an error with the handle of one of the operations."""
    assert len(results) == len(day.requests)
    assert len(simulator.operations) == len(day.requests)
    troubles = {name for name, _ in day.troubles}
    undeliverable = UNDELIVERABLE & set(day.variations)
    if "outputs=renamed" in day.variations:
        undeliverable |= UNCERTAIN & set(day.variations)
    for result in results:
        match result:
            case Succeeded(operation=operation, files=files):
                assert len(files) == len(operation.outputs) > 0
                for file in files:
                    audio = file.path.read_bytes() if file.path else (await obstore.get_async(store, file.name)).bytes()
                    check_file(bytes(audio), sound="download damaged" not in troubles)
            case Failed(request=request, operation=None, error=error) if day.unnamed:
                assert str(request.idempotency_key) in str(error)
                assert error.handle is None or error.handle.id in simulator.operations
            case Failed(error=error):
                assert error.handle is not None
                assert error.handle.id in simulator.operations
                by_its_word = isinstance(error, OperationFailed) and "failed" in troubles
                assert by_its_word or undeliverable, repr(error)


def check_file(audio: bytes, *, sound: bool) -> None:
    """Decode a file to its end, behind a tag if there is one. A damaged bit may be there unnoticed."""
    if audio.startswith(b"ID3"):
        audio = audio[10 + int.from_bytes(audio[8:10]) // 2 :]  # a synchsafe number below 2 ** 14
    if sound:
        with soundfile.SoundFile(io.BytesIO(audio)) as file:
            assert len(file.read()) == file.frames > 0


def pickled(simulator: Simulator, requests: list[Any], folder: str) -> dict[str, str]:
    """Return the command for a run of these requests."""
    command = {"api_key": simulator.api_key, "url": simulator.url, "folder": folder}
    return {**command, "pickled": pickle.dumps((BRISK, requests)).hex()}


async def live_through(day: Day, victim: KillableRuns) -> None:
    """Do everything twice, in two sessions, with one journal."""
    requests: list[Any] = []
    arrived = 0

    def count(_: ReceivedRequest) -> None:
        nonlocal arrived
        arrived += 1
        if day.way == "killed" and arrived == day.death:
            os.kill(victim.child, signal.SIGKILL)

    with tempfile.TemporaryDirectory() as folder, anyio.fail_after(LONGEST):
        store = MemoryStore()
        async with open_simulator(day, on_request=count) as simulator:
            if day.way == "killed":
                requests = [REQUESTS[n]() for n in day.requests]
                await anyio.to_thread.run_sync(partial(victim.run, **pickled(simulator, requests, folder)))
                arrived = day.death  # there is nobody to be killed any more
            for number in ("first", "second"):
                # without a journal only the requests know that files were saved before
                to = (
                    store
                    if day.way == "store"
                    else Path(folder) / ("" if WAYS[day.way] is run_with_journal else number)
                )
                settings = Settings(api_key=simulator.api_key, base_url=simulator.url, **BRISK)
                async with Session(settings) as session, receiving(simulator, session) as url:
                    callback = url if day.way == "webhooks" else None
                    requests = requests or [REQUESTS[n](callback_url=callback) for n in day.requests]
                    results = await WAYS[day.way](session, requests, to, Path(folder))
                await check(day, simulator, results, store)


async def live_through_all(days: list[Day], victim: KillableRuns) -> None:
    """Live through several days at once."""
    limiter = anyio.CapacityLimiter(10)

    async def live(day: Day) -> None:
        async with limiter:
            await live_through(day, victim)

    async with anyio.create_task_group() as lives:
        for day in days:
            lives.start_soon(live, day)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reads agree after a moment, and an operation that is not found is so for two seconds."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.05)
    monkeypatch.setattr(_poller, "STREAK_SECONDS", 2.0)


@pytest.fixture(scope="module")
def victim() -> Iterator[KillableRuns]:
    """The process of the runs that are killed."""
    with killable_runs() as runs:
        yield runs


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("impatient")
def test_paid_work_is_delivered_or_named(victim: KillableRuns, *, thorough: bool) -> None:
    """The product of variations and faults: a few of its points by default, more of them with --thorough."""

    @hypothesis_settings(
        max_examples=50 if thorough else 2,
        deadline=None,
        database=None,
        derandomize=not thorough,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(strategies.lists(DAYS, min_size=5, max_size=10))
    def try_days(days: list[Day]) -> None:
        anyio.run(live_through_all, days, victim)

    try_days()


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("impatient")
def test_each_variation_meets_each_fault(victim: KillableRuns, *, thorough: bool) -> None:
    """Every variation by itself, with one fault after another; by default a few of them, each way once."""
    troubles, ways = sorted(TROUBLES), sorted(WAYS)
    days = [
        Day(
            variations=[written],
            troubles=[(troubles[number % len(troubles)], 0)],
            requests=[number % 6, 1],
            way=ways[number % len(ways)],
            death=number % 10 + 1,
        )
        for number, written in enumerate(WRITTEN)
    ]
    anyio.run(live_through_all, days if thorough else days[::20], victim)
