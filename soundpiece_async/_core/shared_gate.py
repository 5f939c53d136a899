"""The gate of an account that several processes share: the actions of a process, and the store in memory.

The stores themselves are in ``_shared``. A store knows reservations, and no rate law. The rules:

1. A process without a response from the store yet sends at `NEWCOMER_RATE`. While the store knows no limit, every
   process sends without a question per request.
2. Once a limit is known, each request needs a permit from the store: a reservation on the store's clock, answered as
   "go in so many seconds". One reservation, or one small batch, per process is open at a time: that is what shares the
   account evenly. The order inside a process is up to its gate.
3. Any 429 is reported with the epoch in which its request was admitted. The store closes the gate for all, and
   chooses, of all reports of one epoch, one: that process lowers the rate, by the law of `rate_control.py`. Permits of
   an earlier epoch are void.
4. Growth is the law's, too: from time to time the store chooses a process, which applies it for all permits that were
   spent meanwhile, and writes the rate back if no other process did (compare and set).
5. A store that does not answer stops no process: one that knew the rate continues at `AWAY_SHARE` of its part, one that
   knows no limit as without a store, one that never reached the store as under rule 1.
6. A store that comes back empty gets the rate that was known. Its epochs and its clock are adopted, whatever they
   are.

`AccountGate` is the store in memory: it does what the script of Redis and the statements of Postgres do. Tests compare
them; `benchmarks/pacing.py` plays it in virtual time. Permits are given by virtual scheduling (GCRA): `due` is
when the next one is there, at most `SAVED_SECONDS` of them are saved, and a reservation is answered with the seconds
until it may be used. Its `now` is the store's clock, which may step back: a `due` beyond what live processes can have
reserved, and a pause longer than it was reported, are cut.
"""

import json
import math
from collections import deque
from typing import Any, TypeAlias

import attrs

from soundpiece_async._core.gate import SAVED_SECONDS, OwnPace, Ticket
from soundpiece_async._core.rate_control import LearnedRate, describe_rate

HEARTBEAT_SECONDS = 2.5
"""Seconds between two heartbeats."""
PEER_SECONDS = 10.0
"""Seconds without a heartbeat after which a process is not counted any more."""
NEWCOMER_RATE = 1.0
"""Requests per second of a process that has never reached the store."""
AWAY_SHARE = 0.8
"""The share of its part of the last known rate that a process uses while the store is away."""
TUNE_SECONDS = 0.25
"""Seconds' worth of permits after which the rate may grow again."""
MAX_PERMITS = 64
"""Permits of one reservation."""

_CLOSED_LOOK = 0.1  # seconds after which to ask again while the gate is closed and no rate is set yet
_ALONE = -(10**9)  # epochs of a process by itself: never one of the store's
_MOST_SPENT = 10_000  # permits that one tuning makes up for


@attrs.frozen(kw_only=True)
class GateState:
    """The account's gate as the store answered; seconds are relative to that moment.

    Attributes:
        rate: permits per second by the law; None: no 429 yet.
        ceiling: the lowest of the live processes; None: none has one.
        closed: seconds until the pause of the last 429 ends.
        epoch: cuts so far.
        version: changes with each tuning.
        spent: permits that a request waited for, since the last tuning.
        learned: the law's state, as JSON.
        peers: live processes.
        wait: until the first permit of a reservation.
        chosen: this process is to tune; or, of a tuning: it counts.
    """

    rate: float | None
    ceiling: float | None
    closed: float
    epoch: int
    version: int
    spent: int
    learned: str
    peers: int
    wait: float = 0.0
    chosen: bool = False

    @property
    def pace(self) -> float | None:
        """Permits per second of the account; None: no limit."""
        return _lowest(self.rate, self.ceiling)


@attrs.frozen
class Heartbeat:
    """Send a heartbeat, and read the state."""

    ceiling: float | None


@attrs.frozen
class Reserve:
    """Reserve permits; a request has waited for the first one for so many seconds."""

    count: int
    waited: float


@attrs.frozen
class Report:
    """Report a 429 to a request of that epoch, which closes the gate for so many seconds."""

    epoch: int
    pause: float


@attrs.frozen
class Tune:
    """Set the rate and the law's state, unless the version has changed."""

    version: int
    spent: int
    rate: float
    learned: str
    lower: bool = False


