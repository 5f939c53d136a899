"""Rows of a journal in SQLite: their checksums, and what is worked out within a transaction. Everything here blocks."""

import json
import sqlite3
import zlib
from itertools import chain
from typing import Any

from soundpiece_async._core import job_records
from soundpiece_async._core.filenames import file_names, first_free, numbered, safe_stem
from soundpiece_async._core.job_records import (
    KEY_LIFETIME,
    JobIdentity,
    JobRecord,
    JobState,
)
from soundpiece_async._core.json_types import JsonObject
from soundpiece_async._core.operations import AnyOperation
from soundpiece_async._journal.store import (
    Overview,
    PlannedJob,
    make_group,
    read_counts,
    read_job,
    replace_surrogates,
)

STATE = f"CASE WHEN state = 'sending' AND sent_at < :now - {KEY_LIFETIME} THEN 'uncertain' ELSE state END"
"""The state of a job now, with ``:now`` in seconds since 1970 (rule 3 of ``job_records``)."""
IN_PART = (
    "(state NOT IN ('saved', 'failed') OR (state = 'failed' AND (outputs IS NOT NULL OR :failed))) "
    "AND number % :parts = :part"
)
"""Of the jobs that are in a part (``store.Part``)."""
_BY_KEY = "key = :key OR given_key = :key"
INSERT = (
    "INSERT INTO job (digest, occurrence, key, route, body, seal, name, metadata, line, source, state) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned') ON CONFLICT (key) DO NOTHING RETURNING *"
)
_BY_CONTENT = "digest = :digest AND occurrence = :occurrence"

_TYPES: JsonObject = {
    **dict.fromkeys(("digest", "body"), bytes),
    **dict.fromkeys(("key", "route"), str),
    **dict.fromkeys(("operation", "created_at", "outputs", "files", "name", "title", "metadata"), str | None),
    "echo_differences": str | None,
    **dict.fromkeys(("error_kind", "error_code", "error_text"), str | None),
    "line": int | None,
    **dict.fromkeys(("sent_at", "submitted_at", "ready_at", "ended_at"), float | int | None),
}


def seal(digest: bytes, key: str, route: str, body: bytes) -> int:
    """Return the checksum of what is sent: a damaged bit of it would be another request, or another key."""
    return zlib.crc32(b"\0".join((digest, key.encode(errors="replace"), route.encode(errors="replace"), body)))


def seal_text(text: str) -> int:
    """Return the checksum of an operation's id, or of its outputs: with a damaged one, what was paid for is lost."""
    return zlib.crc32(text.encode(errors="replace"))


def _check(row: sqlite3.Row) -> None:
    _check_types(row)
    _check_seals(row)


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


def write_planned(connection: sqlite3.Connection, job: PlannedJob) -> str | None:
    """Write a job down if it is new, or else its annotation; returns the route that it has, or None: it is new."""
    condition, values = select(job.identity)
    found = fetch(connection, f"SELECT number, route FROM job WHERE {condition}", values)
    for number, _ in found:
        update = "UPDATE job SET name = ?, metadata = ?, line = ?, source = ? WHERE number = ?"
        connection.execute(update, (*job.annotation.as_row(), number))
    if not found:
        identity = job.identity
        checksum = seal(identity.digest, job.key, job.route, job.body)
        row = (identity.digest, identity.occurrence, job.key, job.route, job.body, checksum, *job.annotation.as_row())
        connection.execute(INSERT, row)
    return str(found[0]["route"]) if found else None


def free_titles(connection: sqlite3.Connection, *, number: int | None = None) -> None:
    """Free the titles of jobs that failed and have no files, so that others may have them; or that of one job.

    Not before the next run, and not while one is at it: a file that is in the way is in the way of the next job, too.
    """
    unsaved = "files IS NULL AND title IS NOT NULL"
    which = f"{unsaved} AND error_kind IS NOT NULL" if number is None else f"{unsaved} AND number = :number"
    values = {"number": number}
    connection.execute(f"DELETE FROM file_name WHERE job IN (SELECT number FROM job WHERE {which})", values)
    connection.execute(f"UPDATE job SET title = NULL WHERE {which}", values)


