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

The rules of ``WebhookReliability``, for an operation that a webhook will report and of which nothing was heard:

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
PRIOR_EVENTS = 0.1  # how many finishes the first guess is worth: the first real one replaces it
MIN_EXPECTED = 1e-9  # finishes to expect: where there are fewer there is nothing to spread over
REFIT_SHARE = 1 / 32  # the share of fresh exposure that makes the curve worth drawing again


def bin_of(age: float) -> int:
    """Return the bin of an age; ages above the last edge are in the last bin."""
    return bisect_right(EDGES, age) - 1


class Durations:
    """The durations of one route, learned online from looks that found an operation running or finished.

    Args: hold: The longest the server keeps a poll, in seconds. It sets the scale of what is guessed while nothing is
        known: an operation takes about one and a half holds.
    """

    def __init__(self, *, hold: float = 20.0) -> None:
        self._guess = 1.5 * hold
        self._min_floor = 0.2 / hold
        self._events = [0.0] * BINS
        self._exposure = [0.0] * BINS
        self._silent = [0.0] * BINS
        self._known = 0.0  # seconds of exposure that the curve is drawn from
        self._fresh = 0.0  # and those since
        self._refit()

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

    def expected_finishes(self, since: float, until: float) -> float:
        """Return the finishes to expect between two ages: the integral of the hazard, which may exceed one."""
        return self.expected_finishes_and_hazard(since, until)[0]

    def expected_finishes_and_hazard(self, since: float, until: float) -> tuple[float, float]:
        """Return the finishes to expect between two ages, and the hazard at the second one."""
        first, last = bisect_right(EDGES, since) - 1, bisect_right(EDGES, until) - 1
        hazard = self._hazard
        if first == last:
            return hazard[last] * (until - since), hazard[last]
        begun = self._sums[first] + hazard[first] * (since - EDGES[first])
        return self._sums[last] + hazard[last] * (until - EDGES[last]) - begun, hazard[last]

    def survival(self, age: float) -> float:
        """Return the share of operations that take longer than this."""
        return exp(-self.expected_finishes(0.0, age))

    def learn(self, since: float, until: float, *, finished: bool) -> None:
        """Record one poll (rules 1, 2): it ran at age `since`; at age `until` it still ran or had finished."""
        if finished and self._learned(since, until) > MIN_EXPECTED:
            self._spread(since, until)
        else:
            for index, low, high in _split_at_bins(since, until):
                self._exposure[index] += high - low
            self._events[bin_of(until)] += finished
        self._fresh += until - since
        if self._fresh >= self._known * REFIT_SHARE:
            self._refit()

    def observe_silent(self, silent: Collection[tuple[float, float]], *, loss: float) -> None:
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
        self._refit()

    def _spread(self, since: float, until: float) -> None:
        """Spread one finish over the stretch it must lie in; up to it, the operation was exposed."""
        gone = -expm1(-self._learned(since, until))
        before, running = 0.0, 1.0
        for index, low, high in _split_at_bins(since, until):
            within = self._learned(low, high)
            share = exp(-before) * -expm1(-within) / gone
            before += within
            self._events[index] += share
            self._exposure[index] += (high - low) * max(0.0, running - share / 2)
            running -= share

    def _learned(self, since: float, until: float) -> float:
        """Return the finishes to expect without the floor, which would draw what is spread to ever earlier ages."""
        return self.expected_finishes_and_hazard(since, until)[0] - self._floor * (until - since)

    def _refit(self) -> None:
        """Draw the curve again from events and exposure (rules 3 to 5)."""
        self._finishes = sum(self._events)
        if self._finishes > MEMORY:
            self._finishes /= 2
            self._events = [count / 2 for count in self._events]
            self._exposure = [seconds / 2 for seconds in self._exposure]
        exposure = [seen + silent for seen, silent in zip(self._exposure, self._silent, strict=True)]
        self._known, self._fresh = sum(exposure), 0.0
        self._rate = rate = (self._finishes + PRIOR_EVENTS) / (self._known + PRIOR_EVENTS * self._guess)
        self._floor = floor = max(FLOOR * rate, self._min_floor)
        events, exposure = _smooth(self._events), _smooth(exposure)
        self._hazard = [
            (count + PRIOR) / (seconds + PRIOR / rate) + floor for count, seconds in zip(events, exposure, strict=True)
        ]
        self._sums = [0.0]
        for index in range(BINS - 1):
            self._sums.append(self._sums[index] + self._hazard[index] * (EDGES[index + 1] - EDGES[index]))


