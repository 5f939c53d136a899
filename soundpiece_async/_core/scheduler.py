"""Whom to poll next, and how: slots buy coverage, permits buy looks.

A poll takes a slot until it is answered, and a permit of the account's rate. A long one (a *hold*) covers an operation
for up to 20 s, a short one (a *look*) takes its slot for a round trip. A cancelled hold costs a connection. The rules:

1. An operation is WAITING, RESTING (not before a time), LOOKED (a short poll is out) or HELD (a long one is). `begin`
   gives a slot, `settle` takes it back, nothing else does: polls out never exceed slots, and nobody has two.
2. With no more operations than slots, everyone is held: nothing beats it.
3. With more, looks keep the slots they need: looks per second x round trip, the looks being those worth their price,
   or what the rate allows if that is less. The others hold.
4. A look goes to whom it is worth most (`poll_queues.py`); under the price of a request nobody is looked at, however
   free slots and permits are.
5. A hold goes to whom it saves most: the looks that `hold` seconds at its hazard h would cost at the going price p,
   hold x sqrt(2 h p), plus what this look is worth above p, or less what is lost by coming before a look is due. The
   going price is what recent polls were worth.
6. A hold is cancelled only for an operation of `PREEMPT_RATIO` times its hazard (two modes, mixed routes; routes known
   well), or if holds begun in quieter times have all slots and a look is worth 1/8 of a hold; the one with the least
   hazard first, one at a time.
7. A failed poll is a later turn, backing off. Nothing is given up here; only a caller's timeout ends the waiting.
8. A long poll answered `processing` at once was not held: its operation rests until a second after it was asked
   (docs/api.md#long-polls). "At once" is a few round trips; while that is not known, its next poll is short, to learn
   it. A hold that was broken off from outside, by a proxy whose idle timeout is shorter, was held so long all the same:
   that is the hold from then on. The next poll is short, because a service that is down breaks off, too.
9. An operation that a webhook will report is left alone until it is late (`estimators.py`), then polled as any other.
10. What an answer leaves undecided rests until a second one can decide it (`completion.py`).
11. A poll on an operation that nobody waits for any more may stay out for a while, in case somebody comes back; it is
    the first to be dropped when its slot is wanted. None is begun.
12. Times are relative to the hold as observed: against a simulator at a hundred times the speed, all runs faster.

Times are seconds on the caller's clock.
"""

from enum import Enum
from math import ceil, inf, sqrt
from typing import Generic

import attrs

from soundpiece_async._core import completion
from soundpiece_async._core.estimators import HELD_FOR_SURE, Durations, PollTiming
from soundpiece_async._core.poll_queues import BackoffQueue, InFlight, K, ReadyQueue, Watched, WatchState

REQUEST_COST = 1 / 2000  # of a hold: the lateness, 10 ms at 20 s, that is worth one request
PREEMPT_RATIO = 3.0
STARVED_GAIN = 1 / 8  # of a hold: 2.5 s
SHORT_POLL_HEADROOM = 1.1  # slots kept for looks, over what an even flow would need
FIRST_BACKOFF = 1 / 20  # of a hold: the first rest after a failure; it doubles
MAX_BACKOFF_FACTOR = 32.0  # times the first
RESCORE_STEP = 1 / 400  # of a hold: how old what is weighed may be
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
    """What a caller keeps of an operation that nobody waits for any more, to bring it along when somebody comes back.

    Without it each that comes back would be as urgent as one that was never looked at, and a rest would end early.
    """

    last_seen: float = -inf
    rests_until: float = -inf
    failures: int = 0


