"""The shared state of an account in Postgres: one row for the gate, changed by one statement per question.

No transaction is ever held open: a client that stands still would hold its locks. The statements do what
``AccountGate`` does. What Postgres 15 does not return, the row before the change, is answered by marks: a question
carries a name of its own, which stands in the row afterwards if the question was the one that made the change.

The tables are unlogged: after a crash of the server they are empty, which the processes detect and repair. Messages
need a direct connection, and no pooler in transaction mode.
"""

import os
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import anyio
import attrs
import psycopg
from psycopg.rows import TupleRow

from soundpiece_async._core.errors import SharedStoreError
from soundpiece_async._core.gate import SAVED_SECONDS
from soundpiece_async._core.shared_gate import (
    PEER_SECONDS,
    SPARE_PERMITS,
    TUNE_SECONDS,
    TUNING_SECONDS,
    Action,
    GateState,
    Heartbeat,
    Report,
    Reserve,
)
from soundpiece_async._lifetime import call_later
from soundpiece_async._shared.store import GATE, NEWS_KEPT, NEWS_SECONDS, TIMEOUT, Address, translated

SCHEMA = """
DO $$ BEGIN
IF to_regclass('soundpiece_news') IS NULL THEN
  PERFORM pg_advisory_xact_lock(7363871103);
  CREATE UNLOGGED TABLE IF NOT EXISTS soundpiece_gate (
    account text PRIMARY KEY, rate float8, ceiling float8,
    due float8 NOT NULL DEFAULT 0, closed float8 NOT NULL DEFAULT 0, pause float8 NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0, spent bigint NOT NULL DEFAULT 0,
    tuning float8 NOT NULL DEFAULT 0, learned text NOT NULL DEFAULT '', peers int NOT NULL DEFAULT 0,
    chosen text, closer text
  ) WITH (fillfactor = 10);
  CREATE UNLOGGED TABLE IF NOT EXISTS soundpiece_peer (
    account text, peer text, seen float8 NOT NULL, ceiling float8, PRIMARY KEY (account, peer)
  ) WITH (fillfactor = 50);
  CREATE UNLOGGED TABLE IF NOT EXISTS soundpiece_news (
    account text, operation text, at float8 NOT NULL, body bytea NOT NULL, PRIMARY KEY (account, operation)
  );
  CREATE INDEX IF NOT EXISTS soundpiece_news_at ON soundpiece_news (account, at);
END IF;
END $$
"""

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_CLOCK = f"(SELECT {_NOW} AS now) AS clock"
_SHOWN = f"""
g.rate, g.ceiling, greatest(0, least(g.closed, {_NOW} + g.pause) - {_NOW}) AS shut, g.epoch, g.version, g.spent,
g.learned, g.peers
"""

_ATTEND = f"""
WITH sign AS (
  INSERT INTO soundpiece_peer VALUES (%(account)s, %(peer)s, {_NOW}, %(ceiling)s::float8)
  ON CONFLICT (account, peer) DO UPDATE SET seen = excluded.seen, ceiling = excluded.ceiling
), gone AS (
  DELETE FROM soundpiece_peer AS p USING (
    SELECT account, peer FROM soundpiece_peer
    WHERE account = %(account)s AND peer <> %(peer)s AND seen < {_NOW} - {PEER_SECONDS} FOR UPDATE SKIP LOCKED
  ) AS old WHERE p.account = old.account AND p.peer = old.peer
), past AS (
  DELETE FROM soundpiece_news AS n USING (
    SELECT account, operation FROM soundpiece_news
    WHERE account = %(account)s AND at < greatest({_NOW} - {NEWS_SECONDS}, (
      SELECT at FROM soundpiece_news WHERE account = %(account)s ORDER BY at DESC OFFSET {NEWS_KEPT} LIMIT 1
    )) LIMIT 1000 FOR UPDATE SKIP LOCKED
  ) AS old WHERE n.account = old.account AND n.operation = old.operation
), others AS (
  SELECT count(*) AS live, min(ceiling) AS ceiling FROM soundpiece_peer
  WHERE account = %(account)s AND peer <> %(peer)s AND seen >= {_NOW} - {PEER_SECONDS}
)
INSERT INTO soundpiece_gate AS g (account, peers, ceiling)
SELECT %(account)s, live + 1, least(ceiling, %(ceiling)s::float8) FROM others
ON CONFLICT (account) DO UPDATE SET peers = excluded.peers, ceiling = excluded.ceiling
RETURNING {_SHOWN}, 0, false
"""

