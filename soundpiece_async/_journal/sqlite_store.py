"""The journal's pages: reads and writes jobs, many callers at a time, one transaction for all that wait.

1. A call returns when what it wrote is committed. While one transaction is on its way to the disk, what comes in is
   collected for the next: alone, a caller waits for nobody; a thousand cost one transaction. The more jobs are at
   work, the longer it is collected (``GROUP_COMMIT_INTERVAL``): a job among a thousand takes many seconds anyway.
2. Once begun, a transaction is seen through, whoever is cancelled: it is the others' as well.
3. One task at a time works on a job.
"""

import json
import math
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import chain
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import job_records
from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.filenames import file_names, find_free, number_title, safe_stem
from soundpiece_async._core.job_records import (
    FORGOTTEN_AFTER,
    UNLABELLED,
    Failure,
    FileRecord,
    JobIdentity,
    JobRecord,
    JobState,
    Label,
)
from soundpiece_async._core.operations import Operation
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.redaction import redact_message
from soundpiece_async._journal.database import Database, Step
from soundpiece_async._locks import Locks, Queue
from soundpiece_async._shielding import see_through

_TYPES: dict[str, Any] = {
    **dict.fromkeys(("digest", "body"), bytes),
    **dict.fromkeys(("key", "route"), str),
    **dict.fromkeys(("operation", "created_at", "outputs", "files", "name", "title", "metadata"), str | None),
    "echo_differences": str | None,
    **dict.fromkeys(("error_kind", "error_code", "error_text"), str | None),
    "line": int | None,
    **dict.fromkeys(("sent_at", "submitted_at", "ready_at", "ended_at"), float | int | None),
}


def replace_surrogates(text: str) -> str:
    """Take out halves of surrogate pairs, which JSON may bring and no database takes."""
    return text.encode(errors="replace").decode()


def seal(digest: bytes, key: str, route: str, body: bytes) -> int:
    """Return the checksum of what is sent: a damaged bit of it would be another request, or another key."""
    return zlib.crc32(b"\0".join((digest, key.encode(errors="replace"), route.encode(errors="replace"), body)))


def seal_text(text: str) -> int:
    """Return the checksum of an operation's id, or of its outputs: with a damaged one, what was paid for is lost."""
    return zlib.crc32(text.encode(errors="replace"))


def read_job(row: sqlite3.Row) -> JobRecord:
    """Make a job of its row; what is in the file may have been edited, or damaged.

    Raises:
        JournalError: it cannot be understood, or is not what was written.
    """
    try:
        _check_types(row)
        _check_seals(row)
        operation = row["operation"]
        outputs, files, kind, metadata = row["outputs"], row["files"], row["error_kind"], row["metadata"]
        return JobRecord(
            number=row["number"],
            digest=row["digest"],
            key=row["key"],
            route=row["route"],
            body=row["body"],
            state=JobState(row["state"]),
            sent_at=row["sent_at"],
            operation=operation,
            created_at=job_records.read_time(row["created_at"]),
            echo_differences=tuple(map(str, json.loads(row["echo_differences"] or "[]"))),
            outputs=job_records.read_outputs(outputs, handle=Handle(row["route"], operation)) if outputs else (),
            files=job_records.read_files(files) if files else (),
            failure=Failure(kind, row["error_code"], row["error_text"], bool(row["retryable"])) if kind else None,
            metadata=None if metadata is None else json.loads(metadata),
            **{name: row[name] for name in ("name", "line", "title", "submitted_at", "ready_at", "ended_at")},
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise JournalError(f"job {row['number']} of the journal cannot be read: {error!r}") from error


def _check_types(row: sqlite3.Row) -> None:
    """Refuse values of another type than they were written with: SQLite stores any type in any column."""
    for name, kind in _TYPES.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"{name} is of type {type(row[name]).__name__}")


def _check_seals(row: sqlite3.Row) -> None:
    """Hold what is sent, and the operation, against their checksums; in older rows, the key against the body."""
    if row["seal"] is None:
        members = json.loads(row["body"])
        damaged = members.get("idempotency_key", row["key"]) != row["key"]
    else:
        damaged = row["seal"] != seal(row["digest"], row["key"], row["route"], row["body"])
    for name in ("operation", "outputs"):
        text, known = row[name], row[f"{name}_seal"]
        damaged |= text is not None and known is not None and known != seal_text(text)
    if damaged:
        raise ValueError("it is damaged: its checksum is another. Copy the journal back from a backup")


