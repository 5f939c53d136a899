"""Runs the account gate: no request is sent to the API before the gate admits it.

Apart from the transport, because a shared store drives it, too: requests of other processes change who may send.
"""

import logging
import math
import random
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

import anyio

from soundpiece_async._core.gate import Gate, Pace, Priority, Ticket
from soundpiece_async._core.rate_control import describe_rate
from soundpiece_async._lifetime import NEVER, StopSignal
from soundpiece_async._logs import get_logger

logger = get_logger("pacer")


class OutageTimeout(Exception):
    """An outage of the service lasted for too long while a request waited for its turn."""


class Pacer:
    """One per session. ``acquire`` waits for a permit; ``run`` is the only timer, and wakes the waiters.

    Args:
        ceiling: requests per second at most; None: unlimited until the first 429.
        pace: grants the permits, instead of a rate learned here under that ceiling.
    """

    def __init__(self, *, ceiling: float | None, pace: Pace | None = None) -> None:
        self.gate: Gate = Gate(ceiling=ceiling, pace=pace)
        self.sent: int = 0
        self._waiting: dict[Ticket, anyio.Event] = {}
        self._changed = anyio.Event()
        self._past_outages = 0.0
        self._outage_since: float | None = None
        self._deadlines: dict[anyio.CancelScope, float] = {}  # in ``outage_seconds``

    def __repr__(self) -> str:
        return f"<Pacer sent={self.sent} waiting={len(self._waiting)} outage={self._past_outages:.3g} {self.gate!r}>"

    @property
    def outage_seconds(self) -> float:
        """Seconds of outages since the start: requests went one at a time, because none had a usable response.

        A pause after a 429 does not count: the service is healthy.
        """
        return self._past_outages + (0.0 if self._outage_since is None else monotonic() - self._outage_since)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause of the last 429 ends; 0.0 without a pause."""
        until = self.gate.closed_until
        return 0.0 if until is None else max(0.0, until - monotonic())

    @contextmanager
    def outage_deadline(self, until: float, *, stop: StopSignal = NEVER) -> Generator[None]:
        """End the wait inside once ``outage_seconds`` reaches ``until``.

        Otherwise ten thousand requests that go one at a time would wait forever. Time in a queue while the service
        works, or after a 429, does not count.

        Raises:
            OutageTimeout: the time was up.
            SoundpieceError: the run was stopped, before or meanwhile.
        """
        with stop.interrupts() as scope:
            self._deadlines[scope] = until
            if self._outage_since is not None:
                scope.deadline = anyio.current_time() + until - self.outage_seconds
            try:
                yield
            finally:
                del self._deadlines[scope]
        if scope.cancelled_caught:
            raise OutageTimeout

    async def acquire(
        self, priority: Priority, *, what: object = "a request", until: float = math.inf, stop: StopSignal = NEVER
    ) -> Ticket:
        """Wait for a permit, to be ended by ``succeeded``, ``failed``, ``rate_limited`` or ``release``.

        Cancelled, none is left.

        Args:
            priority: of the request.
            what: the request, for the log.
            until: the deadline, in ``outage_seconds``. A permit that is there at once has none.
            stop: of the run that the request belongs to.

        Raises:
            OutageTimeout: the deadline passed.
            SoundpieceError: the run was stopped while the request waited.
        """
        ticket = self.acquire_at_once(priority)
        if ticket is None:
            ticket = self.gate.enqueue(priority, now=monotonic())
            if not self._admit(ticket):
                await self._wait_at_gate(ticket, what=what, until=until, stop=stop)
            self.sent += 1
        return ticket

    def acquire_at_once(self, priority: Priority) -> Ticket | None:
        """Return a permit, as ``acquire`` does; None: a request has to wait for it."""
        ticket = self.gate.admit_at_once(priority, now=monotonic())
        self.sent += ticket is not None
        return ticket

    async def _wait_at_gate(self, ticket: Ticket, *, what: object, until: float, stop: StopSignal) -> None:
        event = self._waiting[ticket] = anyio.Event()
        self._changed.set()
        began, reason = monotonic(), self._explain_wait() if logger.isEnabledFor(logging.DEBUG) else ""
        try:
            with self.outage_deadline(until, stop=stop):
                await event.wait()
        except BaseException:
            self._waiting.pop(ticket, None)
            self.release(ticket)
            raise
        logger.debug("%s: waited %.3f s at the rate limiter: %s", what, monotonic() - began, reason)

    def succeeded(self, ticket: Ticket) -> None:
        """End a request that has a usable response."""
        self.gate.succeed(ticket, now=monotonic())
        if self._waiting or self._outage_since is not None:  # else nothing can have changed
            self._admit()

    def failed(self, ticket: Ticket, *, retry_after: float | None = None) -> None:
        """End a request that has no response, or an unusable one: a 5xx, or a 200 with an error page."""
        known = self.gate.half_open
        self.gate.fail(ticket, now=monotonic(), retry_after=retry_after, jitter=random.random())
        if self.gate.half_open and not known:
            logger.warning("no usable responses from the service: requests go one at a time until one succeeds")
        self._admit()

    def rate_limited(self, ticket: Ticket, *, retry_after: float | None) -> None:
        """End a request whose response was a 429, with the seconds it asks to wait."""
        if self.gate.limited_count == 0:
            logger.warning("the first 429 of this session: requests are paced from now on")
        now, jitter = monotonic(), random.random()
        self.gate.limit(ticket, now=now, retry_after=retry_after, jitter=jitter)
        if logger.isEnabledFor(logging.DEBUG):
            asked = "none" if retry_after is None else f"{retry_after:g} s"
            rate = describe_rate(self.gate.rate)
            pause = self.paused_for
            logger.debug("a 429 pauses all requests for %.1f s (Retry-After: %s), then %s", pause, asked, rate)
        self._changed.set()
        self._admit()

    def _explain_wait(self) -> str:
        """Return why a request has to wait now."""
        if paused_for := self.paused_for:
            return f"a 429 pauses all requests, for {paused_for:.1f} s more"
        if self.gate.half_open:
            return f"an outage: one request at a time, and {self.gate.waiting} wait"
        if self.gate.window_full:
            return f"a new session begins with few submits, and {self.gate.waiting} wait"
        return f"{describe_rate(self.gate.rate)}, and {self.gate.waiting} wait"

    def release(self, ticket: Ticket, *, sent: bool = False) -> None:
        """Leave the queue, or return a permit: unused, or used by a request that was cancelled once ``sent``."""
        self.gate.release(ticket, now=monotonic(), sent=sent)
        self._admit()

    async def wait_for_change(self) -> None:
        """Wait until the queue, or something else about the gate, changes."""
        await self._changed.wait()

    def wake(self) -> None:
        """Admit those whose turn it is, after news from elsewhere."""
        self._changed.set()
        self._admit()

    async def run(self) -> None:
        """Wake waiters when they may send, until cancelled."""
        while True:
            self._admit()
            self._changed = anyio.Event()  # after admitting, which sets it as well
            now = monotonic()
            next_wakeup = self.gate.next_wakeup(now=now)
            with anyio.move_on_after(None if next_wakeup is None else max(0.0, next_wakeup - now)):
                await self._changed.wait()

    def _admit(self, ticket: Ticket | None = None) -> bool:
        """Admit those whose turn it is; return whether ``ticket`` is among them."""
        mine = False
        for admitted in self.gate.admit(now=monotonic()):
            event = self._waiting.pop(admitted, None)
            if event is not None:
                event.set()
            mine = mine or admitted is ticket
        if self._waiting:
            self._changed.set()
        self._update_outage_clock()
        return mine

    def _update_outage_clock(self) -> None:
        """Start or stop the clock of the outage, and with it the deadlines of those who wait."""
        outage = self.gate.half_open and self.gate.closed_until is None
        if outage is (self._outage_since is not None):
            return
        now = monotonic()
        self._past_outages = self.outage_seconds
        self._outage_since = now if outage else None
        for scope, until in self._deadlines.items():
            scope.deadline = now + until - self._past_outages if outage else math.inf
