"""The journal's file: SQLite, opened, checked, migrated, and written in groups. Everything here blocks.

1. One connection, one thread at a time. WAL, so that a reader (``soundpiece status``) disturbs nobody.
2. A group of steps is one transaction: all of them, or none.
3. With WAL a commit survives the death of the process whatever ``synchronous`` is; only a power cut can undo it. So
   NORMAL, which leaves the waiting for the disk to the checkpoints, is enough for what can be found out again at no
   cost: that a job is planned, ready, saved or failed. FULL is for what must not be undone: that a PUT may have
   been sent (its key is all that keeps the resend from being paid for), and the id of its operation. A FULL commit
   brings to the disk whatever NORMAL ones stand before it.
4. One damaged bit may make a run buy again what it has. So a file that is to be written is checked as a whole when it
   is opened: the log (`wal`), the schema beside the one our own statements make, rows beside their indexes. What no
   index holds twice, and money depends on, has a checksum in its row, checked when the row is read (`sqlite_rows`).
5. Not every file system can do what SQLite wants. Where memory cannot be shared, which WAL needs (network and FUSE
   ones), the journal has a rollback log instead; where files cannot be locked, SQLite locks none: the folder's lock
   keeps other runs out (`_filelocks`).
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import attrs

from soundpiece_async._core.errors import JournalError
from soundpiece_async._descriptors import Shortage, is_short
from soundpiece_async._journal.store import Outdated
from soundpiece_async._journal.wal import find_damage
from soundpiece_async._logs import get_logger
from soundpiece_async._regularfiles import demand_regular, open_regular

logger = get_logger("journal")

Step: TypeAlias = Callable[[sqlite3.Connection], Any]

APPLICATION = 0x53504A4C
"""SQLite's ``application_id``: a file without it is not ours."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE piece (
            number INTEGER PRIMARY KEY,
            digest BLOB NOT NULL,      -- of route and members, without the key
            occurrence INTEGER,        -- the n-th of that digest; NULL: its key was given
            key TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL,
            sent_at REAL,              -- when the first PUT left, in seconds since 1970
            route TEXT NOT NULL,
            operation TEXT,
            created_at TEXT,
            outputs TEXT,              -- JSON
            files TEXT,                -- JSON; paths are relative to this folder
            error_kind TEXT,
            error_code TEXT,
            error_text TEXT,
            retryable INTEGER,         -- whether a new piece, with a new key, may come out well
            body BLOB NOT NULL         -- every PUT is these very bytes
        )
        """,
        "CREATE UNIQUE INDEX piece_content ON piece (digest, occurrence)",
        "CREATE INDEX piece_state ON piece (state, sent_at)",
    ),
    (
        "ALTER TABLE piece ADD COLUMN name TEXT",  # the file stem its line asks for
        "ALTER TABLE piece ADD COLUMN metadata TEXT",  # JSON, the user's
        "ALTER TABLE piece ADD COLUMN title TEXT",  # the stem its files have
        "ALTER TABLE piece ADD COLUMN given_key TEXT",  # its key before a retry with a new one: still its identity
        # seconds since 1970; ended: saved or failed
        "ALTER TABLE piece ADD COLUMN submitted_at REAL",
        "ALTER TABLE piece ADD COLUMN ready_at REAL",
        "ALTER TABLE piece ADD COLUMN ended_at REAL",
        "CREATE INDEX piece_given_key ON piece (given_key) WHERE given_key IS NOT NULL",
        # whose a file name is, without regard to case
        "CREATE TABLE file_name (name TEXT PRIMARY KEY, piece INTEGER NOT NULL) WITHOUT ROWID",
        # what the next process has to know of this one's run, as JSON
        "CREATE TABLE run (member TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
    (
        # CRC-32: of what is sent, and of what it became; NULL in rows of before (rule 4)
        "ALTER TABLE piece ADD COLUMN seal INTEGER",
        "ALTER TABLE piece ADD COLUMN operation_seal INTEGER",
    ),
    (
        "ALTER TABLE piece ADD COLUMN echo_differences TEXT",  # JSON: names of members that came back otherwise
        # 0.1.0 gave operations up for an echo: that of another key is of another request, so the PUT has no response
        """
        UPDATE piece SET state = 'sending', operation = NULL, operation_seal = NULL, created_at = NULL,
            submitted_at = NULL, ended_at = NULL, error_kind = NULL, error_code = NULL, error_text = NULL,
            retryable = NULL
        WHERE state = 'failed' AND outputs IS NULL AND error_kind = 'DecodeError'
            AND error_text LIKE '%echoes another idempotency_key than was sent%'
        """,
        # all others are paid for, and polled on
        """
        UPDATE piece SET state = 'submitted', error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL,
            ended_at = NULL
        WHERE state = 'failed' AND operation IS NOT NULL AND outputs IS NULL AND error_kind <> 'OperationFailed'
        """,
        # and it held some for ready that had no outputs
        """
        UPDATE piece SET state = 'submitted', outputs = NULL, title = NULL, ready_at = NULL, ended_at = NULL
        WHERE outputs = '[]' AND files IS NULL AND state IN ('ready', 'failed')
        """,
    ),
    ("ALTER TABLE piece ADD COLUMN line INTEGER",),  # of the jobs file, as its latest run read it
    ("ALTER TABLE piece ADD COLUMN outputs_seal INTEGER",),  # CRC-32 of the outputs; NULL in rows of before (rule 4)
    ("ALTER TABLE piece ADD COLUMN source TEXT",),  # the output of another operation that it is made from
    (
        "ALTER TABLE piece RENAME TO job",
        "ALTER TABLE file_name RENAME COLUMN piece TO job",
        "DROP INDEX piece_content",
        "DROP INDEX piece_state",
        "DROP INDEX piece_given_key",
        "CREATE UNIQUE INDEX job_content ON job (digest, occurrence)",
        "CREATE INDEX job_state ON job (state, sent_at)",
        "CREATE INDEX job_given_key ON job (given_key) WHERE given_key IS NOT NULL",
    ),
)
"""The n-th entry leads from schema n to n + 1, which is SQLite's ``user_version``. Entries are never edited."""

