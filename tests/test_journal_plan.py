"""Jobs that are recorded before anything is sent, and taken over in parts: in a file, and in Postgres."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from helpers.journals import edit_journal, open_journal
from helpers.sample_requests import fx
from helpers.simulation import settings

from soundpiece_async import (
    Failed,
    InvalidRequest,
    JobState,
    JournalError,
    NewFx,
    NewSong,
    Request,
    SeparateStems,
    Session,
    Succeeded,
)
from soundpiece_async._journal import journal as journals
from soundpiece_async.simulator import Fault, Simulator

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("journals")]

KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"


async def work(sim: Simulator, folder: Path, part: tuple[int, int], **options: Any) -> list[Any]:
    """Run a part as a process of its own would."""
    async with Session(settings(sim)) as session, open_journal(folder, **options) as journal:
        async with session.run_many(journal.jobs(part=part), save_to=folder, journal=journal) as results:
            return [result async for result in results]


async def test_what_is_planned_is_run_in_parts(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part gives its jobs, as requests with their keys, and no other; a finished one gives none."""
    monkeypatch.setattr(journals, "PAGE", 4)
    async with open_journal(tmp_path) as journal:
        assert await journal.plan(fx(number) for number in range(10)) == 10
        assert sim.log == []
        assert await journal.count() == {JobState.PLANNED: 10}
        planned = {job.key for job in await journal.jobs()}
    first = await work(sim, tmp_path, (1, 3))
    assert 3 <= len(first) <= 4
    rest = [result for part in ((2, 3), (3, 3)) for result in await work(sim, tmp_path, part)]
    assert all(isinstance(result, Succeeded) for result in first + rest)
    assert {result.request.idempotency_key for result in first + rest} == planned
    assert sorted(result.request.prompt for result in first + rest) == sorted(fx(number).prompt for number in range(10))
    assert await work(sim, tmp_path, (1, 1)) == []
    assert len(sim.operations) == 10


