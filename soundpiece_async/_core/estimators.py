"""Three online estimators: how long operations take, how the service answers polls, and how reliable webhooks are.

All times, ages and durations are seconds. The rules of ``Durations``, the hazard for every age: h(a) is the chance per
second that an operation still running at age a finishes now, learned as events over exposure, in bins of age that grow
by a fifth:

1. Every look at a running operation is exposure: from the look before to this one it ran. So operations that still
   run count too.
2. A finish noticed by a look lies somewhere since the look before. It is spread over that stretch as the curve so far
   expects it (one step of expectation-maximisation), so that rare looks blur the curve less and less.
3. A bin leans on its neighbours, and on the route's overall rate with the weight of `PRIOR` finishes: a curve drawn
   from five finishes is almost flat, one drawn from five hundred has its modes.
4. A floor is added, `FLOOR` times the overall rate and at least one finish in five holds: the quiet stretch between
   two modes, and ages that nobody has reached yet, are looked at rarely but not never.
5. Beyond `MEMORY` finishes all is halved: a service that grows slower is believed after a while.
6. Those a webhook will report are exposed while nothing is heard of them, as far as they are believed to run.

The rules of ``Silence``, for an operation that a webhook will report and of which nothing was heard:

7. It is *late* once its webhook is as likely to be lost as the operation is to be still running. Before that nobody
   looks, then it is polled as any other is. With the fewest webhooks lost that are ever believed, that is where nine in
   ten have finished.
8. How many get lost is learned: some came, and some were missed, when a poll found a result that must have been there
   before. While neither has happened, one in three is believed lost: that is late after half of the time that is usual.
9. As long as webhooks come, silence means that an operation runs, as likely as rule 7 has it. Without that a route's
   durations would be learned from those alone who finish first, and all others would soon seem late. After a quarter
   of a hold without any webhook silence means nothing: the receiver may be down.
"""

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate, pairwise
from math import exp, expm1, inf

FIRST, RATIO, BINS = 0.01, 1.2, 72  # the edges are 0, 10 ms, 12 ms, ... 59 minutes
EDGES = (0.0, *(FIRST * RATIO**power for power in range(BINS - 1)))
PRIOR = 1.0
FLOOR = 0.3
MEMORY = 2000.0
TRUSTED = 60.0
BELIEF = 0.1  # how many finishes the first guess is worth: the first real one replaces it
INSTANT = 1e-9  # finishes to expect: where there are fewer there is nothing to spread over
NEWS = 1 / 32  # the share of fresh exposure that makes the curve worth drawing again


def bin_of(age: float) -> int:
    """Tell which bin an age falls into; what is older than the last edge is in the last bin."""
    return bisect_right(EDGES, age) - 1