_KEEP = "keep it: a run without it pays for everything again; try '.recover' of the sqlite3 program with a copy first"
_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space, then run the same again; nothing is lost",
    sqlite3.SQLITE_NOTADB: f"it is damaged, or not a journal: {_KEEP}",
    sqlite3.SQLITE_CORRUPT: f"it is damaged: {_KEEP}",
    sqlite3.SQLITE_READONLY: "it is not writable: fix its permissions, then run the same again; nothing is lost",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that it is there, and its permissions",
    sqlite3.SQLITE_IOERR: (
        "the disk is full or failing, or its file system cannot hold a database: free some space, or put the journal "
        "elsewhere (--journal; in code, Journal.open of another folder), then run the same again; nothing is lost"
    ),
    sqlite3.SQLITE_BUSY: "another program has locked it: end that, then run the same again; nothing is lost",
}
_PRIMARY_CODE = 0xFF
_OF_FILE_SYSTEMS = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_BUSY}
)
"""What SQLite says of a file system that cannot share memory, or lock; or of other troubles, which stay."""
_FAULTS = (sqlite3.Error, sqlite3.Warning, ValueError, TypeError, LookupError, OverflowError, MemoryError, SystemError)
"""What ``sqlite3`` raises over a damaged file; it decodes names and texts itself, and believes what it finds."""
_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the names of SQLite's files."""


class JournalLost(JournalError):
    """The file is not any more where the next run will look for it; so no job may be sent."""

    stops_run = True
    ends_run = False


