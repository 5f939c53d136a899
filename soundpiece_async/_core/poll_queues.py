"""Who waits for a look, and whose look is worth most.

Operations wait in lines: one line per route, kind and bin of age at the last look. Within a line they differ only in
when that was, so the head of the line is the one to look at, and ten thousand waiting operations are some thirty
candidates.

What a look is worth, in seconds of lateness: with h the hazard at the operation's age and N the finishes to expect
since the last look,

    worth = N^2 / (2 h)

While h is constant that is h tau^2 / 2, tau being the time since the last look, the integral of (u - last) h(u) du:
looking at the largest one gives the least mean lateness for a given number of looks. Where the hazard falls it grows
on: behind a mode, half of those who wait may have finished, and there is nothing to wait for. Where it rises it lags:
the mode is about to begin, and a look is better spent inside it.
"""

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from enum import Enum
from itertools import count
from math import inf, sqrt
from operator import attrgetter
from typing import Generic, TypeVar

import attrs

from soundpiece_async._core.estimators import Durations, WebhookReliability, bin_of

RESCORE_AFTER = 64  # heads changed before all lines are weighed again
UNKNOWN_AGE = -1  # the bin of those whose age nobody knows

K = TypeVar("K", bound=Hashable)


class WatchState(Enum):
    """Where a watched operation is."""

    READY = "ready"
    BACKING_OFF = "backing off"
    SHORT_POLL = "short poll"
    LONG_POLL = "long poll"
    REMOVED = "removed"


@attrs.define(eq=False)
class Watched(Generic[K]):
    """One watched operation. Times are the caller's clock, in seconds.

    Attributes:
        created_at: known, or when it was first heard of.
        last_seen: when it was last known to be processing.
        age_known: whether ``created_at`` is known.
        last_turn: when it last had a turn, even one that failed.
        forgotten: nobody waits for it any more, while a poll is still out.
        hold_unconfirmed: its latest long poll was answered too soon to tell whether it was held.
        hold_broken: its latest long poll was broken off, and no answer came since.
        rests_until: when its latest backoff ends, or ended.
    """

    key: K
    route: Durations
    created_at: float
    last_seen: float
    age_known: bool
    webhook_expected: bool
    last_turn: float
    state: WatchState = WatchState.READY
    sent: float = 0.0
    failures: int = 0
    forgotten: bool = False
    hold_unconfirmed: bool = False
    hold_broken: bool = False
    rests_until: float = -inf

    def forecast(self, now: float) -> tuple[float, float]:
        """Return the finishes to expect since the last turn, and the hazard now; at an unknown age the overall rate."""
        if not self.age_known:
            return self.route.rate * (now - self.last_turn), self.route.rate
        return self.route.expected_finishes_and_hazard(self.last_turn - self.created_at, now - self.created_at)

    def learn(self, now: float, *, finished: bool) -> None:
        """Record a poll result, running or finished; an unknown age teaches nothing."""
        if self.age_known and not self.forgotten:
            self.route.learn(self.last_seen - self.created_at, now - self.created_at, finished=finished)
        self.last_seen = self.last_turn = now


@attrs.define(eq=False)
class AgeBucket(Generic[K]):
    """Those who differ only in when they last had a turn; worth and hazard are those of the head, the longest here."""

    queue: OrderedDict[K, Watched[K]] = attrs.field(factory=OrderedDict)
    gain: float = 0.0
    hazard: float = 0.0
    pollable: bool = True
    trusted: bool = False

    @property
    def head(self) -> Watched[K]:
        """The one to look at first."""
        return next(iter(self.queue.values()))

    def add(self, watched: Watched[K]) -> None:
        """Queue up; who has waited longer than the last of the line (an old operation attached) goes to the front."""
        late = bool(self.queue) and watched.last_turn < next(reversed(self.queue.values())).last_turn
        self.queue[watched.key] = watched
        if late:
            self.queue.move_to_end(watched.key, last=False)

    def rescore(self, now: float, *, late: float = 1.0) -> float:
        """Work out what a look at the head is worth now, nothing while a webhook may come; return how long it waits."""
        watched = self.head
        finishes, self.hazard = watched.forecast(now)
        self.pollable = not watched.webhook_expected or watched.route.survival(now - watched.created_at) <= late
        self.trusted = watched.route.trusted
        self.gain = finishes * finishes / (2 * self.hazard) if self.pollable else 0.0
        return now - watched.last_turn

    def hold_gain(self, hold: float, *, price: float) -> float:
        """Return what holding the head saves: the looks that so many seconds would cost, and this one if it is due.

        A look not yet due is worth less than its price; what is lost by paying it early falls with the square of the
        time still missing.
        """
        early = 1 - sqrt(self.gain / price) if self.gain < price else 0.0
        lost = price * early * early if early else price - self.gain
        return hold * sqrt(2 * self.hazard * price) - lost

    def seconds_until_worthwhile(self, price: float) -> float:
        """Return in how many seconds a look at the head will be worth its price, if the hazard stays as it is."""
        return (sqrt(price) - sqrt(self.gain)) * sqrt(2 / self.hazard)


