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
6. A hold is dropped only for an operation of `SWAP` times its hazard (two modes, mixed routes; routes known well), or
   if holds begun in quieter times have all slots and a look is worth 1/8 of a hold; the weakest first, one at a time.
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

from collections.abc import Hashable
from enum import Enum
from math import ceil, inf, sqrt

import attrs

from soundpiece_async._core import completion
from soundpiece_async._core.estimators import GUARD, Durations, Tempo
from soundpiece_async._core.poll_queues import Out, Piece, Resting, Stage, Waiting

PRICE = 1 / 2000  # of a hold: the lateness, 10 ms at 20 s, that is worth one request
SWAP = 3.0
SHUT_OUT = 1 / 8  # of a hold: 2.5 s
SPARE = 1.1  # slots kept for looks, over what an even flow would need
BACKOFF = 1 / 20  # of a hold: the first rest after a failure; it doubles
LONGEST_REST = 32.0  # times the first
STEP = 1 / 400  # of a hold: how old what is weighed may be
SMOOTH = 1 / 16  # the weight of the newest poll in what is averaged


class Outcome(Enum):
    """How a poll ended."""

    PROCESSING = "processing"
    UNDECIDED = "undecided"
    FINISHED = "finished"
    FAILED = "failed"
    CUT = "cut"
    DROPPED = "dropped"


@attrs.frozen
class Poll:
    """Poll this operation: with `wait=true`, or to be answered at once."""

    key: Hashable
    wait: bool


@attrs.frozen
class Drop:
    """Cancel the long poll on this operation: its slot is worth more elsewhere."""

    key: Hashable


@attrs.frozen
class Sleep:
    """Do nothing before this time, or (None) until something happens."""

    until: float | None


@attrs.frozen
class Past:
    """What a caller keeps of an operation that nobody waits for any more, to bring it along when somebody comes back.

    Without it each that comes back would be as urgent as one that was never looked at, and a rest would end early.
    """

    seen: float = -inf
    rests: float = -inf
    failures: int = 0


