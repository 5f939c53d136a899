"""Runs a run that is planned in Postgres on Ray: actors take parts, and the program that called follows.

1. An actor reads the API key, and what else ``Settings`` reads, from its own environment. A key is no argument, which
   Ray keeps, and no runtime environment, which Ray writes to its logs and shows.
2. An actor has one session. Each of its parts has a journal of its own, so that it ends with the part.
3. A part whose actor died, or whose database was away, goes to the next free actor. One that another process took over
   does not, and no further part begins: that process, or its engine, continues the run.
4. What stops one part for all jobs (a refused key, no credits, a full disk) stops all parts.
"""

import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._bulk import RunMany
from soundpiece_async._core.errors import JournalError, SettingsError, SoundpieceError, detach
from soundpiece_async._core.job_records import JobState
from soundpiece_async._core.redaction import Secret, redact_url
from soundpiece_async._core.requests import Request
from soundpiece_async._core.results import Failed
from soundpiece_async._core.settings import Settings
from soundpiece_async._download.destinations import parse_destination
from soundpiece_async._download.partfile import is_full
from soundpiece_async._journal.journal import Journal
from soundpiece_async._journal.store import TakenOver
from soundpiece_async._lifetime import Task
from soundpiece_async._logs import get_logger
from soundpiece_async._session import Session

SMALLEST_PART, LARGEST_PART = 50, 500
"""Jobs: fewer cost more than they do, and of more too many wait when an actor dies."""
PARTS_AT_ONCE = 2
"""Parts that an actor works on, so that it is not idle while the last jobs of one of them end."""
MAX_LOSSES = 6
"""Times that a part may be lost: at the next one the run ends."""
PAUSE = 1.0
"""Seconds before a lost part is given to another actor; twice as long each time, so that a database can come back."""
REPORT_INTERVAL = 2.0
"""Seconds between two counts of the jobs, at least: the twentieth part of the time may be spent on them."""
CLOSE_SECONDS = 20.0
FROM_ENVIRONMENT = {"api_key": "SOUNDPIECE_API_KEY", "proxy": "SOUNDPIECE_PROXY", "shared": "SOUNDPIECE_SHARED"}
"""Settings that are secret (rule 1)."""

Members: TypeAlias = Mapping[str, Any]
"""Of ``Settings``, by their names."""
Actor: TypeAlias = Any
"""Ray's handle of a ``PartWorker``."""

logger: logging.Logger = get_logger("engines")


@attrs.frozen(kw_only=True)
class Part:
    """A part of a run, as an actor gets it: the ``number``-th of ``parts``, which was lost ``losses`` times."""

    url: Secret
    run: str
    save_to: str | Path
    settings: Members
    timeout: float | None
    number: int
    parts: int
    losses: int = 0

    def __str__(self) -> str:
        return f"part {self.number} of {self.parts} of the run {self.run!r}"


class PartWorker:
    """An actor: a session, and the parts that it works on."""

    def __init__(self) -> None:
        self._opening = anyio.Lock()
        self._session: Session | None = None
        self._running: set[RunMany[Request]] = set()
        self._stopped = False

    def __repr__(self) -> str:
        return f"<PartWorker {len(self._running)} parts>"

    async def work(self, part: Part) -> SoundpieceError | None:
        """Work on a part; returns the error that ended it, if it concerns more than one job."""
        try:
            async with Journal.open(part.url, run=part.run) as journal:
                session, jobs = await self._open(part.settings), journal.jobs(part=(part.number, part.parts))
                async with session.run_many(
                    jobs, save_to=part.save_to, journal=journal, timeout=part.timeout
                ) as results:
                    return await self._follow(results)
        except SoundpieceError as error:
            return detach(error)

    async def stop(self) -> None:
        """Send nothing more; the parts end when what is in flight has ended."""
        self._stopped = True
        for results in self._running:
            results.stop(_stopped_error())

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.aclose()

    async def _open(self, settings: Members) -> Session:
        async with self._opening:
            if self._session is None:
                session = Session(Settings(**settings))
                await session.start()
                self._session = session
            return self._session

    async def _follow(self, results: RunMany[Request]) -> SoundpieceError | None:
        ended_by: SoundpieceError | None = None
        self._running.add(results)
        try:
            if self._stopped:
                results.stop(_stopped_error())
            async for result in results:
                if isinstance(result, Failed) and ended_by is None and _concerns_all(result.error):
                    ended_by = detach(result.error)
                    await self.stop()
        finally:
            self._running.discard(results)
        return ended_by