_TAKE = f"""
UPDATE soundpiece_gate AS g SET (due, spent, tuning, chosen) = (
  SELECT start + %(count)s / pace, paid,
    CASE WHEN tunes THEN now + {TUNING_SECONDS} ELSE g.tuning END, CASE WHEN tunes THEN %(mark)s END
  FROM (
    SELECT now, pace, paid,
      g.rate IS NOT NULL AND paid >= greatest(1, pace * {TUNE_SECONDS}) AND now >= g.tuning AS tunes,
      CASE WHEN next - opens > (greatest(1, g.peers) * (%(count)s + 2) + {SPARE_PERMITS}) / pace THEN opens
      ELSE next END AS start
    FROM (
      SELECT now, least(g.rate, g.ceiling) AS pace, greatest(now, shut) AS opens,
        greatest(g.due, now - {SAVED_SECONDS}, shut) AS next,
        g.spent + CASE WHEN now - g.due <= %(waited)s THEN %(count)s ELSE 0 END AS paid
      FROM (SELECT now, least(g.closed, now + g.pause) AS shut FROM {_CLOCK}) AS a
    ) AS b
  ) AS c
) WHERE account = %(account)s AND least(g.rate, g.ceiling) IS NOT NULL
RETURNING {_SHOWN}, greatest(0, g.due - %(count)s / least(g.rate, g.ceiling) - {_NOW}), g.chosen = %(mark)s
"""

_REPORT = f"""
WITH changed AS (
  UPDATE soundpiece_gate AS g SET (closed, pause, epoch, due, chosen, closer) = (
    SELECT later, CASE WHEN later > shut THEN %(pause)s ELSE g.pause END,
      g.epoch + first::int, CASE WHEN first THEN later ELSE greatest(g.due, later) END,
      CASE WHEN first THEN %(mark)s END, CASE WHEN first OR later > shut THEN %(mark)s END
    FROM (
      SELECT shut, greatest(shut, now + %(pause)s) AS later, g.epoch = %(epoch)s AS first
      FROM (SELECT now, least(g.closed, now + g.pause) AS shut FROM {_CLOCK}) AS a
    ) AS b
  ) WHERE account = %(account)s
  RETURNING {_SHOWN}, 0, g.chosen = %(mark)s, g.closer = %(mark)s AS told
)
SELECT changed.*, CASE WHEN told THEN pg_notify(%(channel)s, '{GATE}') END FROM changed
"""

_TUNE = f"""
WITH changed AS (
  UPDATE soundpiece_gate AS g SET version = g.version + 1, rate = %(rate)s, learned = %(learned)s, tuning = 0,
    spent = greatest(0, g.spent - %(spent)s)
  WHERE account = %(account)s AND version = %(version)s
  RETURNING {_SHOWN}, 0, true
)
SELECT changed.*, CASE WHEN old.rate IS NULL THEN pg_notify(%(channel)s, '{GATE}') END
FROM changed, soundpiece_gate AS old WHERE old.account = %(account)s
"""

_READ = f"SELECT {_SHOWN}, 0, false FROM soundpiece_gate AS g WHERE account = %(account)s"

_PUBLISH = f"""
WITH news AS (
  INSERT INTO soundpiece_news VALUES (%(account)s, %(operation)s, {_NOW}, %(body)s)
  ON CONFLICT (account, operation) DO UPDATE SET at = excluded.at, body = excluded.body
)
SELECT pg_notify(%(channel)s, %(operation)s)
"""

_LOOK = "SELECT operation, body FROM soundpiece_news WHERE account = %(account)s AND operation = ANY(%(operations)s)"

_DEPART = "DELETE FROM soundpiece_peer WHERE account = %(account)s AND peer = %(peer)s"


