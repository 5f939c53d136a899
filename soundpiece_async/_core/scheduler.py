"""Chooses which operation to poll next, by a short or a long poll: long ones use up slots, short ones permits.

A poll takes a slot until it is answered, and a permit of the account's rate. A long poll covers an operation for up to
20 s (its *hold*), a short one takes its slot for a round trip. Cancelling a long poll costs a connection. The rules:

1. An operation is READY, BACKING_OFF (not before a time), or has a SHORT_POLL or a LONG_POLL in flight. `begin` takes a
   slot, `settle` gives it back, nothing else does: polls in flight never exceed slots, and no operation has two.
2. With no more operations than slots, each gets a long poll: nothing beats it.
3. With more, short polls keep the slots they need: short polls per second x round trip, as many as are worth their
   price, or what the rate allows if that is less. The other slots have long polls.
4. A short poll goes to the operation with the largest gain (`poll_queues.py`); below the price of a request none is
   sent, however many slots and permits are free.
5. A long poll goes where it saves most: the short polls that `hold` seconds at the hazard h would cost at the going
   price p, hold x sqrt(2 h p), plus the gain of this poll above p, or minus what is lost by polling before a short poll
   is due. The going price is the average gain of recent polls.
6. A long poll is cancelled only for an operation of `PREEMPT_RATIO` times its hazard, and only on a route with enough
   samples: it helps where half of the work takes much longer. It is cancelled, too, if long polls begun in quieter
   times have all slots and the gain of a short poll is 1/8 of a hold. The one with the least hazard goes first, one at
   a time.
7. A failed poll is followed by a later one, after a backoff. Nothing is given up here; only a caller's timeout ends the
   waiting.
8. A long poll answered `processing` at once was not held: its operation backs off until a second after it was asked
   (docs/api.md#long-polls). "At once" is a few round trips; while that is not known, its next poll is short, to learn
   it. If a proxy with a shorter idle timeout breaks a long poll off, its duration becomes the assumed hold. The next
   poll is short, because a service that is down breaks off, too.
9. An operation that a webhook will report is not polled until it is late (`estimators.py`), then as any other.
10. What a response leaves undecided is polled again when a second response can decide it (`completion.py`).
11. A poll on an operation without waiters may stay in flight for a while, in case a waiter comes back; it is the first
    to be cancelled when its slot is needed. None is begun.
12. Times are relative to the hold as observed: against a simulator at a hundred times the speed, all runs faster.

Times are seconds on the caller's clock.
"""

from enum import Enum
from math import ceil, inf, sqrt
from typing import Generic

import attrs

from soundpiece_async._core import completion
from soundpiece_async._core.estimators import HELD_FOR_SURE, Durations, PollTiming
from soundpiece_async._core.poll_queues import (
    AgeBucket,
    BackoffQueue,
    K,
    PollsInFlight,
    ReadyQueue,
    Watched,
    WatchState,
)

DOCUMENTED_HOLD = 20.0  # seconds (docs/api.md#long-polls)
POLL_COST = 0.05  # seconds of detection lag that are worth one poll, at that hold
PREEMPT_RATIO = 3.0
STARVED_GAIN = 1 / 8  # of a hold: 2.5 s
SHORT_POLL_HEADROOM = 1.1  # slots kept for short polls, over what an even flow would need
FIRST_BACKOFF = 1 / 20  # of a hold: after a failure; it doubles
MAX_BACKOFF_FACTOR = 32.0  # times the first
RESCORE_STEP = 1 / 400  # of a hold: the age of a score
SMOOTH = 1 / 16  # the weight of the newest poll in what is averaged


class Outcome(Enum):
    """How a poll ended."""

    PROCESSING = "processing"
    UNDECIDED = "undecided"
    FINISHED = "finished"
    FAILED = "failed"
    CUT = "cut"
    CANCELLED = "cancelled"


@attrs.frozen
class Poll(Generic[K]):
    """Poll this operation: with `wait=true`, or to be answered at once."""

    key: K
    wait: bool