def free_titles(connection: sqlite3.Connection, *, number: int | None = None) -> None:
    """Give up the titles of jobs that failed and have no files, so that others may have them; or that of one job.

    Not before the next run, and not while one is at it: a file that is in the way is in the way of the next job, too.
    """
    unsaved = "files IS NULL AND title IS NOT NULL"
    which = f"{unsaved} AND error_kind IS NOT NULL" if number is None else f"{unsaved} AND number = :number"
    values = {"number": number}
    connection.execute(f"DELETE FROM file_name WHERE piece IN (SELECT number FROM piece WHERE {which})", values)  # noqa: S608 - constants
    connection.execute(f"UPDATE piece SET title = NULL WHERE {which}", values)  # noqa: S608 - constants


def write_saved(connection: sqlite3.Connection, job: JobRecord, files: tuple[FileRecord, ...], now: float) -> None:
    """Write down the files of a job, and forget what signed the URLs of its outputs: nothing needs it any more."""
    (text,) = connection.execute("SELECT outputs FROM piece WHERE number = ?", [job.number]).fetchone()
    outputs = job_records.unsign_outputs(text or "[]")
    connection.execute(
        "UPDATE piece SET state = 'saved', outputs = ?, outputs_seal = ?, files = ?, ended_at = ?, "
        "error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL WHERE number = ?",
        (outputs, seal_text(outputs), job_records.write_files(files), now, job.number),
    )


def write_ready(connection: sqlite3.Connection, job: JobRecord, operation: Operation[Any], now: float) -> str:
    """Write down the outputs of a job, and give the title its files have from now on.

    It is the name that was asked for, or the operation's id; with a number where another job's files have that.
    """
    stem = safe_stem(job.name or operation.id)

    def names(number: int) -> list[str]:
        return [name.casefold() for name in file_names(number_title(stem, number), operation.outputs)]

    def is_free(number: int) -> bool:
        found = [connection.execute("SELECT piece FROM file_name WHERE name = ?", [name]) for name in names(number)]
        return all(owner == job.number for (owner,) in chain.from_iterable(found))

    number = find_free(is_free)
    title = number_title(stem, number)
    owned = [(name, job.number) for name in names(number)]
    connection.executemany("INSERT OR IGNORE INTO file_name (name, piece) VALUES (?, ?)", owned)
    outputs = job_records.write_outputs(operation.outputs)
    connection.execute(
        "UPDATE piece SET state = 'ready', outputs = ?, outputs_seal = ?, title = ?, ready_at = coalesce(ready_at, ?) "
        "WHERE number = ?",
        (outputs, seal_text(outputs), title, now, job.number),
    )
    return title


T = TypeVar("T")

GROUP_COMMIT_INTERVAL = 100e-6
"""Seconds between the beginnings of two transactions for each job at work: a thousand jobs make ten a second."""

STATE = f"CASE WHEN state = 'sending' AND sent_at < :now - {FORGOTTEN_AFTER} THEN 'uncertain' ELSE state END"
"""The state of a job now, with ``:now`` in seconds since 1970 (rule 3 of ``pieces``)."""
_BY_KEY = "key = :key OR given_key = :key"
_BY_CONTENT = "digest = :digest AND occurrence = :occurrence"


@attrs.define(eq=False)
class _Batch:
    """What goes into one transaction."""

    steps: list[Step] = attrs.field(factory=list)
    durable: bool = False
    done: anyio.Event = attrs.field(factory=anyio.Event)
    results: list[Any] = attrs.field(factory=list)
    error: Exception | None = None