Action: TypeAlias = Heartbeat | Reserve | Report | Tune


def make_tuning(seen: GateState, *, lower: bool) -> Tune:
    """Apply the rate law to what the store knows: growth for the permits spent, then a cut if it was a 429."""
    law = _resume(seen)
    for _ in range(min(seen.spent, _MOST_SPENT)):
        law.on_permit(wanted=True)
    if lower:
        law.on_rate_limited()
    return _write(law, seen, lower=lower)


def make_seed(seen: GateState, *, rate: float, learned: str) -> Tune:
    """Write the last known rate to an empty store."""
    return _write(_resume(attrs.evolve(seen, rate=rate, learned=learned)), seen, lower=False)


def _resume(seen: GateState) -> LearnedRate:
    """Resume the rate law; a missing or unknown state starts at the rate alone."""
    if seen.rate is None:
        return LearnedRate(ceiling=seen.ceiling)
    try:
        return LearnedRate.resume(json.loads(seen.learned), ceiling=seen.ceiling)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return LearnedRate.settle_at(seen.rate, ceiling=seen.ceiling)


def _write(law: LearnedRate, seen: GateState, *, lower: bool) -> Tune:
    rate: Any = law.rate  # known: it was resumed with one, or lowered
    return Tune(seen.version, seen.spent, rate, json.dumps(law.state, separators=(",", ":")), lower)


