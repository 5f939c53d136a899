"""The journal's pages: reads and writes pieces, many callers at a time, one transaction for all that wait.

1. A call returns when what it wrote is committed. While one transaction is on its way to the disk, what comes in is
   collected for the next: alone, a caller waits for nobody; a thousand cost one transaction. The more pieces are at
   work, the longer it is collected (``GATHERING``): a piece among a thousand takes many seconds anyway.
2. Once begun, a transaction is seen through, whoever is cancelled: it is the others' as well.
3. One task at a time works on a piece.
"""

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import attrs

from soundpiece_async._core import pieces
from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.identities import Identity
from soundpiece_async._core.models import Operation
from soundpiece_async._core.pieces import FORGOTTEN_AFTER, UNLABELLED, Failure, FileRecord, JobRecord, JobState, Label
from soundpiece_async._locks import Locks, Queue
from soundpiece_async._record.database import Database, Job
from soundpiece_async._record.rows import free_titles, plain, read_piece, seal, seal_text, write_ready, write_saved
from soundpiece_async._shielding import see_through

T = TypeVar("T")

GATHERING = 100e-6
"""Seconds between the beginnings of two transactions for each piece at work: a thousand pieces make ten a second."""

STATE = f"CASE WHEN state = 'sending' AND sent_at < :now - {FORGOTTEN_AFTER} THEN 'uncertain' ELSE state END"
"""The state of a piece now, with ``:now`` in seconds since 1970 (rule 3 of ``pieces``)."""
_BY_KEY = "key = :key OR given_key = :key"
_BY_CONTENT = "digest = :digest AND occurrence = :occurrence"


@attrs.define(eq=False)
class _Batch:
    """What goes into one transaction."""

    jobs: list[Job] = attrs.field(factory=list)
    durable: bool = False
    done: anyio.Event = attrs.field(factory=anyio.Event)
    results: list[Any] = attrs.field(factory=list)
    error: Exception | None = None


