"""Journals in each database: a test with the fixture ``journals`` runs against both, and opens them here."""

from pathlib import Path
from typing import Any

import psycopg

from soundpiece_async import Journal
from soundpiece_async._journal.sqlite_store import SqliteStore

_database: list[str] = []
"""The URL of the Postgres that journals are in; none: they are in their folders."""


def use_database(url: str | None) -> None:
    """Open journals in this database from now on; None: in their folders."""
    _database[:] = [] if url is None else [url]


def database_of(folder: Path) -> dict[str, str]:
    """Return what tells a ``bulk_process`` which database to use."""
    return {"database": _database[0], "run": str(folder)} if _database else {}


def open_journal(folder: Path, **options: Any) -> Journal:
    """Open the journal of a folder, or the run of that name."""
    return Journal.open(_database[0], run=str(folder), **options) if _database else Journal.open(folder, **options)


async def edit_journal(folder: Path, statement: str, *values: object) -> None:
    """Change the tables ``job`` and ``run``, as any tool may; ``?`` stands for a value."""
    if _database:
        for table, its_name in (
            ("UPDATE job", "UPDATE soundpiece_job"),
            ("UPDATE run", "UPDATE soundpiece_run_info"),
        ):
            statement = statement.replace(table, its_name)
        statement = statement.replace("?", "%s")
        async with await psycopg.AsyncConnection.connect(_database[0]) as connection:
            await connection.execute(statement, values)  # type: ignore[arg-type]
        return
    async with Journal.open(folder) as journal:
        store = journal.store
        assert isinstance(store, SqliteStore)
        await store._execute(lambda connection: connection.execute(statement, values))
