"""The account gate: one queue before every request of a session that counts against the account's limit.

Submits, polls and renewals share one budget with every other process of the account (docs/api.md#rate-limits). The
rules:

1. Renewals first, then submits and single reads, then polls; while both of these wait, every fourth of their permits is
   a poll's, because a run that notices no results does not finish. First come, first served within a priority.
2. Without a known limit every request is admitted, but submits through a window that begins small and widens with each
   response and with time: a new session finds a small limit by a few 429s, and not by one for each slot. With a limit:
   a permit per 1/rate seconds, at most a second's worth saved.
3. A 429 closes the gate to all until `Retry-After` and some jitter have passed. It reopens with one permit,
   not with those of the pause. Responses to requests sent before a cut belong to that cut: a burst costs one decrease.
4. A service without usable responses empties a quota; then the gate is half-open: one request at a time, at growing
   intervals, until one succeeds.
5. A cancelled waiter is removed from the queue; a permit that was granted and not used goes to the next one.

The gate knows no clock: `now` is any monotonic time in seconds. It keeps no reference to a request in flight.
Rule 2 belongs to its pace: `OwnPace` here, for a single session; `SharedPace` for several processes of an account.
"""

import math
from abc import abstractmethod
from collections import OrderedDict
from enum import Enum, IntEnum, auto
from typing import Protocol

import attrs

from soundpiece_async._core.rate_control import LearnedRate, describe_rate
from soundpiece_async._core.retry import MAX_RETRY_AFTER, RetryQuota, exponential

SAVED_SECONDS = 1.0  # a late event loop may catch up with that much; the account's own bucket is at least as deep
_LET_THROUGH_SECONDS = 2.0  # over which requests are counted that were let through before the first 429
# submits in flight of a new session: at first, more for each response, more for each second
_WINDOW, _WINDOW_PER_RESPONSE, _WINDOW_PER_SECOND = 4.0, 0.25, 16.0
_SUBMITS_PER_POLL = 3
_JITTER_SHARE, _MAX_JITTER = 0.25, 1.0  # of the pause, seconds: processes of one account must not reopen together
# seconds, for a 429 without a usable `Retry-After`
_PAUSE_WITHOUT_RETRY_AFTER, _MAX_PAUSE_WITHOUT_RETRY_AFTER = 1.0, 60.0
_QUOTA = 100  # unusable responses, beyond the usable ones, before requests go one at a time
_PROBE_PAUSE, _MAX_PROBE_PAUSE = 0.1, 5.0  # seconds between two tries at a service that does not answer


class Priority(IntEnum):
    """The order of admission."""

    RENEWAL = 0  # a running download needs a fresh URL before its old one expires
    SUBMIT = 1
    POLL = 2


class _TicketState(Enum):
    QUEUED = auto()
    ADMITTED = auto()  # about to be sent, or in flight
    ENDED = auto()


@attrs.define(eq=False)
class Ticket:
    """A place in the queue and, once admitted, a permit; opaque to its holder."""

    priority: Priority
    since: float  # when it joined
    state: _TicketState = attrs.field(default=_TicketState.QUEUED, init=False)
    epoch: int = attrs.field(default=0, init=False)  # how many cuts the rate had seen when it was admitted
    cost: float = attrs.field(default=0.0, init=False)  # seconds of the rate


class Pace(Protocol):
    """The rate of a gate, and how a 429 changes it."""

    @property
    def rate(self) -> float | None:
        """Permits per second now; None: no limit is known."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The number of cuts of the rate so far; a ticket belongs to the epoch in which it was admitted."""

    @property
    @abstractmethod
    def due(self) -> float:
        """The time of the next permit; infinity: only another process can bring one."""

    @abstractmethod
    def is_ready(self, now: float) -> bool:
        """Return whether there is a permit."""

    def spend(self, ticket: Ticket, now: float) -> None:
        """Use up a permit for a ticket that is admitted."""

    def refund(self, ticket: Ticket, now: float) -> None:
        """Return the permit of an admitted ticket that was not sent."""

    def on_let_through(self, now: float) -> None:
        """Record a usable response, while no limit is known."""

    def on_rate_limited(self, epoch: int, *, now: float, until: float) -> None:
        """Record a 429 to a request of that epoch, which closes the gate until then."""


