"""What the studio remembers: one row a piece, in SQLite, written before anything is sent."""

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
class Piece:
    """One piece of work, from the wish to its files.

    Attributes:
        id: its number; 0: not stored yet.
        key: the idempotency key, fixed when the piece is stored; the same piece is never paid for twice.
        kind: the route, as ``create.new_song``.
        wishes: what was chosen in the page: prompt, lyrics, duration, ...
        title: what somebody called it; "": nobody did.
        parent, take: the piece it is made from, and which file of it.
        source, callback: URLs as they stood in the request, so that it can be sent again unchanged.
        handle: of the operation, as soon as the service has accepted it; this is all it takes to come back to it.
        problem: why it failed, in plain words.
        spent: the key led to a failure that trying again with it cannot mend.
        files: name, path of the URL, seconds and kind of each.
        created, started, ended: seconds since 1970; 0: not yet.
    """

    id: int = 0
    key: str
    kind: str
    wishes: dict[str, Any]
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


_NAMES = [field.name for field in attrs.fields(Piece)]
_JSON = ("wishes", "files")
_TABLE = f"""
create table if not exists pieces (
    id integer primary key, key text not null unique, {", ".join(_NAMES[2:])}
)"""


class Store:
    """The database. SQLite blocks, so one thread at a time does its work, and the event loop goes on."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1)
        self._database.row_factory = sqlite3.Row
        try:
            self._database.execute("pragma locking_mode = exclusive")  # two studios would make everything twice
            self._database.execute("pragma journal_mode = wal")
            self._database.execute(_TABLE)
            known = {row["name"] for row in self._database.execute("pragma table_info(pieces)")}
            for name in [name for name in _NAMES if name not in known]:  # of a studio that was older
                self._database.execute(f"alter table pieces add column {name}")
        except sqlite3.OperationalError as error:
            raise SystemExit(f"{path} cannot be used, perhaps another studio has it open: {error}") from error
        self._turn = anyio.CapacityLimiter(1)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    async def load(self) -> list[Piece]:
        """Return all pieces that can be read, the oldest first; one that cannot keeps nobody from the others."""
        rows = await self._run(lambda: self._database.execute("select * from pieces order by id").fetchall())
        pieces = []
        for row in rows:
            try:
                pieces.append(_read(row))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                _logger.warning("piece %s in the database cannot be read: %r", row["id"], error)
        return pieces

    async def add(self, piece: Piece) -> Piece:
        """Store a new piece, and give it with its number; one whose key is known already is given as it is."""
        names = _NAMES[1:]
        query = f"insert or ignore into pieces ({', '.join(names)}) values ({_marks(names)})"  # noqa: S608 - our names
        await self._run(partial(self._database.execute, query, _write(piece, names)))
        row = await self._run(self._database.execute("select * from pieces where key = ?", (piece.key,)).fetchone)
        return _read(row)

    async def save(self, piece: Piece) -> None:
        """Store what became of a piece."""
        query = f"replace into pieces ({', '.join(_NAMES)}) values ({_marks(_NAMES)})"  # noqa: S608 - our own names
        await self._run(partial(self._database.execute, query, _write(piece, _NAMES)))

    async def remove(self, piece: Piece) -> None:
        """Forget a piece."""
        await self._run(partial(self._database.execute, "delete from pieces where id = ?", (piece.id,)))

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._turn)


def _marks(names: Iterable[str]) -> str:
    return ", ".join(f":{name}" for name in names)


def _write(piece: Piece, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(piece, name) for name in names}
    return values | {name: json.dumps(values[name], allow_nan=False) for name in _JSON}


def _read(row: sqlite3.Row) -> Piece:
    values = {name: row[name] for name in _NAMES}
    values |= {name: json.loads(values[name], parse_constant=lambda _: None) for name in _JSON}
    return Piece(**values | {"spent": bool(values["spent"]), "title": values["title"] or ""})