class PostgresStore:
    """A ``Store`` in Postgres, with one connection for queries and one for notifications."""

    def __init__(self, address: Address, *, peer: str) -> None:
        self.address = address
        self._account = {"account": address.account, "peer": peer, "channel": f"soundpiece_{address.account}"}
        self._ceiling: float | None = None
        self._marks = (f"{peer} {number}" for number in count())
        self._connections: list[psycopg.AsyncConnection[TupleRow]] = []
        self._messages: AsyncGenerator[psycopg.Notify] | None = None

    def __repr__(self) -> str:
        return f"<PostgresStore {self.address}>"

    @translated
    async def open(self) -> None:
        """Connect, create missing tables, and listen."""
        await self.close()
        for _ in range(2):
            connection = await psycopg.AsyncConnection.connect(
                str(self.address.url), autocommit=True, connect_timeout=int(TIMEOUT)
            )
            self._connections.append(connection)
        asking, listening = self._connections
        await self._run(asking, "SET synchronous_commit = off; SET idle_in_transaction_session_timeout = 5000")
        await self._run(asking, SCHEMA)
        await self._run(listening, f"LISTEN {self._account['channel']}")
        self._messages = listening.notifies()

    async def close(self) -> None:
        """Close the connections."""
        messages, connections = self._messages, self._connections
        self._messages, self._connections = None, []
        if messages is not None:
            await messages.aclose()
        for connection in connections:
            await connection.close()

    @translated
    async def perform(self, action: Action) -> GateState:
        """Run the statement of an action; create the row first if a crash removed it."""
        match action:
            case Heartbeat(ceiling=ceiling):
                self._ceiling = ceiling
                statement, values = _ATTEND, {"ceiling": ceiling}
            case Reserve():
                statement, values = _TAKE, {"count": action.count, "waited": action.waited}
            case Report():
                statement, values = _REPORT, {"epoch": action.epoch, "pause": action.pause}
            case tuning:
                statement, values = _TUNE, attrs.asdict(tuning)
        for one in (statement, _READ):
            if (row := await self._fetch(one, **values)) is not None:
                return _read(row)
        await self._fetch(_ATTEND, ceiling=self._ceiling)
        return await self.perform(action)

    @translated
    async def depart(self) -> None:
        """Remove this process's row; the next heartbeat of another one updates the count."""
        await self._run(self._connections[0], _DEPART, self._account)

    @translated
    async def publish(self, handle: str, body: bytes) -> None:
        """Store the result, and notify with the handle only, because a message is limited to 8,000 bytes."""
        await self._fetch(_PUBLISH, operation=handle, body=body)

    @translated
    async def look(self, handles: Sequence[str]) -> Mapping[str, bytes]:
        """Read several at once."""
        cursor = await self._run(self._connections[0], _LOOK, {**self._account, "operations": list(handles)})
        return dict(await cursor.fetchall())

    @translated
    async def next_message(self) -> str:
        """Wait for a notification."""
        assert self._messages is not None  # noqa: S101 - it was opened
        async for message in self._messages:
            return str(message.payload)
        raise SharedStoreError(f"{self.address}: the connection that listens was closed")

    async def _fetch(self, statement: str, **values: Any) -> TupleRow | None:
        values |= self._account | {"mark": next(self._marks)}
        cursor = await self._run(self._connections[0], statement, values)
        return await cursor.fetchone()

    async def _run(
        self, connection: "psycopg.AsyncConnection[TupleRow]", statement: Any, values: Mapping[str, Any] | None = None
    ) -> "psycopg.AsyncCursor[TupleRow]":
        """Execute a statement, shielded, because the driver's cancellation waits for a server that may not answer."""
        cursor = connection.cursor()
        with anyio.CancelScope(shield=True):
            forget = call_later(TIMEOUT, partial(_break, connection))
            try:
                await cursor.execute(statement, values)
            finally:
                forget()
        return cursor  # pyright: ignore[reportPossiblyUnboundVariable] - nothing cancels that scope


def _break(connection: "psycopg.AsyncConnection[TupleRow]") -> None:
    """Shut down a connection whose server is silent: its waiters fail at once."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _read(row: TupleRow) -> GateState:
    rate, ceiling, closed, epoch, version, spent, learned, peers, wait, chosen = row[:10]
    return GateState(
        rate=rate,
        ceiling=ceiling,
        closed=closed,
        epoch=epoch,
        version=version,
        spent=spent,
        learned=learned,
        peers=peers,
        wait=float(wait),
        chosen=bool(chosen),
    )
