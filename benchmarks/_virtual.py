"""A world in virtual time: operations that finish, a network with a delay, slots, permits, and nothing that sleeps.

One event heap, one clock. A policy receives joins, answers and the passing of time, and asks the world to send polls.
The world refuses to break the rules it is there to measure: more polls out than slots, or more requests than permits,
is an error.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import attrs

ONE_WAY = 0.025  # seconds; the least latency there can be
HOLD = 20.0  # seconds the server keeps wait=true


@attrs.define(eq=False)
class Work:
    """One operation as the server knows it; `found` is when the client does. Seconds of virtual time."""

    name: int
    born: float
    ready: float
    found: float | None = None


class Policy(Protocol):
    """Decides which operation is polled next."""

    def join(self, work: Work) -> None:
        """A new operation has been submitted."""

    def answer(self, work: Work, *, wait: bool, finished: bool) -> None:
        """A poll has come back; its slot is free again."""

    def turn(self) -> None:
        """Something changed, or the time asked for has come: send what there is to send."""


class World:
    """The clock, the server and the account's two budgets.

    Args:
        slots: How many polls may be out at a time.
        rate: Permits per second, with a bucket of one second; `math.inf` for none.
    """

    def __init__(self, *, slots: int, rate: float) -> None:
        self.now = 0.0
        self.slots = slots
        self.rate = rate
        self.out = 0
        self.sent = 0
        self.cancelled = 0
        self.in_flight = 0
        self.used = 0
        self.wasted = 0.0
        self._permits = max(1.0, rate)
        self._counted = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._polls: dict[int, int] = {}
        self._wake = math.inf
        self._policy: Policy

    def __repr__(self) -> str:
        return f"<World t={self.now:.3f} out={self.out}/{self.slots} sent={self.sent} in flight={self.in_flight}>"

    @property
    def saturated(self) -> bool:
        """Whether so many wait without a slot that every permit should be used: more than two seconds' worth."""
        return self.in_flight > self.slots + 2 * self.rate

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something at a given time."""
        heapq.heappush(self._events, (when, next(self._order), do))

    def wake(self, when: float) -> None:
        """Schedule a turn of the policy, unless one comes sooner anyway."""
        if when < self._wake:
            self._wake = when
            self.at(when, self._woken)

    def _woken(self) -> None:
        if self.now >= self._wake:
            self._wake = math.inf

    def permit_at(self) -> float:
        """When the next permit is to be had: now, or later."""
        if math.isinf(self.rate):
            return self.now
        earned = self._permits + (self.now - self._counted) * self.rate
        self._permits = min(max(1.0, self.rate), earned)
        if self.saturated:
            self.wasted += earned - self._permits
        self._counted = self.now
        return self.now if self._permits >= 1 - 1e-9 else self.now + (1 - self._permits) / self.rate

    def send(self, work: Work, *, wait: bool) -> None:
        """Send one poll: a slot until it is answered, and a permit."""
        if self.out >= self.slots or work.name in self._polls or self.permit_at() > self.now:
            raise RuntimeError(f"a policy broke the rules: {self!r}, {work!r}")
        if not math.isinf(self.rate):
            self._permits -= 1
        self.out += 1
        self.sent += 1
        self.used += self.saturated
        serial = self._polls[work.name] = self.sent
        arrival = self.now + ONE_WAY
        answered = max(arrival, min(work.ready, arrival + HOLD)) if wait else arrival
        finished = work.ready <= answered
        self.at(answered + ONE_WAY, lambda: self._answer(work, serial, wait=wait, finished=finished))

    def cancel(self, work: Work) -> None:
        """Drop a poll; over HTTP/1.1 its connection is lost."""
        del self._polls[work.name]
        self.out -= 1
        self.cancelled += 1

    def _answer(self, work: Work, serial: int, *, wait: bool, finished: bool) -> None:
        if self._polls.get(work.name) != serial:
            return  # dropped meanwhile
        del self._polls[work.name]
        self.out -= 1
        if finished:
            work.found = self.now
            self.in_flight -= 1
        self._policy.answer(work, wait=wait, finished=finished)

    def run(self, policy: Policy, works: Iterable[Work]) -> None:
        """Live until everything is found."""
        self._policy = policy
        arrivals = iter(works)
        self._next_arrival(arrivals)
        while self._events:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            policy.turn()

    def _next_arrival(self, arrivals: Iterator[Work]) -> None:
        work = next(arrivals, None)
        if work is not None:
            self.at(work.born, lambda: self._arrive(work, arrivals))

    def _arrive(self, work: Work, arrivals: Iterator[Work]) -> None:
        self.in_flight += 1
        self._policy.join(work)
        self._next_arrival(arrivals)


def lognormal(rng: random.Random) -> float:
    """Median 25 s, 99th percentile 120 s, mean 31 s."""
    return 25 * math.exp(rng.gauss(0, math.log(120 / 25) / 2.3263))


def bimodal(rng: random.Random) -> float:
    """Half 8 s give or take 2, half 60 s give or take 10: two models, or two lengths, behind one route."""
    return max(0.5, rng.gauss(8, 2) if rng.random() < 0.5 else rng.gauss(60, 10))


DURATIONS: dict[str, tuple[Callable[[random.Random], float], float]] = {
    "lognormal": (lognormal, 25 * math.exp((math.log(120 / 25) / 2.3263) ** 2 / 2)),
    "bimodal": (bimodal, 34.0),
}
