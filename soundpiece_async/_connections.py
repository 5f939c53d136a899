"""The pool of connections, and the answers that come over it.

1. A kept connection is looked at before it is used: one that its host has closed meanwhile, which the event loop may
   not have heard of yet, is dropped, and the next one is taken.
2. One that its host closes in the very moment it is used, before a byte of an answer, is `StaleConnection`: whoever
   owns the retries may try again at once.
3. How long a host keeps connections is learned from those: none is used that has idled for half as long. That grows
   again with each that is well.
4. When descriptors run short, connections that idle are the first to go.
"""

import math
import select
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import aiohttp
import attrs
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from soundpiece_async._core.redaction import redact_url

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

STALE_WITHIN = 1.0
"""Seconds from sending in which a kept connection that breaks was closed before the request came. A host that closes
it later has had the request, and given no answer."""

GROWTH = 1.05
"""What each kept connection that brings an answer multiplies the time by that others may idle (rule 3)."""


class StaleConnection(aiohttp.ClientConnectionError):
    """A kept connection was closed by its host when it was used (rule 2)."""


class Connector(aiohttp.TCPConnector):
    """A pool without a limit of its own.

    Attributes:
        patience: seconds a connection may have idled to be used again; aiohttp itself keeps none for over 15.
    """

    patience: float = math.inf

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection that stands, as far as this end can know (rule 1)."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            use = None if protocol is None else _uses.setdefault(protocol, _Use(self))
            if use is None or use.answered is None:
                return connection
            if self._loop.time() - use.answered <= self.patience and not _is_readable(connection):
                return connection
            connection.close()

    def close_idle(self) -> None:
        """Close what idles; its descriptors are free at the next turn of the loop (rule 4)."""
        for kept in self._conns.values():
            for protocol, _ in kept:
                if protocol.transport is not None:
                    protocol.transport.abort()  # the protocol's own is younger than our oldest aiohttp


@attrs.define(eq=False)
class _Use:
    """What is known of one connection: whose it is, and when it brought its latest answer, by the loop's clock."""

    connector: Connector
    answered: float | None = None

    def answer(self, now: float) -> None:
        """Record an answer (rule 3)."""
        if self.answered is not None:
            self.connector.patience *= GROWTH
        self.answered = now

    def is_stale(self, began: float, now: float) -> bool:
        """Return whether one that broke before an answer was closed before it was used; learns from that (rule 3)."""
        if self.answered is None or now - began >= STALE_WITHIN:
            return False
        self.connector.patience = min(self.connector.patience, (began - self.answered) / 2)
        return True


_uses: "WeakKeyDictionary[ResponseHandler, _Use]" = WeakKeyDictionary()


class Response(aiohttp.ClientResponse):
    """Keeps aiohttp from sending a PUT or GET again by itself when a kept-alive connection was lost.

    That second request would pass by our gate, our counts and our pauses: each call has one owner of its retries.
    aiohttp repeats after two kinds of error only, both met while it waits for the headers; here they become another.
    A middleware could do that too, at 500 bytes for each poll that is out.
    Its repr, which frames show, has no headers and no query: either may hold what signs a URL.
    """

    def __repr__(self) -> str:
        return f"<Response {self.method} {redact_url(str(self.url))} [{self.status}]>"

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for status and headers."""
        use = None if connection.protocol is None else _uses.get(connection.protocol)
        began = self._loop.time()
        try:
            started = await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            stale = use is not None and use.is_stale(began, self._loop.time())
            raise (StaleConnection if stale else aiohttp.ClientConnectionError)(str(error)) from error
        if use is not None:
            use.answer(self._loop.time())
        return started


def _is_readable(connection: Connection) -> bool:
    """Return whether a connection without a request has something to read: its end, or what nobody asked for."""
    found = connection.transport and connection.transport.get_extra_info("socket")
    if not found:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([found], [], [], 0)[0])
    poll = select.poll()
    poll.register(found, select.POLLIN)
    return bool(poll.poll(0))
