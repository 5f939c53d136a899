"""The database of the studio: one row per sound, in SQLite, written before anything is sent."""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread
import attrs

T = TypeVar("T")

_logger = logging.getLogger("studio")

State = Literal["sending", "making", "fetching", "ready", "failed"]
OVER: frozenset[State] = frozenset({"ready", "failed"})


@attrs.frozen(kw_only=True)
class Sound:
    """One sound, from the form to its files.

    Attributes:
        id: its number; 0: not stored yet.
        key: the idempotency key, fixed when the sound is stored; the same sound is never paid for twice.
        kind: the route, as ``create.new_song``.
        fields: the values of the form: prompt, lyrics, duration, ...
        title: the title that a user entered, or "".
        parent, take: the source sound, and the number of its file.
        source, callback: the URLs in the request, so that it can be sent again unchanged.
        handle: of the operation, once the service has accepted it; enough to wait for it later.
        problem: why it failed, for the user.
        spent: a retry with the same key would return the same failure.
        files: name, path of the URL, seconds and kind of each.
        created, started, ended: seconds since 1970; 0: not yet.
    """

    id: int = 0
    key: str
    kind: str
    fields: dict[str, Any]
    title: str = ""
    parent: int | None = None
    take: int = 0
    source: str | None = attrs.field(default=None, repr=False)
    callback: str | None = None
    handle: str | None = None
    state: State = "sending"
    problem: str = ""
    spent: bool = False
    files: list[dict[str, Any]] = attrs.field(factory=list)
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0


_NAMES = [field.name for field in attrs.fields(Sound)]
_JSON = ("fields", "files")
_TABLE = f"""
create table if not exists sounds (
    id integer primary key, key text not null unique, {", ".join(_NAMES[2:])}
)"""


class Store:
    """The database. SQLite blocks, so it runs in a worker thread, one call at a time."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1)
        self._database.row_factory = sqlite3.Row
        try:
            self._database.execute("pragma locking_mode = exclusive")  # two studios would submit everything twice
            self._database.execute("pragma journal_mode = wal")
            self._database.execute(_TABLE)
            known = {row["name"] for row in self._database.execute("pragma table_info(sounds)")}
            for name in [name for name in _NAMES if name not in known]:  # from an older version
                self._database.execute(f"alter table sounds add column {name}")
        except sqlite3.OperationalError as error:
            raise SystemExit(f"{path} cannot be opened, perhaps another studio uses it: {error}") from error
        self._one_at_a_time = anyio.CapacityLimiter(1)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    async def load(self) -> list[Sound]:
        """Return all readable sounds, the oldest first; an unreadable one does not hide the others."""
        rows = await self._run(lambda: self._database.execute("select * from sounds order by id").fetchall())
        sounds = []
        for row in rows:
            try:
                sounds.append(_read(row))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                _logger.warning("sound %s in the database cannot be read: %r", row["id"], error)
        return sounds

    async def add(self, sound: Sound) -> Sound:
        """Store a new sound and return it with its number; with a known key, return the stored one."""
        names = _NAMES[1:]
        query = f"insert or ignore into sounds ({', '.join(names)}) values ({_marks(names)})"  # noqa: S608 - our names
        await self._run(partial(self._database.execute, query, _write(sound, names)))
        row = await self._run(self._database.execute("select * from sounds where key = ?", (sound.key,)).fetchone)
        return _read(row)

    async def save(self, sound: Sound) -> None:
        """Store the new state of a sound."""
        query = f"replace into sounds ({', '.join(_NAMES)}) values ({_marks(_NAMES)})"  # noqa: S608 - our own names
        await self._run(partial(self._database.execute, query, _write(sound, _NAMES)))

    async def remove(self, sound: Sound) -> None:
        """Delete a sound."""
        await self._run(partial(self._database.execute, "delete from sounds where id = ?", (sound.id,)))

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._one_at_a_time)


def _marks(names: Iterable[str]) -> str:
    return ", ".join(f":{name}" for name in names)


def _write(sound: Sound, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(sound, name) for name in names}
    return values | {name: json.dumps(values[name], allow_nan=False) for name in _JSON}


def _read(row: sqlite3.Row) -> Sound:
    values = {name: row[name] for name in _NAMES}
    values |= {name: json.loads(values[name], parse_constant=lambda _: None) for name in _JSON}
    return Sound(**values | {"spent": bool(values["spent"]), "title": values["title"] or ""})