class Scheduler(Generic[K]):
    """Decides whom to poll; polls nobody.

    The caller asks `next_action`, which records nothing; says with `begin` that it does it (a `Poll` once its permit is
    there, a `CancelPoll` as it cancels); and reports every end of a poll, also a cancelled one, with `settle`.

    Args:
        slots: How many polls may be out at a time.
        hold: The longest the server is said to keep a long poll, in seconds. What it really does is learned.
    """

    def __init__(self, *, slots: int, hold: float = 20.0) -> None:
        self.polls = 0
        """How many polls are out."""
        self._slots = slots
        self._timing = PollTiming(max_hold=hold)
        self._going_rate = 0.0
        self._routes: dict[str, Durations] = {}
        self._watched: dict[K, Watched[K]] = {}
        self._ready, self._backing_off = ReadyQueue[K](), BackoffQueue[K]()
        self._short_polls, self._long_polls = InFlight[K](WatchState.SHORT_POLL), InFlight[K](WatchState.LONG_POLL)
        self._cancelling: Watched[K] | None = None
        self._unwanted: dict[Watched[K], None] = {}  # holds that nobody waits for, the oldest first

    def __repr__(self) -> str:
        waiting = self._ready.count
        return (
            f"<Scheduler {self.polls}/{self._slots} slots ({len(self._long_polls)} held), {waiting} waiting, "
            f"{len(self._watched) - waiting - self.polls} resting, {self._timing!r}>"
        )

    @property
    def round_trip(self) -> float:
        """The round trip in seconds, as short polls show it; a guess as long as none has been answered."""
        return self._timing.round_trip

    def stop_holding(self) -> None:
        """Record that the service does not hold long polls: they are answered at once, and back off (rule 8)."""
        self._timing.stop_holding()

    def detection_lag(self, now: float) -> float:
        """Return for how long, at worst, a result can have gone unnoticed, in seconds.

        Inside a hold nothing does; what a webhook will report does not count.
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
        """Begin to watch an operation, or learn more of one that is watched.

        Args:
            key: The operation.
            route: Operations of one route are believed to take similar times.
            now: The time.
            age: Seconds since it was created. 0: just now, so it is known to be processing. More: nobody has looked
                since, so it may long be finished. None: unknown (attached by a handle), as if unseen for a whole hold.
            webhook_expected: A webhook will report it.
            history: What was kept of it, if it was watched before.
        """
        if route not in self._routes:
            self._routes[route] = Durations(hold=self._timing.max_hold)
        watched = self._watched.get(key)
        if watched is None:
            created_at = now - (self._timing.hold if age is None else age)
            last = max(created_at, min(history.last_seen, now))
            watched = Watched(
                key,
                self._routes[route],
                created_at,
                last,
                age_known=age is not None,
                webhook_expected=webhook_expected,
                last_turn=last,
            )
            watched.failures = history.failures
            self._watched[key] = watched
            if history.rests_until > now:
                self._backing_off.add(watched, until=history.rests_until)
            else:
                self._ready.add(watched)
            return
        if watched.state is WatchState.READY:
            self._ready.discard(watched)
        watched.forgotten, watched.webhook_expected = False, webhook_expected
        self._unwanted.pop(watched, None)
        if age is not None and not watched.age_known:
            watched.age_known, watched.created_at = True, now - age
            watched.last_seen, watched.last_turn = (
                max(watched.last_seen, watched.created_at),
                max(watched.last_turn, watched.created_at),
            )
        if watched.state is WatchState.READY:
            self._ready.add(watched)

    def history(self, key: K) -> WatchHistory:
        """Return what to keep of an operation that is watched, and is about to be forgotten."""
        return _history(self._watched[key])

    def forget(self, key: K, *, now: float, finished: bool = False) -> bool:
        """Watch an operation no longer.

        Args:
            key: The operation; one that is not watched is no error.
            now: The time.
            finished: That it has finished is news from elsewhere (a webhook); durations are learned from that too.

        Returns:
            Whether a poll on it is out. The caller cancels that, now or later (rule 11), and settles it as any other.
        """
        watched = self._watched.get(key)
        if watched is None:
            return False
        out = watched.state in (WatchState.SHORT_POLL, WatchState.LONG_POLL)
        if not out:
            self._remove(watched)
        if finished:  # a webhook is news of this moment: until now it ran
            self._ready.silence.record_delivery(now)
            watched.learn(now, finished=False)
            watched.learn(now, finished=True)
        watched.forgotten = True
        if watched.state is WatchState.LONG_POLL:
            self._unwanted[watched] = None
        return out

    def next_action(self, now: float, *, rate: float | None = None) -> Poll[K] | CancelPoll[K] | Sleep:
        """Decide what to do now.

        Args:
            now: The time.
            rate: Permits per second that the account's gate gives at present; None without a limit.
        """
        waiting = self._ready
        for watched in self._backing_off.wake(now):
            waiting.add(watched)
        next_rest = self._backing_off.next()
        full = self.polls >= self._slots
        if not waiting.count or (full and not self._long_polls):
            return Sleep(next_rest if next_rest < inf else None)
        hold, price = self._timing.hold, REQUEST_COST * self._timing.hold
        waiting.observe_silent(now, hold=hold)
        waiting.rescore(now, step=hold * RESCORE_STEP)
        places = self._long_poll_slots(rate)
        room = not full and len(self._long_polls) < places
        wanted = room or (self._unwanted and not self._cancelling)
        if wanted and (best := waiting.best_long_poll(hold, price=max(self._going_rate, price))):
            return self._poll_for(best.head) if room else CancelPoll(next(iter(self._unwanted)).key)
        line = waiting.best_short_poll()
        if places < self._slots and (weak := self._pick_preemption(line.gain, now)):
            return CancelPoll(weak.key)
        if full:
            return Sleep(now + hold / 80)
        if line.gain >= price:
            return Poll(line.head.key, wait=False)
        seconds_until_worthwhile = max(
            waiting.seconds_until_worthwhile(price), hold / 8000
        )  # if hazards stay as they are: so see again soon
        return Sleep(min(next_rest, now + min(seconds_until_worthwhile, hold / 40)))

    def _poll_for(self, watched: Watched[K]) -> Poll[K]:
        """Return the poll that holds, or a short one where it has to be learned first how long a hold is (rule 8)."""
        return Poll(
            watched.key, wait=not watched.hold_broken and (self._timing.measured or not watched.hold_unconfirmed)
        )

    def explain(self, poll: Poll[K], *, now: float) -> str:
        """Return the numbers behind a poll that has not begun, for a log."""
        watched, ready = self._watched[poll.key], self._ready.count
        finishes, hazard = watched.forecast(now)
        crowd = "each has a slot" if ready + self.polls <= self._slots else f"{ready} are ready"
        return (
            f"{'long' if poll.wait else 'short'} poll: {crowd}; {now - watched.last_turn:.1f} s since its last turn, "
            f"age {now - watched.created_at:.1f} s, gain {finishes * finishes / (2 * hazard):.3g} s "
            f"(going rate {self._going_rate:.3g} s), {self.polls} of {self._slots} slots taken"
        )

    def begin(self, action: Poll[K] | CancelPoll[K], *, now: float) -> None:
        """Record that it is being done: from here the poll owns a slot, or the hold is on its way out."""
        watched = self._watched[action.key]
        if isinstance(action, CancelPoll):
            self._cancelling = watched
            return
        finishes, hazard = watched.forecast(now)
        self._ready.discard(watched)
        if not watched.webhook_expected:
            self._going_rate += (finishes * finishes / (2 * hazard) - self._going_rate) * SMOOTH
        (self._long_polls if action.wait else self._short_polls).add(watched, now=now)
        self.polls += 1

    def was_held(self, key: K, *, now: float) -> bool:
        """Return whether a poll that ends now without a result has been held by the service."""
        watched = self._watched[key]
        return watched.state is WatchState.LONG_POLL and not self._timing.maybe_not_held(now - watched.sent)

    def settle(
        self, key: K, *, now: float, outcome: Outcome, jitter: float = 0.5, retry_after: float = 0.0
    ) -> WatchHistory:
        """Record how a poll ended, and release its slot.

        Args:
            key: The operation.
            now: The time.
            outcome: FINISHED leaves the scheduler; UNDECIDED is an end if a later answer says the same; FAILED is no
                usable answer; CUT is a long poll that was broken off, perhaps by a proxy; DROPPED was cancelled.
            jitter: A number between 0 and 1 that spreads the rests after failures.
            retry_after: The shortest rest after a failure.

        Returns:
            What to keep of it, should nobody wait for it any more.
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
        rest = 0.0
        match outcome:
            case Outcome.FINISHED:
                self._observe_result(watched, now, held=held)
            case Outcome.PROCESSING:
                rest = self._observe_answer(watched, now, held=held)
            case Outcome.UNDECIDED:
                watched.failures, watched.hold_broken = 0, False
                rest = completion.AGREE_AFTER  # nothing is learned of the hold: it may be over
            case Outcome.FAILED | Outcome.CUT:
                rest = max(
                    self._observe_broken_hold(watched, now) if cut else self._observe_failure(watched, jitter),
                    retry_after,
                )
            case Outcome.CANCELLED if (
                now - watched.sent > self._timing.round_trip
            ):  # the server had it, and gave no answer
                watched.learn(now, finished=False)
        watched.rests_until = now + rest
        if watched.forgotten:
            self._remove(watched)
        elif rest > 0:
            self._backing_off.add(watched, until=watched.rests_until)
        else:
            watched.state = WatchState.READY
            self._ready.add(watched)
        return _history(watched)

    def _long_poll_slots(self, rate: float | None) -> int:
        """Return how many slots may hold (rules 2 and 3)."""
        crowd = self._ready.count - self._ready.webhook_expected + self.polls - self._slots
        if crowd <= 0:
            return self._slots
        looks = min(self._ready.hazard_sum / sqrt(2 * REQUEST_COST * self._timing.hold), inf if rate is None else rate)
        return self._slots - max(
            1, min(ceil(looks * self._timing.round_trip * SHORT_POLL_HEADROOM), crowd, self._slots)
        )

    def _pick_preemption(self, worth: float, now: float) -> Watched[K] | None:
        """Return a hold that is worth dropping (rule 6), `gain` being that of the best look."""
        if self._cancelling:
            return None
        hold = self._timing.hold
        least_hazard = self._long_polls.least_hazard(now, step=4 * RESCORE_STEP * hold)
        shut_out = len(self._long_polls) >= self._slots and worth > STARVED_GAIN * hold
        swap = (
            least_hazard
            and least_hazard.route.trusted
            and self._ready.max_hazard() > PREEMPT_RATIO * least_hazard.forecast(now)[1]
        )
        return least_hazard if shut_out or swap else None

    def _observe_answer(self, watched: Watched[K], now: float, *, held: bool) -> float:
        """Learn from an answer without a result, and return how long the operation has to rest (rule 8)."""
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
        """Return how long an operation has to rest after a poll without a usable answer (rule 7)."""
        rest = min(2.0**watched.failures, MAX_BACKOFF_FACTOR) * FIRST_BACKOFF * self._timing.hold * (0.5 + jitter / 2)
        watched.failures += 1
        return rest

    def _observe_broken_hold(self, watched: Watched[K], now: float) -> float:
        """Learn the hold from one that was broken off, and return how long the operation has to rest (rule 8)."""
        took = now - watched.sent
        watched.learn(now, finished=False)  # a result would have come during it
        self._timing.observe_long_poll(took)
        watched.hold_broken = True
        return HELD_FOR_SURE * self._timing.max_hold - took

    def _observe_result(self, watched: Watched[K], now: float, *, held: bool) -> None:
        """Learn from a result. One that came during a hold is known to the instant, or rather to the round trip."""
        took, trip = now - watched.sent, self._timing.round_trip
        if not held:
            self._timing.observe_short_poll(took)
        if held and took > 2 * trip:
            watched.learn(now - trip, finished=False)
        elif watched.webhook_expected and not watched.forgotten:  # it was there before: the webhook got lost
            self._ready.silence.record_miss()
        watched.learn(now, finished=True)
        watched.forgotten = True

    def _remove(self, watched: Watched[K]) -> None:
        if watched.state is WatchState.READY:
            self._ready.discard(watched)
        watched.state = WatchState.REMOVED
        del self._watched[watched.key]


def _history(watched: Watched[K]) -> WatchHistory:
    return WatchHistory(watched.last_seen, watched.rests_until, watched.failures)
