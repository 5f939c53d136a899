"""Queues of the scheduler: the ready queue ranks operations by the expected gain of a short poll.

Ready operations are in buckets: one per route, kind and bin of age at the last poll. Within a bucket they differ only
in when that was, so the head of the bucket is the one to poll, and ten thousand operations are some thirty candidates.

The gain of a short poll, in seconds of detection lag: with h the hazard at the operation's age and N the finishes to
expect since the last poll,

    gain = N^2 / (2 h)

While h is constant that is h tau^2 / 2, tau being the time since the last poll, the integral of (u - last) h(u) du:
polling the largest one gives the least mean detection lag for a given number of polls. Where the hazard falls it keeps
growing: behind a mode, half of the operations may have finished, and there is nothing to wait for. Where it rises it
lags: the mode is about to begin, and a poll is better spent inside it.
"""

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from itertools import count
from math import inf, sqrt
from operator import attrgetter
from typing import Generic, TypeVar

import attrs

from soundpiece_async._core.estimators import Durations, WebhookReliability, bin_of

RESCORE_AFTER = 64  # heads changed before all buckets are rescored
UNKNOWN_AGE = -1  # the bin of operations of unknown age

K = TypeVar("K", bound=Hashable)


class WatchState(Enum):
    """The state of a watched operation."""

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
        forgotten: it has no waiter any more, while a poll is in flight.
        hold_unconfirmed: its latest long poll was answered too soon to tell whether it was held.
        hold_broken: its latest long poll was broken off, and no response came since.
        backoff_until: when its latest backoff ends, or ended.
        bucket: the key of its bucket, if it is ready.
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
    backoff_until: float = -inf
    bucket: tuple[Durations, bool, int] = attrs.field(init=False)

    def forecast(self, now: float) -> tuple[float, float]:
        """Return the finishes to expect since the last poll, and the hazard now; at an unknown age the overall rate."""
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
    """Operations that differ only in their last poll; gain and hazard are those of the head, the longest-waiting."""

    queue: OrderedDict[K, Watched[K]] = attrs.field(factory=OrderedDict)
    gain: float = 0.0
    hazard: float = 0.0
    pollable: bool = True
    trusted: bool = False

    @property
    def head(self) -> Watched[K]:
        """The operation to poll first."""
        return next(iter(self.queue.values()))

    def add(self, watched: Watched[K]) -> None:
        """Append an operation, or put it first if it has waited longer than the last: an old one, attached."""
        late = bool(self.queue) and watched.last_turn < next(reversed(self.queue.values())).last_turn
        self.queue[watched.key] = watched
        if late:
            self.queue.move_to_end(watched.key, last=False)

    def rescore(self, now: float, *, late: float = 1.0) -> float:
        """Update the gain of the head, which is 0 while a webhook may come; return how long the head has waited."""
        watched = self.head
        finishes, self.hazard = watched.forecast(now)
        self.pollable = not watched.webhook_expected or watched.route.survival(now - watched.created_at) <= late
        self.trusted = watched.route.trusted
        self.gain = finishes * finishes / (2 * self.hazard) if self.pollable else 0.0
        return now - watched.last_turn

    def hold_gain(self, hold: float, *, price: float) -> float:
        """Return the gain of a long poll on the head: the short polls of that time, and this one if it is due.

        A short poll not yet due is worth less than its price; what is lost by paying it early falls with the square of
        the time still missing.
        """
        early = 1 - sqrt(self.gain / price) if self.gain < price else 0.0
        lost = price * early * early if early else price - self.gain
        return hold * sqrt(2 * self.hazard * price) - lost

    def seconds_until_worthwhile(self, price: float) -> float:
        """Return the seconds until a short poll of the head is worth its price, if the hazard stays as it is."""
        return (sqrt(price) - sqrt(self.gain)) * sqrt(2 / self.hazard)


