"""The pool of connections, and the answers that come over it.

1. Each kept connection is checked before it is used. One that its host has closed, which the event loop may not have
   noticed yet, is dropped, and the next one is used.
2. If the host closes a kept connection just as it is used, before the first byte of a response, `StaleConnection` is
   raised: the request can be retried at once.
3. The time for which a host keeps connections is learned from those: a connection that has been idle for half as long
   is not used. The limit grows again with each connection that brings a response.
4. When descriptors run short, idle connections are closed first.
"""

import math
import select
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import aiohttp
import attrs
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from soundpiece_async._core.redaction import redact_url
from soundpiece_async._lifetime import TimeoutQueue

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

STALE_WITHIN = 1.0
"""Seconds after sending. A kept connection that breaks within them was closed before the request arrived; a host that
closes it later has received the request and not answered."""

GROWTH = 1.05
"""Factor by which each response over a kept connection extends the time that connections may be idle (rule 3)."""


class StaleConnection(aiohttp.ClientConnectionError):
    """A kept connection was closed by its host when it was used (rule 2)."""


class Connector(aiohttp.TCPConnector):
    """A connection pool without a limit of its own.

    Attributes:
        patience: seconds after which an idle connection is not used again; aiohttp itself closes them after 15.
        headers_within: limits the time from a request to the headers of its response; None: the caller does.
    """

    patience: float = math.inf
    headers_within: TimeoutQueue | None = None

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection that is open, as far as this end can tell (rule 1)."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            use = None if protocol is None else _uses.get(protocol) or _uses.setdefault(protocol, _Use(self))
            if protocol is None or use is None or use.start(monotonic(), protocol):
                return connection
            connection.close()

    def close_idle(self) -> None:
        """Close the idle connections; their descriptors are free at the next turn of the loop (rule 4)."""
        for kept in self._conns.values():
            for protocol, _ in kept:
                if protocol.transport is not None:
                    protocol.transport.abort()  # the protocol's own is younger than our oldest aiohttp


@attrs.define(eq=False)
class _Use:
    """The pool of one connection, and the times of its latest request and response, by a steady clock."""

    connector: Connector
    began: float = 0.0
    answered: float | None = None

    def start(self, now: float, protocol: "ResponseHandler") -> bool:
        """Record a request; return False if the connection cannot be used for it (rules 1 and 3)."""
        self.began = now
        if self.answered is None:
            return True
        return now - self.answered <= self.connector.patience and not _is_readable(protocol)

    def answer(self, now: float) -> None:
        """Record a response (rule 3)."""
        if self.answered is not None:
            self.connector.patience *= GROWTH
        self.answered = now

    def is_stale(self, now: float) -> bool:
        """Return whether a connection that broke was closed before it was used, and learn from that (rule 3)."""
        if self.answered is None or now - self.began >= STALE_WITHIN:
            return False
        self.connector.patience = min(self.connector.patience, (self.began - self.answered) / 2)
        return True


_uses: "WeakKeyDictionary[ResponseHandler, _Use]" = WeakKeyDictionary()


class Response(aiohttp.ClientResponse):
    """Response that keeps aiohttp from repeating a PUT or GET by itself when a kept connection was lost.

    That second request would bypass the rate limiter, the counts and the pauses: retries have one owner.
    aiohttp repeats after two kinds of error only, both raised while it waits for the headers; they are replaced here.
    A middleware could do the same, at 500 bytes for each open poll.
    The repr, which frames show, has neither headers nor query: both may hold the signature of a URL.
    """

    def __repr__(self) -> str:
        return f"<Response {self.method} {redact_url(str(self.url))} [{self.status}]>"

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for status and headers."""
        protocol = connection.protocol
        use = None if protocol is None else _uses.get(protocol)
        limit = None if use is None else use.connector.headers_within
        try:
            if limit is None:
                started = await super().start(connection)
            else:
                with limit.start():
                    started = await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            stale = use is not None and use.is_stale(monotonic())
            raise (StaleConnection if stale else aiohttp.ClientConnectionError)(str(error)) from error
        if use is not None:
            use.answer(monotonic())
        return started


def _is_readable(protocol: "ResponseHandler") -> bool:
    """Return whether an idle connection has something to read: its end, or unexpected bytes."""
    found = protocol.transport and protocol.transport.get_extra_info("socket")
    if not found:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([found], [], [], 0)[0])
    poll = select.poll()
    poll.register(found, select.POLLIN)
    return bool(poll.poll(0))