class Database:
    """An open journal.

    Args:
        path: the file; made, unless it is only to be read.
        read_only: only look; nothing is made or migrated.
        locked: whether SQLite can lock files there (rule 5).
        migrations: as ``MIGRATIONS``.

    Raises:
        JournalError: it is damaged, of a newer schema, not ours, or cannot be opened; it was not changed.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        locked: bool = True,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self.commits: int = 0
        self._path = path
        self._read_only = read_only
        self._one_at_a_time = threading.Lock()
        self._closed = self._wal = False
        try:
            for suffix in _SUFFIXES:  # SQLite opens them itself, and would wait for a FIFO
                demand_regular(path.with_name(f"{path.name}{suffix}"))
            if not read_only:  # made here for its permissions: bodies and outputs hold signed URLs
                self._check_log()
                os.close(open_regular(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._file = path.stat()
            manners = _choose_manners(path, read_only=read_only, locked=locked)
        except OSError as error:
            raise self._explain(error) from error
        self._open(manners, migrations)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "read-only" if self._read_only else "open"
        return f"<Database {self._path} {state} commits={self.commits}>"

    def find_loss(self) -> JournalError | None:
        """Return what to raise before anything is sent that only this file would know of: its path leads elsewhere.

        Removing or moving the folder of a run removes the journal; SQLite continues to write, and does not notice.
        """
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(self._file, self._path.stat()):
                return None
        return JournalLost(
            f"the journal {self._path} was moved, removed or replaced while a run wrote it: nothing more is sent, and "
            "what was sent is finished. If it was moved, move it back, or go on where it is now; if it was removed, no "
            "record of this run is left, and the same jobs would be paid for again"
        )

    def commit(self, steps: Sequence[Step], *, durable: bool) -> list[Any]:
        """Run steps in one transaction, and give their results.

        Args:
            steps: each is called with the connection.
            durable: wait until the transaction is on the disk (rule 3).

        Raises:
            JournalError: none of them took effect.
        """
        with self._one_at_a_time:
            if self._closed:
                raise JournalError(f"the journal {self._path} is closed")
            shortage = Shortage(str(self._path))
            while True:
                try:
                    return self._commit(steps, durable=durable)
                except _FAULTS as error:
                    if not (isinstance(error, sqlite3.OperationalError) and is_short()):
                        raise self._explain(error) from error
                    pause = shortage.next_pause(error)  # a rollback log is opened for each transaction
                time.sleep(pause)

    def close(self) -> None:
        """Close the file; its write-ahead log is merged into it. Closing twice is no error."""
        with self._one_at_a_time:
            self._closed = True
            self._connection.close()

    def _open(self, manners: Sequence["_Manner"], migrations: Sequence[Sequence[str]]) -> None:
        """Open the file in the first manner that its file system can carry (rule 5).

        Raises:
            JournalError: it is not the file system, or none of them works: the error of the first.
        """
        failures: list[sqlite3.Error] = []
        for manner in manners:
            try:
                self._try(manner, migrations)
            except sqlite3.Error as error:
                failures.append(error)
                if getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE not in _OF_FILE_SYSTEMS:
                    break
            else:
                if failures:
                    logger.warning("%s: its file system lacks features that SQLite uses (%s)", self._path, failures[0])
                return
        self._closed = True
        raise self._explain(failures[0]) from failures[0]

    def _try(self, manner: "_Manner", migrations: Sequence[Sequence[str]]) -> None:
        """Open the file in a manner, or leave it closed."""
        self._connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self._path))}?{manner.query}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare(manner, migrations)
        except (JournalError, sqlite3.Error):
            self._connection.close()
            raise
        except _FAULTS as error:
            self._connection.close()
            raise self._explain(error) from error

    def _commit(self, steps: Sequence[Step], *, durable: bool) -> list[Any]:
        full = durable or not self._wal  # a rollback log that is not synced may leave half a transaction
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        self._connection.execute("BEGIN")
        try:
            results = [step(self._connection) for step in steps]
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some errors have ended it already
                self._connection.execute("ROLLBACK")
            raise
        self.commits += 1
        return results

    def _prepare(self, manner: "_Manner", migrations: Sequence[Sequence[str]]) -> None:
        """Find out what the file is, and bring it up to date."""
        if manner.alone:
            self._ask("PRAGMA locking_mode = EXCLUSIVE")
        version, application = self._ask("PRAGMA user_version"), self._ask("PRAGMA application_id")
        new = not version and not application and not self._ask("SELECT count(*) FROM sqlite_master")
        if not new and application != APPLICATION:
            raise JournalError(f"{self._path} is not a journal of this library; it was not changed")
        if version > len(migrations):
            raise JournalError(
                f"the journal {self._path} was written by a newer version of soundpiece_async (schema {version}, this "
                f"one knows {len(migrations)}): update; it was not changed"
            )
        if not new and not _shape(self._connection) >= _expect(migrations[:version]):
            raise JournalError(f"the journal {self._path} is damaged (its schema is not what it was): {_KEEP}")
        found = self._ask(f"PRAGMA {'quick' if self._read_only else 'integrity'}_check(1)")
        if found != "ok":
            raise JournalError(f"the journal {self._path} is damaged ({found}): {_KEEP}")
        if self._read_only:
            if version < len(migrations):
                raise Outdated(
                    f"the journal {self._path} must be migrated first: open it to write once, as soundpiece resume does"
                )
            return
        self._ask("PRAGMA secure_delete = ON")  # what is overwritten signed URLs
        self._wal = self._ask(f"PRAGMA journal_mode = {manner.log}") == "wal"
        if manner.alone:  # readers are welcome again, from the next reading on
            self._ask("PRAGMA locking_mode = NORMAL")
        self._ask("SELECT count(*) FROM sqlite_master")  # before it, a WAL is not opened, and nothing refused
        for number, statements in enumerate(migrations[version:], start=version + 1):
            steps = (f"PRAGMA application_id = {APPLICATION}", *statements, f"PRAGMA user_version = {number}")
            self._commit([_execute(statement) for statement in steps], durable=True)

    def _check_log(self) -> None:
        """Refuse a log that SQLite would believe only in part; opening it would throw the rest away (rule 4)."""
        log = self._path.with_name(f"{self._path.name}-wal")
        damage = find_damage(log)
        if damage is not None:
            raise JournalError(
                f"{log}, the newest part of the journal, is damaged: {damage}. Keep it, and copy it back from a "
                "backup; if the power failed while it was written, all that was sent is in front of the damage: move "
                "the file away, and run the same again"
            )

    def _ask(self, statement: str) -> Any:
        return self._connection.execute(statement).fetchone()[0]

    def _explain(self, error: Exception) -> JournalError:
        if isinstance(error, FileNotFoundError):
            folder = self._path.parent
            advice = f"check that it is there, or start a run with: soundpiece bulk JOBS {folder}"
            return JournalError(f"{folder} has no journal: {advice}")
        if isinstance(error, OSError):
            return JournalError(f"the journal {self._path} cannot be opened: {error}; nothing was done")
        if not isinstance(error, sqlite3.Error):
            return JournalError(f"the journal {self._path} is damaged ({error!r}): {_KEEP}")
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE, "nothing was changed")
        return JournalError(f"the journal {self._path} failed ({error}): {advice}")


@attrs.frozen
class _Manner:
    """How to open a file.

    Attributes:
        query: of its URI.
        log: SQLite's journal mode.
        alone: nobody else reads it while it is opened: then a WAL can be read without shared memory.
    """

    query: str
    log: str = "WAL"
    alone: bool = False


def _choose_manners(path: Path, *, read_only: bool, locked: bool) -> list[_Manner]:
    """Return how to open a file, the best manner first (rule 5)."""
    if not read_only:
        rollback = _Manner(f"mode=rw{'' if locked else '&nolock=1'}", log="TRUNCATE", alone=True)
        return [_Manner("mode=rw"), rollback] if locked else [rollback]
    resting = not path.with_name(f"{path.name}-wal").exists()
    writable = os.access(path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    if resting and not writable:  # SQLite wants to write beside what it reads, unless nobody can be writing it
        return [_Manner("mode=ro&immutable=1")]
    return [_Manner("mode=ro"), _Manner("mode=ro&nolock=1"), *([_Manner("mode=ro&immutable=1")] if resting else [])]


def _shape(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """Return what tables and indexes are made of, in a form that does not depend on the version of SQLite."""
    shape: set[tuple[Any, ...]] = set()
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        shape |= {(table, *column) for column in connection.execute("SELECT * FROM pragma_table_info(?)", [table])}
        for _, index, *kind in connection.execute("SELECT * FROM pragma_index_list(?)", [table]).fetchall():
            columns = connection.execute("SELECT * FROM pragma_index_xinfo(?)", [index]).fetchall()
            shape.add((table, index, *kind, *map(tuple, columns)))
    return shape


def _expect(migrations: Sequence[Sequence[str]]) -> set[tuple[Any, ...]]:
    """Return the shape of a journal that some migrations made."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in chain.from_iterable(migrations):
            connection.execute(statement)
        return _shape(connection)


def _execute(statement: str) -> Step:
    return lambda connection: connection.execute(statement)