class Durations:
    """The durations of one route, learned online from looks that found an operation running or finished.

    Args: hold: The longest the server keeps a poll, in seconds. It sets the scale of what is guessed while nothing is
        known: an operation takes about one and a half holds.
    """

    def __init__(self, *, hold: float = 20.0) -> None:
        self._guess = 1.5 * hold
        self._least = 0.2 / hold
        self._events = [0.0] * BINS
        self._exposure = [0.0] * BINS
        self._silent = [0.0] * BINS
        self._known = 0.0  # seconds of exposure that the curve is drawn from
        self._fresh = 0.0  # and those since
        self._draw()

    def __repr__(self) -> str:
        return f"<Durations from {self._finishes:.0f} finishes, one in {1 / self.rate:.3g} s>"

    @property
    def rate(self) -> float:
        """Finishes per second of running, at whatever age."""
        return self._rate

    @property
    def trusted(self) -> bool:
        """Whether so many finishes are known that peaks and valleys of the curve are more than chance."""
        return self._finishes >= TRUSTED

    def expect(self, since: float, until: float) -> float:
        """Return the finishes to expect between two ages: the integral of the hazard, which may exceed one."""
        return self.look_ahead(since, until)[0]

    def look_ahead(self, since: float, until: float) -> tuple[float, float]:
        """Return the finishes to expect between two ages, and the hazard at the second one."""
        first, last = bisect_right(EDGES, since) - 1, bisect_right(EDGES, until) - 1
        hazard = self._hazard
        if first == last:
            return hazard[last] * (until - since), hazard[last]
        begun = self._sums[first] + hazard[first] * (since - EDGES[first])
        return self._sums[last] + hazard[last] * (until - EDGES[last]) - begun, hazard[last]

    def survival(self, age: float) -> float:
        """Return the share of operations that take longer than this."""
        return exp(-self.expect(0.0, age))

    def learn(self, since: float, until: float, *, finished: bool) -> None:
        """Take in one look (rules 1, 2): it ran at age `since`; at age `until` it still ran or was found finished."""
        if finished and self._learned(since, until) > INSTANT:
            self._spread(since, until)
        else:
            for index, low, high in _stretches(since, until):
                self._exposure[index] += high - low
            self._events[bin_of(until)] += finished
        self._fresh += until - since
        if self._fresh >= self._known * NEWS:
            self._draw()

    def listen(self, silent: Collection[tuple[float, float]], *, loss: float) -> None:
        """Count those of whom nothing was heard (rule 6), instead of those counted before.

        Args:
            silent: For each the age at which it was last seen, and its age now.
            loss: The share of webhooks that get lost.
        """
        if not silent and not any(self._silent):
            return
        crossing, parts = [0.0] * BINS, [0.0] * BINS
        for since, until in silent:
            first, last = bin_of(since), bin_of(until)
            survival = (1 - loss) * self.survival(until)
            running = survival / (survival + loss)
            crossing[first] += running
            crossing[last] -= running
            parts[first] -= running * (since - EDGES[first])
            parts[last] += running * (until - EDGES[last])
        widths = (*(high - low for low, high in pairwise(EDGES)), 0.0)
        whole = accumulate(crossing)
        self._silent = [count * width + part for count, width, part in zip(whole, widths, parts, strict=True)]
        self._draw()

    def _spread(self, since: float, until: float) -> None:
        """Spread one finish over the stretch it must lie in; up to it, the operation was exposed."""
        gone = -expm1(-self._learned(since, until))
        running = 1.0
        for index, low, high in _stretches(since, until):
            share = exp(-self._learned(since, low)) * -expm1(-self._learned(low, high)) / gone
            self._events[index] += share
            self._exposure[index] += (high - low) * max(0.0, running - share / 2)
            running -= share

    def _learned(self, since: float, until: float) -> float:
        """Return the finishes to expect without the floor, which would draw what is spread to ever earlier ages."""
        return self.expect(since, until) - self._floor * (until - since)

    def _draw(self) -> None:
        """Draw the curve again from events and exposure (rules 3 to 5)."""
        self._finishes = sum(self._events)
        if self._finishes > MEMORY:
            self._finishes /= 2
            self._events = [count / 2 for count in self._events]
            self._exposure = [seconds / 2 for seconds in self._exposure]
        exposure = [seen + silent for seen, silent in zip(self._exposure, self._silent, strict=True)]
        self._known, self._fresh = sum(exposure), 0.0
        self._rate = rate = (self._finishes + BELIEF) / (self._known + BELIEF * self._guess)
        self._floor = floor = max(FLOOR * rate, self._least)
        events, exposure = _blur(self._events), _blur(exposure)
        self._hazard = [
            (count + PRIOR) / (seconds + PRIOR / rate) + floor for count, seconds in zip(events, exposure, strict=True)
        ]
        self._sums = [0.0]
        for index in range(BINS - 1):
            self._sums.append(self._sums[index] + self._hazard[index] * (EDGES[index + 1] - EDGES[index]))


def _stretches(since: float, until: float) -> list[tuple[int, float, float]]:
    """Cut a stretch of ages at the edges of the bins."""
    first, last = bin_of(since), bin_of(until)
    cuts = [since, *EDGES[first + 1 : last + 1], until]
    return [(first + step, cuts[step], cuts[step + 1]) for step in range(last - first + 1)]