class SharedPace:
    """The permits of one process of an account; a `Pace`, and what to ask the store next.

    Args:
        ceiling: requests per second of the whole account, as far as this process is concerned.
    """

    def __init__(self, *, ceiling: float | None = None) -> None:
        self.ceiling = ceiling
        self.seen: GateState | None = None
        self.away: bool = True
        self._own: OwnPace | None = OwnPace(ceiling=_lowest(ceiling, NEWCOMER_RATE), epoch=_ALONE)
        self._epoch = 0
        self._permits: deque[float] = deque()  # when each may be used
        self._void = False  # the response of the reservation that is out does not count
        self._doubted = False  # a response of an earlier epoch was passed over: the next one is believed
        self._reports: deque[tuple[int, float]] = deque()
        self._tuning: Tune | None = None
        self._beat_at = self._take_at = -math.inf
        self._round_trip = 0.0

    def __repr__(self) -> str:
        state = "away" if self.away else "free" if self._own else "metered"
        return (
            f"<SharedPace {state} {describe_rate(self.account_rate)} peers={self.peers} permits={len(self._permits)}>"
        )

    @property
    def rate(self) -> float | None:
        """Permits per second of this process."""
        if self._own is not None:
            return self._own.rate
        account = self.account_rate
        return None if account is None else account / max(1, self.peers)

    @property
    def account_rate(self) -> float | None:
        """Permits per second of the account; while the store is away, of this process."""
        if self._own is not None:
            return self._own.rate
        return None if self.seen is None else self.seen.pace

    @property
    def peers(self) -> int:
        """Live processes at the last answer; 0: there never was one."""
        return 0 if self.seen is None else self.seen.peers

    @property
    def epoch(self) -> int:
        """The epoch of what is admitted now."""
        return self._own.epoch if self._own is not None and self.away else self._epoch

    @property
    def due(self) -> float:
        """When the next permit is there; infinity: the store has to be asked."""
        if self._own is not None:
            return self._own.due
        return self._permits[0] if self._permits else math.inf

    def is_ready(self, now: float) -> bool:
        """Return whether there is a permit; one that was not used for a second is lost."""
        if self._own is not None:
            return self._own.is_ready(now)
        while self._permits and self._permits[0] < now - SAVED_SECONDS:
            self._permits.popleft()
        return bool(self._permits) and self._permits[0] <= now

    def spend(self, ticket: Ticket, now: float) -> None:
        """Use up a permit."""
        if self._own is not None:
            self._own.spend(ticket, now)
        else:
            self._permits.popleft()

    def refund(self, ticket: Ticket, now: float) -> None:
        """Keep a permit that was not used for the next request."""
        if self._own is not None:
            self._own.refund(ticket, now)
        elif ticket.epoch == self._epoch:
            self._permits.appendleft(now)

    def on_let_through(self, now: float) -> None:
        """Count it, for the time without a store."""
        if self._own is not None:
            self._own.on_let_through(now)

    def on_rate_limited(self, epoch: int, *, now: float, until: float) -> None:
        """Record a 429: reported to the store, or, without one, applied to this process alone."""
        if self._own is not None and self.away:
            self._own.on_rate_limited(epoch, now=now, until=until)
            return
        self._reports.append((epoch, until))
        if epoch == self._epoch:  # permits of a later epoch are as good as before
            self._epoch += 1  # as the store does, for the first process to report it
            self._meter()

    def alarm(self) -> None:
        """Note that the gate has changed, by a message from the store: permits are void until the state is read."""
        if not self.away:
            self._meter()
            self._beat_at = -math.inf

    def lose(self, now: float, *, jitter: float) -> None:
        """Continue without the store.

        Args:
            now: seconds.
            jitter: a random number in [0, 1): all processes lose the store in one moment, and must not send in step.
        """
        pending = self._reports[-1] if self._reports else None
        self._reports.clear()
        self._permits.clear()
        self._tuning, self._beat_at, self._take_at = None, -math.inf, -math.inf
        self.away, self._void = True, True
        if self._own is not None or self.seen is None:
            return
        account = self.seen.pace
        share = None if account is None else AWAY_SHARE * account / max(1, self.peers)
        ceiling = _lowest(self.ceiling, share)
        due = now if ceiling is None else now + jitter / ceiling
        self._own = OwnPace(ceiling=ceiling, epoch=_ALONE, due=due)
        if pending is not None and share is None:
            self._own.on_rate_limited(_ALONE, now=now, until=pending[1])

    def next_wakeup(self, now: float) -> float:
        """Return when `next_action` may have something without news of this process."""
        return min(self._beat_at, self._take_at if self._take_at > now else math.inf)

    def next_action(self, now: float, *, waiting: int, since: float) -> Action | None:
        """Return what to ask the store now, one question at a time; None: nothing.

        Args:
            now: seconds.
            waiting: requests queued at the gate of this process.
            since: when the first of them joined.
        """
        if self._reports:
            epoch, until = self._reports[0]
            return Report(epoch, max(0.0, until - now))
        if self._tuning is not None:
            tuning, self._tuning = self._tuning, None
            return tuning
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_SECONDS
            return Heartbeat(self.ceiling)
        if self._own is None and waiting and now >= self._take_at:
            self.is_ready(now)
            if not self._permits:
                self._void = False
                part = (self.rate or 0.0) * 2 * self._round_trip  # what is used up before the next answer
                return Reserve(min(waiting, MAX_PERMITS, 1 + int(part)), max(0.0, now - since))
        return None

    def answer(self, action: Action, seen: GateState, *, now: float, took: float) -> None:
        """Learn from the store's answer.

        Args:
            action: what was asked.
            seen: the response.
            now: seconds.
            took: seconds that it took.
        """
        self._round_trip += 0.2 * (took - self._round_trip)
        if isinstance(action, Reserve):
            self._receive(action, seen, now)
            return
        self._learn(seen)
        first = isinstance(action, Report) and seen.chosen
        if isinstance(action, Report):
            self._reports.popleft()
        if first or (isinstance(action, Tune) and action.lower and not seen.chosen):
            self._tuning = make_tuning(seen, lower=True)

    def _receive(self, action: Reserve, seen: GateState, now: float) -> None:
        """Keep the permits of a reservation, unless it is of an earlier epoch, or void by a 429 meanwhile."""
        if seen.chosen and self._tuning is None:
            self._tuning = make_tuning(seen, lower=False)
        stale = seen.epoch < self._epoch and not self._doubted
        self._doubted = stale
        if self._void or stale:
            return
        self._learn(seen)
        if self._own is not None:
            return
        if (account := seen.pace) is None:
            self._take_at = now + _CLOSED_LOOK
            return
        self._permits.extend(now + seen.wait + number / account for number in range(action.count))

    def _learn(self, seen: GateState) -> None:
        """Adopt the store's state, and tell a store that has forgotten the rate what it was (rule 6)."""
        known, own = self.seen, self._own
        if seen.epoch != self._epoch:
            self._epoch = seen.epoch
            self._permits.clear()
        if seen.rate is None and not seen.closed and known is not None:
            rate, learned = known.rate, known.learned
            if rate is None and self.away and own is not None and own.learned.limited:
                rate, learned = (own.rate or 0.0) * max(1, seen.peers), ""
            if rate is not None:
                self._tuning = make_seed(seen, rate=rate, learned=learned)
                seen = attrs.evolve(seen, rate=rate, learned=learned)
        self.seen, self.away = seen, False
        free = seen.pace is None and not seen.closed
        self._own = OwnPace(epoch=self._epoch) if free else None

    def _meter(self) -> None:
        """Hold requests until the store has granted a permit of the new epoch."""
        self._permits.clear()
        self._void, self._own = True, None


