"""What runs the parts of a run, without the engine itself (that is in tests/ray): an actor's work, and refusals."""

import importlib.util
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from helpers.database_servers import Server
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, simulate
from helpers.tracebacks import find

from soundpiece_async import InsufficientCredits, JobState, Journal, JournalError, SettingsError
from soundpiece_async._core.redaction import Secret
from soundpiece_async._journal.store import TakenOver
from soundpiece_async.engines import ray as engine
from soundpiece_async.engines.ray import Part, PartWorker, run_on_ray
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio

JOBS = 8


def part(sim: Simulator, url: str, folder: Path, number: int = 1, parts: int = 1) -> Part:
    """Return a part of the run that is named after the folder."""
    settings = {"base_url": sim.url, "api_key": sim.api_key}
    run, secret = str(folder), Secret(url)
    return Part(url=secret, run=run, save_to=folder, settings=settings, timeout=None, number=number, parts=parts)


async def plan(url: str, folder: Path) -> Journal:
    journal = await Journal.open(url, run=str(folder))
    await journal.plan(fx(number) for number in range(JOBS))
    return journal


async def test_an_actor_has_one_session_for_its_parts(journal_database: Server, tmp_path: Path) -> None:
    """It works on two at once."""
    async with simulate() as sim, await plan(journal_database.url, tmp_path) as journal:
        worker = PartWorker()
        await worker.close()
        async with anyio.create_task_group() as group:
            for number in (1, 2):
                group.start_soon(worker.work, part(sim, journal_database.url, tmp_path, number, 2))
        assert await journal.count() == {JobState.SAVED: JOBS}
        session = worker._session
        assert session is not None
        assert session.statistics().submitted == JOBS
        await worker.close()
        assert repr(worker) == "<PartWorker 0 parts>"


async def test_an_actor_that_is_stopped_ends_what_is_in_flight(journal_database: Server, tmp_path: Path) -> None:
    """And begins nothing more, also of parts that come later."""
    async with (
        simulate(durations=never_finishes) as sim,
        await plan(journal_database.url, tmp_path) as journal,
        anyio.create_task_group() as group,
    ):
        worker, outcomes = PartWorker(), []

        async def work(number: int) -> None:
            outcomes.append(await worker.work(part(sim, journal_database.url, tmp_path, number, 2)))

        group.start_soon(work, 1)
        await until(lambda: len(sim.operations) == JOBS // 2)
        await worker.stop()
        await work(2)
        for operation in sim.operations:
            sim.finish(operation)
        await until(lambda: len(outcomes) == 2)
        assert outcomes == [None, None]
        assert await journal.count() == {JobState.SAVED: JOBS // 2, JobState.PLANNED: JOBS // 2}
        await worker.close()


async def test_an_actor_returns_what_concerns_all_jobs(journal_database: Server, tmp_path: Path) -> None:
    """A refusal, a part that was taken over, a database that is away, wrong settings: without secrets, and frames."""
    url = journal_database.url
    async with simulate(credits=2, durations=never_finishes) as sim, await plan(url, tmp_path) as journal:
        worker = PartWorker()
        outcomes: list[Any] = []

        async def work(**changes: Any) -> None:
            outcomes.append(await worker.work(attrs.evolve(part(sim, url, tmp_path), **changes)))

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(lambda: len(sim.operations) == 2)
            while (await journal.count()).get(JobState.SUBMITTED) != 2:
                await anyio.sleep(0.01)
            await journal.store.take_part(0, 1, failed=False)
            for operation in sim.operations:
                sim.finish(operation)
        await worker.close()
        for changes in ({"url": Secret(url.replace("sesame", "barley"))}, {"settings": {"verify": "loudly"}}):
            worker = PartWorker()
            await work(**changes)
        refused, away, wrong = outcomes
        assert isinstance(refused, InsufficientCredits | TakenOver)
        assert isinstance(away, JournalError)
        assert isinstance(wrong, SettingsError)
        for error in outcomes:
            assert error.__traceback__ is None
            assert find(error, "sesame") == find(error, "barley") == []


async def test_what_is_refused_before_anything_is_sent(
    journal_database: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra the error names it; a key is no argument; a missing cluster is named with the way out."""
    url, run = journal_database.url, uuid4().hex
    with pytest.raises(JournalError, match=r"has no (run called|journal)"):
        await run_on_ray(url, run=run, save_to=tmp_path, workers=1)
    async with Journal.open(url, run=run) as journal:
        await journal.plan([fx(1)])
    for name in ("api_key", "shared", "proxy"):
        with pytest.raises(SettingsError, match=f"SOUNDPIECE_{name.upper()}") as caught:
            await run_on_ray(url, run=run, save_to=tmp_path, workers=1, settings={name: "barley"})
        assert find(caught.value, "sesame", ours=True) == find(caught.value, "barley", ours=True) == []
    spec = importlib.util.find_spec
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "ray" else spec(name))
    with pytest.raises(SettingsError, match=r"soundpiece-async\[ray\]"):
        await run_on_ray(url, run=run, save_to=tmp_path, workers=1)

    class Ray:
        def init(self, **_: object) -> None:
            raise ConnectionError("no running Ray instance")

    with pytest.raises(SettingsError, match="address='local'"):
        engine._connect(Ray(), "auto")
