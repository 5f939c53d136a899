"""The journal in Postgres: who owns a job, and what happens when the database is away."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import attrs
import psycopg
import pytest
from helpers.database_servers import PASSWORD, Server
from helpers.idle import until
from helpers.sample_requests import fx
from helpers.simulation import never_finishes, settings, simulate
from helpers.tracebacks import find

from soundpiece_async import (
    AuthenticationError,
    Failed,
    InsufficientCredits,
    InvalidRequest,
    JobRecord,
    JobState,
    Journal,
    JournalError,
    Request,
    Session,
    Succeeded,
)
from soundpiece_async._core.job_records import Annotation, Failure, JobIdentity
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.requests import Handle, Output
from soundpiece_async._journal import journal as journals
from soundpiece_async._journal import postgres_connection, postgres_schema, postgres_store
from soundpiece_async._journal.postgres_store import PostgresJobStore
from soundpiece_async._journal.store import Part, TakenOver
from soundpiece_async.cli.job_sources import read_planned
from soundpiece_async.cli.results import JobOutcome, ResultCounts
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio

OUTPUT = Output(url="https://out.example.com/a?sig=1", handle=Handle("create.new_fx", "op_1"), index=0)
OPERATION = Operation(route="create.new_fx", id="op_1", status=Status.READY, request=None, outputs=(OUTPUT,))
MANY = 60
"""Jobs that a statement names."""
DATA = Path(__file__).parent / "data"
FAILURE = Failure("CorruptAudio", "", "no FLAC", retryable=True)


@pytest.fixture
def url(journal_database: Server) -> str:
    """The address of a database."""
    return journal_database.url


@pytest.fixture
def run() -> str:
    """The name of a run of the test's own."""
    return uuid4().hex


@pytest.fixture
async def own_database(url: str, run: str) -> str:
    """The address of a database of the test's own."""
    await ask(url, f"CREATE DATABASE run_{run}")
    return url.replace("/postgres", f"/run_{run}")


@pytest.fixture
async def pair(url: str, run: str) -> AsyncIterator[tuple[Journal, Journal]]:
    """Two processes at one run of four jobs, which the second one has taken over from the first."""
    async with Journal.open(url, run=run) as old, Journal.open(url, run=run) as new:
        assert await old.plan(fx(number) for number in range(4)) == 4
        yield old, new