class Scheduler:
    """Decides whom to poll; polls nobody.

    The caller asks `next_action`, which records nothing; says with `begin` that it does it (a `Poll` once its permit is
    there, a `Drop` as it cancels); and reports every end of a poll, also a cancelled one, with `settle`.

    Args:
        slots: How many polls may be out at a time.
        hold: The longest the server is said to keep a long poll, in seconds. What it really does is learned.
    """

    def __init__(self, *, slots: int, hold: float = 20.0) -> None:
        self._slots = slots
        self._tempo = Tempo(announced=hold)
        self._price = 0.0
        self._routes: dict[str, Durations] = {}
        self._pieces: dict[Hashable, Piece] = {}
        self._waiting, self._resting = Waiting(), Resting()
        self._looked, self._held = Out(Stage.LOOKED), Out(Stage.HELD)
        self._dropping: Piece | None = None
        self._spare: dict[Piece, None] = {}  # holds that nobody waits for, the oldest first

    def __repr__(self) -> str:
        waiting = self._waiting.count
        return (
            f"<Scheduler {self.polls}/{self._slots} slots ({len(self._held)} held), {waiting} waiting, "
            f"{len(self._pieces) - waiting - self.polls} resting, {self._tempo!r}>"
        )

    @property
    def polls(self) -> int:
        """How many polls are out."""
        return len(self._held) + len(self._looked)

    @property
    def rtt(self) -> float:
        """The round trip in seconds, as short polls show it; a guess as long as none has been answered."""
        return self._tempo.trip

    def stop_holding(self) -> None:
        """Know that the service holds no polls: what is asked for as a hold is answered at once, and rests (rule 8)."""
        self._tempo.stop_holding()

    def lag(self, now: float) -> float:
        """Return for how long, at worst, a result can have gone unnoticed, in seconds.

        Inside a hold nothing does; what a webhook will report does not count.
        """
        return max(0.0, now - min(self._waiting.oldest(), self._resting.oldest(), self._looked.oldest()))

    def watch(
        self,
        key: Hashable,
        *,
        route: str,
        now: float,
        age: float | None = 0.0,
        pushed: bool = False,
        past: Past = Past(),
    ) -> None:
        """Begin to watch an operation, or learn more of one that is watched.

        Args:
            key: The operation.
            route: Operations of one route are believed to take similar times.
            now: The time.
            age: Seconds since it was created. 0: just now, so it is known to be processing. More: nobody has looked
                since, so it may long be finished. None: unknown (attached by a handle), as if unseen for a whole hold.
            pushed: A webhook will report it.
            past: What was kept of it, if it was watched before.
        """
        if route not in self._routes:
            self._routes[route] = Durations(hold=self._tempo.announced)
        piece = self._pieces.get(key)
        if piece is None:
            born = now - (self._tempo.hold if age is None else age)
            last = max(born, min(past.seen, now))
            piece = Piece(key, self._routes[route], born, last, aged=age is not None, pushed=pushed, since=last)
            piece.failures = past.failures
            self._pieces[key] = piece
            if past.rests > now:
                self._resting.add(piece, until=past.rests)
            else:
                self._waiting.add(piece)
            return
        if piece.stage is Stage.WAITING:
            self._waiting.discard(piece)
        piece.gone, piece.pushed = False, pushed
        self._spare.pop(piece, None)
        if age is not None and not piece.aged:
            piece.aged, piece.born = True, now - age
            piece.seen, piece.since = max(piece.seen, piece.born), max(piece.since, piece.born)
        if piece.stage is Stage.WAITING:
            self._waiting.add(piece)

    def past(self, key: Hashable) -> Past:
        """Return what to keep of an operation that is watched, and is about to be forgotten."""
        return _past(self._pieces[key])

    def forget(self, key: Hashable, *, now: float, finished: bool = False) -> bool:
        """Watch an operation no longer.

        Args:
            key: The operation; one that is not watched is no error.
            now: The time.
            finished: That it has finished is news from elsewhere (a webhook); durations are learned from that too.

        Returns:
            Whether a poll on it is out. The caller cancels that, now or later (rule 11), and settles it as any other.
        """
        piece = self._pieces.get(key)
        if piece is None:
            return False
        out = piece.stage in (Stage.LOOKED, Stage.HELD)
        if not out:
            self._leave(piece)
        if finished:  # a webhook is news of this moment: until now it ran
            self._waiting.silence.take_webhook(now)
            piece.learn(now, finished=False)
            piece.learn(now, finished=True)
        piece.gone = True
        if piece.stage is Stage.HELD:
            self._spare[piece] = None
        return out

    def next_action(self, now: float, *, rate: float | None = None) -> Poll | Drop | Sleep:
        """Decide what to do now.

        Args:
            now: The time.
            rate: Permits per second that the account's gate gives at present; None without a limit.
        """
        waiting = self._waiting
        for piece in self._resting.wake(now):
            waiting.add(piece)
        next_rest = self._resting.next()
        full = self.polls >= self._slots
        if not waiting.count or (full and not self._held):
            return Sleep(next_rest if next_rest < inf else None)
        hold, price = self._tempo.hold, PRICE * self._tempo.hold
        waiting.listen(now, hold=hold)
        waiting.weigh(now, step=hold * STEP)
        places = self._places(rate)
        room = not full and len(self._held) < places
        wanted = room or (self._spare and not self._dropping)
        if wanted and (best := waiting.best_hold(hold, price=max(self._price, price))):
            return self._hold(best.head) if room else Drop(next(iter(self._spare)).key)
        line = waiting.best_look()
        if places < self._slots and (weak := self._weak_enough(line.worth, now)):
            return Drop(weak.key)
        if full:
            return Sleep(now + hold / 80)
        if line.worth >= price:
            return Poll(line.head.key, wait=False)
        pays_in = max(waiting.pays_in(price), hold / 8000)  # if hazards stay as they are: so see again soon
        return Sleep(min(next_rest, now + min(pays_in, hold / 40)))

    def _hold(self, piece: Piece) -> Poll:
        """Return the poll that holds, or a short one where it has to be learned first how long a hold is (rule 8)."""
        return Poll(piece.key, wait=not piece.cut and (self._tempo.measured or not piece.suspect))

    def begin(self, action: Poll | Drop, *, now: float) -> None:
        """Record that it is being done: from here the poll owns a slot, or the hold is on its way out."""
        piece = self._pieces[action.key]
        if isinstance(action, Drop):
            self._dropping = piece
            return
        finishes, hazard = piece.prospects(now)
        self._waiting.discard(piece)
        if not piece.pushed:
            self._price += (finishes * finishes / (2 * hazard) - self._price) * SMOOTH
        (self._held if action.wait else self._looked).add(piece, now=now)

    def was_held(self, key: Hashable, *, now: float) -> bool:
        """Return whether a poll that ends now without a result has been held by the service."""
        piece = self._pieces[key]
        return piece.stage is Stage.HELD and not self._tempo.suspects(now - piece.sent)

    def settle(
        self, key: Hashable, *, now: float, outcome: Outcome, jitter: float = 0.5, retry_after: float = 0.0
    ) -> Past:
        """Take in how a poll ended, and its slot back.

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
        piece = self._pieces[key]
        held = piece.stage is Stage.HELD
        cut = outcome is Outcome.CUT and self.was_held(key, now=now)
        piece.suspect = piece.suspect or (outcome is Outcome.CUT and not self._tempo.measured)
        (self._held if held else self._looked).discard(piece)
        self._spare.pop(piece, None)
        if self._dropping is piece:
            self._dropping = None
        rest = 0.0
        match outcome:
            case Outcome.FINISHED:
                self._take_result(piece, now, held=held)
            case Outcome.PROCESSING:
                rest = self._take_answer(piece, now, held=held)
            case Outcome.UNDECIDED:
                piece.failures, piece.cut = 0, False
                rest = completion.AGREE_AFTER  # nothing is learned of the hold: it may be over
            case Outcome.FAILED | Outcome.CUT:
                rest = max(self._take_cut(piece, now) if cut else self._take_failure(piece, jitter), retry_after)
            case Outcome.DROPPED if now - piece.sent > self._tempo.trip:  # the server had it, and gave no answer
                piece.learn(now, finished=False)
        piece.rests = now + rest
        if piece.gone:
            self._leave(piece)
        elif rest > 0:
            self._resting.add(piece, until=piece.rests)
        else:
            piece.stage = Stage.WAITING
            self._waiting.add(piece)
        return _past(piece)

    def _places(self, rate: float | None) -> int:
        """Return how many slots may hold (rules 2 and 3)."""
        crowd = self._waiting.count - self._waiting.pushed + self.polls - self._slots
        if crowd <= 0:
            return self._slots
        looks = min(self._waiting.heat / sqrt(2 * PRICE * self._tempo.hold), inf if rate is None else rate)
        return self._slots - max(1, min(ceil(looks * self._tempo.trip * SPARE), crowd, self._slots))

    def _weak_enough(self, worth: float, now: float) -> Piece | None:
        """Return a hold that is worth dropping (rule 6), `worth` being that of the best look."""
        if self._dropping:
            return None
        hold = self._tempo.hold
        weakest = self._held.weakest(now, step=4 * STEP * hold)
        shut_out = len(self._held) >= self._slots and worth > SHUT_OUT * hold
        swap = weakest and weakest.route.trusted and self._waiting.hottest() > SWAP * weakest.prospects(now)[1]
        return weakest if shut_out or swap else None

    def _take_answer(self, piece: Piece, now: float, *, held: bool) -> float:
        """Learn from an answer without a result, and return how long the operation has to rest (rule 8)."""
        took = now - piece.sent
        piece.learn(now, finished=False)
        piece.failures, piece.suspect, piece.cut = 0, False, False
        if not held:
            self._tempo.take_look(took)
        elif not self._tempo.suspects(took):
            self._tempo.take_hold(took)
        elif self._tempo.measured:
            return GUARD * self._tempo.announced - took
        else:
            piece.suspect = True
        return 0.0

    def _take_failure(self, piece: Piece, jitter: float) -> float:
        """Return how long an operation has to rest after a poll without a usable answer (rule 7)."""
        rest = min(2.0**piece.failures, LONGEST_REST) * BACKOFF * self._tempo.hold * (0.5 + jitter / 2)
        piece.failures += 1
        return rest

    def _take_cut(self, piece: Piece, now: float) -> float:
        """Learn the hold from one that was broken off, and return how long the operation has to rest (rule 8)."""
        took = now - piece.sent
        piece.learn(now, finished=False)  # a result would have come during it
        self._tempo.take_hold(took)
        piece.cut = True
        return GUARD * self._tempo.announced - took

    def _take_result(self, piece: Piece, now: float, *, held: bool) -> None:
        """Learn from a result. One that came during a hold is known to the instant, or rather to the round trip."""
        took, trip = now - piece.sent, self._tempo.trip
        if not held:
            self._tempo.take_look(took)
        if held and took > 2 * trip:
            piece.learn(now - trip, finished=False)
        elif piece.pushed and not piece.gone:  # it was there before: the webhook got lost
            self._waiting.silence.take_miss()
        piece.learn(now, finished=True)
        piece.gone = True

    def _leave(self, piece: Piece) -> None:
        if piece.stage is Stage.WAITING:
            self._waiting.discard(piece)
        piece.stage = Stage.LEFT
        del self._pieces[piece.key]


def _past(piece: Piece) -> Past:
    return Past(piece.seen, piece.rests, piece.failures)