def _concerns_all(error: SoundpieceError) -> bool:
    return error.stops_run or isinstance(error, TakenOver) or is_full(error)


def _stopped_error() -> SoundpieceError:
    return SoundpieceError("the run was stopped before this job was sent")


class _Driver:
    """Hands the parts out to the actors."""

    def __init__(
        self, actors: list[Actor], parts: list[Part], *, lost: type[Exception], failed: type[Exception]
    ) -> None:
        self.error: SoundpieceError | None = None
        self._actors = actors
        self._lost, self._failed = lost, failed
        self._left = len(parts)
        self._ended = anyio.Event()
        self._given_back, self._parts = anyio.create_memory_object_stream[Part](len(parts))
        for part in parts:
            self._given_back.send_nowait(part)
        self._stopped = False

    def __repr__(self) -> str:
        return f"<_Driver {self._left} parts left, {len(self._actors)} actors{' stopped' * self._stopped}>"

    async def run(self, *others: Task) -> None:
        """Run all parts, and the other tasks until they have ended."""
        try:
            with self._given_back, self._parts:
                async with anyio.create_task_group() as group:
                    for task in others:
                        group.start_soon(task)
                    for actor in self._actors * PARTS_AT_ONCE:
                        group.start_soon(self._serve, actor)
                    await self._ended.wait()
                    group.cancel_scope.cancel()
        except ExceptionGroup as faults:
            raise faults.exceptions[0] from None

    def stop(self, error: SoundpieceError | None = None) -> None:
        """Begin no more parts; what is in flight ends."""
        self.error = self.error or error
        if not self._stopped:
            self._stopped = True
            for actor in self._actors:
                actor.stop.remote()

    async def _serve(self, actor: Actor) -> None:
        async for part in self._parts:
            loss = None if self._stopped else await self._run_part(actor, part)
            if loss is not None and part.losses < MAX_LOSSES and not self._stopped:
                logger.warning("%s goes to another actor: %s", part, loss)
                await anyio.sleep(PAUSE * 2**part.losses)
                self._given_back.send_nowait(attrs.evolve(part, losses=part.losses + 1))
                continue
            if loss is not None:
                self.stop(loss)
            self._left -= 1
            if not self._left:
                self._ended.set()

    async def _run_part(self, actor: Actor, part: Part) -> SoundpieceError | None:
        """Run a part; returns why it was lost."""
        try:
            error = await actor.work.remote(part)
        except self._lost as fault:
            return SoundpieceError(f"{part} was lost with its actor: {fault}; run the same again, nothing is lost")
        except self._failed as fault:
            cause = getattr(fault, "cause", fault)
            error = SoundpieceError(f"{part} failed in its actor: {type(cause).__name__}: {cause}; nothing is lost")
        if isinstance(error, JournalError) and error.ends_run:
            return error
        if error is not None:
            self.stop(error)
        return None


async def run_on_ray(
    url: str,
    *,
    run: str,
    save_to: str | os.PathLike[str],
    workers: int,
    address: str = "auto",
    settings: Members | None = None,
    timeout: float | None = None,
    on_progress: Callable[[dict[JobState, int]], object] | None = None,
    stop: anyio.Event | None = None,
) -> dict[JobState, int]:
    """Run all jobs of a run that are not finished in actors on Ray, and return how many are in each state.

    A cancellation gives up: the actors are killed, and the same call resumes the run.

    Args:
        url: of the database, as for ``Journal.open``; without a password, if the machines have it (``PGPASSWORD``).
        run: the name of the run; its jobs were recorded by ``Journal.plan``.
        save_to: the URL of a bucket, or a folder that all machines share.
        workers: number of actors, each a process on any machine of the cluster.
        address: of the cluster, unless ``ray.init`` was called before: ``"auto"`` is the one that this machine belongs
            to, ``"local"`` starts one on this machine until the end of the call.
        settings: members of ``Settings`` for each actor, as ``{"limits": Limits(polls=50)}``. API key, proxy and shared
            store are read by each actor from its environment: set them where ``ray start`` runs.
        timeout: seconds to wait for each operation, once submitted.
        on_progress: called every few seconds with what ``Journal.count`` returns.
        stop: set it to begin nothing more: what is in flight ends, then the call returns.

    Raises:
        AuthenticationError, InsufficientCredits: the service refused; what was in flight has ended.
        JournalError: there is no such run; its database is away for long; or another process took jobs over and
            continues them, so do not repeat the call.
        SettingsError: a setting is missing or invalid; Ray is not installed, or cannot be reached.
        SoundpieceError: a part killed its actors again and again, or the disk is full.
    """
    database = Secret(url, redact_url(url))
    del url  # no frame shows its password
    secret = [name for name in FROM_ENVIRONMENT if name in (settings or {})]
    if secret:
        settings, variables = None, ", ".join(FROM_ENVIRONMENT[name] for name in secret)
        raise SettingsError(f"settings must not have {', '.join(secret)}: actors read {variables} from the environment")
    where = parse_destination(save_to, field="save_to")
    place = where.absolute() if isinstance(where, Path) else str(where)
    count = partial(_count, database, run)
    number = _choose_parts(await count(), workers=workers)
    part = Part(url=database, run=run, save_to=place, settings=settings or {}, timeout=timeout, number=1, parts=number)
    parts = [attrs.evolve(part, number=one + 1) for one in range(number)]
    async with _connected(address) as ray, _started(ray, min(workers, number)) as actors:
        driver = _Driver(actors, parts, lost=ray.exceptions.RayActorError, failed=ray.exceptions.RayError)
        await driver.run(partial(_report, count, on_progress), partial(_stop_when, stop, driver))
    if driver.error is not None:
        raise driver.error
    return await count()