async def ask(url: str, statements: str) -> list[Any]:
    """Execute statements as another program would, and return the rows of the only one that has any."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statements.encode())
        return [] if cursor.description is None else await cursor.fetchall()


async def take(journal: Journal, part: tuple[int, int] = (1, 1)) -> list[JobRecord]:
    """Claim a part, and return its jobs."""
    store, (number, parts) = journal.store, part
    taken = await store.take_part(number % parts, parts, failed=False)
    return await store.read_part(taken, after=0, limit=100)


WRITES: Mapping[str, Callable[[PostgresJobStore, JobRecord], Awaitable[object]]] = {
    "sending": lambda store, job: store.mark_sending(job, now=1.0),
    "unsent": lambda store, job: store.mark_unsent(job),
    "submitted": lambda store, job: store.mark_submitted(job, OPERATION, now=1.0),
    "ready": lambda store, job: store.mark_ready(job, OPERATION, now=1.0),
    "saved": lambda store, job: store.mark_saved(job, OPERATION, (), now=1.0),
    "failed": lambda store, job: store.mark_failed(job, FAILURE, now=1.0),
    "uncertain": lambda store, job: store.mark_uncertain(job, FAILURE),
    "annotated": lambda store, job: store.annotate(job, Annotation("other")),
    "planned": lambda store, job: store.replan_with_new_key(job, digest=b"", key="another", body=b""),
}


@pytest.mark.parametrize("write", WRITES)
async def test_what_was_taken_over_is_not_written(pair: tuple[Journal, Journal], write: str) -> None:
    """The old owner is refused, and nothing of it is in the row; the new one writes; others are as they were."""
    old, new = pair
    mine, *others = await take(old)
    theirs, *_ = await take(new)
    assert theirs == attrs.evolve(mine, taken=theirs.taken)
    with pytest.raises(TakenOver, match="was taken over by another process"):
        await WRITES[write](old.store, mine)
    assert (await new.jobs())[0] == theirs
    await WRITES[write](new.store, theirs)
    changed, *rest = await new.jobs()
    assert changed != theirs or write == "unsent"
    assert [attrs.evolve(job, taken=0) for job in rest] == [attrs.evolve(job, taken=0) for job in others]


async def test_a_group_has_refused_and_written_jobs(pair: tuple[Journal, Journal]) -> None:
    """One statement writes what is owned, and each caller gets its own answer."""
    old, new = pair
    mine = await take(old)
    await take(new, (1, 2))
    outcomes: dict[int, bool] = {}

    async def write(job: JobRecord, kind: str) -> None:
        try:
            await WRITES[kind](old.store, job)
            outcomes[job.number] = True
        except TakenOver:
            outcomes[job.number] = False

    await old.store._group.turn.acquire()
    async with anyio.create_task_group() as group:
        for job, kind in zip(mine, ("sending", "ready", "failed", "annotated"), strict=True):
            group.start_soon(write, job, kind)
        await anyio.sleep(0.01)
        commits = old.store.commits
        old.store._group.turn.release()
    assert outcomes == {job.number: job.number % 2 == 0 for job in mine}
    assert old.store.commits == commits + 1


async def test_a_lower_claim_never_takes_back(pair: tuple[Journal, Journal]) -> None:
    """What a process that came later has is its own, until it is done: then anybody may look at it."""
    old, new = pair
    jobs = await take(new)
    identity = JobIdentity(digest=jobs[0].digest, occurrence=1)
    with pytest.raises(TakenOver):
        await old.store.find(identity)
    mine = Part(part=0, parts=1, failed=False, claim=old.store._claim, jobs=4)
    assert await old.store.read_part(mine, after=0, limit=10) == []
    await new.store.mark_saved(jobs[0], OPERATION, (), now=1.0)
    assert (await old.store.find(identity) or jobs[0]).state is JobState.SAVED
    newest = await take(old)
    assert [job.number for job in newest] == [job.number for job in jobs[1:]]
    with pytest.raises(TakenOver):
        await new.store.mark_sending(jobs[1], now=1.0)


async def test_a_run_whose_jobs_are_taken_over_fails_none_of_them(url: str, run: str, tmp_path: Path) -> None:
    """Each ends as taken over, nothing about it is recorded, and the heir finishes what was paid for."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session, AsyncExitStack() as stack:
        ended: list[Any] = []

        async def work(journal: Journal, results: list[Any]) -> None:
            async with (
                session_of() as own,
                own.run_many(journal.jobs(part=(1, 1)), save_to=tmp_path, journal=journal) as given,
            ):
                results.extend([result async for result in given])

        def session_of() -> Session:
            return Session(settings(sim))

        old = await stack.enter_async_context(Journal.open(url, run=run))
        new = await stack.enter_async_context(Journal.open(url, run=run))
        await old.plan(fx(number) for number in range(3))
        heirs: list[Any] = []
        async with anyio.create_task_group() as group:
            group.start_soon(work, old, ended)
            await until(lambda: len(sim.operations) == 3)
            while await new.count() != {JobState.SUBMITTED: 3}:
                await anyio.sleep(0.01)
            group.start_soon(work, new, heirs)
            while {job.taken for job in await new.jobs()} != {new.store._claim}:
                await anyio.sleep(0.01)
            for operation in sim.operations:
                sim.finish(operation)
        assert [type(result) for result in heirs] == [Succeeded] * 3
        assert all(isinstance(result, Failed) and isinstance(result.error, TakenOver) for result in ended)
        assert len(ended) == 3
        assert await new.count() == {JobState.SAVED: 3}
        assert len(sim.operations) == 3
        assert session.statistics().submitted == 0


