"""One connection to Postgres, whose errors are those of a journal.

1. The driver's errors hold the password in their frames: none of them is kept.
2. A server that does not answer in time counts as away: the connection is ended.
3. A statement that a deadlock ended is sent again: each may be repeated (rule 3 of ``postgres_statements``). Any other
   failure ends the run: nothing is sent that is not recorded, and the next process resumes from what is.
"""

import os
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio
import psycopg
from psycopg.rows import DictRow, dict_row

from soundpiece_async._core.errors import JournalError
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.redaction import Secret
from soundpiece_async._lifetime import call_later
from soundpiece_async._shared.store import Address

Row = JsonObject

ANSWER_SECONDS = 60.0
"""Seconds that the server has for a statement (rule 2)."""
CONNECT_SECONDS = 10


class PostgresConnection:
    """A connection, and the error that ended it.

    Args:
        url: of the database; it may hold a password.
        title: of what is in it, for messages.
    """

    def __init__(self, url: Secret, *, title: str) -> None:
        self.address = Address(url, "")
        self.fault: JournalError | None = None
        self._title = title
        self._connection: psycopg.AsyncConnection[DictRow] | None = None

    def __repr__(self) -> str:
        return f"<PostgresConnection {self.address} {'closed' if self._connection is None else 'open'}>"

    async def open(self) -> None:
        """Connect.

        Raises:
            JournalError: the server cannot be reached, or refuses.
        """
        try:
            self._connection = await psycopg.AsyncConnection[DictRow].connect(
                str(self.address.url),
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=30,
                application_name="soundpiece",
            )
        except (psycopg.Error, OSError) as error:
            self.fault = self._explain(error)
        if self.fault is not None:
            raise self.fault

    async def close(self) -> None:
        """Close the connection. Closing twice is no error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def fetch(self, statement: str, values: Mapping[str, Any], *, seconds: float | None = None) -> list[Row]:
        """Execute a statement, and return its rows.

        Args:
            statement: with placeholders.
            values: of those.
            seconds: that the server has for it; None: ``ANSWER_SECONDS``.

        Raises:
            JournalError: the server refuses, or does not answer.
        """
        if self._connection is None:
            raise self.fault or JournalError(f"the {self._title} in {self.address} is closed")
        while True:
            try:
                return await self._execute(self._connection, statement, values, seconds or ANSWER_SECONDS)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                continue
            except Exception as error:  # noqa: BLE001 - foreign code, of foreign data
                fault = self._explain(error)
                break
        del values
        if self._connection.closed:
            self.fault = fault
        raise fault

    async def _execute(
        self,
        connection: "psycopg.AsyncConnection[DictRow]",
        statement: Any,
        values: Mapping[str, JsonValue],
        seconds: float,
    ) -> list[Row]:
        """Execute a statement behind a shield: the driver would have it cancelled by a server that may not answer."""
        rows: list[Row] = []
        with anyio.CancelScope(shield=True):
            forget = call_later(seconds, partial(_break, connection))
            try:
                cursor = await connection.execute(statement, values)
                if cursor.description is not None:
                    rows = await cursor.fetchall()
            finally:
                forget()
        return rows

    def _explain(self, error: Exception) -> JournalError:
        """Make our error of the driver's (rule 1)."""
        told = self.address.describe(error)
        return JournalError(
            f"the {self._title} failed: {told}; nothing more is sent: see to the database, then run the same again; "
            "nothing is lost"
        )


def _break(connection: "psycopg.AsyncConnection[DictRow]") -> None:
    """End a connection whose server is silent: what waits for it fails at once."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