class JobStore:
    """What ``run_many`` writes in; one per open journal.

    Args:
        database: the file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batch = _Batch()
        self._turn = anyio.Lock(fast_acquire=True)
        self._begun = -math.inf
        self._threads = anyio.CapacityLimiter(1)
        self._at_work = Locks()
        self.progress: Counter[JobState] = Counter()
        """How many jobs of this process's runs have an operation, and outputs, whenever they came to them."""

    def __repr__(self) -> str:
        return f"<JobStore {self._database!r} collected={len(self._batch.steps)} jobs at work={len(self._at_work)}>"

    def lock(self, identity: JobIdentity) -> AbstractAsyncContextManager[Queue]:
        """Wait until no other task works on this job (rule 3)."""
        return self._at_work.hold(identity if identity.key is None else attrs.evolve(identity, digest=b""))

    async def find(self, identity: JobIdentity) -> JobRecord | None:
        """Look a job up; a key that was given wins over everything else the request says."""
        condition, values = _select(identity)
        rows = await self.query(f"SELECT * FROM piece WHERE {condition}", values)  # noqa: S608 - constants
        return read_job(rows[0]) if rows else None

    async def find_states(self, identities: Sequence[JobIdentity], *, now: float) -> list[JobState | None]:
        """Say how far jobs are, many at once; None: there is no such job."""

        def look(connection: sqlite3.Connection, identity: JobIdentity) -> JobState | None:
            condition, values = _select(identity)
            rows = _fetch(connection, f"SELECT {STATE} FROM piece WHERE {condition}", {**values, "now": now})  # noqa: S608 - constants
            return JobState(rows[0][0]) if rows else None

        return await self._execute(lambda connection: [look(connection, identity) for identity in identities])

    async def insert(
        self, identity: JobIdentity, *, key: str, route: str, body: bytes, annotation: Label = UNLABELLED
    ) -> JobRecord | None:
        """Write a new job down, or give None if another one has this key."""
        checksum = seal(identity.digest, key, route, body)
        values = (identity.digest, identity.occurrence, key, route, body, checksum, *annotation.as_row())
        return await self._read(
            "INSERT INTO piece (digest, occurrence, key, route, body, seal, name, metadata, line, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned') ON CONFLICT (key) DO NOTHING RETURNING *",
            *values,
        )

    async def annotate(self, job: JobRecord, annotation: Label) -> JobRecord:
        """Write down another name, line or other metadata; a name that no file was saved under yet is free again."""
        title = job.title if job.files or annotation.name == job.name else None

        def write(connection: sqlite3.Connection) -> None:
            values = (*annotation.as_row(), job.number)
            connection.execute("UPDATE piece SET name = ?, metadata = ?, line = ? WHERE number = ?", values)
            if title is None:
                free_titles(connection, number=job.number)

        await self._execute(write)
        return attrs.evolve(job, name=annotation.name, metadata=annotation.metadata, line=annotation.line, title=title)

    async def free_titles(self) -> None:
        """Give up the names of jobs that failed and have no files."""
        await self._execute(free_titles)

    async def replan_with_new_key(self, job: JobRecord, *, digest: bytes, key: str, body: bytes) -> JobRecord:
        """Plan a job that failed anew, with a new key; the old one still finds it."""
        renewed = await self._read(
            "UPDATE piece SET state = 'planned', given_key = coalesce(given_key, key), digest = ?, key = ?, body = ?, "
            "seal = ?, operation_seal = NULL, "
            "sent_at = NULL, operation = NULL, created_at = NULL, echo_differences = NULL, submitted_at = NULL, "
            "ended_at = NULL, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL "
            "WHERE number = ? RETURNING *",
            *(digest, key, body, seal(digest, key, job.route, body), job.number),
        )
        return renewed or job

    async def mark_sending(self, job: JobRecord, *, now: float) -> None:
        """Write down that a PUT is about to leave, so that whatever happens its key is known; ``now`` since 1970.

        The time of the first one stays: since then the service may have been remembering the key, or forgetting it.

        Raises:
            JournalError: the file is not where it was, so nothing may be sent; it stops the run.
        """

        def write(connection: sqlite3.Connection) -> JournalError | None:
            loss = self._database.find_loss()
            if loss is None:
                statement = "UPDATE piece SET state = 'sending', sent_at = coalesce(sent_at, ?) WHERE number = ?"
                connection.execute(statement, (now, job.number))
            return loss

        if (loss := await self._execute(write, durable=True)) is not None:
            raise loss

    async def find_loss(self) -> JournalError | None:
        """Return why the next run will not find this record, or None: it will."""
        return await self._execute(lambda _: self._database.find_loss())

    async def mark_unsent(self, job: JobRecord) -> None:
        """Write down that nothing came of the PUT, for certain: every one was refused, or none has left."""
        await self._change(job, "state = 'planned', sent_at = NULL")

    async def mark_submitted(self, job: JobRecord, operation: Operation[Any], *, now: float) -> None:
        """Write down which operation a job became; from now on nothing is submitted for it."""
        created = operation.created_at.isoformat() if operation.created_at else None
        echoes = json.dumps(operation.echo_differences) if operation.echo_differences else None
        changes = (
            "state = 'submitted', operation = ?, operation_seal = ?, created_at = ?, echo_differences = ?, "
            "submitted_at = ?, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL"
        )
        values = (operation.id, seal_text(operation.id), created, echoes, now)
        await self._change(job, changes, *values, durable=True)

    async def mark_ready(self, job: JobRecord, operation: Operation[Any], *, now: float) -> str:
        """Write down the outputs, with the numbers they have from now on; gives the title of their files."""
        return await self._execute(lambda connection: write_ready(connection, job, operation, now))

    async def mark_saved(self, job: JobRecord, files: tuple[FileRecord, ...], *, now: float) -> None:
        """Write down the files; an earlier failure to have them is over."""
        await self._execute(lambda connection: write_saved(connection, job, files, now))

    async def mark_verified(self, number: int, files: tuple[FileRecord, ...], *, ended_at: float | None) -> None:
        """Write down the checks that the files of a job have passed, unless others were saved after ``ended_at``."""
        statement = "UPDATE piece SET files = ? WHERE number = ? AND state = 'saved' AND ended_at IS ?"
        values = (job_records.write_files(files), number, ended_at)
        await self._execute(lambda connection: connection.execute(statement, values))

    async def mark_failed(self, job: JobRecord, failure: Failure, *, now: float) -> None:
        """Write down why a job will not be had."""
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
        """Write down that the service does not know the operation of a job, whose id stays (rule 4 of ``pieces``)."""
        changes = "state = 'uncertain', error_kind = ?, error_code = ?, error_text = ?, retryable = ?"
        values = (failure.kind, replace_surrogates(failure.code), replace_surrogates(failure.text), failure.retryable)
        await self._change(job, changes, *values)

    async def save_run_info(self, **members: Any) -> None:
        """Write down what the next run has to know of this one, as JSON; what has that name goes."""
        rows = [(name, json.dumps(value)) for name, value in members.items()]
        statement = "INSERT OR REPLACE INTO run (member, value) VALUES (?, ?)"
        await self._execute(lambda connection: connection.executemany(statement, rows))

    async def load_run_info(self) -> dict[str, Any]:
        """Give what was kept."""
        rows = await self.query("SELECT member, value FROM run", {})
        try:
            return {name: json.loads(value) for name, value in rows}
        except ValueError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    async def count(self, *, now: float) -> dict[JobState, int]:
        """Count the jobs in each state; ``now`` in seconds since 1970."""
        rows = await self.query(f"SELECT {STATE}, count(*) FROM piece GROUP BY 1", {"now": now})  # noqa: S608 - constants
        try:
            return {JobState(state): number for state, number in rows}
        except ValueError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    async def jobs(self, state: JobState | None, *, now: float, after: int, limit: int) -> list[JobRecord]:
        """Give jobs in a state, or in any, in the order they were planned, those behind the number ``after``."""
        wanted = f"(:state IS NULL OR {STATE} = :state) AND number > :after"
        query = f"SELECT * FROM piece WHERE {wanted} ORDER BY number LIMIT :limit"  # noqa: S608 - constants
        rows = await self.query(query, {"state": state, "now": now, "limit": limit, "after": after})
        return [read_job(row) for row in rows]

    async def query(self, statement: str, values: dict[str, object]) -> list[sqlite3.Row]:
        """Return the rows that a statement finds."""
        return await self._execute(lambda connection: _fetch(connection, statement, values))

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

    async def close(self) -> None:
        """Close the file, once what was begun is written."""
        await see_through(self._wait_and_close)

    async def _wait_and_close(self) -> None:
        async with self._turn:
            await anyio.to_thread.run_sync(self._database.close, limiter=self._threads)

    async def _read(self, statement: str, *values: object) -> JobRecord | None:
        row = await self._execute(lambda connection: _fetch(connection, statement, values))
        return None if not row else read_job(row[0])

    async def _change(self, job: JobRecord, changes: str, *values: object, durable: bool = False) -> None:
        statement = f"UPDATE piece SET {changes} WHERE number = ?"  # noqa: S608 - the changes are the constants above
        await self._execute(lambda connection: connection.execute(statement, (*values, job.number)), durable=durable)

    async def _execute(self, step: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Put a step into the next transaction, and wait for that; the first of a batch writes it for all (rule 1)."""
        batch, position = self._batch, len(self._batch.steps)
        batch.steps.append(step)
        batch.durable |= durable
        if position:
            await batch.done.wait()
        else:
            await see_through(partial(self._write, batch))
        if batch.error is not None:
            raise batch.error
        result: T = batch.results[position]
        return result

    async def _write(self, batch: _Batch) -> None:
        async with self._turn:
            pause = self._begun + GROUP_COMMIT_INTERVAL * len(self._at_work) - anyio.current_time()
            if pause > 0:
                await anyio.sleep(pause)
            self._begun, self._batch = anyio.current_time(), _Batch()
            try:
                batch.results = await anyio.to_thread.run_sync(
                    partial(self._database.commit, batch.steps, durable=batch.durable), limiter=self._threads
                )
            except Exception as error:  # noqa: BLE001 - raised again, by every caller
                batch.error = error
            finally:
                batch.done.set()


def _fetch(connection: sqlite3.Connection, statement: str, values: Any) -> list[sqlite3.Row]:
    return connection.execute(statement, values).fetchall()


def _select(identity: JobIdentity) -> tuple[str, dict[str, object]]:
    """Say how a job is found; a key that was given wins over everything else the request says."""
    if identity.key is not None:
        return _BY_KEY, {"key": replace_surrogates(identity.key)}
    return _BY_CONTENT, {"digest": identity.digest, "occurrence": identity.occurrence}


@attrs.frozen
class WaitStats:
    """How long the operations of a route took from their submission until they were seen ready, in seconds."""

    number: int
    mean: float
    longest: float


@attrs.frozen
class FailureGroup:
    """Why jobs failed: the error's class, the service's code, one of the texts, and how many there are of them."""

    kind: str
    code: str
    text: str
    number: int


async def count_by_route(store: JobStore, *, now: float) -> dict[str, dict[JobState, int]]:
    """Count the jobs of each route in each state; ``now`` in seconds since 1970."""
    rows = await store.query(f"SELECT route, {STATE}, count(*) FROM piece GROUP BY 1, 2 ORDER BY 1", {"now": now})  # noqa: S608 - constants
    counts: dict[str, dict[JobState, int]] = {}
    for route, state, number in rows:
        counts.setdefault(route, {})[JobState(state)] = number
    return counts


async def measure_waits(store: JobStore) -> dict[str, WaitStats]:
    """Give how long the operations of each route took, as far as any are known."""
    rows = await store.query(
        "SELECT route, count(*), avg(ready_at - submitted_at), max(ready_at - submitted_at) FROM piece "
        "WHERE ready_at > submitted_at GROUP BY route",
        {},
    )
    return {route: WaitStats(number, mean, longest) for route, number, mean, longest in rows}


async def group_failures(store: JobStore) -> list[FailureGroup]:
    """Give the reasons for failures, the commonest first."""
    rows = await store.query(
        "SELECT error_kind, error_code, min(error_text), count(*) AS number FROM piece WHERE state = 'failed' "
        "GROUP BY 1, 2 ORDER BY number DESC, 1, 2",
        {},
    )
    return [FailureGroup(kind, redact_message(code), redact_message(text), number) for kind, code, text, number in rows]


async def count_verified(store: JobStore) -> dict[str, int]:
    """Count saved files by the level of checks they have passed; ``""``: an earlier version did not record it."""
    rows = await store.query(
        "SELECT coalesce(json_extract(file.value, '$.verified'), ''), count(*) "
        "FROM piece, json_each(piece.files) AS file WHERE state = 'saved' GROUP BY 1 ORDER BY 1",
        {},
    )
    return {str(level): number for level, number in rows}


async def count_echo_differences(store: JobStore) -> dict[str, int]:
    """Count the jobs that had a member echoed otherwise than it was sent, for each member."""
    rows = await store.query(
        "SELECT member.value, count(*) FROM piece, json_each(echo_differences) AS member GROUP BY 1 ORDER BY 1", {}
    )
    return {str(member): number for member, number in rows}


async def count_ended_since(store: JobStore, moment: float) -> int:
    """Count the jobs that were saved, or failed, since a moment in seconds since 1970."""
    ((number,),) = await store.query("SELECT count(*) FROM piece WHERE ended_at > :moment", {"moment": moment})
    return int(number)