async def test_jobs_that_were_taken_over_before_they_were_begun(
    pair: tuple[Journal, Journal], sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends as taken over once what it has begun is done, not as if there were nothing left to do."""
    monkeypatch.setattr(journals, "PAGE", 1)
    old, new = pair
    done: list[type] = []

    async def lose() -> AsyncIterator[tuple[Request, str | None]]:
        """Yield the jobs of the old one, all but the first of which the new one takes over."""
        async for job in old.jobs(part=(1, 1)):
            yield job
            while JobState.SAVED not in await old.count():
                await anyio.sleep(0.01)
            await take(new)

    async with Session(settings(sim)) as session:
        with pytest.raises(TakenOver, match=r"3 jobs of .* were taken over by another process before they were begun"):
            async with session.run_many(lose(), save_to=tmp_path, journal=old) as results:
                done.append(type(await anext(results)))
                await anext(results)
        assert done == [Succeeded]
        async with session.run_many(new.jobs(part=(1, 1)), save_to=tmp_path, journal=new) as results:
            assert [type(result) async for result in results] == [Succeeded] * 3
    assert len(sim.operations) == 4


async def test_a_command_counts_the_jobs_that_it_has_not_begun(pair: tuple[Journal, Journal]) -> None:
    """So it ends by exit status 4 even if it has lost them all before it read one."""
    old, new = pair
    part = await old.take_part(1, 1)
    await take(new, (1, 2))
    totals = ResultCounts(part.jobs)
    read = [job async for job in read_planned(old, part, totals=totals)]
    assert (len(read), totals.outcomes) == (2, {JobOutcome.TAKEN_OVER: 2})


async def test_a_part_without_an_heir_just_ends(pair: tuple[Journal, Journal]) -> None:
    """Whatever this process itself has done to its jobs meanwhile, in another part or by the requests."""
    journal, _ = pair
    part = await journal.take_part(1, 1)
    jobs = await take(journal)
    await journal.store.mark_failed(jobs[0], FAILURE, now=1.0)
    assert [job async for _, job in journal.read_part(part)] == []
    part = await journal.take_part(1, 1)
    for job in await journal.jobs("planned"):
        await journal.store.mark_failed(job, FAILURE, now=1.0)
    assert part.jobs == 3
    assert [job async for _, job in journal.read_part(part)] == []


async def test_keys_follow_from_the_run(pair: tuple[Journal, Journal], url: str, sim: Simulator) -> None:
    """Any process makes the same key of a job; another run, occurrence or attempt has another one."""
    old, new = pair
    identity = JobIdentity(digest=b"1", occurrence=1)
    others = [
        attrs.evolve(identity, occurrence=2),
        attrs.evolve(identity, digest=b"2"),
        JobIdentity(digest=b"1", key="1"),
    ]
    key = old.store.make_key(identity)
    assert new.store.make_key(identity) == key
    keys = {key, *(old.store.make_key(other) for other in others), old.store.make_key(identity, attempt=1)}
    async with Journal.open(url, run=uuid4().hex) as another:
        keys.add(another.store.make_key(identity))
    assert len(keys) == 6
    jobs = await old.jobs()
    assert [job.key for job in jobs] == [
        str(old.store.make_key(JobIdentity(digest=job.digest, occurrence=1))) for job in jobs
    ]
    await old.store.mark_failed((await take(old))[0], FAILURE, now=1.0)
    failed = (await old.jobs("failed"))[0]
    async with Session(settings(sim)) as session, Journal.open(url, run=old.run, retry_failed=True) as journal:
        async with session.run_many([fx(0)], journal=journal) as results:
            assert [type(result) async for result in results] == [Succeeded]
    (again,) = [job for job in await old.jobs() if job.number == failed.number]
    assert (again.attempt, again.key) == (
        1,
        str(old.store.make_key(JobIdentity(digest=failed.digest, occurrence=1), attempt=1)),
    )


async def test_two_processes_write_the_same_new_job_down(
    url: str, run: str, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one finds what the first one has written meanwhile, with the key that both make."""
    async with Session(settings(sim)) as session, Journal.open(url, run=run) as old, Journal.open(url, run=run) as new:
        prepare = session._engine.prepare

        async def be_late(request: Request) -> bytes:
            await old.plan([fx(1)])
            return await prepare(request)

        monkeypatch.setattr(session._engine, "prepare", be_late)
        async with session.run_many([fx(1)], journal=new) as results:
            assert [type(result) async for result in results] == [Succeeded]
        assert await old.count() == {JobState.READY: 1}


async def test_names_are_given_once_to_many_at_a_time(url: str, run: str) -> None:
    """Also by one statement: each job gets a name of its own."""
    async with Journal.open(url, run=run) as journal:
        await journal.plan((fx(number), "take") for number in range(5))
        jobs, titles = await take(journal), []

        async def write(job: JobRecord) -> None:
            titles.append(await journal.store.mark_ready(job, OPERATION, now=1.0))

        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(write, job)
        assert sorted(titles) == ["take", "take-2", "take-3", "take-4", "take-5"]
        renamed = await journal.store.annotate((await journal.jobs())[0], Annotation("other"))
        assert renamed.title is None
        assert await journal.store.mark_ready(renamed, OPERATION, now=1.0) == "other"


async def test_missing_files_make_a_job_unfinished(url: str, run: str, sim: Simulator, tmp_path: Path) -> None:
    """An object that is not there any more is fetched by the next one who takes the part."""
    async with Session(settings(sim)) as session, Journal.open(url, run=run) as journal:
        await journal.plan([fx(1)])
        async with session.run_many(journal.jobs(part=(1, 1)), save_to=tmp_path, journal=journal) as results:
            assert [type(result) async for result in results] == [Succeeded]
        (job,) = await journal.jobs()
        assert await take(journal) == []
        files = tuple(attrs.evolve(file, missing=True) for file in job.files)
        await journal.store.mark_verified(job.number, files, ended_at=0.0)
        assert await take(journal) == []
        await journal.store.mark_verified(job.number, files, ended_at=job.ended_at)
        assert [one.files for one in await take(journal)] == [files]


async def test_jobs_are_found_by_an_index(own_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a run that came after the statistics: no statement reads all jobs for each that it names."""
    read: list[tuple[str, int]] = []
    fetch = postgres_connection.PostgresConnection.fetch

    async def explain(self: Any, statement: str, values: Any, **how: Any) -> Any:
        if "soundpiece_job" in statement and "DO $$" not in statement and "IS NOT NULL AS made" not in statement:
            await fetch(self, "BEGIN", {})
            ((plan,),) = [
                row.values() for row in await fetch(self, f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
            ]
            await fetch(self, "ROLLBACK", {})
            read.append((statement, _count_rows(plan[0]["Plan"])))
        return await fetch(self, statement, values, **how)

    async with Journal.open(own_database, run="old") as old, Journal.open(own_database, run="new") as new:
        await old.plan(fx(number) for number in range(1500))
        await ask(own_database, "ANALYZE")
        await new.plan(fx(number) for number in range(1000))
        monkeypatch.setattr(postgres_connection.PostgresConnection, "fetch", explain)
        for journal in (old, new):
            await journal.plan((fx(number), f"take {number}") for number in range(1500, 1500 + MANY))
            planned = (await journal.jobs(after=2500, limit=1000))[-MANY:]
            identities = [JobIdentity(digest=job.digest, occurrence=1) for job in planned]
            await journal.store.find_states(identities, now=0.0)
            jobs = await gather([partial(journal.store.find, identity) for identity in identities])
            for kind in WRITES.keys() - {"planned"}:
                await gather([partial(WRITES[kind], journal.store, job) for job in jobs])
    assert len(read) > 20
    assert [(statement, rows) for statement, rows in read if rows > 3 * (1500 + 1000 + 2 * MANY)] == []


async def test_the_server_compiles_no_plan(url: str, run: str) -> None:
    """It would take longer than all that a process does to open a run."""
    async with Journal.open(url, run=run) as journal:
        explained = await journal.store._fetch("EXPLAIN (ANALYZE, FORMAT JSON) SELECT version FROM soundpiece_schema")
    ((plan,),) = explained[0].values()
    assert "Plan" in plan
    assert "JIT" not in plan


def _count_rows(plan: Mapping[str, Any]) -> int:
    """Return how many rows of tables a step of a plan, and those below it, have looked at."""
    looked_at = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
    looked_at += plan["Actual Rows"] * ("Relation Name" in plan)
    return int(plan["Actual Loops"] * looked_at + sum(_count_rows(one) for one in plan.get("Plans", ())))


async def gather(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Call many at a time, as the jobs of a run do."""
    results: list[Any] = [None] * len(calls)

    async def keep(position: int) -> None:
        results[position] = await calls[position]()

    async with anyio.create_task_group() as group:
        for position in range(len(calls)):
            group.start_soon(keep, position)
    return results


async def test_a_paused_process_holds_no_locks(
    pair: tuple[Journal, Journal], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is paused while it is sent more than fits on the way: the server ends its connection."""
    assert "tcp_user_timeout = 5000" in postgres_store.SETTINGS
    monkeypatch.setattr(postgres_store, "SETTINGS", postgres_store.SETTINGS.replace("5000", "300"))
    heir, _ = pair
    async with Journal.open(url, run=heir.run) as paused:
        connection = paused.store._database._connection.pgconn
        connection.send_query(b"UPDATE soundpiece_job SET taken = taken RETURNING repeat('x', 10000000)")
        connection.flush()
        with anyio.fail_after(30):
            await anyio.wait_readable(connection.socket)
            assert len(await take(heir)) == 4
        with pytest.raises(JournalError, match="nothing more is sent"):
            await paused.count()


async def test_a_deadlock_is_tried_again(pair: tuple[Journal, Journal], monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ended the statement; nothing of it happened."""
    store = pair[0].store._database
    execute, failures = store._execute, [psycopg.errors.DeadlockDetected(), psycopg.errors.SerializationFailure()]

    async def fail(*words: Any) -> Any:
        if failures:
            raise failures.pop()
        return await execute(*words)

    monkeypatch.setattr(store, "_execute", fail)
    assert await pair[0].count() == {JobState.PLANNED: 4}
    assert failures == []


async def test_what_cannot_be_opened_is_named(url: str, run: str) -> None:
    """The database, the run, the name of the run; and never the password."""
    with pytest.raises(InvalidRequest, match="needs the name of its run") as caught:
        Journal.open(url)
    assert find(caught.value, PASSWORD) == find(caught.value, "open%20sesame") == []
    with pytest.raises(InvalidRequest, match="this is a folder"):
        Journal.open("folder", run=run)
    with pytest.raises(JournalError, match=r"has no (run called|journal)"):
        await Journal.open(url, run=run, read_only=True)
    wrong = {
        "password authentication failed": url.replace("sesame", "barley"),
        "does not exist": url.replace("/postgres", "/nowhere"),
        "refused": "postgresql://soundpiece:open%20sesame@127.0.0.1:1/postgres",
        "invalid": f"{url}?nonsense=1",
    }
    for told, address in wrong.items():
        with pytest.raises(JournalError, match=told) as failed:
            await Journal.open(address, run=run)
        for secret in (PASSWORD, "open%20sesame", "barley"):
            assert find(failed.value, secret) == []
    async with Journal.open(url, run=run) as journal:
        with pytest.raises(JournalError, match="is in no folder"):
            _ = journal.folder
        assert PASSWORD not in repr(journal)
        assert "open%20sesame" not in f"{journal!r}{journal.where}"
    with pytest.raises(JournalError, match="is not open"):
        await journal.count()


async def test_only_the_servers_clock_counts(url: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose own clock is wrong holds nothing for uncertain, and records no wrong time."""
    monkeypatch.setattr("time.time", lambda: 0.0)
    async with Journal.open(url, run=run) as journal:
        store = journal.store
        ((clock,),) = [
            row.values() for row in await store._fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        ]
        assert abs(store.now - clock) < 60
        await journal.plan([fx(1)])
        (job,) = await take(journal)
        await store.mark_sending(job, now=store.now)
        assert await journal.count() == {JobState.SENDING: 1}
    with pytest.raises(JournalError, match="is closed"):
        await store.count(now=store.now)


async def test_a_database_without_a_journal_is_named(own_database: str, run: str) -> None:
    """Nothing is made by reading."""
    with pytest.raises(JournalError, match="has no journal"):
        await Journal.open(own_database, run=run, read_only=True)
    async with Journal.open(own_database, run=run) as journal:
        assert await journal.count() == {}


async def test_a_newer_schema_is_refused(own_database: str) -> None:
    """Nothing is changed: not even a run is added."""
    async with Journal.open(own_database, run="album") as journal:
        await journal.store._fetch("UPDATE soundpiece_schema SET version = 999")
    for run, read_only in (("album", True), ("album", False), ("another", False)):
        with pytest.raises(JournalError, match=r"newer version of soundpiece_async \(schema 999, this one knows"):
            await Journal.open(own_database, run=run, read_only=read_only)
    assert await ask(own_database, "SELECT name FROM soundpiece_run") == [("album",)]


async def test_an_older_schema_is_migrated_once(
    own_database: str, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process does it while the others wait; then it is as a new one, and the run keeps its keys."""
    last = postgres_schema.MIGRATIONS[-1]
    marked = f"{last} CREATE TABLE made_once (number int); PERFORM pg_sleep(0.2);"
    monkeypatch.setattr(postgres_store, "MIGRATE", postgres_schema.MIGRATE.replace(last, marked))
    await ask(own_database, (DATA / "journal-postgres-1.sql").read_text(encoding="utf-8"))
    before = dict(await ask(own_database, "SELECT number, key FROM soundpiece_job"))
    with pytest.raises(JournalError, match="must be migrated first"):
        await Journal.open(own_database, run="album", read_only=True)
    journals = [Journal.open(own_database, run="album") for _ in range(4)]
    async with anyio.create_task_group() as group:
        for journal in journals:
            group.start_soon(journal.__aenter__)
    try:
        jobs = await journals[0].jobs()
        assert [job.state for job in jobs] == [JobState.SAVED, JobState.SAVED, JobState.PLANNED, JobState.PLANNED]
        assert {job.number: job.key for job in jobs} == before
        assert (await journals[0].store.look_over(now=0.0, since=0.0)).verified == {"": 1, "header": 1}
        assert await journals[1].plan(fx(number) for number in range(1, 6)) == 1
        requests = journals[2].jobs(part=(1, 1))
        async with Session(settings(sim)) as session:
            async with session.run_many(requests, save_to=tmp_path, journal=journals[2]) as results:
                done = [result async for result in results]
        assert {result.request.idempotency_key for result in done} >= {before[3], before[4]}
        assert await journals[3].count() == {JobState.SAVED: 5}
    finally:
        for journal in journals:
            await journal.aclose()
    async with Journal.open(own_database, run="album", read_only=True) as journal:
        assert (await journal.store.look_over(now=0.0, since=0.0)).verified == {"": 1, "header": 4}


async def test_a_migrated_schema_is_that_of_a_new_database(own_database: str, url: str, run: str) -> None:
    """Tables, columns and indexes are the same; their order may differ."""
    await ask(own_database, (DATA / "journal-postgres-1.sql").read_text(encoding="utf-8"))
    shapes = []
    for address in (own_database, url):
        async with Journal.open(address, run=run):
            columns = await ask(
                address,
                "SELECT table_name, column_name, data_type, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_name LIKE 'soundpiece%'",
            )
            indexes = await ask(address, "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'soundpiece%'")
            shapes.append((set(columns), set(indexes), await ask(address, "SELECT version FROM soundpiece_schema")))
    assert shapes[0] == shapes[1]
    assert shapes[0][2] == [(postgres_schema.VERSION,)]


async def test_without_the_extra_the_error_names_it(url: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    spec = importlib.util.find_spec
    monkeypatch.setattr(
        "soundpiece_async._journal.journal.find_spec", lambda name: None if name == "psycopg" else spec(name)
    )
    with pytest.raises(JournalError, match=r"soundpiece-async\[postgres\]"):
        await Journal.open(url, run=run)


async def test_a_refusal_stops_every_process_and_is_tried_by_one_job(url: str, run: str, tmp_path: Path) -> None:
    """402 stops all, 401 those with that key; a later process sends one job, and the others once it is accepted."""
    async with simulate(credits=2) as sim, Session(settings(sim)) as session, AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(Journal.open(url, run=run)) for _ in range(3)]
        await opened[0].plan(fx(number) for number in range(8))

        async def work(journal: Journal, part: tuple[int, int], **how: Any) -> list[type]:
            jobs = journal.jobs(part=part)
            async with session.run_many(jobs, save_to=tmp_path, journal=journal, max_in_flight=1, **how) as results:
                return [type(result.error if isinstance(result, Failed) else result) async for result in results]

        def puts() -> int:
            return sum(request.method == "PUT" for request in sim.log)

        assert await work(opened[0], (1, 2)) == [Succeeded, Succeeded, InsufficientCredits, InsufficientCredits]
        sent = puts()
        assert await work(opened[1], (2, 2)) == [InsufficientCredits] * 4
        assert puts() == sent
        assert await opened[0].count() == {JobState.SAVED: 2, JobState.PLANNED: 6}
        late = await stack.enter_async_context(Journal.open(url, run=run))
        jobs = late.jobs(part=(1, 1))
        async with session.run_many(jobs, save_to=tmp_path, journal=late) as results:
            assert [type(result.error) async for result in results] == [InsufficientCredits] * 6
        assert puts() == sent + 1
        sim.top_up(6)
        last = await stack.enter_async_context(Journal.open(url, run=run))
        assert await work(last, (1, 1)) == [Succeeded] * 6
        assert (await late.store._fetch("SELECT refusal FROM soundpiece_run WHERE run = %(run)s")) == [
            {"refusal": None}
        ]
        assert len(sim.operations) == 8


async def test_a_refused_key_stops_those_who_have_it(url: str, run: str, sim: Simulator) -> None:
    """Another key of the account may be all right."""
    async with (
        Journal.open(url, run=run) as one,
        Journal.open(url, run=run) as two,
        Journal.open(url, run=run) as three,
    ):
        await one.plan(fx(number) for number in range(6))

        async def work(journal: Journal, part: tuple[int, int], **changes: Any) -> list[type]:
            async with Session(settings(sim, **changes)) as session:
                async with session.run_many(journal.jobs(part=part), journal=journal, max_in_flight=1) as results:
                    return [type(result.error if isinstance(result, Failed) else result) async for result in results]

        assert await work(one, (1, 3), api_key="spk_wrong") == [AuthenticationError] * 2
        assert await work(two, (2, 3)) == [Succeeded] * 2
        sent = len(sim.log)
        assert await work(three, (3, 3), api_key="spk_wrong") == [AuthenticationError] * 2
        assert len(sim.log) == sent
        assert "spk_wrong" not in str(await one.store._fetch("SELECT * FROM soundpiece_run"))


async def test_a_key_refused_to_a_worker_that_only_polls_stops_those_who_send(
    url: str, run: str, tmp_path: Path
) -> None:
    """It says so for all, though it sends nothing; one that only polls need not know: its polls will be rejected."""
    async with (
        simulate(durations=never_finishes) as sim,
        Journal.open(url, run=run) as sender,
        Journal.open(url, run=run) as poller,
        Journal.open(url, run=run) as finisher,
    ):
        await sender.plan(fx(number) for number in range(4))
        sent: list[JobRecord] = []

        async def work(journal: Journal, part: tuple[int, int], **changes: Any) -> list[type]:
            async with Session(settings(sim, **changes)) as session:
                async with session.run_many(journal.jobs(part=part), save_to=tmp_path, journal=journal) as results:
                    return [type(result.error if isinstance(result, Failed) else result) async for result in results]

        async with anyio.create_task_group() as group:
            group.start_soon(work, sender, (1, 2))
            while not sent:
                sent = await sender.jobs("submitted")
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        revoked = {"api_key": "spk_revoked"}
        assert await work(poller, (1, 2), **revoked) == [AuthenticationError] * 2
        puts = sum(request.method == "PUT" for request in sim.log)
        assert await work(sender, (2, 2), **revoked) == [AuthenticationError] * 2
        assert sum(request.method == "PUT" for request in sim.log) == puts
        for operation in sim.operations:
            sim.finish(operation)
        assert await work(finisher, (1, 2)) == [Succeeded] * 2
        assert await sender.count() == {JobState.SAVED: 2, JobState.PLANNED: 2}


async def test_a_crash_of_the_database_ends_the_run_and_loses_nothing(
    postgres: Server, run: str, tmp_path: Path
) -> None:
    """Nothing more is sent; the engine repeats the part, and what was paid for is finished."""
    async with simulate(durations=never_finishes) as sim, Session(settings(sim)) as session:
        async with Journal.open(postgres.url, run=run) as journal:
            await journal.plan(fx(number) for number in range(12))
            with pytest.raises(JournalError, match="nothing more is sent") as caught:
                async with session.run_many(
                    journal.jobs(part=(1, 1)), save_to=tmp_path, journal=journal, max_in_flight=3
                ) as results:
                    await until(lambda: len(sim.operations) == 3)
                    postgres.kill()
                    for operation in sim.operations:
                        sim.finish(operation)
                    _ = [result async for result in results]
            assert await journal.store.find_loss() is not None
            assert find(caught.value, PASSWORD) == []
            assert find(caught.value, "sig=") == []
        assert len(sim.operations) == 3
        postgres.start()
        async with Journal.open(postgres.url, run=run) as journal:
            finish = partial(_finish_all, sim)
            async with (
                anyio.create_task_group() as group,
                session.run_many(journal.jobs(part=(1, 1)), save_to=tmp_path, journal=journal) as results,
            ):
                group.start_soon(finish)
                assert [type(result) async for result in results] == [Succeeded] * 12
                group.cancel_scope.cancel()
            assert await journal.count() == {JobState.SAVED: 12}
        assert len(sim.operations) == len({request.key for request in sim.log if request.method == "PUT"}) == 12


async def _finish_all(sim: Simulator) -> None:
    """Finish every operation once it exists."""
    done: set[str] = set()
    while True:
        for operation in set(sim.operations) - done:
            done.add(operation)
            sim.finish(operation)
        await anyio.sleep(0.01)


async def test_a_silent_database_counts_as_away(postgres: Server, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that is not answered in time ends the connection."""
    async with Journal.open(postgres.url, run=run) as journal:
        monkeypatch.setattr(postgres_connection, "ANSWER_SECONDS", 0.3)
        postgres.pause()
        try:
            with pytest.raises(JournalError, match="nothing more is sent"):
                await journal.count()
        finally:
            postgres.resume()
        with pytest.raises(JournalError, match="nothing more is sent"):
            await journal.count()