@attrs.frozen
class CancelPoll(Generic[K]):
    """Cancel the long poll on this operation: its slot is worth more elsewhere."""

    key: K


@attrs.frozen
class Sleep:
    """Do nothing before this time, or (None) until something happens."""

    until: float | None


@attrs.frozen
class WatchHistory:
    """State of an operation without waiters, which the caller keeps and passes when a waiter comes back.

    Without it each that comes back would be as urgent as one that was never polled, and a backoff would end early.
    """

    last_seen: float = -inf
    backoff_until: float = -inf
    failures: int = 0


class Scheduler(Generic[K]):
    """Chooses the next poll; sends nothing.

    The caller asks `next_action`, which records nothing; reports with `begin` that it does it (a `Poll` once it has its
    permit, a `CancelPoll` as it cancels), and with `settle` every end of a poll, also of a cancelled one.

    Args:
        slots: How many polls may be out at a time.
        hold: The documented maximum of a long poll, in seconds. What the server really does is learned.
        poll_cost: Seconds of detection lag that are worth one poll, at the documented hold (rule 12).
    """

    def __init__(self, *, slots: int, hold: float = DOCUMENTED_HOLD, poll_cost: float = POLL_COST) -> None:
        self.polls = 0
        """Polls in flight."""
        self._slots = slots
        self._timing = PollTiming(max_hold=hold)
        self._poll_cost = poll_cost / DOCUMENTED_HOLD  # of a hold
        self._average_gain = 0.0
        self._routes: dict[str, Durations] = {}
        self._watched: dict[K, Watched[K]] = {}
        self._ready, self._backing_off = ReadyQueue[K](), BackoffQueue[K]()
        self._short_polls, self._long_polls = (
            PollsInFlight[K](WatchState.SHORT_POLL),
            PollsInFlight[K](WatchState.LONG_POLL),
        )
        self._cancelling: Watched[K] | None = None
        self._unwanted: dict[Watched[K], None] = {}  # long polls without waiters, the oldest first

    def __repr__(self) -> str:
        ready = self._ready.count
        return (
            f"<Scheduler {self.polls}/{self._slots} slots ({len(self._long_polls)} long), {ready} ready, "
            f"{len(self._watched) - ready - self.polls} backing off, {self._timing!r}>"
        )

    @property
    def round_trip(self) -> float:
        """The round trip in seconds, as short polls show it; a guess as long as none has been answered."""
        return self._timing.round_trip

    def stop_holding(self) -> None:
        """Record that the service does not hold long polls: they are answered at once, and back off (rule 8)."""
        self._timing.stop_holding()

    def detection_lag(self, now: float) -> float:
        """Return the longest time that a result can have gone unnoticed, in seconds.

        During a long poll it is 0; operations that a webhook will report do not count.
        """
        return max(0.0, now - min(self._ready.oldest(), self._backing_off.oldest(), self._short_polls.oldest()))

    def watch(
        self,
        key: K,
        *,
        route: str,
        now: float,
        age: float | None = 0.0,
        webhook_expected: bool = False,
        history: WatchHistory = WatchHistory(),
    ) -> None:
        """Start to watch an operation, or update one that is watched.

        Args:
            key: The operation.
            route: Operations of one route take similar times.
            now: The time.
            age: Seconds since it was created. 0: just now, so it is known to be processing. More: nothing was read
                since, so it may have finished. None: unknown (attached by a handle), as if unseen for a whole hold.
            webhook_expected: A webhook will report it.
            history: Its state, if it was watched before.
        """
        if route not in self._routes:
            self._routes[route] = Durations(hold=self._timing.max_hold)
        watched = self._watched.get(key)
        if watched is None:
            created_at = now - (self._timing.hold if age is None else age)
            last = max(created_at, min(history.last_seen, now))
            expected, known = webhook_expected, age is not None
            watched = Watched(
                key, self._routes[route], created_at, last, age_known=known, webhook_expected=expected, last_turn=last
            )
            watched.failures = history.failures
            self._watched[key] = watched
            if history.backoff_until > now:
                self._backing_off.add(watched, until=history.backoff_until)
            else:
                self._ready.add(watched)
            return
        if watched.state is WatchState.READY:
            self._ready.discard(watched)
        watched.forgotten, watched.webhook_expected = False, webhook_expected
        self._unwanted.pop(watched, None)
        if age is not None and not watched.age_known:
            watched.age_known, watched.created_at = True, now - age
            watched.last_seen = max(watched.last_seen, watched.created_at)
            watched.last_turn = max(watched.last_turn, watched.created_at)
        if watched.state is WatchState.READY:
            self._ready.add(watched)

    def history(self, key: K) -> WatchHistory:
        """Return the state to keep of a watched operation that is about to be forgotten."""
        return _history(self._watched[key])

    def forget(self, key: K, *, now: float, finished: bool = False) -> bool:
        """Stop watching an operation.

        Args:
            key: The operation; one that is not watched is no error.
            now: The time.
            finished: A webhook reported its end; durations are learned from that too.

        Returns:
            Whether a poll is in flight. The caller cancels that, now or later (rule 11), and settles it as any other.
        """
        watched = self._watched.get(key)
        if watched is None:
            return False
        in_flight = watched.state in (WatchState.SHORT_POLL, WatchState.LONG_POLL)
        if not in_flight:
            self._remove(watched)
        if finished:  # the webhook arrives at the very end: it was running until now
            self._ready.webhooks.record_delivery(now)
            watched.learn(now, finished=False)
            watched.learn(now, finished=True)
        watched.forgotten = True
        if watched.state is WatchState.LONG_POLL:
            self._unwanted[watched] = None
        return in_flight

    def next_action(self, now: float, *, rate: float | None = None) -> Poll[K] | CancelPoll[K] | Sleep:
        """Return what to do now.

        Args:
            now: The time.
            rate: Permits per second that the account's gate gives at present; None without a limit.
        """
        ready = self._ready
        for watched in self._backing_off.wake(now):
            ready.add(watched)
        next_backoff = self._backing_off.next()
        full = self.polls >= self._slots
        if not ready.count or (full and not self._long_polls):
            return Sleep(next_backoff if next_backoff < inf else None)
        hold, price = self._timing.hold, self._poll_cost * self._timing.hold
        ready.observe_silent(now, hold=hold)
        ready.rescore(now, step=hold * RESCORE_STEP)
        long_poll_slots = self._long_poll_slots(rate)
        free = not full and len(self._long_polls) < long_poll_slots
        wanted = free or (self._unwanted and not self._cancelling)
        if wanted and (best := ready.best_long_poll(hold, price=max(self._average_gain, price))):
            return self._poll_for(best.head) if free else CancelPoll(next(iter(self._unwanted)).key)
        bucket = ready.best_short_poll()
        if long_poll_slots < self._slots and (victim := self._pick_preemption(bucket.gain, now)):
            return CancelPoll(victim.key)
        if full:
            return Sleep(now + hold / 80)
        if bucket.gain >= price:
            return Poll(bucket.head.key, wait=False)
        # the hazards may change meanwhile: so check again soon
        pause = max(ready.seconds_until_worthwhile(price), hold / 8000)
        return Sleep(min(next_backoff, now + min(pause, hold / 40)))

    def _poll_for(self, watched: Watched[K]) -> Poll[K]:
        """Return a long poll, or a short one where the length of a hold has to be learned first (rule 8)."""
        return Poll(
            watched.key, wait=not watched.hold_broken and (self._timing.measured or not watched.hold_unconfirmed)
        )

    def explain(self, poll: Poll[K], *, now: float) -> str:
        """Return the numbers behind a poll that has not begun, and the rules that allow it now, for a log."""
        watched, ready = self._watched[poll.key], self._ready.count
        finishes, hazard = watched.forecast(now)
        bucket = AgeBucket[K](gain=finishes * finishes / (2 * hazard), hazard=hazard)
        hold, price = self._timing.hold, self._poll_cost * self._timing.hold
        going_price = max(self._average_gain, price)
        held = bucket.hold_gain(hold, price=going_price)
        enough = ready + self.polls <= self._slots
        rule = (2 if enough else 5) if poll.wait else (8 if watched.hold_broken or watched.hold_unconfirmed else 4)
        failed = f" after {watched.failures} failed in a row (rule 7)" if watched.failures else ""
        late = "; its webhook is late (rule 9)" if watched.webhook_expected else ""
        return (
            f"{'long' if poll.wait else 'short'} poll (rule {rule}){failed}{late}: "
            f"{'each has a slot' if enough else f'{ready} can be polled'}; "
            f"{now - watched.last_turn:.1f} s since its last poll, age {now - watched.created_at:.1f} s, "
            f"gain of a short poll {bucket.gain:.3g} s, of a long one {held:.3g} s "
            f"(price of a request {price:.3g} s, going price {going_price:.3g} s), "
            f"{self.polls} of {self._slots} slots taken"
        )

    def begin(self, action: Poll[K] | CancelPoll[K], *, now: float) -> None:
        """Record that an action is carried out: from here the poll owns a slot, or the long poll is being cancelled."""
        watched = self._watched[action.key]
        if isinstance(action, CancelPoll):
            self._cancelling = watched
            return
        finishes, hazard = watched.forecast(now)
        self._ready.discard(watched)
        if not watched.webhook_expected:
            self._average_gain += (finishes * finishes / (2 * hazard) - self._average_gain) * SMOOTH
        (self._long_polls if action.wait else self._short_polls).add(watched, now=now)
        self.polls += 1

    def was_held(self, key: K, *, now: float) -> bool:
        """Return whether the service has held a poll that ends now without a result."""
        watched = self._watched[key]
        return watched.state is WatchState.LONG_POLL and not self._timing.maybe_not_held(now - watched.sent)

    def settle(
        self, key: K, *, now: float, outcome: Outcome, jitter: float = 0.5, retry_after: float = 0.0
    ) -> WatchHistory:
        """Record how a poll ended, and release its slot.

        Args:
            key: The operation.
            now: The time.
            outcome: FINISHED leaves the scheduler; UNDECIDED is an end if a later response says the same; FAILED had no
                usable response; CUT is a long poll broken off from outside, perhaps by a proxy; CANCELLED is our doing.
            jitter: A number between 0 and 1 that spreads the backoffs after failures.
            retry_after: The shortest backoff after a failure.

        Returns:
            The state to keep, in case it has no waiter any more.
        """
        watched = self._watched[key]
        held = watched.state is WatchState.LONG_POLL
        cut = outcome is Outcome.CUT and self.was_held(key, now=now)
        watched.hold_unconfirmed = watched.hold_unconfirmed or (outcome is Outcome.CUT and not self._timing.measured)
        (self._long_polls if held else self._short_polls).discard(watched)
        self.polls -= 1
        self._unwanted.pop(watched, None)
        if self._cancelling is watched:
            self._cancelling = None
        backoff = 0.0
        match outcome:
            case Outcome.FINISHED:
                self._observe_result(watched, now, held=held)
            case Outcome.PROCESSING:
                backoff = self._observe_response(watched, now, held=held)
            case Outcome.UNDECIDED:
                watched.failures, watched.hold_broken = 0, False
                backoff = completion.AGREE_AFTER  # nothing is learned of the hold: it may be over
            case Outcome.FAILED | Outcome.CUT:
                backoff = max(
                    self._observe_broken_hold(watched, now) if cut else self._observe_failure(watched, jitter),
                    retry_after,
                )
            case Outcome.CANCELLED if now - watched.sent > self._timing.round_trip:  # the server had it, unanswered
                watched.learn(now, finished=False)
        watched.backoff_until = now + backoff
        if watched.forgotten:
            self._remove(watched)
        elif backoff > 0:
            self._backing_off.add(watched, until=watched.backoff_until)
        else:
            watched.state = WatchState.READY
            self._ready.add(watched)
        return _history(watched)

    def _long_poll_slots(self, rate: float | None) -> int:
        """Return the number of slots for long polls (rules 2 and 3)."""
        surplus = self._ready.count - self._ready.webhook_expected + self.polls - self._slots
        if surplus <= 0:
            return self._slots
        short_polls = min(
            self._ready.hazard_sum / sqrt(2 * self._poll_cost * self._timing.hold), inf if rate is None else rate
        )
        return self._slots - max(
            1, min(ceil(short_polls * self._timing.round_trip * SHORT_POLL_HEADROOM), surplus, self._slots)
        )

    def _pick_preemption(self, gain: float, now: float) -> Watched[K] | None:
        """Return a long poll to cancel (rule 6), given the gain of the best short poll, or None."""
        if self._cancelling:
            return None
        hold = self._timing.hold
        least_hazard = self._long_polls.least_hazard(now, step=4 * RESCORE_STEP * hold)
        starved = len(self._long_polls) >= self._slots and gain > max(STARVED_GAIN, self._poll_cost) * hold
        preempts = (
            least_hazard
            and least_hazard.route.trusted
            and self._ready.max_hazard() > PREEMPT_RATIO * least_hazard.forecast(now)[1]
        )
        return least_hazard if starved or preempts else None

    def _observe_response(self, watched: Watched[K], now: float, *, held: bool) -> float:
        """Learn from a response without a result, and return the seconds of backoff (rule 8)."""
        took = now - watched.sent
        watched.learn(now, finished=False)
        watched.failures, watched.hold_unconfirmed, watched.hold_broken = 0, False, False
        if not held:
            self._timing.observe_short_poll(took)
        elif not self._timing.maybe_not_held(took):
            self._timing.observe_long_poll(took)
        elif self._timing.measured:
            return HELD_FOR_SURE * self._timing.max_hold - took
        else:
            watched.hold_unconfirmed = True
        return 0.0

    def _observe_failure(self, watched: Watched[K], jitter: float) -> float:
        """Return the seconds of backoff after a poll without a usable response (rule 7)."""
        rest = min(2.0**watched.failures, MAX_BACKOFF_FACTOR) * FIRST_BACKOFF * self._timing.hold * (0.5 + jitter / 2)
        watched.failures += 1
        return rest

    def _observe_broken_hold(self, watched: Watched[K], now: float) -> float:
        """Learn the hold from one that was broken off, and return the seconds of backoff (rule 8)."""
        took = now - watched.sent
        watched.learn(now, finished=False)  # a result would have come during it
        self._timing.observe_long_poll(took)
        watched.hold_broken = True
        return HELD_FOR_SURE * self._timing.max_hold - took

    def _observe_result(self, watched: Watched[K], now: float, *, held: bool) -> None:
        """Learn from a result. The time of one that came during a long poll is known to a round trip."""
        took, round_trip = now - watched.sent, self._timing.round_trip
        if not held:
            self._timing.observe_short_poll(took)
        if held and took > 2 * round_trip:
            watched.learn(now - round_trip, finished=False)
        elif watched.webhook_expected and not watched.forgotten:  # it was there before: the webhook got lost
            self._ready.webhooks.record_miss()
        watched.learn(now, finished=True)
        watched.forgotten = True

    def _remove(self, watched: Watched[K]) -> None:
        if watched.state is WatchState.READY:
            self._ready.discard(watched)
        watched.state = WatchState.REMOVED
        del self._watched[watched.key]


def _history(watched: Watched[K]) -> WatchHistory:
    return WatchHistory(watched.last_seen, watched.backoff_until, watched.failures)
