"""Rows of the journal as pieces, and what has to be worked out within a transaction. Everything here blocks."""

import json
import sqlite3
import zlib
from itertools import chain
from typing import Any

from soundpiece_async._core import pieces
from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.models import Operation
from soundpiece_async._core.names import file_names, safe_stem
from soundpiece_async._core.outputs import Handle
from soundpiece_async._core.pieces import Failure, FileRecord, JobRecord, JobState
from soundpiece_async._core.titles import find_free, number_title

_TYPES: dict[str, Any] = {
    **dict.fromkeys(("digest", "body"), bytes),
    **dict.fromkeys(("key", "route"), str),
    **dict.fromkeys(("operation", "created_at", "outputs", "files", "name", "title", "metadata"), str | None),
    "echo_differences": str | None,
    **dict.fromkeys(("error_kind", "error_code", "error_text"), str | None),
    "line": int | None,
    **dict.fromkeys(("sent_at", "submitted_at", "ready_at", "ended_at"), float | int | None),
}


def plain(text: str) -> str:
    """Take out halves of surrogate pairs, which JSON may bring and no database takes."""
    return text.encode(errors="replace").decode()


def seal(digest: bytes, key: str, route: str, body: bytes) -> int:
    """Return the checksum of what is sent: a damaged bit of it would be another request, or another key."""
    return zlib.crc32(b"\0".join((digest, key.encode(errors="replace"), route.encode(errors="replace"), body)))


def seal_text(text: str) -> int:
    """Return the checksum of an operation's id, or of its outputs: with a damaged one, what was paid for is lost."""
    return zlib.crc32(text.encode(errors="replace"))


def read_piece(row: sqlite3.Row) -> JobRecord:
    """Make a piece of its row; what is in the file may have been edited, or damaged.

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
            created_at=pieces.read_time(row["created_at"]),
            echo_differences=tuple(map(str, json.loads(row["echo_differences"] or "[]"))),
            outputs=pieces.read_outputs(outputs, handle=Handle(row["route"], operation)) if outputs else (),
            files=pieces.read_files(files) if files else (),
            failure=Failure(kind, row["error_code"], row["error_text"], bool(row["retryable"])) if kind else None,
            metadata=None if metadata is None else json.loads(metadata),
            **{name: row[name] for name in ("name", "line", "title", "submitted_at", "ready_at", "ended_at")},
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise JournalError(f"piece {row['number']} of the journal cannot be read: {error!r}") from error


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


def write_saved(connection: sqlite3.Connection, piece: JobRecord, files: tuple[FileRecord, ...], now: float) -> None:
    """Write down the files of a piece, and forget what signed the URLs of its outputs: nothing needs it any more."""
    (text,) = connection.execute("SELECT outputs FROM piece WHERE number = ?", [piece.number]).fetchone()
    outputs = pieces.unsign_outputs(text or "[]")
    connection.execute(
        "UPDATE piece SET state = 'saved', outputs = ?, outputs_seal = ?, files = ?, ended_at = ?, "
        "error_kind = NULL, error_code = NULL, error_text = NULL, retryable = NULL WHERE number = ?",
        (outputs, seal_text(outputs), pieces.write_files(files), now, piece.number),
    )


def write_ready(connection: sqlite3.Connection, piece: JobRecord, operation: Operation[Any], now: float) -> str:
    """Write down the outputs of a piece, and give the title its files have from now on.

    It is the name that was asked for, or the operation's id; with a number where another piece's files have that.
    """
    stem = safe_stem(piece.name or operation.id)

    def names(number: int) -> list[str]:
        return [name.casefold() for name in file_names(number_title(stem, number), operation.outputs)]

    def is_free(number: int) -> bool:
        found = [connection.execute("SELECT piece FROM file_name WHERE name = ?", [name]) for name in names(number)]
        return all(owner == piece.number for (owner,) in chain.from_iterable(found))

    number = find_free(is_free)
    title = number_title(stem, number)
    owned = [(name, piece.number) for name in names(number)]
    connection.executemany("INSERT OR IGNORE INTO file_name (name, piece) VALUES (?, ?)", owned)
    outputs = pieces.write_outputs(operation.outputs)
    connection.execute(
        "UPDATE piece SET state = 'ready', outputs = ?, outputs_seal = ?, title = ?, ready_at = coalesce(ready_at, ?) "
        "WHERE number = ?",
        (outputs, seal_text(outputs), title, now, piece.number),
    )
    return title
