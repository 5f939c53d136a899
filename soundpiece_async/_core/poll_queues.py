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

import attrs

from soundpiece_async._core.estimators import Durations, Silence, bin_of

TOUCHED = 64  # heads changed before all lines are weighed again
UNKNOWN = -1  # the bin of those whose age nobody knows


class Stage(Enum):
    """Where a watched operation is."""

    WAITING = "waiting"
    RESTING = "resting"
    LOOKED = "looked"
    HELD = "held"
    LEFT = "left"


@attrs.define(eq=False)
class Piece:
    """One watched operation. Times are the caller's clock, in seconds.

    `seen` is when it was last known to be processing, `since` when it last had a turn, even one that failed, and
    `rests` until when it rests, or rested; `aged`
    tells whether `born` is known, or is only when it was first heard of; `gone` that nobody waits for it any more
    while a poll is still out; `cut` that a hold on it was broken off, and no answer came since.
    """

    key: Hashable
    route: Durations
    born: float
    seen: float
    aged: bool
    pushed: bool
    since: float
    stage: Stage = Stage.WAITING
    sent: float = 0.0
    failures: int = 0
    gone: bool = False
    suspect: bool = False
    cut: bool = False
    rests: float = -inf

    def prospects(self, now: float) -> tuple[float, float]:
        """Return the finishes to expect since the last turn, and the hazard now; at an unknown age the overall rate."""
        if not self.aged:
            return self.route.rate * (now - self.since), self.route.rate
        return self.route.look_ahead(self.since - self.born, now - self.born)

    def learn(self, now: float, *, finished: bool) -> None:
        """Take in that it was seen, running or finished; from an unknown age nothing is learned."""
        if self.aged and not self.gone:
            self.route.learn(self.seen - self.born, now - self.born, finished=finished)
        self.seen = self.since = now


@attrs.define(eq=False)
class Line:
    """Those who differ only in when they last had a turn; worth and hazard are those of the head, the longest here."""

    pieces: OrderedDict[Hashable, Piece] = attrs.field(factory=OrderedDict)
    worth: float = 0.0
    hazard: float = 0.0
    holdable: bool = True
    trusted: bool = False

    @property
    def head(self) -> Piece:
        """The one to look at first."""
        return next(iter(self.pieces.values()))

    def add(self, piece: Piece) -> None:
        """Queue up; who has waited longer than the last of the line (an old operation attached) goes to the front."""
        late = bool(self.pieces) and piece.since < next(reversed(self.pieces.values())).since
        self.pieces[piece.key] = piece
        if late:
            self.pieces.move_to_end(piece.key, last=False)

    def weigh(self, now: float, *, late: float = 1.0) -> float:
        """Work out what a look at the head is worth now, nothing while a webhook may come; return how long it waits."""
        piece = self.head
        finishes, self.hazard = piece.prospects(now)
        self.holdable = not piece.pushed or piece.route.survival(now - piece.born) <= late
        self.trusted = piece.route.trusted
        self.worth = finishes * finishes / (2 * self.hazard) if self.holdable else 0.0
        return now - piece.since

    def saves(self, hold: float, *, price: float) -> float:
        """Return what holding the head saves: the looks that so many seconds would cost, and this one if it is due.

        A look not yet due is worth less than its price; what is lost by paying it early falls with the square of the
        time still missing.
        """
        early = 1 - sqrt(self.worth / price) if self.worth < price else 0.0
        lost = price * early * early if early else price - self.worth
        return hold * sqrt(2 * self.hazard * price) - lost

    def pays_in(self, price: float) -> float:
        """Return in how many seconds a look at the head will be worth its price, if the hazard stays as it is."""
        return (sqrt(price) - sqrt(self.worth)) * sqrt(2 / self.hazard)