class ReadyQueue(Generic[K]):
    """Operations that may be polled, in buckets that are rescored on request.

    Rescoring a bucket takes about a microsecond, so that between two complete passes (`step` seconds, or
    `RESCORE_AFTER` changes) only buckets with a new head are rescored.
    """

    def __init__(self) -> None:
        self.webhooks = WebhookReliability()
        self._buckets: dict[tuple[Durations, bool, int], AgeBucket[K]] = {}
        self._stale: dict[AgeBucket[K], None] = {}
        self._scored_at, self._patience = -inf, 0.0
        self._changes = 0
        self.count = 0
        self.webhook_expected = 0
        self.hazard_sum = 0.0
        """The sum of sqrt(h): at price p, sqrt(h / 2 p) short polls per second are worth their price."""

    def __repr__(self) -> str:
        return f"<ReadyQueue {self.count} in {len(self._buckets)} buckets>"

    def add(self, watched: Watched[K]) -> None:
        """Add it to the queue."""
        watched.bucket = key = _bucket_key(watched)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = AgeBucket()
        bucket.add(watched)
        if bucket.head is watched:
            self._stale[bucket] = None
        self._count(watched, 1)

    def discard(self, watched: Watched[K]) -> None:
        """Remove it from the queue."""
        bucket = self._buckets[watched.bucket]
        del bucket.queue[watched.key]
        self._count(watched, -1)
        if bucket.queue:
            self._stale[bucket] = None
        else:
            del self._buckets[watched.bucket]
            self._stale.pop(bucket, None)

    def rescore(self, now: float, *, step: float) -> None:
        """Rescore all buckets after `step` seconds or many new heads, else only buckets with a new head.

        While operations wait for minutes, seconds change little: a step is at least a two-thousandth of the longest
        wait.
        """
        late = self.webhooks.late_survival
        if now - self._scored_at >= max(step, self._patience) or self._changes >= RESCORE_AFTER:
            self._scored_at, self._changes, self.hazard_sum, longest = now, 0, 0.0, 0.0
            for bucket in self._buckets.values():
                longest = max(longest, bucket.rescore(now, late=late))
                if bucket.pollable:
                    self.hazard_sum += len(bucket.queue) * sqrt(bucket.hazard)
            self._patience = longest / 2000
        else:
            self._changes += len(self._stale)
            for bucket in self._stale:
                bucket.rescore(now, late=late)
        self._stale.clear()

    def observe_silent(self, now: float, *, hold: float) -> None:
        """Count the silent operations per route; not at every call, because it takes a microsecond for each."""
        if not self.webhooks.is_due(now, hold=hold):
            return
        silent: dict[Durations, list[tuple[float, float]]] = {route: [] for route, _, _ in self._buckets}
        if self.webhooks.webhooks_flowing(now, hold=hold):
            for (route, webhook_expected, bucket_key), bucket in self._buckets.items():
                if webhook_expected and bucket_key != UNKNOWN_AGE:
                    silent[route] += (
                        (watched.last_seen - watched.created_at, now - watched.created_at)
                        for watched in bucket.queue.values()
                    )
        for route, ages in silent.items():
            route.observe_silent(ages, loss=self.webhooks.loss)

    def best_short_poll(self) -> AgeBucket[K]:
        """Return the bucket with the largest gain of a short poll. The queue must not be empty."""
        return max(self._buckets.values(), key=attrgetter("gain"))

    def best_long_poll(self, hold: float, *, price: float) -> AgeBucket[K] | None:
        """Return the bucket with the largest gain of a long poll, or None if no operation may be polled."""
        best, most = None, -inf
        for bucket in self._buckets.values():  # most of the time of a decision: no generator, no key
            if bucket.pollable and (saved := bucket.hold_gain(hold, price=price)) > most:
                best, most = bucket, saved
        return best

    def max_hazard(self) -> float:
        """Return the largest hazard of the operations that may be polled, on trusted routes."""
        return max(
            (bucket.hazard for bucket in self._buckets.values() if bucket.pollable and bucket.trusted), default=0.0
        )

    def seconds_until_worthwhile(self, price: float) -> float:
        """Return the seconds until a short poll is worth its price. The queue must not be empty."""
        return min(bucket.seconds_until_worthwhile(price) for bucket in self._buckets.values())

    def oldest(self) -> float:
        """Return when the longest-waiting head without a webhook was last seen, or infinity."""
        return min(
            (bucket.head.last_seen for bucket in self._buckets.values() if not bucket.head.webhook_expected),
            default=inf,
        )

    def _count(self, watched: Watched[K], change: int) -> None:
        self.count += change
        self.webhook_expected += change * watched.webhook_expected