class ReadyQueue(Generic[K]):
    """All lines, weighed when asked.

    Weighing every line costs about a microsecond each, so between two weighings (`step` seconds, or `RESCORE_AFTER`
    changes) only lines with a new head are weighed again.
    """

    def __init__(self) -> None:
        self.silence = WebhookReliability()
        self._buckets: dict[tuple[Durations, bool, int], AgeBucket[K]] = {}
        self._stale: dict[AgeBucket[K], None] = {}
        self._scored_at, self._patience = -inf, 0.0
        self._changes = 0
        self.count = 0
        self.webhook_expected = 0
        self.hazard_sum = 0.0
        """The sum of sqrt(h): at price p, sqrt(h / 2 p) looks per second are worth their price."""

    def __repr__(self) -> str:
        return f"<ReadyQueue {self.count} in {len(self._buckets)} lines>"

    def add(self, watched: Watched[K]) -> None:
        """Add it to the queue."""
        line = self._buckets.setdefault(_bucket_key(watched), AgeBucket())
        line.add(watched)
        if line.head is watched:
            self._stale[line] = None
        self._count(watched, 1)

    def discard(self, watched: Watched[K]) -> None:
        """Remove it from the queue."""
        spot = _bucket_key(watched)
        line = self._buckets[spot]
        del line.queue[watched.key]
        self._count(watched, -1)
        if line.queue:
            self._stale[line] = None
        else:
            del self._buckets[spot]
            self._stale.pop(line, None)

    def rescore(self, now: float, *, step: float) -> None:
        """Weigh the lines if it is `step` seconds since, or many heads ago; else only those with a new head.

        Where people wait for minutes, seconds change little: a step is at least a two-thousandth of the longest wait.
        """
        late = self.silence.late_survival
        if now - self._scored_at >= max(step, self._patience) or self._changes >= RESCORE_AFTER:
            self._scored_at, self._changes, self.hazard_sum, longest = now, 0, 0.0, 0.0
            for line in self._buckets.values():
                longest = max(longest, line.rescore(now, late=late))
                if line.pollable:
                    self.hazard_sum += len(line.queue) * sqrt(line.hazard)
            self._patience = longest / 2000
        else:
            self._changes += len(self._stale)
            for line in self._stale:
                line.rescore(now, late=late)
        self._stale.clear()

    def observe_silent(self, now: float, *, hold: float) -> None:
        """Count the silent operations per route; not at every call, because it takes a microsecond for each."""
        if not self.silence.is_due(now, hold=hold):
            return
        silent: dict[Durations, list[tuple[float, float]]] = {route: [] for route, _, _ in self._buckets}
        if self.silence.webhooks_flowing(now, hold=hold):
            for (route, webhook_expected, spot), line in self._buckets.items():
                if webhook_expected and spot != UNKNOWN_AGE:
                    silent[route] += (
                        (watched.last_seen - watched.created_at, now - watched.created_at)
                        for watched in line.queue.values()
                    )
        for route, ages in silent.items():
            route.observe_silent(ages, loss=self.silence.loss)

    def best_short_poll(self) -> AgeBucket[K]:
        """Return the line whose head it is worth most to look at. Somebody must wait."""
        return max(self._buckets.values(), key=attrgetter("gain"))

    def best_long_poll(self, hold: float, *, price: float) -> AgeBucket[K] | None:
        """Return the line whose head saves most by being held; None if nobody may be."""
        best, most = None, -inf
        for line in self._buckets.values():  # the longest part of a decision: no generator, no key
            if line.pollable and (saved := line.hold_gain(hold, price=price)) > most:
                best, most = line, saved
        return best

    def max_hazard(self) -> float:
        """Return the largest hazard of those who may be held, on routes that are known well."""
        return max((line.hazard for line in self._buckets.values() if line.pollable and line.trusted), default=0.0)

    def seconds_until_worthwhile(self, price: float) -> float:
        """Return in how many seconds the first look will be worth its price. Somebody must wait."""
        return min(line.seconds_until_worthwhile(price) for line in self._buckets.values())

    def oldest(self) -> float:
        """Return when the head who has waited longest was last seen, webhooks aside; infinity if nobody waits."""
        return min(
            (line.head.last_seen for line in self._buckets.values() if not line.head.webhook_expected), default=inf
        )

    def _count(self, watched: Watched[K], change: int) -> None:
        self.count += change
        self.webhook_expected += change * watched.webhook_expected


