"""What is learned of how long the operations of one route take: a hazard for every age.

The hazard h(a) is the chance per second that an operation still running at age a finishes now. It is learned as
events over exposure, in bins of age that grow by a fifth:

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

All ages and durations are seconds.
"""

from bisect import bisect_right
from collections.abc import Collection
from itertools import accumulate, pairwise
from math import exp, expm1

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