def _split_at_bins(since: float, until: float) -> list[tuple[int, float, float]]:
    """Cut a stretch of ages at the edges of the bins."""
    first, last = bin_of(since), bin_of(until)
    cuts = [since, *EDGES[first + 1 : last + 1], until]
    return [(first + step, cuts[step], cuts[step + 1]) for step in range(last - first + 1)]


def _smooth(values: list[float]) -> list[float]:
    """Smooth: each bin gets a quarter of each neighbour."""
    padded = [values[0], *values, values[-1]]
    return [(padded[k] + 2 * padded[k + 1] + padded[k + 2]) / 4 for k in range(len(values))]


SMOOTH = 1 / 8  # the weight of the newest observation
NOT_HELD_RTTS = 4.0  # round trips: what comes sooner was not held
HELD_FOR_SURE = 1 / 20  # of the announced hold: what takes longer, 1 s, was held in any case


class PollTiming:
    """What polls tell about time, in seconds.

    The hold is learned because nobody promises it, and because a simulator at a hundred times the speed holds a
    hundredth of it.

    Args:
        announced: The longest the server is said to hold a poll.
    """

    def __init__(self, *, max_hold: float) -> None:
        self.max_hold = max_hold
        self.hold = max_hold
        self._holds = True
        self._round_trip = inf
        self._shortest = inf

    def __repr__(self) -> str:
        return f"<PollTiming hold {self.hold:.3g} s, round trip {self._round_trip:.3g} s>"

    @property
    def round_trip(self) -> float:
        """The round trip, or a guess while no short poll has been answered."""
        return self._round_trip if self.measured else self.max_hold / 200

    @property
    def measured(self) -> bool:
        """Whether the round trip is known."""
        return self._round_trip < inf

    def observe_short_poll(self, took: float) -> None:
        """Learn from an answer to a short poll, which is never held."""
        self._round_trip = self._round_trip + (took - self._round_trip) * SMOOTH if self.measured else took
        self._shortest = min(self._shortest, took)

    def observe_long_poll(self, took: float) -> None:
        """Learn from a long poll without a result: that long the server holds. A single odd one moves it little."""
        self.hold = min(self.max_hold, self.hold * (max(took, self.max_hold / 1e6) / self.hold) ** (2 * SMOOTH))

    def stop_holding(self) -> None:
        """Know from elsewhere that no poll is held from now on."""
        self._holds, self.hold = False, self.max_hold

    def maybe_not_held(self, took: float) -> bool:
        """Return whether a long poll that ended without a result after `took` seconds may not have been held.

        While the round trip is unknown, whatever took less than a second may have been answered at once.
        """
        return not self._holds or took < min(HELD_FOR_SURE * self.max_hold, NOT_HELD_RTTS * self._shortest)


MIN_LOSS = 1 / 11  # lost: late at a survival of one in ten
WEBHOOK_MEMORY = 64.0
SILENT_AFTER = 1 / 4  # of a hold: 5 s
RECOUNT_STEP = 1 / 40  # of a hold: how old what was heard may be


class WebhookReliability:
    """Learns how far webhooks can be relied on."""

    def __init__(self) -> None:
        self._came = self._missed = 0.0
        self._last = self._asked = -inf

    def __repr__(self) -> str:
        return f"<WebhookReliability {self._came:.0f} webhooks came, {self._missed:.0f} were missed>"

    @property
    def loss(self) -> float:
        """The share of webhooks believed to get lost."""
        return max(MIN_LOSS, (self._missed + 0.5) / (self._missed + self._came + 1.5))

    @property
    def late_survival(self) -> float:
        """The share of operations that take longer than one that begins to be late."""
        return self.loss / (1 - self.loss)

    def record_delivery(self, now: float) -> None:
        """Learn that one came."""
        self._last = now
        self._count(came=1.0)

    def record_miss(self) -> None:
        """Learn that one did not come, or later than a poll."""
        self._count(missed=1.0)

    def is_due(self, now: float, *, hold: float) -> bool:
        """Return whether it is time to count silent operations again, and record that it is done."""
        if now - self._asked < RECOUNT_STEP * hold:
            return False
        self._asked = now
        return True

    def webhooks_flowing(self, now: float, *, hold: float) -> bool:
        """Return whether webhooks arrive (rule 9)."""
        return now - self._last < SILENT_AFTER * hold

    def _count(self, *, came: float = 0.0, missed: float = 0.0) -> None:
        fade = 1 / 2 if self._came + self._missed >= WEBHOOK_MEMORY else 1.0
        self._came, self._missed = self._came * fade + came, self._missed * fade + missed