class BackoffQueue(Generic[K]):
    """Those who must not be polled before a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watched[K]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<BackoffQueue until {self.next():.3f}>"

    def add(self, watched: Watched[K], *, until: float) -> None:
        """Add it to the backoff queue."""
        watched.state, watched.rests_until = WatchState.BACKING_OFF, until
        heapq.heappush(self._heap, (until, next(self._order), watched))

    def next(self) -> float:
        """Return when the first rest is over; infinity when nobody rests."""
        while self._heap and self._heap[0][2].state is not WatchState.BACKING_OFF:
            heapq.heappop(self._heap)  # it left meanwhile
        return self._heap[0][0] if self._heap else inf

    def wake(self, now: float) -> Iterator[Watched[K]]:
        """Yield those whose backoff is over. They have had their turn, so they wait from now on."""
        while self.next() <= now:
            watched = heapq.heappop(self._heap)[2]
            watched.state, watched.last_turn = WatchState.READY, now
            yield watched

    def oldest(self) -> float:
        """Return when the one who has waited longest was last seen, webhooks aside; infinity if nobody rests."""
        resting = (
            watched
            for _, _, watched in self._heap
            if watched.state is WatchState.BACKING_OFF and not watched.webhook_expected
        )
        return min((watched.last_seen for watched in resting), default=inf)


class InFlight(Generic[K]):
    """Those on whom a poll is out, of one kind: looks or holds."""

    def __init__(self, stage: WatchState) -> None:
        self._stage = stage
        self._watched: dict[K, Watched[K]] = {}
        self._least_hazard: Watched[K] | None = None
        self._found = -inf

    def __len__(self) -> int:
        return len(self._watched)

    def __repr__(self) -> str:
        return f"<InFlight {len(self)} {self._stage.value}>"

    def add(self, watched: Watched[K], *, now: float) -> None:
        """Record that a poll on it is sent."""
        watched.state, watched.sent = self._stage, now
        self._watched[watched.key] = watched

    def discard(self, watched: Watched[K]) -> None:
        """Record that its poll has ended."""
        del self._watched[watched.key]

    def oldest(self) -> float:
        """Return when the one who has waited longest was last seen, webhooks aside; infinity if none is out."""
        return min(
            (watched.last_seen for watched in self._watched.values() if not watched.webhook_expected), default=inf
        )

    def least_hazard(self, now: float, *, step: float) -> Watched[K] | None:
        """Return the one with the smallest hazard, sought anew after `step` seconds or when it has gone."""
        least_hazard = self._least_hazard
        if (
            least_hazard is None
            or least_hazard.forgotten
            or least_hazard.key not in self._watched
            or now - self._found >= step
        ):
            wanted = (watched for watched in self._watched.values() if not watched.forgotten)
            least_hazard = min(wanted, key=lambda watched: watched.forecast(now)[1], default=None)
            self._least_hazard, self._found = least_hazard, now
        return least_hazard


def _bucket_key(watched: Watched[K]) -> tuple[Durations, bool, int]:
    return (
        watched.route,
        watched.webhook_expected,
        bin_of(watched.last_turn - watched.created_at) if watched.age_known else UNKNOWN_AGE,
    )