class OwnPace:
    """The pace of a session by itself: the learned rate.

    Args:
        ceiling: requests per second never exceeded; None: no limit until the first 429.
        epoch: the number of the first epoch.
        due: when the first permit is there; by default there is one, and a second's worth of saved ones.
    """

    def __init__(self, *, ceiling: float | None = None, epoch: int = 0, due: float = float("-inf")) -> None:
        self.learned = LearnedRate(ceiling=ceiling)
        self.rate: float | None = self.learned.rate
        """Permits per second now; None while no limit is known."""
        self.epoch = epoch
        self._next_permit_at = due  # when the next permit is there
        self._let_through, self._let_through_at = 0.0, 0.0  # requests of late, and the time of the last one

    def __repr__(self) -> str:
        return f"<OwnPace {describe_rate(self.rate)}>"

    @property
    def due(self) -> float:
        """The time of the next permit."""
        return float("-inf") if self.rate is None else self._next_permit_at

    def is_ready(self, now: float) -> bool:
        """Return whether there is a permit."""
        return self.rate is None or now >= self._next_permit_at

    def spend(self, ticket: Ticket, now: float) -> None:
        """Use up a permit."""
        if self.rate is not None:
            ticket.cost = 1 / self.rate
            self.learned.on_permit(wanted=ticket.since <= self._next_permit_at)
            self.rate = self.learned.rate
            self._next_permit_at = max(self._next_permit_at, now - SAVED_SECONDS) + ticket.cost

    def refund(self, ticket: Ticket, now: float) -> None:
        """Return a permit; a cut since then has reset them."""
        if ticket.epoch == self.epoch and self.rate is not None:
            cost = min(ticket.cost, 1 / self.rate)  # one permit at today's rate, and not at a slower one of before
            self._next_permit_at = max(self._next_permit_at - cost, now - SAVED_SECONDS)

    def on_let_through(self, now: float) -> None:
        """Count it; those of before count for less, the longer ago they were."""
        self._let_through = 1 + self._recent(now)
        self._let_through_at = now

    def on_rate_limited(self, epoch: int, *, now: float, until: float) -> None:
        """Lower the rate once for all that were sent before this was known (rule 3)."""
        if epoch == self.epoch:
            self.epoch += 1
            self.learned.on_rate_limited(let_through=self._recent(now) / _LET_THROUGH_SECONDS)
            self.rate = self.learned.rate
        self._next_permit_at = max(self._next_permit_at, until)

    def _recent(self, now: float) -> float:
        return self._let_through * math.exp(min(0.0, self._let_through_at - now) / _LET_THROUGH_SECONDS)