class Waiting:
    """All lines, weighed when asked.

    Weighing every line costs about a microsecond each, so between two weighings (`step` seconds, or `TOUCHED`
    changes) only lines with a new head are weighed again.
    """

    def __init__(self) -> None:
        self.silence = Silence()
        self._lines: dict[tuple[Durations, bool, int], Line] = {}
        self._stale: dict[Line, None] = {}
        self._weighed, self._patience = -inf, 0.0
        self._touched = 0
        self.count = 0
        self.pushed = 0
        self.heat = 0.0
        """The sum of sqrt(h): at price p, sqrt(h / 2 p) looks per second are worth their price."""

    def __repr__(self) -> str:
        return f"<Waiting {self.count} in {len(self._lines)} lines>"

    def add(self, piece: Piece) -> None:
        """Let it wait for a look."""
        line = self._lines.setdefault(_spot(piece), Line())
        line.add(piece)
        if line.head is piece:
            self._stale[line] = None
        self._count(piece, 1)

    def discard(self, piece: Piece) -> None:
        """Let it wait no longer."""
        spot = _spot(piece)
        line = self._lines[spot]
        del line.pieces[piece.key]
        self._count(piece, -1)
        if line.pieces:
            self._stale[line] = None
        else:
            del self._lines[spot]
            self._stale.pop(line, None)

    def weigh(self, now: float, *, step: float) -> None:
        """Weigh the lines if it is `step` seconds since, or many heads ago; else only those with a new head.

        Where people wait for minutes, seconds change little: a step is at least a two-thousandth of the longest wait.
        """
        late = self.silence.late
        if now - self._weighed >= max(step, self._patience) or self._touched >= TOUCHED:
            self._weighed, self._touched, self.heat, longest = now, 0, 0.0, 0.0
            for line in self._lines.values():
                longest = max(longest, line.weigh(now, late=late))
                if line.holdable:
                    self.heat += len(line.pieces) * sqrt(line.hazard)
            self._patience = longest / 2000
        else:
            self._touched += len(self._stale)
            for line in self._stale:
                line.weigh(now, late=late)
        self._stale.clear()

    def listen(self, now: float, *, hold: float) -> None:
        """Let the routes count those of whom nothing was heard; not all the time, it takes a microsecond for each."""
        if not self.silence.is_due(now, hold=hold):
            return
        silent: dict[Durations, list[tuple[float, float]]] = {route: [] for route, _, _ in self._lines}
        if self.silence.means_running(now, hold=hold):
            for (route, pushed, spot), line in self._lines.items():
                if pushed and spot != UNKNOWN:
                    silent[route] += ((piece.seen - piece.born, now - piece.born) for piece in line.pieces.values())
        for route, ages in silent.items():
            route.listen(ages, loss=self.silence.loss)

    def best_look(self) -> Line:
        """Return the line whose head it is worth most to look at. Somebody must wait."""
        return max(self._lines.values(), key=attrgetter("worth"))

    def best_hold(self, hold: float, *, price: float) -> Line | None:
        """Return the line whose head saves most by being held; None if nobody may be."""
        best, most = None, -inf
        for line in self._lines.values():  # the longest part of a decision: no generator, no key
            if line.holdable and (saved := line.saves(hold, price=price)) > most:
                best, most = line, saved
        return best

    def hottest(self) -> float:
        """Return the largest hazard of those who may be held, on routes that are known well."""
        return max((line.hazard for line in self._lines.values() if line.holdable and line.trusted), default=0.0)

    def pays_in(self, price: float) -> float:
        """Return in how many seconds the first look will be worth its price. Somebody must wait."""
        return min(line.pays_in(price) for line in self._lines.values())

    def oldest(self) -> float:
        """Return when the head who has waited longest was last seen, webhooks aside; infinity if nobody waits."""
        return min((line.head.seen for line in self._lines.values() if not line.head.pushed), default=inf)

    def _count(self, piece: Piece, change: int) -> None:
        self.count += change
        self.pushed += change * piece.pushed


class Resting:
    """Those who must not be polled before a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Piece]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<Resting until {self.next():.3f}>"

    def add(self, piece: Piece, *, until: float) -> None:
        """Let it rest."""
        piece.stage, piece.rests = Stage.RESTING, until
        heapq.heappush(self._heap, (until, next(self._order), piece))

    def next(self) -> float:
        """Return when the first rest is over; infinity when nobody rests."""
        while self._heap and self._heap[0][2].stage is not Stage.RESTING:
            heapq.heappop(self._heap)  # it left meanwhile
        return self._heap[0][0] if self._heap else inf

    def wake(self, now: float) -> Iterator[Piece]:
        """Give out those whose rest is over. They have had their turn, so they wait from now on."""
        while self.next() <= now:
            piece = heapq.heappop(self._heap)[2]
            piece.stage, piece.since = Stage.WAITING, now
            yield piece

    def oldest(self) -> float:
        """Return when the one who has waited longest was last seen, webhooks aside; infinity if nobody rests."""
        resting = (piece for _, _, piece in self._heap if piece.stage is Stage.RESTING and not piece.pushed)
        return min((piece.seen for piece in resting), default=inf)


class Out:
    """Those on whom a poll is out, of one kind: looks or holds."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._pieces: dict[Hashable, Piece] = {}
        self._weakest: Piece | None = None
        self._found = -inf

    def __len__(self) -> int:
        return len(self._pieces)

    def __repr__(self) -> str:
        return f"<Out {len(self)} {self._stage.value}>"

    def add(self, piece: Piece, *, now: float) -> None:
        """Record that a poll on it is sent."""
        piece.stage, piece.sent = self._stage, now
        self._pieces[piece.key] = piece

    def discard(self, piece: Piece) -> None:
        """Record that its poll has ended."""
        del self._pieces[piece.key]

    def oldest(self) -> float:
        """Return when the one who has waited longest was last seen, webhooks aside; infinity if none is out."""
        return min((piece.seen for piece in self._pieces.values() if not piece.pushed), default=inf)

    def weakest(self, now: float, *, step: float) -> Piece | None:
        """Return the one with the smallest hazard, sought anew after `step` seconds or when it has gone."""
        weakest = self._weakest
        if weakest is None or weakest.gone or weakest.key not in self._pieces or now - self._found >= step:
            wanted = (piece for piece in self._pieces.values() if not piece.gone)
            weakest = min(wanted, key=lambda piece: piece.prospects(now)[1], default=None)
            self._weakest, self._found = weakest, now
        return weakest


def _spot(piece: Piece) -> tuple[Durations, bool, int]:
    return piece.route, piece.pushed, bin_of(piece.since - piece.born) if piece.aged else UNKNOWN