def _lowest(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)


TUNING_SECONDS = 1.0
"""For which a process that was chosen to tune has the time to do so; then another one is."""
SPARE_PERMITS = 8
"""Beyond those of the live processes, before a `due` is taken for that of another clock."""


@attrs.define
class AccountGate:
    """The state of one account, and its live processes: when each was last seen, and its ceiling."""

    rate: float | None = None
    ceiling: float | None = None
    due: float = 0.0
    closed: float = 0.0
    pause: float = 0.0
    epoch: int = 0
    version: int = 0
    spent: int = 0
    tuning: float = 0.0
    learned: str = ""
    peers: dict[str, tuple[float, float | None]] = attrs.field(factory=dict)

    def perform(self, action: Action, *, peer: str, now: float) -> GateState:
        """Do what a process asks, and return the state."""
        self.closed = min(self.closed, now + self.pause)
        match action:
            case Heartbeat(ceiling=ceiling):
                self._attend(peer, ceiling, now)
                return self._show(now)
            case Reserve(count=count, waited=waited):
                return self._take(count, waited, now)
            case Report(epoch=epoch, pause=pause):
                return self._report(epoch, pause, now)
            case tuning:
                return self._tune(tuning, now)

    def depart(self, peer: str) -> None:
        """Forget a process that ends."""
        self.peers.pop(peer, None)

    def _attend(self, peer: str, ceiling: float | None, now: float) -> None:
        self.peers[peer] = (now, ceiling)
        self.peers = {one: sign for one, sign in self.peers.items() if now - sign[0] <= PEER_SECONDS}
        self.ceiling = min((least for _, least in self.peers.values() if least is not None), default=None)

    def _take(self, count: int, waited: float, now: float) -> GateState:
        if (pace := self._show(now).pace) is None:
            return self._show(now)
        opens = max(now, self.closed)
        wanted = now - self.due <= waited
        start = max(self.due, now - SAVED_SECONDS, self.closed)
        if start - opens > (max(1, len(self.peers)) * (count + 2) + SPARE_PERMITS) / pace:
            start = opens
        self.due = start + count / pace
        self.spent += count if wanted else 0
        chosen = self.rate is not None and self.spent >= max(1, pace * TUNE_SECONDS) and now >= self.tuning
        if chosen:
            self.tuning = now + TUNING_SECONDS
        return attrs.evolve(self._show(now), wait=max(0.0, start - now), chosen=chosen)

    def _report(self, epoch: int, pause: float, now: float) -> GateState:
        if now + pause > self.closed:
            self.closed, self.pause = now + pause, pause
        chosen = epoch == self.epoch
        if chosen:
            self.epoch += 1
            self.due = self.closed
        self.due = max(self.due, self.closed)
        return attrs.evolve(self._show(now), chosen=chosen)

    def _tune(self, tuning: Tune, now: float) -> GateState:
        chosen = tuning.version == self.version
        if chosen:
            self.version += 1
            self.rate, self.learned = tuning.rate, tuning.learned
            self.spent, self.tuning = max(0, self.spent - tuning.spent), 0.0
        return attrs.evolve(self._show(now), chosen=chosen)

    def _show(self, now: float) -> GateState:
        return GateState(
            rate=self.rate,
            ceiling=self.ceiling,
            closed=max(0.0, self.closed - now),
            epoch=self.epoch,
            version=self.version,
            spent=self.spent,
            learned=self.learned,
            peers=len(self.peers),
        )