async def test_one_process_may_work_on_several_parts(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same time: the second part takes nothing from the first one, whose jobs are read page by page."""
    monkeypatch.setattr(journals, "PAGE", 2)
    done: list[Any] = []
    async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
        await journal.plan(fx(number) for number in range(12))

        async def run_part(number: int) -> None:
            async with session.run_many(journal.jobs(part=(number, 2)), save_to=tmp_path, journal=journal) as results:
                done.extend([result async for result in results])

        async with anyio.create_task_group() as group:
            group.start_soon(run_part, 1)
            group.start_soon(run_part, 2)
        assert await journal.count() == {JobState.SAVED: 12}
    assert [type(result) for result in done] == [Succeeded] * 12


async def test_jobs_that_ended_meanwhile_are_in_no_part(sim: Simulator, tmp_path: Path) -> None:
    """Another run of this process has done one: the part ends without it, as nobody has taken it over."""
    async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
        await journal.plan([fx(1), fx(2)])
        part = await journal.take_part(1, 1)
        async with session.run_many([fx(1)], save_to=tmp_path, journal=journal) as results:
            assert [type(result) async for result in results] == [Succeeded]
        assert part.jobs == 2
        assert [request.prompt async for request, _ in journal.read_part(part)] == [fx(2).prompt]


async def test_what_comes_before_an_error_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is written while the next one is read: an error of the caller's iterable takes nothing back."""
    monkeypatch.setattr(journals, "PAGE", 2)
    error = OSError("the list of jobs cannot be read")

    def requests() -> Iterator[Request]:
        yield from map(fx, range(5))
        raise error

    async with open_journal(tmp_path) as journal:
        with pytest.raises(OSError, match="the list of jobs") as caught:
            await journal.plan(requests())
        assert caught.value is error
        assert await journal.count() == {JobState.PLANNED: 4}


async def test_planning_twice_is_planning_once(sim: Simulator, tmp_path: Path) -> None:
    """By any process, before and after the run; what a line says now about its name and place is kept."""
    wishes = [fx(1), fx(1), NewSong("la", prompt="pop"), fx(2, idempotency_key=KEY)]

    async def lines() -> AsyncIterator[tuple[Request, str]]:
        for number, request in enumerate([fx(3), *wishes]):
            journal.annotate(request, metadata={"line": number}, line=number)
            yield request, f"take {number}"

    async with open_journal(tmp_path) as journal:
        same = fx(7)
        assert await journal.plan([*wishes, same, same]) == 5
        assert await journal.plan([fx(1), fx(1), NewSong("la", prompt="pop")]) == 0
    await work(sim, tmp_path, (1, 1))
    async with open_journal(tmp_path) as journal:
        assert await journal.plan(lines()) == 1
        assert (await journal.take_part(1, 1)).jobs == 1
        jobs = await journal.jobs()
        assert await journal.plan([]) == 0
    assert {job.name: (job.metadata, job.line) for job in jobs if job.name} == {
        f"take {number}": ({"line": number}, number) for number in range(5)
    }
    assert [job.state for job in jobs] == [JobState.SAVED] * 5 + [JobState.PLANNED]
    assert len(await work(sim, tmp_path, (1, 1))) == 1
    assert len(sim.operations) == 6


async def test_a_run_over_the_requests_finds_what_was_planned(sim: Simulator, tmp_path: Path) -> None:
    """The jobs are the same whether they are given out by the journal or read once more."""
    async with open_journal(tmp_path) as journal:
        await journal.plan([fx(1), fx(1), fx(2, idempotency_key=KEY)])
        async with Session(settings(sim)) as session:
            requests = [fx(2, idempotency_key=KEY), fx(1), fx(1), fx(3)]
            async with session.run_many(requests, save_to=tmp_path, journal=journal) as results:
                assert [type(result) async for result in results] == [Succeeded] * 4
        assert await journal.count() == {JobState.SAVED: 4}
    assert len(sim.operations) == 4


async def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    """Before anything is sent: an invalid request, a key of another route, an invalid part."""
    async with open_journal(tmp_path) as journal:
        with pytest.raises(InvalidRequest, match="prompt"):
            await journal.plan([fx(8), fx(9), NewFx("", duration=1)])
        assert await journal.count() == {JobState.PLANNED: 2}  # those before it are planned
        assert await journal.plan([NewFx("", duration=1)], validate=False) == 1
        await journal.plan([fx(1, idempotency_key=KEY)])
        with pytest.raises(InvalidRequest, match=r"stands for a job of create\.new_fx") as caught:
            await journal.plan([NewSong("la", prompt="pop", idempotency_key=KEY)])
        assert caught.value.field == "idempotency_key"
        for part in ((0, 3), (4, 3), (1, 0)):
            with pytest.raises(ValueError, match="k from 1 to n"):
                journal.jobs(part=part)


async def test_failed_jobs_are_in_a_part_on_demand(sim: Simulator, tmp_path: Path) -> None:
    """Only ``retry_failed`` sends them again; with a key that follows from the job, or any other."""
    sim.inject(Fault.FAIL)
    async with open_journal(tmp_path) as journal:
        await journal.plan([fx(1)])
    (failed,) = await work(sim, tmp_path, (1, 1))
    assert isinstance(failed, Failed)
    assert await work(sim, tmp_path, (1, 1)) == []
    (again,) = await work(sim, tmp_path, (1, 1), retry_failed=True)
    assert isinstance(again, Succeeded)
    async with open_journal(tmp_path) as journal:
        (job,) = await journal.jobs(JobState.SAVED)
    assert len({failed.request.idempotency_key, job.key}) == len(sim.operations) == 2


async def test_an_output_that_was_planned_is_renewed(
    sim: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The URL in the body may have expired since: the job is the same, and what is sent has another URL."""
    async with Session(settings(sim)) as session, open_journal(tmp_path) as journal:
        (output,) = (await session.run(fx(1))).operation.outputs
        old = attrs.evolve(output, url=f"{output.url}&old=1")
        assert await journal.plan([SeparateStems(old)]) == 1
        (planned,) = await journal.jobs()
    (done,) = await work(sim, tmp_path, (1, 1))
    assert isinstance(done, Succeeded)
    async with open_journal(tmp_path) as journal:
        (job,) = await journal.jobs()
    assert (job.digest, job.source, job.key) == (planned.digest, f"{output.handle}#0", planned.key)
    assert (b"old=1" in planned.body, b"old=1" in job.body) == (True, False)
    assert "another request" not in caplog.text
    assert len(sim.operations) == 2


async def test_a_body_that_is_none_is_named(tmp_path: Path) -> None:
    """The database may be edited with any tool."""
    async with open_journal(tmp_path) as journal:
        await journal.plan([fx(1)])
    await edit_journal(tmp_path, "UPDATE job SET route = 'create.nothing' WHERE state = ?", "planned")
    async with open_journal(tmp_path) as journal:
        with pytest.raises(JournalError, match=r"its body is not a request of create\.nothing|checksum"):
            _ = [request async for request in journal.jobs(part=(1, 1))]
