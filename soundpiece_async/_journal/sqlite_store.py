"""The journal of a run in a SQLite file, written by one process: many callers at a time, one transaction for all.

The rules are those of ``store``; what the file itself needs is in ``database``.
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import job_records
from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.job_records import (
    NO_ANNOTATION,
    Annotation,
    Failure,
    FileRecord,
    JobIdentity,
    JobRecord,
    JobState,
)
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._journal.database import Database, Step
from soundpiece_async._journal.group_commit import GroupCommit
from soundpiece_async._journal.sqlite_rows import (
    IN_PART,
    INSERT,
    STATE,
    fetch,
    free_titles,
    look_over,
    read_record,
    seal,
    seal_text,
    select,
    write_planned,
    write_ready,
)
from soundpiece_async._journal.store import (
    Overview,
    Part,
    PlannedJob,
    Refusal,
    WaitStats,
    check_route,
    lock_of,
    read_counts,
    read_members,
    replace_surrogates,
)
from soundpiece_async._lifetime import run_shielded
from soundpiece_async._locks import KeyedLocks, LockQueue

T = TypeVar("T")


class SqliteStore:
    """A ``JobStore`` in a file.

    Args:
        database: the file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = anyio.CapacityLimiter(1)
        self._at_work = KeyedLocks()
        self._group: GroupCommit[Step] = GroupCommit(self._commit, self._at_work)
        self.progress: Counter[JobState] = Counter()
        self.refusal: Refusal | None = None
        self.submits = 1

    def __repr__(self) -> str:
        return f"<SqliteStore {self._database!r} {self._group!r}>"

    @property
    def commits(self) -> int:
        """Transactions so far."""
        return self._database.commits

    @property
    def now(self) -> float:
        """This machine's clock."""
        return time.time()

    def make_key(self, identity: JobIdentity, *, attempt: int = 0) -> None:
        """Return None: one process works here, so any new key will do."""

    def lock(self, identity: JobIdentity) -> AbstractAsyncContextManager[LockQueue]:
        """Wait until no other task works on this job."""
        return self._at_work.acquire(lock_of(identity))

    async def find(self, identity: JobIdentity) -> JobRecord | None:
        """Look a job up; a key that was given wins over everything else the request says."""
        condition, values = select(identity)
        rows = await self.query(f"SELECT * FROM job WHERE {condition}", values)
        return read_record(rows[0]) if rows else None

    async def find_states(self, identities: Sequence[JobIdentity], *, now: float) -> list[JobState | None]:
        """Return the state of each of many jobs, or None where there is no such job."""

        def look(connection: sqlite3.Connection, identity: JobIdentity) -> JobState | None:
            condition, values = select(identity)
            rows = fetch(connection, f"SELECT {STATE} FROM job WHERE {condition}", {**values, "now": now})
            return JobState(rows[0][0]) if rows else None

        return await self._execute(lambda connection: [look(connection, identity) for identity in identities])

    async def insert(
        self, identity: JobIdentity, *, key: str, route: str, body: bytes, annotation: Annotation = NO_ANNOTATION
    ) -> JobRecord | None:
        """Write a new job down, or return None if another one has this key."""
        checksum = seal(identity.digest, key, route, body)
        values = (identity.digest, identity.occurrence, key, route, body, checksum, *annotation.as_row())
        return await self._read(INSERT, *values)

    async def plan(self, jobs: Sequence[PlannedJob]) -> int:
        """Record many jobs in one transaction."""
        routes = await self._execute(lambda connection: [write_planned(connection, job) for job in jobs])
        for job, route in zip(jobs, routes, strict=True):
            check_route(job.key, wanted=job.route, known=route or job.route)
        return routes.count(None)

    async def take_part(self, part: int, parts: int, *, failed: bool) -> Part:
        """Return a part whose claim has no meaning: the folder's lock keeps other processes out."""
        values = {"part": part, "parts": parts, "failed": failed}
        ((jobs,),) = await self.query(f"SELECT count(*) FROM job WHERE {IN_PART}", values)
        return Part(part=part, parts=parts, failed=failed, claim=0, jobs=jobs)

    async def read_part(self, part: Part, *, after: int, limit: int) -> list[JobRecord]:
        """Return jobs of a part."""
        query = f"SELECT * FROM job WHERE {IN_PART} AND number > :after ORDER BY number LIMIT :limit"
        values = {**attrs.asdict(part), "after": after, "limit": limit}
        return [read_record(row) for row in await self.query(query, values)]

    async def was_taken_over(self, part: Part) -> bool:  # noqa: ARG002 - as the protocol has it
        """Return False: the folder's lock keeps other processes out."""
        return False

    async def annotate(self, job: JobRecord, annotation: Annotation) -> JobRecord:
        """Record another name, line or other metadata; a name that no file was saved under yet is free again."""
        title = job.title if job.files or annotation.name == job.name else None

        def write(connection: sqlite3.Connection) -> None:
            values = (*annotation.as_row(), job.number)
            connection.execute("UPDATE job SET name = ?, metadata = ?, line = ?, source = ? WHERE number = ?", values)
            if title is None:
                free_titles(connection, number=job.number)

        await self._execute(write)
        return annotation.put_on(job, title=title)

    async def free_titles(self) -> None:
        """Free the names of jobs that failed and have no files."""
        await self._execute(free_titles)

    async def replan_with_new_key(self, job: JobRecord, *, digest: bytes, key: str, body: bytes) -> JobRecord:
        """Plan a job that failed anew, with a new key; the old one still finds it."""
        renewed = await self._read(
            "UPDATE job SET state = 'planned', given_key = coalesce(given_key, key), digest = ?, key = ?, body = ?, "
            "seal = ?, operation_seal = NULL, "
            "sent_at = NULL, operation = NULL, created_at = NULL, echo_differences = NULL, submitted_at = NULL, "
            "ended_at = NULL, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL "
            "WHERE number = ? RETURNING *",
            *(digest, key, body, seal(digest, key, job.route, body), job.number),
        )
        return renewed or job

    async def mark_sending(self, job: JobRecord, *, now: float) -> None:
        """Record that a PUT is about to leave, so that whatever happens its key is known; ``now`` since 1970.

        The time of the first one stays: since then the service may have been remembering the key, or forgetting it.

        Raises:
            JournalError: the file is not where it was, so nothing may be sent; it stops the run.
        """

        def write(connection: sqlite3.Connection) -> JournalError | None:
            loss = self._database.find_loss()
            if loss is None:
                statement = "UPDATE job SET state = 'sending', sent_at = coalesce(sent_at, ?) WHERE number = ?"
                connection.execute(statement, (now, job.number))
            return loss

        if (loss := await self._execute(write, durable=True, submits=self.submits)) is not None:
            raise loss

    async def set_refusal(self, refusal: Refusal | None) -> None:
        """Do nothing: no other process works here."""

    async def find_loss(self) -> JournalError | None:
        """Return why the next run will not find this record, or None: it will."""
        return await self._execute(lambda _: self._database.find_loss())

    async def mark_unsent(self, job: JobRecord) -> None:
        """Record that nothing came of the PUT, for certain: every one was refused, or none has left."""
        await self._change(job, "state = 'planned', sent_at = NULL")

    async def mark_submitted(self, job: JobRecord, operation: AnyOperation, *, now: float) -> None:
        """Record which operation a job became; from now on nothing is submitted for it."""
        created = operation.created_at.isoformat() if operation.created_at else None
        echoes = json.dumps(operation.echo_differences) if operation.echo_differences else None
        changes = (
            "state = 'submitted', operation = ?, operation_seal = ?, created_at = ?, echo_differences = ?, "
            "submitted_at = ?, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL"
        )
        values = (operation.id, seal_text(operation.id), created, echoes, now)
        await self._change(job, changes, *values, durable=True)

    async def mark_ready(
        self, job: JobRecord, operation: AnyOperation, *, now: float, named: bool = True
    ) -> str | None:
        """Record the outputs, with the numbers they have from now on; returns the title of their files."""
        return await self._execute(lambda connection: write_ready(connection, job, operation, now, named=named))

    async def mark_saved(
        self, job: JobRecord, operation: AnyOperation, files: tuple[FileRecord, ...], *, now: float
    ) -> None:
        """Record the files; an earlier failure to download them is over."""
        outputs = job_records.unsign_outputs(job_records.write_outputs(operation.outputs))
        changes = (
            "state = 'saved', outputs = ?, outputs_seal = ?, files = ?, ended_at = ?, "
            "error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL"
        )
        await self._change(job, changes, outputs, seal_text(outputs), job_records.write_files(files), now)

    async def mark_verified(self, number: int, files: tuple[FileRecord, ...], *, ended_at: float | None) -> None:
        """Record the checks that the files of a job have passed, unless others were saved after ``ended_at``."""
        statement = "UPDATE job SET files = ? WHERE number = ? AND state = 'saved' AND ended_at IS ?"
        values = (job_records.write_files(files), number, ended_at)
        await self._execute(lambda connection: connection.execute(statement, values))

    async def mark_failed(self, job: JobRecord, failure: Failure, *, now: float) -> None:
        """Record why a job failed for good."""
        changes = "state = 'failed', error_kind = ?, error_code = ?, error_text = ?, retryable = ?, ended_at = ?"
        values = (
            failure.kind,
            replace_surrogates(failure.code),
            replace_surrogates(failure.text),
            failure.retryable,
            now,
        )
        await self._change(job, changes, *values)

    async def mark_uncertain(self, job: JobRecord, failure: Failure) -> None:
        """Record that the service knows no such operation (rule 4 of ``job_records``); its id stays."""
        changes = "state = 'uncertain', error_kind = ?, error_code = ?, error_text = ?, retryable = ?"
        values = (failure.kind, replace_surrogates(failure.code), replace_surrogates(failure.text), failure.retryable)
        await self._change(job, changes, *values)

    async def save_run_info(self, **members: JsonValue) -> None:
        """Record what the next run has to know of this one, as JSON; what has that name goes."""
        rows = [(name, json.dumps(value)) for name, value in members.items()]
        statement = "INSERT OR REPLACE INTO run (member, value) VALUES (?, ?)"
        await self._execute(lambda connection: connection.executemany(statement, rows))

    async def load_run_info(self, *names: str) -> JsonObject:
        """Return what was kept, of these names, or all."""
        wanted = "json_array_length(:names) = 0 OR member IN (SELECT value FROM json_each(:names))"
        rows = await self.query(f"SELECT member, value FROM run WHERE {wanted}", {"names": json.dumps(names)})
        return read_members([tuple(row) for row in rows])

    async def count(self, *, now: float) -> dict[JobState, int]:
        """Count the jobs in each state; ``now`` in seconds since 1970."""
        rows = await self.query(f"SELECT {STATE}, count(*) FROM job GROUP BY 1", {"now": now})
        return read_counts([tuple(row) for row in rows])

    async def jobs(self, state: JobState | None, *, now: float, after: int, limit: int) -> list[JobRecord]:
        """Return jobs in a state, or in any, in the order they were planned, those behind the number ``after``."""
        wanted = f"(:state IS NULL OR {STATE} = :state) AND number > :after"
        query = f"SELECT * FROM job WHERE {wanted} ORDER BY number LIMIT :limit"
        rows = await self.query(query, {"state": state, "now": now, "limit": limit, "after": after})
        return [read_record(row) for row in rows]

    async def query(self, statement: str, values: Mapping[str, object]) -> list[sqlite3.Row]:
        """Return the rows that a statement finds."""
        return await self._execute(lambda connection: fetch(connection, statement, values))

    async def run_in_thread(self, call: Callable[[], T]) -> T:
        """Call something quick that blocks, off the event loop, together with what else is waiting."""

        def attempt(_: sqlite3.Connection) -> tuple[T | None, Exception | None]:
            try:
                return call(), None
            except Exception as error:  # noqa: BLE001 - raised below: it is this caller's, and not the transaction's
                return None, error

        result, error = await self._execute(attempt)
        if error is not None:
            raise error
        return cast("T", result)

    async def count_lines(self) -> int:
        """Count the lines of the jobs file that jobs were made of."""
        (row,) = await self.query("SELECT count(DISTINCT line) FROM job", {})
        return int(row[0])

    async def measure_waits(self) -> dict[str, WaitStats]:
        """Return how long the operations of each route took, as far as any are known."""
        rows = await self.query(
            "SELECT route, count(*), avg(ready_at - submitted_at), max(ready_at - submitted_at) FROM job "
            "WHERE ready_at > submitted_at GROUP BY route",
            {},
        )
        return {route: WaitStats(number, mean, longest) for route, number, mean, longest in rows}

    async def look_over(self, *, now: float, since: float) -> Overview:
        """Count the jobs of the run; times in seconds since 1970."""
        return await self._execute(partial(look_over, now=now, since=since))

    async def close(self) -> None:
        """Close the file, once what was begun is written."""
        await run_shielded(self._wait_and_close)

    async def _wait_and_close(self) -> None:
        async with self._group.turn:
            await anyio.to_thread.run_sync(self._database.close, limiter=self._threads)

    async def _read(self, statement: str, *values: object) -> JobRecord | None:
        row = await self._execute(lambda connection: fetch(connection, statement, values))
        return None if not row else read_record(row[0])

    async def _change(self, job: JobRecord, changes: str, *values: object, durable: bool = False) -> None:
        statement = f"UPDATE job SET {changes} WHERE number = ?"
        await self._execute(lambda connection: connection.execute(statement, (*values, job.number)), durable=durable)

    async def _execute(self, step: Callable[[sqlite3.Connection], T], *, durable: bool = False, submits: int = 0) -> T:
        return cast("T", await self._group.execute(step, durable=durable, submits=submits))

    async def _commit(self, steps: list[Step], durable: bool) -> list[Any]:  # noqa: FBT001 - as a group is written
        return await anyio.to_thread.run_sync(
            partial(self._database.commit, steps, durable=durable), limiter=self._threads
        )