def _choose_parts(counts: Mapping[JobState, int], *, workers: int) -> int:
    """Return the number of parts of the jobs that are left: some for each worker, none too small or too large."""
    size = sum(counts.values()) - counts.get(JobState.SAVED, 0)
    return math.ceil(size / min(LARGEST_PART, max(SMALLEST_PART, size // (workers * PARTS_AT_ONCE * 2)))) or 1


@asynccontextmanager
async def _connected(address: str) -> AsyncGenerator[ModuleType]:
    """Yield Ray, connected to a cluster: to that of the program, or to one of ours, which is left at the end.

    Raises:
        SettingsError: Ray is not installed, or cannot be reached.
    """
    ray = await anyio.to_thread.run_sync(_load)
    if ray.is_initialized():
        yield ray
        return
    try:
        await anyio.to_thread.run_sync(_connect, ray, address)
        yield ray
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(ray.shutdown)


@asynccontextmanager
async def _started(ray: ModuleType, number: int) -> AsyncGenerator[list[Actor]]:
    """Start actors, whose sessions are closed at the end; after an error or a cancellation they are killed at once."""
    kind = ray.remote(PartWorker).options(max_restarts=-1, scheduling_strategy="SPREAD")
    actors = [kind.remote() for _ in range(number)]
    try:
        yield actors
        await _close(actors, lost=ray.exceptions.RayError)
    finally:
        for actor in actors:
            ray.kill(actor)


async def _count(url: Secret, run: str) -> dict[JobState, int]:
    async with Journal.open(url, run=run, read_only=True) as journal:
        return await journal.count()


async def _report(count: Callable[[], Awaitable[dict[JobState, int]]], call: Callable[..., object] | None) -> None:
    while call is not None:
        began = time.monotonic()
        try:
            call(await count())
        except JournalError as error:
            logger.warning("the jobs cannot be counted now: %s", error)
        await anyio.sleep(max(REPORT_INTERVAL, 20 * (time.monotonic() - began)))


async def _stop_when(stop: anyio.Event | None, driver: _Driver) -> None:
    if stop is not None:
        await stop.wait()
        driver.stop()


async def _close(actors: list[Actor], *, lost: type[Exception]) -> None:
    """Close the sessions of actors that are alive."""
    for closing in [actor.close.remote() for actor in actors]:
        with anyio.move_on_after(CLOSE_SECONDS), suppress(lost):
            await closing


def _load() -> ModuleType:
    """Import Ray. Blocks."""
    if find_spec("ray") is None:
        raise SettingsError(
            "Ray is not installed: python -m pip install 'soundpiece-async[ray]', on Python 3.11 to 3.13, for which "
            "there are packages; nothing was sent"
        )
    import ray  # pyright: ignore[reportMissingImports]

    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, address: str) -> None:
    """Connect to a cluster. Blocks; in a worker thread, where Ray leaves the handlers of signals alone.

    Raises:
        SettingsError: it cannot be reached.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise SettingsError(
            f"Ray at {address!r} cannot be reached: {error}; nothing was sent. Start it: ray start --head; or choose "
            "address='local', which starts it on this machine"
        ) from error