class Ledger:
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
        self.passed: Counter[JobState] = Counter()
        """How many pieces of this process's runs have an operation, and outputs, whenever they came to them."""

    def __repr__(self) -> str:
        return f"<Ledger {self._database!r} collected={len(self._batch.jobs)} pieces at work={len(self._at_work)}>"

    def alone(self, identity: Identity) -> AbstractAsyncContextManager[Queue]:
        """Wait until no other task works on this piece (rule 3)."""
        return self._at_work.hold(identity if identity.key is None else attrs.evolve(identity, digest=b""))

    async def find(self, identity: Identity) -> JobRecord | None:
        """Look a piece up; a key that was given wins over everything else the request says."""
        condition, values = _select(identity)
        rows = await self.query(f"SELECT * FROM piece WHERE {condition}", values)  # noqa: S608 - constants
        return read_piece(rows[0]) if rows else None

    async def look_up(self, identities: Sequence[Identity], *, now: float) -> list[JobState | None]:
        """Say how far pieces are, many at once; None: there is no such piece."""

        def look(connection: sqlite3.Connection, identity: Identity) -> JobState | None:
            condition, values = _select(identity)
            rows = _fetch(connection, f"SELECT {STATE} FROM piece WHERE {condition}", {**values, "now": now})  # noqa: S608 - constants
            return JobState(rows[0][0]) if rows else None

        return await self._do(lambda connection: [look(connection, identity) for identity in identities])

    async def plan(
        self, identity: Identity, *, key: str, route: str, body: bytes, label: Label = UNLABELLED
    ) -> JobRecord | None:
        """Write a new piece down, or give None if another one has this key."""
        checksum = seal(identity.digest, key, route, body)
        values = (identity.digest, identity.occurrence, key, route, body, checksum, *label.as_row())
        return await self._read(
            "INSERT INTO piece (digest, occurrence, key, route, body, seal, name, metadata, line, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned') ON CONFLICT (key) DO NOTHING RETURNING *",
            *values,
        )

    async def label(self, piece: JobRecord, label: Label) -> JobRecord:
        """Write down another name, line or other metadata; a name that no file was saved under yet is free again."""
        title = piece.title if piece.files or label.name == piece.name else None

        def write(connection: sqlite3.Connection) -> None:
            values = (*label.as_row(), piece.number)
            connection.execute("UPDATE piece SET name = ?, metadata = ?, line = ? WHERE number = ?", values)
            if title is None:
                free_titles(connection, number=piece.number)

        await self._do(write)
        return attrs.evolve(piece, name=label.name, metadata=label.metadata, line=label.line, title=title)

    async def free_titles(self) -> None:
        """Give up the names of jobs that failed and have no files."""
        await self._do(free_titles)

    async def renew(self, piece: JobRecord, *, digest: bytes, key: str, body: bytes) -> JobRecord:
        """Plan a piece that failed anew, with a new key; the old one still finds it."""
        renewed = await self._read(
            "UPDATE piece SET state = 'planned', given_key = coalesce(given_key, key), digest = ?, key = ?, body = ?, "
            "seal = ?, operation_seal = NULL, "
            "sent_at = NULL, operation = NULL, created_at = NULL, echo_differences = NULL, submitted_at = NULL, "
            "ended_at = NULL, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL "
            "WHERE number = ? RETURNING *",
            *(digest, key, body, seal(digest, key, piece.route, body), piece.number),
        )
        return renewed or piece

    async def announce(self, piece: JobRecord, *, now: float) -> None:
        """Write down that a PUT is about to leave, so that whatever happens its key is known; ``now`` since 1970.

        The time of the first one stays: since then the service may have been remembering the key, or forgetting it.

        Raises:
            JournalError: the file is not where it was, so nothing may be sent; it stops the run.
        """

        def write(connection: sqlite3.Connection) -> JournalError | None:
            loss = self._database.find_loss()
            if loss is None:
                statement = "UPDATE piece SET state = 'sending', sent_at = coalesce(sent_at, ?) WHERE number = ?"
                connection.execute(statement, (now, piece.number))
            return loss

        if (loss := await self._do(write, durable=True)) is not None:
            raise loss

    async def find_loss(self) -> JournalError | None:
        """Return why the next run will not find this record, or None: it will."""
        return await self._do(lambda _: self._database.find_loss())

    async def recall(self, piece: JobRecord) -> None:
        """Write down that nothing came of the PUT, for certain: every one was refused, or none has left."""
        await self._change(piece, "state = 'planned', sent_at = NULL")

    async def submitted(self, piece: JobRecord, operation: Operation[Any], *, now: float) -> None:
        """Write down which operation a piece became; from now on nothing is submitted for it."""
        created = operation.created_at.isoformat() if operation.created_at else None
        echoes = json.dumps(operation.echo_differences) if operation.echo_differences else None
        changes = (
            "state = 'submitted', operation = ?, operation_seal = ?, created_at = ?, echo_differences = ?, "
            "submitted_at = ?, error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL"
        )
        values = (operation.id, seal_text(operation.id), created, echoes, now)
        await self._change(piece, changes, *values, durable=True)

    async def ready(self, piece: JobRecord, operation: Operation[Any], *, now: float) -> str:
        """Write down the outputs, with the numbers they have from now on; gives the title of their files."""
        return await self._do(lambda connection: write_ready(connection, piece, operation, now))

    async def saved(self, piece: JobRecord, files: tuple[FileRecord, ...], *, now: float) -> None:
        """Write down the files; an earlier failure to have them is over."""
        await self._do(lambda connection: write_saved(connection, piece, files, now))

    async def verified(self, number: int, files: tuple[FileRecord, ...], *, ended_at: float | None) -> None:
        """Write down the checks that the files of a piece have passed, unless others were saved after ``ended_at``."""
        statement = "UPDATE piece SET files = ? WHERE number = ? AND state = 'saved' AND ended_at IS ?"
        values = (pieces.write_files(files), number, ended_at)
        await self._do(lambda connection: connection.execute(statement, values))

    async def failed(self, piece: JobRecord, failure: Failure, *, now: float) -> None:
        """Write down why a piece will not be had."""
        changes = "state = 'failed', error_kind = ?, error_code = ?, error_text = ?, retryable = ?, ended_at = ?"
        values = (failure.kind, plain(failure.code), plain(failure.text), failure.retryable, now)
        await self._change(piece, changes, *values)

    async def doubted(self, piece: JobRecord, failure: Failure) -> None:
        """Write down that the service does not know the operation of a job, whose id stays (rule 4 of ``pieces``)."""
        changes = "state = 'uncertain', error_kind = ?, error_code = ?, error_text = ?, retryable = ?"
        values = (failure.kind, plain(failure.code), plain(failure.text), failure.retryable)
        await self._change(piece, changes, *values)

    async def keep(self, **members: Any) -> None:
        """Write down what the next run has to know of this one, as JSON; what has that name goes."""
        rows = [(name, json.dumps(value)) for name, value in members.items()]
        statement = "INSERT OR REPLACE INTO run (member, value) VALUES (?, ?)"
        await self._do(lambda connection: connection.executemany(statement, rows))

    async def kept(self) -> dict[str, Any]:
        """Give what was kept."""
        rows = await self.query("SELECT member, value FROM run", {})
        try:
            return {name: json.loads(value) for name, value in rows}
        except ValueError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    async def count(self, *, now: float) -> dict[JobState, int]:
        """Count the pieces in each state; ``now`` in seconds since 1970."""
        rows = await self.query(f"SELECT {STATE}, count(*) FROM piece GROUP BY 1", {"now": now})  # noqa: S608 - constants
        try:
            return {JobState(state): number for state, number in rows}
        except ValueError as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    async def jobs(self, state: JobState | None, *, now: float, after: int, limit: int) -> list[JobRecord]:
        """Give pieces in a state, or in any, in the order they were planned, those behind the number ``after``."""
        wanted = f"(:state IS NULL OR {STATE} = :state) AND number > :after"
        query = f"SELECT * FROM piece WHERE {wanted} ORDER BY number LIMIT :limit"  # noqa: S608 - constants
        rows = await self.query(query, {"state": state, "now": now, "limit": limit, "after": after})
        return [read_piece(row) for row in rows]

    async def query(self, statement: str, values: dict[str, object]) -> list[sqlite3.Row]:
        """Ask the tables themselves; for ``_record.overview``."""
        return await self._do(lambda connection: _fetch(connection, statement, values))

    async def inspect(self, call: Callable[[], T]) -> T:
        """Call something quick that blocks, off the event loop, together with what else is waiting."""

        def attempt(_: sqlite3.Connection) -> tuple[T | None, Exception | None]:
            try:
                return call(), None
            except Exception as error:  # noqa: BLE001 - raised below: it is this caller's, and not the transaction's
                return None, error

        result, error = await self._do(attempt)
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
        row = await self._do(lambda connection: _fetch(connection, statement, values))
        return None if not row else read_piece(row[0])

    async def _change(self, piece: JobRecord, changes: str, *values: object, durable: bool = False) -> None:
        statement = f"UPDATE piece SET {changes} WHERE number = ?"  # noqa: S608 - the changes are the constants above
        await self._do(lambda connection: connection.execute(statement, (*values, piece.number)), durable=durable)

    async def _do(self, job: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Put a job into the next transaction, and wait for that; the first of a batch writes it for all (rule 1)."""
        batch, place = self._batch, len(self._batch.jobs)
        batch.jobs.append(job)
        batch.durable |= durable
        if place:
            await batch.done.wait()
        else:
            await see_through(partial(self._write, batch))
        if batch.error is not None:
            raise batch.error
        result: T = batch.results[place]
        return result

    async def _write(self, batch: _Batch) -> None:
        async with self._turn:
            pause = self._begun + GATHERING * len(self._at_work) - anyio.current_time()
            if pause > 0:
                await anyio.sleep(pause)
            self._begun, self._batch = anyio.current_time(), _Batch()
            try:
                batch.results = await anyio.to_thread.run_sync(
                    partial(self._database.commit, batch.jobs, durable=batch.durable), limiter=self._threads
                )
            except Exception as error:  # noqa: BLE001 - raised again, by every caller
                batch.error = error
            finally:
                batch.done.set()


def _fetch(connection: sqlite3.Connection, statement: str, values: Any) -> list[sqlite3.Row]:
    return connection.execute(statement, values).fetchall()


def _select(identity: Identity) -> tuple[str, dict[str, object]]:
    """Say how a piece is found; a key that was given wins over everything else the request says."""
    if identity.key is not None:
        return _BY_KEY, {"key": plain(identity.key)}
    return _BY_CONTENT, {"digest": identity.digest, "occurrence": identity.occurrence}