def _blur(values: list[float]) -> list[float]:
    """Let every bin borrow a quarter from each neighbour."""
    padded = [values[0], *values, values[-1]]
    return [(padded[k] + 2 * padded[k + 1] + padded[k + 2]) / 4 for k in range(len(values))]


SMOOTH = 1 / 8  # the weight of the newest observation
AT_ONCE = 4.0  # round trips: what comes sooner was not held
GUARD = 1 / 20  # of the announced hold: what takes longer, 1 s, was held in any case


class Tempo:
    """What polls tell about time, in seconds.

    The hold is learned because nobody promises it, and because a simulator at a hundred times the speed holds a
    hundredth of it.

    Args:
        announced: The longest the server is said to hold a poll.
    """

    def __init__(self, *, announced: float) -> None:
        self.announced = announced
        self.hold = announced
        self._holds = True
        self._trip = inf
        self._shortest = inf

    def __repr__(self) -> str:
        return f"<Tempo hold {self.hold:.3g} s, round trip {self._trip:.3g} s>"

    @property
    def trip(self) -> float:
        """The round trip, or a guess while no short poll has been answered."""
        return self._trip if self.measured else self.announced / 200

    @property
    def measured(self) -> bool:
        """Whether the round trip is known."""
        return self._trip < inf

    def take_look(self, took: float) -> None:
        """Learn from an answer to a short poll, which is never held."""
        self._trip = self._trip + (took - self._trip) * SMOOTH if self.measured else took
        self._shortest = min(self._shortest, took)

    def take_hold(self, took: float) -> None:
        """Learn from a long poll without a result: that long the server holds. A single odd one moves it little."""
        self.hold = min(self.announced, self.hold * (max(took, self.announced / 1e6) / self.hold) ** (2 * SMOOTH))

    def stop_holding(self) -> None:
        """Know from elsewhere that no poll is held from now on."""
        self._holds, self.hold = False, self.announced

    def suspects(self, took: float) -> bool:
        """Tell whether a long poll that ended without a result after `took` seconds may not have been held at all.

        While the round trip is unknown, whatever took less than a second may have been answered at once.
        """
        return not self._holds or took < min(GUARD * self.announced, AT_ONCE * self._shortest)


FEWEST = 1 / 11  # lost: late at a survival of one in ten
WEBHOOK_MEMORY = 64.0
QUIET = 1 / 4  # of a hold: 5 s
RECOUNT_STEP = 1 / 40  # of a hold: how old what was heard may be


class Silence:
    """Learns how far webhooks can be relied on."""

    def __init__(self) -> None:
        self._came = self._missed = 0.0
        self._last = self._asked = -inf

    def __repr__(self) -> str:
        return f"<Silence {self._came:.0f} webhooks came, {self._missed:.0f} were missed>"

    @property
    def loss(self) -> float:
        """The share of webhooks believed to get lost."""
        return max(FEWEST, (self._missed + 0.5) / (self._missed + self._came + 1.5))

    @property
    def late(self) -> float:
        """The share of operations that take longer than one that begins to be late."""
        return self.loss / (1 - self.loss)

    def take_webhook(self, now: float) -> None:
        """Learn that one came."""
        self._last = now
        self._count(came=1.0)

    def take_miss(self) -> None:
        """Learn that one did not come, or later than a poll."""
        self._count(missed=1.0)

    def is_due(self, now: float, *, hold: float) -> bool:
        """Tell whether it is time to count the silent again, and take it that this is done."""
        if now - self._asked < RECOUNT_STEP * hold:
            return False
        self._asked = now
        return True

    def means_running(self, now: float, *, hold: float) -> bool:
        """Tell whether webhooks come (rule 9)."""
        return now - self._last < QUIET * hold

    def _count(self, *, came: float = 0.0, missed: float = 0.0) -> None:
        fade = 1 / 2 if self._came + self._missed >= WEBHOOK_MEMORY else 1.0
        self._came, self._missed = self._came * fade + came, self._missed * fade + missed
