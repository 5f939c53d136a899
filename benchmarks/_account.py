"""An account with an undisclosed limit, and sessions that share it, in virtual time: nothing here sleeps.

Each session has work without end, and as many requests under way or waiting as the client has slots. It never sees
the account or another session: only its own answers, half a round trip after they were given.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from typing import Protocol

import attrs

from soundpiece_async._core.gate import Gate, Priority, Ticket
from soundpiece_async._core.shared_gate import AccountGate, Report, SharedPace

ONE_WAY = 0.025  # seconds on the wire, give or take 40 %
SUBMITS, POLLS = 16, 100  # slots of one session, as in Limits()


class Account(Protocol):
    """What answers: None for a 200, else the `Retry-After` of a 429 in whole seconds."""

    rate: float

    def take(self, now: float) -> int | None:
        """Answer one request."""


@attrs.define
class TokenBucket:
    """Refilled evenly; `depth` seconds of it are kept."""

    rate: float
    depth: float
    _level: float = math.inf
    _at: float = 0.0

    def take(self, now: float) -> int | None:
        """Answer one request."""
        self._level = min(self.rate * self.depth, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return None
        return max(1, math.ceil((1 - self._level) / self.rate))


@attrs.define
class FixedWindow:
    """So many requests per window; `length` in seconds."""

    rate: float
    length: float
    _window: int = -1
    _used: int = 0

    def take(self, now: float) -> int | None:
        """Answer one request."""
        window = int(now // self.length)
        if window != self._window:
            self._window, self._used = window, 0
        if self._used < self.rate * self.length:
            self._used += 1
            return None
        return max(1, math.ceil((window + 1) * self.length - now))


class Client(Protocol):
    """One session, as the world drives it."""

    def want(self, priority: Priority, now: float) -> None:
        """Have one more request to send."""

    def take(self, now: float) -> list[Ticket]:
        """Return the requests to send now."""

    def next_wakeup(self, now: float) -> float | None:
        """Return when to ask again."""

    def hear(self, ticket: Ticket, now: float, retry_after: int | None) -> None:
        """Learn of an answer; the work of a refused request comes back as a new wish at once."""


class Gated:
    """The shipped gate."""

    def __init__(self, rng: random.Random) -> None:
        self.gate = Gate()
        self._random = rng

    def want(self, priority: Priority, now: float) -> None:
        """Join the queue."""
        self.gate.enqueue(priority, now=now)

    def take(self, now: float) -> list[Ticket]:
        """Ask the gate."""
        return self.gate.admit(now=now)

    def next_wakeup(self, now: float) -> float | None:
        """Ask the gate."""
        return self.gate.next_wakeup(now=now)

    def hear(self, ticket: Ticket, now: float, retry_after: int | None) -> None:
        """Pass the answer to the gate."""
        if retry_after is None:
            self.gate.succeed(ticket, now=now)
        else:
            self.gate.limit(ticket, now=now, retry_after=retry_after, jitter=self._random.random())


class SharedGated:
    """The shipped gate with a pace that is shared through a store, which answers at once.

    Args:
        rng: For the jitter of a pause.
        account: The account's gate in the store.
        others: The processes that are notified when it changes; this one adds itself.
    """

    def __init__(self, rng: random.Random, account: AccountGate, others: "list[SharedGated]") -> None:
        self.pace = SharedPace()
        self.gate = Gate(pace=self.pace)
        self._random, self._account, self._others = rng, account, others
        others.append(self)

    def want(self, priority: Priority, now: float) -> None:
        """Join the queue."""
        self.gate.enqueue(priority, now=now)

    def take(self, now: float) -> list[Ticket]:
        """Ask the store what is due to be asked, then the gate."""
        taken: list[Ticket] = []
        while (
            action := self.pace.next_action(now, waiting=self.gate.waiting, since=self.gate.waiting_since)
        ) is not None:
            seen = self._account.perform(action, peer=str(id(self)), now=now)
            self.pace.answer(action, seen, now=now, took=0.001)
            if seen.closed:
                self.gate.close(now + seen.closed)
            if isinstance(action, Report) and seen.chosen:
                for other in self._others:
                    if other is not self:
                        other.pace.alarm()
            taken += self.gate.admit(now=now)
        return taken + self.gate.admit(now=now)

    def next_wakeup(self, now: float) -> float | None:
        """Ask the gate, and the pace."""
        next_wakeup = self.gate.next_wakeup(now=now)
        return None if next_wakeup is None else min(next_wakeup, self.pace.next_wakeup(now))

    def hear(self, ticket: Ticket, now: float, retry_after: int | None) -> None:
        """Pass the answer to the gate."""
        if retry_after is None:
            self.gate.succeed(ticket, now=now)
        else:
            self.gate.limit(ticket, now=now, retry_after=retry_after, jitter=self._random.random())


class Ungated:
    """What most clients do: each request on its own sleeps off its own 429, and sends again.

    Args:
        rng: For a tenth of jitter.
        pause: Seconds instead of `Retry-After`; None honours the header.
    """

    def __init__(self, rng: random.Random, *, pause: float | None = None) -> None:
        self._random, self._pause = rng, pause
        self._ready: list[tuple[float, int, Priority]] = []
        self._count = itertools.count()
        self._asleep: dict[Priority, list[float]] = {priority: [] for priority in Priority}

    def want(self, priority: Priority, now: float) -> None:
        """Send at once, unless this is the wish of a request that was refused."""
        asleep = self._asleep[priority]
        heapq.heappush(self._ready, (asleep.pop() if asleep else now, next(self._count), priority))

    def take(self, now: float) -> list[Ticket]:
        """Return all whose sleep has ended."""
        taken: list[Ticket] = []
        while self._ready and self._ready[0][0] <= now:
            taken.append(Ticket(heapq.heappop(self._ready)[2], now))
        return taken

    def next_wakeup(self, now: float) -> float | None:  # noqa: ARG002 - the protocol's
        """Return the end of the shortest sleep."""
        return self._ready[0][0] if self._ready else None

    def hear(self, ticket: Ticket, now: float, retry_after: int | None) -> None:
        """Put a refused request to sleep."""
        if retry_after is not None:
            pause = retry_after if self._pause is None else self._pause
            self._asleep[ticket.priority].append(now + pause * (1 + 0.1 * self._random.random()))


@attrs.frozen
class Sent:
    """One request as the account saw it; `into_pause`: sent by a session that had been told to wait until later."""

    at: float
    session: int
    limited: bool
    into_pause: bool


class World:
    """The clock, the wire, one account and its sessions."""

    def __init__(
        self,
        account: Account,
        make: Callable[[random.Random], Client],
        *,
        sessions: int,
        seed: int,
        one_way: float = ONE_WAY,
        polls: int = POLLS,
    ) -> None:
        self.account = account
        self._one_way, self._polls = one_way, polls
        self.rng = random.Random(seed)
        self.clients = [make(self.rng) for _ in range(sessions)]
        self.log: list[Sent] = []
        self._told_to_wait = [0.0] * sessions
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._timers: list[float | None] = [None] * sessions

    def run(self, seconds: float, *, stagger: float = 0.1, halve_at: float = math.inf) -> list[Sent]:
        """Run all sessions for so many seconds; the limit may halve meanwhile."""
        for number in range(len(self.clients)):
            self._at(stagger * number, lambda now, number=number: self._start(number, now))  # type: ignore[misc]  # a default binds the loop variable
        if halve_at < seconds:
            self._at(halve_at, self._halve)
        while self._events and self._events[0][0] <= seconds:
            now, _, act = heapq.heappop(self._events)
            act(now)
        return self.log

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _halve(self, _now: float) -> None:
        self.account.rate /= 2

    def _start(self, number: int, now: float) -> None:
        for priority in [Priority.SUBMIT] * SUBMITS + [Priority.POLL] * self._polls:
            self.clients[number].want(priority, now)
        self._pump(number, now)

    def _pump(self, number: int, now: float) -> None:
        for ticket in self.clients[number].take(now):
            into_pause = now < self._told_to_wait[number]
            self._at(
                self._travel(now),
                lambda then, ticket=ticket, late=into_pause: self._arrive(number, ticket, then, into_pause=late),  # type: ignore[misc]  # as above
            )
        next_wakeup = self.clients[number].next_wakeup(now)
        if next_wakeup is not None and next_wakeup != self._timers[number]:
            self._timers[number] = next_wakeup
            self._at(next_wakeup, lambda then: self._pump(number, then))

    def _arrive(self, number: int, ticket: Ticket, now: float, *, into_pause: bool) -> None:
        wait = self.account.take(now)
        self.log.append(Sent(now, number, wait is not None, into_pause))
        self._at(self._travel(now), lambda then: self._answer(number, ticket, then, wait))

    def _answer(self, number: int, ticket: Ticket, now: float, wait: int | None) -> None:
        if wait is not None:
            self._told_to_wait[number] = max(self._told_to_wait[number], now + wait)
        client = self.clients[number]
        client.hear(ticket, now, wait)
        client.want(ticket.priority, now)
        self._pump(number, now)

    def _travel(self, now: float) -> float:
        return now + self._one_way * (0.6 + 0.8 * self.rng.random())