class BackoffQueue(Generic[K]):
    """Operations that must not be polled before a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watched[K]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<BackoffQueue until {self.next():.3f}>"

    def add(self, watched: Watched[K], *, until: float) -> None:
        """Add it to the backoff queue."""
        watched.state, watched.backoff_until = WatchState.BACKING_OFF, until
        heapq.heappush(self._heap, (until, next(self._order), watched))

    def next(self) -> float:
        """Return when the first backoff ends; infinity: the queue is empty."""
        while self._heap and self._heap[0][2].state is not WatchState.BACKING_OFF:
            heapq.heappop(self._heap)  # removed meanwhile
        return self._heap[0][0] if self._heap else inf

    def wake(self, now: float) -> list[Watched[K]]:
        """Return those whose backoff is over. They have had their turn, so they wait from now on."""
        woken: list[Watched[K]] = []
        while self._heap and self.next() <= now:
            watched = heapq.heappop(self._heap)[2]
            watched.state, watched.last_turn = WatchState.READY, now
            woken.append(watched)
        return woken

    def oldest(self) -> float:
        """Return when the longest-waiting operation without a webhook was last seen, or infinity."""
        backing_off = (
            watched
            for _, _, watched in self._heap
            if watched.state is WatchState.BACKING_OFF and not watched.webhook_expected
        )
        return min((watched.last_seen for watched in backing_off), default=inf)


class PollsInFlight(Generic[K]):
    """Operations with a poll in flight, of one kind: short or long."""

    def __init__(self, state: WatchState) -> None:
        self._state = state
        self._watched: dict[K, Watched[K]] = {}
        self._least_hazard: Watched[K] | None = None
        self._found_at = -inf

    def __len__(self) -> int:
        return len(self._watched)

    def __repr__(self) -> str:
        return f"<PollsInFlight {len(self)} {self._state.value}>"

    def add(self, watched: Watched[K], *, now: float) -> None:
        """Record that a poll is sent."""
        watched.state, watched.sent = self._state, now
        self._watched[watched.key] = watched

    def discard(self, watched: Watched[K]) -> None:
        """Record that a poll has ended."""
        del self._watched[watched.key]

    def oldest(self) -> float:
        """Return when the longest-waiting operation without a webhook was last seen, or infinity."""
        return min(
            (watched.last_seen for watched in self._watched.values() if not watched.webhook_expected), default=inf
        )

    def least_hazard(self, now: float, *, step: float) -> Watched[K] | None:
        """Return the operation with the least hazard; searched again after `step` seconds, or when it has ended."""
        least_hazard = self._least_hazard
        if (
            least_hazard is None
            or least_hazard.forgotten
            or least_hazard.key not in self._watched
            or now - self._found_at >= step
        ):
            wanted = (watched for watched in self._watched.values() if not watched.forgotten)
            least_hazard = min(wanted, key=lambda watched: watched.forecast(now)[1], default=None)
            self._least_hazard, self._found_at = least_hazard, now
        return least_hazard


def _bucket_key(watched: Watched[K]) -> tuple[Durations, bool, int]:
    return (
        watched.route,
        watched.webhook_expected,
        bin_of(watched.last_turn - watched.created_at) if watched.age_known else UNKNOWN_AGE,
    )