def write_ready(
    connection: sqlite3.Connection, job: JobRecord, operation: AnyOperation, now: float, *, named: bool
) -> str | None:
    """Record the outputs of a job, and return the title of its files, where they are ``named``."""
    title = _take_title(connection, job, operation) if named else job.title
    outputs = job_records.write_outputs(operation.outputs)
    connection.execute(
        "UPDATE job SET state = 'ready', outputs = ?, outputs_seal = ?, title = ?, ready_at = coalesce(ready_at, ?) "
        "WHERE number = ?",
        (outputs, seal_text(outputs), title, now, job.number),
    )
    return title


def _take_title(connection: sqlite3.Connection, job: JobRecord, operation: AnyOperation) -> str:
    """Return the title that the files of a job have from now on.

    It is the name that was asked for, or the operation's id; with a number where another job's files have that.
    """
    stem = safe_stem(job.name or operation.id)

    def names(number: int) -> list[str]:
        return [name.casefold() for name in file_names(numbered(stem, number), operation.outputs)]

    def is_free(number: int) -> bool:
        found = [connection.execute("SELECT job FROM file_name WHERE name = ?", [name]) for name in names(number)]
        return all(owner == job.number for (owner,) in chain.from_iterable(found))

    number = first_free(is_free)
    title = numbered(stem, number)
    owned = [(name, job.number) for name in names(number)]
    connection.executemany("INSERT OR IGNORE INTO file_name (name, job) VALUES (?, ?)", owned)
    return title


def read_record(row: sqlite3.Row) -> JobRecord:
    return read_job(row, check=_check)


def fetch(connection: sqlite3.Connection, statement: str, values: Any) -> list[sqlite3.Row]:
    return connection.execute(statement, values).fetchall()


def select(identity: JobIdentity) -> tuple[str, dict[str, object]]:
    """Return the condition that finds a job; a key that was given wins over everything else the request says."""
    if identity.key is not None:
        return _BY_KEY, {"key": replace_surrogates(identity.key)}
    return _BY_CONTENT, {"digest": identity.digest, "occurrence": identity.occurrence}


def look_over(connection: sqlite3.Connection, *, now: float, since: float) -> Overview:
    """Count the jobs of the run."""

    def ask(statement: str) -> list[tuple[Any, ...]]:
        return list(map(tuple, fetch(connection, statement, {"now": now, "since": since})))

    routes: dict[str, dict[JobState, int]] = {}
    for route, state, number in ask(f"SELECT route, {STATE}, count(*) FROM job GROUP BY 1, 2 ORDER BY 1"):
        routes.setdefault(route, {}).update(read_counts([(state, number)]))
    reasons = ask(
        "SELECT error_kind, error_code, min(error_text), count(*) AS number FROM job WHERE state = 'failed' "
        "GROUP BY 1, 2 ORDER BY number DESC, 1, 2"
    )
    levels = ask(
        "SELECT coalesce(json_extract(file.value, '$.verified'), ''), count(*) "
        "FROM job, json_each(job.files) AS file WHERE state = 'saved' GROUP BY 1 ORDER BY 1"
    )
    members = ask("SELECT member.value, count(*) FROM job, json_each(echo_differences) AS member GROUP BY 1 ORDER BY 1")
    dependents = ask(f"SELECT {STATE}, count(*) FROM job WHERE source IS NOT NULL GROUP BY 1")
    ((ended,),) = ask("SELECT count(*) FROM job WHERE ended_at > :since")
    return Overview(
        routes=routes,
        dependents=read_counts(dependents),
        failures=tuple(make_group(*reason) for reason in reasons),
        verified={str(level): number for level, number in levels},
        echo_differences={str(member): number for member, number in members},
        ended=int(ended),
    )