class Gate:
    """Admits requests, or makes them wait; see the rules at the top of this file.

    Every ticket goes `enqueue`, then `admit`, then `succeed`, `fail` or `limit`; or `release` at any point instead.
    """

    def __init__(self, *, ceiling: float | None = None, quota: int = _QUOTA, pace: Pace | None = None) -> None:
        """Open a gate.

        Args:
            ceiling: Requests per second never exceeded; 429s still lower it. None: no limit until the first 429.
            pace: Gives the permits, instead of an `OwnPace` with that ceiling.
            quota: Unusable responses, beyond the usable ones, after which requests go one at a time.
        """
        self._queues: tuple[OrderedDict[Ticket, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._pace: Pace = OwnPace(ceiling=ceiling) if pace is None else pace
        self._quota = RetryQuota(capacity=quota)
        self._closed_until: float | None = None
        self._consecutive_submits = 0
        self._submits_in_flight = 0
        self._window, self._window_since = _WINDOW, math.inf  # of submits, and when the first one was sent (rule 2)
        self._consecutive_pauses = 0  # pauses since the last success
        self._probe: Ticket | None = None  # the one request out while the quota is empty
        self._probes = 0
        self._probe_at = float("-inf")
        self.half_open: bool = False
        """Whether requests go out one at a time, because the service gives no usable responses (rule 4)."""
        self.limited_count: int = 0
        self.in_flight: int = 0

    def __repr__(self) -> str:
        closed = self._closed_until
        state = "open" if closed is None else f"closed until {closed:.3f}"
        serial = ", one at a time" if self.half_open else ""
        return f"<Gate {state}{serial}, {describe_rate(self.rate)}, {self.waiting} waiting, {self.in_flight} in flight>"

    @property
    def rate(self) -> float | None:
        """Permits per second now; None while no limit is known."""
        return self._pace.rate

    @property
    def closed_until(self) -> float | None:
        """When the pause of the last 429 ends; None once a request was admitted, or ready, after it."""
        return self._closed_until

    @property
    def window_full(self) -> bool:
        """Whether the first window of a new session has no place for one more submit (rule 2)."""
        return self._window_opens_at() > -math.inf

    @property
    def waiting(self) -> int:
        """The number of queued requests."""
        renewals, submits, polls = self._queues
        return len(renewals) + len(submits) + len(polls)

    @property
    def waiting_since(self) -> float:
        """When the oldest queued request joined; infinity: the queue is empty."""
        return min((next(iter(queue)).since for queue in self._queues if queue), default=float("inf"))

    def enqueue(self, priority: Priority, *, now: float) -> Ticket:
        """Append a ticket to the queue of that priority."""
        ticket = Ticket(priority, now)
        self._queues[priority][ticket] = None
        return ticket

    def admit_at_once(self, priority: Priority, *, now: float) -> Ticket | None:
        """Admit a request without a queue; None: it has to queue, because others do or the gate is not open."""
        if any(self._queues) or self._closed_until is not None or self.half_open or not self._pace.is_ready(now):
            return None
        if priority is Priority.SUBMIT and now < self._window_opens_at():
            return None
        return self._admit_ticket(Ticket(priority, now), now)

    def release(self, ticket: Ticket, *, now: float, sent: bool = False) -> None:
        """Release a ticket, or an admitted permit; harmless after the end.

        Args:
            ticket: The ticket to release.
            now: Seconds.
            sent: The request had already left: its permit is spent, and its missing response says nothing of the
                service.
        """
        if ticket.state is _TicketState.QUEUED:
            del self._queues[ticket.priority][ticket]
            ticket.state = _TicketState.ENDED
        elif ticket.state is _TicketState.ADMITTED:
            self._finish(ticket)
            if not sent:
                self._pace.refund(ticket, now)

    def admit(self, *, now: float) -> list[Ticket]:
        """Admit the requests that may be sent now, in order."""
        admitted: list[Ticket] = []
        if self._closed_until is not None:
            if now < self._closed_until:
                return admitted
            self._closed_until = None
        while (queue := self._next_queue(now)) is not None and self._may_send(now):
            admitted.append(self._admit_ticket(queue.popitem(last=False)[0], now))
        return admitted

    def next_wakeup(self, *, now: float) -> float | None:
        """Return when `admit` could next admit a request; None without waiters, or if only a response can help."""
        if not self.waiting or (self.half_open and self._probe is not None):
            return None
        renewals, _, polls = self._queues
        window = None if renewals or polls else self._window_opens_at()
        times = (now, self._closed_until, self._pace.due, self._probe_at if self.half_open else None, window)
        return max(time for time in times if time is not None)

    def succeed(self, ticket: Ticket, *, now: float) -> None:
        """End an admitted request that has a usable response."""
        self._finish(ticket)
        if self._pace.rate is None:
            self._window += _WINDOW_PER_RESPONSE
            self._pace.on_let_through(now)
        self._quota.record_success()
        self.half_open = False
        self._probes = 0
        if ticket.epoch == self._pace.epoch:  # those from before the pause do not show that it helped
            self._consecutive_pauses = 0

    def fail(self, ticket: Ticket, *, now: float, retry_after: float | None = None, jitter: float = 0.0) -> None:
        """End an admitted request without a response, or with an unusable one: an unreadable one, or a 5xx.

        Args:
            ticket: Of the request.
            now: Seconds.
            retry_after: Seconds asked for; applied here while requests go one at a time, otherwise by the caller.
            jitter: A random number in [0, 1), for the pause.
        """
        was_probe = ticket is self._probe
        self._finish(ticket)
        if self._pace.rate is None:
            self._window += _WINDOW_PER_RESPONSE
        self._quota.record_failure()
        self.half_open = not self._quota.left
        if was_probe or self.half_open:
            self._probe_at = max(self._probe_at, now + max(self._probe_pause(jitter), retry_after or 0.0))
            self._probes += was_probe

    def limit(self, ticket: Ticket, *, now: float, retry_after: float | None = None, jitter: float = 0.0) -> None:
        """End an admitted request whose response was a 429, which says nothing of the service's health (rule 3).

        Args:
            ticket: Of the request.
            now: Seconds.
            retry_after: Seconds asked for; None or 0 means a pause that doubles from 429 to 429.
            jitter: A random number in [0, 1), for the pause.
        """
        self._finish(ticket)
        self.limited_count += 1
        self._consecutive_pauses += ticket.epoch == self._pace.epoch
        self.close(now + self._pause(retry_after, jitter))
        self._pace.on_rate_limited(ticket.epoch, now=now, until=self._closed_until or now)

    def _next_queue(self, now: float) -> OrderedDict[Ticket, None] | None:
        """Return the queue to admit from next (rules 1 and 2)."""
        renewals, submits, polls = self._queues
        if renewals:
            return renewals
        if polls and (not submits or self._consecutive_submits >= _SUBMITS_PER_POLL):
            return polls
        if submits and now >= self._window_opens_at():
            return submits
        return polls or None

    def _window_opens_at(self) -> float:
        """Return when one more submit may be in flight (rule 2)."""
        missing = 1 + self._submits_in_flight - self._window
        if missing <= 0 or self._pace.rate is not None:
            return -math.inf
        return self._window_since + missing / _WINDOW_PER_SECOND

    def _may_send(self, now: float) -> bool:
        if not self._pace.is_ready(now):
            return False
        return not self.half_open or (self._probe is None and now >= self._probe_at)

    def _admit_ticket(self, ticket: Ticket, now: float) -> Ticket:
        if ticket.priority is Priority.SUBMIT:
            self._consecutive_submits += 1
            self._submits_in_flight += 1
            self._window_since = min(self._window_since, now)
        elif ticket.priority is Priority.POLL:
            self._consecutive_submits = 0
        ticket.state, ticket.epoch = _TicketState.ADMITTED, self._pace.epoch
        self.in_flight += 1
        self._pace.spend(ticket, now)
        if self.half_open:
            self._probe = ticket
        return ticket

    def _finish(self, ticket: Ticket) -> None:
        if ticket.state is not _TicketState.ADMITTED:
            raise ValueError(f"{ticket!r} is not in flight: each admitted ticket ends once")
        ticket.state = _TicketState.ENDED
        self.in_flight -= 1
        self._submits_in_flight -= ticket.priority is Priority.SUBMIT
        if ticket is self._probe:
            self._probe = None

    def close(self, until: float) -> None:
        """Pause until then, because of a 429 to this process or to another one."""
        self._closed_until = max(until, self._closed_until or until)

    def _pause(self, retry_after: float | None, jitter: float) -> float:
        if retry_after is not None and retry_after > 0:  # false for NaN too
            pause = min(retry_after, MAX_RETRY_AFTER)
        else:
            pause = exponential(
                self._consecutive_pauses - 1, base=_PAUSE_WITHOUT_RETRY_AFTER, cap=_MAX_PAUSE_WITHOUT_RETRY_AFTER
            )
        return pause + jitter * min(_MAX_JITTER, _JITTER_SHARE * pause)

    def _probe_pause(self, jitter: float) -> float:
        return exponential(self._probes, base=_PROBE_PAUSE, cap=_MAX_PROBE_PAUSE) * (1 + jitter * _JITTER_SHARE)
